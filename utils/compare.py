"""Two networks on the same samples: is one of them better, and where do they differ?

`compare` reads the samples.csv of two runs, as `training.callbacks.Ledger` and run_prediction.py
write them. It compares means over samples: of a metric that is no mean, such as the IoU of a data
set, that of the single samples.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.bootstrap import ResampledSums, interval

# columns of a samples.csv that are no values to compare
_ABOUT = ("index", "name", "path", "output", "target", "prediction", "confidence")


class Difference(NamedTuple):
    """A mean over the samples that both runs have, compared.

    Attributes:
        a: Of the first run.
        b: Of the second run.
        low: Of the interval of b - a.
        high: Of the interval of b - a.
        p: Probability of so large a difference, or a larger one, where there is none: McNemar's
            exact test of right and wrong decisions; None of other values.
        is_clear: Whether the interval, and the test if there is one, tell the two apart.
    """

    a: float
    b: float
    low: float
    high: float
    p: float | None
    is_clear: bool


class Comparison(NamedTuple):
    """What `compare` found.

    Attributes:
        n_samples: That both runs have.
        n_only: Samples of the first run alone, and of the second one.
        differences: Value -> difference: `accuracy` where there are decisions, `loss`, metrics.
        gained: Samples that the first got wrong and the second right.
        lost: The other way round.
        both_wrong: Samples that both got wrong; some of them may have a wrong label.
    """

    n_samples: int
    n_only: tuple[int, int]
    differences: dict[str, Difference]
    gained: list[str]
    lost: list[str]
    both_wrong: list[str]

    def lines(self) -> list[str]:
        """Return it as lines of text."""
        lines = [f"{self.n_samples} samples that both have"]
        if any(self.n_only):
            first, second = self.n_only
            lines.append(f"{first} of the first alone, {second} of the second alone")
        width = max(map(len, self.differences), default=0)
        for name, d in self.differences.items():
            p = "" if d.p is None else f", p {d.p:.2g}"
            verdict = "different" if d.is_clear else "not distinguishable"
            lines.append(
                f"{name:{width}}  {d.a:.4f} -> {d.b:.4f}"
                f"  ({d.b - d.a:+.4f} [{d.low:+.4f}, {d.high:+.4f}]{p}): {verdict}"
            )
        if "accuracy" in self.differences:
            lines.append(
                f"{len(self.gained)} gained, {len(self.lost)} lost, {len(self.both_wrong)} wrong in"
                " both"
            )
        return lines


def compare(
    a: str | Path,
    b: str | Path,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two runs, or predictions, sample by sample.

    The mean difference of each value gets a paired bootstrap interval, right and wrong decisions
    also McNemar's exact test (Q. McNemar, Psychometrika 12, 1947). Two runs that it does not tell
    apart may still differ: then it takes more samples to see it. With many values, one in twenty is
    called different by chance.

    Args:
        a: A samples.csv, or the folder that holds it.
        b: The other one.
        confidence: Of the intervals; the test's level is 1 less it.
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is no such table, or they have no sample, target or value in common.
    """
    first, second = tables = _read_all([a, b])
    names = [name for name in first if name in second]
    pairs = [(first[name], second[name]) for name in names]
    other = [
        n for n, (x, y) in zip(names, pairs, strict=True) if x.get("target") != y.get("target")
    ]
    if not pairs or other:
        found = f'another target of "{other[0]}"' if other else "none of them"
        raise ValueError(
            f"{b}: expected the samples of {a}, got {found}. Evaluate both on the same data."
        )
    values = _common_values(pairs)
    wrong = np.array([[not is_right(row) for row in pair] for pair in pairs])
    is_decided = all(map(has_decision, pairs[0]))
    if is_decided:
        accuracy = 1.0 - wrong
        # of one sample f1 and the like are 1 or 0, as it is right or wrong
        others = {name: v for name, v in values.items() if not np.array_equal(v, accuracy)}
        values = {"accuracy": accuracy, **others}
    if not values:
        raise ValueError(
            f"{b}: expected a value in common with {a}, got none. Give both the same METRICS."
        )
    resampled = ResampledSums(len(pairs), n_resamples, seed)
    resampled.add(np.stack([column[:, 1] - column[:, 0] for column in values.values()], axis=1))
    means = resampled.sums() / len(pairs)
    gained, lost = wrong[:, 0] & ~wrong[:, 1], ~wrong[:, 0] & wrong[:, 1]
    differences = {}
    for i, (name, column) in enumerate(values.items()):
        low, high = interval(means[:, i], confidence)
        p = mcnemar(int(gained.sum()), int(lost.sum())) if name == "accuracy" else None
        is_clear = (low > 0 or high < 0) and (p is None or p < 1 - confidence)
        differences[name] = Difference(*column.mean(axis=0).tolist(), low, high, p, is_clear)
    found = (
        [n for n, is_one in zip(names, which & is_decided, strict=True) if is_one]
        for which in (gained, lost, wrong.all(axis=1))
    )
    n_only = tuple(len(table) - len(pairs) for table in tables)
    return Comparison(len(pairs), n_only, differences, *found)


def line_up(runs: Mapping[str, str | Path]) -> list[dict[str, Any]]:
    """Return a row of each sample with what every run says of it, the most often wrong first.

    A sample that all get wrong may have a wrong label.

    Args:
        runs: Name -> samples.csv, or the folder that holds it.

    Returns:
        `name`, `target`, `n_wrong` (of the runs that have the sample), and of each run
        `<run>.prediction`, `<run>.confidence` and `<run>.loss`, as the files have them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is no such table.
    """
    tables = dict(zip(runs, _read_all(list(runs.values())), strict=True))
    rows = []
    for name in dict.fromkeys(name for table in tables.values() for name in table):
        having = {run: table[name] for run, table in tables.items() if name in table}
        target = next(iter(having.values())).get("target", "")
        n_wrong = sum(has_decision(row) and not is_right(row) for row in having.values())
        row = {"name": name, "target": target, "n_wrong": n_wrong}
        for run, found in having.items():
            parts = [part for part in ("prediction", "confidence", "loss") if part in found]
            row |= {f"{run}.{part}": found[part] for part in parts}
        rows.append(row)
    return sorted(rows, key=lambda row: -row["n_wrong"])


def mcnemar(n_gained: int, n_lost: int) -> float:
    """Return the two-sided p of McNemar's exact test: that a fair coin falls so one-sided.

    Args:
        n_gained: Samples that the first got wrong and the second right.
        n_lost: The other way round.
    """
    n, term, total = n_gained + n_lost, 1, 0  # whole numbers of any size: nothing is rounded
    for k in range(min(n_gained, n_lost) + 1):
        total += term
        term = term * (n - k) // (k + 1)  # n over k + 1
    return min(1.0, 2 * total / 2**n)


def read_samples(path: str | Path) -> list[dict[str, str]]:
    """Read a samples.csv, or that of a folder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such table.
    """
    path = Path(path)
    path = path / "samples.csv" if path.is_dir() else path
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: expected a samples.csv, got {error}. Name another.") from error
    if not rows or not {"index", "name"} <= rows[0].keys():
        found = ", ".join(map(str, rows[0])) if rows else "none"
        raise ValueError(
            f"{path}: expected rows with the columns index and name, got {found}."
            " Name a samples.csv of a run or a prediction."
        )
    return rows


def has_decision(row: Mapping[str, str]) -> bool:
    """Tell whether a row of a samples.csv says what was decided, and what is true."""
    return all(name in row for name in ("target", "prediction", "confidence"))


def is_right(row: Mapping[str, str]) -> bool:
    """Tell whether the decision of a row is the true class, or all true labels and no others."""
    return row.get("prediction") == row.get("target")


def _read_all(paths: Sequence[str | Path]) -> list[dict[str, dict[str, str]]]:
    """Return the rows of each table by their names; by their numbers where names come twice."""
    tables = [read_samples(path) for path in paths]
    has_names = all(len({row["name"] for row in rows}) == len(rows) for rows in tables)
    key = "name" if has_names else "index"
    return [{row[key]: row for row in rows} for rows in tables]


def _common_values(pairs: Sequence[tuple[Mapping[str, str], ...]]) -> dict[str, np.ndarray]:
    """Return the columns of numbers that no row lacks, (N, 2) float64."""
    first, second = pairs[0]
    values = {}
    for name in first:
        if name not in second or name in _ABOUT:
            continue
        try:
            column = np.array([[float(row[name]) for row in pair] for pair in pairs])
        except ValueError:  # an empty cell, or text
            continue
        if np.isfinite(column).all():
            values[name] = column
    return values
