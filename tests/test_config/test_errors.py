import pytest
from torch import nn

from config.errors import ConfigError, did_you_mean, shorten


def test_config_error_holds_every_problem():
    error = ConfigError(iter(["a: b", "c: d"]))
    assert error.problems == ["a: b", "c: d"] and str(error) == "a: b\nc: d"
    assert ConfigError("one").problems == ["one"]
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("optimiser", ["OPTIMIZER", "EPOCHS"], ' Did you mean "OPTIMIZER"?'),
        ("UNETT", ["unet", "UNET"], ' Did you mean "UNET"?'),
        ("unett", ["unet", "UNET"], ' Did you mean "unet"?'),
        ("unett", iter(["UNET", "unet"]), ' Did you mean "unet"?'),
        ("epochs", ["EPOCHS"], ' Did you mean "EPOCHS"?'),
        ("x", ["EPOCHS"], ""),
        ("x", [], ""),
        ("lr", [0, 1, "Lr"], ' Did you mean "Lr"?'),
    ],
)
def test_did_you_mean(word, known, hint):
    assert did_you_mean(word, known) == hint


def test_shorten():
    assert shorten("a") == "'a'"
    assert shorten("a" * 100) == "'" + "a" * 76 + "..."
    assert shorten(list(range(9)), 10) == "[0, 1, ..."
    assert shorten(nn.Sequential(nn.ReLU())) == "Sequential( (0): ReLU() )"
    assert shorten("a\n b") == "'a\\n b'"
