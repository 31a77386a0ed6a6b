"""The progress bar and the epoch table of the terminal."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from training.callbacks.base import Callback

if TYPE_CHECKING:
    from training.run import Run

_WIDTH = 11  # columns of the epoch table
_REFRESH = 0.2  # seconds between two updates of the bar: the step pays for a clock, not for a bar


class Progress(Callback):
    """A bar while an epoch runs (on a terminal only), and a line of the table when it ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: RichProgress | None = None
        self.columns: list[str] = []
        self.task = 0
        self.next_refresh = 0.0
        self.started = 0.0

    def on_start(self, run: "Run") -> None:
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[loss]}"),
            )
            self.bar = RichProgress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("", loss="")
            self.bar.start()

    def on_epoch_start(self, run: "Run") -> None:
        self.started = time.monotonic()
        if self.bar is not None:
            title = f"epoch {run.position.epoch + 1}/{run.n_epochs}"
            self.bar.reset(self.task, total=len(run.train_loader), description=title, loss="")

    def on_batch_end(self, run: "Run", loss: float) -> None:
        if self.bar is None or time.monotonic() < self.next_refresh:
            return
        self.next_refresh = time.monotonic() + _REFRESH
        self.bar.update(self.task, completed=run.position.batch, loss=f"loss {loss:.4g}")

    def on_validation_start(self, run: "Run") -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=run.position.batch, loss="validating")

    def on_epoch_end(self, run: "Run", metrics: Mapping[str, float]) -> None:
        values = {"epoch": run.position.epoch + 1, "step": run.position.step, "lr": run.position.lr}
        values |= {**metrics, "seconds": time.monotonic() - self.started}
        if not set(values) <= set(self.columns):
            self.columns = list(values)
            run.say("".join(f"{name:>{self._width(name)}}" for name in self.columns))
        best = " *" if run.history.best_epoch == run.position.epoch else ""
        cells = [
            f"{_short(values.get(name)):>{self._width(name)}}" for name in self.columns
        ]
        run.say("".join(cells) + best)

    def on_end(self, run: "Run", result: Mapping[str, Any]) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    @staticmethod
    def _width(name: str) -> int:
        return 6 if name == "epoch" else max(_WIDTH, len(name) + 2)


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e-3 or abs(value) >= 1e4 else f"{value:.4f}"
    return str(value)
