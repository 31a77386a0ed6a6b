"""From a dataset to batches: keyed order, keyed augmentation, the move to the device."""

import contextlib
import functools
import itertools
import math
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    default_collate,
    get_worker_info,
)

from utils.data.bad_samples import (
    BadSample,
    BadSamples,
    GoodBatches,
    GoodSamples,
    collate_good,
    ignore,
)
from utils.data.sampling import KeyedSampler, make_sampler
from utils.seed import BATCH, ORDER, SAMPLE, mix, seed_all


class Batch(NamedTuple):
    """What a loader yields. Each part is a tensor, or dicts and tuples of tensors.

    The texts of the samples, such as their names, are a list.

    Attributes:
        x: Input of the model, (N, ...) float.
        y: Target of the loss, (N, ...).
    """

    x: Any
    y: Any


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
        with self.states_kept():
            return [self[key] for key in keys]

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        if not self.deterministic:
            seed_all(mix(self.seed, SAMPLE, epoch, index))
        return self.dataset[index]

    def states_kept(self) -> Any:
        """Return the context in which samples are read one by one."""
        return contextlib.nullcontext() if self.deterministic else random_states_kept()


class KeyedStream(IterableDataset):
    """The samples of a stream in lists of a batch each, seeded before each sample.

    The seed follows from (seed, epoch, worker, position in what this worker reads). Nothing is
    seeded for a stream that says `deterministic = True`; one with `set_epoch` is told the epoch.
    """

    collated = False

    def __init__(self, dataset: Any, seed: int, sampler: KeyedSampler, drop_last: bool) -> None:
        self.dataset, self.seed, self.sampler = dataset, seed, sampler
        self.drop_last = drop_last
        self.deterministic = getattr(dataset, "deterministic", False)

    def __iter__(self) -> Iterator[list[Any]]:
        samples = self._samples(self.sampler.epoch)
        n_least = self.sampler.batch_size if self.drop_last else 1
        while True:
            with contextlib.nullcontext() if self.deterministic else random_states_kept():
                items = list(itertools.islice(samples, self.sampler.batch_size))
            if len(items) < n_least:
                return
            yield items

    def _samples(self, epoch: int) -> Iterator[Any]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        self._seed(epoch, number, 0)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        for position, sample in enumerate(self.dataset, 1):
            yield sample
            self._seed(epoch, number, position)  # when the next one is asked for

    def _seed(self, *position: int) -> None:
        if not self.deterministic:
            seed_all(mix(self.seed, SAMPLE, *position))


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Give the global random states back at the end of the block.

    In the main process they belong to the training; in a worker they are left as they are. It
    takes 150 us.
    """
    if get_worker_info() is not None:
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class StreamBatches:
    """Those batches of a stream's DataLoader that are this process's and not done.

    A stream cannot skip: the others are read and dropped. What it gives beyond the epoch is left.
    """

    def __init__(self, loader: DataLoader, sampler: KeyedSampler) -> None:
        self.loader, self.sampler = loader, sampler

    def __iter__(self) -> Iterator[Batch]:
        wanted = self.sampler.batches[self.sampler.start :]
        if not wanted:
            return
        number = -1
        for number, batch in enumerate(itertools.islice(self.loader, wanted[-1] + 1)):
            if number in wanted:
                yield batch
        if number < wanted[-1]:
            raise ValueError(
                f"dataset: expected {wanted[-1] + 1} batches of {self.sampler.batch_size} from a"
                f" stream of {self.sampler.n_samples} samples, got {number + 1}. Correct its"
                " __len__: the samples of an epoch, of all workers together."
            )


def stack(samples: Sequence[Any]) -> Any:
    """Join samples as torch's default_collate does, but tuples to tuples and not to lists."""
    return _as_tuples(default_collate(samples))


def _as_tuples(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {name: _as_tuples(value) for name, value in part.items()}
    if type(part) is list and not all(isinstance(entry, str) for entry in part):
        return tuple(map(_as_tuples, part))
    return part


def count_samples(part: Any) -> int:
    """Return the number of samples of a part of a batch."""
    while not isinstance(part, torch.Tensor):
        first = next(iter(part.values() if isinstance(part, Mapping) else part))
        if isinstance(first, str):
            return len(part)
        part = first
    return part.shape[0]  # len() of a tensor is a Python function: 1 us more


def collate(items: Any, collated: bool, collate_fn: Callable[[Any], Any]) -> Batch:
    """Join samples to a `Batch`; a dataset with `collated = True` has done it already."""
    parts = items if collated else collate_fn(items)
    if not _is_pair(parts):
        raise TypeError(
            f"dataset: expected samples of two parts (x, y), got {_kinds(parts)}."
            " Make each sample (x, y); each part may be a dict of tensors."
        )
    return Batch(*parts)


def _is_pair(parts: Any) -> bool:
    # samples that are one text each are joined to a list of them, which may be two as well
    is_pair = isinstance(parts, Sequence) and len(parts) == 2
    return is_pair and not any(isinstance(part, str) for part in parts)


def _kinds(parts: Any) -> str:
    kinds = parts if isinstance(parts, (list, tuple)) else [parts]
    return f"({', '.join(type(part).__name__ for part in kinds)[:80]})"


class Loader:
    """Iterates a DataLoader and puts every batch on the device; the length is a full epoch's.

    Made by `make_loader`. `set_position` chooses the epoch and skips finished batches without
    reading them; those of a stream must be read again.

    Attributes:
        n_samples: Samples of the whole dataset, whatever share of them this process has.
        n_parts: Workers that divide a stream among them; 0 where samples have an index.
        transform: A function (x, y) -> (x, y) of each batch on the device, or None. All that it
            draws follows from (seed, epoch, batch, process), and nobody else's draws change.
        bad: The samples that could not be read and were left out, so far.
    """

    def __init__(
        self,
        loader: Iterable[Batch],
        loader_here: Iterable[Batch],
        sampler: KeyedSampler,
        device: torch.device,
        channels_last: bool,
        n_parts: int,
        seed: int,
        bad: BadSamples,
    ) -> None:
        self.loader, self.loader_here = loader, loader_here
        self.sampler, self.device, self.seed, self.bad = sampler, device, seed, bad
        self.n_samples, self.n_parts = sampler.n_samples, n_parts
        self.set_position = sampler.set_position
        self.transform: Callable[[Any, Any], Any] | None = None
        self._moves = device.type != "cpu" or channels_last
        self._channels_last = channels_last

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self.sampler.epoch, self.sampler.start
        batches = map(self._move, self.loader) if self._moves else self.loader
        if self.transform is None:
            yield from batches
            return
        for number, batch in enumerate(batches, start):
            yield self.transformed(batch, epoch, number)

    @property
    def dataset(self) -> Any:
        """The dataset as it was given."""
        return self._torch_loader().dataset.dataset

    def _torch_loader(self) -> DataLoader:
        is_wrapped = self.n_parts or self.bad.is_skipping
        return self.loader_here.loader if is_wrapped else self.loader_here

    def read(self, index: int) -> Batch:
        """Read a sample as a batch of one, with the draws of its first epoch; not of a stream."""
        loader = self._torch_loader()
        batch = loader.collate_fn(loader.dataset.__getitems__([(0, index)]))
        return self._move(batch[0] if self.bad.is_skipping else batch)

    def take_all(self) -> None:
        """Take every batch of a validation from now on, not the share of one process."""
        n_batches = math.ceil(self.n_samples / self.sampler.batch_size)
        self.sampler.batches = range(n_batches)

    def first(self) -> Batch:
        """Read the first batch of an epoch, without workers; it is not transformed."""
        return self._move(next(iter(self.loader_here)))

    def transformed(self, batch: Batch, epoch: int = 0, number: int = 0) -> Batch:
        """Return what `transform` makes of a batch, `number` being its place in the epoch.

        Raises:
            TypeError: It makes something else than (x, y).
        """
        with random_states_kept():
            seed_all(mix(self.seed, epoch, number))
            parts = self.transform(batch.x, batch.y)  # pylint: disable=not-callable; or None
        if not _is_pair(parts):
            raise TypeError(
                f"expected a function (x, y) -> (x, y), got one that returns {_kinds(parts)}."
                " Return both."
            )
        return Batch(*parts)

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
    rank: int = 0,
    world_size: int = 1,
    skip_bad: bool = False,
) -> Loader:
    """Return the loader of a dataset, or of one process's share of it.

    In training every process has equally many samples: of each round of `world_size` samples of the
    common order it takes one, and the first samples fill up the last round. In validation it takes
    every `world_size`-th batch, so that each batch is one of a run in one process.

    Two options choose the samples of an epoch by their classes, which `labels` of the dataset tells
    (of a Subset or ConcatDataset, the datasets in it). An epoch stays as long as without.

    - `balanced`: each class equally often, in any order (`utils.data.sampling.balanced`). Processes
      share this order as any other.
    - `per_class`: k samples of each of batch_size / k classes in a batch, which is always full
      (`utils.data.sampling.per_class`). Each process has whole batches.

    A stream (an `IterableDataset` with `__len__`, the samples of an epoch) differs:

    - It has an order of its own, whatever `shuffle` says; each `iter` must begin it anew.
    - Each worker must give its part of it (`torch.utils.data.get_worker_info`), and a batch comes
      from one worker. So the number of workers is part of the result, unlike elsewhere.
    - An epoch has ceil(len / batch_size) batches, and what comes beyond is left out. Where the
      parts of several workers end in short batches, these are up to one for each further worker.
      Validation has one worker, so that every sample counts.
    - `drop_last` leaves the short batches out, and counts on the fewest full ones that the workers
      may have: floor(len / batch_size) for one, up to one less for each further worker.
    - It cannot skip. A resumed epoch reads the batches that were done once more and drops them.
    - Each process reads the whole stream and keeps every `world_size`-th batch, in training without
      the last incomplete round. Its `__iter__` must not look at the process.

    Args:
        dataset: Map-style dataset of (x, y) or a stream with `__len__`; `deterministic` and, for a
            map-style one, `collated` are its options, `set_epoch` is a stream's.
        config: DATA_LOADER_CONFIG, a subset of `config.keys.LOADER_KEYS`.
        seed: Seed of the run.
        device: Where the batches are put.
        train: Training order (shuffled unless `shuffle` is False); otherwise every sample once
            in the dataset's order, whatever `shuffle`, `drop_last`, `balanced` and `per_class` say.
        channels_last: Memory format of 4-dimensional tensors.
        rank: Number of this process.
        world_size: Number of processes.
        skip_bad: Leave out samples for which the dataset raises OSError or ValueError: their
            batches get smaller. The training counts them (`Loader.bad`).

    Raises:
        TypeError: The dataset can neither be indexed nor is it a stream with a length.
        ValueError: The dataset is empty, `drop_last` leaves no batch of it, a process has no
            batch, a stream's workers are to persist, the classes of the dataset are not known or
            do not fit `balanced` or `per_class`, or samples of a stream are to be left out. While
            reading: no sample of a batch could be read.
    """
    is_stream = isinstance(dataset, IterableDataset)
    _check(dataset, config, is_stream, skip_bad)
    if is_stream and not train:
        config = {**config, "num_workers": min(1, config.get("num_workers", 0))}
    n_parts = max(1, config.get("num_workers", 0)) if is_stream else 0
    sampler = make_sampler(dataset, config, seed, train, rank, world_size)
    of_sampler = ("batch_size", "shuffle", "balanced", "per_class")
    config = {key: config[key] for key in config if key not in of_sampler}
    drop_last = config.pop("drop_last", False) and train
    if is_stream:
        keyed, batching = KeyedStream(dataset, seed, sampler, drop_last), {"batch_size": None}
    else:
        keyed, batching = KeyedDataset(dataset, seed), {"batch_sampler": sampler}
    join = config.pop("collate_fn", None) or stack
    join = functools.partial(collate, collate_fn=join)
    bad = BadSamples(dataset, skip_bad)

    def make(note: Callable[[list[BadSample]], None], **options: Any) -> Iterable[Batch]:
        if skip_bad:
            join_good = functools.partial(collate_good, collate=join)
            loader = DataLoader(GoodSamples(keyed), collate_fn=join_good, **batching, **options)
            return GoodBatches(loader, note)
        join_all = functools.partial(join, collated=keyed.collated)
        loader = DataLoader(keyed, collate_fn=join_all, **batching, **options)
        return StreamBatches(loader, sampler) if is_stream else loader

    loader = make(
        bad.note,
        pin_memory=bool(config.pop("pin_memory", False)) and device.type == "cuda",
        # a DataLoader draws its base seed from here, not from the global stream
        generator=torch.Generator().manual_seed(mix(seed, ORDER)),
        worker_init_fn=functools.partial(init_worker, config.pop("worker_init_fn", None)),
        **config,
    )
    loader_here = make(ignore, generator=torch.Generator())  # any, for the same reason
    own_seed = mix(seed, BATCH, rank)
    return Loader(loader, loader_here, sampler, device, channels_last, n_parts, own_seed, bad)


def _check(dataset: Any, config: Mapping[str, Any], is_stream: bool, skip_bad: bool) -> None:
    kind = type(dataset).__name__
    if is_stream and not hasattr(dataset, "__len__"):
        raise TypeError(
            f"dataset: expected a stream with __len__, got {kind} without. Add it: the samples of"
            " an epoch, of all workers together."
        )
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"dataset: expected one with __len__ and __getitem__, got {kind}. Samples are drawn by"
            " index, so that a run can be repeated and resumed; a stream is a"
            " torch.utils.data.IterableDataset."
        )
    if len(dataset) == 0:
        raise ValueError("dataset: expected at least one sample, got none. Check its folder.")
    if is_stream and config.get("persistent_workers"):
        raise ValueError(
            "DATA_LOADER_CONFIG: expected no persistent_workers with a stream, got True. Leave it"
            " out: workers are started for each epoch, to begin the stream anew."
        )
    if is_stream and skip_bad:
        raise ValueError(
            "ON_BAD_SAMPLE: expected stop with a stream, which ends with its first error, got skip."
            " Catch the error in its __iter__ and leave the sample out there."
        )
