"""Tell ten kinds of things in small photographs: CIFAR-10 and a ResNet-18 for 32 x 32 pixels.

    python train.py experiments/cifar10.py

The first time torchvision downloads the data, 170 MB, into DATA_DIR. Two percent of the training
pictures are held out for validation; the test pictures are looked at once, at the end.

The recipe is meant for a GPU: the network of He et al. (https://arxiv.org/abs/1512.03385) with the
stem for small pictures, SGD with momentum under the one-cycle schedule of Smith and Topin
(https://arxiv.org/abs/1708.07120), mixed precision. Trained in full, networks of this kind reach
94 to 95 % on the test pictures; what this kit has measured stands in docs/experiments.rst.

For pictures in folders, train/cat/1.jpg and test/cat/2.jpg, take ClassFolder instead:

    dataset, train, test = ClassFolder, {"root": "train"}, {"root": "test"}
"""

import torch
from torch import nn

from models.zoo import classifier
from utils.data import TorchvisionDataset
from utils.metrics import accuracy

# EDIT: data. Roots start at DATA_DIR. For folders of pictures see above.
dataset = TorchvisionDataset
train = {"name": "CIFAR10", "root": "cifar10", "train": True}
test = {"name": "CIFAR10", "root": "cifar10", "train": False}
held_out = 0.02  # of the training pictures, for validation

train_config = {
    "SESSION_NAME": "cifar10",
    "EPOCHS": 30,
    "TASK": "multiclass",
    "PREPROCESS": {  # mean and std of the training pictures
        "scale": 1 / 255,
        "mean": [0.491, 0.482, 0.447],
        "std": [0.247, 0.243, 0.262],
    },
    "TRAIN_DATASET": dataset,
    "TRAIN_DATASET_CONFIG": {
        **train,
        "holdout": held_out,
        "subset": "train",
        "transform": "light",  # mirrored, and moved by up to 3 pixels
    },
    "VAL_DATASET": dataset,
    "VAL_DATASET_CONFIG": {**train, "holdout": held_out, "subset": "val"},
    "TEST_DATASET": dataset,
    "TEST_DATASET_CONFIG": test,
    "DATA_LOADER_CONFIG": {"batch_size": 128, "num_workers": 4, "pin_memory": True},
    # EDIT: model; any of models.zoo.CLASSIFIERS, the stem for small pictures for ResNets alone
    "MODEL": classifier,
    "MODEL_CONFIG": {"name": "resnet18", "small_images": True},
    # EDIT: training
    "LOSS": nn.CrossEntropyLoss,
    "LOSS_CONFIG": {"label_smoothing": 0.1},
    "OPTIMIZER": torch.optim.SGD,
    "OPTIMIZER_CONFIG": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    "PARAM_GROUPS": {"norm_and_bias": {"weight_decay": 0.0}},
    "ONE_CYCLE": True,  # the rate rises to lr, then falls to zero at the end of EPOCHS
    "MIXED_PRECISION": True,
    "CHANNELS_LAST": True,  # faster on a GPU with mixed precision
    "METRICS": {"accuracy": accuracy},
    "MONITOR": "val_accuracy",  # best.pth is from the epoch where this is best
    "MONITOR_MODE": "max",
}
