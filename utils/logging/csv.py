r"""The experiment table: one CSV file that many runs on one machine share.

A record is one line, and its line end is the commit: a file that does not end with a newline
ends with a record that was cut short, and that was never acknowledged. Every change happens
under a lock file beside the table, which is never deleted. A record with known columns costs
one append; a new column or an update rewrites the file, which grows with the number of rows.
For local file systems: locks over a network differ.

Fields as they stand in the file (`read_tracker` undoes both):
- backslash, newline, carriage return and NUL are escaped: `\\`, `\n`, `\r`, `\0`;
- text that a spreadsheet would run as a formula has a `'` before it. Numbers never do.
"""

import contextlib
import csv
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from utils.path import create_dirs, remove_stale_temps, write_atomic

ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\0": r"\0"})
PLAIN = {escape: chr(code) for code, escape in ESCAPES.items()}
# \udc80 and the like stand for half characters, as file names with broken encoding have them.
ESCAPED = re.compile(r"\\(?:[\\nr0]|u(d[89a-f][0-9a-f]{2}))")

# = + - @ and their full-width forms; apostrophes and spaces before them do not disarm them.
FORMULA = re.compile(r"['\s]*[=+\-@\t\r\0\uff1d\uff0b\uff0d\uff20]")
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:inf|nan)")


class CsvTracker:
    """Append and update the records of one table, from any number of processes.

    Values are stored as text: None as an empty field, all others as `str` gives them (floats so
    that they read back exactly). New keys become new last columns, missing ones stay empty.

    Args:
        path: the table; it and its folder are made when missing. Links are followed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()  # a link and its target must share one lock

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a record, which is on disk when this returns.

        On a full disk and the like it raises, and the table is as it was.

        Raises:
            ValueError: when a column name is empty or no text, or the table is damaged.
        """
        fields = _encode_row(self.path, row)
        create_dirs(self.path.parent)
        with _locked(self.path):
            _drop_torn_tail(self.path)
            columns = _plain_header(self.path)
            if set(fields) <= set(columns):
                _append_line(self.path, _format([[fields.get(name, "") for name in columns]]))
            else:
                columns, rows = _read_table(self.path)
                _rewrite(self.path, [*columns, *fields], [*rows, fields])

    def update(self, run: str, row: Mapping[str, Any]) -> None:
        """Replace fields of the record whose RUN is `run`; append it when there is none.

        The fields that `row` does not name are kept. Of several such records the last is meant.

        Raises:
            ValueError: when a column name is empty or no text, or the table is damaged.
        """
        fields = _encode_row(self.path, {"RUN": run, **row})
        create_dirs(self.path.parent)
        with _locked(self.path):
            _drop_torn_tail(self.path)
            columns, rows = _read_table(self.path)
            same = [old for old in rows if old.get("RUN") == _encode(run)]
            if same:
                same[-1].update(fields)
            else:
                rows.append(fields)
            _rewrite(self.path, [*columns, *fields], rows)


class Scan(NamedTuple):
    """A table that is read as far as somebody asks; see `scan_tracker`.

    Attributes:
        columns: Names, as they were written.
        rows: Records in the order of the file, each with a field per column as it stands there.
        decode: Turns such a field into the text that was written. Numbers it leaves as they are.
    """

    columns: list[str]
    rows: Iterator[list[str]]
    decode: Callable[[str], str]


def scan_tracker(path: str | Path, last: int | None = None) -> Scan:
    """Read a table like `read_tracker`, of a hundred thousand records in the time of csv.reader.

    Args:
        path: The table; a missing one has neither columns nor records.
        last: So many records at the end of it, without reading those before them.

    Raises:
        ValueError: when the table is damaged, with the line; also on the way through the records.
    """
    path = Path(path).resolve()
    if not path.exists():
        return Scan([], iter([]), str)
    data = None
    with _read_locked(path):
        if last is not None:
            data = _read_end(path, last)
        if data is None:
            data = path.read_bytes()
    columns, rows = _parse(path, data)
    if columns[:1] != [""]:
        return Scan([_decode(name) for name in columns], rows, _decode)
    decode = _decode if "RUN" in columns else str  # see _read_table
    return Scan([decode(name) for name in columns[1:]], (row[1:] for row in rows), decode)


def read_tracker(path: str | Path) -> list[dict[str, str]]:
    """Read a table: one dict per record, values as the text that was written.

    A missing file gives no records, and a record cut short is left out. Tables that were saved
    with an index (a first column without a name, no escapes) are read too, without it. What text
    cannot tell: None from "", and 1 from "1".

    Raises:
        ValueError: when the table is damaged, with the line.
    """
    path = Path(path).resolve()
    if not path.exists():
        return []
    with _read_locked(path):
        _, rows = _read_table(path)
    return [{_decode(name): _decode(field) for name, field in row.items()} for row in rows]


def flatten(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Turn nested dicts into dotted columns; lists and tuples become one text.

    An empty dict becomes the text "{}", so that it is seen.

    Example:
        >>> flatten({"EPOCHS": 2, "OPTIMIZER_CONFIG": {"lr": 0.1, "betas": (0.9, 0.99)}})
        {'EPOCHS': 2, 'OPTIMIZER_CONFIG.lr': 0.1, 'OPTIMIZER_CONFIG.betas': '(0.9, 0.99)'}

    Raises:
        ValueError: when two entries give the same column.
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            inner = {f"{key}.{name}": field for name, field in flatten(value).items()}
        else:
            inner = {str(key): str(value) if isinstance(value, list | tuple | Mapping) else value}
        twice = sorted(flat.keys() & inner.keys())
        if twice:
            raise ValueError(
                f"flatten: expected one entry per column, got several for {', '.join(twice)}. "
                "Rename one of the keys."
            )
        flat.update(inner)
    return flat


def _encode(value: Any) -> str:
    text = "" if value is None else str(value)
    if FORMULA.match(text) and not NUMBER.fullmatch(text):
        text = "'" + text
    return text.translate(ESCAPES)


def _decode(field: str) -> str:
    if "\\" not in field and field[:1] != "'":  # nearly all of them
        return field
    text = ESCAPED.sub(lambda m: chr(int(m[1], 16)) if m[1] else PLAIN[m[0]], field)
    return text[1:] if text.startswith("'") and FORMULA.match(text, 1) else text


def _encode_row(path: Path, row: Mapping[str, Any]) -> dict[str, str]:
    wrong = [name for name in row if not isinstance(name, str) or not name]
    if wrong or not row:
        raise ValueError(
            f"{path}: expected column names that are text and not empty, got {wrong or 'none'}. "
            "Give each value of the record a name."
        )
    return {_encode(name): _encode(value) for name, value in row.items()}


def _format(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _locked(path: Path) -> contextlib.AbstractContextManager[Any]:
    from filelock import FileLock  # here, since most importers of this module only flatten or read

    # A kernel lock: it ends with its process, also after kill -9. The default poll of 50 ms would
    # be most of the time that 16 writers take.
    return FileLock(_lock_path(path), poll_interval=0.005)


def _read_locked(path: Path) -> contextlib.AbstractContextManager[Any]:
    lock = _lock_path(path)
    # In a folder that may only be read there is no lock to take; a cut record is dropped anyway.
    writable = os.access(lock if lock.exists() else path.parent, os.W_OK)
    return _locked(path) if writable else contextlib.nullcontext()


def _drop_torn_tail(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if file.read() in (b"", b"\n"):
            return
        file.seek(0)
        data = file.read()
        end = data.rfind(b"\n") + 1
        file.truncate(end)
    warnings.warn(f"{path}: dropped a record that was cut short: {data[end:]!r}", stacklevel=3)


def _plain_header(path: Path) -> list[str]:
    """Return the columns when lines can be appended to the file as it is, else none."""
    if not path.exists():
        return []
    with open(path, "rb") as file:
        line = file.readline()
    columns = next(csv.reader([line.decode("utf-8", "backslashreplace")]), [])
    # The unnamed column of an older table goes with a rewrite; a name twice is refused there.
    return columns if all(columns) and len(set(columns)) == len(columns) else []


def _append_line(path: Path, line: bytes) -> None:
    with open(path, "ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            while line:  # one call, unless the disk fills up: then the next one says why
                line = line[os.write(file.fileno(), line) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(size)
            raise


def _rewrite(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    columns = list(dict.fromkeys(columns))
    remove_stale_temps(path)
    write_atomic(path, _format([columns, *([row.get(c, "") for c in columns] for row in rows)]))


def _read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return columns and records, as they stand (or should stand) in the file."""
    columns, records = _parse(path, path.read_bytes() if path.exists() else b"")
    rows = [dict(zip(columns, fields, strict=True)) for fields in records]
    if columns[:1] == [""]:
        columns = columns[1:]
        # Not ours, unless a script has saved ours with an index: only then are fields escaped.
        encode = str if "RUN" in columns else _encode
        rows = [{encode(k): encode(v) for k, v in row.items() if k} for row in rows]
        columns = [encode(name) for name in columns]
    return columns, rows


def _parse(path: Path, data: bytes) -> tuple[list[str], Iterator[list[str]]]:
    """Return the columns and the records of a file's content, without one that was cut short."""
    csv.field_size_limit(2**31 - 1)  # the default refuses fields above 128 KiB that it has written
    lines = io.BytesIO(data[: data.rfind(b"\n") + 1])
    reader = csv.reader(io.TextIOWrapper(lines, "utf-8-sig", "backslashreplace", ""), strict=True)

    def read() -> Iterator[list[str]]:
        try:
            columns = next(reader, [])
            if len(set(columns)) < len(columns):
                raise csv.Error("expected different column names, got one twice")
            yield columns
            for fields in reader:
                if len(fields) > len(columns):
                    raise csv.Error(f"expected {len(columns)} fields, got {len(fields)}")
                if fields:
                    fields += [""] * (len(columns) - len(fields))
                    yield fields
        except csv.Error as error:
            raise ValueError(
                f"{path} line {reader.line_num}: {error}. Mend the line by hand."
            ) from error

    rows = read()
    return next(rows), rows


def _read_end(path: Path, last: int) -> bytes | None:
    """Return the header and the last records, or None where they cannot be told from afar."""
    with open(path, "rb") as file:
        header = file.readline()
        start, end = file.tell(), file.seek(0, os.SEEK_END)
        step = 2**16
        while True:
            begin = max(start, end - step)
            file.seek(begin)
            data = file.read(end - begin)
            *lines, _ = data.split(b"\n")
            if begin == start or len(lines) > last:
                break
            step *= 4
    lines = [header.rstrip(b"\n"), *lines[max(0, len(lines) - last) :], b""]
    # a record of another program may have line ends within quotes
    if any(line.count(b'"') % 2 for line in lines):
        return None
    data = b"\n".join(lines)
    try:
        list(_parse(path, data)[1])
    except ValueError:
        return None  # the message tells the line, for which all of them must be counted
    return data
