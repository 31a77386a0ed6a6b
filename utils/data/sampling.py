"""Which samples make a batch: an order of the epoch that follows from (seed, epoch).

An order is drawn whole, as numbers of samples, and cut into batches. So a resumed epoch finds its
place without reading what is done.
"""

import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Sampler, Subset

from utils.seed import ORDER, mix

logger = logging.getLogger("plumbline")

Order = Callable[[Generator], Sequence[int]]


class KeyedSampler(Sampler):
    """Batches of (epoch, index) in an order that follows from (seed, epoch).

    The epoch travels with the index, because persistent workers hold an old copy of the dataset.
    `len()` is the full epoch, also when `start` skips batches that are already done. A stream has
    an order of its own, and takes only the position from here.

    Attributes:
        n_samples: Samples of the whole dataset.
        batches: Numbers of this process's batches in an epoch.
        draw: Draws the order of an epoch from a generator.
        share: (rank, world size) of processes that take every world-size-th sample each.
    """

    def __init__(
        self,
        n_samples: int,
        batch_size: int,
        batches: range,
        draw: Order,
        seed: int,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.n_samples, self.batch_size, self.batches = n_samples, batch_size, batches
        self.draw, self.seed, self.share = draw, seed, share
        self.epoch = self.start = 0

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch of the next iteration and how many of its batches are done."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self.draw(Generator().manual_seed(mix(self.seed, ORDER, self.epoch)))
        rank, world_size = self.share
        if world_size > 1:  # the first samples fill up the last round
            stop = math.ceil(len(order) / world_size) * world_size
            order = list(itertools.islice(itertools.cycle(order), rank, stop, world_size))
        for batch in self.batches[self.start :]:
            first = batch * self.batch_size
            yield [(self.epoch, i) for i in order[first : first + self.batch_size]]


def make_sampler(
    dataset: Any, config: Mapping[str, Any], seed: int, train: bool, rank: int, world_size: int
) -> KeyedSampler:
    """Return the sampler of a dataset, or of one process's share; see `make_loader`.

    Raises:
        ValueError: `drop_last` leaves no batch, a process has no batch, or the dataset is not one
            for `balanced` or `per_class`.
    """
    n_samples, is_stream = len(dataset), isinstance(dataset, IterableDataset)
    batch_size = config.get("batch_size", 1)
    by_samples = train and not is_stream  # otherwise processes share by whole batches
    n_own = math.ceil(n_samples / world_size) if by_samples else n_samples
    n_batches = math.ceil(n_own / batch_size)
    if train and config.get("drop_last", False):
        # each worker of a stream drops the end of its part, and where that is, only it knows
        n_parts = max(config.get("num_workers", 0), 1) if is_stream else 1
        n_batches = (n_own - (n_parts - 1) * (batch_size - 1)) // batch_size
        if n_batches < 1:
            raise ValueError(
                "DATA_LOADER_CONFIG: expected a batch_size of at most"
                f" {math.ceil(n_own / n_parts)} samples with drop_last, got {batch_size}."
                " Lower it, or leave drop_last out."
            )
    members = _split_classes(dataset, config) if train and _chooses_classes(config) else []
    if members and config.get("per_class"):
        n_batches *= world_size
        draw = _make_per_class(members, batch_size, config["per_class"], n_batches)
        batches = range(rank, n_batches, world_size)  # a batch is whole in one process
        return KeyedSampler(n_samples, batch_size, batches, draw, seed)
    if by_samples:
        draw = functools.partial(shuffled if config.get("shuffle", True) else in_order, n_samples)
        draw = functools.partial(balanced, members, n_samples) if members else draw
        share = (rank, world_size)
        return KeyedSampler(n_samples, batch_size, range(n_batches), draw, seed, share)
    if n_batches < world_size:
        raise ValueError(
            f"DATA_LOADER_CONFIG: expected at least one batch for each of {world_size} processes,"
            f" got {n_batches}. Lower batch_size."
        )
    if train:
        n_batches -= n_batches % world_size  # processes that train together need equally many
    batches = range(rank, n_batches, world_size)
    draw = functools.partial(in_order, n_samples)
    return KeyedSampler(n_samples, batch_size, batches, draw, seed)


# ----------------------------------------------------------------------------------- orders


def in_order(n_samples: int, _: Generator) -> Sequence[int]:
    """Return the samples as the dataset has them."""
    return range(n_samples)


def shuffled(n_samples: int, generator: Generator) -> Sequence[int]:
    """Return every sample once."""
    return torch.randperm(n_samples, generator=generator).tolist()


def balanced(members: Sequence[Tensor], n_samples: int, generator: Generator) -> Sequence[int]:
    """Return so many samples, of each class equally many; classes differ by one at most.

    A class with more samples than its share gives some of them, new ones each epoch. One with
    fewer gives each of them several times, and how often differs by one at most.

    Args:
        members: The samples of each class, (n,) int64.
        n_samples: The length of the order, at least the number of classes.
        generator: What it is drawn from.
    """
    n_each, n_rest = divmod(n_samples, len(members))
    has_more = torch.randperm(len(members), generator=generator) < n_rest
    parts = []
    for samples, more in zip(members, has_more.tolist(), strict=True):
        n = n_each + more
        rounds = range(math.ceil(n / len(samples)))
        drawn = [samples[torch.randperm(len(samples), generator=generator)] for _ in rounds]
        parts.append(torch.cat(drawn)[:n])
    order = torch.cat(parts)
    return order[torch.randperm(n_samples, generator=generator)].tolist()


def per_class(
    members: Sequence[Tensor], n_classes: int, n_each: int, n_batches: int, generator: Generator
) -> Sequence[int]:
    """Return batches of `n_classes` classes with `n_each` samples of each, one after the other.

    All classes, and all samples of a class, have their turn before one comes again. A sample comes
    twice in a batch only where its class has fewer than `n_each` (Hermans et al., In Defense of the
    Triplet Loss for Person Re-Identification, 2017).

    Args:
        members: The samples of each class, (n,) int64; at least `n_classes` of them.
        n_classes: Classes in a batch.
        n_each: Samples of each.
        n_batches: How many batches.
        generator: What they are drawn from.
    """
    classes = take_turns(range(len(members)), n_classes, generator)
    samples = [take_turns(part.tolist(), n_each, generator) for part in members]
    return [
        sample
        for _ in range(n_batches)
        for number in next(classes)
        for sample in next(samples[number])
    ]


def take_turns(items: Sequence[int], size: int, generator: Generator) -> Iterator[list[int]]:
    """Yield groups of so many items without end.

    Each item comes once in a round, and none twice in a group unless there are fewer than `size`.
    """
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            late = set(waiting)
            fresh = [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]
            waiting += [item for item in fresh if item not in late]
            waiting += [item for item in fresh if item in late]
        yield waiting[:size]
        del waiting[:size]


# ----------------------------------------------------------------------------------- classes


def find_labels(dataset: Any) -> np.ndarray | None:
    """Return the class number of each sample, as `labels` of the dataset tells it; else None.

    torch's Subset and ConcatDataset have those of the datasets in them.
    """
    if isinstance(dataset, Subset):
        labels = find_labels(dataset.dataset)
        return None if labels is None else labels[dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [find_labels(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate(parts)
    labels = getattr(dataset, "labels", None)
    return None if labels is None else np.asarray(labels)


def _chooses_classes(config: Mapping[str, Any]) -> bool:
    return bool(config.get("balanced") or config.get("per_class"))


def _split_classes(dataset: Any, config: Mapping[str, Any]) -> list[Tensor]:
    """Return the samples of each class, (n,) int64, in the order of the class numbers."""
    option = "balanced" if config.get("balanced") else "per_class"
    others = {"per_class": config.get("per_class"), "shuffle=False": config.get("shuffle") is False}
    both = [name for name, is_set in others.items() if is_set and name != option]
    if both:
        raise ValueError(
            f"DATA_LOADER_CONFIG: expected {option} alone, which draws the order of an epoch, got"
            f" {both[0]} as well. Remove one of them."
        )
    kind = type(dataset).__name__
    labels = None if isinstance(dataset, IterableDataset) else find_labels(dataset)
    if labels is None:
        raise ValueError(
            "DATA_LOADER_CONFIG: expected a dataset with an index and `labels`, the class number of"
            f" each sample, for {option}, got {kind}. Give it `labels`, or leave {option} out."
        )
    if labels.shape != (len(dataset),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"DATA_LOADER_CONFIG: expected one class number for each of {len(dataset)} samples in"
            f" `labels` of {kind}, got shape {labels.shape} of {labels.dtype}. Leave {option} out"
            " where a sample has several classes or none."
        )
    return [torch.from_numpy(np.flatnonzero(labels == number)) for number in np.unique(labels)]


def _make_per_class(
    members: Sequence[Tensor], batch_size: int, n_each: int, n_batches: int
) -> Order:
    n_classes, rest = divmod(batch_size, n_each)
    if rest or n_classes > len(members):
        raise ValueError(
            f"DATA_LOADER_CONFIG: expected a batch_size of per_class={n_each} samples times 1 to"
            f" {len(members)} classes, got {batch_size}. Change one of them."
        )
    n_small = sum(len(samples) < n_each for samples in members)
    if n_small:
        logger.warning(
            "%d of %d classes have fewer than per_class=%d samples, which come twice in a batch",
            n_small,
            len(members),
            n_each,
        )
    return functools.partial(per_class, members, n_classes, n_each, n_batches)
