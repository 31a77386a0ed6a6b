"""Tell people how a run ended, and that it hangs."""

import faulthandler
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.errors import ConfigError, shorten
from training.callbacks.base import Callback
from training.callbacks.progress import list_commands, tabulate_result
from utils.logging.curves import draw_curves
from utils.notify import make_notifiers, tell
from utils.notify.delivery import DEADLINE
from utils.notify.watchdog import Watchdog

if TYPE_CHECKING:
    from training.run import Run

logger = logging.getLogger("plumbline")

_LINES = 30  # of train.log, in the mail of a run that failed


class Notify(Callback):
    """Sends one message when a run ends, however, and one each time it hangs.

    One that cannot be sent is a warning in the log, and delays the end by the deadline at most. A
    run that is killed by SIGKILL sends none.

    Args:
        receivers: Mail addresses, and `env:NAME` for a variable with URLs of other services. Those
            of the variable NOTIFY_URLS hear of the run in any case.
        stall_minutes: A run in which no batch has ended for so long hangs; longer than a
            validation. None never looks.
        draw: Called with the rows of the epochs, the best epoch and a title; gives a PNG.
        deadline: Seconds after which a message is given up.

    Raises:
        ConfigError: All that is wrong with the receivers, and all settings that are missing.
    """

    def __init__(
        self,
        receivers: str | Sequence[str],
        stall_minutes: float | None = None,
        draw: Callable[..., bytes] = draw_curves,
        deadline: float = DEADLINE,
    ) -> None:
        self.notifiers = make_notifiers(receivers, deadline)
        if stall_minutes is not None and not stall_minutes > 0:
            raise ConfigError(
                f"expected stall_minutes above 0, or None, got {shorten(stall_minutes)}. Change it."
            )
        self.stall_minutes, self.draw = stall_minutes, draw
        self.watchdog: Watchdog | None = None

    def on_start(self, run: "Run") -> None:
        if run.is_main and self.stall_minutes is not None:
            self.watchdog = Watchdog(
                60 * self.stall_minutes, lambda seconds: self._tell_stall(run, seconds)
            )
            self.watchdog.start()

    def on_epoch_start(self, run: "Run") -> None:
        self._hear()

    def on_batch_end(self, run: "Run", loss: float) -> None:
        self._hear()

    def on_validation_start(self, run: "Run") -> None:
        self._hear()

    def on_epoch_end(self, run: "Run", metrics: Mapping[str, float]) -> None:
        self._hear()

    def on_end(self, run: "Run", result: Mapping[str, Any]) -> None:
        if self.watchdog is not None:
            self.watchdog.stop()
            self.watchdog = None
        if run.is_main:
            self._tell(
                lambda: (describe_end(run, result), title_of_end(result), self._draw(run, result))
            )

    def _hear(self) -> None:
        if self.watchdog is not None:
            self.watchdog.heard = time.monotonic()

    def _tell_stall(self, run: "Run", seconds: float) -> None:
        silence = _duration(seconds)
        logger.warning("no batch has ended for %s", silence)
        subject = f"[plumbline] {run.record.name} hangs: no batch has ended for {silence}"
        self._tell(lambda: (describe_stall(run, silence), subject, None))

    def _draw(self, run: "Run", result: Mapping[str, Any]) -> bytes | None:
        rows = run.history.rows
        try:
            return self.draw(rows, result["best_epoch"], result["run"]) if rows else None
        except Exception as error:  # noqa: BLE001, a mail without a picture is better than none
            logger.debug("no picture in the mail: %s: %s", type(error).__name__, error)
            return None

    def _tell(self, make: Callable[[], tuple[str, str, bytes | None]]) -> None:
        try:
            tell(self.notifiers, *make())
        except Exception as error:  # noqa: BLE001, a message never ends a run
            logger.warning("no message sent: %s: %s", type(error).__name__, error)


# -------------------------------------------------------------------------------------- texts


def title_of_end(result: Mapping[str, Any]) -> str:
    """Return the subject for the end of a run."""
    text = f"after {result['epochs']} epochs"
    if result["status"] == "failed":
        text = result["error"]
    elif result["best_epoch"] is not None:
        text = _best(result)
    return f"[plumbline] {result['run']} {result['status']}: {text}"


def describe_end(run: "Run", result: Mapping[str, Any]) -> str:
    """Return the text for the end of a run: values, paths, what to do next, the error."""
    parts = [
        f"{result['run']} {result['status']} after {_duration(result['seconds'])}"
        f" on {socket.gethostname()}: {result['epochs']} of {run.n_epochs} epochs,"
        f" {result['steps']} updates, routine {result['routine']}"
    ]
    if result["best_epoch"] is not None:
        parts.append(_best(result))
    if result["error"] is not None:
        parts.append(result["error"])
    parts.append("\n".join(tabulate_result(result, run.intervals)))
    parts.append("\n".join(f"{name:>10}  {path}" for name, path in result["paths"].items()))
    commands = list_commands(run, result)
    parts.append("\n".join(f"{name:>10}  {command}" for name, command in commands.items()))
    if result["status"] == "failed":
        lines = _read_end(Path(run.record.log_dir, "train.log"))
        parts.append(f"The last lines of train.log:\n\n{lines}")
    return "\n\n".join(part for part in parts if part) + "\n"


def describe_stall(run: "Run", silence: str) -> str:
    """Return the text for a run that hangs, with the lines at which its threads are."""
    position = run.position
    epoch = min(position.epoch + 1, run.n_epochs)  # the test set comes after the last
    with tempfile.TemporaryFile() as file:  # faulthandler writes to a real file only
        faulthandler.dump_traceback(file)
        file.seek(0)
        stacks = file.read().decode("utf-8", "replace")
    return (
        f"No batch has ended for {silence} in {run.record.name}, process {os.getpid()} on"
        f" {socket.gethostname()}. It was in epoch {epoch} of {run.n_epochs}, after"
        f" batch {position.batch} of {len(run.train_loader)}.\n\n"
        "It is not stopped, and there is no other mail until batches have ended again.\n\n"
        f"Where its threads are, the main one last:\n\n{stacks}"
    )


def _best(result: Mapping[str, Any]) -> str:
    return f"best {result['monitor']} {result['best_value']:.4g} in epoch {result['best_epoch']}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _read_end(path: Path) -> str:
    """Return the last lines of a text file, of any size."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1000 * _LINES))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-_LINES:])
    except OSError as error:
        return f"({error})"
