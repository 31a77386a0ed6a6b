"""The learning curves of a run, as a picture in its folder."""

import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from training.callbacks.base import Callback
from utils.logging.curves import draw_curves
from utils.path import write_atomic

if TYPE_CHECKING:
    from training.run import Run

logger = logging.getLogger("plumbline")

_PAUSE = 60  # seconds at least between two pictures
_SHARE = 100  # and this many times what the last one took: it takes a third of a second, or more


class Curves(Callback):
    """Draws curves.png: at the end of a run, and of a long one about every minute.

    A picture that fails is the last one, and no run fails with it.
    """

    def __init__(self) -> None:
        self.due = math.inf

    def on_start(self, run: "Run") -> None:
        self.due = time.monotonic() + _PAUSE

    def on_epoch_end(self, run: "Run", metrics: Mapping[str, float]) -> None:
        if time.monotonic() >= self.due:
            self._draw(run)

    def on_end(self, run: "Run", result: Mapping[str, Any]) -> None:
        if self.due < math.inf and run.history.rows:
            self._draw(run)

    def _draw(self, run: "Run") -> None:
        started = time.monotonic()
        best_epoch = run.history.best_epoch
        try:
            picture = draw_curves(
                run.history.rows,
                None if best_epoch is None else best_epoch + 1,
                run.record.name,
            )
            write_atomic(run.record.log_dir / "curves.png", picture)
        except Exception as error:  # noqa: BLE001, a picture never stops a training
            logger.warning(
                "curves.png left out: %s: %s (CURVES=False draws none)",
                type(error).__name__,
                error,
            )
            self.due = math.inf
            return
        now = time.monotonic()
        self.due = now + max(_PAUSE, _SHARE * (now - started))
