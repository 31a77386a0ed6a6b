"""Pictures read once and kept as they are, 8 bit as 8 bit: in memory, or in one mapped file.

They lie one behind the other in a single piece of memory, which forked workers share and spawned
ones get through shared memory, or in a file, of which the system keeps in memory what fits.
"""

import hashlib
import io
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from config.errors import ConfigError
from utils.data.files import read_array
from utils.data.pairs import shorten_list
from utils.path import create_dirs, read_json, write_json

_FORMAT = 1

logger = logging.getLogger("plumbline")


class _Place(NamedTuple):
    start: int  # of its bytes
    shape: tuple[int, ...]
    dtype: str


class PictureCache:
    """What `read_array` gives for each of many files, by file; made once and read many times.

    Args:
        files: The files.
        folder: Where the cache is written; None keeps it in memory. There are a `.bin` with the
            values and a `.json` with sizes and the fingerprint of the files: names, lengths and
            times of change. Where it is another, all is read anew. Processes that begin at the
            same time wait for the one that writes.
        name: Of what in that folder; the same for the same source of files.

    Raises:
        ConfigError: Files are damaged, all of them named, or the folder cannot be written.
    """

    def __init__(self, files: Sequence[Path], folder: Path | None = None, name: str = "") -> None:
        self._path = None
        if folder is None:
            memory = io.BytesIO()
            places = _write(files, memory)
            self._values = torch.frombuffer(memory.getbuffer(), dtype=torch.uint8)
            logger.info("%d pictures are kept in memory, %.1f MB", len(files), memory.tell() / 1e6)
        else:
            self._path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.bin"
            places = _open(files, self._path)
            self._values = _map(self._path)
        self._places = dict(zip(map(str, files), places, strict=True))

    def __getitem__(self, file: Path) -> np.ndarray:
        start, shape, dtype = self._places[str(file)]
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        values = self._values[start : start + n_bytes]
        values = values.numpy() if isinstance(values, torch.Tensor) else values
        return values.view(dtype).reshape(shape)

    def shape(self, file: Path) -> tuple[int, ...]:
        """Return (H, W) or (H, W, C) of a file."""
        return self._places[str(file)].shape

    def __getstate__(self) -> dict[str, Any]:
        # a map would be pickled by its values: a spawned worker maps the file itself
        return self.__dict__ | ({} if self._path is None else {"_values": None})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._path is not None:
            self._values = _map(self._path)


def _map(path: Path) -> np.ndarray:
    return np.memmap(path, dtype=np.uint8, mode="r")


def _open(files: Sequence[Path], path: Path) -> list[_Place]:
    """Return the places of the pictures in a file of a cache, which is written unless it is there.

    Raises:
        ConfigError: See the class.
    """
    from filelock import FileLock

    index, temp = path.with_suffix(".json"), path.with_suffix(".tmp")
    fingerprint = _fingerprint(files)
    try:
        create_dirs(path.parent)
        with FileLock(path.with_suffix(".lock")):
            places = _read_index(index, path, fingerprint)
            if places is not None:
                return places
            index.unlink(missing_ok=True)  # first, so that it never speaks of another file
            try:
                with open(temp, "wb") as file:
                    places = _write(files, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temp, path)
            finally:
                temp.unlink(missing_ok=True)
            rows = [[list(place.shape), place.dtype] for place in places]
            about = {"format": _FORMAT, "fingerprint": fingerprint, "pictures": rows}
            write_json(index, about)
    except OSError as error:
        raise ConfigError(
            f"cache: expected a folder that can be written, got {path.parent}: {error}. Name "
            "another: cache_dir=..., or keep the pictures in memory: cache=True."
        ) from error
    logger.info("%d pictures are kept in %s, %.1f MB", len(files), path, path.stat().st_size / 1e6)
    return places


def _read_index(index: Path, path: Path, fingerprint: str) -> list[_Place] | None:
    """Return the places of the pictures, or None where they must be written anew."""
    try:
        about = read_json(index)
        if about["fingerprint"] != fingerprint or about["format"] != _FORMAT:
            return None
        places, end = [], 0
        for shape, dtype in about["pictures"]:
            if np.dtype(dtype).kind not in "biuf":
                return None
            places.append(_Place(end, tuple(shape), dtype))
            end += math.prod(shape) * np.dtype(dtype).itemsize
        return places if path.stat().st_size == end else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or a damaged one
        return None


def _write(files: Sequence[Path], to: BinaryIO) -> list[_Place]:
    """Write the values of all files one behind the other; return where each is.

    Raises:
        ConfigError: Files are damaged.
    """
    places, problems = [], []
    for path in files:
        try:
            array = read_array(path)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        places.append(_Place(to.tell(), array.shape, array.dtype.str))
        to.write(np.ascontiguousarray(array).data)
    if problems:
        raise ConfigError(shorten_list(problems))
    return places


def _fingerprint(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        about = path.stat()
        digest.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()
