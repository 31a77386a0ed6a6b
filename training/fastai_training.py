"""The fastai routine: a Learner, and one callback that leads its events to the Run.

The Learner calls model and loss. To change the loss of a batch, edit the line marked EDIT in
`after_loss`: `self.xb[0]` is (N, ...), `self.yb[0]` what the dataset gives, `self.pred` what the
model gave. An epoch is every batch of the training data, then the validation. Callbacks of fastai's
own are added by `FASTAI_CBS`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from fastai.callback.core import (  # pylint: disable=no-name-in-module; made at import
    Callback,
    CancelEpochException,
    CancelFitException,
    CancelValidException,
    TrainEvalCallback,
)
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from torch.nn import ELU

from config.config import global_config
from models.unet import UNET
from training.run import Run
from utils.data.loading import Batch
from utils.loss import f1, precision, recall, smooth_dice_loss

train_config = {
    "SESSION_NAME": "training-run",
    "ROUTINE_NAME": "fastai",
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
    "LR": 1e-2,
    "ONE_CYCLE": True,
    "MIXED_PRECISION": False,
    "EPOCHS": 100,
    "LOSS": smooth_dice_loss,
    "METRICS": [f1, precision, recall],
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
        loaders = Tuples(run.train_loader), Tuples(run.val_loader or ())
        dls = DataLoaders(*loaders, device=run.device)  # without it fastai takes its own
        dls.n_inp = 1
        learn = Learner(
            dls,
            run.model,
            loss_func=run.loss,
            opt_func=lambda params, lr: RunOptimizer(run),
            cbs=[TrainEvalCallback(), Bridge(run), *run.config["FASTAI_CBS"]],
            default_cbs=False,  # no Recorder: it averages over batches, and the Run has the values
        )
        if not run.is_over:
            learn.fit(run.n_epochs)
        if run.test_loader is not None:
            with run.testing() as loader:
                for batch in loader:
                    with run.autocast():
                        pred = learn.model(batch.x)
                        loss = learn.loss_func(pred, batch.y)  # EDIT: as in after_loss
                    run.val_step(pred, batch.y, loss)
        return run.result()


class Bridge(Callback):
    """Leads the Learner's events to the Run, which is `kit` here: `run` is fastai's own switch."""

    def __init__(self, kit: Run) -> None:
        super().__init__()
        self.kit = kit
        self.autocast = kit.autocast()

    def before_epoch(self) -> None:
        if self.epoch < self.kit.position.epoch:
            raise CancelEpochException  # resumed: done before
        self.kit.begin_epoch()

    def before_batch(self) -> None:
        if self.training:
            self.kit.begin_batch()
        self.autocast.__enter__()

    def after_loss(self) -> None:
        self.learn.loss = self.learn.loss_grad  # EDIT: add to loss_grad, for example a penalty
        self.autocast.__exit__(None, None, None)

    def before_backward(self) -> None:
        self.learn.loss_grad = self.kit.scaled(self.learn.loss_grad)

    def after_batch(self) -> None:
        if self.training:
            self.kit.end_batch(Batch(self.xb[0], self.yb[0]))
        else:
            self.kit.val_step(self.pred, self.yb[0], self.loss)

    def before_validate(self) -> None:
        if not self.kit.validates():
            raise CancelValidException
        self.kit.begin_validation()

    def after_validate(self) -> None:
        self.kit.end_validation()

    def after_epoch(self) -> None:
        if self.epoch < self.kit.position.epoch:
            return
        self.kit.end_epoch()
        if self.kit.should_stop:
            raise CancelFitException


class RunOptimizer(OptimWrapper):
    """The Run's optimizer, whose hyperparameters and state fastai leaves alone."""

    def __init__(self, kit: Run) -> None:
        super().__init__(opt=kit.optimizer)
        self.kit = kit

    def step(self) -> None:
        self.kit.update()

    def zero_grad(self) -> None:
        """Do nothing: `update` does it at the end of an accumulation window."""

    def set_hypers(self, **hypers: Any) -> None:
        """Do nothing: `fit` would write its own learning rate."""

    def clear_state(self) -> None:
        """Do nothing: a resumed run brings its state."""


class Tuples:
    """The Run's batches as plain tuples, which fastai can slice and rebuild."""

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.loader:
            yield tuple(batch)

    def to(self, _: torch.device) -> "Tuples":
        """Do nothing: the Run's batches are on its device."""
        return self
