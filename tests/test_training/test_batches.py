"""How batches are made is the same under every routine, and after a stop."""

import functools
import itertools
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from config.errors import ConfigError
from config.load import load_config
from tests.test_training.common import ROUTINES, Net, Pictures, bits, folders, make_config, train
from tests.test_training.test_resume import Stop, resume, stop
from training import pytorch_training
from training.callbacks import Callback
from training.remedies import find_remedy
from training.run import Run
from utils.data.loading import make_loader

v2 = pytest.importorskip("torchvision.transforms.v2")


def swap(x, y, share=0.5):
    """Exchange the first samples of a batch, as chance has it, by all three generators."""
    n = int(share * len(x))
    if random.random() + np.random.rand() + torch.rand(()).item() < 1.5:
        x = torch.cat([x[:n].flip(0), x[n:]])
        y = torch.cat([y[:n].flip(0), y[n:]])
    return x, y


def leave(x, y):
    return x, y


MIXED = {"CLASSES": ["a", "b", "c"]}
CONFIGS = {
    "balanced": {"DATA_LOADER_CONFIG": {"batch_size": 8, "balanced": True}},
    "per_class": {"DATA_LOADER_CONFIG": {"batch_size": 8, "per_class": 4, "num_workers": 2}},
    "mixup": {
        **MIXED,
        "BATCH_TRANSFORM": v2.MixUp,
        "BATCH_TRANSFORM_CONFIG": {"alpha": 0.2},
        "ACCUMULATE": 2,
    },
    "mixup or cutmix": {
        **MIXED,
        "BATCH_TRANSFORM": v2.RandomChoice,
        "BATCH_TRANSFORM_CONFIG": {"transforms": [partial(v2.MixUp, alpha=0.5), v2.CutMix]},
        "DATA_LOADER_CONFIG": {"batch_size": 8, "num_workers": 2},
    },
    "a function": {"BATCH_TRANSFORM": swap, "BATCH_TRANSFORM_CONFIG": {"share": 0.8}},
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


@pytest.mark.parametrize(("name", "routine"), list(zip(CONFIGS, itertools.cycle(ROUTINES))))
def test_a_stopped_epoch_goes_on_to_the_same_bits(name, routine, reference, tmp_path):
    config = CONFIGS[name]
    run = stop(routine, tmp_path, (1, 4), config)
    other = ROUTINES[(ROUTINES.index(routine) + 1) % len(ROUTINES)]
    loader = {**config.get("DATA_LOADER_CONFIG", {"batch_size": 8}), "num_workers": 0}
    callbacks = [partial(Stop, 1, 4)]
    changed = {"DATA_LOADER_CONFIG": loader, "CALLBACKS": callbacks}
    assert bits(resume(other, tmp_path, run, **config | changed)) == reference(name)


@pytest.mark.parametrize("routine", ROUTINES)
def test_a_transform_that_changes_nothing_leaves_the_bits(routine, reference, tmp_path):
    draws = partial(train, routine, tmp_path, CALLBACKS=[DrawsOn])
    assert bits(draws(BATCH_TRANSFORM=leave)) == bits(draws()) != reference("as ever")


class DrawsOn(Callback):
    """Weights depend on all that the generators of the main process give."""

    def on_batch_end(self, run, loss):
        with torch.no_grad():
            run.module.head[2].bias += 1e-3 * (random.random() + np.random.rand() + torch.rand(3))


def test_the_transform_of_a_run_is_in_its_config_and_repeats_it(reference, tmp_path):
    result = train("pytorch", tmp_path / "a", **CONFIGS["mixup or cutmix"])
    path = Path(result["paths"]["log_dir"], "config.yaml")
    assert "torchvision.transforms.v2" in path.read_text()
    config, _ = load_config(str(path), [])
    again = pytorch_training.train(None, None, config, folders(tmp_path / "b"))
    assert bits(again) == bits(result) == reference("mixup or cutmix")


def test_every_batch_and_process_draws_its_own_numbers():
    pictures = Pictures(64, augment=False)
    seen = []
    for process in range(2):
        loader = make_loader(
            pictures, {"batch_size": 8}, 0, torch.device("cpu"), True, False, process, 2
        )
        loader.transform = lambda x, y: (torch.rand(()).item(), y)
        for epoch in range(3):
            loader.set_position(epoch, 1)
            seen += [batch.x for batch in loader]
    assert len(seen) == 18 == len(set(seen))


def test_first_batches_are_not_transformed_and_validation_never_is(tmp_path):
    run = Run(make_config(BATCH_TRANSFORM=swap), folders(tmp_path))
    assert run.val_loader.transform is None and run.test_loader is None
    plain = Run(make_config(), folders(tmp_path))
    assert torch.equal(run.train_loader.first().x, plain.train_loader.first().x)


def only_x(x, _y):
    return x


def hard(pred, target):
    return nn.functional.nll_loss(pred.log_softmax(1), target)


class Dicts(Pictures):
    """Pictures in a dict."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return {"image": x, "flipped": x.flip(1)}, y


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"LOSS": hard},
            r"through LOSS: .*BATCH_TRANSFORM has made the targets \(N, 3\) float32: take a loss",
        ),
        ({"CLASSES": None}, "BATCH_TRANSFORM, first batch: num_classes must be passed"),
        (
            {"TRAIN_DATASET": Dicts},
            "BATCH_TRANSFORM, first batch: expected a tensor x for .* MixUp",
        ),
        ({"BATCH_TRANSFORM": only_x}, r"a function \(x, y\) -> \(x, y\), got one that returns"),
        (
            {"BATCH_TRANSFORM": "mix"},
            r'"BATCH_TRANSFORM"\]: expected a class or a function, or None',
        ),
        (
            {"BATCH_TRANSFORM_CONFIG": {"alhpa": 1}},
            r'BATCH_TRANSFORM_CONFIG"\]: expected an argument of MixUp .* Did you mean "alpha"',
        ),
        (
            {"BATCH_TRANSFORM": swap, "BATCH_TRANSFORM_CONFIG": {"y": 1}},
            r"expected an argument of swap \(share\)",
        ),
        ({"BATCH_TRANSFORM_CONFIG": {"alpha": -1.0}}, "BATCH_TRANSFORM_CONFIG: Expected parameter"),
    ],
)
def test_a_transform_that_does_not_fit_is_told_before_the_run(changes, message, tmp_path):
    config = {**MIXED, "BATCH_TRANSFORM": v2.MixUp, **changes}
    with pytest.raises(ConfigError, match=message):
        Run(make_config(**config), folders(tmp_path))
    assert not (tmp_path / "logs").exists()


def test_a_function_may_change_batches_of_dicts(tmp_path):
    def change(x, y):
        return {name: 0.5 * part for name, part in x.items()}, y

    class OfDicts(Net):
        def forward(self, x):
            return super().forward(x["image"])

    config = {"TRAIN_DATASET": Dicts, "VAL_DATASET": None, "MONITOR": "train_loss"}
    result = train("fastai", tmp_path, MODEL=OfDicts, BATCH_TRANSFORM=change, **config)
    assert result["status"] == "done"


def test_batches_of_classes_keep_their_size_when_a_run_goes_on(tmp_path):
    config = CONFIGS["per_class"]
    run = stop("pytorch", tmp_path, (1, 0), config)
    smaller = {"DATA_LOADER_CONFIG": {"batch_size": 4, "per_class": 4}, "ACCUMULATE": 2}
    with pytest.raises(ConfigError, match="expected DATA_LOADER_CONFIG as the run had it"):
        resume("pytorch", tmp_path, run, **smaller, CALLBACKS=[partial(Stop, 1, 0)])


def test_without_memory_batches_of_classes_are_not_halved(tmp_path):
    found = []
    for options in ({}, {"per_class": 4}):
        config = {"ON_OOM": "halve", "DATA_LOADER_CONFIG": {"batch_size": 8, **options}}
        found.append(find_remedy(torch.OutOfMemoryError(), config, folders(tmp_path)))
    assert found[0] is not None and found[1] is None
