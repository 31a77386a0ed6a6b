"""Find signs that the training has not seen among others: embeddings, by metric learning.

    python train.py experiments/metric_learning.py

The network turns a picture into 64 numbers, an embedding, near to those of pictures of the same
identity. The identities are signs of three strokes that the kit draws itself, each sign 20 times
by an unsteady hand. It learns on 100 signs; then each picture of 50 others is searched among all
of them: `val_cmc_1` is the share whose nearest is the same sign.

To make it yours, put pictures into folders below DATA_DIR/faces: train/<identity>/ to learn from,
base/<identity>/ to be searched, val/<identity>/ to be searched for. In a copy of this file:

    "PREPROCESS": {"scale": 1 / 255, "size": [64, 64]},
    "TRAIN_DATASET": IdentityFolder,  # from utils.data
    "TRAIN_DATASET_CONFIG": {"root": "faces", "transform": "light"},
    "VAL_DATASET": IdentityFolder,
    "VAL_DATASET_CONFIG": {"root": "faces", "part": "val"},
    "MODEL": embedder,  # from models.zoo
    "MODEL_CONFIG": {"name": "resnet18", "embedding_size": 64},

docs/metric_learning.rst says more, of losses, batches and metrics.

To expect: half a minute of training; val_cmc_1 0.935 and val_map 0.59 after the last epoch. With
the weights as they are drawn it would be 0.44 and 0.17, by the pixels alone 0.71 and 0.22.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw

from models import ConvNet
from utils.data import from_arrays
from utils.metric_learning import MarginLoss
from utils.metrics import cmc, mean_average_precision


def draw_signs(first, last, n_each=20, preprocess=None, transform=None):
    """Draw the signs of some numbers, each `n_each` times; 24 x 24 pixels, y is the number."""
    pictures = []
    for sign in range(first, last):
        draw = np.random.default_rng(sign)
        strokes = draw.uniform(-0.7, 0.7, (3, 3, 2))  # three lines of three points
        for _ in range(n_each):
            angle = draw.normal(0, 0.3)
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            points = (strokes + draw.normal(0, 0.05, strokes.shape)) @ turn
            points = points * draw.uniform(0.75, 1.1) + draw.normal(0, 0.1, 2)
            picture = Image.new("L", (96, 96))
            for line in 48 * (1 + points):
                ImageDraw.Draw(picture).line([*map(tuple, line)], 255, width=8, joint="curve")
            pictures.append(np.asarray(picture.resize((24, 24), Image.Resampling.BOX)))
    x, y = np.stack(pictures)[..., None], np.repeat(np.arange(first, last), n_each)
    return from_arrays(x, y, "embedding", preprocess, transform)


train_config = {
    "SESSION_NAME": "metric_learning",
    "EPOCHS": 15,
    "NUM_THREADS": 1,  # so small a network is no faster with more
    # EDIT: data
    "TASK": "embedding",
    "PREPROCESS": {"scale": 1 / 255},  # 0..255 to 0..1; travels in the weights file
    "TRAIN_DATASET": draw_signs,
    "TRAIN_DATASET_CONFIG": {"first": 0, "last": 100},
    "VAL_DATASET": draw_signs,
    "VAL_DATASET_CONFIG": {"first": 100, "last": 150},  # signs that the training does not have
    "DATA_LOADER_CONFIG": {"batch_size": 64, "per_class": 4},  # 16 signs, 4 pictures of each
    # EDIT: model
    "MODEL": ConvNet,
    "MODEL_CONFIG": {"ch_in": 1, "n_classes": 64, "bulk_ch": 16, "n_blocks": 3},  # 64 numbers
    # EDIT: training
    "LOSS": MarginLoss,  # its weights, a direction for each sign, are trained as well
    "LOSS_CONFIG": {"embedding_size": 64, "num_classes": 100, "scale": 16.0},
    "OPTIMIZER": torch.optim.AdamW,
    "OPTIMIZER_CONFIG": {"lr": 2e-3},
    "ONE_CYCLE": True,  # the rate rises to lr, then falls to zero at the end of EPOCHS
    "METRICS": {"cmc": cmc, "map": mean_average_precision},
    "MONITOR": "val_cmc_1",  # not val_loss: this loss knows the signs of the training alone
    "MONITOR_MODE": "max",
}
