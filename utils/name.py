"""Names of runs, folders and output files, safe whatever the user typed."""

import itertools
import re
import time
from pathlib import Path

from utils.path import create_dirs

MAX_LENGTH = 128  # file systems take 255 bytes: room for a number, a file ending, a temporary name


def timestamp() -> str:
    """Return the local time as text that sorts, such as 20261120-143000."""
    return time.strftime("%Y%m%d-%H%M%S")


def run_name(date: str, session: str) -> str:
    """Join date and session name to one name that is safe for files and folders.

    Letters, digits and - _ . of ASCII stay, every other character becomes "-". Dots and dashes
    at the front and dots at the end go; an empty session is called "run".

    Example:
        >>> run_name("20261120-143000", "../first try")
        '20261120-143000_..-first-try'
    """
    name = "_".join(part for part in (date, session or "run") if part)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".-")
    return name[:MAX_LENGTH].rstrip(".") or "run"


def reserve_dir(parent: str | Path, name: str) -> Path:
    """Create a folder that nobody had before, and return it.

    A taken name is numbered: `name`, `name_2`, `name_3`. Creating is what decides, so no two
    processes get the same folder. The parent is created when missing.

    Raises:
        ValueError: when the name is not one component of a path.
    """
    _check_component("reserve_dir", name)
    create_dirs(parent)
    for number in itertools.count(1):
        folder = Path(parent, name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def output_name(path: str | Path, prefix: str = "", suffix: str = "") -> str:
    """Name the output of an input file: prefix, stem of the input, suffix.

    Inputs of different folders may get the same name; telling them apart is the caller's part.

    Example:
        >>> output_name("scenes/north.npy", suffix="_mask.npy")
        'north_mask.npy'

    Raises:
        ValueError: when prefix and suffix lead to another folder.
    """
    name = f"{prefix}{Path(path).stem}{suffix}"
    _check_component("output_name", name)
    return name


def _check_component(where: str, name: str) -> None:
    if name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise ValueError(
            f"{where}: expected one file name without folders, got {name!r}. "
            "Leave out slashes; the folder is chosen apart."
        )
