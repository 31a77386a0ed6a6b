import functools
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import config.names
from config.config import ROOT_PATH
from config.errors import ConfigError
from config.names import get_object, import_file, module_name, name_of
from models import UNET
from utils.loss import f1


class Outer:
    class Inner:
        pass

    @classmethod
    def make(cls):
        return cls()

    def method(self):
        return self


class Derived(Outer):
    pass


def function():
    def local():
        return 0

    return local


cached = functools.lru_cache(function)
shadowed = function


def shadowed():  # noqa: F811
    return 1


first_shadowed = function
HERE = __name__

NAMED = [
    (nn.ELU, "torch.nn.ELU"),
    (torch.optim.SGD, "torch.optim.SGD"),
    (nn.functional.relu, "torch.nn.functional.relu"),
    (torch.relu, "torch.relu"),
    (torch.optim.lr_scheduler.OneCycleLR, "torch.optim.lr_scheduler.OneCycleLR"),
    (np.log1p, "numpy.log1p"),
    (len, "builtins.len"),
    (UNET, "models.UNET"),
    (f1, "utils.metrics.f1"),
    (Outer.Inner, f"{HERE}.Outer.Inner"),
    (Outer.make, f"{HERE}.Outer.make"),
    (Outer.method, f"{HERE}.Outer.method"),
    (function, f"{HERE}.function"),
]


@pytest.mark.parametrize(("obj", "name"), NAMED, ids=[name for _, name in NAMED])
def test_name_and_back(obj, name):
    assert name_of(obj) == name
    assert get_object(name) == obj


@pytest.mark.parametrize(
    "obj",
    [
        lambda: 0,
        function(),
        Outer().method,
        Derived.make,  # its name says Outer.make, which makes another class
        nn.Linear(1, 1),
        functools.partial(function),
        None,
        3,
        "text",
        np.zeros(2),
    ],
)
def test_no_name(obj):
    assert name_of(obj) is None


def test_object_that_its_module_does_not_hold_has_no_name():
    hidden = type("Outer", (), {"__module__": HERE})
    assert name_of(hidden) is None
    assert name_of(type("X", (), {"__module__": "no.such.module"})) is None


def test_module_name_and_back():
    for module in (sys.modules[__name__], config.names, torch.nn):
        assert get_object(module_name(module)) is module
    assert module_name(torch.nn) == "torch.nn"
    assert get_object(config.names.__file__) is config.names


def test_a_function_may_have_the_name_of_its_module(write, tmp_path):
    write("losses_x/__init__.py", "from losses_x.dice import dice")
    write("losses_x/dice.py", "def dice(): pass\ndef other(): pass")
    sys.path.append(str(tmp_path))
    dice = get_object("losses_x.dice")
    assert name_of(dice) == "losses_x.dice" and dice.__name__ == "dice"
    assert get_object("losses_x.dice.other").__name__ == "other"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package.Net", 'there is no package "no_such_package". Check the spelling, or'),
        ("UNET", 'there is no package "UNET"'),
        ("", 'there is no package ""'),
        (".x", 'there is no package ""'),
        ("a b", 'there is no package "a b"'),
        ("models.UNETT", 'expected a name in "models", got "UNETT". Did you mean "UNET"?'),
        ("torch.nn.Conv2D", 'expected a name in "torch.nn", got "Conv2D". Did you mean "Conv2d"?'),
        ("torch..nn", 'expected a name in "torch", got "".'),
        ("models.UNET.a.b", 'expected a name in "UNET", got "a".'),
        ("nowhere.py:Net", 'nowhere.py": expected a Python file, got none. Check the path.'),
        ("nowhere.py", 'nowhere.py": expected a Python file, got none.'),
    ],
)
def test_wrong_name(name, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        get_object(name)


# ------------------------------------------------------------------------- outside the project


NET = "from torch import nn\nclass Net(nn.Module):\n    class Part: pass\n"


def test_class_outside_the_project_is_named_by_its_file(write):
    path = write("net_x.py", NET)
    Net = get_object(f"{path}:Net")  # noqa: N806
    assert name_of(Net) == f"{path}:Net"
    assert name_of(Net.Part) == f"{path}:Net.Part" and get_object(f"{path}:Net.Part") is Net.Part
    assert module_name(sys.modules[Net.__module__]) == path
    assert get_object(path) is sys.modules[Net.__module__]
    assert name_of(nn.ELU) == "torch.nn.ELU" and name_of(UNET) == "models.UNET"
    with pytest.raises(ConfigError, match='expected a name in "net_x", got "Nett". Did you mean'):
        get_object(f"{path}:Nett")


def test_neighbours_are_found_and_named_by_their_file(write):
    write("blocks_x.py", "class Block: pass\n")
    path = write("net_x.py", "from blocks_x import Block\nimport net_x\nMe = net_x\n")
    module = import_file(Path(path))
    assert module.Me is module, "imported twice"
    assert name_of(module.Block) == path.replace("net_x", "blocks_x") + ":Block"
    assert get_object(name_of(module.Block)) is module.Block


def test_file_in_a_package_finds_its_siblings(write, tmp_path):
    write("kit_x/__init__.py", "")
    write("kit_x/sub/__init__.py", "")
    write("kit_x/sub/block.py", "class Block: pass\n")
    path = write("kit_x/sub/net.py", "from .block import Block\nclass Net: pass\n")
    module = import_file(Path(path))
    assert module.__name__ == "kit_x.sub.net"
    assert name_of(module.Net) == f"{path}:Net" and get_object(f"{path}:Net") is module.Net
    assert str(tmp_path) in sys.path and str(tmp_path / "kit_x") not in sys.path


def test_two_files_of_one_name(write):
    paths = [write(f"{folder}/net_x.py", f"class Net: folder = '{folder}'\n") for folder in "ab"]
    nets = [get_object(f"{path}:Net") for path in paths]
    assert [net.folder for net in nets] == ["a", "b"]
    assert [name_of(net) for net in nets] == [f"{path}:Net" for path in paths]
    assert [get_object(path).Net for path in paths] == nets


@pytest.mark.parametrize("name", ["json.py", "config.py", "train.py", "my-net.py", "net.v2.py"])
def test_any_file_name_will_do(write, name):
    path = write(name, "import sys\nclass Net: pass\nMe = sys.modules[__name__]\n")
    module = get_object(path)
    assert module.__file__ == path and module.Me is module
    assert name_of(module.Net) == f"{path}:Net"
    assert import_file(Path(path)) is module
    assert name_of(UNET) == "models.UNET"


def test_a_link_and_a_relative_path_name_the_same_file(write, tmp_path, monkeypatch):
    path = write("net_x.py", NET)
    (tmp_path / "link.py").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    assert get_object("net_x.py:Net") is get_object("link.py:Net") is get_object(f"{path}:Net")


def test_own_files_keep_their_dotted_name():
    module = import_file(ROOT_PATH / "utils" / "loss.py")
    assert module is sys.modules["utils.loss"]
    assert name_of(import_file(Path(__file__)).Outer) == f"{HERE}.Outer"


def test_worker_processes_find_a_file_outside_the_project(write):
    path = write("net_x.py", "class Data:\n    def __getitem__(self, i): return i\n")
    data = get_object(f"{path}:Data")()
    # what a spawned worker gets: the pickle and sys.path
    code = (
        "import sys, pickle; sys.path = eval(sys.argv[1]); print(pickle.load(sys.stdin.buffer)[3])"
    )
    command = [sys.executable, "-c", code, repr(sys.path)]
    done = subprocess.run(command, input=pickle.dumps(data), capture_output=True, check=True)
    assert done.stdout.strip() == b"3"


def test_a_script_names_its_classes_by_its_file(write):
    path = write(
        "script_x.py", "from config.names import name_of\nclass Net: pass\nprint(name_of(Net))"
    )
    env = {"PYTHONPATH": str(ROOT_PATH)}
    done = subprocess.run(
        [sys.executable, path], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{path}:Net"
    done = subprocess.run(
        [sys.executable, "-"], input=Path(path).read_text(), env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == "None"  # as in a notebook: nobody can import it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = (\n", r"got SyntaxError: .* \(bad_x.py, line 2\). Mend the file."),
        ("x = 1\ny = z\n", r"got NameError: name 'z' is not defined \(.*bad_x.py, line 2\). Mend"),
        (
            "import pathlib\n\npathlib.Path('no').read_text()",
            r"FileNotFoundError.*bad_x.py, line 3",
        ),
        (
            "import torch\ntorch.zeros(2) + torch.zeros(3)",
            r"RuntimeError: .*\(.*bad_x.py, line 2\)",
        ),
        (
            "\nimport no_such_pkg.sub",
            r'the package "no_such_pkg", got none \(.*bad_x.py, line 2\). Run `make env-dev`',
        ),
        ("from torch import no_such_name", r"got ImportError: cannot import name 'no_such_name'"),
        ("raise ValueError('a')", "got ValueError: a"),
    ],
)
def test_file_that_fails_is_told_with_its_line(write, text, message):
    path = write("bad_x.py", text)
    with pytest.raises(ConfigError, match=f'^"{re.escape(path)}": .*{message}') as caught:
        get_object(path)
    assert caught.value.__cause__ is not None
    with pytest.raises(ConfigError):  # again: no half of it stays behind
        get_object(f"{path}:Net")


def test_failing_file_of_a_taken_name_leaves_nothing_behind(write):
    path = write("json.py", "x = 1\nraise KeyError('a')\n")
    before = set(sys.modules)
    with pytest.raises(ConfigError, match="KeyError: 'a'.*json.py, line 2"):
        get_object(path)
    assert set(sys.modules) == before


def test_package_that_a_module_lacks_is_named(write, tmp_path):
    write("mine_x/__init__.py", "")
    write("mine_x/net.py", "import adabelief_not_there\n")
    sys.path.append(str(tmp_path))
    with pytest.raises(ConfigError, match='expected the package "adabelief_not_there", got none'):
        get_object("mine_x.net.Net")


def test_keyboard_interrupt_passes(write):
    path = write("stop_x.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        get_object(path)
