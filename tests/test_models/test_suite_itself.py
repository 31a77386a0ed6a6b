"""The suite of the models: it is complete, takes given weights, and finds what is wrong."""

import functools
import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from config.config import ROOT_PATH
from config.names import name_of
from models import MODELS, UNET, ConvNet
from tests.test_models import test_suite as suite
from tests.test_models.test_suite import Case, choose, test_configs
from utils.torchutils import load_weights, save_weights


def test_every_model_of_the_kit_is_here():
    names = {name_of(config["MODEL"]) for config in test_configs.values()}
    assert set(MODELS) <= names, "put the new model into test_configs"


def save_unet(path: Path) -> None:
    arguments = {"ch_in": 5, "ch_out": 1, "bulk_ch": 2, "n_recursions": 1}
    meta = {"MODEL": "models.UNET", "MODEL_CONFIG": '{"ch_in": 5, "ch_out": 1, "bulk_ch": 2, '}
    meta["MODEL_CONFIG"] += '"n_recursions": 1}'
    save_weights(path, UNET(**arguments).state_dict(), meta)


def test_given_weights_bring_their_own_arguments(tmp_path):
    save_unet(tmp_path / "w.pth")
    (config,) = choose(test_configs, str(tmp_path / "w.pth")).values()
    case = Case(config)
    assert case.shape("INPUT_DIM", n=1) == (1, 5, 33, 47)
    state = case.build().state_dict()
    given = load_weights(tmp_path / "w.pth")["model"]
    assert all(torch.equal(state[name], value) for name, value in given.items())


def test_weights_of_an_unknown_model_are_refused_unless_there_is_one_config(tmp_path):
    torch.save(ConvNet(1, 3, bulk_ch=4).state_dict(), tmp_path / "w.pth")
    path = str(tmp_path / "w.pth")
    with pytest.raises(ValueError, match="expected weights of UNET, .* got those of None"):
        choose(test_configs, path)
    (config,) = choose({"mine": test_configs["ConvNet"]}, path).values()
    assert Case(config).arguments == test_configs["ConvNet"]["MODEL_CONFIG"]


# ------------------------------------------------------------------------ what it finds


class Wrong(nn.Module):
    """A model with one fault, or none."""

    def __init__(self, fault):
        super().__init__()
        self.fault, self.n_calls = fault, 0
        self.conv, self.dropout = nn.Conv2d(1, 2, 3, padding=1), nn.Dropout(0.5)
        self.register_buffer("mean", torch.zeros(()))
        if fault == "unused parameter":
            self.more = nn.Linear(1, 1)
        if fault == "NaN":
            self.conv.weight.data[0] = torch.nan
        if fault == "lambda":
            self.activ = lambda x: x

    def forward(self, x):
        if self.training or self.fault == "statistics in eval mode":
            self.mean += x.mean().detach()
        if self.training:
            self.n_calls += 1
        if self.fault == "even sizes alone":
            x = nn.functional.interpolate(nn.functional.avg_pool2d(x, 2), scale_factor=2)
        if self.fault == "sees the batch":
            x = x - x.mean()
        if self.fault == "state beside its state":
            x = x + self.n_calls
        x = self.conv(x)
        if self.fault == "draws in eval mode":
            x = nn.functional.dropout(x, 0.5)
        if self.fault != "unused dropout":
            x = self.dropout(x)
        return 2 * x.detach() - x if self.fault == "gradient of the wrong sign" else x


FINDS = {
    "NaN": suite.test_parameters_are_finite,
    "unused parameter": suite.test_every_parameter_gets_a_gradient_and_a_step,
    "gradient of the wrong sign": suite.test_a_step_of_the_optimizer_lowers_the_loss,
    "lambda": suite.test_copies_give_the_same_output,
    "statistics in eval mode": suite.test_in_eval_mode_nothing_draws_and_nothing_changes,
    "draws in eval mode": suite.test_in_eval_mode_nothing_draws_and_nothing_changes,
    "sees the batch": suite.test_in_eval_mode_samples_do_not_see_each_other,
    "unused dropout": suite.test_train_mode_comes_back,
    "state beside its state": suite.test_a_weights_file_gives_the_same_output,
    "even sizes alone": functools.partial(
        suite.test_outputs_have_their_shape_for_any_size, size=(33, 47)
    ),
}


def check(finds, fault, tmp_path):
    config = test_configs["UNET"] | {"MODEL": Wrong, "MODEL_CONFIG": {"fault": fault}}
    case = Case(config | {"INPUT_DIM": (2, 1, 8, 8), "OUTPUT_DIM": (2, 2, 8, 8)})
    names = inspect.signature(finds).parameters
    given = {"case": case, "model": case.build(), "tmp_path": tmp_path}
    finds(**{name: given[name] for name in names if name in given})


@pytest.mark.parametrize("fault", FINDS)
def test_a_fault_is_found_and_a_good_model_passes(fault, tmp_path):
    check(FINDS[fault], None, tmp_path)
    with pytest.raises((AssertionError, AttributeError, pickle.PicklingError)):
        check(FINDS[fault], fault, tmp_path)


@pytest.mark.slow
def test_a_copy_tests_a_model_of_ones_own(tmp_path):
    text = Path(suite.__file__).read_text(encoding="utf-8")
    head, _, rest = text.partition("test_configs = {")
    _, _, rest = rest.partition("\n}\n")
    own = (
        "from torch.nn import Conv2d\n"
        "test_configs = {'mine': {'DEFAULT_WEIGHTS': None, 'INPUT_DIM': (2, 1, 8, 8),\n"
        "    'OUTPUT_DIM': (2, 3, 8, 8), 'LOSS': nn.MSELoss(), 'MODEL': Conv2d,\n"
        "    'MODEL_CONFIG': {'in_channels': 1, 'out_channels': 3, 'kernel_size': 1},\n"
        "    'OPTIMIZER': torch.optim.SGD, 'OPTIMIZER_CONFIG': {'lr': 1e-2}, 'DEVICE': 'cpu'}}\n"
    )
    (tmp_path / "test_mine.py").write_text(head + own + rest, encoding="utf-8")
    conv = nn.Conv2d(1, 3, 1)
    torch.save(conv.state_dict(), tmp_path / "w.pth")
    command = [sys.executable, "-m", "pytest", "-q", str(tmp_path / "test_mine.py")]
    command += ["--rootdir", str(ROOT_PATH), "-c", str(ROOT_PATH / "pyproject.toml")]
    environment = {**os.environ, "TEST_WEIGHTS": str(tmp_path / "w.pth")}
    done = subprocess.run(
        command, cwd=ROOT_PATH, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout
