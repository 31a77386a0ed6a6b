"""Disks that fill up: an error that says so, the former file as it was, and it works again after.

    python -m tests.campaign.disk_full --repeats 10 --runs 5

A disk is full in two ways: by a limit on the size of files (RLIMIT_FSIZE), and as a small file
system in memory (tmpfs) filled to a few bytes. Mounting the latter needs root.
"""

import contextlib
import fcntl
import logging
import os
import random
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from config.keys import with_defaults
from tests.campaign.common import Figures, fork, list_temps, run_script, say, wait
from tests.test_training.common import bits, folders, make_config, rows, train
from train import main
from training.checkpoint import load_checkpoint, save_checkpoint
from training.record import Record
from training.resume import find_run
from utils.logging.console import logging_to
from utils.logging.csv import CsvTracker
from utils.torchutils import save_weights

WRITES = "writes refused, {}"
KEPT = "of these, the former file equal byte by byte, no other left, the next write good"
LOGS = "train.log not writable, and the program went on"
RUNS = "runs whose disk filled up: exit code 1 and a message"
RESUMED = "of these, gone on to equal bits once there was room"
SKIPPED = "ways to fill a disk that the machine lacked"
CONFIG = {"EPOCHS": 80, "CHECKPOINT": {"every_steps": 3}}
Full = Callable[..., contextlib.AbstractContextManager[None]]


def run(
    place: Path,
    repeats: int = 10,
    runs: int = 5,
    seed: int = 0,
    ways: Sequence[str] = ("limit", "tmpfs"),
) -> Figures:
    """Fill the disk under each kind of file, and under whole runs."""
    draw = random.Random(seed)
    names = [*map(WRITES.format, PARTS), KEPT, LOGS, RUNS, RESUMED, SKIPPED, "lost"]
    figures = dict.fromkeys(names, 0)
    whole = bits(train("pytorch", place / "whole", **CONFIG))
    for name in ways:
        disk, full = {"limit": (limited, limit_files), "tmpfs": (tmpfs, fill)}[name]
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(disk(place / name))
            except OSError as error:
                say(f"{name}: {error}")
                figures[SKIPPED] += 1
                continue
            for part in PARTS:
                for i in range(repeats):
                    refuse_write(folder / f"{part}-{i}", part, full, draw, figures)
                say(f"disk_full, {name}: {part}")
            for i in range(repeats):
                refuse_log(folder / f"log-{i}", full, figures)
            for i in range(runs):
                ends = fill_under_run(folder / f"run-{i}", full, draw, whole, figures)
                say(f"disk_full, {name}: run {i + 1}, {ends}")
    return figures


# ------------------------------------------------------------------------------ full disks


@contextlib.contextmanager
def limited(place: Path) -> Iterator[Path]:
    """Give a folder on the disk as it is."""
    place.mkdir()
    yield place


@contextlib.contextmanager
def limit_files(place: Path, room: int, pid: int = 0) -> Iterator[None]:
    """Let no file of a process grow beyond some bytes; Python ignores the signal for it."""
    former = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, former[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, former)


@contextlib.contextmanager
def tmpfs(place: Path) -> Iterator[Path]:
    """Mount a file system of 16 MB.

    Raises:
        OSError: The machine does not let this process mount.
    """
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"mount: expected root with CAP_SYS_ADMIN, got {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextlib.contextmanager
def fill(place: Path, room: int, pid: int = 0) -> Iterator[None]:
    """Fill the file system of a folder, and leave some bytes; pages make it a little less."""
    ballast = find_mount(place) / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(file.tell() - room)
    try:
        yield
    finally:
        ballast.unlink()


def find_mount(place: Path) -> Path:
    """Return the root of the file system that a folder is in."""
    return next(path for path in (place, *place.parents) if os.path.ismount(path))


# ------------------------------------------------------------------------------- each file


def write_metrics(folder: Path, size: int) -> None:
    """Write metrics.csv as a run does, with as many rows as there are bytes in one."""
    record = Record(with_defaults(make_config()), folders(folder), "pytorch")
    record.log_dir = folder
    record.write_metrics([{"epoch": 1, "train_loss": 0.1}] * (1 + size // 6))


PARTS: dict[str, Callable[[Path, int], None]] = {
    "checkpoint.pt": lambda folder, size: save_checkpoint({"x": torch.zeros(size // 4)}, folder),
    "best.pth": lambda folder, size: save_weights(
        folder / "best.pth", {"x": torch.zeros(size // 4)}, {"MODEL": "models.UNET"}
    ),
    "metrics.csv": write_metrics,
    "a row of experiments.csv": lambda folder, size: CsvTracker(folder / "experiments.csv").append(
        {"RUN": "x" * size}
    ),
    "a new column of experiments.csv": lambda folder, size: CsvTracker(
        folder / "experiments.csv"
    ).append({"RUN": "x", f"NEW_{size}": "y" * size}),
}


def refuse_write(
    folder: Path, part: str, full: Full, draw: random.Random, figures: Figures
) -> None:
    """Write a file, again on a full disk, and again when there is room."""
    write = PARTS[part]
    folder.mkdir()
    write(folder, 400)
    write(folder, 400)
    before = read_files(folder)
    size = draw.randrange(20_000, 200_000)
    try:
        with full(folder, draw.randrange(10_000)):
            write(folder, size)
    except OSError as error:
        is_told = error.strerror in ("No space left on device", "File too large")
    else:
        is_told = False
    figures[WRITES.format(part)] += is_told
    is_kept = read_files(folder) == before
    write(folder, size)
    is_kept &= max(map(len, read_files(folder).values())) > size // 2
    figures[KEPT] += is_kept
    figures["lost"] += not (is_told and is_kept)


def read_files(folder: Path) -> dict[str, bytes]:
    """Return what the files of a folder hold."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refuse_log(folder: Path, full: Full, figures: Figures) -> None:
    """Log a line, then some on a full disk, then one when there is room."""
    folder.mkdir()
    log = logging.getLogger("plumbline")
    output = open(os.devnull, "w", encoding="utf-8")
    with output, contextlib.redirect_stderr(output), logging_to(None, folder / "train.log"):
        log.info("before")
        with full(folder, 100):
            for _ in range(3):
                log.info("x" * 5000)
        log.info("after")
    lines = (folder / "train.log").read_text(encoding="utf-8").splitlines()
    is_good = lines[0] == "before" and lines[-1].endswith("after")
    figures[LOGS] += is_good
    figures["lost"] += not is_good


# --------------------------------------------------------------------------------- whole runs


def make_arguments(place: Path, *more: str) -> list[str]:
    """Write the config of a run and return the arguments of train.py for it."""
    config = place / "config.py"
    config.write_text(
        "from tests.test_training.common import make_config\n"
        f"train_config = make_config(**{CONFIG})\n"
    )
    names = ("LOG_DIR", "WEIGHT_DIR", "DATA_DIR")
    return [*(more or [str(config)]), *(f"{name}={folders(place)[name]}" for name in names)]


def start_run(arguments: list[str]) -> tuple[Any, int]:
    """Start train.py; return the process and the end of a pipe with all that it prints."""
    read, write = os.pipe()  # no file, which would have the limit as well
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 20)  # nobody reads before the end
    process = fork(call_train, arguments, output=write)
    os.close(write)
    return process, read


def call_train(arguments: list[str]) -> None:
    """Do as `python train.py` does, whose end by an exception has a traceback and exit code 1."""
    try:
        code = main(arguments)
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    sys.exit(code)


def fill_under_run(
    place: Path, full: Full, draw: random.Random, whole: tuple[str, bytes], figures: Figures
) -> str:
    """Fill the disk in the middle of a run; go on with it when there is room.

    Returns:
        What happened, in a few words.
    """
    place.mkdir()
    process, output = start_run(make_arguments(place))
    n_rows = draw.randrange(2, CONFIG["EPOCHS"] // 4)
    wait(process, until=lambda: count_epochs(place) >= n_rows)
    with full(place, draw.randrange(2000), process.pid):
        process.join(60)
        is_over = process.exitcode is not None
        if not is_over:
            process.kill()
            process.join()
    with open(output, encoding="utf-8") as pipe:
        message = pipe.read()
    is_told = "No space left on device" in message or "File too large" in message
    is_good = is_over and process.exitcode == 1 and is_told
    figures[RUNS] += is_good
    state = load_checkpoint(place / "weights" / find_run("latest", folders(place)))
    done = state["state"]["position"]["epoch"]
    process, output = start_run(make_arguments(place, "--resume", "latest"))
    process.join()
    os.close(output)
    is_equal = process.exitcode == 0 and get_bits(place) == whole and not list_temps(place)
    figures[RESUMED] += is_equal
    figures["lost"] += not (is_good and is_equal)
    return f"full after epoch {done}, exit {1 if is_good else message}, then {is_equal=}"


def count_epochs(place: Path) -> int:
    """Return how many epochs have ended."""
    return sum(len(rows(path)) for path in place.glob("logs/*/metrics.csv"))


def get_bits(place: Path) -> tuple[str, bytes]:
    """Return the bits of the one run in a folder."""
    name = find_run("latest", folders(place))
    paths = {"log_dir": place / "logs" / name, "last": place / "weights" / name / "last.pth"}
    return bits({"paths": paths})


if __name__ == "__main__":
    run_script(run)
