"""Files of tensors: written whole or not at all, read without running what they hold."""

import hashlib
import io
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from utils.path import write_atomic

WEIGHTS_FORMAT = 1
_MARK = b"sha256:"  # the zip comment of our files: this mark and 64 hex digits
_DIGITS = 64


def save_file(obj: Any, path: str | Path, before_replace: Callable[[], None] | None = None) -> None:
    """Write tensors and plain data with `torch.save`, atomically, with a sha256 in the file.

    The hash stands in the comment of the zip archive, so `torch.load` reads the file as ever.

    Args:
        obj: Tensors, numbers, text, dicts, lists and tuples of them.
        path: The file; a former one stays whole until the new one is on the disk.
        before_replace: Called when the new file is written and before it takes the name.

    Raises:
        OSError: The disk is full or the folder cannot be written; the former file is unchanged.
    """
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    # a zip archive ends with the length of its comment, 0 so far
    buffer.seek(-2, io.SEEK_END)
    buffer.write(struct.pack("<H", len(_MARK) + _DIGITS) + _MARK)
    buffer.write(hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
    write_atomic(path, buffer.getbuffer(), before_replace)


def load_file(path: str | Path, what: str = "file") -> Any:
    """Read a file of tensors to the CPU; nothing in it is executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or holds more than tensors and plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{what} "{path}": expected a file, got none. Check the path.')
    is_hashed = _check_sha256(path, what)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200].rstrip(" :.")
        raise ValueError(
            f'{what} "{path}": expected tensors and plain data, got {reason}. The file is damaged,'
            " or holds whole objects, which are refused because reading them would run code."
            " Save the state dict of the model."
        ) from error
    if isinstance(content, dict) and "format" in content and not is_hashed:
        raise ValueError(
            f'{what} "{path}": expected a sha256 at its end, got none: the file is damaged.'
            " Take another copy."
        )
    return content


def _check_sha256(path: Path, what: str) -> bool:
    """Compare a file with its sha256; False when it has none (written by other programs)."""
    tail = len(_MARK) + _DIGITS
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - tail))
        mark, digits = file.read(len(_MARK)), file.read()
        if mark != _MARK:
            return False
        file.seek(0)
        digest, left = hashlib.sha256(), size - _DIGITS
        while block := file.read(min(left, 1 << 20)):
            digest.update(block)
            left -= len(block)
    if digest.hexdigest().encode() != digits:
        raise ValueError(
            f'{what} "{path}": expected the sha256 that it was written with, got another one:'
            " the file is damaged. Take another copy."
        )
    return True


def save_weights(path: str | Path, state: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write a model's state dict with what is needed to rebuild and use it.

    Args:
        path: The weights file.
        state: State dict under plain module names.
        meta: Plain data: MODEL (name), MODEL_CONFIG (JSON text), TASK, CLASSES, PREPROCESS.
    """
    save_file({"format": WEIGHTS_FORMAT, "model": dict(state), "meta": dict(meta)}, path)


def load_weights(path: str | Path) -> dict[str, Any]:
    """Read a weights file: ours, one with "model" or "model_state_dict" in it, or a state dict.

    Returns:
        A dict of "model" (the state dict) and "meta", which is empty for files of other programs.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, of a newer format, or holds no state dict.
    """
    content = load_file(path, "weights")
    if not isinstance(content, dict):
        raise ValueError(
            f'weights "{path}": expected a state dict, got {type(content).__name__}.'
            " Save model.state_dict()."
        )
    if content.get("format", WEIGHTS_FORMAT) != WEIGHTS_FORMAT:
        raise ValueError(
            f'weights "{path}": expected format {WEIGHTS_FORMAT}, got {content["format"]}.'
            " Read it with the version of the kit that wrote it."
        )
    for name in ("model", "model_state_dict"):
        if isinstance(content.get(name), dict):
            meta = content.get("meta")
            return {"model": content[name], "meta": meta if isinstance(meta, dict) else {}}
    if not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(
            f'weights "{path}": expected a state dict or one under "model", got the entries'
            f" {', '.join(map(str, list(content)[:5]))}. Save model.state_dict()."
        )
    return {"model": content, "meta": {}}


def count_parameters(module: torch.nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Tell whether no floating-point tensor holds a NaN or an infinite value."""
    return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())


@contextmanager
def torch_settings(n_threads: int, deterministic: bool) -> Iterator[None]:
    """Use this many threads and, if wanted, only deterministic kernels; put both back after."""
    former = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(n_threads)
    if deterministic != former[1]:  # the call imports torch's compiler, which takes seconds
        torch.use_deterministic_algorithms(deterministic)
    try:
        yield
    finally:
        torch.set_num_threads(former[0])
        if deterministic != former[1]:
            torch.use_deterministic_algorithms(former[1])
