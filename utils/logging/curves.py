"""The learning curves of a run as a picture: a panel for the loss, and one for each metric."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from utils.logging.figure import new_figure

_COLOURS = {"train": "#0072b2", "val": "#d55e00"}  # the colour-blind can tell them apart
_MOST = 12  # panels
_SIZE = (3.4, 2.3)  # width and height of a panel [inches]
_LOG_RATIO = 30  # a loss that falls by more is drawn on a logarithmic axis
_DOTS = 25  # with more epochs a line has no dots

Series = Mapping[str, Mapping[int, float]]  # "train" or "val" -> epoch -> value


def draw_curves(
    rows: Iterable[Mapping[str, Any]], best_epoch: int | None = None, title: str = ""
) -> bytes:
    """Return a PNG of losses and metrics over the epochs.

    Args:
        rows: One per epoch: a run's `history.rows`, or metrics.csv as `csv.DictReader` gives it.
            A value may be missing, empty or not finite.
        best_epoch: Epoch to mark, counted from 1, with its values; None marks none.
        title: Stands above the panels.

    Raises:
        ImportError: matplotlib is not installed.
    """
    panels = group_values(rows)
    shown = list(panels.items())[:_MOST]
    n_columns = {0: 1, 1: 1, 2: 2, 4: 2}.get(len(shown), 3)
    n_rows = max(1, math.ceil(len(shown) / n_columns))
    best = f"best epoch {best_epoch}" if best_epoch is not None else ""
    more = f"{len(panels) - len(shown)} more in metrics.csv" if len(panels) > len(shown) else ""
    size = (max(n_columns * _SIZE[0], 5), n_rows * _SIZE[1] + 0.3)
    with new_figure(*size) as (figure, file):
        figure.suptitle("    ".join(filter(None, (title, best, more))), fontsize=9)
        axes = list(figure.subplots(n_rows, n_columns, sharex=True, squeeze=False).flat)
        for panel, (name, series) in zip(axes, shown, strict=False):
            _draw_panel(panel, name, series, best_epoch)
        for panel in axes[len(shown) :]:
            panel.set_axis_off()
    return file.getvalue()


def group_values(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """Return panel -> part -> epoch -> value: `val_f1` is the part "val" of the panel "f1"."""
    panels: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            part, _, panel = name.partition("_")
            if part in _COLOURS and value not in ("", None):
                series = panels.setdefault(panel, {}).setdefault(part, {})
                series[int(row["epoch"])] = float(value)
    return panels


def _draw_panel(panel: Any, name: str, series: Series, best_epoch: int | None) -> None:
    """Draw one panel: its name on the left, the value of the best epoch on the right."""
    from matplotlib import ticker

    for part, values in series.items():
        # a gap where a value is not finite
        heights = [value if math.isfinite(value) else math.nan for value in values.values()]
        marker = "o" if len(values) <= _DOTS else None
        style = {"color": _COLOURS[part], "marker": marker, "markersize": 3, "linewidth": 1.5}
        panel.plot(list(values), heights, label=part, **style)
    panel.set_title(name, loc="left", fontsize=10, fontweight="bold")
    if best_epoch is not None:
        panel.axvline(best_epoch, color="0.6", linewidth=1, linestyle="--", zorder=0)
        part = "val" if "val" in series else "train"
        value = series[part].get(best_epoch, math.nan)
        if math.isfinite(value):
            panel.plot(best_epoch, value, "o", color=_COLOURS[part], markersize=6)
            panel.set_title(f"{part} {value:.4g}", loc="right", fontsize=9, color=_COLOURS[part])
    finite = [v for values in series.values() for v in values.values() if math.isfinite(v)]
    if name == "loss" and finite and 0 < min(finite) < max(finite) / _LOG_RATIO:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(ticker.NullFormatter())
    whole = ticker.MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    panel.xaxis.set_major_locator(whole)
    panel.tick_params(labelbottom=True)
    panel.margins(x=0.03)
    panel.set_xlabel("epoch")
    panel.grid(color="0.9")
    panel.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        panel.legend(frameon=False)
