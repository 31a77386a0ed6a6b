"""Pictures of what a segmentation decided, and the legend of their colours."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image


def make_palette(n_colours: int) -> np.ndarray:
    """Return (n_colours, 3) uint8, RGB: black, then hues that the colour-blind can tell apart.

    From the ninth on they are darker shades of the seven hues, more alike the more there are.

    Source: Okabe and Ito, Color Universal Design, 2008, https://jfly.uni-koeln.de/color/.
    """
    orange, sky_blue, green = (230, 159, 0), (86, 180, 233), (0, 158, 115)
    yellow, blue, vermilion, purple = (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)
    hues = np.array([orange, sky_blue, green, yellow, blue, vermilion, purple])
    n_shades = n_colours // len(hues) + 1
    shades = [hues * (1 - 0.7 * shade / n_shades) for shade in range(n_shades)]
    return np.concatenate([np.zeros((1, 3)), *shades])[:n_colours].round().astype(np.uint8)


def draw(decision: np.ndarray, task: str, n_outputs: int) -> bytes:
    """Return a PNG of the decision of a segmentation.

    - binary: grey, 0 and 255;
    - multiclass: a palette picture, its indices are the classes;
    - multilabel: one with the index label + 1, the highest where labels overlap, 0 where none is.

    Args:
        decision: (H, W) or, of several labels, (H, W, K), as `models.predictor.Predictor` gives it.
        task: a segmentation, see utils.data.tasks.
        n_outputs: K, the outputs of the network.
    """
    if task == "binary_segmentation":
        image = Image.fromarray(decision * 255)
    else:
        index = decision
        if task == "multilabel_segmentation":
            labels = decision.reshape(*decision.shape[:2], n_outputs)
            index = (labels * np.arange(1, n_outputs + 1)).max(axis=2)
        image = Image.fromarray(index.astype(np.uint8))  # beyond 256, colours return
        image.putpalette(_picture_palette(n_outputs).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def make_legend(task: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each class of a segmentation its index, name and colour in a picture of `draw`."""
    if task == "binary_segmentation":
        colours = ["#000000", "#ffffff"]
    else:
        first = 1 if task == "multilabel_segmentation" else 0
        palette = _picture_palette(len(names))
        colours = ["#" + palette[(i + first) % 256].tobytes().hex() for i in range(len(names))]
    return [
        {"index": i, "class": name, "colour": colour}
        for i, (name, colour) in enumerate(zip(names, colours, strict=True))
    ]


def _picture_palette(n_outputs: int) -> np.ndarray:
    return make_palette(min(n_outputs + 1, 256))  # one more for "none"; a picture holds 256
