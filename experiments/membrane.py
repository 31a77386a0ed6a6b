"""Find cells in electron micrographs: pictures and masks from two folders, random crops.

    python train.py experiments/membrane.py DATA_DIR=/path/to/membrane/train

DATA_DIR holds image/ and label/ with a file each per slice, of equal names: 0.png ... 29.png,
512 x 512, 8 bit, labels 0 on membranes and 255 inside of cells. They are those of the ISBI 2012
challenge (Arganda-Carreras et al., Frontiers in Neuroanatomy 2015,
https://doi.org/10.3389/fnana.2015.00142) and do not come with the kit.

For a folder of your own in this layout (x/ and y/ will do, too), copy this file and edit `slices`:
what is held out for validation, and what the values of your labels mean.

An epoch takes one random crop from each slice, 25 crops. For more of them raise EPOCHS, and
VALIDATE_EVERY with it, because every validation computes the slices held out as a whole.

To expect on two CPU cores, 50 epochs in 5 to 8 minutes, after the last epoch:

    val_iou 0.895   val_f1 0.945   val_accuracy 0.913
            0.782          0.878                0.782    for "cell" everywhere

A slice held out lies beside ones that were trained on; other tissue will be harder.
"""

from functools import partial

import torch

from models import UNET
from utils.data import PairedFolder
from utils.data.transforms import flip, random_crop, rotate90
from utils.loss import dice_bce_sum
from utils.metrics import accuracy, f1, iou

# EDIT: data; the same for training and validation
slices = {
    "root": ".",  # from DATA_DIR on
    "holdout": ["5", "11", "17", "23", "29"],  # names without suffix, or a share such as 0.2
    "label_values": {0: 0, 255: 1},  # on disk: in training; any other value is an error
}

train_config = {
    "SESSION_NAME": "membrane",
    "EPOCHS": 50,
    "TASK": "binary_segmentation",
    "CLASSES": ["cell"],  # what 1 means
    "PREPROCESS": {  # travels in the weights file, so predict.py does the same
        "channels": "gray",  # colour becomes grey
        "scale": 1 / 255,
        "mean": 0.497,  # after scaling, of the slices trained on; so is std
        "std": 0.173,
    },
    "TRAIN_DATASET": PairedFolder,
    "TRAIN_DATASET_CONFIG": {
        **slices,
        "subset": "train",  # all but the holdout
        # one after the other on (x, y), new in every epoch; a partial binds arguments
        "transform": [partial(random_crop, size_px=256), flip, rotate90],
    },
    "VAL_DATASET": PairedFolder,
    "VAL_DATASET_CONFIG": {**slices, "subset": "val"},  # whole slices
    "DATA_LOADER_CONFIG": {"batch_size": 2},
    # EDIT: model
    "MODEL": UNET,
    "MODEL_CONFIG": {"ch_in": 1, "ch_out": 1, "bulk_ch": 16, "n_recursions": 3},
    # EDIT: training
    "LOSS": dice_bce_sum,
    "OPTIMIZER": torch.optim.AdamW,
    "OPTIMIZER_CONFIG": {"lr": 2e-3},
    "ONE_CYCLE": True,  # the rate rises to lr, then falls to zero at the end of EPOCHS
    "CLIP_NORM": 1.0,  # tames the few large steps: a smoother way down
    "METRICS": {"iou": iou, "f1": f1, "accuracy": accuracy},  # of class 1; accuracy of all pixels
    "MONITOR": "val_iou",
    "MONITOR_MODE": "max",
}
