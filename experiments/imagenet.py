"""Classify photographs by the recipe of torchvision's reference training: ImageNet, a ResNet-50.

    torchrun --nproc-per-node 8 train.py experiments/imagenet.py DATA_DIR=/path/to/imagenet

DATA_DIR holds a folder per class, train/n01440764/*.JPEG and val/n01440764/*.JPEG, as ImageNet's
extracted archives do; it does not come with the kit and is not downloaded. Any other folder of
folders will do: the classes, and with them the outputs of the network, follow from it.

The recipe is that of torchvision's second weights for this network (Vryniotis, How to Train State-
Of-The-Art Models Using TorchVision's Latest Primitives, 2021,
https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives):
TrivialAugment, random erasing, MixUp and CutMix, label smoothing, no weight decay on norms,
averaged weights, crops of 176 pixels in training and 224 in validation. It differs in three points:
one cycle of the rate stands for linear warm-up and cosine; samples are not repeated within an
epoch; 100 epochs, not 600. The rate of 0.5 is for 8 processes of 128 pictures each; with fewer of
them lower it in proportion, or raise ACCUMULATE. The kit's authors have not trained it in full.
"""

from functools import partial

import torch
from torch import nn
from torchvision.transforms import v2

from models.zoo import classifier
from utils.data import ClassFolder
from utils.metrics import accuracy

train_config = {
    "SESSION_NAME": "imagenet",
    "EPOCHS": 100,
    # EDIT: data. Roots start at DATA_DIR.
    "TASK": "multiclass",
    "PREPROCESS": {
        "channels": "rgb",  # a few pictures are gray
        "short_side": 232,
        "crop": [224, 224],
        "scale": 1 / 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
    "TRAIN_DATASET": ClassFolder,
    "TRAIN_DATASET_CONFIG": {
        "root": "train",
        # the crop takes the place of PREPROCESS's own
        "transform": [
            partial(v2.RandomResizedCrop, size=176, antialias=True),
            v2.RandomHorizontalFlip,
            v2.TrivialAugmentWide,
            partial(v2.RandomErasing, p=0.1),
        ],
    },
    "VAL_DATASET": ClassFolder,
    "VAL_DATASET_CONFIG": {"root": "val"},
    "DATA_LOADER_CONFIG": {"batch_size": 128, "num_workers": 8, "pin_memory": True},
    "BATCH_TRANSFORM": v2.RandomChoice,  # one of both for each batch
    "BATCH_TRANSFORM_CONFIG": {
        "transforms": [partial(v2.MixUp, alpha=0.2), partial(v2.CutMix, alpha=1.0)]
    },
    "ON_BAD_SAMPLE": "skip",  # a torn file among a million stops no run; it is named and counted
    # EDIT: model; any of models.zoo.CLASSIFIERS
    "MODEL": classifier,
    "MODEL_CONFIG": {"name": "resnet50"},
    # EDIT: training
    "LOSS": nn.CrossEntropyLoss,
    "LOSS_CONFIG": {"label_smoothing": 0.1},
    "OPTIMIZER": torch.optim.SGD,
    "OPTIMIZER_CONFIG": {"lr": 0.5, "momentum": 0.9, "weight_decay": 2e-5},
    "PARAM_GROUPS": {"norm_and_bias": {"weight_decay": 0.0}},
    "SCHEDULER": torch.optim.lr_scheduler.OneCycleLR,
    "SCHEDULER_CONFIG": {"pct_start": 0.05, "div_factor": 100, "cycle_momentum": False},
    "SCHEDULER_INTERVAL": "step",
    "EMA": 0.9999,
    "MIXED_PRECISION": True,
    "CHANNELS_LAST": True,
    "METRICS": {"accuracy": accuracy, "top5": partial(accuracy, k=5)},
    "MONITOR": "val_accuracy",
    "MONITOR_MODE": "max",
}
