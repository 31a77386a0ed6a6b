"""Folders and files: created without races, written whole or not at all."""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def create_dirs(*paths: str | Path) -> None:
    """Create folders with their parents; those that exist are left as they are.

    Raises:
        NotADirectoryError: when a file stands where a folder should be.
    """
    for path in paths:
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise NotADirectoryError(
                f"create_dirs: expected a folder or a free name, got {path}, where a file stands. "
                "Rename the file or choose another folder."
            ) from error


def remove_dirs(*paths: str | Path, inside: str | Path) -> None:
    """Remove folders with all they hold; missing ones are skipped.

    Nothing is removed unless every folder lies below `inside`, links followed.

    Raises:
        ValueError: when a folder is `inside` itself or lies elsewhere.
    """
    root = Path(inside).resolve()
    outside = [str(path) for path in paths if root not in Path(path).resolve().parents]
    if outside:
        raise ValueError(
            f"remove_dirs: expected folders below {root}, got {', '.join(outside)}. "
            "Remove other folders by hand."
        )
    for path in paths:
        if Path(path).exists():
            shutil.rmtree(path)


def fsync_dir(path: str | Path) -> None:
    """Bring a folder's entries to the disk, where the platform can do that."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(fd)


def write_atomic(
    path: str | Path,
    data: bytes | memoryview | str,
    before_replace: Callable[[], None] | None = None,
) -> None:
    """Write a file so that its name holds the former content or the new one, whole.

    The data go to a temporary file in the same folder, to the disk, then to the final name.
    After any error the former file is untouched and the temporary one is gone; only a killed
    process leaves it (see `remove_stale_temps`). A link is replaced, not followed.

    Args:
        path: the final name; its folder exists.
        data: the whole content, never copied when it is bytes; text is written as UTF-8.
        before_replace: called when the new content is on disk under its temporary name, for
            example to keep the former file under another name.
    """
    path = Path(path)
    if isinstance(data, str):
        data = data.encode("utf-8")
    temp = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        with open(temp, "xb") as file:  # not mkstemp: its files shut out the group (mode 0600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if before_replace is not None:
            before_replace()
        os.replace(temp, path)
    except BaseException as error:
        temp.unlink(missing_ok=True)
        # of a full disk: (errno, text), and no file
        if isinstance(error, OSError) and len(error.args) == 2 and error.filename is None:
            error.filename = str(path)
        raise
    fsync_dir(path.parent)


def remove_stale_temps(path: str | Path) -> None:
    """Remove what killed calls of `write_atomic` for this path left in its folder.

    Only for a caller that no other writer of the path can run beside, as under a lock: the
    temporary file of a living writer would go too.
    """
    path = Path(path)
    stale = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.tmp")
    for other in path.parent.iterdir():
        if stale.fullmatch(other.name):
            other.unlink(missing_ok=True)


def find_weights(text: str | Path, weight_dir: str | Path) -> Path:
    """Return the weights file of a path, of a run's name or folder (best.pth), or of "latest".

    Raises:
        FileNotFoundError: no run has weights yet. A path is returned as it is.
    """
    path, weight_dir = Path(text).expanduser(), Path(weight_dir)
    if path.is_file():
        return path
    if text == "latest":
        found = list(weight_dir.glob("*/best.pth")) or list(weight_dir.glob("*/last.pth"))
        if not found:
            raise FileNotFoundError(
                f"weights: expected a run in {weight_dir}, got none. Train first, or name a file."
            )
        return max(found, key=lambda file: file.stat().st_mtime)
    names = ("best.pth", "last.pth")
    of_run = [folder / name for folder in (path, weight_dir / text) for name in names]
    return next((file for file in of_run if file.is_file()), path)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: when the file holds something else, with its name and the place.
    """
    try:
        return json.loads(Path(path).read_text("utf-8-sig"))
    except ValueError as error:
        raise ValueError(
            f"{path}: expected JSON, got text that fails with: {error}. Mend or remove the file."
        ) from error


def write_json(path: str | Path, obj: Any) -> None:
    """Write an object as JSON, atomically; NaN and infinities become null.

    JSON has no such numbers: other programs refuse a file with them.

    Raises:
        TypeError: when a part is no dict, list, tuple, text, number, bool or None.
    """
    write_atomic(path, json.dumps(_without_nan(obj), indent=2, allow_nan=False) + "\n")


def _without_nan(obj: Any) -> Any:
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, dict):
        return {key: _without_nan(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_without_nan(value) for value in obj]
    return obj
