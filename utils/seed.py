"""Randomness as a function of the position, not of a stream.

Every random draw of a run follows from (seed, what, epoch, position). So the number of workers, a
logger, an extra validation or the framework cannot change the training, and a run that is resumed
needs no replay.
"""

import hashlib
import random
import struct
from typing import Any

import numpy as np
import torch

from utils.distributed import gather, rank

# what a number is drawn for: equal positions must not give equal streams
WEIGHTS, ORDER, SAMPLE, STEP, EPOCH, VALIDATION, DATA, BATCH = range(8)


def mix(seed: int, *position: int) -> int:
    """Return a 63 bit seed for a position; near positions give unrelated seeds."""
    key = struct.pack(f"<{1 + len(position)}q", seed, *position)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def seed_torch(seed: int, cuda: bool = True) -> None:
    """Seed torch on the CPU and, where CUDA is in use and wanted, on the GPU.

    `torch.manual_seed` in a CUDA build takes 85 us, because it formats a stack trace as long as
    CUDA is not initialised; the generator itself takes 1 us.
    """
    torch.default_generator.manual_seed(seed)
    if cuda and torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def seed_all(seed: int) -> None:
    """Seed python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    seed_torch(seed)


class RandomState:
    """The states of python's and numpy's global generators, for user code that draws from them.

    Each process has its own. Loaded states wait for `restore`: whatever draws between the two
    changes nothing.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all processes, in plain numbers and tensors. Collective."""
        version, state, gauss = random.getstate()
        name, keys, position, has_gauss, cached = np.random.get_state()
        keys = torch.from_numpy(keys.astype(np.int64))
        own = {
            "python": [version, list(state), gauss],
            "numpy": [str(name), keys, position, has_gauss, cached],
        }
        return {"processes": gather(own)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep this process's states of a checkpoint for `restore`."""
        self._loaded = state["processes"][rank()]

    def restore(self) -> None:
        """Put the loaded states back, if there are any."""
        if self._loaded is None:
            return
        version, numbers, gauss = self._loaded["python"]
        random.setstate((version, tuple(numbers), gauss))
        name, keys, position, has_gauss, cached = self._loaded["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
