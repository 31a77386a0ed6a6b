"""Find water and buildings in scenes that the kit draws itself: a first run, to copy.

    python train.py                                this file; needs no data
    python train.py EPOCHS=3 --routine ignite      any key can be given here, too

To make it yours: `cp experiments/scenes.py experiments/mine.py`, edit the copy at the marks EDIT,
run `python train.py experiments/mine.py`. Whatever is called (NAME) has its keyword arguments
beside it (NAME_CONFIG); import a class or a function of your own above and name it like those
here. All keys: `python train.py --help`.

To expect on two CPU cores: about a minute; the training loss falls from 1.34 to 0.11, val_f1 rises
from 0.55 to 0.984, and on the test scenes, which nothing was chosen by, test_f1 is 0.986.
"""

import torch

from models import UNET
from utils.data import SyntheticScenes
from utils.loss import dice_bce_sum
from utils.metrics import f1, precision, recall

train_config = {
    "SESSION_NAME": "scenes",  # the run is called <start time>_scenes
    "ROUTINE_NAME": "pytorch",  # or ignite, fastai (`make env-dev`): the same result
    "SEED": 0,  # weights and order of the data follow from it
    "EPOCHS": 12,
    # EDIT: data. For pictures and masks in files see experiments/membrane.py
    "TASK": "multilabel_segmentation",  # yes or no per pixel and class; see utils/data/tasks.py
    "CLASSES": SyntheticScenes.CLASSES,  # water, buildings: the output channels, in order
    "TRAIN_DATASET": SyntheticScenes,
    "TRAIN_DATASET_CONFIG": {"n_scenes": 400, "size_px": 64, "seed": 0},
    "VAL_DATASET": SyntheticScenes,  # watched every epoch; chooses best.pth
    "VAL_DATASET_CONFIG": {"n_scenes": 60, "size_px": 64, "seed": 1},  # other seed, other scenes
    "TEST_DATASET": SyntheticScenes,  # looked at once, at the end
    "TEST_DATASET_CONFIG": {"n_scenes": 60, "size_px": 64, "seed": 2},
    "DATA_LOADER_CONFIG": {"batch_size": 8, "num_workers": 0},  # 0: these scenes lie in memory
    # EDIT: model
    "MODEL": UNET,
    "MODEL_CONFIG": {
        "ch_in": 12,  # bands
        "ch_out": 2,  # classes
        "bulk_ch": 8,  # channels at full size, doubled at each level below
        "n_recursions": 3,  # levels below, each at half the size
    },
    # EDIT: training
    "LOSS": dice_bce_sum,  # loss(pred, target), pred being logits
    "OPTIMIZER": torch.optim.AdamW,
    "OPTIMIZER_CONFIG": {"lr": 2e-3},
    "ONE_CYCLE": True,  # the rate rises to lr, then falls to zero at the end of EPOCHS
    "CLIP_NORM": 1.0,  # tames the few large steps: a smoother way down
    "METRICS": {"f1": f1, "precision": precision, "recall": recall},  # of the whole validation set
    "MONITOR": "val_f1",  # best.pth is from the epoch where this is best
    "MONITOR_MODE": "max",
}
