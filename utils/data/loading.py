"""From a dataset to batches: keyed order, keyed augmentation, the move to the device."""

import functools
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    default_collate,
    get_worker_info,
)

from utils.seed import ORDER, SAMPLE, mix, seed_all


class Batch(NamedTuple):
    """What a loader yields. Each part is a tensor, or dicts and tuples of tensors.

    Attributes:
        x: Input of the model, (N, ...) float.
        y: Target of the loss, (N, ...).
    """

    x: Any
    y: Any


class KeyedSampler(Sampler):
    """Batches of (epoch, index) in an order that follows from (seed, epoch).

    The epoch travels with the index, because persistent workers hold an old copy of the dataset.
    `len()` is the full epoch, also when `start` skips batches that are already done.
    """

    def __init__(
        self, n_samples: int, batch_size: int, shuffle: bool, drop_last: bool, seed: int
    ) -> None:
        self.n_samples, self.batch_size = n_samples, batch_size
        self.shuffle, self.drop_last, self.seed = shuffle, drop_last, seed
        self.epoch = self.start = 0

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch of the next iteration and how many of its batches are done."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        full, rest = divmod(self.n_samples, self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix(self.seed, ORDER, self.epoch))
            order = torch.randperm(self.n_samples, generator=generator).tolist()
        else:
            order = range(self.n_samples)
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size
            yield [(self.epoch, i) for i in order[first : first + self.batch_size]]


class KeyedDataset(Dataset):
    """Seeds python, numpy and torch with (seed, epoch, index) before each sample.

    A dataset that says `deterministic = True` draws nothing, so nothing is seeded, and its
    `__getitems__`, where it has one, is asked for the whole batch at once.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self.deterministic = getattr(dataset, "deterministic", False)
        self.reads_batches = self.deterministic and hasattr(dataset, "__getitems__")
        # `collated` speaks of what __getitems__ gives
        self.collated = self.reads_batches and getattr(dataset, "collated", False)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Any:
        if self.reads_batches:
            return self.dataset.__getitems__([index for _, index in keys])
        if self.deterministic:
            return [self.dataset[index] for _, index in keys]
        if get_worker_info() is not None:
            return [self._item(epoch, index) for epoch, index in keys]
        # in the main process the streams belong to the training: 150 us to give them back
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        items = [self._item(epoch, index) for epoch, index in keys]
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        return items

    def _item(self, epoch: int, index: int) -> Any:
        seed_all(mix(self.seed, SAMPLE, epoch, index))
        return self.dataset[index]


def collate(items: Any, collated: bool, collate_fn: Callable[[Any], Any]) -> Batch:
    """Join samples to a `Batch`; a dataset with `collated = True` has done it already."""
    parts = items if collated else collate_fn(items)
    is_pair = isinstance(parts, Sequence) and len(parts) == 2
    # samples that are one text each are joined to a list of them, which may be two as well
    if not is_pair or any(isinstance(part, str) for part in parts):
        kinds = parts if isinstance(parts, (list, tuple)) else [parts]
        raise TypeError(
            "dataset: expected samples of two parts (x, y), got"
            f" ({', '.join(type(part).__name__ for part in kinds)[:80]})."
            " Let __getitem__ return (x, y); each part may be a dict of tensors."
        )
    return Batch(*parts)


class Loader:
    """Iterates a DataLoader and puts every batch on the device; the length is a full epoch's.

    Made by `make_loader`. `set_position` chooses the epoch and skips finished batches without
    reading them.
    """

    def __init__(
        self, loader: DataLoader, sampler: KeyedSampler, device: torch.device, channels_last: bool
    ) -> None:
        self.loader, self.sampler, self.device = loader, sampler, device
        self.set_position = sampler.set_position
        self._moves = device.type != "cpu" or channels_last
        self._channels_last = channels_last

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        if not self._moves:
            yield from self.loader
            return
        for batch in self.loader:
            yield self._move(batch)

    def first(self) -> Batch:
        """Read the first batch of an epoch in this process."""
        keys = next(iter(self.sampler))
        return self._move(self.loader.collate_fn(self.loader.dataset.__getitems__(keys)))

    def _move(self, part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            part = part.to(self.device, non_blocking=True)
            if self._channels_last and part.dim() == 4:
                part = part.contiguous(memory_format=torch.channels_last)
            return part
        if isinstance(part, Mapping):
            return {name: self._move(value) for name, value in part.items()}
        if isinstance(part, (list, tuple)):
            moved = [self._move(value) for value in part]
            return type(part)(*moved) if hasattr(part, "_fields") else type(part)(moved)
        return part  # names and other text stay where they are


def init_worker(user_init: Callable[[int], None] | None, worker: int) -> None:
    """Prepare a worker process: Ctrl-C and termination are the main process's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the batch in work is still wanted
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked worker inherits the run's handler
    if user_init is not None:
        user_init(worker)


def make_loader(
    dataset: Any,
    config: Mapping[str, Any],
    seed: int,
    device: torch.device,
    train: bool,
    channels_last: bool = False,
) -> Loader:
    """Return the loader of a dataset.

    Args:
        dataset: Map-style dataset of (x, y); `deterministic` and `collated` are its options.
        config: DATA_LOADER_CONFIG, a subset of `config.keys.LOADER_KEYS`.
        seed: Seed of the run.
        device: Where the batches are put.
        train: Training order (shuffled unless `shuffle` is False); otherwise every sample once
            in the dataset's order, whatever `shuffle` and `drop_last` say.
        channels_last: Memory format of 4-dimensional tensors.

    Raises:
        TypeError: The dataset cannot be indexed.
        ValueError: The dataset is empty, or `drop_last` leaves no batch of it.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"dataset: expected one with __len__ and __getitem__, got {type(dataset).__name__}."
            " Samples are drawn by index, so that a run can be repeated and resumed."
        )
    if len(dataset) == 0:
        raise ValueError("dataset: expected at least one sample, got none. Check its folder.")
    config = dict(config)
    sampler = KeyedSampler(
        len(dataset),
        config.pop("batch_size", 1),
        config.pop("shuffle", True) and train,
        config.pop("drop_last", False) and train,
        seed,
    )
    if len(sampler) == 0:
        raise ValueError(
            f"DATA_LOADER_CONFIG: expected a batch_size of at most {len(dataset)} samples with"
            f" drop_last, got {sampler.batch_size}. Lower it, or leave drop_last out."
        )
    join = config.pop("collate_fn", None) or default_collate
    keyed = KeyedDataset(dataset, seed)
    loader = DataLoader(
        keyed,
        batch_sampler=sampler,
        collate_fn=functools.partial(collate, collated=keyed.collated, collate_fn=join),
        pin_memory=bool(config.pop("pin_memory", False)) and device.type == "cuda",
        # a DataLoader draws its base seed from here, not from the global stream
        generator=torch.Generator().manual_seed(mix(seed, ORDER)),
        worker_init_fn=functools.partial(init_worker, config.pop("worker_init_fn", None)),
        **config,
    )
    return Loader(loader, sampler, device, channels_last)
