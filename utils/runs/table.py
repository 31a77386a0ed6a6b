"""The runs of a table that meet conditions, sorted; only those are decoded."""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from config.errors import ConfigError
from config.keys import KEYS
from utils.logging.csv import Scan, scan_tracker
from utils.name import run_name
from utils.runs.folder import RunFolder, find_name, find_status, is_of_config
from utils.runs.query import find_column, read_conditions, sort_key

LOGFILE = "experiments.csv"
# in the name of a run, beside its epochs and its best value; and what changes no run
_SHOWN = ("DATE", "SESSION_NAME", "EPOCHS", "MONITOR", "MONITOR_MODE", "PROGRESS", "CURVES")


class Found(NamedTuple):
    """Runs of a table.

    Attributes:
        columns: All of the table, RUN and STATUS first.
        rows: Of each run its fields, as they were written; STATUS as it is now.
        has_more: Whether there are others that meet the conditions.
        by: The column that they are sorted by; none for the order of the table.
    """

    columns: list[str]
    rows: list[dict[str, str]]
    has_more: bool
    by: str | None


def find_runs(
    folders: Mapping[str, Any],
    where: Iterable[str] = (),
    sort: str | None = None,
    is_reversed: bool = False,
    last: int | None = None,
    logfile: str = LOGFILE,
) -> Found:
    """Return runs of the table, the newest last, or the one with the largest value.

    Args:
        folders: The `global_config`.
        where: Conditions that all must hold.
        sort: A column; runs without a value in it come first.
        is_reversed: Sort the other way round, runs without a value still first.
        last: So many at the end; all if None.
        logfile: Name of the table in LOG_DIR.

    Raises:
        ConfigError: What is wrong with conditions and columns.
        ValueError: The table is damaged.
    """
    where = list(where)
    reads_end = last is not None and not where and sort is None
    scan = scan_tracker(Path(folders["LOG_DIR"], logfile), last + 1 if reads_end else None)
    fields_of = _readers(scan, Path(folders["LOG_DIR"]))
    columns = list(fields_of)
    problems: list[str] = []
    by = None
    conditions = []
    try:
        by = find_column(sort, columns, "--sort") if sort is not None else None
    except ConfigError as error:
        problems += error.problems
    try:
        conditions = read_conditions(where, columns)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    tests = [(fields_of[condition.column], condition.holds) for condition in conditions]
    rows: Iterator[list[str]] = scan.rows
    if tests:
        rows = (row for row in rows if all(holds(field(row)) for field, holds in tests))
    chosen = _choose(rows, by and fields_of[by], is_reversed, last)
    kept = chosen if last is None else chosen[max(0, len(chosen) - last) :]
    found = [{name: field(row) for name, field in fields_of.items()} for row in kept]
    return Found(columns, found, len(chosen) > len(kept), by)


def _choose(
    rows: Iterator[list[str]],
    field: Callable[[list[str]], str] | None,
    is_reversed: bool,
    last: int | None,
) -> list[list[str]]:
    """Return the last rows in the order asked for, and one more where there are more."""
    limit = None if last is None else last + 1
    if field is None:
        return list(deque(rows, maxlen=limit))

    def key(numbered: tuple[int, list[str]]) -> tuple[Any, ...]:
        kind, number, text = sort_key(field(numbered[1]))
        return kind, -number if is_reversed else number, text, numbered[0]

    if limit is None:
        return [row for _, row in sorted(enumerate(rows), key=key)]
    return [row for _, row in heapq.nlargest(limit, enumerate(rows), key=key)][::-1]


def _readers(scan: Scan, log_dir: Path) -> dict[str, Callable[[list[str]], str]]:
    """Return for each column what reads its field of a row."""
    place = {name: i for i, name in enumerate(scan.columns)}

    def reader(i: int) -> Callable[[list[str]], str]:
        return lambda row: scan.decode(row[i])

    readers = {name: reader(i) for name, i in place.items()}

    def run(row: list[str]) -> str:
        if "RUN" in place:
            return scan.decode(row[place["RUN"]])
        # a table of before runs had names: they were called so all the same
        parts = [readers[name](row) if name in place else "" for name in ("DATE", "SESSION_NAME")]
        return run_name(*parts)

    def status(row: list[str]) -> str:
        text = readers["STATUS"](row)
        return find_status(text, log_dir / run(row)) if text == "running" else text

    first = {"RUN": run} | ({"STATUS": status} if "STATUS" in place else {})
    return first | {name: read for name, read in readers.items() if name not in first}


def differing_columns(rows: Sequence[Mapping[str, str]], columns: Iterable[str]) -> list[str]:
    """Return the entries of the config that are not the same in all rows.

    A key that a row lacks, as rows of before the key do, has its default there.
    """

    def differs(name: str) -> bool:
        key = KEYS.get(name)
        default = "" if key is None or key.default is None else str(key.default)
        return len({row.get(name) or default for row in rows}) > 1

    return [name for name in columns if is_of_config(name, _SHOWN) and differs(name)]


def list_names(folders: Mapping[str, Any], logfile: str = LOGFILE) -> list[str]:
    """Return the names of all runs in the order of the table, then those that it lacks."""
    log_dir = Path(folders["LOG_DIR"])
    scan = scan_tracker(log_dir / logfile)
    names = list(dict.fromkeys(map(_readers(scan, log_dir)["RUN"], scan.rows)))
    known = set(names)
    others = sorted(path.parent.name for path in log_dir.glob("*/config.yaml"))
    return [*(name for name in others if name not in known), *names]


def open_runs(
    texts: Iterable[str], folders: Mapping[str, Any], where: str, logfile: str = LOGFILE
) -> list[RunFolder]:
    """Return the runs that texts name: names, parts of them, or latest.

    Raises:
        ConfigError: Every text that names none, or several.
        ValueError: The table is damaged.
    """
    names, found, problems = list_names(folders, logfile), [], []
    for text in texts:
        try:
            found.append(find_name(text, names, where))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    scan = scan_tracker(Path(folders["LOG_DIR"], logfile))
    readers = _readers(scan, Path(folders["LOG_DIR"]))
    rows = {}
    for row in scan.rows:
        name = readers["RUN"](row)
        if name in found:  # of several the last is meant
            rows[name] = {
                column: scan.decode(field) for column, field in zip(scan.columns, row, strict=True)
            }
    return [RunFolder(name, folders, rows.get(name)) for name in found]
