"""A figure of matplotlib that looks the same whatever the user's own style is."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_DPI = 120


@contextmanager
def new_figure(width: float, height: float) -> Iterator[tuple[Any, io.BytesIO]]:
    """Give a figure to draw on in this block, and the file that is its PNG after it.

    Args:
        width: [inches]
        height: [inches]

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib  # it takes a second
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: the user's backend is left alone

    # a name may hold a $
    own = {"font.size": 9, "text.parse_math": False, "axes.formatter.useoffset": False}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **own}):
        figure, file = Figure((width, height), dpi=_DPI, layout="constrained"), io.BytesIO()
        FigureCanvasAgg(figure)
        yield figure, file
        figure.savefig(file, format="png")
