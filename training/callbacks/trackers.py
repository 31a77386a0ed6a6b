"""Hand the values of each epoch to the trackers of the config."""

import logging
from collections.abc import Callable, Mapping, Sequence
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
        made = [self._try(make, lambda make: make(run)) for make in self.factories]
        self.trackers = [tracker for tracker in made if tracker is not None]

    def on_epoch_end(self, run: "Run", metrics: Mapping[str, float]) -> None:
        values = {"lr": run.position.lr, **metrics}
        for tracker in list(self.trackers):
            self._try(tracker, lambda tracker: tracker.log(dict(values), run.position.step))

    def on_end(self, run: "Run", result: Mapping[str, Any]) -> None:
        for tracker in list(self.trackers):
            self._try(tracker, lambda tracker: tracker.close())

    def _try(self, tracker: Any, use: Callable[[Any], Any]) -> Any:
        """Use a tracker, or the factory of one."""
        try:
            return use(tracker)
        except Exception as error:  # noqa: BLE001, a tracker never stops a training
            maker = getattr(tracker, "func", tracker)  # of a partial
            name = getattr(maker, "__name__", type(maker).__name__)
            logger.warning("tracker %s left out: %s: %s", name, type(error).__name__, error)
            self.trackers = [other for other in self.trackers if other is not tracker]
            return None
