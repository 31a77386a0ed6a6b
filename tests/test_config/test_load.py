import functools
import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import config.load
from config.codec import encode_config, to_yaml
from config.config import ROOT_PATH, global_config
from config.errors import ConfigError
from config.load import list_routines, load_config, load_routine, missing_packages
from models import UNET
from utils.loss import f1, smooth_dice_loss

TEXT = """
import sys
from functools import partial
from pathlib import Path
import torch
from models import UNET
from utils.loss import f1, smooth_dice_loss

train_config = {
    "DATE": "20200101-000000",
    "ROUTINE_NAME": sys.modules[__name__],
    "MODEL": UNET,
    "MODEL_CONFIG": {"ch_in": 3, "activ": torch.nn.ELU, "name": "a", "norm": None},
    "TRAIN_DATASET_CONFIG": {"root": Path("a"), "drop": partial(torch.nn.Dropout, 0.1)},
    "OPTIMIZER": "torch.optim.SGD",
    "OPTIMIZER_CONFIG": {"lr": 0.1, "momentum": 0.9, "betas": (0.9, 0.99)},
    "LOSS": smooth_dice_loss,
    "METRICS": {"f1": f1},
    "EPOCHS": 3,
}
other_config = {"EPOCHS": 7}
"""


@pytest.fixture
def path(write):
    return write("mine_x.py", TEXT)


def load(path, *overrides):
    return load_config(path, overrides)[0]


def problems(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return caught.value.problems


def only(found):
    assert len(found) == 1, found
    return found[0]


# ------------------------------------------------------------------------------------- sources


def test_a_file_outside_the_project(path):
    config, folders = load_config(path)
    assert config["MODEL"] is UNET and config["OPTIMIZER"] is torch.optim.SGD
    assert config["ROUTINE_NAME"].__file__ == path
    assert folders == global_config and folders is not global_config


def test_a_dict_of_another_name(path):
    assert load_config(path, name="other_config")[0] == {"EPOCHS": 7}


def test_a_dotted_module():
    config = load("training.pytorch_training")
    assert config["MODEL"] is UNET and config["ROUTINE_NAME"] == "pytorch"


def test_a_file_of_the_project_is_its_module():
    by_file = load(str(ROOT_PATH / "training" / "pytorch_training.py"))
    assert by_file == load("training.pytorch_training")


def test_neighbours_can_be_imported(write):
    write("blocks_x.py", "class Net: pass\n")
    path = write("mine_x.py", "from blocks_x import Net\ntrain_config = {'MODEL': Net}\n")
    plain, lost = encode_config(load(path))
    assert plain["MODEL"] == str(Path(path).with_name("blocks_x.py")) + ":Net" and lost == []


def test_the_dict_of_the_module_stays_as_it_is(path):
    load(
        path,
        "OPTIMIZER_CONFIG.lr=1",
        "MODEL_CONFIG.activ=torch.nn.ReLU",
        "METRICS.a=len",
        "~EPOCHS",
    )
    module = sys.modules["mine_x"]
    assert module.train_config["OPTIMIZER_CONFIG"] == {
        "lr": 0.1,
        "momentum": 0.9,
        "betas": (0.9, 0.99),
    }
    assert module.train_config["MODEL_CONFIG"]["activ"] is nn.ELU
    assert module.train_config["EPOCHS"] == 3 and list(module.train_config["METRICS"]) == ["f1"]


@pytest.mark.parametrize("ending", [".yaml", ".yml"])
def test_a_captured_config(path, write, ending):
    config = load(path)
    text = write("run" + ending, to_yaml(encode_config(config)[0]))
    again = load(text)
    assert again.pop("ROUTINE_NAME") == path and config.pop("ROUTINE_NAME").__file__ == path
    drop = again["TRAIN_DATASET_CONFIG"].pop("drop"), config["TRAIN_DATASET_CONFIG"].pop("drop")
    assert repr(drop[0]) == repr(drop[1])
    assert again == config


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.py", 'nowhere.py": expected a Python file, got none. Check the path.'),
        ("nowhere.yaml", '"nowhere.yaml": expected a config file, got none. Check the path.'),
        ("no_such_package.x", 'there is no package "no_such_package"'),
        ("experiments.nowhere_x", 'expected a name in "experiments", got "nowhere_x"'),
        (
            "utils.loss",
            '"utils.loss": expected a module with a dict `train_config`, got none. Copy',
        ),
        ("models.UNET", "expected a module with a dict `train_config`, got none"),
        (str(ROOT_PATH), "expected an import path, but there is no package"),
    ],
)
def test_no_such_config(source, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(source)


def test_train_config_that_is_no_dict(write):
    path = write("mine_x.py", "train_config = [1]")
    assert only(problems(path)) == (
        f'"{path}": expected a module with a dict `train_config`, got list.'
        " Copy experiments/scenes.py to start with."
    )


def test_mistake_in_the_file_is_told_with_its_line(write):
    path = write("bad_x.py", "a = 1\ntrain_config = {\n")
    assert re.search(r"SyntaxError: .*\(bad_x.py, line 2\)", only(problems(path, "EPOCHS=1")))
    path = write("worse_x.py", "train_config = {'MODEL': UNET}\n")
    message = only(problems(path))
    assert f"got NameError: name 'UNET' is not defined ({path}, line 1). Mend the file." in message


# ----------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("EPOCHS=5", 5),
        ("LR=3e-4", 3e-4),
        ("ONE_CYCLE=True", True),
        ("MIXED_PRECISION=bf16", "bf16"),
        ("SESSION_NAME=2026", "2026"),
        ("SESSION_NAME=a=b", "a=b"),
        ("__COMMENT=first try", "first try"),
        ("__COMMENT=None", None),
        ("CLASSES=['a', 'b']", ["a", "b"]),
        ("MODEL=models.ConvNet", "ConvNet"),
        ("SCHEDULER=torch.optim.lr_scheduler.StepLR", torch.optim.lr_scheduler.StepLR),
        ("OPTIMIZER=None", None),
        ("LOSS=torch.nn.MSELoss", nn.MSELoss),
        ("ROUTINE_NAME=ignite", "ignite"),
        ("DEVICE=cuda:1", "cuda:1"),
        ("WEIGHTS=a/b.pth", "a/b.pth"),
        ("MONITOR_MODE=max", "max"),
        ("METRICS={}", {}),
        ("EPOCHS=many", "many"),  # check_config says what it should be
        ("EPOCHS=", ""),
    ],
)
def test_override_of_a_key(path, override, value):
    found = load(path, override)[override.split("=")[0]]
    assert found == value or found.__name__ == value


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("OPTIMIZER_CONFIG.lr=3e-4", 3e-4),
        ("OPTIMIZER_CONFIG.betas=(0.8, 0.9)", (0.8, 0.9)),
        ("OPTIMIZER_CONFIG.new=True", True),
        ("MODEL_CONFIG.activ=torch.nn.GELU", nn.GELU),
        ("MODEL_CONFIG.activ=None", None),
        ("MODEL_CONFIG.norm=torch.nn.BatchNorm2d", nn.BatchNorm2d),
        ("MODEL_CONFIG.new=utils.loss.f1", f1),
        ("MODEL_CONFIG.new=images.png", "images.png"),
        ("MODEL_CONFIG.new=1.2.3", "1.2.3"),
        ("MODEL_CONFIG.new='torch.nn.ELU'", "torch.nn.ELU"),
        ("MODEL_CONFIG.new=resnet", "resnet"),
        ("MODEL_CONFIG.new=data/my.dir/x", "data/my.dir/x"),
        ("MODEL_CONFIG.ch_in=many", "many"),
        ("MODEL_CONFIG.name=3", "3"),  # what replaces text stays text
        ("MODEL_CONFIG.name=torch.nn.ELU", "torch.nn.ELU"),
        ("MODEL_CONFIG.name=None", None),
        ("TRAIN_DATASET_CONFIG.root=os.path", "os.path"),
        ("METRICS.precision=utils.loss.precision", "precision"),
        ("DATA_LOADER_CONFIG.batch_size=4", 4),  # no such dict yet
        ("PREPROCESS.scale=0.1", 0.1),  # None so far
        ("MODEL_CONFIG.head.width=3", 3),
        ("CHECKPOINT.every_epochs=5", 5),
    ],
)
def test_override_of_an_entry(path, override, value):
    found = load(path, override)
    for name in override.partition("=")[0].split("."):
        found = found[name]
    assert found == value or found.__name__ == value


def test_class_outside_the_project_by_name(path, write):
    net = write("net_x.py", "class Net: pass\n")
    config = load(path, f"MODEL={net}:Net", f"MODEL_CONFIG.activ={net}:Net")
    assert config["MODEL"] is config["MODEL_CONFIG"]["activ"] is sys.modules["net_x"].Net


def test_later_overrides_win(path):
    assert load(path, "EPOCHS=1", "EPOCHS=2")["EPOCHS"] == 2
    config = load(path, "OPTIMIZER_CONFIG={'lr': 1}", "OPTIMIZER_CONFIG.lr=2")
    assert config["OPTIMIZER_CONFIG"] == {"lr": 2}


def test_removing(path):
    config = load(
        path, "~OPTIMIZER_CONFIG.momentum", "~EPOCHS", "~METRICS", "METRICS.a=utils.loss.f1"
    )
    assert "EPOCHS" not in config and config["METRICS"] == {"a": f1}
    assert list(config["OPTIMIZER_CONFIG"]) == ["lr", "betas"]


def test_folders(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, folders = load_config(path, ["LOG_DIR=out/logs", f"DATA_DIR={tmp_path}", "WEIGHT_DIR=~"])
    assert folders["LOG_DIR"] == tmp_path / "out" / "logs" and folders["DATA_DIR"] == tmp_path
    assert folders["WEIGHT_DIR"] == Path.home()
    assert folders["ROOT_PATH"] == ROOT_PATH and global_config["LOG_DIR"] == ROOT_PATH / "logs"


def test_a_setting_of_your_own_among_the_folders_is_no_path(path, monkeypatch):
    monkeypatch.setitem(global_config, "OWNER", "me")
    monkeypatch.setitem(global_config, "LIMIT", 3)
    _, folders = load_config(path, ["OWNER=you", "LIMIT=4"])
    assert (folders["OWNER"], folders["LIMIT"]) == ("you", 4)


def test_date_of_the_command_line_reaches_the_run(path):
    config, folders = load_config(path, ["DATE=20261120-143000"])
    assert folders["DATE"] == "20261120-143000"
    assert config["DATE"] == "20200101-000000"  # of an earlier run: the start time replaces it
    assert "DATE" not in load_config(path)[1]
    assert load_config(path, ["DATE=1", "DATE=2026"])[1]["DATE"] == "2026"
    assert load_config(path, ["DATE=None"])[1]["DATE"] is None
    assert "DATE" not in load(path, "~DATE")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("EPOCH=1", '"EPOCH=1": expected a known key, got "EPOCH". Did you mean "EPOCHS"? `python'),
        ("LOGDIR=a", 'got "LOGDIR". Did you mean "LOG_DIR"?'),
        ("~EPOCH", '"~EPOCH": expected a known key, got "EPOCH". Did you mean "EPOCHS"?'),
        ("=1", '"=1": expected a known key, got "".'),
        ("~", '"~": expected a known key, got "".'),
        ("EPOCHS", '"EPOCHS": expected KEY=VALUE or ~KEY, got neither. See --help.'),
        ("~EPOCHS=1", '"~EPOCHS=1": expected KEY=VALUE or ~KEY, got neither.'),
        ("~LOG_DIR", '"~LOG_DIR": expected LOG_DIR=VALUE, got another form. Change it whole.'),
        ("LOG_DIR.a=1", '"LOG_DIR.a=1": expected LOG_DIR=VALUE, got another form.'),
        ("LOG_DIR=", '"LOG_DIR=": expected a folder, got nothing. Give its path.'),
        (
            "EPOCHS.a=1",
            '"EPOCHS.a=1": expected a dict at "EPOCHS", got 3. Set or remove "EPOCHS" as',
        ),
        ("TRAIN_DATASET_CONFIG.drop.p=0.2", 'expected a dict at "drop", got functools.partial('),
        (
            "~OPTIMIZER_CONFIG.momentun",
            'got "OPTIMIZER_CONFIG.momentun". Did you mean "momentum"? There is nothing to remove.',
        ),
        ("~SEED", '"~SEED": expected an entry of the config, got "SEED".'),
        ("~PREPROCESS.scale", 'expected a dict at "PREPROCESS", got None.'),
        ("MODEL=models.UNETT", 'MODEL: "models.UNETT": expected a name in "models", got "UNETT".'),
        ("MODEL=UNET", 'MODEL: "UNET": expected an import path, but there is no package "UNET".'),
        (
            "OPTIMIZER=adabelief_not_there.AdaBelief",
            'no package "adabelief_not_there". Check the spelling, or install the package.',
        ),
        (
            "MODEL_CONFIG.activ=torch.nn.GELUU",
            'expected a name in "torch.nn", got "GELUU". Did you',
        ),
        ("MODEL_CONFIG.activ=GELU", '"GELU": expected an import path, but there is no package'),
    ],
)
def test_wrong_override(path, override, message):
    assert message in only(problems(path, override))


def test_all_problems_of_overrides_are_told_together(path):
    found = problems(
        path, "EPOCH=1", "~SEED", "MODEL=no_x.Net", "EPOCHS=3", "OPTIMIZER=torch.optim.Sdg"
    )
    assert [problem.split(":")[0] for problem in found] == [
        '"EPOCH=1"',
        '"~SEED"',
        "MODEL",
        "OPTIMIZER",
    ]


def test_import_paths_in_the_dict_are_resolved_and_their_problems_told_together(write):
    path = write(
        "mine_x.py", "train_config = {'MODEL': 'models.UNET', 'LOSS': 'a_x.b', 'OPTIMIZER': 'c_x'}"
    )
    found = problems(path)
    assert [problem.split(":")[0] for problem in found] == ["LOSS", "OPTIMIZER"]
    config = load(path, "LOSS=utils.loss.smooth_dice_loss", "~OPTIMIZER")
    assert config == {"MODEL": UNET, "LOSS": smooth_dice_loss}


LOST = """
MODEL: gone_x.Net
MODEL_CONFIG: {name: a, activ: {_target_: gone_x.Activ, _partial_: true}}
LOSS: !not-captured <lambda>
METRICS: {f1: {_target_: utils.loss.f1, _partial_: true}, mine: !not-captured <lambda>}
CALLBACKS: [!not-captured x]
EPOCHS: 3
"""


def test_overrides_mend_what_was_not_captured_or_is_gone(write):
    path = write("run.yaml", LOST)
    assert [problem.split(": ")[1] for problem in problems(path)] == [
        "MODEL",
        "MODEL_CONFIG.activ",
        "LOSS",
        "METRICS.mine",
        "CALLBACKS",
    ]
    assert "METRICS.mine=..., or leave it out with ~METRICS.mine." in problems(path)[3]
    config = load(
        path,
        "MODEL=models.UNET",
        "MODEL_CONFIG.activ=torch.nn.ELU",
        "MODEL_CONFIG.name=3",
        "~LOSS",
        "METRICS.mine=utils.loss.f1",
        "~CALLBACKS",
    )
    assert config == {
        "MODEL": UNET,
        "MODEL_CONFIG": {"name": "3", "activ": nn.ELU},
        "METRICS": {"f1": f1, "mine": f1},
        "EPOCHS": 3,
    }
    assert len(problems(path, "MODEL=models.UNET", "~LOSS")) == 3


# ------------------------------------------------------------------------------------ routines


def test_routines_are_the_files_of_training():
    assert {"fastai", "ignite", "pytorch"} <= set(list_routines())
    for name in list_routines():
        assert (ROOT_PATH / "training" / f"{name}_training.py").is_file()


def test_routine_by_short_name_dotted_name_file_and_module(write):
    module = load_routine("pytorch")
    assert module is sys.modules["training.pytorch_training"]
    assert load_routine("training.pytorch_training") is module
    assert load_routine(str(ROOT_PATH / "training" / "pytorch_training.py")) is module
    assert load_routine(module) is module
    path = write("loop_x.py", "def train(*args): return 3\n")
    assert load_routine(path).train() == 3


@pytest.mark.parametrize(
    ("routine", "message"),
    [
        ("pytorhc", 'got "pytorhc". Did you mean "pytorch"? Set --routine.'),
        ("pytorhc", "ROUTINE_NAME: expected one of fastai, ignite, "),
        ("training.no_such_training", 'ROUTINE_NAME: "training.no_such_training": expected a name'),
        ("no_such_package.loop", 'ROUTINE_NAME: "no_such_package.loop": expected an import path'),
        ("nowhere.py", 'nowhere.py": expected a Python file, got none'),
        (
            "utils.loss",
            'expected a module with train(), got "utils.loss". Choose one with --routine',
        ),
        (types.ModuleType("loop"), 'expected a module with train(), got "loop".'),
        (None, 'expected a module with train(), got "None".'),
        (functools, 'expected a module with train(), got "functools".'),
    ],
)
def test_wrong_routine(routine, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_routine(routine)
    assert str(caught.value).startswith("ROUTINE_NAME: ")


def test_missing_framework_is_named_with_the_remedy(monkeypatch):
    import training

    monkeypatch.delitem(sys.modules, "training.ignite_training", raising=False)
    monkeypatch.delattr(training, "ignite_training", raising=False)  # another test imported it
    monkeypatch.setitem(sys.modules, "ignite", None)  # as if it were not installed
    for name in [name for name in sys.modules if name.startswith("ignite.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ConfigError, match='^ROUTINE_NAME: .*expected the package "ignite'
    ) as caught:
        load_routine("ignite")
    assert "ignite_training.py, line" in str(caught.value) and "`make env-dev`" in str(caught.value)


# ------------------------------------------------------------------------------------ packages


def test_nothing_is_missing_here():
    assert missing_packages() is None


@pytest.mark.parametrize("has_environment", [True, False])
def test_missing_packages_are_named_with_the_remedy(monkeypatch, tmp_path, has_environment):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("torch", "yaml") else find(name)
    )
    monkeypatch.setattr(config.load, "ROOT_PATH", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    if has_environment:
        python.parent.mkdir(parents=True)
        python.touch()
    remedy = f"Use {python}." if has_environment else f"Run `make env-dev` in {tmp_path}."
    assert missing_packages() == f"expected torch, yaml in {sys.executable}, got none. {remedy}"
