"""Draw docs/pictures/signs.png, signs that a run of experiments/metric_learning.py has not seen.

python train.py experiments/metric_learning.py
python docs/pictures/signs.py weights/<run>/best.pth
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.metric_learning import draw_signs
from models.predictor import load_predictor

SIZE_PX, GAP_PX = 56, 8  # of a sign and between two
SHOWN = (0, 1, 2, 4, 6, 9)  # of the thirty signs
QUERY, RIGHT, WRONG = (120, 120, 120), (40, 160, 70), (210, 60, 50)


def main(weights: str) -> None:
    """Draw a picture of some signs in each row, and its six nearest of 599 others."""
    signs = draw_signs(200, 230)
    pictures = list(signs.x[:, 0, :, :, None].numpy())
    found = np.stack(load_predictor(weights)(pictures, batch_size=64))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    near = found @ found.T
    np.fill_diagonal(near, -1)
    step = SIZE_PX + GAP_PX
    sheet = Image.new("RGB", (7 * step + 3 * GAP_PX, len(SHOWN) * step + GAP_PX), "white")
    for row, sign in enumerate(SHOWN):
        query = 20 * sign
        nearest = near[query].argsort()[::-1][:6]
        for column, i in enumerate([query, *nearest]):
            left, top = GAP_PX + column * step + 2 * GAP_PX * (column > 0), GAP_PX + row * step
            frame = (left - 3, top - 3, left + SIZE_PX + 2, top + SIZE_PX + 2)
            color = QUERY if column == 0 else RIGHT if signs.y[i] == sign + 200 else WRONG
            ImageDraw.Draw(sheet).rectangle(frame, fill=color)
            picture = Image.fromarray(255 - pictures[i][..., 0].astype(np.uint8))
            sheet.paste(picture.resize((SIZE_PX, SIZE_PX)).convert("RGB"), (left, top))
    sheet.quantize(64).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
