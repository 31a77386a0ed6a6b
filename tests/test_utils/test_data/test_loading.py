import collections
import functools
import multiprocessing
import os
import pickle
import random
import signal
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, default_collate, get_worker_info

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


class Stream(IterableDataset):
    """The samples of Drawing in their order; each of n workers gives every n-th."""

    def __init__(self, n=10):
        self.samples = Drawing(n)

    def __len__(self):
        return len(self.samples)

    def __iter__(self):
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in range(first, len(self.samples), step):
            yield self.samples[index]


def loader_of(dataset, train=True, seed=0, device=CPU, channels_last=False, share=(0, 1), **config):
    config = {"batch_size": 4, **config}
    return make_loader(dataset, config, seed, device, train, channels_last, *share)


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


@pytest.mark.parametrize("dataset", [Drawing(), Arrays(torch.ones(10), torch.ones(10)), Stream()])
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
    assert type(batch.y) is tuple
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


# --------------------------------------------------------------------------------- streams


def indices(batches):
    return [batch.y.tolist() for batch in batches]


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"train": False, "drop_last": True}])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_stream_has_its_own_order(options, num_workers):
    loader = loader_of(Stream(), num_workers=num_workers, **options)
    assert indices(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(loader) == 3 and loader.n_samples == 10


def test_each_worker_gives_batches_of_its_part_of_a_stream():
    loader = loader_of(Stream(), num_workers=2)
    # [9] would be a fourth batch, of an epoch of ceil(10 / 4)
    assert indices(loader) == [[0, 2, 4, 6], [1, 3, 5, 7], [8]]
    assert len(loader) == 3


class Uneven(Stream):
    """The first of two workers has 2 samples, the second one the others."""

    def __iter__(self):
        part = range(2) if get_worker_info().id == 0 else range(2, len(self))
        yield from (self.samples[index] for index in part)


def test_parts_of_a_stream_may_differ_in_length():
    batches = [[0, 1], [2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13], [14, 15, 16, 17]]
    loader = loader_of(Uneven(18), num_workers=2)
    assert len(loader) == 5 and indices(loader) == indices(loader) == batches


@pytest.mark.parametrize(
    ("stream", "num_workers", "batches"),
    [
        (Stream(11), 0, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        # of 10 samples, two workers may have 5 and 5, and so 3 in short batches twice
        (Stream(10), 2, [[0, 2, 4, 6]]),
        (Stream(11), 2, [[0, 2, 4, 6], [1, 3, 5, 7]]),
        (Uneven(10), 2, [[2, 3, 4, 5]]),
    ],
)
def test_drop_last_leaves_out_the_short_batches_of_every_worker(stream, num_workers, batches):
    loader = loader_of(stream, num_workers=num_workers, drop_last=True)
    assert indices(loader) == batches
    assert len(loader) == len(batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_draws_of_a_stream_follow_from_the_position_alone(num_workers):
    options = {"num_workers": num_workers, "seed": 5, "epoch": 3}
    torch.manual_seed(1)
    first = read(Stream(), **options)
    loader = loader_of(Stream(), num_workers=num_workers, seed=5)
    loader.set_position(3)
    batches = []
    for batch in loader:
        batches.append(batch.x)
        # what a logger may do
        random.random(), np.random.rand(3), torch.rand(3), torch.manual_seed(7)
    assert torch.equal(torch.cat(batches), first)
    assert not torch.equal(read(Stream(), **{**options, "seed": 6}), first)


def test_every_sample_worker_and_epoch_of_a_stream_has_its_own_draws():
    draws = torch.cat([read(Stream(16), epoch=e, num_workers=2)[:, 1:] for e in range(3)])
    assert all(len(column.unique()) == 3 * 16 for column in draws.T)


def test_one_worker_gives_the_bits_of_none():
    assert torch.equal(read(Stream(), num_workers=1), read(Stream()))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_a_stream_goes_on_from_a_position_with_the_same_bits(start, num_workers):
    options = {"epoch": 2, "num_workers": num_workers}
    whole = read(Stream(12), **options)
    loader = loader_of(Stream(12), num_workers=num_workers)
    loader.set_position(2, start)
    batches = list(loader)
    assert len(batches) == 3 - start and len(loader) == 3
    assert torch.equal(torch.cat([torch.empty(0, 4), *(b.x for b in batches)]), whole[4 * start :])


class Shuffles(Stream):
    """Draws its order before its first sample is asked for."""

    def __iter__(self):
        return iter([(index, index) for index in random.sample(range(10), 10)])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_a_stream_draws_at_its_beginning_is_keyed(num_workers):
    first = read(Shuffles(), epoch=1, num_workers=num_workers)
    assert sorted(first.tolist()) == list(range(10))
    random.seed(3)
    assert torch.equal(read(Shuffles(), epoch=1, num_workers=num_workers), first)
    assert not torch.equal(read(Shuffles(), epoch=2, num_workers=num_workers), first)


def test_a_deterministic_stream_is_not_seeded():
    random.seed(1)
    expected = random.sample(range(10), 10)
    random.seed(1)
    stream = Shuffles()
    stream.deterministic = True
    assert read(stream).tolist() == expected


class Told(Stream):
    """Samples (epoch that it was told, process id)."""

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        yield from ((self.epoch, os.getpid()) for _ in range(10))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_with_set_epoch_is_told_the_epoch(num_workers):
    loader = loader_of(Told(), num_workers=num_workers)
    for epoch in (0, 4, 5):
        loader.set_position(epoch)
        assert {e for batch in loader for e in batch.x.tolist()} == {epoch}


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield 0, os.getpid()


class EndlessOfTen(Endless):
    def __len__(self):
        return 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_a_stream_gives_beyond_its_length_is_left(num_workers):
    loader = loader_of(EndlessOfTen(), num_workers=num_workers)
    assert [len(batch.x) for batch in loader] == [4, 4, 4]
    assert not multiprocessing.active_children()


class Short(Stream):
    """Has fewer samples than it says."""

    def __len__(self):
        return 15


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [0, 3])
def test_a_stream_shorter_than_its_length_is_an_error_at_its_end(num_workers, start):
    loader = loader_of(Short(9), num_workers=num_workers)
    loader.set_position(0, start)
    given = []
    message = r"dataset: expected 4 batches of 4 from a stream of 15 samples, got 3. Correct its __"
    with pytest.raises(ValueError, match=message):
        for batch in loader:
            given.append(batch)
    assert len(given) == max(0, 3 - start)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_first_of_a_stream_is_read_in_this_process_and_changes_nothing(num_workers):
    loader = loader_of(Told(), num_workers=num_workers)
    assert set(loader.first().y.tolist()) == {os.getpid()}
    loader = loader_of(Stream(), num_workers=num_workers)
    assert torch.equal(loader.first().x, read(Stream())[:4])
    batches = iter(loader)
    x = [next(batches).x]
    loader.first()
    x += [batch.x for batch in batches]
    assert torch.equal(torch.cat(x), read(Stream(), num_workers=num_workers))


@pytest.mark.parametrize("dataset", [Drawing(), Stream()])
def test_the_position_is_read_with_the_first_batch(dataset):
    loader = loader_of(dataset)
    batches = iter(loader)
    loader.set_position(3, 1)  # as Lightning does, which makes its iterator before an epoch
    assert torch.equal(next(batches).x, read(dataset, epoch=3)[4:8])


def test_a_stream_of_dicts_is_joined_by_the_users_function():
    class Dicts(Stream):
        def __iter__(self):
            yield from ({"length": index} for index in range(10))

    def join(items):
        return default_collate(items)["length"], len(items)

    batch = next(iter(loader_of(Dicts(), collate_fn=join)))
    assert isinstance(batch, Batch) and batch.x.tolist() == [0, 1, 2, 3] and batch.y == 4


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_a_stream_raises_arrives(num_workers):
    class Torn(Stream):
        def __iter__(self):
            yield 0, 0
            raise OSError("shard 1: expected a shard, got a torn file")

    loader = loader_of(Torn(), num_workers=num_workers)
    state = random.getstate()
    with pytest.raises(OSError, match="shard 1: expected a shard"):
        next(iter(loader))
    assert random.getstate() == state


@pytest.mark.slow
def test_a_stream_is_read_by_spawned_workers_too():
    options = {"epoch": 3, "start": 1, "num_workers": 2}
    expected = read(Stream(), **options)
    assert torch.equal(read(Stream(), **options, multiprocessing_context="spawn"), expected)


@pytest.mark.parametrize("dataset", [Drawing(), Stream()])
def test_a_loader_can_be_pickled(dataset):
    loader = loader_of(dataset)
    loader.set_position(2)
    copy = pickle.loads(pickle.dumps(loader))
    assert torch.equal(copy.first().x, loader.first().x)
    copy.set_position(1)
    assert torch.equal(torch.cat([batch.x for batch in copy]), read(dataset, epoch=1))


# ----------------------------------------------------------------------- several processes


def loaders_of(dataset, world_size, **options):
    return [loader_of(dataset, share=(rank, world_size), **options) for rank in range(world_size)]


@pytest.mark.parametrize("n", [19, 51])
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_each_stretch_of_the_training_order(n, world_size):
    order = read(Drawing(n), epoch=1, batch_size=n)
    wrapped = torch.cat([order, order[: -n % world_size]])
    loaders = loaders_of(Drawing(n), world_size)
    for loader in loaders:
        loader.set_position(1)
        assert loader.n_samples == n
    for k, batches in enumerate(zip(*loaders, strict=True)):
        stretch = wrapped[4 * world_size * k : 4 * world_size * (k + 1)]
        for rank, batch in enumerate(batches):
            assert torch.equal(batch.x, stretch[rank::world_size])
    assert k + 1 == len(loaders[0]) == len(loaders[-1]) == -(-len(wrapped) // (4 * world_size))


def test_a_process_goes_on_from_a_position():
    expected = read(Drawing(19), epoch=1, share=(1, 2))
    assert torch.equal(read(Drawing(19), epoch=1, start=2, share=(1, 2)), expected[8:])


def test_there_may_be_more_processes_than_training_samples():
    first, *others = [indices(loader) for loader in loaders_of(Drawing(1), 3)]
    assert first == [[0]] and others == [first, first]


def test_drop_last_acts_on_the_samples_of_a_process():
    # 10 of 19 for each
    for loader in loaders_of(Drawing(19), 2, drop_last=True):
        assert [len(batch.x) for batch in loader] == [4, 4] and len(loader) == 2
    message = "expected a batch_size of at most 10 samples with drop_last, got 11"
    with pytest.raises(ValueError, match=message):
        loaders_of(Drawing(19), 2, drop_last=True, batch_size=11)


@pytest.mark.parametrize("n", [19, 51])
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("make", [Drawing, Stream])
def test_processes_share_whole_batches_in_validation(n, world_size, make):
    batches = [batch.x for batch in loader_of(make(n), train=False)]
    for rank, loader in enumerate(loaders_of(make(n), world_size, train=False)):
        own = [batch.x for batch in loader]
        assert len(own) == len(loader) == len(batches[rank::world_size])
        assert all(map(torch.equal, own, batches[rank::world_size]))


@pytest.mark.parametrize("n", [19, 51])
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_processes_share_the_whole_rounds_of_a_streams_batches(n, world_size, num_workers):
    batches = [batch.x for batch in loader_of(Stream(n), num_workers=num_workers)]
    n_each = len(batches) // world_size
    loaders = loaders_of(Stream(n), world_size, num_workers=num_workers)
    for rank, loader in enumerate(loaders):
        own = [batch.x for batch in loader]
        assert len(own) == len(loader) == n_each and loader.n_samples == n
        assert all(map(torch.equal, own, batches[rank::world_size]))
        loader.set_position(0, 1)
        assert all(map(torch.equal, [batch.x for batch in loader], own[1:]))


@pytest.mark.parametrize("make", [Drawing, Stream])
@pytest.mark.parametrize("train", [True, False])
def test_first_is_the_first_of_the_process(make, train):
    for loader in loaders_of(make(19), 3, train=train):
        assert torch.equal(loader.first().x, next(iter(loader)).x)


@pytest.mark.parametrize(
    ("dataset", "train"), [(Drawing(), False), (Stream(), False), (Stream(), True)]
)
def test_fewer_batches_than_processes_are_refused(dataset, train):
    message = "expected at least one batch for each of 4 processes, got 3. Lower batch_size."
    for rank in range(4):
        with pytest.raises(ValueError, match=message):
            loader_of(dataset, train, share=(rank, 4))


# --------------------------------------------------------------------------------- refusals


def test_a_stream_without_a_length_is_refused():
    message = "dataset: expected a stream with __len__, got Endless without. Add it: the samples"
    with pytest.raises(TypeError, match=message):
        loader_of(Endless())


def test_a_stream_whose_workers_persist_is_refused():
    message = "DATA_LOADER_CONFIG: expected no persistent_workers with a stream, got True. Leave it"
    with pytest.raises(ValueError, match=message):
        loader_of(Stream(), num_workers=1, persistent_workers=True)
    assert len(read(Stream(), num_workers=1, persistent_workers=False)) == 10


@pytest.mark.parametrize("dataset", [iter([]), {1, 2}])
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
