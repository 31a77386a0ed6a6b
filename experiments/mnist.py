"""Read handwritten digits: MNIST, 70,000 pictures of 28 x 28 pixels, and a small network.

    python train.py experiments/mnist.py
    python train.py experiments/mnist.py EPOCHS=1

The first time torchvision downloads the data, 12 MB, into DATA_DIR. For digits that need no
download see digits.py. FashionMNIST and KMNIST have the same form: change `name` and `root`, and
the network, if they are harder.
"""

from functools import partial

import torch
from torch import nn

from models import MNISTNet
from utils.data import TorchvisionDataset
from utils.data.presets import shift
from utils.metrics import accuracy

# EDIT: data. Roots start at DATA_DIR.
train = {"name": "MNIST", "root": "mnist", "train": True}
test = {"name": "MNIST", "root": "mnist", "train": False}

train_config = {
    "SESSION_NAME": "mnist",
    "EPOCHS": 5,
    "TASK": "multiclass",
    "PREPROCESS": {"scale": 1 / 255, "mean": 0.131, "std": 0.308},  # of the training pictures
    "TRAIN_DATASET": TorchvisionDataset,
    "TRAIN_DATASET_CONFIG": {
        **train,
        "holdout": 0.05,
        "subset": "train",
        "transform": partial(shift, share=0.1),  # not mirrored: a 2 would be none
    },
    "VAL_DATASET": TorchvisionDataset,
    "VAL_DATASET_CONFIG": {**train, "holdout": 0.05, "subset": "val"},
    "TEST_DATASET": TorchvisionDataset,  # looked at once, at the end
    "TEST_DATASET_CONFIG": test,
    "DATA_LOADER_CONFIG": {"batch_size": 64, "num_workers": 2},
    # EDIT: model
    "MODEL": MNISTNet,
    "MODEL_CONFIG": {},
    # EDIT: training
    "LOSS": nn.CrossEntropyLoss,
    "OPTIMIZER": torch.optim.AdamW,
    "OPTIMIZER_CONFIG": {"lr": 3e-3},
    "ONE_CYCLE": True,  # the rate rises to lr, then falls to zero at the end of EPOCHS
    "METRICS": {"accuracy": accuracy},
    "MONITOR": "val_accuracy",
    "MONITOR_MODE": "max",
}
