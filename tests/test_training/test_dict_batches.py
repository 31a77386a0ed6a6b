"""Batches whose parts are dicts, with text among the values, under every routine."""

import functools
import signal

import pytest
import torch
from torch import nn

from config.errors import ConfigError
from tests.test_training.common import CLASSES, ROUTINES, Net, Pictures, bits, folders, train
from tests.test_training.test_resume import Stop, resume
from training.resume import find_run
from training.state import RunInterrupted
from utils.data.loading import count_samples


class Described(Pictures):
    """The pictures as dicts: text comes first, then what the network and the loss need."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        inputs = {"name": f"picture {index}", "picture": x, "sizes": (torch.ones(1), x.mean())}
        return inputs, {"names": f"picture {index}", "label": y}


class DictNet(Net):
    """Takes a dict and gives one."""

    def forward(self, x):
        assert len(x["name"]) == len(x["picture"])
        bright, mean = x["sizes"]
        return {"logits": super().forward(x["picture"]) * bright + mean[:, None]}


def dict_loss(pred, target):
    return nn.functional.cross_entropy(pred["logits"], target["label"])


def hits(pred, target):
    """One value per sample, (N,) float."""
    return (pred["logits"].argmax(1) == target["label"]).float()


def spread(pred, target):
    """A number that only the whole set gives."""
    assert len(target["names"]) == len(target["label"])
    return pred["logits"].std() + len(set(target["names"])) + target["label"].float().mean()


DICTS = {
    "TASK": None,
    "MODEL": DictNet,
    "LOSS": dict_loss,
    "METRICS": [hits, spread],
    "TRAIN_DATASET": Described,
    "VAL_DATASET": functools.partial(Described, n=19, seed=1, augment=False),
}
MIXED = {"MIXED_PRECISION": True, "CHANNELS_LAST": True, "ACCUMULATE": 2, "EMA": 0.9}


@functools.cache
def unbroken(folder, *changes):
    return bits(train("pytorch", folder, **DICTS, **dict(changes)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("raw")


@pytest.mark.parametrize("changes", [{}, MIXED], ids=["plain", "mixed"])
@pytest.mark.parametrize("routine", ROUTINES[1:])
def test_every_routine_gives_the_bits_of_the_raw_loop(routine, changes, folder, tmp_path):
    result = train(routine, tmp_path, **DICTS, **changes)
    assert bits(result) == unbroken(folder, *changes.items())


def test_workers_change_nothing(folder, tmp_path):
    two = {"batch_size": 8, "num_workers": 2}
    assert bits(train("pytorch", tmp_path, **DICTS, DATA_LOADER_CONFIG=two)) == unbroken(folder)


def test_metrics_are_those_of_the_whole_set(tmp_path, caplog):
    result = train("pytorch", tmp_path, **DICTS, TEST_DATASET=DICTS["VAL_DATASET"], EPOCHS=1)
    val, test = result["metrics"], result["test_metrics"]
    assert test["test_hits"] == val["val_hits"] and test["test_spread"] == val["val_spread"]
    assert 19 < val["val_spread"] < 19 + 2 * CLASSES  # 19 names, not those of one batch
    assert not [record for record in caplog.records if "METRICS" in record.message]


@pytest.mark.parametrize("routine", ROUTINES)
def test_a_stopped_run_goes_on_under_another_routine(routine, folder, tmp_path):
    callbacks = [functools.partial(Stop, 1, 4)]
    with pytest.raises(RunInterrupted):
        train(routine, tmp_path, **DICTS, CALLBACKS=callbacks)
    run = find_run("latest", folders(tmp_path))
    other = ROUTINES[(ROUTINES.index(routine) + 1) % len(ROUTINES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "raise_signal", lambda number: None)  # not again
        rest = resume(other, tmp_path, run, **DICTS, CALLBACKS=callbacks)
    assert bits(rest) == unbroken(folder)


def test_a_network_that_does_not_fit_is_told_with_the_shapes_of_the_dict(tmp_path):
    config = {**DICTS, "MODEL": functools.partial(nn.Linear, 5, 3)}
    shapes = r"first batch name text, picture \(N, 1, 6, 6\), sizes \(N, 1\), \(N\) through MODEL"
    with pytest.raises(ConfigError, match=shapes):
        train("pytorch", tmp_path, **config)


@pytest.mark.parametrize(
    "part",
    [
        torch.zeros(3, 2),
        ["a", "b", "c"],
        {"name": ["a", "b", "c"], "x": torch.zeros(3)},
        ({"x": torch.zeros(3, 1)}, torch.zeros(3)),
    ],
)
def test_samples_are_counted_in_any_part(part):
    assert count_samples(part) == 3
