"""What a run shows: lines for the terminal and train.log, a bar for the terminal alone."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

logger = logging.getLogger("plumbline")


class ConsoleHandler(logging.Handler):
    """Prints log lines through rich, above a running progress bar, errors and warnings too."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


class LogFile(logging.FileHandler):
    """Writes log lines to a file; where it cannot, on a full disk, it says so once and goes on."""

    has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, its name in logging
        if not self.has_failed:
            self.has_failed = True
            logger.warning("%s: %s. Lines are missing there.", self.baseFilename, sys.exception())

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # what was still in its buffer
            if not self.has_failed:
                logger.warning("%s: %s. Lines are missing there.", self.baseFilename, error)


class LineList(logging.Handler):
    """Keeps log lines in a list."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.INFO)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class LineFormatter(logging.Formatter):
    """Plain messages; a warning or an error says so."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"{record.levelname.lower()}: {text}" if record.levelno > logging.INFO else text


class SteadyOutput:
    """A text stream that ends no run: not when its reader goes, not by a letter it cannot write.

    The reader of `train.py | tee` goes at Ctrl-C, a terminal when its window is closed.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        encoding = self.stream.encoding or "utf-8"
        self._try(self.stream.write, text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, call: Any, *args: str) -> None:
        try:
            call(*args)
        except OSError:
            # what is left in the buffer goes nowhere, or Python fails on it when it ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def make_console() -> Console:
    """Return a console for the standard output of this moment."""
    return Console(file=SteadyOutput(sys.stdout))


@contextmanager
def logging_to(console: Console | None, path: Path | None = None) -> Iterator[None]:
    """Send the kit's log lines to a console and a file while the block runs."""
    handlers: list[logging.Handler] = []
    if console is not None:
        handlers.append(ConsoleHandler(console))
    if path is not None:
        handlers.append(LogFile(path, encoding="utf-8", errors="backslashreplace"))
    with _sent_to(handlers or [logging.NullHandler()]):  # without any, Python prints warnings
        yield


@contextmanager
def logging_into(lines: list[str]) -> Iterator[None]:
    """Keep the kit's log lines while the block runs, for a log that is not open yet."""
    with _sent_to([LineList(lines)]):
        yield


@contextmanager
def _sent_to(handlers: Sequence[logging.Handler]) -> Iterator[None]:
    former = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in handlers:
        handler.setFormatter(LineFormatter())
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(former[0])
        logger.propagate = former[1]
