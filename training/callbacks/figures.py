"""What an epoch took, for those who show it: figures that are no part of the result."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from training.callbacks.base import Callback

if TYPE_CHECKING:
    from training.run import Run


class Waits:
    """The batches of a loader, and the seconds that were spent waiting for them.

    Waiting is all that happens between asking for a batch and getting it, the start of the workers
    included; what a framework does between two steps is not.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Any]:
        clock, asked = time.perf_counter, time.perf_counter()
        for batch in self.batches:
            self.seconds += clock() - asked
            yield batch
            asked = clock()
        self.seconds += clock() - asked


class Figures(Callback):
    """Fills `run.figures` at the end of an epoch, for the trackers and the epoch table.

    - `grad_norm`: norm of the gradient of the epoch's last update, before it was clipped; for
      several groups of parameters `lr_1`, `lr_2`, ... their learning rates then;
    - `seconds`: from the begin of the epoch, or of its resumed rest, to the end of its validation;
    - `data_wait`: share of these seconds in which the loop waited for training data, 0..1;
    - `bad_samples`: how many were left out so far, with ON_BAD_SAMPLE=skip.
    """

    def on_start(self, run: "Run") -> None:
        self.waits = run.train_loader.loader = Waits(run.train_loader.loader)
        self.started = time.perf_counter()  # a resumed epoch may have no batch left to begin with

    def on_epoch_start(self, run: "Run") -> None:
        self.waits.seconds = 0.0
        self.started = time.perf_counter()

    def on_epoch_end(self, run: "Run", metrics: Mapping[str, float]) -> None:
        seconds = time.perf_counter() - self.started
        waited = self.waits.seconds / seconds
        run.figures = {"seconds": seconds, "data_wait": waited, **run.last_update}
        if run.n_bad_samples is not None:
            run.figures["bad_samples"] = run.n_bad_samples
