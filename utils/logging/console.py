"""What a run shows: lines for the terminal and train.log, a bar for the terminal alone."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

logger = logging.getLogger("plumbline")


class ConsoleHandler(logging.Handler):
    """Prints log lines through rich, above a running progress bar, errors and warnings too."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class LineFormatter(logging.Formatter):
    """Plain messages; a warning or an error says so."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"{record.levelname.lower()}: {text}" if record.levelno > logging.INFO else text


def make_console() -> Console:
    """Return a console for the standard output of this moment."""
    return Console(file=sys.stdout)


@contextmanager
def logging_to(console: Console | None, path: Path | None = None) -> Iterator[None]:
    """Send the kit's log lines to a console and a file while the block runs."""
    handlers: list[logging.Handler] = []
    if console is not None:
        handlers.append(ConsoleHandler(console))
    if path is not None:
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
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
        logger.level, logger.propagate = former
