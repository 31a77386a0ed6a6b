"""Handwritten digits of 8 x 8 pixels: a small classifier on real pictures, in seconds.

    python train.py experiments/digits.py

The pictures come with scikit-learn (`make env-dev`), so nothing is downloaded.
To expect:
"""

import torch
from torch import nn

from models import ConvNet
from utils.data import Digits
from utils.metrics import accuracy, f1

train_config = {
    "SESSION_NAME": "digits",
    "NUM_THREADS": 1,  # so small a network is no faster with more
    "TASK": "multiclass",
    "CLASSES": Digits.CLASSES,
    "PREPROCESS": Digits.PREPROCESS,  # 0..16 to 0..1, in training and by predict.py alike
    "TRAIN_DATASET": Digits,
    "TRAIN_DATASET_CONFIG": {"subset": "train"},
    "VAL_DATASET": Digits,
    "VAL_DATASET_CONFIG": {"subset": "val"},  # every fifth picture
    "DATA_LOADER_CONFIG": {"batch_size": 32},
    "MODEL": ConvNet,
    "MODEL_CONFIG": {"ch_in": 1, "n_classes": 10, "bulk_ch": 16, "n_blocks": 2},
    "LOSS": nn.CrossEntropyLoss,
    "OPTIMIZER": torch.optim.AdamW,
    "OPTIMIZER_CONFIG": {"lr": 5e-3},
    "ONE_CYCLE": True,
    "EPOCHS": 15,
    "METRICS": {"accuracy": accuracy, "f1": f1},
    "MONITOR": "val_accuracy",
    "MONITOR_MODE": "max",
}
