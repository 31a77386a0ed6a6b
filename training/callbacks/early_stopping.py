"""Stop when the monitored value no longer gets better."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from training.callbacks.base import Callback

if TYPE_CHECKING:
    from training.run import Run


class EarlyStopping(Callback):
    """Stop after `patience` validations in a row without a better MONITOR value."""

    def __init__(self, patience: int = 5) -> None:
        if patience < 1:
            raise ValueError(f"EarlyStopping: expected patience of at least 1, got {patience}.")
        self.patience = patience
        self.n_worse = 0

    def on_epoch_end(self, run: "Run", metrics: Mapping[str, float]) -> None:
        if run.monitor not in metrics:
            return  # not validated in this epoch
        self.n_worse = 0 if run.history.best_epoch == run.position.epoch else self.n_worse + 1
        if self.n_worse >= self.patience:
            run.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"n_worse": self.n_worse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n_worse = state["n_worse"]
