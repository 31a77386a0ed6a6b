import enum
import functools
import json
import math
import re
import subprocess
import sys
from collections import OrderedDict, namedtuple
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn

from config.check import check_config
from config.codec import (
    NotCaptured,
    decode,
    decode_config,
    decode_model,
    describe,
    encode,
    encode_config,
    encode_model,
    from_yaml,
    to_config_yaml,
    to_yaml,
)
from config.config import ROOT_PATH
from config.errors import ConfigError
from config.keys import KEYS, with_defaults
from models import MODELS, UNET
from utils.data import SyntheticScenes
from utils.loss import FocalLoss, f1, smooth_dice_loss


class Colour(enum.Enum):
    RED = "r"
    BOTH = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


class Half(float):
    pass


class Plain:
    """An object that text cannot hold; its repr shows its address."""


class Loud:
    def __repr__(self):
        return "Loud(\n  <part at 0x7f00DEADBEEF>,\n  0x7f001234)"


Pair = namedtuple("Pair", "a b")


def same(a, b):
    """Tell whether two values are equal and of one type, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, functools.partial):
        return a.func is b.func and same(a.args, b.args) and same(a.keywords, b.keywords)
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return repr(a) == repr(b) if isinstance(a, float) else a == b


def back(value):
    """Take a value through text."""
    lost = []
    text = to_yaml({"A": encode(value, "A", lost)})
    assert lost == []
    assert not re.search(r"0x[0-9a-f]{4}", text)
    return decode(from_yaml(text))["A"]


# ------------------------------------------------------------------------------ there and back


NUMBERS = [0, -1, 10**30, True, False, None, 0.1, 1e-3, 1e-05, 1e22, -0.0, 5e-324]
NUMBERS += [math.nan, math.inf, -math.inf]
TEXTS = """1e-3 1E5 1. .5e1 0x1f 012 1_000 1:30 yes no on off null ~ = << .inf .nan nan 2026-11-20
    - ? ! * & % @ ` { [ ' " # ... --- true True 0 -1 é 日本 😀""".split()
TEXTS += ["", " ", "a: b", "a # b", "- a", "a\nb", "a\n", "\n", " a ", "\ta", "\r\n", "\0", "\x07"]
TEXTS += ["\udc80", "\u2028", "\ufeff", "2026-11-20 10:00:00", "word " * 100]


@pytest.mark.parametrize("value", NUMBERS + TEXTS, ids=repr)
def test_numbers_and_text(value):
    assert same(back(value), value)
    assert same(back({"a": [value, (value,)]}), {"a": [value, (value,)]})
    if isinstance(value, str):
        assert same(back({value: 1}), {value: 1})


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        (),
        set(),
        [[1], [], {}],
        (1, (2, [3]), {"a": (4,)}),
        {"a": {"b": {"c": [1, {"d": None}]}}},
        {0: 0, 255: 1},
        {1: {2: 3}, "a": 4, (1, 2): 5, None: 6, 1.5: 7, False: (8,)},
        {"_target_": "torch.nn.ELU", "_partial_": True},
        {"_args_": [1], "_partial_": True},
        {"a.b": 1, " ": 2},
        {3, 1, 2},
        frozenset({"a", "b"}),
        torch.Size([1, 2]),
        Path("a/b.csv"),
        [Path("/a")],
    ],
    ids=repr,
)
def test_containers_and_paths(value):
    assert same(back(value), value)


@pytest.mark.parametrize(
    "value",
    [
        nn.ELU,
        smooth_dice_loss,
        nn.functional.relu,
        torch.relu,
        len,
        np.log1p,
        sys.modules[__name__],
        nn.init,
        torch.device("cuda", 1),
        torch.device("cpu"),
        torch.float32,
        torch.bfloat16,
        torch.channels_last,
        Colour.RED,
        Colour.BOTH,
        Level.HIGH,
    ],
    ids=str,
)
def test_named_objects_are_themselves_again(value):
    assert back(value) == value and type(back(value)) is type(value)
    assert back({"a": [value]}) == {"a": [value]}


@pytest.mark.parametrize(
    "value",
    [
        functools.partial(nn.LeakyReLU),
        functools.partial(nn.LeakyReLU, 0.1),
        functools.partial(nn.LeakyReLU, negative_slope=0.1, inplace=True),
        functools.partial(nn.Sequential, functools.partial(nn.Linear, 1, 2), a=nn.ELU),
        functools.partial(functools.partial(nn.Linear, 1), out_features=3, dtype=torch.float64),
        functools.partial(f1, eps=1e-5),
        functools.partial(dict, a={"b": (1, [Path("c")])}),
    ],
    ids=repr,
)
def test_partials(value):
    if value.args or value.keywords:
        assert same(back(value), value)
    else:
        assert back(value) is value.func  # a partial of nothing


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([0.1, 2.0]),
        torch.tensor(3.0, dtype=torch.float64),
        torch.tensor([[1, 2], [3, 4]]),
        torch.tensor([True, False]),
        torch.tensor([0.1], dtype=torch.bfloat16),
        torch.tensor([math.inf, -math.inf]),
        torch.zeros(0),
        torch.arange(6).reshape(2, 3).T,
        np.array([0.1, 2.0]),
        np.array([[1, 2]], dtype=np.uint8),
        np.array([True]),
        np.array(["a", "bcd"]),
        np.float32([0.1]),
    ],
    ids=str,
)
def test_small_tensors_and_arrays(value):
    assert same(back(value), value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(0.1), 0.1),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (Half(0.5), 0.5),
        ([np.float64(1e-5)], [1e-5]),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (PurePosixPath("a"), Path("a")),
    ],
    ids=repr,
)
def test_relatives_become_the_plain_kind(value, plain):
    assert same(back(value), plain)


def test_text_of_a_set_is_the_same_at_every_start():
    code = "from config.codec import *; print(to_yaml(encode({'b', 'a', 'c', 'd', 'e'})))"
    texts = set()
    for seed in "123":
        env = {"PYTHONPATH": str(ROOT_PATH), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        texts.add(done.stdout.strip())
    assert texts == {"{_target_: builtins.set, _args_: [[a, b, c, d, e]]}"}


# -------------------------------------------------------------------------------- not captured


def local():
    class Net(nn.Module):
        pass

    return Net


OPAQUE = [
    lambda x: x,
    local(),
    Plain(),
    Loud(),
    nn.Linear(2, 3),
    functools.partial(lambda x: x, 1),
    b"bytes",
    3j,
    Pair(1, 2),
    type("Row", (tuple,), {})((1,)),
    torch.zeros(1001),
    torch.zeros(2, device="meta"),
    torch.zeros(2, dtype=torch.complex64),
    torch.zeros(2).to_sparse(),
    nn.Parameter(torch.zeros(2)),
    torch.Generator(),
    np.zeros(1001),
    np.zeros(2, dtype=complex),
    np.array([None, Plain()]),
    np.longdouble(1),
    np.datetime64("2026-11-20"),
    Plain().__init__,
]


@pytest.mark.parametrize("value", OPAQUE, ids=lambda value: type(value).__name__)
def test_what_text_cannot_hold_is_named_and_runs_on(value):
    lost = []
    plain = encode({"a": 1, "b": [0, value], "c": (value,)}, "KEY", lost)
    assert lost == ["KEY.b.1", "KEY.c.0"]
    text = to_yaml(plain)
    assert text.count("!not-captured") == 2 and not re.search("0x[0-9a-fA-F]{4}", text)
    assert len(text) < 600 and "\\n" not in text
    assert isinstance(from_yaml(text)["b"][1], NotCaptured)
    assert from_yaml(text)["b"][1].text == plain["b"][1].text


def test_repr_of_what_is_lost_stays_readable():
    assert encode(Loud()).text == "Loud( <part>, )"
    assert encode(lambda: 0).text.endswith(".<lambda>>")
    assert repr(encode(Plain())) == f"<not captured: <{__name__}.Plain object>>"
    assert len(encode(nn.Sequential(*[nn.ReLU()] * 99)).text) == 200


def test_partial_with_a_lost_argument_names_it():
    lost = []
    encode(functools.partial(nn.Sequential, nn.ReLU(), b=Plain()), "KEY", lost)
    assert lost == ["KEY.0", "KEY.b"]
    lost = []
    encode({1: Plain()}, "KEY", lost)
    assert lost == ["KEY.1"]


# ---------------------------------------------------------------------------------- whole config


CONFIG = {
    "DATE": "20261120-143000",
    "MODEL": UNET,
    "MODEL_CONFIG": {"ch_in": 12, "ch_out": 2, "activ": nn.ELU},
    "TRAIN_DATASET": functools.partial(nn.Identity, a=1),
    "TRAIN_DATASET_CONFIG": {"root": Path("images"), "label_values": {0: 0, 255: 1}},
    "OPTIMIZER": torch.optim.AdamW,
    "OPTIMIZER_CONFIG": {"lr": 1e-3, "betas": (0.9, 0.99)},
    "LOSS": nn.CrossEntropyLoss,
    "LOSS_CONFIG": {"weight": torch.tensor([1, 2]), "dtype": torch.bfloat16},
    "METRICS": {"f1": f1, "f2": functools.partial(f1, eps=1e-5)},
    "DEVICE": torch.device("cpu"),
    "LR": math.inf,
    "__COMMENT": "first try: \nyes",
}


INT64 = "{_target_: config.names.get_object, _args_: [torch.int64]}"


def test_config_as_people_read_it():
    plain, lost = encode_config(CONFIG | {"ROUTINE_NAME": sys.modules[__name__]})
    assert lost == []
    assert (
        to_yaml(plain)
        == f"""\
DATE: 20261120-143000
MODEL: models.UNET
MODEL_CONFIG:
  ch_in: 12
  ch_out: 2
  activ: {{_target_: torch.nn.ELU, _partial_: true}}
TRAIN_DATASET: {{_target_: torch.nn.Identity, a: 1, _partial_: true}}
TRAIN_DATASET_CONFIG:
  root: {{_target_: pathlib.Path, _args_: [images]}}
  label_values: {{_target_: builtins.dict, _args_: [[[0, 0], [255, 1]]]}}
OPTIMIZER: torch.optim.AdamW
OPTIMIZER_CONFIG:
  lr: 0.001
  betas: {{_target_: builtins.tuple, _args_: [[0.9, 0.99]]}}
LOSS: torch.nn.CrossEntropyLoss
LOSS_CONFIG:
  weight: {{_target_: torch.tensor, _args_: [[1, 2]], dtype: {INT64}}}
  dtype: {{_target_: config.names.get_object, _args_: [torch.bfloat16]}}
METRICS:
  f1: {{_target_: utils.metrics.f1, _partial_: true}}
  f2: {{_target_: utils.metrics.f1, eps: 1.0e-05, _partial_: true}}
DEVICE: cpu
LR: .inf
__COMMENT: "first try: \\nyes"
ROUTINE_NAME: {__name__}
"""
    )


def test_config_there_and_back():
    plain, lost = encode_config(CONFIG)
    text = to_yaml(plain)
    config = decode_config(text)
    assert same(config, CONFIG | {"DEVICE": "cpu"})
    assert to_yaml(encode_config(config)[0]) == text


def test_every_default_there_and_back():
    config = with_defaults({"MODEL": UNET, "LOSS": f1})
    assert same(decode_config(to_yaml(encode_config(config)[0])), config)


def test_config_as_a_table_shows_it():
    plain, _ = encode_config(CONFIG | {"LOSS": lambda a, b: 0})
    shown = describe(plain)
    assert shown["MODEL_CONFIG"] == {"ch_in": 12, "ch_out": 2, "activ": "torch.nn.ELU"}
    assert shown["TRAIN_DATASET"] == "torch.nn.Identity(a=1)"
    assert shown["TRAIN_DATASET_CONFIG"]["root"] == "pathlib.Path(images)"
    assert shown["TRAIN_DATASET_CONFIG"]["label_values"] == "dict([[0, 0], [255, 1]])"
    assert shown["OPTIMIZER_CONFIG"] == {"lr": 0.001, "betas": (0.9, 0.99)}
    assert shown["LOSS_CONFIG"]["weight"] == "torch.tensor([1, 2], dtype=torch.int64)"
    assert shown["LOSS_CONFIG"]["dtype"] == "torch.bfloat16"
    assert shown["METRICS"] == {"f1": "utils.metrics.f1", "f2": "utils.metrics.f1(eps=1e-05)"}
    assert shown["LOSS"].endswith(".<lambda>>")
    assert describe(encode([Path("a")])) == ["pathlib.Path(a)"]
    assert describe(encode(dict)) == "builtins.dict"


def test_only_what_was_lost_is_refused():
    config = {"MODEL": UNET, "METRICS": {"f1": f1, "mine": lambda a, b: 0}, "LOSS": Plain()}
    config["CALLBACKS"] = [Plain(), len]
    config["LOSS_CONFIG"] = {"a": functools.partial(len, Plain())}
    plain, lost = encode_config(config)
    assert lost == ["METRICS.mine", "LOSS", "CALLBACKS.0", "LOSS_CONFIG.a.0"]
    text = to_yaml(plain)
    with pytest.raises(ConfigError) as caught:
        decode_config(text, "run.yaml")
    assert caught.value.problems == [
        f"run.yaml: {name}: expected a value, got one that was not captured."
        f" Set {name}=..., or leave it out with ~{name}."
        for name in ("METRICS.mine", "LOSS", "CALLBACKS", "LOSS_CONFIG.a")
    ]
    with pytest.raises(ConfigError) as caught:
        decode_config(text, replaced={"METRICS.mine", "LOSS", "CALLBACKS"})
    assert len(caught.value.problems) == 1
    read = decode_config(text, replaced={"METRICS.mine", "LOSS", "CALLBACKS", "LOSS_CONFIG"})
    assert read["METRICS"] == {"f1": f1, "mine": None} and read["MODEL"] is UNET
    assert read["LOSS"] is None  # there, so that ~LOSS can remove it


def test_a_file_from_before_the_number_of_the_format_loads():
    """What a run wrote before files had the number, and before some of today's keys."""
    text = Path(__file__).with_name("without_format.yaml").read_text(encoding="utf-8")
    config = decode_config(text)
    assert config["MODEL"] is UNET and config["METRICS"]["f1"] is f1
    assert check_config(config) == [] and config.keys() < KEYS.keys()


def test_the_number_of_the_format_stands_in_the_file_and_not_in_the_config():
    text = to_config_yaml(encode_config(CONFIG)[0])
    assert text.startswith("format: 1\n")
    assert same(decode_config(text), decode_config(text.removeprefix("format: 1\n")))


@pytest.mark.parametrize("found", ["2", "0", "new", "[1]"])
def test_a_file_of_another_format_is_refused(found):
    with pytest.raises(ConfigError) as caught:
        decode_config(f"format: {found}\nMODEL: not.there\n", "run.yaml")
    (problem,) = caught.value.problems
    assert re.match(r"run.yaml: expected format 1, got .+. Read it with the version", problem)


def test_classes_outside_the_project(write):
    path = write("net_x.py", "class Net: pass\nclass Block: pass\n")
    from config.names import get_object

    config = {
        "MODEL": get_object(f"{path}:Net"),
        "MODEL_CONFIG": {"b": get_object(f"{path}:Block")},
    }
    config["ROUTINE_NAME"] = get_object(path)
    plain, lost = encode_config(config)
    assert lost == []
    assert plain["MODEL"] == f"{path}:Net" and plain["ROUTINE_NAME"] == path
    code = f"from config.codec import *; print(decode_config({to_yaml(plain)!r}))"
    env = {"PYTHONPATH": str(ROOT_PATH)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (
        "'MODEL': <class 'net_x.Net'>, 'MODEL_CONFIG': {'b': <class 'net_x.Block'>}" in done.stdout
    )
    assert decode_config(to_yaml(plain))["MODEL"] is config["MODEL"]
    whole = decode(encode({"routine": get_object(path)}))
    assert whole["routine"] is get_object(path)


# ------------------------------------------------------------------------------- YAML by hand


def test_numbers_as_people_write_them():
    text = "a: 1e-3\nb: 3E4\nc: -.5e1\nd: 1.e2\ne: 2026-11-20\nf: 1e\ng: e5\nh: 0.1"
    plain = from_yaml(text)
    assert plain["a"] == 1e-3 and plain["b"] == 3e4 and plain["c"] == -5.0 and plain["d"] == 100.0
    assert (plain["e"], plain["f"], plain["g"], plain["h"]) == ("2026-11-20", "1e", "e5", 0.1)


def test_hydra_form():
    config = decode_config(
        """
MODEL: {_target_: models.UNET, ch_in: 3, activ: {_target_: torch.nn.ELU, _partial_: true}}
MODEL_CONFIG:
  ch_out: 2
OPTIMIZER:
  _target_: torch.optim.Adam
  _partial_: true
  lr: 0.01
LOSS:
  _target_: torch.nn.CrossEntropyLoss
  label_smoothing: 0.1
METRICS:
  mine:
    _target_: utils.metrics.f1
    _partial_: true
    eps: 1e-3
CALLBACKS:
  - _target_: torch.nn.Dropout
    p: 0.5
TRAIN_DATASET_CONFIG:
  label_values: {0: 0, 255: 1}
"""
    )
    assert config["MODEL"] is UNET
    assert config["MODEL_CONFIG"] == {"ch_in": 3, "activ": nn.ELU, "ch_out": 2}
    assert same(config["OPTIMIZER"], functools.partial(torch.optim.Adam, lr=0.01))
    assert config["LOSS"] is nn.CrossEntropyLoss
    assert config["LOSS_CONFIG"] == {"label_smoothing": 0.1}
    assert same(config["METRICS"]["mine"], functools.partial(f1, eps=1e-3))
    assert config["CALLBACKS"][0].p == 0.5
    assert config["TRAIN_DATASET_CONFIG"] == {"label_values": {0: 0, 255: 1}}


BY_HAND = """
MODEL: {_target_: models.UNET, ch_in: 12, ch_out: 2, _partial_: false}
MODEL_CONFIG: {ch_out: 2, bulk_ch: 4}
LOSS: {_target_: utils.loss.FocalLoss, gamma: 3, _partial_: false}
OPTIMIZER: {_target_: torch.optim.Adam, lr: 0.01, betas: {_target_: builtins.tuple, _args_: [[0.8, 0.9]]}}
SCHEDULER: {_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, patience: 2}
TRAIN_DATASET:
  _target_: utils.data.SyntheticScenes
  n_scenes: 4
"""  # noqa: E501


def test_a_call_is_the_name_and_its_arguments():
    config = decode_config(BY_HAND)
    assert config["MODEL"] is UNET
    assert config["MODEL_CONFIG"] == {"ch_in": 12, "ch_out": 2, "bulk_ch": 4}
    assert config["LOSS"] is FocalLoss and config["LOSS_CONFIG"] == {"gamma": 3}
    assert config["OPTIMIZER"] is torch.optim.Adam
    assert same(config["OPTIMIZER_CONFIG"], {"lr": 0.01, "betas": (0.8, 0.9)})
    assert config["SCHEDULER"] is torch.optim.lr_scheduler.ReduceLROnPlateau
    assert config["SCHEDULER_CONFIG"] == {"patience": 2}
    assert config["TRAIN_DATASET"] is SyntheticScenes and check_config(config) == []
    assert same(decode_config(to_config_yaml(encode_config(config)[0])), config)


def test_an_argument_beside_a_call_may_add_to_it_and_not_differ():
    text = BY_HAND.replace("bulk_ch: 4", "ch_in: 3") + "LOSS_CONFIG: {gamma: 2}\n"
    with pytest.raises(ConfigError) as caught:
        decode_config(text, "x.yaml")
    assert caught.value.problems == [
        "x.yaml: MODEL_CONFIG.ch_in: expected 12, which stands in MODEL, or none, got 3."
        " Remove one of them.",
        "x.yaml: LOSS_CONFIG.gamma: expected 3, which stands in LOSS, or none, got 2."
        " Remove one of them.",
    ]
    decode_config(text, replaced={"MODEL_CONFIG.ch_in", "LOSS_CONFIG"})
    assert decode_config(BY_HAND + "LOSS_CONFIG: [3]\n")["LOSS_CONFIG"] == [3]  # to be checked


def test_what_only_hydra_reads_is_named():
    text = """
defaults: [_self_, {model: unet}]
hydra: {run: {dir: out}}
MODEL: {_target_: models.UNET, ch_in: "???", _convert_: all}
OPTIMIZER_CONFIG: {lr: "${model.lr}"}
CALLBACKS: [{_target_: torch.nn.Dropout, _recursive_: false, _partial_: true}]
DATE: ${now:%Y}
__COMMENT: costs ${5}
"""
    with pytest.raises(ConfigError) as caught:
        decode_config(text, "x.yaml")
    no_word = "expected _target_, _args_ and _partial_ alone. Leave it out."
    assert caught.value.problems == [
        "x.yaml: defaults: expected no such key of Hydra. Write the parts that it joins into this"
        " file.",
        "x.yaml: hydra: expected no such key of Hydra. Leave it out; folders are set by LOG_DIR=..."
        " on the command line.",
        "x.yaml: OPTIMIZER_CONFIG.lr: expected a value, got '${model.lr}' of Hydra. Write it out.",
        f"x.yaml: CALLBACKS.0._recursive_: {no_word}",
        "x.yaml: DATE: expected a value, got '${now:%Y}' of Hydra. Write it out.",
        "x.yaml: MODEL_CONFIG.ch_in: expected a value, got '???' of Hydra. Write it out.",
        f"x.yaml: MODEL_CONFIG._convert_: {no_word}",
    ]


def test_text_of_a_captured_config_is_no_word_of_hydra():
    config = {"SESSION_NAME": "a ${b}", "LOSS_CONFIG": {"_convert_": "???"}}
    assert decode_config(to_config_yaml(encode_config(config)[0])) == config


def test_every_problem_of_a_file_is_told_with_its_key():
    text = """
MODEL: models.UNETT
OPTIMIZER: {_target_: adabelief_not_there.AdaBelief, lr: 0.1}
METRICS: {a: {_target_: no_such_package.f}, b: {_target_: torch.nn.Linear, in_feature: 3}}
CALLBACKS: [{_target_: torch.device, _args_: [nowhere]}]
LOSS: {_target_: 3, _partial_: true}
LOSS_CONFIG: {a: {_target_: torch.nn.ELU, _args_: 3}}
EPOCHS: 3
"""
    with pytest.raises(ConfigError) as caught:
        decode_config(text, "x.yaml")
    starts = [
        'MODEL: "models.UNETT": expected a name in "models", got "UNETT". Did you mean "UNET"?',
        'OPTIMIZER: "adabelief_not_there.AdaBelief": expected an import path, but there is no'
        ' package "adabelief_not_there". Check the spelling, or install the package.',
        'METRICS.a: "no_such_package.f": expected an import path, but there is no package',
        "METRICS.b: expected a call that works, got TypeError: ",
        "CALLBACKS: expected a call that works, got RuntimeError: ",
        "LOSS: _target_: expected an import path and a list of _args_, got 3 and []. Write {",
        "LOSS_CONFIG.a: _target_: expected an import path and a list of _args_, got 'torch.nn.ELU'",
    ]
    assert len(caught.value.problems) == len(starts)
    for problem, start in zip(caught.value.problems, starts, strict=True):
        assert problem.startswith(f"x.yaml: {start}"), problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: [1",
            r"x.yaml: expected YAML, got while parsing .* line 1, column \d+.* Mend the file",
        ),
        ("a: b: c", "x.yaml: expected YAML, got mapping values are not allowed here"),
        ("a: !!int x", "x.yaml: expected YAML, got invalid literal"),
        ("[1, 2]", "x.yaml: expected a mapping of keys, got list."),
        ("", "x.yaml: expected a mapping of keys, got NoneType."),
        ("a: " + "[" * 600, "x.yaml: expected YAML, got maximum recursion depth"),
        ("a: *b", "expected YAML, got found undefined alias 'b'"),
    ],
    ids=lambda text: text[:20],
)
def test_text_that_is_no_config(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        decode_config(text, "x.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system [touch {file}]",
        "!!python/object/new:os.system [touch {file}]",
        "!!python/name:os.system",
        "!!python/module:antigravity",
        "!!python/tuple [1, 2]",
        "!mine {{a: 1}}",
    ],
)
def test_tags_of_python_are_refused(tag, tmp_path):
    file = tmp_path / "touched"
    with pytest.raises(ConfigError, match="could not determine a constructor for the tag"):
        from_yaml("a: " + tag.format(file=file))
    assert not file.exists() and "antigravity" not in sys.modules


def test_from_yaml_imports_nothing():
    plain = from_yaml("a: {_target_: antigravity.x}")
    assert plain == {"a": {"_target_": "antigravity.x"}} and "antigravity" not in sys.modules


# ------------------------------------------------------------------------------- weights files


TABLE = MODELS | {f"torch.nn.{name}": getattr(nn, name) for name in ("ELU", "Linear", "Dropout")}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"ch_in": 3, "dropout": 0.5, "name": "a", "flat": None, "nan": math.nan},
        {"activ": nn.ELU, "block": functools.partial(nn.Linear, 3, bias=False)},
        {"sizes": (1, (2, 3)), "table": {0: 1, 255: 2}, "kinds": {1, 2}, "few": frozenset({1})},
        {"net": UNET, "list": [nn.Dropout, {"a": (nn.ELU,)}]},
    ],
)
def test_model_config_there_and_back(config):
    assert same(decode_model(encode_model(config), TABLE), config)


def test_model_config_that_cannot_be_captured_is_null():
    assert encode_model({"activ": lambda: 0}) == "null"
    assert decode_model("null", TABLE) is None


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "builtins.getattr",
        "builtins.__import__",
        "torch.hub.load",
        "torch.nn.modules.os.system",
        "torch.nn.ELU.__init__.__globals__",
        "torch.nn.functional.relu",
        "models.unet.UNET",
        "config.names.get_object",
        "importlib.import_module",
        "antigravity.x",
        "/tmp/x.py:Net",
        "",
    ],
)
@pytest.mark.parametrize("form", ["call", "partial", "nested", "argument"])
def test_weights_file_reaches_nothing_outside_the_table(name, form, tmp_path):
    file = tmp_path / "touched"
    call = {"_target_": name, "_args_": [f"touch {file}"]}
    if form == "partial":
        call = {"_target_": name, "_partial_": True}
    if form == "nested":
        call = {"_target_": "torch.nn.Linear", "in_features": [call]}
    if form == "argument":
        call = {"_target_": "builtins.tuple", "_args_": [[{"_target_": name}]]}
    before = set(sys.modules)
    with pytest.raises(ValueError, match=f'expected a class of the kit .*, got "{name}"'):
        decode_model(json.dumps({"activ": call}), TABLE)
    assert set(sys.modules) == before and not file.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("os.system('true')", "Expecting value"),
        ("[" * 100_000, "expected the arguments of a model, got a text nested too deep"),
        ('{"a":' * 20_000 + "1" + "}" * 20_000, "nested too deep"),
        ('{"_target_": ["os.system"]}', "_target_: expected an import path"),
        ('{"_target_": {"_target_": "os.system"}}', 'got "os.system"'),
        (
            '{"_target_": "torch.nn.ELU", "_args_": "abc"}',
            "a list of _args_, got 'torch.nn.ELU' and",
        ),
        ('{"_target_": null}', "_target_: expected an import path"),
    ],
    ids=lambda text: text[:30],
)
def test_text_that_is_no_model_config(text, message):
    with pytest.raises(ValueError, match=message):
        decode_model(text, TABLE)


def test_decode_of_deep_but_bearable_text():
    assert decode_model("[" * 50 + "]" * 50, TABLE) == json.loads("[" * 50 + "]" * 50)


def test_keys_of_the_table_are_read_as_import_paths_only_where_they_are_called():
    config = decode_config("SESSION_NAME: models.UNET\nMODEL: models.UNET\nMODEL_CONFIG: {a: os.x}")
    assert config["SESSION_NAME"] == "models.UNET" and config["MODEL"] is UNET
    assert config["MODEL_CONFIG"] == {"a": "os.x"}
    assert set(config) <= set(KEYS)
