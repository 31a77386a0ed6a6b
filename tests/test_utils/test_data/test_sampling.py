import collections
import itertools
import logging
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from utils.data import Arrays
from utils.data.loading import make_loader
from utils.data.sampling import find_labels, take_turns

CPU = torch.device("cpu")
COUNTS = [40, 13, 7, 2]  # samples of the classes 0..3, 62 in all
LABELS = [number for number, n in enumerate(COUNTS) for _ in range(n)]


class Labelled(Dataset):
    """Samples (class, index)."""

    def __init__(self, labels=tuple(LABELS)):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.labels[index], index


class Remembers(Labelled):
    """Knows what was read."""

    def __init__(self):
        super().__init__()
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def loader_of(dataset=None, train=True, seed=0, share=(0, 1), **config):
    dataset = Labelled() if dataset is None else dataset
    return make_loader(dataset, {"batch_size": 8, **config}, seed, CPU, train, False, *share)


def epoch_of(loader, epoch=0, start=0):
    """Return (classes, samples) of each batch."""
    loader.set_position(epoch, start)
    return [(batch.x.tolist(), batch.y.tolist()) for batch in loader]


def joined(batches):
    return [list(itertools.chain(*parts)) for parts in zip(*batches, strict=True)]


CHOICES = pytest.mark.parametrize("choice", [{"balanced": True}, {"per_class": 4}])


# ------------------------------------------------------------------------------------ balanced


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_balanced_gives_each_class_equally_often_and_an_epoch_as_long_as_ever(epoch):
    batches = epoch_of(loader_of(balanced=True), epoch)
    classes, samples = joined(batches)
    assert len(samples) == 62 and len(batches) == 8 == len(loader_of(balanced=True))
    assert sorted(collections.Counter(classes).values()) == [15, 15, 16, 16]
    times = collections.Counter(samples)
    for number in range(4):
        of_class = [times[i] for i in range(62) if LABELS[i] == number]
        assert max(of_class) - min(of_class) <= 1  # no sample comes again before the others
    assert all(times[i] for i in range(40, 62))  # those of the small classes all come


def test_the_rest_of_an_epoch_goes_to_other_classes_and_samples_in_turn():
    epochs = [joined(epoch_of(loader_of(balanced=True), epoch)) for epoch in range(12)]
    counts = [collections.Counter(classes) for classes, _ in epochs]
    assert {number for count in counts for number in count if count[number] == 16} == {0, 1, 2, 3}
    assert {i for _, samples in epochs for i in samples} == set(range(62))


def test_a_large_class_beside_a_single_sample():
    classes, samples = joined(epoch_of(loader_of(Labelled([7] * 9 + [-1]), balanced=True)))
    assert collections.Counter(classes) == {7: 5, -1: 5} and samples.count(9) == 5


def test_balanced_classes_are_mixed():
    sizes = [len(set(classes)) for classes, _ in epoch_of(loader_of(balanced=True))]
    assert min(sizes) >= 2 and sum(sizes) / len(sizes) > 3


# ----------------------------------------------------------------------------------- per class


def test_per_class_gives_batches_of_so_many_samples_of_each_class():
    batches = epoch_of(loader_of(per_class=4))
    assert len(batches) == 8 == len(loader_of(per_class=4))  # of 62 samples, rounded up
    for classes, samples in batches:
        assert list(collections.Counter(classes).values()) == [4, 4]
        twice = [i for i, n in collections.Counter(samples).items() if n > 1]
        assert all(LABELS[i] == 3 for i in twice)  # the class of two samples
    turns = collections.Counter(number for classes, _ in batches for number in set(classes))
    assert turns == {0: 4, 1: 4, 2: 4, 3: 4}
    seen = collections.Counter(joined(batches)[1])
    assert [seen[i] for i in range(40, 53)].count(1) == 10  # 16 of 13: all, and three again


def test_classes_that_do_not_come_out_even_have_equal_turns_over_the_epoch():
    batches = epoch_of(loader_of(Labelled([0, 1, 2, 3, 4] * 12), batch_size=6, per_class=2))
    turns = collections.Counter(number for classes, _ in batches for number in set(classes))
    assert set(turns.values()) == {6} and all(len(set(classes)) == 3 for classes, _ in batches)


@pytest.mark.parametrize(("n_items", "size"), [(5, 3), (5, 5), (7, 1), (2, 5), (1, 3)])
def test_turns_are_equal_and_groups_distinct(n_items, size):
    groups = take_turns(range(n_items), size, torch.Generator().manual_seed(0))
    counts = collections.Counter(range(n_items))
    for group in itertools.islice(groups, 40):
        counts.update(group)
        assert len(group) == size and len(set(group)) == min(size, n_items)
        # within a round of turns; a group that begins a new one holds some of both
        assert max(counts.values()) - min(counts.values()) <= 2
    assert sum(counts.values()) == 40 * size + n_items


def test_per_class_and_drop_last():
    batches = epoch_of(loader_of(per_class=2, drop_last=True))
    assert len(batches) == 7 and all(len(samples) == 8 for _, samples in batches)


def test_small_classes_are_told(caplog):
    with caplog.at_level(logging.WARNING, "plumbline"):
        loader_of(per_class=2)
        assert not caplog.text
        loader_of(per_class=4)
    assert "1 of 4 classes have fewer than per_class=4 samples" in caplog.text


# -------------------------------------------------------------------------------- what is kept


@CHOICES
def test_the_order_follows_from_seed_and_epoch_alone(choice):
    first = epoch_of(loader_of(**choice), epoch=2)
    torch.manual_seed(1)
    assert epoch_of(loader_of(**choice), epoch=2) == first
    assert epoch_of(loader_of(**choice, num_workers=2), epoch=2) == first
    assert epoch_of(loader_of(**choice), epoch=3) != first
    assert epoch_of(loader_of(**choice, seed=1), epoch=2) != first


@CHOICES
@pytest.mark.parametrize("start", [1, 3, 8])
def test_a_resumed_epoch_goes_on_without_reading_what_is_done(choice, start):
    whole = epoch_of(loader_of(**choice), epoch=1)
    dataset = Remembers()
    assert epoch_of(loader_of(dataset, **choice), epoch=1, start=start) == whole[start:]
    assert dataset.read == [i for _, samples in whole[start:] for i in samples]


@CHOICES
def test_validation_is_left_alone(choice):
    assert joined(epoch_of(loader_of(train=False, **choice)))[1] == list(range(62))


def test_processes_share_the_balanced_order():
    (_, order) = joined(epoch_of(loader_of(balanced=True)))
    parts = [joined(epoch_of(loader_of(balanced=True, share=(r, 2))))[1] for r in range(2)]
    assert parts == [order[0::2], order[1::2]]


@pytest.mark.parametrize(("world_size", "n_batches"), [(2, 4), (3, 3)])  # of 31 and 21 samples
def test_processes_have_whole_batches_of_classes_and_equally_many(world_size, n_batches):
    loaders = [loader_of(per_class=4, share=(rank, world_size)) for rank in range(world_size)]
    parts = [epoch_of(loader) for loader in loaders]
    assert {len(part) for part in parts} | {len(loader) for loader in loaders} == {n_batches}
    for classes, _ in itertools.chain(*parts):
        assert list(collections.Counter(classes).values()) == [4, 4]
    assert len({str(part) for part in parts}) == world_size


@CHOICES
def test_a_loader_that_chooses_can_be_pickled(choice):
    loader = loader_of(Arrays(torch.arange(62), torch.tensor(LABELS)), **choice)
    assert epoch_of(pickle.loads(pickle.dumps(loader))) == epoch_of(loader)


# -------------------------------------------------------------------------------------- labels


def test_labels_are_found_through_parts_of_datasets():
    first, second = Labelled([3, 1, 2]), Arrays(torch.zeros(2, 1), torch.tensor([5, 4]))
    both = ConcatDataset([Subset(first, [2, 0]), second])
    assert find_labels(both).tolist() == [2, 3, 5, 4]
    assert find_labels(ConcatDataset([first, [0]])) is None
    assert find_labels(Subset([0, 1], [1])) is None


@pytest.mark.parametrize(
    "labels", [[0, 1, 0], torch.tensor([0, 1, 0]), np.array([0, 1, 0], np.uint8), (0, 1, 0)]
)
def test_labels_may_be_any_sequence_of_whole_numbers(labels):
    classes, _ = joined(epoch_of(loader_of(Labelled(labels), balanced=True)))
    assert len(classes) == 3 and set(classes) == {0, 1}


def test_targets_that_are_no_classes_are_no_labels():
    assert Arrays(torch.zeros(2), torch.tensor([1, 0])).labels.tolist() == [1, 0]
    assert Arrays(torch.zeros(2), torch.zeros(2)).labels is None
    assert Arrays(torch.zeros(2, 1), torch.zeros(2, 3).long()).labels is None


class Stream(IterableDataset):
    labels = LABELS

    def __len__(self):
        return 62

    def __iter__(self):
        return iter([])


@CHOICES
@pytest.mark.parametrize("dataset", [Stream(), Subset(range(9), [1, 2])])
def test_a_dataset_without_labels_is_refused(choice, dataset):
    option, kind = next(iter(choice)), type(dataset).__name__
    message = f"`labels`, the class number of each sample, for {option}, got {kind}. Give it"
    with pytest.raises(ValueError, match=message):
        loader_of(dataset, **choice)


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        ([[0, 1], [1, 0]], r"shape \(2, 2\) of int64"),
        ([0.0, 1.0], r"shape \(2,\) of float64"),
        (["a", "b"], r"shape \(2,\) of <U1"),
        ([True, False], r"shape \(2,\) of bool"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(labels, got):
    message = f"expected one class number for each of 2 samples in `labels` of Labelled, got {got}"
    with pytest.raises(ValueError, match=message):
        loader_of(Labelled(labels), balanced=True)


@pytest.mark.parametrize(
    ("choice", "both"),
    [
        ({"balanced": True, "per_class": 2}, "balanced alone.*got per_class as well"),
        ({"balanced": True, "shuffle": False}, "balanced alone.*got shuffle=False as well"),
        ({"per_class": 2, "shuffle": False}, "per_class alone.*got shuffle=False as well"),
    ],
)
def test_two_orders_are_refused(choice, both):
    with pytest.raises(ValueError, match=both):
        loader_of(**choice)


@pytest.mark.parametrize("per_class", [3, 1, 16])
def test_a_batch_that_classes_do_not_fill_is_refused(per_class):
    message = f"a batch_size of per_class={per_class} samples times 1 to 4 classes, got 8"
    with pytest.raises(ValueError, match=message):
        loader_of(per_class=per_class)
