"""Compare a digit with a number: two inputs, put together from named features.

    python train.py experiments/features.py

A sample is a picture of a handwritten digit (scikit-learn's, nothing is downloaded) and a number
from 0 to 9. Is the digit larger? Neither of the two inputs can tell alone.

What is known of a sample stands in a table, a row for each. SAMPLED_FEATURES names what is read of
it, and only that is read; `transforms` are functions that take features by name and return all
that is needed after them. In training the number is drawn anew in every epoch.

To make it yours: let `make_table` read your table, or give its file (`info_file`) instead of
`info`; sample FileFeature for files that a column names. See docs/features.rst.

To expect: half a minute of training; val_accuracy 0.958 after the last epoch, 361 of 377 samples.
To know the digit alone, without a mistake, would give 0.77, and so would the number.
"""

from functools import partial

import numpy as np
import torch
from torch import nn

from models import ConvNet
from utils.data import ColumnFeature, DatasetFeature, FeatureDataset
from utils.metrics import accuracy, f1


def make_table():
    """Return the table: which picture, the digit in it, and a number to compare it with."""
    import pandas as pd
    from sklearn.datasets import load_digits

    digits = load_digits().target
    numbers = np.random.default_rng(0).integers(0, 10, len(digits))
    return pd.DataFrame({"picture": range(len(digits)), "digit": digits, "number": numbers})


class Picture(DatasetFeature):
    """The picture of a digit, (8, 8, 1) float, 0..16."""

    name = "picture"

    def __init__(self, info, root=None):
        from sklearn.datasets import load_digits

        super().__init__(info, root)
        self.images = load_digits().images

    def read(self, index):
        return self.images[self.info.iloc[index]["picture"]][..., None]


def draw_number(**kwargs):
    """Draw another number; random draws follow from (seed, epoch, index)."""
    return {**kwargs, "number": np.random.randint(10)}


def compare(picture, digit, number, **kwargs):
    """Scale both inputs to 0..1, channels first, and say what is to be learnt of them."""
    return {
        "picture": np.moveaxis(picture / 16, -1, 0),
        "number": np.array([number / 9]),
        "is_larger": np.array([float(digit > number)]),
        **kwargs,
    }


class Comparer(nn.Module):
    """Looks at the picture, and compares what it has seen with the number.

    Args:
        bulk_ch: Channels of the first convolutions.
        n_seen: Numbers that describe a picture.
    """

    def __init__(self, bulk_ch: int = 16, n_seen: int = 16) -> None:
        super().__init__()
        self.look = ConvNet(ch_in=1, n_classes=n_seen, bulk_ch=bulk_ch, n_blocks=2)
        self.compare = nn.Sequential(nn.Linear(n_seen + 1, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return logits (N, 1) of `picture` (N, 1, 8, 8) and `number` (N, 1)."""
        seen = self.look(x["picture"])  # (N, n_seen)
        return self.compare(torch.cat([seen, x["number"]], dim=1))


# EDIT: data
data = {
    "info": make_table,
    "inputs": ["picture", "number"],  # x is a dict of these
    "target": "is_larger",  # y is the tensor itself
    "holdout": 0.2,  # of the rows, for validation
}

train_config = {
    "SESSION_NAME": "features",
    "EPOCHS": 20,
    "NUM_THREADS": 1,  # so small a network is no faster with more
    "TASK": "binary",
    "CLASSES": ["not larger", "larger"],
    "SAMPLED_FEATURES": [
        Picture,
        partial(ColumnFeature, column="digit"),
        partial(ColumnFeature, column="number"),
    ],
    "TRAIN_DATASET": FeatureDataset,
    "TRAIN_DATASET_CONFIG": {**data, "subset": "train", "transforms": [draw_number, compare]},
    "VAL_DATASET": FeatureDataset,
    "VAL_DATASET_CONFIG": {**data, "subset": "val", "transforms": compare},
    "DATA_LOADER_CONFIG": {"batch_size": 32},
    # EDIT: model
    "MODEL": Comparer,
    "MODEL_CONFIG": {"bulk_ch": 16},
    # EDIT: training
    "LOSS": nn.BCEWithLogitsLoss,
    "OPTIMIZER": torch.optim.AdamW,
    "OPTIMIZER_CONFIG": {"lr": 3e-3},
    "ONE_CYCLE": True,
    "METRICS": {"accuracy": accuracy, "f1": f1},
    "MONITOR": "val_accuracy",
    "MONITOR_MODE": "max",
}
