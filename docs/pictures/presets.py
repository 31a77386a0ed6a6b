"""Draw docs/pictures/presets.png, what the presets of augmentation do to a scene and its mask.

python docs/pictures/presets.py
"""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from utils.data.presets import PRESETS
from utils.data.synthetic import make_scene
from utils.data.transforms import make_transforms

SIZE_PX, N_DRAWS = 96, 3
GRAY, BLUE, ORANGE = (0.94, 0.94, 0.94), (0.16, 0.45, 0.84), (0.90, 0.35, 0.13)


def main() -> None:
    """Draw a row for each preset: the scene and its mask as they are, then augmented ones."""
    bands, masks = make_scene(seed=9, index=1, size_px=SIZE_PX)
    seen = np.clip(bands[[7, 3, 2]] * 0.28 + 0.45, 0, 1)  # near infrared, red, green
    x, y = torch.from_numpy(seen).float(), torch.from_numpy(masks[0] + 2 * masks[1]).long()
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(len(PRESETS), 2 * (N_DRAWS + 1))
    for row, name in zip(axes, PRESETS, strict=True):
        torch.manual_seed(6)
        drawn = [(x, y)]
        for _ in range(N_DRAWS):
            new = x, y
            for transform in make_transforms(name):
                new = transform(*new)
            drawn.append(new)
        pictures = [part for pair in drawn for part in (show(pair[0]), colour(pair[1]))]
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, fontsize=12)
    file = io.BytesIO()
    figure.savefig(file, dpi=100)
    picture = Image.open(file).convert("RGB").quantize(64)  # a third of the size
    picture.save(Path(__file__).with_suffix(".png"), optimize=True)


def show(x: torch.Tensor) -> np.ndarray:
    """Return (H, W, 3) in 0..1 for a picture (3, H, W)."""
    return x.clamp(0, 1).permute(1, 2, 0).numpy()


def colour(y: torch.Tensor) -> np.ndarray:
    """Return (H, W, 3) for a mask (H, W) of land, water and buildings."""
    return np.array([GRAY, BLUE, ORANGE])[y.clamp(0, 2).numpy()]


if __name__ == "__main__":
    main()
