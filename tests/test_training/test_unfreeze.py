"""Frozen parts keep every bit, and learn from the epoch on that their stage names."""

import functools
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from config.errors import ConfigError
from config.load import load_config
from tests.test_training.common import (
    CLASSES,
    ROUTINES,
    Net,
    Pictures,
    bits,
    folders,
    make_config,
    train,
)
from tests.test_training.test_resume import go_on
from training.callbacks import Callback, Unfreeze
from training.run import Run
from utils.data.loading import make_loader
from utils.seed import STEP, WEIGHTS, mix, seed_all, seed_torch
from utils.torchutils import load_weights

HEAD = functools.partial(Unfreeze, stages={0: ["head"]})
STAGED = functools.partial(Unfreeze, stages={0: ["head"], 1: ["body.1"], 2: ["*"]})
SGD = {"OPTIMIZER_CONFIG": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file whose statistics of batch norm are not those of the start."""
    return train("pytorch", tmp_path_factory.mktemp("first"))["paths"]["last"]


def state_of(result):
    return load_weights(result["paths"]["last"])["model"]


def log_of(result):
    return Path(result["paths"]["log_dir"], "train.log").read_text(encoding="utf-8")


def by_hand(stages, epochs):
    """Train the tiny task without the kit's Run: stages as the names that learn in each epoch."""
    seed_all(mix(0, WEIGHTS))
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), **SGD["OPTIMIZER_CONFIG"])
    loader = make_loader(Pictures(), {"batch_size": 8}, 0, torch.device("cpu"), train=True)
    for epoch in range(epochs):
        loader.set_position(epoch)
        model.train()
        for name, param in model.named_parameters():
            param.requires_grad_(name in stages[epoch])
        model.body[1].train("body.1.weight" in stages[epoch])
        for i, (x, y) in enumerate(loader):
            seed_torch(mix(0, STEP, epoch, 0) + i)
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


# ------------------------------------------------------------------------------ what learns


@pytest.mark.parametrize("routine", ROUTINES)
def test_what_is_frozen_stays_as_it_was_in_the_file(routine, weights, tmp_path):
    config = {**SGD, "WEIGHTS": weights, "CALLBACKS": [HEAD], "EMA": 0.5, "CLIP_NORM": 1.0}
    before, after = load_weights(weights)["model"], state_of(train(routine, tmp_path, **config))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.2.weight", "head.2.bias"}


def test_stages_equal_a_loop_written_by_hand(tmp_path):
    head = {"head.2.weight", "head.2.bias"}
    norm = {"body.1.weight", "body.1.bias"}
    everything = {name for name, _ in Net().named_parameters()}
    expected = by_hand([head, head | norm, everything], epochs=3).state_dict()
    result = train("pytorch", tmp_path, **SGD, CALLBACKS=[STAGED], EPOCHS=3)
    assert all(torch.equal(value, expected[name]) for name, value in state_of(result).items())
    log = log_of(result)
    assert "epoch 1: trains head, 195 of 243 parameters\n" in log
    assert "epoch 2: trains head, body.1, 203 of 243 parameters\n" in log
    assert "epoch 3: trains head, body.1, *, 243 of 243 parameters\n" in log


def test_the_statistics_of_batch_norm_follow_the_data_if_wanted(weights, tmp_path):
    follow = functools.partial(Unfreeze, stages={0: ["head"]}, fix_statistics=False)
    before = load_weights(weights)["model"]
    after = state_of(train("pytorch", tmp_path, **SGD, WEIGHTS=weights, CALLBACKS=[follow]))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = {f"body.1.{name}" for name in ("running_mean", "running_var")}
    assert changed == {"head.2.weight", "head.2.bias", "body.1.num_batches_tracked", *statistics}


class Plain(Net):
    """Its batch norm has no weights of its own, and its convolution is frozen by itself."""

    def __init__(self):
        super().__init__()
        self.body[1] = nn.BatchNorm2d(4, affine=False)
        self.body[0].weight.requires_grad_(False)


@pytest.mark.parametrize(("stages", "is_fixed"), [({0: ["head"]}, True), ({0: ["*"]}, False)])
def test_batch_norm_without_weights_is_of_the_part_around_it(stages, is_fixed, tmp_path):
    unfreeze = functools.partial(Unfreeze, stages=stages)
    start = Run(make_config(MODEL=Plain), folders(tmp_path)).module.state_dict()
    result = train("pytorch", tmp_path, MODEL=Plain, CALLBACKS=[unfreeze], EPOCHS=1)
    after = state_of(result)
    assert torch.equal(after["body.1.running_mean"], start["body.1.running_mean"]) is is_fixed
    assert torch.equal(after["body.0.weight"], start["body.0.weight"])  # as the model wants it
    assert torch.equal(after["body.0.bias"], start["body.0.bias"]) is is_fixed


class Weighted(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CLASSES))

    def forward(self, pred, target):
        return nn.functional.cross_entropy(pred * self.scale, target)


class Scale(Callback):
    """Keeps the parameter of the loss."""

    seen: list = []

    def on_epoch_end(self, run, metrics):
        Scale.seen.append(run.loss.scale.detach().clone())


def test_the_parameters_of_a_loss_learn_always(tmp_path):
    Scale.seen.clear()
    train("pytorch", tmp_path, LOSS=Weighted, CALLBACKS=[HEAD, Scale], EPOCHS=1)
    assert not torch.equal(Scale.seen[0], torch.ones(CLASSES))


# ----------------------------------------------------------------- everywhere, and once more

STAGES = "adamw-groups-one_cycle-ema-accumulate-bf16"
CONFIGS = {
    "head alone": {**SGD, "CALLBACKS": [HEAD]},
    STAGES: {
        "OPTIMIZER": torch.optim.AdamW,
        "OPTIMIZER_CONFIG": {"lr": 0.01},
        "PARAM_GROUPS": {"body": {"lr": 0.001}, "norm_and_bias": {"weight_decay": 0.0}},
        "ONE_CYCLE": True,
        "EMA": 0.9,
        "ACCUMULATE": 3,
        "MIXED_PRECISION": True,
        "CALLBACKS": [STAGED],
        "EPOCHS": 3,
    },
    "clip-fp16-validate_every": {
        **SGD,
        "CLIP_NORM": 0.5,
        "MIXED_PRECISION": "fp16",
        "VALIDATE_EVERY": 2,
        "CALLBACKS": [functools.partial(Unfreeze, stages={0: ["*.bias"], 1: ["head"]})],
        "EPOCHS": 3,
    },
}
STOPS = [(STAGES, (1, 4)), (STAGES, (1, 0)), ("clip-fp16-validate_every", (0, 1))]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The bits of the raw routine, trained once per config."""

    @functools.cache
    def train_once(name):
        return bits(train("pytorch", tmp_path_factory.mktemp("raw"), **CONFIGS[name]))

    return train_once


@pytest.mark.parametrize("routine", ROUTINES[1:])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_routine_gives_the_same_bits(name, routine, unbroken, tmp_path):
    assert bits(train(routine, tmp_path, **CONFIGS[name])) == unbroken(name)


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_frozen_gives_others(name, unbroken, tmp_path):
    config = CONFIGS[name] | {"CALLBACKS": []}
    assert bits(train("pytorch", tmp_path, **config))[0] != unbroken(name)[0]


@pytest.mark.parametrize(("name", "at"), STOPS)
@pytest.mark.parametrize("i", range(len(ROUTINES)), ids=ROUTINES)
def test_a_stopped_run_goes_on_to_the_same_bits(name, i, at, unbroken, tmp_path):
    result = go_on(CONFIGS[name], ROUTINES[i], ROUTINES[i - 1], at, tmp_path)
    assert bits(result) == unbroken(name)


@pytest.mark.slow  # torch's compiler takes seconds to import
def test_a_compiled_model_gives_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    staged = {**SGD, "CALLBACKS": [STAGED], "EPOCHS": 3}
    expected = bits(train("pytorch", tmp_path / "plain", **staged))
    assert bits(train("pytorch", tmp_path / "compiled", **staged, COMPILE=True)) == expected


def test_a_captured_run_has_the_same_stages(unbroken, tmp_path):
    name = "clip-fp16-validate_every"
    result = train("pytorch", tmp_path, **CONFIGS[name])
    path = Path(result["paths"]["log_dir"], "config.yaml")
    assert "!not-captured" not in path.read_text(encoding="utf-8")
    config, _ = load_config(str(path))
    assert bits(train("ignite", tmp_path, **config)) == unbroken(name)


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "stages",
    [{}, {1: ["head"]}, {0: []}, {0: "head"}, {0: ["head"], "2": ["body"]}, {0: ["head"], -1: []},
     {0: [1]}, {0.0: ["head"]}, ["head"], None],
)  # fmt: skip
def test_stages_of_another_form(stages):
    message = f"Unfreeze: expected stages such as .*, the first at 0, got {re.escape(str(stages))}"
    with pytest.raises(ValueError, match=message):
        Unfreeze(stages)


def test_unknown_names_are_said_together_before_anything_is_written(tmp_path):
    unfreeze = functools.partial(Unfreeze, stages={0: ["haed"], 9: ["body.7", "head"]})
    with pytest.raises(ConfigError) as error:
        Run(make_config(CALLBACKS=[unfreeze], METRICS={"f1": 3}), folders(tmp_path))
    first, second = (line for line in error.value.problems if line.startswith("CALLBACKS: "))
    assert first.startswith("CALLBACKS: Unfreeze: expected a part that is trained (body, head)")
    assert first.endswith('got "haed". Did you mean "head"? See print(model) for names.')
    assert 'got "body.7"' in second and not list(tmp_path.iterdir())


def test_several_processes_need_an_option_of_torch(monkeypatch):
    monkeypatch.setattr("training.callbacks.unfreeze.world_size", lambda: 2)
    options = {"static_graph": True}
    problems = HEAD().check(Net(), make_config(DDP_CONFIG=options))
    assert "expected DDP_CONFIG.find_unused_parameters=True" in problems[0]
    assert "~DDP_CONFIG.static_graph" in problems[1]
    assert not HEAD().check(Net(), make_config(DDP_CONFIG={"find_unused_parameters": True}))
