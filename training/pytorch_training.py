"""The raw PyTorch routine: the loop that you read once, top to bottom.

To change how a batch becomes a loss, edit the lines marked EDIT; `batch.x` is (N, ...), `batch.y`
what the dataset gives. An epoch is every batch of the training data, then the validation. To try
another loop, copy this file to training/<name>_training.py and run it with `--routine <name>`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import ELU

from config.config import global_config
from models.unet import UNET
from training.run import Run
from utils.data.loading import Loader
from utils.loss import f1, precision, recall, smooth_dice_loss

train_config = {
    "SESSION_NAME": "training-run",
    "ROUTINE_NAME": "pytorch",
    "TASK": "multilabel_segmentation",  # data: DATA_DIR/{train,val}/{x,y}, equal file names
    "MODEL": UNET,
    "MODEL_CONFIG": {
        "ch_in": 12,
        "ch_out": 2,
        "n_recursions": 3,
        "dropout": 0.2,
        "use_shuffle": True,
        "activ": ELU,
    },
    "DATA_LOADER_CONFIG": {"batch_size": 8, "shuffle": True, "num_workers": 2},
    "OPTIMIZER": torch.optim.SGD,
    "OPTIMIZER_CONFIG": {"lr": 1e-3, "momentum": 0.9},
    "EPOCHS": 100,
    "LOSS": smooth_dice_loss,
    "METRICS": {"f1": f1, "precision": precision, "recall": recall},
    "SEED": 0,
}


def train(
    train_dataset: Any = None,
    val_dataset: Any = None,
    training_config: Mapping[str, Any] = train_config,
    global_config: Mapping[str, Any] = global_config,
) -> dict[str, Any]:
    """Train the config's model and return the run's result; see docs/routines for its keys.

    Args:
        train_dataset: Dataset of (x, y), or None for the one that the config names.
        val_dataset: Likewise; with a `train_dataset`, None trains without validation.
        training_config: The config; it is not changed.
        global_config: Folders for data, weights and logs.
    """
    with Run(training_config, global_config, __name__, train_dataset, val_dataset) as run:
        for _ in run.epochs():
            run.begin_epoch()
            for batch in run.train_loader:
                run.begin_batch()
                with run.autocast():
                    pred = run.model(batch.x)
                    loss = run.loss(pred, batch.y)  # EDIT: forward pass and loss
                run.backward(loss)
                run.update()
                run.end_batch(batch)
            if run.validates():
                with run.validating() as loader:
                    evaluate(run, loader)
            run.end_epoch()
        if run.test_loader is not None:
            with run.testing() as loader:
                evaluate(run, loader)
        return run.result()


def evaluate(run: Run, loader: Loader) -> None:
    """Add every batch to the metrics; the model is in eval mode and keeps no gradients."""
    for batch in loader:
        with run.autocast():
            pred = run.model(batch.x)
            loss = run.loss(pred, batch.y)  # EDIT: as above
        run.val_step(pred, batch.y, loss)
