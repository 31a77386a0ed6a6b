"""PARAM_GROUPS: which parameter gets which arguments, in which order."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from config.errors import ConfigError
from config.load import load_config
from tests.test_training.common import (
    CLASSES,
    ROUTINES,
    Net,
    bits,
    folders,
    make_config,
    rows,
    train,
)
from tests.test_training.test_resume import go_on
from training.parameters import matches
from training.run import Run
from utils.torchutils import load_weights

NAMES = [name for name, _ in Net().named_parameters()]


class Scaled(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, CLASSES))

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(pred * self.scale, target)


def groups_of(tmp_path, wanted, **changes):
    """Return [names, lr, weight_decay, momentum] of each group of the optimizer."""
    run = Run(make_config(**{"PARAM_GROUPS": wanted, **changes}), folders(tmp_path))
    names = {id(param): name for name, param in run.module.named_parameters()}
    if isinstance(run.loss, nn.Module):
        names |= {id(param): f"loss.{name}" for name, param in run.loss.named_parameters()}
    keys = ("lr", "weight_decay", "momentum")
    return [
        [[names[id(p)] for p in group["params"]], *(group[key] for key in keys)]
        for group in run.optimizer.param_groups
    ]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("body", ["body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"]),
        ("body.1", ["body.1.weight", "body.1.bias"]),
        ("head.2.bias", ["head.2.bias"]),
        ("*.bias", ["body.0.bias", "body.1.bias", "head.2.bias"]),
        ("body.[01].weight", ["body.0.weight", "body.1.weight"]),
        ("*", NAMES),
        ("bod", []),
        ("body.", []),
        ("", []),
    ],
)
def test_what_a_pattern_means(pattern, names):
    assert [name for name in NAMES if matches(pattern, name)] == names


def test_without_groups_all_is_one(tmp_path):
    assert groups_of(tmp_path, {}) == [[NAMES, 0.05, 0, 0.9]]


def test_the_first_pattern_counts_and_the_rest_comes_first(tmp_path):
    wanted = {"body.1": {"lr": 0.2}, "body": {"lr": 0.3, "momentum": 0.0}}
    assert groups_of(tmp_path, wanted) == [
        [["head.2.weight", "head.2.bias"], 0.05, 0, 0.9],
        [["body.1.weight", "body.1.bias"], 0.2, 0, 0.9],
        [["body.0.weight", "body.0.bias"], 0.3, 0, 0.0],
    ]


def test_norms_and_biases_come_on_top_of_the_patterns(tmp_path):
    wanted = {"norm_and_bias": {"weight_decay": 0.0}, "body": {"lr": 0.2, "weight_decay": 0.3}}
    arguments = {"OPTIMIZER_CONFIG": {"lr": 0.05, "weight_decay": 0.1}}
    assert groups_of(tmp_path, wanted, **arguments) == [
        [["head.2.weight"], 0.05, 0.1, 0],
        [["head.2.bias"], 0.05, 0.0, 0],
        [["body.0.weight"], 0.2, 0.3, 0],
        [["body.0.bias", "body.1.weight", "body.1.bias"], 0.2, 0.0, 0],
    ]


def test_a_group_of_all_parameters_leaves_no_rest(tmp_path):
    assert groups_of(tmp_path, {"*": {"lr": 0.2}}) == [[NAMES, 0.2, 0, 0.9]]


def test_the_parameters_of_a_loss_are_a_part(tmp_path):
    wanted = {"loss": {"weight_decay": 0.5}}
    assert groups_of(tmp_path, wanted, LOSS=Scaled)[1] == [["loss.scale"], 0.05, 0.5, 0.9]


def test_the_log_names_the_groups_and_the_table_their_rates(tmp_path):
    wanted = {"head": {"lr": 0.2}, "norm_and_bias": {"weight_decay": 0.0}}
    result = train("pytorch", tmp_path, PARAM_GROUPS=wanted, EPOCHS=1)
    log = Path(result["paths"]["log_dir"], "train.log").read_text(encoding="utf-8")
    for line in (
        "lr: rest, 36 parameters\n",
        "lr_1: rest, norm_and_bias, 12 parameters, weight_decay=0.0\n",
        "lr_2: head, 192 parameters, lr=0.2\n",
        "lr_3: head, norm_and_bias, 3 parameters, lr=0.2, weight_decay=0.0\n",
    ):
        assert line in log
    (row,) = rows(Path(result["paths"]["log_dir"], "metrics.csv"))
    assert row["lr"] == "0.05"


def test_the_bits_are_those_of_an_optimizer_made_by_hand(tmp_path):
    wanted = {"head": {"lr": 0.2}, "norm_and_bias": {"weight_decay": 0.0}}
    config = {"OPTIMIZER": torch.optim.AdamW, "OPTIMIZER_CONFIG": {"lr": 0.01}}
    by_kit = train("pytorch", tmp_path / "kit", **config, PARAM_GROUPS=wanted)

    def make(params, lr):
        conv, conv_bias, norm, norm_bias, last, last_bias = params
        groups = [
            {"params": [last_bias], "lr": 0.2, "weight_decay": 0.0},
            {"params": [conv]},
            {"params": [last], "lr": 0.2},
            {"params": [conv_bias, norm, norm_bias], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=lr)

    by_hand = train("pytorch", tmp_path / "hand", **config | {"OPTIMIZER": make})
    kit, hand = (load_weights(result["paths"]["last"])["model"] for result in (by_kit, by_hand))
    assert all(torch.equal(kit[name], hand[name]) for name in kit)


GROUPS = {"PARAM_GROUPS": {"body": {"lr": 0.01}, "norm_and_bias": {"weight_decay": 0.0}}}
SGD = {"OPTIMIZER_CONFIG": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}}
ADAMW = {"OPTIMIZER": torch.optim.AdamW, "OPTIMIZER_CONFIG": {}, "LR": 0.02}
CONFIGS = {
    "adamw-one_cycle-ema-accumulate-bf16-loss": {
        **ADAMW,
        "PARAM_GROUPS": {**GROUPS["PARAM_GROUPS"], "loss": {"lr": 0.5}},
        "LOSS": Scaled,
        "ONE_CYCLE": True,
        "EMA": 0.9,
        "ACCUMULATE": 3,
        "MIXED_PRECISION": True,
    },
    "sgd-plateau-clip-fp16": {
        **SGD,
        **GROUPS,
        "SCHEDULER": lr_scheduler.ReduceLROnPlateau,
        "SCHEDULER_CONFIG": {"patience": 0, "threshold": 9.0, "threshold_mode": "abs"},
        "CLIP_NORM": 0.5,
        "MIXED_PRECISION": "fp16",
    },
}


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("adamw-one_cycle-ema-accumulate-bf16-loss", "pytorch", "lightning"),
        ("sgd-plateau-clip-fp16", "fastai", "ignite"),
    ],
)
def test_every_routine_gives_the_same_bits_and_resumes_to_them(name, first, second, tmp_path):
    config = CONFIGS[name]
    alike = bits(train("pytorch", tmp_path / "alike", **config | {"PARAM_GROUPS": {}}))
    (unbroken,) = {bits(train(routine, tmp_path / routine, **config)) for routine in ROUTINES}
    assert unbroken != alike
    assert bits(go_on(config, first, second, (1, 4), tmp_path / "broken")) == unbroken


def test_the_schedule_of_each_group_peaks_at_its_own_rate(tmp_path):
    run = Run(make_config(**GROUPS, **SGD, ONE_CYCLE=True), folders(tmp_path))
    assert [group["max_lr"] for group in run.optimizer.param_groups] == [0.05, 0.05, 0.01, 0.01]


def test_a_captured_run_has_the_same_groups(tmp_path):
    result = train("pytorch", tmp_path, **GROUPS, **SGD)
    config, _ = load_config(str(Path(result["paths"]["log_dir"], "config.yaml")))
    assert bits(train("ignite", tmp_path, **config)) == bits(result)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"boddy": {}}, r'PARAM_GROUPS: expected a part that is trained \(body, head\), .*got'
         r' "boddy"\. Did you mean "body"\?'),
        ({"body.3": {}}, r'got "body\.3"\. Did you mean "body\.[01]"\?'),
        ({"*": {}, "head": {}}, 'expected parameters for "head" that no pattern before it means'),
        ({"loss": {}}, r'got "loss"'),
        ({"head": {"lrr": 1.0}}, r'\["PARAM_GROUPS"\]\["head"\]: expected an argument of SGD'
         r'.*got "lrr"\. Did you mean "lr"'),
        ({"head": {"lr": -1.0}}, 'PARAM_GROUPS, "head": Invalid learning rate: -1.0'),
        ({"head": {"lr": "high"}}, r'\["head"\]\["lr"\]: expected float'),
        ({"head": 0.1}, r'"PARAM_GROUPS"\]: expected a dict from parts of the model to dicts'),
        ({"head": {0: 0.1}}, r'"PARAM_GROUPS"\]: expected a dict from parts'),
    ],
)  # fmt: skip
def test_what_does_not_work_is_said_before_anything_is_written(wanted, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        Run(make_config(PARAM_GROUPS=wanted), folders(tmp_path))
    assert not list(tmp_path.iterdir())


class Picky(torch.optim.SGD):
    """Takes an argument for all groups alone."""

    def __init__(self, params, lr=0.1, warmup=3):
        super().__init__(params, lr)
        self.warmup = warmup


def test_an_argument_that_is_not_of_a_group_is_refused(tmp_path):
    changes = {"OPTIMIZER": Picky, "OPTIMIZER_CONFIG": {"warmup": 2}}
    with pytest.raises(ConfigError, match='"head": expected what Picky keeps .*got warmup'):
        Run(make_config(**changes, PARAM_GROUPS={"head": {"warmup": 1}}), folders(tmp_path))


def test_a_network_without_norms_and_biases(tmp_path):
    changes = {"MODEL": Bare, "PARAM_GROUPS": {"norm_and_bias": {"weight_decay": 0.0}}}
    with pytest.raises(ConfigError, match='expected norm layers or biases for "norm_and_bias"'):
        Run(make_config(**changes), folders(tmp_path))


class Bare(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(36, CLASSES, bias=False))
