"""Tables as files: .csv, .tsv, .txt, .xlsx and .json, as named columns of numbers or of text.

A first row of names is told by itself: some column has text there and numbers below. Without names
the columns are called "0", "1" and so on. An empty cell, NA, N/A, nan and null are NaN in a column
of numbers. A column without a name that counts the rows from 0, as pandas writes it, is left out.

Read them by `utils.data.files.read_table`, or as one array by `read_array`.
"""

import csv
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Table = dict[str, np.ndarray]  # columns of equal length: float64, or text

# cells without a value, as text or in a workbook
MISSING = frozenset((None, "", "NA", "N/A", "nan", "NaN", "null"))


def read_text(path: Path, header: bool | None = None, **_: Any) -> Table:
    """Read rows of text; a .tsv by tabs, else by what the first line has: tab, semicolon, comma.

    Where it has none of these, spaces part the cells. A first line that begins with # is one of
    names, as numpy.savetxt writes it.
    """
    # the signature that spreadsheets put before UTF-8 is no part of the first name
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next((line for line in file if line.strip()), "")
        file.seek(0)
        lines = (line for line in file if line.strip())
        if first.startswith("#"):
            header, first = True, first.lstrip("# ")
            lines = itertools.chain([first], itertools.islice(lines, 1, None))
        marks = "\t" if path.suffix.lower() == ".tsv" else "\t;,"
        mark = next((mark for mark in marks if mark in first), None)
        if mark is None:
            rows = [line.split() for line in lines]
        else:
            rows = list(csv.reader(lines, delimiter=mark, skipinitialspace=True, strict=True))
    return make_table(rows, header)


def read_workbook(path: Path, header: bool | None = None, **_: Any) -> Table:
    """Read the first sheet of an .xlsx; of a formula, the value that was saved with it."""
    from openpyxl import load_workbook

    workbook = load_workbook(path, read_only=True, data_only=True)
    try:
        sheet = workbook.worksheets[0]
        sheet.reset_dimensions()  # what the file says of its size may be wrong
        rows = [row for row in sheet.iter_rows(values_only=True) if not MISSING.issuperset(row)]
    finally:
        workbook.close()
    width = max((_width(row) for row in rows), default=0)
    return make_table([(*row, *[None] * (width - len(row)))[:width] for row in rows], header)


def read_json(path: Path, header: bool | None = None, **_: Any) -> Table:
    """Read a list of rows, a list of {name: value}, or {name: column}, also as pandas writes it."""
    with path.open(encoding="utf-8") as file:
        data = json.load(file)
    if isinstance(data, Mapping):  # columns, each a list or {row: value}
        columns = {
            name: list(column.values()) if isinstance(column, Mapping) else column
            for name, column in data.items()
        }
        if not all(isinstance(column, list) for column in columns.values()):
            raise ValueError("an object that is no table")
        if len(set(map(len, columns.values()))) > 1:
            raise ValueError("columns of different lengths")
        return make_table([list(columns), *zip(*columns.values(), strict=True)], True)
    if not isinstance(data, list):
        raise ValueError(f"one {type(data).__name__}")
    if data and all(isinstance(row, Mapping) for row in data):
        names = list(dict.fromkeys(itertools.chain.from_iterable(data)))
        return make_table([names, *([row.get(name) for name in names] for row in data)], True)
    return make_table([row if isinstance(row, list) else [row] for row in data], header)


def make_table(rows: Sequence[Sequence[Any]], header: bool | None = None) -> Table:
    """Make a table of rows of cells.

    Args:
        rows: Text, numbers or None, as many in each row.
        header: Whether the first row holds names; None: see the module.

    Raises:
        ValueError: There is no cell, rows differ in length, or names are equal.
    """
    width = len(rows[0]) if rows else 0
    if not width:
        raise ValueError("no rows")
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise ValueError(f"{len(row)} cells in row {number} and {width} in the first")
    columns = list(zip(*rows, strict=True))
    if header is None:
        header = any(map(_is_named, columns))
    if not header:
        return {str(i): make_column(column) for i, column in enumerate(columns)}
    table: Table = {}
    for name, *column in columns:
        name, cells = "" if name is None else str(name).strip(), make_column(column)
        if not name and np.array_equal(cells, np.arange(len(cells)).astype(cells.dtype)):
            continue
        name = name or str(len(table))
        if name in table:
            raise ValueError(f'two columns of the name "{name}"')
        table[name] = cells
    if len(rows) == 1:
        raise ValueError("no rows below the names")
    return table


def make_column(cells: Iterable[Any]) -> np.ndarray:
    """Return cells as (rows,) float64, or as text where one of them is no number."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf":
        return cells.astype(np.float64)
    cells = [cell.decode() if isinstance(cell, bytes) else cell for cell in cells]
    numbers = _as_numbers(cells)
    if numbers is not None:
        return numbers
    return np.array(["" if cell is None else str(cell).strip() for cell in cells])


def _is_named(column: Sequence[Any]) -> bool:
    name, *cells = column
    if _as_numbers([name]) is not None:
        return False
    below = _as_numbers(cells)
    return below is not None and not np.isnan(below).all()


def _as_numbers(cells: list[Any]) -> np.ndarray | None:
    if any(isinstance(cell, str) and "_" in cell for cell in cells):
        return None  # Python would read 2024_1 as a number
    try:
        return np.array([np.nan if cell in MISSING else cell for cell in cells], np.float64)
    except (TypeError, ValueError):  # text; dates; lists in a .json
        return None


def _width(row: Sequence[Any]) -> int:
    """Return the number of cells without the empty ones at the end."""
    return max((i for i, cell in enumerate(row, 1) if cell not in MISSING), default=0)
