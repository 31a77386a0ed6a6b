"""The Lightning routine: a LightningModule that optimises by hand, and a Trainer.

To change how a batch becomes a loss, edit the lines marked EDIT; `batch.x` is (N, ...), `batch.y`
what the dataset gives. An epoch is every batch of the training data, then the validation. Callbacks
of Lightning's own are added by `LIGHTNING_CALLBACKS`; an epoch's values are logged for them.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.nn import ELU

from config.config import global_config
from models.unet import UNET
from training.run import Run
from training.state import Position
from utils.data.loading import Batch
from utils.loss import f1, precision, recall, smooth_dice_loss

train_config = {
    "SESSION_NAME": "training-run",
    "ROUTINE_NAME": "lightning",
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
    with Run(training_config, global_config, __name__, train_dataset, val_dataset) as run, tamed():
        device = torch.empty(0, device=run.device).device  # `cuda` with its index
        trainer = RunTrainer(
            accelerator=device.type,
            devices=1 if device.type == "cpu" else [device.index],
            plugins=LightningEnvironment(),  # a cluster's would check its tasks and catch signals
            max_epochs=run.n_epochs,
            callbacks=run.config["LIGHTNING_CALLBACKS"],
            default_root_dir=run.record.log_dir,
            inference_mode=False,
            # off: the Run's own business
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        steps = Steps(run)
        if not run.is_over:
            start_at(trainer, run.position, len(run.train_loader))
            val_loader = Batches(run.val_loader) if run.val_loader else None
            trainer.fit(steps, run.train_loader, val_loader)
        if run.test_loader is not None:
            with run.testing() as loader:
                trainer.test(steps, Batches(loader), verbose=False)
        return run.result()


class Steps(LightningModule):
    """Forward pass and loss; leads the Trainer's hooks to the Run."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.model, self.loss = run.model, run.loss
        self.automatic_optimization = False

    def training_step(self, batch: Batch) -> torch.Tensor:
        self.run.begin_batch()
        with self.run.autocast():
            pred = self.model(batch.x)
            loss = self.loss(pred, batch.y)  # EDIT: forward pass and loss
        self.run.backward(loss)
        self.run.update()
        self.run.end_batch(batch)
        return loss

    def validation_step(self, batch: Batch) -> None:
        with self.run.autocast():
            pred = self.model(batch.x)
            loss = self.loss(pred, batch.y)  # EDIT: as above
        self.run.val_step(pred, batch.y, loss)

    test_step = validation_step

    def on_train_epoch_start(self) -> None:
        self.run.begin_epoch()
        self.trainer.limit_val_batches = float(self.run.validates())  # all or none

    def on_validation_epoch_start(self) -> None:
        self.run.begin_validation()

    def on_validation_epoch_end(self) -> None:
        self.run.end_validation()

    def on_train_epoch_end(self) -> None:
        self.run.end_epoch()
        self.log_dict(self.run.result()["metrics"])
        self.trainer.should_stop |= self.run.should_stop

    def configure_optimizers(self) -> None:
        """Return none: the Run steps its own."""

    def transfer_batch_to_device(self, batch: Batch, *_: Any) -> Batch:
        """Return the batch as it is: the loader has put it on the device."""
        return batch

    def cpu(self) -> "Steps":
        """Do nothing: at the end of `fit` the model would be taken off the GPU."""
        return self


class RunTrainer(Trainer):
    """A Trainer that leaves SIGTERM to the Run, which first fills the accumulation window."""

    received_sigterm = False


class Batches:
    """A loader without the sampler, from which Lightning would conclude that it is torch's own."""

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.loader)


def start_at(trainer: Trainer, position: Position, n_batches: int) -> None:
    """Let `fit` begin at the position of a resumed run.

    Lightning does so from a checkpoint of its own only. These are the counters that it would load:
    they are not public, and tested with 2.6.
    """
    epochs, batches = trainer.fit_loop.epoch_progress, trainer.fit_loop.epoch_loop.batch_progress
    epochs.increment_by(position.epoch)
    batches.increment_by(position.batch)
    if position.batch > 0:  # an epoch that was ready: it starts, and its batches count as done
        epochs.increment_ready()
        trainer.fit_loop.restarting = True
    if position.batch == n_batches:  # a validation that was started: it is done first
        validation = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        validation.increment_ready()
        validation.increment_started()


@contextlib.contextmanager
def tamed() -> Iterator[None]:
    """Silence Lightning's banners and what it finds odd in `Steps`, and let Ctrl-C be Ctrl-C."""
    names = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer")
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for log in levels:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            known = ".*(returned `None`|no `val_dataloader`|GPU available|in eval mode|LeafSpec)"
            warnings.filterwarnings("ignore", known, module="lightning")
            yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise stop.__context__ from None
        raise
    finally:
        for log, level in levels.items():
            log.setLevel(level)
