"""How batches are made is the same under every routine, and after a stop."""

import functools

import pytest
import torch

from config.errors import ConfigError
from tests.test_training.common import ROUTINES, bits, folders, train
from tests.test_training.test_resume import Stop, resume, stop
from training.remedies import find_remedy

CONFIGS = {
    "balanced": {"DATA_LOADER_CONFIG": {"batch_size": 8, "balanced": True}},
    "per_class": {"DATA_LOADER_CONFIG": {"batch_size": 8, "per_class": 4, "num_workers": 2}},
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The bits of the raw routine, trained once per config."""

    @functools.cache
    def train_once(name):
        return bits(train("pytorch", tmp_path_factory.mktemp("raw"), **CONFIGS.get(name, {})))

    return train_once


@pytest.mark.parametrize("routine", ROUTINES[1:])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_routine_gives_the_bits_of_the_raw_loop(name, routine, reference, tmp_path):
    assert bits(train(routine, tmp_path, **CONFIGS[name])) == reference(name)
    assert reference(name) != reference("as ever")


@pytest.mark.parametrize("routine", ROUTINES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_stopped_epoch_goes_on_to_the_same_bits(name, routine, reference, tmp_path):
    config = CONFIGS[name]
    run = stop(routine, tmp_path, (1, 4), config)
    other = ROUTINES[(ROUTINES.index(routine) + 1) % len(ROUTINES)]
    loader = {**config.get("DATA_LOADER_CONFIG", {"batch_size": 8}), "num_workers": 0}
    callbacks = [functools.partial(Stop, 1, 4)]
    changed = {"DATA_LOADER_CONFIG": loader, "CALLBACKS": callbacks}
    assert bits(resume(other, tmp_path, run, **config | changed)) == reference(name)


def test_batches_of_classes_keep_their_size_when_a_run_goes_on(tmp_path):
    config = CONFIGS["per_class"]
    run = stop("pytorch", tmp_path, (1, 0), config)
    smaller = {"DATA_LOADER_CONFIG": {"batch_size": 4, "per_class": 4}, "ACCUMULATE": 2}
    with pytest.raises(ConfigError, match="expected DATA_LOADER_CONFIG as the run had it"):
        resume("pytorch", tmp_path, run, **smaller, CALLBACKS=[functools.partial(Stop, 1, 0)])


def test_without_memory_batches_of_classes_are_not_halved(tmp_path):
    found = []
    for options in ({}, {"per_class": 4}):
        config = {"ON_OOM": "halve", "DATA_LOADER_CONFIG": {"batch_size": 8, **options}}
        found.append(find_remedy(torch.OutOfMemoryError(), config, folders(tmp_path)))
    assert found[0] is not None and found[1] is None
