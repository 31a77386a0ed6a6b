import pytest
import torch
from torch import nn

from config.codec import to_yaml
from config.config import ROOT_PATH
from config.errors import ConfigError
from config.search import (
    Choice,
    Interval,
    apply,
    check_space,
    choice,
    decode_space,
    default_space,
    encode_space,
    interval,
    label_options,
    read_space,
    split_space,
)

DIGITS = str(ROOT_PATH / "experiments" / "digits.py")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 1), "interval: expected numbers, the lower one first, got 1 and 1"),
        ((0, 1, True), "expected numbers above 0"),
        (("a", 1), "the lower one first, got 'a' and 1"),
        ((0.1, float("inf")), "expected numbers"),
    ],
)
def test_an_interval_that_is_none(arguments, message):
    with pytest.raises(ConfigError, match=message):
        interval(*arguments)


def test_a_choice_needs_two():
    with pytest.raises(ConfigError, match="two values or more, got 1"):
        choice(3)


def test_overrides_that_are_a_space_are_told_from_others():
    texts, others = split_space(["EPOCHS=3", "LR=interval(1, 2)", "~LR", "SEED=choice(1, 2)"])
    assert texts == {"LR": "interval(1, 2)", "SEED": "choice(1, 2)"}
    assert others == ["EPOCHS=3", "~LR"]


def test_text_is_read_as_overrides_are():
    pytest.importorskip("sklearn")
    texts = {
        "OPTIMIZER": "choice(torch.optim.SGD, torch.optim.AdamW)",
        "OPTIMIZER_CONFIG.lr": "interval(1e-4, 1e-1, log=True)",
        "MODEL_CONFIG.bulk_ch": "choice(8, 16)",
        "SESSION_NAME": "choice('a', b)",
    }
    assert read_space(texts, DIGITS, []) == {
        "OPTIMIZER": Choice((torch.optim.SGD, torch.optim.AdamW)),
        "OPTIMIZER_CONFIG.lr": Interval(1e-4, 1e-1, True),
        "MODEL_CONFIG.bulk_ch": Choice((8, 16)),
        "SESSION_NAME": Choice(("a", "b")),
    }


def test_all_that_is_wrong_with_text_is_said():
    texts = {"LR": "interval(1", "SEED": "choice(1)", "OPTIMIZER": "choice(torch.optim.SDG, a.b)"}
    with pytest.raises(ConfigError) as raised:
        read_space(texts, DIGITS, [])
    told = "\n".join(raised.value.problems)
    for part in ("LR: expected choice(8, 16) or interval", "SEED: choice: expected two", "SGD"):
        assert part in told


def test_values_are_put_at_dotted_keys_of_a_copy():
    config = {"OPTIMIZER_CONFIG": {"lr": 1}, "EPOCHS": 2}
    found = apply(
        config,
        {
            "OPTIMIZER_CONFIG.lr": 3,
            "MODEL_CONFIG.activ": nn.ELU,
            "OPTIMIZER, EPOCHS": (torch.optim.SGD, 5),
        },
    )
    assert found["OPTIMIZER_CONFIG"] == {"lr": 3} and found["MODEL_CONFIG"] == {"activ": nn.ELU}
    assert found["OPTIMIZER"] is torch.optim.SGD and found["EPOCHS"] == 5
    assert config == {"OPTIMIZER_CONFIG": {"lr": 1}, "EPOCHS": 2}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "expected a dict from key to choice or interval"),
        ({"LR": 3}, r'search_space\["LR"\]: expected choice\(...\) or interval'),
        ({"OPTIMISER": Choice((1, 2))}, 'Did you mean "OPTIMIZER"'),
        ({"EPOCHS": Choice((1, "two"))}, r'\["EPOCHS"\], \'two\': .*an integer of at least 1'),
        ({"OPTIMIZER_CONFIG.rate": Interval(0, 1)}, 'got "rate"'),
        ({"EPOCHS.x": Choice((1, 2))}, 'expected a dict at "EPOCHS"'),
        ({"EPOCHS, SEED": Choice((1, 2))}, "expected options of 2 parts, got 1"),
    ],
)
def test_a_wrong_space_is_refused(space, message):
    config = {"MODEL": nn.Linear, "MODEL_CONFIG": {"in_features": 1, "out_features": 1}}
    config |= {"LOSS": nn.MSELoss, "OPTIMIZER": torch.optim.SGD, "EPOCHS": 3}
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(check_space(space, config))


@pytest.mark.parametrize(
    ("config", "key", "lr"),
    [
        ({"LR": 0.3}, "LR", 0.3),
        ({"OPTIMIZER_CONFIG": {"lr": 0.1}}, "OPTIMIZER_CONFIG.lr", 0.1),
        ({"OPTIMIZER": torch.optim.Adadelta}, "OPTIMIZER_CONFIG.lr", 1.0),
        ({}, "OPTIMIZER_CONFIG.lr", 1e-3),
    ],
)
def test_the_default_space_lies_around_the_config(config, key, lr):
    space = default_space({**config, "DATA_LOADER_CONFIG": {"batch_size": 8}})
    assert space[key].low < lr < space[key].high and space[key].log
    assert space["DATA_LOADER_CONFIG.batch_size"].options == (4, 8, 16)


def test_labels_differ():
    assert label_options([nn.ELU, 8, "8", 8]) == ["torch.nn.ELU", "1: 8", "2: 8", "3: 8"]


def test_text_holds_a_space():
    space = {"OPTIMIZER": choice(torch.optim.SGD, torch.optim.AdamW), "LR": interval(1, 2)}
    lost = []
    plain = encode_space(space, lost)
    assert lost == [] and to_yaml(plain)
    assert decode_space(plain) == space
    encode_space({"LOSS": choice(nn.ELU, lambda p, t: p)}, lost)
    assert lost
