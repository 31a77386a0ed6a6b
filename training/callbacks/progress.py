"""The progress bar and the epoch table of the terminal."""

import shlex
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from training.callbacks.base import Callback
from utils.distributed import world_size
from utils.torchutils import count_parameters

if TYPE_CHECKING:
    from training.run import Run

_WIDTH = 11  # columns of the epoch table
_REFRESH = 0.2  # seconds between two updates of the bar: the step pays for a clock, not for a bar


class Progress(Callback):
    """A bar while an epoch runs (on a terminal only), and a line of the table when it ends.

    Args:
        console: The terminal; None for no bar. The lines go to train.log in any case.
    """

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.bar: RichProgress | None = None
        self.columns: list[str] = []
        self.task = 0
        self.next_refresh = 0.0
        self.started = 0.0

    def on_start(self, run: "Run") -> None:
        run.say(
            f"{run.record.name}: {run.routine} on {_place(run)},"
            f" {count_parameters(run.module):,} parameters,"
            f" {len(run.train_loader)} batches per epoch; * marks the best {run.monitor} so far"
        )
        if self.console is not None and self.console.is_terminal:
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
            done, total = run.position.batch, len(run.train_loader)
            self.bar.reset(self.task, completed=done, total=total, description=title, loss="")

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
        cells = [f"{_short(name, values.get(name)):>{self._width(name)}}" for name in self.columns]
        run.say("".join(cells) + best)

    def on_end(self, run: "Run", result: Mapping[str, Any]) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        run.say(f"{result['status']} after {result['seconds']:.0f} seconds")
        if result["best_epoch"] is not None:
            value = result["best_value"]
            run.say(f"best {run.monitor} {value:.4g} in epoch {result['best_epoch']}")
        for name, value in result["test_metrics"].items():
            run.say(f"{name} {value:.4g}")
        paths = result["paths"]
        for name in ("best", "last", "log_dir", "table"):
            if name in paths:
                run.say(f"{name:>8}  {paths[name]}")
        if "best" in paths:
            weights = shlex.quote(paths["best"])
            run.say(f" predict  python predict.py -i FILES -o DIR --weights {weights}")

    @staticmethod
    def _width(name: str) -> int:
        return 6 if name == "epoch" else max(_WIDTH, len(name) + 2)


def _place(run: "Run") -> str:
    n = world_size()
    return str(run.device) if n == 1 else f"{n} processes, {run.device.type}"


def _short(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if name == "lr":
        return f"{value:.2e}"
    if name == "seconds":
        return f"{value:.1f}"
    return f"{value:.4g}" if abs(value) < 1e-3 or abs(value) >= 1e4 else f"{value:.4f}"
