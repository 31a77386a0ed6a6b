"""Draw docs/pictures/scenes.png, what a run of experiments/scenes.py has learnt.

python train.py && python docs/pictures/scenes.py weights/<run>/best.pth
"""

import io
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.predictor import load_predictor
from utils.data.synthetic import make_scene

COLORS = {"water": (0.16, 0.45, 0.84), "buildings": (0.90, 0.35, 0.13)}
SIZE_PX, N_SCENES = 128, 4  # four times the area of the scenes that it was trained on


def color(mask: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) for a mask (H, W, 2) of water and buildings."""
    picture = np.full((*mask.shape[:2], 3), 0.94)
    for k, value in enumerate(COLORS.values()):
        picture[mask[..., k] > 0] = value
    return picture


def main(weights: str) -> None:
    """Draw input, truth and prediction of scenes that no run has seen."""
    predict = load_predictor(weights)
    figure = Figure(figsize=(8, 6.2), layout="constrained")
    axes = figure.subplots(3, N_SCENES)
    for i in range(N_SCENES):
        x, y = make_scene(seed=9, index=i, size_px=SIZE_PX)
        bands = np.moveaxis(x, 0, -1)
        seen = np.clip(bands[..., [7, 3, 2]] * 0.28 + 0.45, 0, 1)  # near infrared, red, green
        rows = (seen, color(np.moveaxis(y, 0, -1)), color(predict(bands)))
        for axis, picture in zip(axes[:, i], rows, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
    titles = ("3 of 12 bands", "truth", "prediction")
    for axis, title in zip(axes[:, 0], titles, strict=True):
        axis.set_ylabel(title, fontsize=12)
    patches = [axes[0, 0].scatter([], [], marker="s", s=90, color=c) for c in COLORS.values()]
    figure.legend(patches, COLORS, loc="outside lower center", ncols=2, frameon=False, fontsize=12)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    picture = Image.open(drawn).convert("RGB").quantize(64)  # a third of the size
    picture.save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
