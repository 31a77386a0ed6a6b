"""Tables of runs, for people and for machines."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from utils.runs.folder import RunFolder
from utils.runs.query import read_number, shorten_column
from utils.runs.table import Found, differing_columns

COLOURS = {
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "interrupted": "yellow",
    "lost": "yellow",
}
_GAP = 2  # cells between two columns
_LONGEST = 40  # cells that a field of the config may take in a table of many
_NAMED = 6  # columns that are named below a table that has no room for them
_NAME = 28  # cells that names of runs are left when there are columns without room


def show_runs(found: Found, folders: Mapping[str, Any], width: int | None) -> RenderableType:
    """Return the table of `runs.py list`: run, status, epochs, best value, and what differs.

    Args:
        found: The runs.
        folders: The `global_config`.
        width: Cells of the terminal; columns that do not fit are named below the table. None
            shows all columns, and all of their fields.
    """
    runs = [RunFolder(row["RUN"], folders, row) for row in found.rows]
    names = differing_columns(found.rows, found.columns)
    heads = {name: shorten_column(name, found.columns) for name in names}
    columns = {heads[name]: [row.get(name, "") for row in found.rows] for name in names}
    if width is not None:
        columns = {head: _without_packages(fields) for head, fields in columns.items()}
    fixed = {"run": [run.name for run in runs], "status": [run.status for run in runs]}
    fixed |= {"epochs": [_count_epochs(run) for run in runs], **_best_values(runs)}
    if found.by is not None and found.by not in names:
        fixed.setdefault(found.by, [shorten_number(row[found.by]) for row in found.rows])
    if width is None:
        return _make_table(fixed | columns)
    shown, left_out = _fit(fixed, columns, width)
    parts: list[RenderableType] = [_make_table(shown, width)]
    if left_out:
        names = left_out[:_NAMED] if len(left_out) > _NAMED + 1 else left_out
        others = f" and {len(left_out) - len(names)} others" if len(names) < len(left_out) else ""
        text = f"differ as well: {', '.join(names)}{others} (--columns, --csv)"
        parts.append(Text(text, style="dim"))
    return Group(*parts)


def show_columns(
    rows: Sequence[Mapping[str, str]], columns: Sequence[str], width: int | None
) -> RenderableType:
    """Return a table with the columns asked for; where they do not fit, one below another."""
    names = ["RUN", *(name for name in columns if name != "RUN")]
    table = {shorten_column(name, names): [row.get(name, "") for row in rows] for name in names}
    if width is None:
        return _make_table(table)
    short = {head: list(map(shorten_number, fields)) for head, fields in table.items()}
    if _total(short) - max(0, _width("RUN", short) - _NAME) <= width:
        return _make_table(short, width)
    blocks: list[RenderableType] = []
    for row in rows:
        fields = {name: row.get(name, "") for name in names[1:]}
        blocks += [Text(row["RUN"], style="bold"), pairs(fields), ""]
    return Group(*blocks[:-1])


def write_csv(rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> str:
    """Return rows as CSV, every field as it was written."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_json(rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> str:
    """Return rows as a list of JSON objects, numbers and truth values as such, "" as null."""
    texts = ("RUN", "DATE", "SESSION_NAME")
    return json.dumps(
        [{n: row[n] if n in texts else _plain(row.get(n, "")) for n in columns} for row in rows],
        indent=2,
    )


def pairs(entries: Mapping[str, str | Text], indent: int = 2) -> Table:
    """Return names with their values beside them, long values folded."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, _GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in entries.items():
        value = value if isinstance(value, Text) else Text(one_line(value))
        table.add_row(Text(" " * indent + name), value)
    return table


def shorten_number(field: str) -> str:
    """Return a field with a number cut to four digits, other text as it is."""
    number = read_number(field)
    return field if number is None or len(field) < 7 else f"{number:.4g}"


def one_line(field: str) -> str:
    """Return a field without line ends and other codes that a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in field)


def whole_line(text: str, style: str = "") -> Text:
    """Return a line that is not folded, so that it can be copied; the terminal may wrap it."""
    return Text(one_line(text), style=style, no_wrap=True, overflow="ignore")


def status_text(status: str) -> Text:
    """Return a status in its colour."""
    return Text(status, style=COLOURS.get(status, ""))


def _plain(field: str) -> Any:
    number = read_number(field)
    if number is None or number in (float("inf"), float("-inf")):
        return {"": None, "True": True, "False": False}.get(field, field)
    return int(field) if field.lstrip("+-").isdecimal() else number


def _count_epochs(run: RunFolder) -> str:
    planned = run.row.get("EPOCHS", "")
    done = len(run.epochs)
    return f"{done}/{planned}" if run.log_dir.exists() and planned else planned


def _best_values(runs: Sequence[RunFolder]) -> dict[str, list[str]]:
    """Return the best value of MONITOR of each run; named in each field where they differ."""
    values = []
    for run in runs:
        name, _ = run.monitor
        value = run.row.get(f"best_{name}") or run.best_epoch().get(name)
        values.append(value or run.row.get(name.upper(), ""))  # as the ancestor has it
    values = [shorten_number(value) for value in values]
    names = {run.monitor[0] for run in runs}
    if len(names) == 1:
        return {f"best {names.pop()}": values}
    both = zip(runs, values, strict=True)
    return {"best": [f"{run.monitor[0]} {value}" if value else "" for run, value in both]}


def _without_packages(fields: list[str]) -> list[str]:
    """Leave the package of import paths away where what is left still tells them apart."""
    if not all(field.replace(".", "").replace("_", "").isalnum() or not field for field in fields):
        return fields
    if any(read_number(field) is not None for field in fields):
        return fields
    short = [field.rpartition(".")[2] for field in fields]
    return short if len(set(short)) == len(set(fields)) else fields


def _fit(
    fixed: Mapping[str, list[str]], columns: Mapping[str, list[str]], width: int
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the columns that a width has room for, and the names of the others.

    Those with the most different values come first, and none with text as long as a line. For
    their room the name of the run may be folded.
    """
    room = width - _total(fixed)
    if room < sum(_width(head, columns) + _GAP for head in columns):
        room += max(0, _width("run", fixed) - _NAME)
    chosen = set()
    ranked = sorted(columns, key=lambda head: -len(set(columns[head])))
    for head in ranked:
        cells = _width(head, columns) + _GAP
        if cells <= room and cells <= _LONGEST + _GAP:
            chosen.add(head)
            room -= cells
    shown = {head: fields for head, fields in columns.items() if head in chosen}
    return {**fixed, **shown}, [head for head in ranked if head not in chosen]


def _width(head: str, columns: Mapping[str, list[str]]) -> int:
    return max(map(cell_len, [head, *columns[head]]))


def _total(columns: Mapping[str, list[str]]) -> int:
    return sum(_width(head, columns) + _GAP for head in columns) - _GAP


def _make_table(columns: Mapping[str, list[str]], width: int | None = None) -> Table:
    """Return a table in which the name of the run alone may be folded."""
    columns = {head: list(map(one_line, fields)) for head, fields in columns.items()}
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for i, (head, fields) in enumerate(columns.items()):
        cells = _width(head, columns)
        if i == 0 and width is not None:
            cells = min(cells, max(_NAME, width - _total(columns) + cells))
        are_numbers = any(fields) and all(
            read_number(field.partition("/")[0]) is not None for field in fields if field
        )
        table.add_column(
            Text(head),
            justify="right" if are_numbers else "left",
            overflow="fold",
            width=cells,
            no_wrap=i > 0,
        )
    for row in zip(*columns.values(), strict=True):
        fields = dict(zip(columns, row, strict=True))
        table.add_row(
            *(status_text(f) if head == "status" else Text(f) for head, f in fields.items())
        )
    return table
