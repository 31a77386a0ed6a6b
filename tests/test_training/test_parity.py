"""The same config gives the same bits under every routine."""

import functools

import pytest
import torch
from torch.optim import lr_scheduler

from tests.test_training.common import ROUTINES, Noise, bits, train

ADAMW = {"OPTIMIZER": torch.optim.AdamW, "OPTIMIZER_CONFIG": {"lr": 0.01}}
COSINE = {"SCHEDULER": lr_scheduler.CosineAnnealingLR}
ONE_CYCLE = {"ONE_CYCLE": True}
WORKERS = {"DATA_LOADER_CONFIG": {"batch_size": 8, "num_workers": 2}}

CONFIGS = {
    "sgd": {},
    "adamw": ADAMW,
    "sgd-cosine": COSINE,
    "adamw-cosine-accumulate": {**ADAMW, **COSINE, "ACCUMULATE": 3},
    "sgd-one_cycle-accumulate": {**ONE_CYCLE, "ACCUMULATE": 3},
    "adamw-one_cycle-clip": {**ADAMW, **ONE_CYCLE, "CLIP_NORM": 0.5},
    "sgd-clip-accumulate-2": {"CLIP_NORM": 0.5, "ACCUMULATE": 2},
    "sgd-step-schedule": {
        "SCHEDULER": lr_scheduler.StepLR,
        "SCHEDULER_CONFIG": {"step_size": 3, "gamma": 0.5},
        "SCHEDULER_INTERVAL": "step",
    },
    "sgd-plateau": {
        "SCHEDULER": lr_scheduler.ReduceLROnPlateau,
        "SCHEDULER_CONFIG": {"patience": 0, "threshold": 10.0},
        "EPOCHS": 3,
    },
    "ema": {"EMA": 0.9},
    "adamw-ema-one_cycle-accumulate": {**ADAMW, **ONE_CYCLE, "EMA": 0.9, "ACCUMULATE": 2},
    "bf16": {"MIXED_PRECISION": True},
    "fp16-accumulate": {"MIXED_PRECISION": "fp16", "ACCUMULATE": 2},
    "bf16-ema-clip": {"MIXED_PRECISION": "bf16", "EMA": 0.9, "CLIP_NORM": 0.5},
    "validate_every": {"VALIDATE_EVERY": 2, "EPOCHS": 3},
    "channels_last": {"CHANNELS_LAST": True},
    "drop_last": {"DATA_LOADER_CONFIG": {"batch_size": 8, "drop_last": True}},
    "noise": {"CALLBACKS": [Noise]},
    "workers": WORKERS,
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The bits of the raw routine, trained once per config."""

    @functools.cache
    def train_once(name):
        return bits(train("pytorch", tmp_path_factory.mktemp("raw"), **CONFIGS[name]))

    return train_once


@pytest.mark.parametrize("routine", ROUTINES[1:])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_routine_gives_the_bits_of_the_raw_loop(name, routine, reference, tmp_path):
    assert bits(train(routine, tmp_path, **CONFIGS[name])) == reference(name)


@pytest.mark.parametrize("name", ["workers", "noise"])
def test_workers_and_callbacks_that_draw_change_nothing(name, reference):
    assert reference(name) == reference("sgd")


@pytest.mark.parametrize(
    "name", [name for name in CONFIGS if name not in ("sgd", "workers", "noise")]
)
def test_every_other_config_changes_the_bits(name, reference):
    assert reference(name)[0] != reference("sgd")[0]


def test_the_seed_changes_the_bits_and_a_second_run_does_not(reference, tmp_path):
    assert bits(train("pytorch", tmp_path / "a", SEED=1)) != reference("sgd")
    assert bits(train("pytorch", tmp_path / "b")) == reference("sgd")


def test_the_global_generators_before_a_run_do_not_matter(reference, tmp_path):
    torch.manual_seed(123)
    assert bits(train("pytorch", tmp_path)) == reference("sgd")


def test_dropout_draws(reference, tmp_path):
    assert bits(train("pytorch", tmp_path, MODEL_CONFIG={"dropout": 0.0})) != reference("sgd")
