"""Room on the disk: what runs take, and what of it can go.

Only files of runs go, below LOG_DIR and WEIGHT_DIR, and none of a run that is being trained. The
table keeps its rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from config.errors import ConfigError
from utils.path import remove_dirs
from utils.runs.folder import RunFolder, is_held
from utils.runs.query import read_number
from utils.runs.show import list_files


class Removal(NamedTuple):
    """What is to go of a run.

    Attributes:
        run: The run.
        files: Single files in its folder of weights.
        folders: Whole folders, each with the folder of the `global_config` that it must lie below.
        why: The reason, in a word or two.
    """

    run: RunFolder
    files: tuple[Path, ...]
    folders: tuple[tuple[Path, Path], ...]
    why: str

    @property
    def n_bytes(self) -> int:
        """What it frees."""
        whole = [size for path, _ in self.folders for _, size in list_files(path)]
        return sum(path.lstat().st_size for path in self.files) + sum(whole)


def plan_checkpoints(runs: Iterable[RunFolder]) -> list[Removal]:
    """Return the states for resume of runs that are done."""
    return [
        Removal(run, files, (), "done")
        for run in runs
        if run.status == "done" and (files := _files(run, "checkpoint*.pt"))
    ]


def plan_failed(runs: Iterable[RunFolder]) -> list[Removal]:
    """Return weights and states of runs that failed."""
    return [
        Removal(run, files, (), "failed")
        for run in runs
        if run.status == "failed" and (files := _files(run, "*.pth", "checkpoint*.pt"))
    ]


def plan_all_but_best(
    runs: Sequence[RunFolder], column: str, mode: str, n_kept: int
) -> list[Removal]:
    """Return weights and states of the runs that are done, but not of the best.

    Args:
        runs: All runs.
        column: Column of the table that tells which is best; runs without a value in it stay.
        mode: "min" or "max".
        n_kept: How many of the best stay.
    """
    values = {run: read_number(run.row.get(column, "")) for run in runs if run.status == "done"}
    ranked = [run for run, value in values.items() if value is not None]
    ranked.sort(key=lambda run: values[run], reverse=mode == "max")
    return [
        Removal(run, files, (), f"{column} {values[run]:.4g}")
        for run in ranked[n_kept:]
        if (files := _files(run, "*.pth", "checkpoint*.pt"))
    ]


def plan_whole(runs: Iterable[RunFolder], folders: Mapping[str, Any]) -> list[Removal]:
    """Return all folders of runs: logs, event files of TensorBoard, weights."""
    log_dir, weight_dir = Path(folders["LOG_DIR"]), Path(folders["WEIGHT_DIR"])
    removals = []
    for run in runs:
        places = (
            (run.weight_dir, weight_dir),
            (log_dir / "tensorboard" / run.name, log_dir),
            (run.log_dir, log_dir),
        )
        found = tuple((path, below) for path, below in places if path.is_dir())
        if found:
            removals.append(Removal(run, (), found, "named"))
    return removals


def _files(run: RunFolder, *patterns: str) -> tuple[Path, ...]:
    found = {path for pattern in patterns for path in run.weight_dir.glob(pattern)}
    return tuple(sorted(path for path in found if path.is_file() and not path.is_symlink()))


def merge(removals: Iterable[Removal]) -> list[Removal]:
    """Return one removal for each run; that of the whole run holds the others.

    Of several reasons the last one stays.
    """
    merged: dict[str, Removal] = {}
    for removal in removals:
        former = merged.get(removal.run.name)
        if former is None or removal.folders:
            merged[removal.run.name] = removal
        elif not former.folders:
            files = tuple(sorted({*former.files, *removal.files}))
            merged[removal.run.name] = removal._replace(files=files)
    return list(merged.values())


def split_held(removals: Iterable[Removal]) -> tuple[list[Removal], list[Removal]]:
    """Return the removals of runs that have ended, and those of runs that are being trained."""
    free, held = [], []
    for removal in removals:
        (held if is_held(removal.run.log_dir) else free).append(removal)
    return free, held


def remove(removals: Iterable[Removal], weight_dir: Path) -> list[str]:
    """Delete; the lock of each run is held while it is done.

    Args:
        removals: What goes.
        weight_dir: The folder that holds the folders of single files.

    Returns:
        What was left, in words: of runs that somebody has begun to train, or outside the folders.
    """
    left = []
    for removal in removals:
        try:
            with ExitStack() as lock:
                _hold(removal.run, lock)
                _check_files(removal, weight_dir)
                for path in removal.files:
                    path.unlink(missing_ok=True)
                lock.close()  # before its folder goes: Windows keeps an open file
                for path, below in removal.folders:
                    remove_dirs(path, inside=below)
        except (ConfigError, ValueError, OSError) as error:
            left.append(f"{removal.run.name}: {error}")
    return left


def _hold(run: RunFolder, lock: ExitStack) -> None:
    from filelock import FileLock, Timeout

    if not run.log_dir.is_dir():
        return
    try:
        lock.enter_context(FileLock(run.log_dir / ".lock", timeout=0))
    except Timeout as error:
        raise ConfigError(
            "expected a run that has stopped, got one that is being trained. Wait for it."
        ) from error


def _check_files(removal: Removal, weight_dir: Path) -> None:
    root = weight_dir.resolve()
    outside = [str(path) for path in removal.files if path.resolve().parent.parent != root]
    if outside:
        raise ValueError(
            f"expected files in a folder of {root}, got {', '.join(outside)}. Remove them by hand."
        )
