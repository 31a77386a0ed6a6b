"""The progress bar, the epoch table and the end of a run, in the terminal and in train.log."""

import logging
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from torch import nn

from config.config import global_config
from training.callbacks.base import Callback
from utils.distributed import world_size
from utils.torchutils import count_parameters

if TYPE_CHECKING:
    from training.run import Run

logger = logging.getLogger("plumbline")

_ROOM = 100  # width of the epoch table where there is no terminal
_IF_ROOM = ("lr", "seconds", "step", "grad_norm", "data_wait")  # the others are always shown
_WIDTHS = {"epoch": 6, "step": 8, "seconds": 9, "data_wait": 6}
_WIDTH = 10  # at least, of the other columns
_HEADS = {"data_wait": "wait"}
_REFRESH = 0.2  # seconds between two updates of the bar: the step pays for a clock, not for a bar


class Progress(Callback):
    """A bar while an epoch runs (on a terminal only), and a line of the table when it ends.

    Columns that the terminal has no room for go to train.log alone.

    Args:
        console: The terminal; None for no bar. The lines go to train.log in any case.
    """

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.is_terminal = console is not None and console.is_terminal
        self.bar: RichProgress | None = None
        self.names: dict[str, None] = {}  # all that there have been so far
        self.columns: list[str] = []
        self.epoch_seconds: list[float] = []
        self.task = 0
        self.next_refresh = 0.0

    def on_start(self, run: "Run") -> None:
        n_batches = len(run.train_loader)
        run.say(f"{run.record.name}: {run.routine} on {_place(run)}, {n_batches} batches per epoch")
        run.say(f"{_describe_model(run.module)}; * marks the best {run.monitor}")
        if self.is_terminal:
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
        values |= {**metrics, **run.figures}
        self.epoch_seconds.append(values["seconds"])
        if not values.keys() <= self.names.keys():
            self.names |= dict.fromkeys(values)
            self.columns = choose_columns(values, self.console.width if self.is_terminal else _ROOM)
            run.say("".join(f"{_HEADS.get(name, name):>{_width(name)}}" for name in self.columns))
        best = " *" if run.history.best_epoch == run.position.epoch else ""
        cells = [f"{_short(name, values.get(name)):>{_width(name)}}" for name in self.columns]
        run.say("".join(cells) + best)
        rest = [f"{k} {_short(k, value)}" for k, value in values.items() if k not in self.columns]
        if rest:
            logger.debug("epoch %d: %s", values["epoch"], ", ".join(rest))

    def on_end(self, run: "Run", result: Mapping[str, Any]) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        said = f"{result['status']} after {_duration(result['seconds'])}"
        if self.epoch_seconds:
            mean = sum(self.epoch_seconds) / len(self.epoch_seconds)
            said += f", {_duration(mean)} per epoch"
        run.say(said)
        for line in tabulate_result(result, run.intervals):
            run.say(line)
        if run.n_bad_samples:
            said = f"left out {run.n_bad_samples} samples that could not be read"
            run.say(f"{said}; see bad_samples.csv")
        paths = dict(result["paths"])
        for file in ("curves.png", "samples.csv", "worst.png"):
            path = Path(paths["log_dir"], file)
            if path.exists():
                paths[path.stem] = str(path)
        for name in ("best", "last", "curves", "samples", "worst", "log_dir", "table"):
            if name in paths:
                run.say(f"{name:>8}  {paths[name]}")
        for name, command in list_commands(run, result).items():
            run.say(f"{name:>8}  {command}")


def choose_columns(names: Collection[str], room: int) -> list[str]:
    """Return the columns of the epoch table, in the order given, that fit into so many letters."""
    columns = {name for name in names if name not in _IF_ROOM and not name.startswith("lr_")}
    left = room - sum(map(_width, columns)) - len(" *")
    for name in _IF_ROOM:
        if name in names and _width(name) <= left:
            columns.add(name)
            left -= _width(name)
    return [name for name in names if name in columns]


def tabulate_result(
    result: Mapping[str, Any], intervals: Mapping[str, Sequence[float]] | None = None
) -> list[str]:
    """Return the lines of a table: the values of the best and of the last epoch.

    Those of the test set are of the best weights, and so are the intervals.
    """
    best, last, test = result["best_metrics"], result["metrics"], result["test_metrics"]
    rows = {name: (best.get(name), last.get(name)) for name in last | best}
    rows |= {name: (value, None) for name, value in test.items()}
    if not rows:
        return []
    titles = {name: f"{name} *" if name == result["monitor"] else name for name in rows}
    width = max(map(len, titles.values()))
    head = f"{'interval of best':>20}" if intervals else ""
    lines = [
        f"{'':{width}}{'best':>12}{'last':>12}{head}",
        f"{'epoch':{width}}{result['best_epoch'] or '':>12}{result['epochs']:>12}",
    ]
    for name, cells in rows.items():
        line = f"{titles[name]:{width}}{''.join(f'{_short(name, c):>12}' for c in cells)}"
        bounds = ", ".join(_short(name, value) for value in (intervals or {}).get(name, ()))
        lines.append(f"{line}{f'[{bounds}]':>20}" if bounds else line)
    return [line.rstrip() for line in lines]


def list_commands(run: "Run", result: Mapping[str, Any]) -> dict[str, str]:
    """Return the commands for what comes next, by what they do: to be pasted into a shell."""
    paths, commands = result["paths"], {}
    if "best" in paths:
        weights = shlex.quote(str(Path(paths["best"]).resolve()))
        commands["predict"] = f"python predict.py -i FILES -o DIR --weights {weights}"
    if "checkpoint" in paths and result["status"] != "done":
        folders = [
            f" {name}={shlex.quote(str(Path(run.record.folders[name]).resolve()))}"
            for name in ("LOG_DIR", "WEIGHT_DIR", "DATA_DIR")
            if run.record.folders[name] != global_config[name]
        ]
        commands["resume"] = f"python train.py --resume {result['run']}{''.join(folders)}"
    return commands


def _describe_model(module: nn.Module) -> str:
    n_all, n_trainable = sum(p.numel() for p in module.parameters()), count_parameters(module)
    trainable = "" if n_trainable == n_all else f", {n_trainable:,} of them trainable"
    return f"{type(module).__name__}: {n_all:,} parameters{trainable}"


def _place(run: "Run") -> str:
    n = world_size()
    return str(run.device) if n == 1 else f"{n} processes, {run.device.type}"


def _duration(seconds: float) -> str:
    """Return seconds below 100 as such, more as h:mm:ss."""
    return f"{seconds:.2g} s" if seconds < 99.5 else str(timedelta(seconds=round(seconds)))


def _width(name: str) -> int:
    return _WIDTHS.get(name, max(_WIDTH, len(name) + 2))


def _short(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if name.startswith("lr"):
        return f"{value:.2e}"
    if name == "seconds":
        return f"{value:.1f}"
    if name == "data_wait":
        return f"{value:.0%}"
    if 1e-3 <= abs(value) < 100:
        return f"{value:.4f}"
    return f"{value:.4g}" if 100 <= abs(value) < 1e4 else f"{value:.3g}"
