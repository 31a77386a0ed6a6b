"""The Ignite routine: two engines, and handlers at the borders of an epoch.

To change how a batch becomes a loss, edit the lines marked EDIT; `batch.x` is (N, ...), `batch.y`
what the dataset gives. An epoch is every batch of the training data, then the validation. Handlers
and metrics of Ignite's own are attached by `IGNITE_ATTACH`, a function of (trainer, evaluator).
"""

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Loss
from torch.nn import ELU

from config.config import global_config
from models.unet import UNET
from training.run import Run
from utils.data.loading import Batch
from utils.loss import f1, precision, recall, smooth_dice_loss

train_config = {
    "SESSION_NAME": "training-run",
    "ROUTINE_NAME": "ignite",
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
    "METRICS": {"f1": Loss(f1), "precision": Loss(precision), "recall": Loss(recall)},
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

        def train_step(engine: Engine, batch: Batch) -> float:
            run.begin_batch()
            with run.autocast():
                pred = run.model(batch.x)
                loss = run.loss(pred, batch.y)  # EDIT: forward pass and loss
            run.backward(loss)
            run.update()
            return run.end_batch(batch)

        def evaluate_step(engine: Engine, batch: Batch) -> tuple[Any, Any]:
            with run.autocast():
                pred = run.model(batch.x)
                loss = run.loss(pred, batch.y)  # EDIT: as above
            run.val_step(pred, batch.y, loss)
            return pred, batch.y

        trainer, evaluator = Engine(train_step), Engine(evaluate_step)
        if run.config["IGNITE_ATTACH"] is not None:
            run.config["IGNITE_ATTACH"](trainer, evaluator)

        @trainer.on(Events.EPOCH_STARTED)
        def begin_epoch() -> None:
            run.begin_epoch()

        @trainer.on(Events.EPOCH_COMPLETED)
        def validate_and_end_epoch() -> None:
            if run.validates():
                with run.validating() as loader:
                    evaluator.run(loader, epoch_length=len(loader))
            run.end_epoch()
            if run.should_stop:
                trainer.terminate()

        n_batches = len(run.train_loader)
        if run.position.batch == n_batches:  # resumed: stopped before the validation was done
            validate_and_end_epoch()
        if not run.is_over:
            done = run.position.epoch * n_batches + run.position.batch
            state = {"iteration": done, "max_epochs": run.n_epochs, "epoch_length": n_batches}
            trainer.load_state_dict(state)
            trainer.run(run.train_loader, run.n_epochs, epoch_length=n_batches)
        if run.test_loader is not None:
            with run.testing() as loader:
                evaluator.run(loader, epoch_length=len(loader))
        return run.result()
