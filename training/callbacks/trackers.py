"""Hand the values of each epoch to the trackers of the config."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from config.names import get_object
from training.callbacks.base import Callback

if TYPE_CHECKING:
    from training.run import Run

logger = logging.getLogger("plumbline")


class Trackers(Callback):
    """Calls `log(values, step)` and `close()` of every tracker; one that fails is left out.

    A tracker is made by calling the config's class or partial with the run. Where it has the hooks
    `on_validation_start(run)`, `on_picture(name, picture, step)` and `on_end(run, result)`, it
    hears these too.
    """

    def __init__(self, factories: Sequence[Any]) -> None:
        self.factories = factories
        self.trackers: list[Any] = []

    def on_start(self, run: "Run") -> None:
        for make in self.factories:
            try:
                # a name, as the command line gives it
                make = get_object(make) if isinstance(make, str) else make
                self.trackers.append(make(run))
            except Exception as error:  # noqa: BLE001, a tracker never stops a training
                _warn(make, error)

    def on_validation_start(self, run: "Run") -> None:
        self._tell("on_validation_start", run)

    def on_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Hand on a picture that another callback has made, (height, width, 3) uint8, RGB."""
        self._tell("on_picture", name, picture, step)

    def on_epoch_end(self, run: "Run", metrics: Mapping[str, float]) -> None:
        self._tell("log", {"lr": run.position.lr, **metrics, **run.figures}, run.position.step)

    def on_end(self, run: "Run", result: Mapping[str, Any]) -> None:
        self._tell("on_end", run, result)
        self._tell("close")

    def _tell(self, what: str, *args: Any) -> None:
        for tracker in list(self.trackers):
            if what.startswith("on_") and not hasattr(tracker, what):
                continue
            own = [dict(arg) if isinstance(arg, Mapping) else arg for arg in args]
            try:
                getattr(tracker, what)(*own)
            except Exception as error:  # noqa: BLE001, a tracker never stops a training
                _warn(tracker, error)
                self.trackers = [other for other in self.trackers if other is not tracker]
                if what != "close":
                    with contextlib.suppress(Exception):  # it has had its warning
                        tracker.close()


def _warn(tracker: Any, error: Exception) -> None:
    maker = getattr(tracker, "func", tracker)  # of a partial
    name = maker if isinstance(maker, str) else getattr(maker, "__name__", type(maker).__name__)
    logger.warning("tracker %s left out: %s: %s", name, type(error).__name__, error)
