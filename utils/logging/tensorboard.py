"""TensorBoard: curves, sample pictures and the config of every run, side by side.

`tensorboard --logdir logs/tensorboard` shows them. A run writes them when its config says so:

    "TRACKERS": [TensorBoard]
    "TRACKERS": [partial(TensorBoard, pictures_every=1, n_pictures=8)]
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.codec import describe
from utils.data.loading import random_states_kept
from utils.logging.csv import flatten
from utils.logging.samples import draw_samples

logger = logging.getLogger("plumbline")


class TensorBoard:
    """A tracker that writes event files into LOG_DIR/tensorboard/<run>/.

    - Every epoch: losses, metrics, learning rates, gradient norm, seconds, share of data waits.
    - After the first validation and every `pictures_every` epochs: the same validation samples
      with what the network makes of them; of segmentations and classifications of pictures.
    - The worst samples, where CALLBACKS has a Ledger.
    - At the end: values of the best epoch and of the test set, and the config as `hparams`.

    A run that goes on writes into the same folder; what it had written beyond its checkpoint is
    hidden, so that no step is there twice.

    Args:
        run: The `training.run.Run` whose tracker it is; it is given by the run.
        pictures_every: Epochs between two pictures; 0 draws none.
        n_pictures: Samples in a picture, the first of the validation set.

    Raises:
        ImportError: The package tensorboard is not installed.
        ValueError: A number is below 0.
    """

    def __init__(self, run: Any, pictures_every: int = 5, n_pictures: int = 4) -> None:
        if min(pictures_every, n_pictures) < 0:
            raise ValueError(
                "TensorBoard: expected pictures_every and n_pictures of at least 0, got"
                f" {pictures_every} and {n_pictures}. 0 draws none."
            )
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ImportError(
                "TensorBoard: expected the package tensorboard, got none. Install the extra"
                " `tensorboard` (pip install tensorboard), or leave it out of TRACKERS."
            ) from error
        folder = Path(run.record.log_dir).parent / "tensorboard" / run.record.name
        # a resumed run writes again what it wrote after its checkpoint; between two epochs the step
        # of the checkpoint is the last one of the former epoch, whose values stay
        first_step = run.position.step + (run.position.batch == 0)
        self.writer = SummaryWriter(str(folder), purge_step=first_step)
        self.pictures_every, self.n_pictures = pictures_every, n_pictures
        self.next_picture = 0 if pictures_every and n_pictures else math.inf  # epoch from 0
        self.samples: Any = None  # a batch of the first ones
        self.has_logged = False

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write the values of an epoch."""
        self._write(values, step)
        self.has_logged = True

    def on_validation_start(self, run: Any) -> None:
        """Draw the samples; the model is in eval mode, with averaged weights, if any."""
        if run.position.epoch < self.next_picture:
            return
        self.next_picture = run.position.epoch + self.pictures_every
        try:
            picture = self._draw(run)
        except Exception as error:  # noqa: BLE001, the values are worth more than the pictures
            logger.warning("TensorBoard: no pictures: %s: %s", type(error).__name__, error)
            picture = None
        if picture is None:
            self.next_picture = math.inf
        else:
            self.writer.add_image("samples", picture, run.position.step, dataformats="HWC")

    def on_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Write a picture, (height, width, 3) uint8, such as the worst samples of a ledger."""
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def on_end(self, run: Any, result: Mapping[str, Any]) -> None:
        """Write what the run came to; one that was stopped may go on and writes it then."""
        if result["status"] != "done" or not self.has_logged:
            return
        best = {f"best_{name}": value for name, value in result["best_metrics"].items()}
        final = {**best, **result["test_metrics"]}
        self._write(final, result["steps"])
        self._write_config(run.record.plain, [*result["metrics"], *final])

    def close(self) -> None:
        """Write what is left, and end the writer's thread."""
        self.writer.close()

    def _write(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # a killed run keeps its epochs

    def _write_config(self, plain: Mapping[str, Any], metrics: list[str]) -> None:
        from torch.utils.tensorboard.summary import hparams

        config = flatten(describe(plain))
        # not `add_hparams`, which makes a folder and so a run of its own
        for summary in hparams(config, dict.fromkeys(metrics)):
            self.writer.file_writer.add_summary(summary)

    def _draw(self, run: Any) -> Any:
        """Return a picture of the samples, or None where there is nothing to draw."""
        task = run.config["TASK"]
        devices = [run.device] if run.device.type == "cuda" else []
        # the validation draws the numbers that it would draw without pictures
        with random_states_kept(), torch.random.fork_rng(devices), torch.no_grad():
            if self.samples is None:
                x, y = run.val_loader.first()
                if task is None or not all(isinstance(part, torch.Tensor) for part in (x, y)):
                    return None
                self.samples = x[: self.n_pictures].clone(), y[: self.n_pictures].clone()
            x, y = self.samples
            with run.autocast():
                logits = run.module(x)
        return draw_samples(x, y, logits.float(), task, run.config["CLASSES"])
