"""Curves in the terminal: braille dots in colours, or a letter for each run without colours."""

import math
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.text import Text

from config.errors import ConfigError, did_you_mean
from utils.runs.folder import RunFolder
from utils.runs.query import read_number

COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue", "bright_white")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille cell, row by row
_TICKS = 3  # labels on the y axis

Points = Sequence[tuple[float, float]]


def read_points(run: RunFolder, name: str) -> Points:
    """Return epoch and value of a column of metrics.csv, where it is a finite number.

    Raises:
        ConfigError: The run has no such column, or no epoch yet.
    """
    rows = run.epochs
    if not rows or name not in rows[0]:
        columns = [c for row in rows[:1] for c in row if c not in ("epoch", "step")]
        found = did_you_mean(name, columns) or f" It has {', '.join(columns) or 'no epochs yet'}."
        raise ConfigError(f'--of: expected a column of {run.name}, got "{name}".{found}')
    numbers = [(read_number(row["epoch"]), read_number(row[name] or "")) for row in rows]
    return [(x, y) for x, y in numbers if None not in (x, y) and math.isfinite(y)]


def draw_curves(
    curves: Mapping[str, Points], title: str, width: int, height: int, has_colours: bool = True
) -> Group:
    """Draw curves over the epochs.

    Args:
        curves: Name -> points (epoch, value), at least one in all.
        title: What the values are.
        width: Cells in all, with the labels of the axis.
        height: Lines of the drawing, at least 3, without title, axis and legend.
        has_colours: Colours tell the curves apart; else the letters of the legend do.

    Raises:
        ConfigError: There is nothing to draw.
    """
    points = [point for curve in curves.values() for point in curve]
    if not points:
        raise ConfigError(f"--of: expected {title} as numbers, got none. Name another column.")
    (x_low, x_high), (y_low, y_high) = (_bounds(axis) for axis in zip(*points, strict=True))
    ticks = [round(i * (height - 1) / (_TICKS - 1)) for i in range(_TICKS)]
    labels = {row: f"{y_high - row / (height - 1) * (y_high - y_low):.4g}" for row in ticks}
    margin = max(map(len, labels.values())) + 2
    columns = max(8, width - margin)
    cells: dict[tuple[int, int], tuple[str, int]] = {}  # (row, column) -> text, number of the curve
    for number, curve in enumerate(curves.values()):
        letter = None if has_colours else _LETTERS[number % len(_LETTERS)]
        scaled = [
            (
                (x - x_low) / (x_high - x_low) * (2 * columns - 1),
                (y_high - y) / (y_high - y_low) * (4 * height - 1),
            )
            for x, y in curve
        ]
        for place, text in _rasterize(scaled, letter).items():
            cells[place] = (text, number)
    lines = [Text(title, style="bold")]
    for row in range(height):
        line = Text(f"{labels.get(row, ''):>{margin - 2}} \u2524" if row in labels else "")
        line.pad_left(0 if row in labels else margin - 1)
        if row not in labels:
            line.append("\u2502")
        for column in range(columns):
            text, number = cells.get((row, column), (" ", 0))
            line.append(text, style=COLOURS[number % len(COLOURS)] if has_colours else "")
        line.rstrip()
        lines.append(line)
    lines.append(Text(" " * (margin - 1) + "\u2514" + "\u2500" * columns))
    first, final = f"{x_low:g}", f"{x_high:g}"
    gap = columns - len(first) - len(final)
    lines.append(Text(" " * margin + first + "epoch".center(max(7, gap)) + final))
    for number, (name, curve) in enumerate(curves.items()):
        mark = "\u28ff\u28ff" if has_colours else _LETTERS[number % len(_LETTERS)]
        legend = Text(f"{mark} ", style=COLOURS[number % len(COLOURS)] if has_colours else "")
        last = f"  {curve[-1][1]:.4g} in epoch {curve[-1][0]:g}" if curve else "  no number"
        lines.append(legend.append(name, style="default").append(last, style="default"))
    return Group(*lines)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:  # a single point stands in the middle
        room = abs(low) / 2 or 0.5
        return low - room, high + room
    return low, high


def _rasterize(points: Points, letter: str | None) -> dict[tuple[int, int], str]:
    """Return the cells of a line through points, which are given in dots: 2 by 4 in a cell."""
    dots = {(round(x), round(y)) for x, y in points[:1]}
    for (x1, y1), (x2, y2) in zip(points, points[1:], strict=False):
        n_steps = max(1, math.ceil(max(abs(x2 - x1), abs(y2 - y1))))
        shares = [i / n_steps for i in range(n_steps + 1)]
        dots |= {(round(x1 + t * (x2 - x1)), round(y1 + t * (y2 - y1))) for t in shares}
    masks: dict[tuple[int, int], int] = {}
    for x, y in dots:
        place = (y // 4, x // 2)
        masks[place] = masks.get(place, 0) | _DOTS[y % 4][x % 2]
    return {place: letter or chr(0x2800 + mask) for place, mask in masks.items()}
