"""What data a run has learnt from, in a line: to tell later whether they are still the same.

It is cheap and no proof: names and sizes stand for the contents of files. Nothing in it depends on
the machine, its folders, or the times of files.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

NUM_SIZES = 2_000  # files whose size is asked for: on a disk in the network that takes its time
# of an array and of a table; of larger ones, rows at equal distances
_NUM_BYTES, _NUM_ROWS = 2**26, 50_000


def fingerprint(dataset: Any) -> dict[str, Any]:
    """Return what tells a dataset from another one.

    - With `files` (paths, or a tuple of paths for each sample): their names in the folder that
      holds them all, and sizes, those of at most NUM_SIZES files at equal distances.
    - Its arrays, tensors on the CPU and pandas tables, if it has no files.
    - In both cases its `labels`; without files its `names`, too.

    Args:
        dataset: Any dataset; none of its samples is read, and no property of it is asked for.

    Returns:
        `samples`, the number of them, None where it is not known; `of`, what the hash was made of;
        `hash`, 16 hexadecimal digits, None where there was nothing to make it of.
    """
    own = getattr(dataset, "__dict__", {})
    files = _list_files(own.get("files"))
    if files:
        found = {"files": _of_files(files), "labels": _of_list(own.get("labels"))}
    else:
        found = {name: _of_array(value) for name, value in sorted(own.items())}
        found |= {name: _of_list(own[name]) for name in ("names", "labels") if name in own}
    parts = {name: content for name, content in found.items() if content is not None}
    digest = hashlib.sha256()
    for name, content in parts.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    try:
        n_samples = len(dataset)
    except TypeError:  # a stream
        n_samples = None
    return {
        "samples": n_samples,
        "of": ", ".join(parts) or None,
        "hash": digest.hexdigest()[:16] if parts else None,
    }


def _list_files(files: Any) -> list[str]:
    """Return the paths in order; none where they are something else."""
    if not isinstance(files, Sequence) or isinstance(files, str):
        return []
    paths: list[str] = []
    for entry in files:
        for path in entry if isinstance(entry, tuple) else (entry,):
            if not isinstance(path, (str, os.PathLike)):
                return []
            paths.append(os.fspath(path))
    return paths


def _of_files(files: Sequence[str]) -> bytes:
    folder = os.path.commonprefix([min(files), max(files)])
    start = max(folder.rfind("/"), folder.rfind(os.sep)) + 1
    names = "\0".join([path[start:] for path in files]).replace(os.sep, "/")
    step = -(-len(files) // NUM_SIZES) | 1  # odd: of pairs in turn, not always the same one
    sizes = (_size(path) for path in files[::step])
    return f"{names}\n{' '.join(sizes)}".encode("utf-8", "surrogateescape")


def _size(path: str) -> str:
    try:
        return str(os.stat(path).st_size)
    except OSError:  # the run says so where it reads the file
        return "missing"


def _of_array(value: Any) -> bytes | None:
    pandas = sys.modules.get("pandas")
    if pandas and isinstance(value, (pandas.DataFrame, pandas.Series)):
        rows = value.iloc[:: max(1, -(-len(value) // _NUM_ROWS))].astype(str)
        content = pandas.util.hash_pandas_object(rows).to_numpy().tobytes()
        return f"table {value.shape}\n".encode() + content
    if isinstance(value, torch.Tensor):
        is_plain = value.device.type == "cpu" and value.layout is torch.strided
        if not is_plain or value.is_quantized or value.is_nested:
            return None
        value = value.detach().resolve_conj().resolve_neg()
        rows = value[:: _step(value.nbytes)] if value.dim() else value
        content = rows.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{value.dtype} {tuple(value.shape)}\n".encode() + content
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        rows = value[:: _step(value.nbytes)] if value.ndim else value
        return f"{value.dtype} {value.shape}\n".encode() + rows.tobytes()
    return None


def _step(n_bytes: int) -> int:
    return max(1, -(-n_bytes // _NUM_BYTES))


def _of_list(values: Any) -> bytes | None:
    if isinstance(values, (torch.Tensor, np.ndarray)):
        return _of_array(values)
    if not isinstance(values, (list, tuple, range)):
        return None
    if not all(isinstance(value, (str, int, np.integer)) for value in values):
        return None
    return "\0".join(map(str, values)).encode("utf-8", "surrogateescape")
