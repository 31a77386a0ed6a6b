"""What two runs differ in: config, code, versions, data, values, samples."""

import difflib
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from config.config import ROOT_PATH
from config.keys import KEYS
from utils.logging.csv import flatten
from utils.runs.folder import RunFolder
from utils.runs.listing import one_line, shorten_number, status_text, whole_line
from utils.runs.query import read_number
from utils.runs.show import format_seconds, values_of_run

_TOUCHED = re.compile(r"^diff --git a/.* b/(.*)$", re.MULTILINE)
_ABOUT_RUN = ("DATE", "SESSION_NAME")  # in its name


def diff_runs(a: RunFolder, b: RunFolder) -> Group:
    """Return what `runs.py diff` prints; a part in which they are equal is a line."""
    parts: list[RenderableType] = [_heads(a, b)]
    for title, body, otherwise in (
        ("config", _two_columns(_config(a.flat_config, b.flat_config)), "the same"),
        ("code", _code(a.environment, b.environment), "the same"),
        ("versions and machine", _two_columns(_versions(a, b)), "the same"),
        ("data", _two_columns(_data(a, b)), _say_data(a, b)),
        ("values of the best epoch", _values(a, b), "none in both"),
        ("samples", _samples(a, b), "no samples.csv in both (training.callbacks.Ledger writes it)"),
    ):
        parts.append("")
        if body is None:
            parts.append(Text.assemble((title, "bold"), f": {otherwise}"))
        else:
            parts += [Text(title, style="bold"), body]
    return Group(*parts)


def _heads(a: RunFolder, b: RunFolder) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for mark, run in (("A", a), ("B", b)):
        seconds = run.row.get("SECONDS")
        took = format_seconds(float(seconds)) if seconds else ""
        table.add_row(Text(mark, style="bold"), Text(run.name), status_text(run.status), Text(took))
    return table


def _config(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the changed entries; a key that a run lacks, as one of before it does, is default."""

    def whole(config: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
        lacking = [name for name in other if name in KEYS and name not in config]
        defaults = {name: KEYS[name].default for name in lacking}
        return {
            **config,
            **{n: "" if value is None else str(value) for n, value in defaults.items()},
        }

    changes = _changes(whole(a, b), whole(b, a))
    return {name: pair for name, pair in changes.items() if name not in _ABOUT_RUN}


def _changes(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the entries that are not equal, with the text of both."""
    names = dict.fromkeys([*a, *b])
    both = {name: (a.get(name, ""), b.get(name, "")) for name in names}
    return {name: pair for name, pair in both.items() if not _is_equal(*pair)}


def _is_equal(a: str, b: str) -> bool:
    number = read_number(a)
    return a == b or number is not None and number == read_number(b)


def _two_columns(changes: Mapping[str, tuple[str, str]]) -> Table | None:
    if not changes:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("A", overflow="fold")
    table.add_column("B", overflow="fold")
    for name, pair in changes.items():
        table.add_row(Text(f"  {name}"), *(Text(one_line(text) or "-") for text in pair))
    return table


# --------------------------------------------------------------------------------------- code


def _code(a: Mapping[str, Any], b: Mapping[str, Any]) -> RenderableType | None:
    if not a or not b:
        missing = " and ".join(mark for mark, found in (("A", a), ("B", b)) if not found)
        return Text(f"  no environment.json of {missing}")
    commits = [str(about.get("commit") or "") for about in (a, b)]
    diffs = [str(about.get("diff") or "") for about in (a, b)]
    new = [about.get("untracked") or {} for about in (a, b)]  # files that git does not know
    changed = [name for name in sorted({*new[0], *new[1]}) if new[0].get(name) != new[1].get(name)]
    if commits[0] == commits[1] and diffs[0] == diffs[1] and not changed:
        return None
    lines: list[RenderableType] = []
    if commits[0] != commits[1]:
        lines.append(whole_line(f"  commit {commits[0] or 'unknown'} -> {commits[1] or 'unknown'}"))
        lines += [Text(f"    {line}") for line in _files_between(*commits)]
    if diffs[0] != diffs[1]:
        for mark, diff in zip("AB", diffs, strict=True):
            touched = ", ".join(_TOUCHED.findall(diff)) or "none"
            lines.append(Text(f"  uncommitted in {mark}: {touched}"))
        lines += _lines_between(*diffs)
    for name in changed:
        texts = [(files.get(name) or {}).get("text") or "" for files in new]
        lines.append(Text(f"  not in git, and not the same: {name}"))
        lines += _lines_between(*texts)
    return Group(*lines)


def _lines_between(a: str, b: str) -> list[RenderableType]:
    lines = difflib.unified_diff(a.splitlines(), b.splitlines(), "A", "B", lineterm="")
    return [whole_line(f"  {line}", _colour(line)) for line in lines]


def _colour(line: str) -> str:
    return {"+": "green", "-": "red"}.get(line[:1], "")


def _files_between(a: str, b: str) -> list[str]:
    """Return the files that two commits differ in, as `git diff --stat` tells them."""
    is_hash = re.compile(r"[0-9a-f]{7,64}").fullmatch
    if not (is_hash(a) and is_hash(b)):
        return []
    command = ["git", "-C", str(ROOT_PATH), "diff", "--stat=72", "--no-color", a, b]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return [f"(this repository does not have both: git diff {a[:12]} {b[:12]})"]
    return [line.strip() for line in done.stdout.decode("utf-8", "replace").splitlines()]


# ------------------------------------------------------------------------- machine and data


def _versions(a: RunFolder, b: RunFolder) -> dict[str, tuple[str, str]]:
    def flat(run: RunFolder) -> dict[str, str]:
        about = run.environment
        names = ("python", "platform", "threads", "processes", "cuda")
        entries = {name: about.get(name) for name in names} | dict(about.get("versions") or {})
        return {name: "" if value is None else str(value) for name, value in entries.items()}

    return _changes(flat(a), flat(b)) if a.environment and b.environment else {}


def _data(a: RunFolder, b: RunFolder) -> dict[str, tuple[str, str]]:
    def flat(run: RunFolder) -> dict[str, str]:
        data = run.environment.get("data")
        entries = flatten(data) if isinstance(data, Mapping) else {"": data or ""}
        return {name: str(value) for name, value in entries.items()}

    return _changes(flat(a), flat(b))


def _say_data(a: RunFolder, b: RunFolder) -> str:
    known = all(run.environment.get("data") for run in (a, b))
    return "the same" if known else "not recorded"


# ------------------------------------------------------------------------------------- values


def _values(a: RunFolder, b: RunFolder) -> Table | None:
    (best_a, _), (best_b, _) = values_of_run(a), values_of_run(b)
    if not set(best_a) & set(best_b):
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("", "A", "B", "B - A"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for name in dict.fromkeys([*best_a, *best_b]):
        values = best_a.get(name, ""), best_b.get(name, "")
        numbers = [read_number(value) for value in values]
        difference = "" if None in numbers else f"{numbers[1] - numbers[0]:+.4g}"
        fields = [f"  {name}", *(shorten_number(value) or "-" for value in values), difference]
        table.add_row(*map(Text, fields))
    return table


def _samples(a: RunFolder, b: RunFolder) -> RenderableType | None:
    """Return the paired comparison of the samples that both runs were evaluated on."""
    paths = [Path(run.log_dir, "samples.csv") for run in (a, b)]
    if not all(path.is_file() for path in paths):
        return None
    from utils.compare import compare  # numpy

    try:
        found = compare(*paths)
    except ValueError as error:
        return Text(f"  {error}")
    return Text("\n".join(f"  {line}" for line in found.lines()))
