"""Curves over the epochs as SVG: where lines, points and labels of a plot stand."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from utils.runs.folder import RunFolder
from utils.runs.query import read_number

WIDTH, HEIGHT = 440, 230  # of a plot, in units of its viewBox
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 34  # room around the curves
MOST_POINTS = 400  # of a curve
MOST_PLOTS = 24
_SETS = ("train", "val")


def make_plots(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Return the plots of metrics.csv: train and val of a value in one, every run in each.

    Returns:
        For each plot `title`, `x_ticks` and `y_ticks` (place, label), `curves` and `data`, the
        numbers that are shown under the pointer. A curve has `run` (its number), `set`, `label`,
        `line` and `dots`, the path of the SVG, and `best`, the place of the best epoch.
    """
    names = dict.fromkeys(name for run in runs for row in run.epochs[:1] for name in row if name)
    values: dict[str, list[str]] = {}
    for name in names:
        if name not in ("epoch", "step"):
            start, _, end = name.partition("_")
            values.setdefault(end if end and start in _SETS else name, []).append(name)
    order = sorted(values, key=lambda value: (value != "loss", value == "lr"))
    plots = [_make_plot(runs, value, values[value]) for value in order]
    return [plot for plot in plots if plot["curves"]]


def thin(rows: Sequence[Any], most: int = MOST_POINTS) -> list[Any]:
    """Return rows taken evenly, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _make_plot(runs: Sequence[RunFolder], title: str, names: Sequence[str]) -> dict[str, Any]:
    curves = []
    for number, run in enumerate(runs):
        best = run.best_epoch().get("epoch")
        for name in names:
            points = [(_number(row, "epoch"), _number(row, name)) for row in run.epochs]
            points = [point for point in points if None not in point]
            if points:
                label = name if len(runs) == 1 else f"{run.name} {name}"
                kind = "train" if name.startswith("train_") else "val"
                curves.append([number, kind, label, thin(points), read_number(best or "")])
    if not curves:
        return {"title": title, "curves": []}
    all_points = [point for *_, points, _ in curves for point in points]
    x_low, x_high = _widen(*_ends(x for x, _ in all_points))
    y_low, y_high = _ends(y for _, y in all_points)
    y_low, y_high = _widen(y_low, y_high, (y_high - y_low) * 0.05)

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(right, 1), round(down, 1)

    drawn = []
    for number, kind, label, points, best in curves:
        places = [place(*point) for point in points]
        at_best = [place(*point) for point in points if point[0] == best]
        drawn.append(
            {
                "run": number,
                "set": kind,
                "label": label,
                "line": " ".join(f"{x},{y}" for x, y in places),
                "dot": places[0] if len(places) == 1 else None,  # a line of one point is not seen
                "best": at_best[0] if at_best and kind == "val" and title != "lr" else None,
            }
        )
    return {
        "title": "learning rate" if title == "lr" else title,
        "x_ticks": [(place(x, y_low)[0], f"{x:g}") for x in make_ticks(x_low, x_high, 6, 1)],
        "y_ticks": [(place(x_low, y)[1], f"{y:.6g}") for y in make_ticks(y_low, y_high, 5)],
        "curves": drawn,
        "data": {
            "low": x_low,
            "high": x_high,
            "left": LEFT,
            "right": WIDTH - RIGHT,
            "curves": [
                {"run": n, "label": label, "points": [[x, float(f"{y:.5g}")] for x, y in points]}
                for n, _, label, points, _ in curves
            ],
        },
    }


def make_ticks(low: float, high: float, most: int, least_step: float = 0.0) -> list[float]:
    """Return round numbers from low to high, evenly spaced by 1, 2 or 5 times a power of ten.

    Args:
        low: The first tick is not below it.
        high: The last tick is not above it; more than low.
        most: So many at most.
        least_step: The spacing is not below it: 1 for numbers of epochs.

    Example:
        >>> make_ticks(0.0, 1.0, 6)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    steps = [power * factor for factor in (1, 2, 5, 10, 20)]
    step = next(s for s in steps if s >= least_step and math.floor((high - low) / s) + 1 <= most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _number(row: dict[str, str], name: str) -> float | None:
    number = read_number(row.get(name) or "")
    return number if number is not None and math.isfinite(number) else None


def _ends(numbers: Iterable[float]) -> tuple[float, float]:
    numbers = list(numbers)
    return min(numbers), max(numbers)


def _widen(low: float, high: float, room: float = 0.0) -> tuple[float, float]:
    """Return bounds with room on both sides; of a single number, the number in their middle."""
    if low == high:
        room = abs(low) / 2 or 0.5
    return low - room, high + room
