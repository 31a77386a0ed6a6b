import logging
import pickle
import random
from pathlib import Path

import pytest
import torch

from utils.data import Arrays
from utils.data.bad_samples import BadSamples
from utils.data.loading import make_loader

CPU = torch.device("cpu")


class Broken:
    """Samples (a draw, index), of which some cannot be read."""

    def __init__(self, n=10, bad=(), error=OSError):
        self.n, self.bad, self.error = n, set(bad), error

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        draw = random.random()
        if index in self.bad:
            random.random()
            raise self.error(f"{index}.png: expected a picture, got a torn file")
        return draw, index


class BrokenArrays(Arrays):
    """A dataset that reads a batch at once, and fails for a whole one."""

    def __init__(self, bad):
        super().__init__(torch.arange(10.0), torch.arange(10))
        self.bad, self.n_batches = set(bad), 0

    def __getitem__(self, index):
        if index in self.bad:
            raise ValueError(f"row {index}: expected numbers")
        return super().__getitem__(index)

    def __getitems__(self, indices):
        self.n_batches += 1
        if self.bad & set(indices):
            raise ValueError(f"rows {indices}: expected numbers")
        return super().__getitems__(indices)


def loader_of(dataset, train=False, skip_bad=True, **config):
    return make_loader(dataset, {"batch_size": 4, **config}, 0, CPU, train, skip_bad=skip_bad)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_sample_is_left_out_of_its_batch(num_workers):
    loader = loader_of(Broken(bad=[1, 6, 7]), num_workers=num_workers)
    assert [batch.y.tolist() for batch in loader] == [[0, 2, 3], [4, 5], [8, 9]]
    assert len(loader) == 3 and loader.n_samples == 10
    text = "OSError: 6.png: expected a picture, got a torn file"
    assert sorted(loader.bad.found) == [1, 6, 7] and loader.bad.found[6] == ("sample 6", text)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_the_others_draw_and_their_order_stay(num_workers):
    whole = loader_of(Broken(), train=True, skip_bad=False)
    part = loader_of(Broken(bad=[3, 8]), train=True, num_workers=num_workers)
    for loader in (whole, part):
        loader.set_position(2, 1)
    for expected, batch in zip(whole, part, strict=True):
        kept = [i not in (3, 8) for i in expected.y.tolist()]
        assert torch.equal(batch.x, expected.x[kept]) and torch.equal(batch.y, expected.y[kept])


def test_without_bad_samples_the_bits_are_those_of_stop():
    batches = [loader_of(Broken(), train=True, skip_bad=skips) for skips in (True, False)]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.x, other.x) and torch.equal(one.y, other.y)


def test_reading_leaves_the_generators_of_the_main_process():
    state = random.getstate()
    list(loader_of(Broken(bad=[1])))
    assert random.getstate() == state


def test_a_batch_that_is_read_at_once_is_read_one_by_one_when_it_fails():
    dataset = BrokenArrays(bad=[5])
    loader = loader_of(dataset)
    batches = list(loader)
    assert dataset.n_batches == 3 and list(loader.bad.found) == [5]
    assert [batch.y.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 6, 7], [8, 9]]
    assert [batch.x.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 6, 7], [8, 9]]


def test_a_sample_that_can_be_read_at_the_second_try_is_kept():
    class Shaky(BrokenArrays):
        def __getitem__(self, index):
            return Arrays.__getitem__(self, index)

    loader = loader_of(Shaky(bad=[5]))
    assert torch.cat([batch.y for batch in loader]).tolist() == list(range(10))
    assert not loader.bad.found


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_without_a_good_sample_is_an_error(num_workers):
    loader = loader_of(Broken(bad=range(4, 8)), num_workers=num_workers)
    message = "got none of 4; the first: OSError: 4.png: expected a picture, .* raise batch_size"
    with pytest.raises(ValueError, match=message):
        list(loader)
    assert sorted(loader.bad.found) == [4, 5, 6, 7]


def test_other_errors_are_bugs_and_arrive():
    with pytest.raises(KeyError, match="2.png"):
        list(loader_of(Broken(bad=[2], error=KeyError)))


@pytest.mark.parametrize("bad", [[], [0]])
def test_the_first_batch_is_read_without_a_word(bad, caplog):
    loader = loader_of(Broken(bad=bad))
    with caplog.at_level(logging.WARNING, "plumbline"):
        assert loader.first().y.tolist() == [i for i in range(4) if i not in bad]
    assert not loader.bad.found and not caplog.text


def test_each_file_is_told_once_although_it_comes_again(caplog):
    dataset = Broken(bad=[2, 7])
    dataset.names = [f"cat/{i}" for i in range(5)]  # each twice
    loader = loader_of(dataset)
    with caplog.at_level(logging.WARNING, "plumbline"):
        for epoch in range(3):
            loader.set_position(epoch)
            list(loader)
    assert caplog.messages == [
        "left out cat/2: OSError: 2.png: expected a picture, got a torn file"
    ]
    assert {index: name for index, (name, _) in loader.bad.found.items()} == {
        2: "cat/2",
        7: "cat/2",
    }


def test_without_names_the_files_are_told():
    dataset = Broken(bad=[2])
    dataset.files = [Path(f"{i}.png") for i in range(10)]
    loader = loader_of(dataset)
    list(loader)
    assert loader.bad.found[2][0] == "2.png"


def test_names_that_do_not_fit_the_samples_are_not_used():
    dataset = Broken(bad=[2])
    dataset.names = ["a", "b", "c"]
    loader = loader_of(dataset)
    list(loader)
    assert loader.bad.found[2][0] == "sample 2"


def test_what_was_found_is_state(caplog):
    loader, other = loader_of(Broken(bad=[2])), loader_of(Broken(bad=[2]))
    list(loader)
    other.bad.load_state_dict(loader.bad.state_dict())
    assert other.bad.found == loader.bad.found
    caplog.clear()
    list(other)
    assert not caplog.messages


def test_more_than_half_is_too_much():
    bad = BadSamples(Broken(4), is_skipping=True)
    for index in range(2):
        bad.add(index, "OSError: gone")
    bad.check("VAL_DATASET")
    bad.add(2, "OSError: gone")
    with pytest.raises(ValueError, match="VAL_DATASET: expected at least half of the 4 samples to"):
        bad.check("VAL_DATASET")


def test_a_loader_that_leaves_out_can_be_pickled():
    copy = pickle.loads(pickle.dumps(loader_of(Broken(bad=[1]))))
    assert len(list(copy)) == 3 and list(copy.bad.found) == [1]
