"""Cats and dogs by their photographs: 37 breeds, cat or dog, or the outline of the animal.

    python train.py experiments/pets.py

What is asked is one line at the mark EDIT: breed, species or outline. The first time torchvision
downloads the Oxford-IIIT Pet Dataset, 800 MB, into DATA_DIR (Parkhi et al., Cats and Dogs, 2012,
https://doi.org/10.1109/CVPR.2012.6248092), and the weights for ImageNet, 45 MB, from which the
network starts. For pets of your own, a folder per class, see cifar10.py and ClassFolder.
"""

import torch
from torch import nn

from models.zoo import classifier, segmenter
from utils.data import TorchvisionDataset
from utils.metrics import accuracy, f1, iou

# EDIT: what is asked: breed, species (cat or dog) or outline (each pixel: background, animal, edge)
asked = "breed"

task, target = {
    "breed": ("multiclass", "category"),
    "species": ("binary", "binary-category"),
    "outline": ("multiclass_segmentation", "segmentation"),
}[asked]
of_pixels = asked == "outline"
metrics = {"iou": iou, "accuracy": accuracy} if of_pixels else {"accuracy": accuracy, "f1": f1}
pets = {"name": "OxfordIIITPet", "root": "pets", "target_types": target}
if of_pixels:
    # on disk 1 is the animal, 2 the background, 3 the edge between
    pets |= {"label_values": {2: 0, 1: 1, 3: 2}, "classes": ["background", "animal", "edge"]}

train_config = {
    "SESSION_NAME": f"pets-{asked}",
    "EPOCHS": 20,
    "TASK": task,
    "PREPROCESS": {  # as the weights were trained
        "channels": "rgb",
        "scale": 1 / 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        **({"size": [256, 256]} if of_pixels else {"short_side": 256, "crop": [224, 224]}),
    },
    "TRAIN_DATASET": TorchvisionDataset,
    "TRAIN_DATASET_CONFIG": {
        **pets,
        "split": "trainval",
        "holdout": 0.1,
        "subset": "train",
        "transform": "medium",  # augmentation, new in every epoch: light, medium or hard
    },
    "VAL_DATASET": TorchvisionDataset,
    "VAL_DATASET_CONFIG": {**pets, "split": "trainval", "holdout": 0.1, "subset": "val"},
    "TEST_DATASET": TorchvisionDataset,  # looked at once, at the end
    "TEST_DATASET_CONFIG": {**pets, "split": "test"},
    "DATA_LOADER_CONFIG": {"batch_size": 16 if of_pixels else 32, "num_workers": 4},
    # EDIT: model; any of models.zoo.CLASSIFIERS or SEGMENTERS
    "MODEL": segmenter if of_pixels else classifier,
    "MODEL_CONFIG": {
        "name": "lraspp_mobilenet_v3_large" if of_pixels else "resnet18",
        "weights": "DEFAULT",
    },
    # EDIT: training
    "LOSS": nn.BCEWithLogitsLoss if asked == "species" else nn.CrossEntropyLoss,
    "OPTIMIZER": torch.optim.AdamW,
    "OPTIMIZER_CONFIG": {"lr": 5e-4},
    "ONE_CYCLE": True,  # the rate rises to lr, then falls to zero at the end of EPOCHS
    "MIXED_PRECISION": True,
    "METRICS": metrics,
    "MONITOR": "val_iou" if of_pixels else "val_accuracy",
    "MONITOR_MODE": "max",
}
