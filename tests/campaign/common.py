"""What the scripts of the campaign share: forked processes, figures, the command line."""

import argparse
import inspect
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

# a fork has all modules loaded: starting Python with Lightning takes 10 s
CONTEXT = multiprocessing.get_context("fork")
POLL = 2e-4  # [s]
PATIENCE = 300  # [s] a process that takes longer hangs
Figures = dict[str, int]  # what was done, how many times; "lost" is what must be 0


def fork(target: Callable[..., Any], *args: Any, output: int | None = None) -> BaseProcess:
    """Start a function in a forked process.

    Args:
        target: The function.
        args: Its arguments.
        output: A file descriptor that takes what the process prints.
    """

    def run() -> None:
        torch.set_num_threads(1)  # OpenMP would wait for threads that no fork takes along
        if output is not None:
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = open(output, "w", encoding="utf-8")  # pytest has others
        target(*args)

    process = CONTEXT.Process(target=run)
    process.start()
    return process


def wait(
    process: BaseProcess, seconds: float = PATIENCE, until: Callable[[], bool] | None = None
) -> None:
    """Wait some time [s] or until something is so, and no longer than the process lives."""
    end = time.monotonic() + seconds
    # a `join` with a limit does not do: after an exec it waits without one
    while time.monotonic() < end and not (until and until()) and process.is_alive():
        time.sleep(POLL)


def kill(process: BaseProcess) -> bool:
    """Send SIGKILL to a process; False when it had ended before."""
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def list_temps(folder: Path) -> list[Path]:
    """Return the temporary files below a folder: what a write that was cut short leaves."""
    return list(folder.rglob("*.tmp"))


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, flush=True)


def run_script(run: Callable[..., Figures]) -> None:
    """Run a script's function; exit with 1 if anything was lost.

    The function's arguments that are numbers are the options.
    """
    parser = argparse.ArgumentParser(description=run.__doc__)
    for name, option in inspect.signature(run).parameters.items():
        if isinstance(option.default, int):
            parser.add_argument(f"--{name}", type=int, default=option.default, help="[%(default)s]")
    figures = run_in_temp(run, **vars(parser.parse_args()))
    print(", ".join(f"{name}: {count:,}" for name, count in figures.items()))
    sys.exit(1 if figures["lost"] else 0)


def run_in_temp(run: Callable[..., Figures], **options: int) -> Figures:
    """Run a script's function in a folder that goes afterwards."""
    logging.getLogger("plumbline").addHandler(logging.NullHandler())  # warnings are expected
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return run(Path(folder), **options)
