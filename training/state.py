"""The parts of a run's state. Each has `state_dict` and `load_state_dict`, as torch's own have."""

import contextlib
import math
import os
import signal
import threading
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Position:
    """Where a run is.

    Attributes:
        epoch: Finished epochs.
        batch: Finished batches of the epoch in work.
        step: Updates in all.
        lr: Learning rate of the last update; NaN before the first.
        should_stop: The epoch in work, or the finished one, is the last.
        skipped: [epoch, window] of the update that is left out because it gave NaN; or None.
    """

    def __init__(self) -> None:
        self.epoch = self.batch = self.step = 0
        self.lr = math.nan
        self.should_stop = False
        self.skipped: list[int] | None = None

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


class LossMean:
    """Mean loss over samples, in double precision on the host."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total, self.n_samples = 0.0, 0

    def add(self, loss: float, n_samples: int) -> None:
        """Add the mean loss of a batch."""
        self.total += loss * n_samples
        self.n_samples += n_samples

    def mean(self) -> float:
        """Return the mean over all samples so far; NaN without any."""
        return self.total / self.n_samples if self.n_samples else math.nan

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


class History:
    """A row per epoch, and which epoch was the best (the first of equal ones)."""

    def __init__(self, monitor: str, mode: str) -> None:
        self.monitor, self.sign = monitor, 1.0 if mode == "max" else -1.0
        self.rows: list[dict[str, Any]] = []
        self.best_epoch: int | None = None  # counted from 0

    def add(self, row: dict[str, Any]) -> bool:
        """Add an epoch's row; True when it is the best so far."""
        self.rows.append(row)
        value = row.get(self.monitor, math.nan)
        former = self.best.get(self.monitor, -self.sign * math.inf)
        if math.isnan(value) or self.sign * value <= self.sign * former:
            return False
        self.best_epoch = len(self.rows) - 1
        return True

    @property
    def best(self) -> dict[str, Any]:
        """The row of the best epoch; empty when there is none."""
        return {} if self.best_epoch is None else self.rows[self.best_epoch]

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows, self.best_epoch = state["rows"], state["best_epoch"]


class Average:
    """Exponential moving average of the weights (Polyak & Juditsky, 1992).

    Batch norm's running statistics are averages already and are shared with the model.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.params = [p for p in module.parameters() if p.is_floating_point()]
        self.averages = [p.detach().clone() for p in self.params]
        self._move = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the weights."""
        self._move(self.averages, self.params, 1)

    def swap(self) -> None:
        """Exchange weights and averages; a second call undoes it. Costs no copy."""
        for i, param in enumerate(self.params):
            param.data, self.averages[i] = self.averages[i], param.data

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self.averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for average, loaded in zip(self.averages, state["averages"], strict=True):
            average.copy_(loaded)


class RunInterrupted(BaseException):  # noqa: N818, no error: it passes every `except Exception`
    """Ctrl-C or SIGTERM ended the run; the state is saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}, the state is saved")
        self.exit_code = 128 + signal_number


class StopSignals:
    """Notes Ctrl-C and SIGTERM, so that the update in work can end; a second one quits at once.

    Python allows handlers in the main thread only; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._former: dict[int, Any] = {}

    def install(self) -> None:
        """Catch the two signals."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)

    def remove(self) -> None:
        """Put the former handlers back."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _note(self, number: int, _frame: types.FrameType | None) -> None:
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # a handler runs between any two lines: no logging, its lock may be held; and Ctrl-C has
        # ended the reader of `train.py 2>&1 | tee` as well
        with contextlib.suppress(OSError):
            os.write(2, b"\nsaving the state after this update; once more to quit at once\n")
