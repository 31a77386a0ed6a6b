"""Names and conditions as people type them: `lr<1e-3`, `f1`, `MODEL~UNET`."""

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from config.errors import ConfigError, did_you_mean
from utils.logging.csv import NUMBER

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_CONDITION = re.compile(r"\s*([^<>=!~]+?)\s*(<=|>=|!=|==|<|>|=|~)\s*(.*?)\s*", re.DOTALL)


class Condition(NamedTuple):
    """A column, an operator, and the text that a field is compared with."""

    column: str
    operator: str
    text: str

    def holds(self, field: str) -> bool:
        """Tell whether a field meets it.

        Numbers are compared as numbers, all else as text. A field without a value is equal to
        nothing alone, and neither smaller nor larger than anything.
        """
        if self.operator == "~":
            return self.text.lower() in field.lower()
        compare = OPERATORS[self.operator]
        if not field or not self.text:
            return compare in (operator.eq, operator.ne) and compare(field, self.text)
        a, b = read_number(field), read_number(self.text)
        return compare(field, self.text) if a is None or b is None else compare(a, b)


def read_conditions(texts: Iterable[str], columns: Sequence[str]) -> list[Condition]:
    """Read conditions such as "OPTIMIZER_CONFIG.lr<1e-3".

    Raises:
        ConfigError: Every text that is none, and every column that is not there.
    """
    conditions, problems = [], []
    for text in texts:
        match = _CONDITION.fullmatch(text)
        if match is None:
            problems.append(
                f'--where: expected COLUMN<VALUE (or <= > >= = != ~), got "{text}".'
                ' Quote it for the shell: --where "lr<1e-3".'
            )
            continue
        try:
            column = find_column(match[1], columns, "--where")
        except ConfigError as error:
            problems += error.problems
        else:
            conditions.append(Condition(column, match[2], match[3]))
    if problems:
        raise ConfigError(problems)
    return conditions


def find_column(name: str, columns: Sequence[str], where: str) -> str:
    """Return the column that a name stands for.

    In this order: the column itself; the value of a metric in the best epoch (`f1` is
    `best_val_f1`), or of the test set; the end of one dotted column (`lr`), also in other case.

    Raises:
        ConfigError: There is none, or several.
    """
    if name in columns:
        return name
    rules: tuple[Callable[[str], bool], ...] = (
        lambda column: column in (f"best_val_{name}", f"best_{name}"),
        lambda column: column == f"test_{name}",
        lambda column: column.endswith(f".{name}"),
        lambda column: f".{column}".lower().endswith(f".{name}".lower()),
    )
    for rule in rules:
        found = [column for column in columns if rule(column)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(
                f'{where}: expected one column, got "{name}", which is short for'
                f" {', '.join(found)}. Write it in full."
            )
    known = [*columns, *(column.rpartition(".")[2] for column in columns)]
    raise ConfigError(
        f'{where}: expected a column of the table, got "{name}".{did_you_mean(name, known)}'
        " `python runs.py list --json --last 1` shows all."
    )


def find_columns(names: Iterable[str], columns: Sequence[str], where: str) -> list[str]:
    """Return the columns that names stand for.

    Raises:
        ConfigError: Every name that stands for none, or several.
    """
    found, problems = [], []
    for name in names:
        try:
            found.append(find_column(name, columns, where))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def shorten_column(name: str, columns: Sequence[str]) -> str:
    """Return the shortest end of a dotted column that `find_column` takes for it."""
    parts = name.split(".")
    for start in range(len(parts) - 1, 0, -1):
        short = ".".join(parts[start:])
        try:
            if find_column(short, columns, "") == name:
                return short
        except ConfigError:
            continue  # several end so
    return name


def read_number(field: str) -> float | None:
    """Return the number that a field is, or None; nan is none."""
    if not NUMBER.fullmatch(field):
        return None
    number = float(field)
    return None if math.isnan(number) else number


def sort_key(field: str) -> tuple[int, float, str]:
    """Return what to sort a field by: fields without a value, then text, then numbers."""
    number = read_number(field)
    if number is not None:
        return 2, number, ""
    is_missing = not field or field.lower().lstrip("+-") == "nan"
    return (0, 0.0, "") if is_missing else (1, 0.0, field)
