"""The base of all callbacks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from training.run import Run


class Callback:
    """Hears from a run; override what you need.

    The config names the class or a `functools.partial` of it, so that it can be captured:
    `"CALLBACKS": [partial(EarlyStopping, patience=5)]`. A callback may draw random numbers: the
    training does not depend on the global streams. An exception ends the run.
    """

    # pylint: disable-next=unused-argument; for those that derive from it
    def check(self, model: "nn.Module", config: Mapping[str, Any]) -> list[str]:
        """Return what keeps it from working with this model and config, a line for each problem.

        Called before anything is written; a problem ends the run.
        """
        return []

    def on_start(self, run: "Run") -> None:
        """Hear that the run's folders exist and the first epoch is about to begin."""

    def on_epoch_start(self, run: "Run") -> None:
        """Hear that an epoch begins; `run.position.epoch` counts from 0."""

    def on_batch_start(self, run: "Run") -> None:
        """Hear that a training batch is about to go through the model, which is in train mode."""

    def on_batch_end(self, run: "Run", loss: float) -> None:
        """Hear the loss of a training batch; the update of its window is done."""

    def on_validation_start(self, run: "Run") -> None:
        """Hear that the model is in eval mode and holds the averaged weights, if any."""

    def on_epoch_end(self, run: "Run", metrics: Mapping[str, float]) -> None:
        """Hear an epoch's `train_loss`, `val_loss` and `val_<metric>`.

        Set `run.should_stop = True` to make this epoch the last one.
        """

    def on_end(self, run: "Run", result: Mapping[str, Any]) -> None:
        """Hear the result, whatever the status: done, failed or interrupted."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know, as numbers, text and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
