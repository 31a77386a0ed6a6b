"""The file that a run is resumed from: the newest state, and the one before it."""

import logging
import os
from pathlib import Path
from typing import Any

from utils.torchutils import load_file, save_file

CHECKPOINT_FORMAT = 1

logger = logging.getLogger("plumbline")


def save_checkpoint(state: dict[str, Any], folder: Path) -> None:
    """Write `checkpoint.pt`, atomically; the former one becomes `checkpoint.prev.pt`.

    Args:
        state: Tensors and plain data, so that `weights_only` loading accepts it.
        folder: The run's folder in WEIGHT_DIR.

    Raises:
        OSError: The disk is full or not writable; the former checkpoint is unchanged.
    """
    path = folder / "checkpoint.pt"

    def keep_former() -> None:
        if path.exists():
            os.replace(path, folder / "checkpoint.prev.pt")

    save_file({"format": CHECKPOINT_FORMAT, **state}, path, before_replace=keep_former)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the newest checkpoint of a run that is whole; falls back to the former one, and says so.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: None of them is whole, or the format is a newer one.
    """
    paths = [folder / name for name in ("checkpoint.pt", "checkpoint.prev.pt")]
    problems = []
    for path in paths:
        try:
            state = load_file(path, "checkpoint")
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))
            continue
        found = state.get("format") if isinstance(state, dict) else None
        if found != CHECKPOINT_FORMAT:
            raise ValueError(
                f'checkpoint "{path}": expected format {CHECKPOINT_FORMAT}, got {found}.'
                " Resume with the version of the kit that wrote it."
            )
        for problem in problems:
            logger.warning("%s Falling back to %s.", problem, path.name)
        if (
            problems and paths[0].exists()
        ):  # or the next save would put it in place of the whole one
            os.replace(paths[0], folder / "checkpoint.damaged.pt")
        return state
    if any(path.exists() for path in paths):
        raise ValueError("\n".join(problems))
    raise FileNotFoundError(
        f'checkpoint "{paths[0]}": expected a file, got none.'
        " The run was stopped before its first one; start it anew."
    )
