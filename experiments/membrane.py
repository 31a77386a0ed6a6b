"""Find cells in electron micrographs: pictures and masks from two folders, random crops.

    python train.py experiments/membrane.py DATA_DIR=/path/to/membrane/train

DATA_DIR holds image/ and label/ with a file each per slice, of equal names: 0.png ... 29.png,
512 x 512, 8 bit, labels 0 on membranes and 255 inside of cells. They are those of the ISBI 2012
challenge (Arganda-Carreras et al., Frontiers in Neuroanatomy 2015,
https://doi.org/10.3389/fnana.2015.00142) and do not come with the kit.

For a folder of your own copy this file and edit the three lines at the mark EDIT: the folder and
what is held out for validation, how pixels become numbers, what there is to find. For example

    slices = {"image_dir": "img", "mask_dir": "ann", "holdout": 0.2, "label_values": {0: 0, 255: 1}}
    look = {"scale": 1 / 255, "size": [256, 256]}  # where the sizes of the pictures differ
    n_bands, task, classes, loss = 3, "binary_segmentation", ["road"], losses.dice_bce_sum

or, of arrays with four bands and masks that hold the numbers 0 to 4, in x/ and y/:

    slices = {"root": ".", "holdout": 0.2}
    look = {}
    n_bands, task, classes, loss = 4, "multiclass_segmentation", list("abcde"), losses.FocalLoss

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
from utils import loss as losses
from utils.data import PairedFolder
from utils.data.transforms import flip, random_crop, rotate90
from utils.metrics import accuracy, f1, iou

# EDIT: data. Folders start at DATA_DIR. Held out are names without suffix, or a share such as 0.2.
# Labels are those on disk: in training. Mean and std are those of the slices trained on, scaled.
held_out = ["5", "11", "17", "23", "29"]
slices = {"root": ".", "holdout": held_out, "label_values": {0: 0, 255: 1}}
look = {"channels": "gray", "scale": 1 / 255, "mean": 0.497, "std": 0.173}
n_bands, task, classes, loss = 1, "binary_segmentation", ["cell"], losses.dice_bce_sum

train_config = {
    "SESSION_NAME": "membrane",
    "EPOCHS": 50,
    "TASK": task,
    "CLASSES": classes,  # of one class: what 1 means
    "PREPROCESS": look,  # travels in the weights file, so predict.py does the same
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
    "MODEL_CONFIG": {"ch_in": n_bands, "ch_out": len(classes), "bulk_ch": 16, "n_recursions": 3},
    # EDIT: training
    "LOSS": loss,
    "OPTIMIZER": torch.optim.AdamW,
    "OPTIMIZER_CONFIG": {"lr": 2e-3},
    "ONE_CYCLE": True,  # the rate rises to lr, then falls to zero at the end of EPOCHS
    "CLIP_NORM": 1.0,  # tames the few large steps: a smoother way down
    "METRICS": {"iou": iou, "f1": f1, "accuracy": accuracy},  # of class 1; accuracy of all pixels
    "MONITOR": "val_iou",
    "MONITOR_MODE": "max",
}
