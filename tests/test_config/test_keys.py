import datetime
import inspect
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from config.config import ROOT_PATH
from config.keys import (
    ARGUMENTS,
    CHECKPOINT_KEYS,
    IMPORTED,
    KEYS,
    LOADER_KEYS,
    PASSED_THROUGH,
    REQUIRED,
    copy_containers,
    is_import_path,
    read_literal,
    read_text,
    with_defaults,
)

OF_OLD = """DATE SESSION_NAME ROUTINE_NAME MODEL MODEL_CONFIG DATA_LOADER_CONFIG OPTIMIZER
    OPTIMIZER_CONFIG EPOCHS LOSS METRICS DEVICE LOGFILE __COMMENT WEIGHTS LR ONE_CYCLE
    MIXED_PRECISION""".split()


def accepts(name, value):
    return KEYS[name].kind.accepts(value)


def test_keys_of_old_are_all_there():
    assert set(OF_OLD) <= set(KEYS)


@pytest.mark.parametrize("name", KEYS)
def test_row_is_whole(name):
    key = KEYS[name]
    assert key.name == name == name.upper()
    assert key.meaning and not key.meaning.endswith(".")
    assert key.kind.rule and not key.kind.rule.endswith(".")
    if name not in REQUIRED:
        assert accepts(name, key.default), "the default breaks the key's own rule"
    else:
        assert key.default is None and not accepts(name, None)


@pytest.mark.parametrize("name", [name for name in KEYS if is_import_path(name)])
def test_what_is_called_has_its_arguments_beside_it(name):
    if name not in PASSED_THROUGH:
        assert KEYS[f"{name}_CONFIG"].kind is ARGUMENTS


def test_arguments_belong_to_what_is_called():
    arguments = {name for name, key in KEYS.items() if key.kind is ARGUMENTS}
    called = {f"{name}_CONFIG" for name, key in KEYS.items() if key.kind in IMPORTED}
    assert arguments - called == {"DATA_LOADER_CONFIG"}


def test_tables_beside_name_keys_of_the_table():
    assert {*PASSED_THROUGH, *REQUIRED, "CHECKPOINT", "DATA_LOADER_CONFIG"} <= set(KEYS)
    assert "every_epochs" in CHECKPOINT_KEYS


def test_loader_keys_are_arguments_of_torch():
    of_torch = inspect.signature(torch.utils.data.DataLoader).parameters
    assert set(LOADER_KEYS) - {"balanced", "per_class"} <= set(of_torch)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("EPOCHS", [1, 10**6], [0, -1, 1.0, True, "1", None]),
        ("SEED", [0, 2**63 - 1], [-1, 2**63, 1.5, False, None]),
        ("LR", [1e-3, 1, None], [0, -1, math.inf, math.nan, "1e-3", True]),
        ("CLIP_NORM", [0.5, 10**400, None], [0, -(10**400)]),
        ("EMA", [0.999, None], [0, 1, 1.5, True]),
        ("ONE_CYCLE", [True, False], [1, 0, "True", None]),
        ("MIXED_PRECISION", [True, False, "bf16", "fp16"], [1, 0, "fp32", None]),
        ("SCHEDULER_INTERVAL", ["epoch", "step"], ["batch", None]),
        ("MONITOR_MODE", ["min", "max", None], ["maximum", 1]),
        ("TASK", ["binary", "multiclass_segmentation", None], ["segmentation", 1]),
        ("SESSION_NAME", ["a"], [None, 1]),
        ("DATE", ["20261120", None], [datetime.date(2026, 11, 20)]),
        ("CLASSES", [["a"], ("a", "b"), None], ["ab", {"a": 0}]),
        ("PREPROCESS", [{"scale": 0.1}, None], [0.1]),
        ("MODEL_CONFIG", [{}, {"a": 1}], [None, [], {1: 2}]),
        ("MODEL", [nn.Linear, nn.functional.relu, lambda: 0], [None, "models.UNET", 1]),
        ("OPTIMIZER", [torch.optim.SGD, None], ["torch.optim.SGD"]),
        ("LOSS", [nn.MSELoss, nn.MSELoss()], [None, "mse"]),
        ("METRICS", [{}, [], {"a": len}], [None, len, "f1"]),
        ("WEIGHTS", ["a.pth", Path("a.pth"), None], [1]),
        ("DEVICE", ["cuda:1", torch.device("cpu"), None], [0, {}]),
        ("ROUTINE_NAME", ["ignite", sys.modules[__name__]], [None, len]),
        ("CALLBACKS", [[], [len]], [len, None]),
    ],
)
def test_kind_accepts(name, good, bad):
    assert [value for value in good if not accepts(name, value)] == []
    assert [value for value in bad if accepts(name, value)] == []


def test_timeout_of_a_loader_may_be_zero_as_torch_has_it():
    assert LOADER_KEYS["timeout"].accepts(0) and not LOADER_KEYS["timeout"].accepts(-1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("True", True),
        ("None", None),
        ("[1, 'a']", [1, "a"]),
        ("{'a': (1, 2)}", {"a": (1, 2)}),
        ("'3'", "3"),
        ("bf16", "bf16"),
        ("true", "true"),
        ("1 +", "1 +"),
        ("{[]: 1}", "{[]: 1}"),
        ("", ""),
    ],
)
def test_read_literal(text, value):
    assert read_literal(text) == value and type(read_literal(text)) is type(value)


def test_text_keys_are_read_as_they_stand():
    assert KEYS["SESSION_NAME"].kind.read("2026") == "2026"
    assert KEYS["__COMMENT"].kind.read("None") is None
    assert read_text("None") is None


def test_with_defaults_fills_every_key_in_order():
    complete = with_defaults({"EPOCHS": 3, "MODEL": nn.Linear})
    assert list(complete) == list(KEYS)
    assert (complete["EPOCHS"], complete["MODEL"], complete["SEED"]) == (3, nn.Linear, 0)


def test_with_defaults_copies_containers_and_keeps_leaves():
    module, metric = nn.Linear(1, 1), len
    config = {"MODEL_CONFIG": {"a": [1, (module, {"b": 2})]}, "METRICS": {"m": metric}}
    complete = with_defaults(config)
    complete["MODEL_CONFIG"]["a"].append(2)
    complete["MODEL_CONFIG"]["a"][1][1]["b"] = 3
    complete["METRICS"]["n"] = metric
    complete["CALLBACKS"].append(metric)
    assert config == {"MODEL_CONFIG": {"a": [1, (module, {"b": 2})]}, "METRICS": {"m": metric}}
    assert complete["MODEL_CONFIG"]["a"][1][0] is module
    assert KEYS["CALLBACKS"].default == []


def test_copy_containers_leaves_other_kinds_of_tuple_alone():
    assert copy_containers(torch.Size([1])).__class__ is torch.Size
    assert copy_containers({"a": sys}) == {"a": sys}  # a module cannot be deep-copied


def test_is_import_path():
    assert is_import_path("MODEL") and is_import_path("LOSS") and is_import_path("OPTIMIZER")
    assert not is_import_path("EPOCHS") and not is_import_path("NO_KEY")


def run_python(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT_PATH, capture_output=True, text=True, check=True)


def test_importing_config_imports_no_torch_and_no_yaml():
    code = """
import sys
import config.config, config.errors, config.keys, config.check, config.device, config.load
print([name for name in ("torch", "numpy", "yaml") if name in sys.modules])
import config.codec
print([name for name in ("torch", "numpy", "yaml") if name in sys.modules])
"""
    assert run_python(code).stdout.splitlines() == ["[]", "['yaml']"]


def test_help_needs_two_small_modules_and_the_standard_library():
    code = """
import sys
before = set(sys.modules)
import config.config, config.keys
new = set(sys.modules) - before
new = {name for name in new if name.split(".")[0] not in sys.stdlib_module_names}
print(sorted(new), "inspect" in sys.modules, "importlib.util" in sys.modules)
"""
    out = run_python(code).stdout.strip()
    assert out == "['config', 'config.config', 'config.keys'] False False"
