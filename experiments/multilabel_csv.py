"""Tell which of several things a picture shows, none, one or more: a table with a column for each.

    python train.py experiments/multilabel_csv.py DATA_DIR=/path/to/train_dataset

DATA_DIR holds pictures of any sizes and two tables, which may also lie beside it:

    train_metadata.csv   image_path,class_0,class_1,class_2    images/train/1.jpg  2.jpg ...
    test_metadata.csv    image_path,class_0,class_1,class_2    images/test/1.jpg  2.jpg ...

A cell is 1 where the picture shows the class and 0 where it does not. All columns of numbers are
labels, whatever they are called: their names become CLASSES, and the network gets as many outputs.
Where there are other numbers, name the labels: "label_columns": ["class_0", "class_1"]. A fifth of
the first table is for validation; the second is looked at once, at the end.

For data of your own copy this file and edit the lines at the mark EDIT.

The first time the weights that torchvision has for ImageNet are downloaded, 45 MB. Without them,
or for pictures that are no photographs, MODEL_CONFIG.weights=None trains from nothing.
"""

from functools import partial

import torch
from torch import nn

from models.zoo import classifier
from training.callbacks import Ledger
from utils.data import ImageTable
from utils.metrics import accuracy, f1

# EDIT: data. Paths start at DATA_DIR, those in a table at the folder where they are found.
train = {"path": "train_metadata.csv", "holdout": 0.2}
test = {"path": "test_metadata.csv"}
# EDIT: how pictures become numbers: the middle of each, as the weights were trained, with the mean
# and std of ImageNet. Smaller is faster: {"short_side": 128, "crop": [112, 112]}. Where things at
# the edge count, keep the whole picture: {"size": [224, 224]} for short_side and crop
look = {"channels": "rgb", "short_side": 256, "crop": [224, 224], "scale": 1 / 255}
look |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

train_config = {
    "SESSION_NAME": "multilabel-csv",
    "EPOCHS": 20,
    "TASK": "multilabel",
    "PREPROCESS": look,  # travels in the weights file, so predict.py does the same
    "TRAIN_DATASET": ImageTable,
    "TRAIN_DATASET_CONFIG": {
        **train,
        "subset": "train",  # all but the holdout
        "transform": "medium",  # augmentation, new in every epoch: light, medium or hard
    },
    "VAL_DATASET": ImageTable,
    "VAL_DATASET_CONFIG": {**train, "subset": "val"},
    "TEST_DATASET": ImageTable,  # EDIT: without a second table remove both lines
    "TEST_DATASET_CONFIG": test,
    "DATA_LOADER_CONFIG": {"batch_size": 32, "num_workers": 2},
    # EDIT: model; any of models.zoo.CLASSIFIERS
    "MODEL": classifier,
    "MODEL_CONFIG": {"name": "resnet18", "weights": "DEFAULT"},
    # EDIT: training
    "LOSS": nn.BCEWithLogitsLoss,  # each label for itself, yes or no
    "OPTIMIZER": torch.optim.AdamW,
    "OPTIMIZER_CONFIG": {"lr": 5e-4},
    "ONE_CYCLE": True,  # the rate rises to lr, then falls to zero at the end of EPOCHS
    # over all labels; f1_each of each label, by its name
    "METRICS": {"f1": f1, "f1_each": partial(f1, average="none"), "accuracy": accuracy},
    "MONITOR": "val_f1",  # best.pth is from the epoch where this is best
    "MONITOR_MODE": "max",
    "CALLBACKS": [Ledger],  # at the end: which pictures are wrong, which classes are confused
}
