"""Hand the values of each epoch to the trackers of the config."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from training.callbacks.base import Callback

if TYPE_CHECKING:
    from training.run import Run

logger = logging.getLogger("plumbline")


class Trackers(Callback):
    """Calls `log(values, step)` and `close()` of every tracker; one that fails is left out.

    A tracker is made by calling the config's class or partial with the run.
    """

    def __init__(self, factories: Sequence[Any]) -> None:
        self.factories = factories
        self.trackers: list[Any] = []

    def on_start(self, run: "Run") -> None:
        self.trackers = [t for t in (self._try(make, run) for make in self.factories) if t]

    def on_epoch_end(self, run: "Run", metrics: Mapping[str, float]) -> None:
        values = {"lr": run.position.lr, **metrics}
        for tracker in list(self.trackers):
            self._try(tracker.log, values, run.position.step, tracker=tracker)

    def on_end(self, run: "Run", result: Mapping[str, Any]) -> None:
        for tracker in list(self.trackers):
            self._try(tracker.close, tracker=tracker)

    def _try(self, call: Any, *args: Any, tracker: Any = None) -> Any:
        try:
            return call(*args)
        except Exception as error:  # noqa: BLE001, a tracker never stops a training
            name = (
                type(tracker).__name__ if tracker is not None else getattr(call, "__name__", call)
            )
            logger.warning("tracker %s left out: %s: %s", name, type(error).__name__, error)
            if tracker in self.trackers:
                self.trackers.remove(tracker)
            return None
