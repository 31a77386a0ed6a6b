"""Cell membranes.
"""

from functools import partial

import torch

from models import UNET
from utils.data import PairedFolder
from utils.data.transforms import flip, random_crop, rotate90
from utils.loss import dice_bce_sum
from utils.metrics import accuracy, f1, iou

slices = {
    "root": ".",
    "label_values": {0: 0, 255: 1},
    "holdout": ["5", "11", "17", "23", "29"],
}

train_config = {
    "SESSION_NAME": "membrane",
    "EPOCHS": 60,
    "TASK": "binary_segmentation",
    "CLASSES": ["cell"],
    "PREPROCESS": {"scale": 1 / 255, "mean": 0.495, "std": 0.173},
    "TRAIN_DATASET": PairedFolder,
    "TRAIN_DATASET_CONFIG": {
        **slices,
        "subset": "train",
        "transform": [partial(random_crop, size_px=256), flip, rotate90],
    },
    "VAL_DATASET": PairedFolder,
    "VAL_DATASET_CONFIG": {**slices, "subset": "val"},
    "DATA_LOADER_CONFIG": {"batch_size": 5},
    "MODEL": UNET,
    "MODEL_CONFIG": {"ch_in": 1, "ch_out": 1, "bulk_ch": 16, "n_recursions": 3},
    "LOSS": dice_bce_sum,
    "OPTIMIZER": torch.optim.AdamW,
    "OPTIMIZER_CONFIG": {"lr": 2e-3},
    "ONE_CYCLE": True,
    "METRICS": {"iou": iou, "f1": f1, "accuracy": accuracy},
    "MONITOR": "val_iou",
    "MONITOR_MODE": "max",
}
