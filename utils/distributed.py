"""Several processes train one run: who this one is, and how they agree.

`torchrun` starts the processes and tells them apart by environment variables. Without it there is
one process, and every function here gives back what it was given. Collective functions must be
called by all processes in the same order.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

_groups = itertools.count()


def rank() -> int:
    """Return the number of this process, from 0; process 0 writes the files."""
    return dist.get_rank() if _is_joined() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _is_joined() else 1


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def launched_rank() -> int:
    """Return the number that `torchrun` gave to this process, before it has joined the others."""
    return int(os.environ["RANK"]) if _is_launched() else 0


def launched_world_size() -> int:
    """Return how many processes `torchrun` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def _is_launched() -> bool:
    return launched_world_size() > 1


def own_device(device: torch.device) -> torch.device:
    """Return the device of this process: under `torchrun` each one takes a GPU of its own.

    Raises:
        ValueError: There are fewer GPUs than processes, or one GPU is named for all.
    """
    if device.type != "cuda" or not _is_launched():
        return device
    index, n_local = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if device.index is not None:
        raise ValueError(
            f'expected "cuda" or "cpu" under torchrun, where each process has a GPU of its own, got'
            f' "{device}". Choose the GPUs by CUDA_VISIBLE_DEVICES.'
        )
    if n_local > torch.cuda.device_count():
        raise ValueError(
            f"expected a GPU for each of {n_local} processes, got {torch.cuda.device_count()}."
            " Lower --nproc-per-node, or set DEVICE=cpu."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the processes that `torchrun` started, and leave them however the block ends.

    A process group that the caller has made is used and left as it is.
    """
    if not _is_launched() or dist.is_initialized():
        yield
        return
    _join("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _join(backend: str) -> None:
    # a prefix of its own: a second group in one process would read the addresses of the first
    store, number, size = next(rendezvous("env://"))
    store = dist.PrefixStore(f"run_{next(_groups)}", store)
    dist.init_process_group(backend, store=store, rank=number, world_size=size)


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in their order. Collective; picklable objects."""
    if not _is_joined():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather_number(number: float) -> list[float]:
    """Return the numbers of all processes, in their order. Collective, and a tenth of `gather`."""
    if not _is_joined():
        return [number]
    numbers = torch.empty(dist.get_world_size(), dtype=torch.float64)
    dist.all_gather_into_tensor(numbers, torch.tensor([number], dtype=torch.float64))
    return numbers.tolist()


def on_main(call: Callable[[], Any]) -> Any:
    """Call a function in process 0 alone; give all its result, or its error. Collective."""
    if not _is_joined():
        return call()
    result, problem = None, None
    if dist.get_rank() == 0:
        try:
            result = call()
        except Exception as error:  # noqa: BLE001, raised below, in every process
            problem = error
    outcome = [result, problem]
    dist.broadcast_object_list(outcome)
    result, problem = outcome
    if isinstance(problem, Exception):
        raise problem
    return result


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Let process 0 run the block before the others, as for a download. Collective."""
    if rank() > 0:
        gather_number(0)
    try:
        yield
    finally:
        if rank() == 0:
            gather_number(0)


def interleave(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the items in their first order, of which process r had the items r, r + W, ..."""
    return [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]


@torch.no_grad()
def copy_from_main(tensors: Sequence[torch.Tensor]) -> None:
    """Overwrite tensors by those of process 0, all of one dtype in one message. Collective."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        group = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in group])
        dist.broadcast(flat, 0)
        parts = flat.split([tensor.numel() for tensor in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
