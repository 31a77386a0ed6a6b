import collections
import functools
import multiprocessing
import os
import random
import signal
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, default_collate

from utils.data import Arrays
from utils.data.loading import Batch, make_loader

CPU = torch.device("cpu")


class Drawing:
    """Samples (index and one draw of each library, index)."""

    def __init__(self, n=10):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        draws = [index, random.random(), np.random.rand(), torch.rand(()).item()]
        return torch.tensor(draws, dtype=torch.float64), index


class Returns:
    """Three samples, made by a function of the index."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.make(index)


def loader_of(dataset, train=True, seed=0, device=CPU, channels_last=False, **config):
    return make_loader(dataset, {"batch_size": 4, **config}, seed, device, train, channels_last)


def read(dataset, epoch=0, start=0, **options):
    """Return x of one epoch."""
    loader = loader_of(dataset, **options)
    loader.set_position(epoch, start)
    return torch.cat([batch.x for batch in loader])


def order(**options):
    return read(Drawing(), **options)[:, 0].tolist()


# ----------------------------------------------------------------------------------- order


def test_order_follows_from_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = order(epoch=2)
    torch.manual_seed(2)
    random.seed(3)
    assert order(epoch=2) == first != list(range(10))
    assert sorted(first) == list(range(10))
    assert order(epoch=3) != first
    assert order(epoch=2, seed=1) != first


def test_shuffle_may_be_off():
    assert order(shuffle=False) == list(range(10))


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_start_skips_batches_without_reading_them(start):
    indices = []
    dataset = Returns(lambda index: indices.append(index) or (index, index))
    loader = loader_of(dataset, batch_size=1)
    loader.set_position(0)
    assert len(list(loader)) == 3
    whole = indices[:]
    indices.clear()
    loader.set_position(0, start)
    assert len(list(loader)) == 3 - start
    assert indices == whole[start:]
    assert len(loader) == 3  # a full epoch's


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"),
    [
        (1, False, [1] * 10),
        (7, False, [7, 3]),
        (7, True, [7]),
        (5, True, [5, 5]),
        (64, False, [10]),
    ],
)
def test_sizes_of_batches(batch_size, drop_last, sizes):
    loader = loader_of(Drawing(), batch_size=batch_size, drop_last=drop_last)
    assert [len(batch.x) for batch in loader] == sizes
    assert len(loader) == len(sizes)


def test_validation_reads_every_sample_in_order_whatever_the_config_says():
    options = {"shuffle": True, "drop_last": True, "train": False}
    assert order(**options) == list(range(10))
    assert len(loader_of(Drawing(), **options)) == 3


# --------------------------------------------------------------------------------- randomness


@pytest.mark.parametrize(
    "workers",
    [
        {"num_workers": 1},
        {"num_workers": 2, "prefetch_factor": 3},
        pytest.param(
            {"num_workers": 1, "multiprocessing_context": "spawn"}, marks=pytest.mark.slow
        ),
    ],
)
def test_workers_change_nothing(workers):
    options = {"epoch": 3, "start": 1, "seed": 5}
    assert torch.equal(read(Drawing(), **options, **workers), read(Drawing(), **options))


def test_workers_that_persist_hear_of_the_next_epoch():
    loader = loader_of(Drawing(), num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 4):
        loader.set_position(epoch)
        x = torch.cat([batch.x for batch in loader])
        assert torch.equal(x, read(Drawing(), epoch=epoch))


def test_every_sample_and_epoch_has_its_own_draws():
    draws = torch.cat([read(Drawing(), epoch=epoch)[:, 1:] for epoch in range(3)])
    assert all(len(column.unique()) == 30 for column in draws.T)


def test_draws_follow_the_sample_not_its_place_in_the_batch():
    shuffled = read(Drawing(), batch_size=3)
    assert torch.equal(shuffled[shuffled[:, 0].argsort()], read(Drawing(), shuffle=False))


class Batches(Drawing):
    deterministic = True

    def __getitems__(self, indices):
        return [(index, random.random()) for index in indices]


@pytest.mark.parametrize("dataset", [Drawing(), Arrays(torch.ones(10), torch.ones(10))])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_leaves_the_streams_of_the_main_process(dataset, num_workers):
    def state():
        numbers = np.random.get_state()[1].tolist()
        return random.getstate(), numbers, torch.get_rng_state().tolist()

    before = state()
    read(dataset, num_workers=num_workers)
    loader_of(dataset, num_workers=num_workers).first()
    assert state() == before


def test_a_deterministic_dataset_is_asked_for_batches_and_nothing_is_seeded():
    random.seed(1)
    expected = [random.random() for _ in range(10)]
    random.seed(1)
    batches = list(loader_of(Batches()))
    assert torch.cat([batch.y for batch in batches]).tolist() == expected
    assert torch.cat([batch.x for batch in batches]).tolist() == order()


def test_a_deterministic_dataset_without_getitems_is_read_one_by_one():
    dataset = Returns(lambda index: (index, random.random()))
    dataset.deterministic = True
    random.seed(1)
    expected = [random.random() for _ in range(3)]
    random.seed(1)
    assert next(iter(loader_of(dataset))).y.tolist() == expected


# -------------------------------------------------------------------------- samples to batches


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_collated_dataset_gives_its_batches_itself(num_workers):
    data = Arrays(torch.arange(10.0), torch.arange(10))
    assert data.collated
    batches = list(loader_of(data, num_workers=num_workers))
    assert all(isinstance(batch, Batch) for batch in batches)
    assert torch.cat([batch.y for batch in batches]).tolist() == order()


@pytest.mark.parametrize("deterministic", [False, True])
def test_samples_read_one_by_one_are_joined_although_collated_is_said(deterministic):
    dataset = Returns(lambda index: (index, -index))
    dataset.collated, dataset.deterministic = True, deterministic
    batch = next(iter(loader_of(dataset, batch_size=2, shuffle=False)))
    assert (batch.x.tolist(), batch.y.tolist()) == ([0, 1], [0, -1])


def test_parts_may_be_dicts_and_tuples():
    dataset = Returns(lambda index: ({"image": torch.ones(2), "name": str(index)}, (index, 0.5)))
    batch = next(iter(loader_of(dataset, shuffle=False)))
    assert batch.x["image"].shape == (3, 2) and batch.x["name"] == ["0", "1", "2"]
    assert batch.y[0].tolist() == [0, 1, 2] and batch.y[1].tolist() == [0.5] * 3


def test_collate_fn_of_the_user():
    dataset = Returns(lambda index: {"length": index})

    def join(items):
        return default_collate(items)["length"], len(items)

    assert next(iter(loader_of(dataset, collate_fn=join, shuffle=False))).x.tolist() == [0, 1, 2]


def mark(folder, worker):
    (folder / str(worker)).touch()


def test_worker_init_fn_of_the_user(tmp_path):
    loader = loader_of(Drawing(), num_workers=2, worker_init_fn=functools.partial(mark, tmp_path))
    list(loader)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


@pytest.mark.parametrize(
    ("sample", "got"),
    [
        (torch.zeros(2), "Tensor"),
        ({"x": 0, "y": 1}, "dict"),
        ((0, 1, 2), "Tensor, Tensor, Tensor"),
        ("text", "str, str"),
        (0, "Tensor"),
    ],
)
def test_samples_that_are_no_pair(sample, got):
    loader = loader_of(Returns(lambda index: sample), batch_size=2)
    with pytest.raises(TypeError, match=rf"expected samples of two parts \(x, y\), got \({got}\)"):
        next(iter(loader))


def test_a_collate_fn_that_gives_no_pair():
    with pytest.raises(TypeError, match=r"expected samples of two parts .*got \(str\)"):
        next(iter(loader_of(Drawing(), collate_fn=lambda items: "xy")))


# ---------------------------------------------------------------------------------- device

Pair = collections.namedtuple("Pair", "image size")


def test_every_part_is_put_on_the_device():
    image = torch.zeros(3, 4, 5)
    dataset = Returns(lambda index: (Pair(image, {"px": [1.0, 2.0]}), "name"))
    batch = next(iter(loader_of(dataset, device=torch.device("meta"))))
    assert isinstance(batch, Batch) and isinstance(batch.x, Pair)
    assert {t.device.type for t in (batch.x.image, *batch.x.size["px"])} == {"meta"}
    assert list(batch.y) == ["name"] * 3


def test_channels_last_is_for_pictures_alone():
    dataset = Returns(lambda index: (torch.zeros(3, 4, 5), torch.zeros(3, 4)))
    for batch in (loader_of(dataset, channels_last=True).first(),
                  next(iter(loader_of(dataset, channels_last=True)))):  # fmt: skip
        assert batch.x.is_contiguous(memory_format=torch.channels_last)
        assert not batch.x.is_contiguous() and batch.y.is_contiguous()


def test_pin_memory_is_left_alone_without_cuda():
    with warnings.catch_warnings(action="error"):
        assert len(read(Drawing(), pin_memory=True)) == 10


def test_first_reads_the_first_batch_in_this_process():
    dataset = Returns(lambda index: (os.getpid(), index))
    loader = loader_of(dataset, num_workers=2)
    batch = loader.first()
    assert set(batch.x.tolist()) == {os.getpid()}
    loader.set_position(0)
    assert batch.y.tolist() == next(iter(loader)).y.tolist()
    assert torch.equal(loader_of(Drawing()).first().x, read(Drawing())[:4])


# --------------------------------------------------------------------------------- workers


class Process(Drawing):
    """Samples (process id, whether SIGTERM ends the process)."""

    def __getitem__(self, index):
        return os.getpid(), signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_workers_ignore_ctrl_c_and_end_at_sigterm():
    numbers = signal.SIGINT, signal.SIGTERM
    # as a run does; a forked worker inherits the handlers
    former = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        batches = iter(loader_of(Process(40), num_workers=1))
        (worker,) = set(next(batches).x.tolist())
        assert worker in [child.pid for child in multiprocessing.active_children()]
        os.kill(worker, signal.SIGINT)
        rest = list(batches)
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)
    assert len(rest) == 9 and {pid for batch in rest for pid in batch.x.tolist()} == {worker}
    assert all(batch.y.all() for batch in rest)


def break_down(index):
    raise OSError(f"picture {index}.png: expected a picture, got a torn file")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_a_dataset_raises_arrives(num_workers):
    loader = loader_of(Returns(break_down), num_workers=num_workers)
    with pytest.raises(OSError, match=r"picture \d.png: expected a picture, got a torn file"):
        next(iter(loader))


# --------------------------------------------------------------------------------- refusals


class Endless(IterableDataset):
    def __iter__(self):
        yield 0, 0


@pytest.mark.parametrize("dataset", [Endless(), iter([])])
def test_samples_without_an_index_are_refused(dataset):
    with pytest.raises(TypeError, match="dataset: expected one with __len__ and __getitem__, got"):
        loader_of(dataset)


@pytest.mark.parametrize("train", [True, False])
def test_an_empty_dataset_is_refused(train):
    with pytest.raises(ValueError, match="dataset: expected at least one sample, got none"):
        loader_of(Drawing(0), train=train)


def test_drop_last_that_leaves_nothing_is_refused():
    message = "expected a batch_size of at most 10 samples with drop_last, got 11"
    with pytest.raises(ValueError, match=message):
        loader_of(Drawing(), batch_size=11, drop_last=True)
    assert len(loader_of(Drawing(), batch_size=11, drop_last=True, train=False)) == 1
