"""What a network got right and wrong, as pictures: counts of classes, numbers beside the truth."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.logging.figure import new_figure

_MOST_NAMES = 100  # of a table
_MOST_WRONG = 50  # that are shown of more
_MOST_COUNTS = 30  # rows or columns of a table whose cells say their counts
_LONGEST = 28  # letters of a name
_CELL = 0.17  # side of a cell without a count [inches]
_ROOM = 9  # where names of columns stand level, if they fit [inches]
_MOST_PANELS = 9  # of a scatter
_DOT = "#0072b2"


def draw_confusion(
    counts: np.ndarray, names: Sequence[str], title: str = "", unit: str = "samples"
) -> bytes:
    """Return a PNG of a confusion matrix; a cell's colour is its share of what is true.

    Up to 30 classes have their counts in the cells. Of more than 100 those with the most errors are
    shown.

    Args:
        counts: (K, K) int, [true, decided]; or (K, 2, 2) of labels, which have a row each.
        names: Of the classes or labels.
        title: Stands above.
        unit: What is counted.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = columns = [_shorten(name) for name in names]
    if counts.ndim == 3:
        columns = ["there:\nfound", "there:\nmissed", "not there:\nfound", "not there:\nnot found"]
        whole = counts.sum(axis=2)[:, [1, 1, 0, 0]]
        counts = counts[:, [1, 1, 0, 0], [1, 0, 1, 0]]
        n_wrong = counts[:, [1, 2]].sum(axis=1)
    else:
        whole = counts.sum(axis=1, keepdims=True)
        n_wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    shares = np.divide(counts, whole, where=whole > 0, out=np.zeros(counts.shape))
    if len(counts) > _MOST_NAMES:
        title = f"{title}: the {_MOST_WRONG} of {len(counts)} with the most errors"
        shown = np.sort(np.argsort(-n_wrong, kind="stable")[:_MOST_WRONG])
        cells = np.ix_(shown, shown if columns is rows else range(len(columns)))
        counts, shares, rows = counts[cells], shares[cells], [rows[i] for i in shown]
        columns = rows if len(columns) > len(rows) else columns
    return _draw_table(counts, shares, rows, columns, title, unit)


def _draw_table(
    counts: np.ndarray,
    shares: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    unit: str,
) -> bytes:
    from matplotlib.colors import PowerNorm

    has_counts = max(counts.shape) <= _MOST_COUNTS
    letter, small = (0.085, 9) if has_counts else (0.065, 7)  # [inches], [points]
    longest = letter * max(len(line) for name in columns for line in name.split("\n")) + 0.1
    cell = letter * len(_count(counts.max())) + 0.15 if has_counts else _CELL
    is_level = (
        longest * len(columns) <= _ROOM or longest <= cell
    )  # names of columns fit as they are
    cell = max(cell, longest if is_level else 0, 2 / len(columns))
    height = max(0.3 if has_counts else _CELL, 1.5 / len(rows))
    left = letter * max(map(len, rows)) + 0.6
    foot = 0.8 if is_level else longest + 0.5
    size = (left + cell * len(columns) + 1.1, foot + height * len(rows) + 0.4)
    with new_figure(*size) as (figure, file):
        panel = figure.add_subplot()
        # the root, for the few errors to be seen beside the many that are right
        image = panel.imshow(shares, "Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto")
        panel.set_xticks(range(len(columns)), columns, rotation=0 if is_level else 90)
        panel.set_yticks(range(len(rows)), rows)
        panel.tick_params(length=0, labelsize=small)
        panel.set_title(title, fontsize=9)
        if columns == rows:
            panel.set_xlabel("decided")
            panel.set_ylabel("true")
        for (i, k), number in np.ndenumerate(counts if has_counts else np.empty((0, 0))):
            colour = "white" if shares[i, k] > 0.3 else "black"
            text = _count(number) if number else ""
            panel.text(k, i, text, ha="center", va="center", color=colour, fontsize=8)
        bar = figure.colorbar(image, ax=panel, fraction=0.05, pad=0.02, ticks=(0, 0.1, 0.3, 0.6, 1))
        bar.set_label(f"share of true {unit}")
    return file.getvalue()


def draw_scatter(target: np.ndarray, pred: np.ndarray, title: str = "") -> bytes:
    """Return a PNG of predicted against true numbers, a panel for each output, the first nine.

    Args:
        target: (N, K) float; what is not finite is left out.
        pred: (N, K) float.
        title: Stands above the panels.

    Raises:
        ImportError: matplotlib is not installed.
    """
    n_panels = min(target.shape[1], _MOST_PANELS)
    n_columns = min(n_panels, 3)
    n_rows = math.ceil(n_panels / n_columns)
    with new_figure(3.2 * n_columns + 0.2, 3.1 * n_rows + 0.3) as (figure, file):
        figure.suptitle(title, fontsize=9)
        panels = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
        for k, panel in enumerate(panels):
            if k < n_panels:
                _draw_pairs(panel, target[:, k], pred[:, k])
                panel.set_title(
                    f"output {k}" if target.shape[1] > 1 else "", loc="left", fontsize=9
                )
            else:
                panel.set_axis_off()
    return file.getvalue()


def _draw_pairs(panel: Any, target: np.ndarray, pred: np.ndarray) -> None:
    kept = np.isfinite(target) & np.isfinite(pred)
    target, pred = target[kept], pred[kept]
    size = 12 if len(target) < 500 else 3
    panel.scatter(target, pred, s=size, color=_DOT, alpha=0.6, linewidths=0)
    if len(target):
        ends = [min(target.min(), pred.min()), max(target.max(), pred.max())]
        panel.plot(ends, ends, color="0.5", linewidth=1, linestyle="--", zorder=0)
    panel.set_xlabel("true")
    panel.set_ylabel("predicted")
    panel.grid(color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _count(number: int) -> str:
    """Return a count in five letters or fewer, below a trillion."""
    for letter, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 10 * size:
            return f"{number / size:.3g}{letter}"
    return str(number)


def _shorten(name: str) -> str:
    """Leave out the middle of a long name: names differ at either end."""
    half = _LONGEST // 2 - 1
    return name if len(name) <= _LONGEST else f"{name[:half]}..{name[-half:]}"
