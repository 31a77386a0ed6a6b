"""The command line of training: exit codes, messages, and what is not written."""

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from config.config import ROOT_PATH
from tests.test_training.common import ROUTINES, hash_weights, rows

TINY = ["EPOCHS=1", "PROGRESS=False", "NUM_THREADS=1", "DEVICE=cpu"]
CONFIG = """
from functools import partial
from tests.test_training.common import Net, Pictures, make_config
train_config = make_config()
"""


@pytest.fixture
def config(tmp_path):
    """A config file outside the project, and the overrides that keep a run small and here."""
    path = tmp_path / "mine.py"
    path.write_text(CONFIG)
    return [str(path), *TINY, f"LOG_DIR={tmp_path}/logs", f"WEIGHT_DIR={tmp_path}/weights"]


@pytest.fixture
def refuses(tmp_path, capsys):
    """Run the command line and return its messages; it must exit with 2 and write nothing."""

    def run(*arguments):
        out = [f"LOG_DIR={tmp_path}/logs", f"WEIGHT_DIR={tmp_path}/weights"]
        assert train.main([*arguments, *TINY, *out]) == 2
        assert not (tmp_path / "logs").exists() and not (tmp_path / "weights").exists()
        lines = capsys.readouterr().err.splitlines()
        assert all(line.startswith("train.py: ") for line in lines)
        return lines

    return run


@pytest.fixture
def pairs(tmp_path):
    """Folders data/train/{image,label} and data/val/{image,label} with PNG pairs, and a config."""
    for part in ("train", "val"):
        for kind in ("image", "label"):
            (tmp_path / "data" / part / kind).mkdir(parents=True)
            for i in range(3):
                pixels = np.full((9, 12), 40 * i, np.uint8) if kind == "image" else np.eye(9, 12)
                Image.fromarray(pixels.astype(np.uint8)).save(
                    tmp_path / "data" / part / kind / f"{i}.png"
                )
    (tmp_path / "pairs.py").write_text(
        "from models import UNET\n"
        "from utils.loss import dice_bce_sum\n"
        "train_config = {'MODEL': UNET, 'LOSS': dice_bce_sum, 'TASK': 'binary_segmentation',\n"
        "    'MODEL_CONFIG': {'ch_in': 1, 'ch_out': 1, 'bulk_ch': 4, 'n_recursions': 1},\n"
        "    'DATA_LOADER_CONFIG': {'batch_size': 3}}\n"
    )
    return [str(tmp_path / "pairs.py"), f"DATA_DIR={tmp_path}/data"]


def run(*arguments, **options):
    command = [sys.executable, str(ROOT_PATH / "train.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT_PATH)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, **options
    )


@pytest.mark.parametrize("routine", ROUTINES)
def test_a_config_trains_under_every_routine_from_any_folder(routine, config, tmp_path):
    done = run(*config, "--routine", routine, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "done" and row["ROUTINE_NAME"] == routine
    # what a config file outside the project defines itself is named by the file
    assert row["MODEL"] == "tests.test_training.common.Net"
    assert done.stderr == ""


def test_overrides_reach_the_run(config, tmp_path, capsys):
    overrides = [
        "OPTIMIZER=torch.optim.AdamW",
        "OPTIMIZER_CONFIG.lr=3e-4",
        "~OPTIMIZER_CONFIG.momentum",
        "SESSION_NAME=mine",
        "DATE=20260101-000000",
    ]
    assert train.main([*config, *overrides]) == 0
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["OPTIMIZER"] == "torch.optim.AdamW" and row["OPTIMIZER_CONFIG.lr"] == "0.0003"
    assert row["RUN"] == "20260101-000000_mine"


def test_a_captured_run_is_repeated_from_its_text(config, tmp_path):
    assert train.main(config) == 0
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    text = tmp_path / "logs" / row["RUN"] / "config.yaml"
    place = [f"LOG_DIR={tmp_path}/again", f"WEIGHT_DIR={tmp_path}/again"]
    assert train.main([str(text), *place]) == 0
    (again,) = rows(tmp_path / "again" / "experiments.csv")
    first = hash_weights(tmp_path / "weights" / row["RUN"] / "last.pth")
    assert hash_weights(tmp_path / "again" / again["RUN"] / "last.pth") == first


def test_a_printed_config_is_the_config_and_writes_nothing(config, tmp_path, capsys):
    changes = ["OPTIMIZER_CONFIG.lr=3e-4", "--routine", "ignite", "-s", "a@b.c"]
    before = sorted(tmp_path.rglob("*"))
    assert train.main([*config, *changes, "--print-config"]) == 0
    text, errors = capsys.readouterr()
    assert errors == "" and "  lr: 0.0003\n" in text and "NOTIFY:\n- a@b.c\n" in text
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts] == (
        before
    )
    (tmp_path / "saved.yaml").write_text(text)
    assert train.main([str(tmp_path / "saved.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text


def test_a_printed_config_trains_to_the_same_bits(config, tmp_path, capsys):
    assert train.main([*config, "SEED=5", "DATE=a"]) == 0
    capsys.readouterr()
    assert train.main([*config, "SEED=5", "--print-config"]) == 0
    (tmp_path / "saved.yaml").write_text(capsys.readouterr().out)
    assert train.main([str(tmp_path / "saved.yaml"), *config[-2:], "DATE=b"]) == 0
    first, second = (tmp_path / "weights" / f"{date}_test" / "last.pth" for date in "ab")
    assert hash_weights(first) == hash_weights(second)


def test_what_cannot_be_printed_is_named(config, capsys):
    with open(config[0], "a", encoding="utf-8") as file:
        file.write("train_config['LOSS'] = lambda a, b: (a - b).sum()\n")
    assert train.main([*config, "--print-config"]) == 2
    text, errors = capsys.readouterr()
    assert "LOSS: !not-captured " in text
    assert errors.startswith("train.py: --print-config: expected values that text can hold, got")
    assert train.main([config[0], "EPOCH=1", "--print-config"]) == 2
    assert 'Did you mean "EPOCHS"?' in capsys.readouterr().err


def test_a_config_is_printed_without_torch_where_it_names_none(tmp_path):
    (tmp_path / "mine.yaml").write_text("MODEL: collections.OrderedDict\nLOSS: math.dist\n")
    code = f"import sys, train\nassert train.main(['{tmp_path}/mine.yaml', '--print-config']) == 0"
    code += "\nassert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT_PATH, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "MODEL: collections.OrderedDict\n" in done.stdout


def test_help_is_quick_and_names_every_key():
    from config.keys import KEYS

    code = "import sys, train\ntry: train.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'numpy', 'yaml', 'rich') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT_PATH, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in KEYS)


def test_a_raw_run_imports_no_framework(config):
    code = f"import sys, train\nassert train.main({config!r}) == 0\n"
    code += "print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT_PATH, timeout=300
    )
    modules = done.stdout.splitlines()[-1]
    assert "'torch'" in modules
    for name in ("torchvision", "ignite", "fastai", "pandas", "lightning", "sklearn"):
        assert f"'{name}'" not in modules


def test_outside_the_environment_it_says_what_to_run(tmp_path):
    # -S -E: a Python without site-packages, as outside the environment
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(ROOT_PATH / "train.py")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert re.search(
        r"expected torch, .* got none\. (Run `make env-dev`|Use .*python)", done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flags", [[], ["-w"], ["--warnings"]])
def test_warnings_of_libraries_are_shown_when_asked_for(flags, config):
    with open(config[0], "a", encoding="utf-8") as file:
        file.write("import warnings\nclass Loud(Net):\n    def forward(self, x):\n")
        file.write("        warnings.warn('from a library')\n        return super().forward(x)\n")
        file.write("train_config['MODEL'] = Loud\n")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        assert train.main([*config, *flags]) == 0
    assert any("from a library" in str(warning.message) for warning in heard) == bool(flags)


def test_ctrl_c_saves_and_exits_130(config, tmp_path):
    command = [sys.executable, str(ROOT_PATH / "train.py"), *config, "EPOCHS=100000"]
    environment = os.environ | {"PYTHONPATH": str(ROOT_PATH)}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    weights = tmp_path / "weights"
    deadline = time.monotonic() + 120
    while not list(weights.glob("*/last.pth")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert b"saving the state" in errors and b"Traceback" not in errors
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "interrupted"
    # and goes on under another routine, from its own config
    place = [argument for argument in config if argument.startswith(("LOG_DIR", "WEIGHT_DIR"))]
    epochs = torch.load(weights / row["RUN"] / "checkpoint.pt", weights_only=True)["state"]
    done = epochs["position"]["epoch"] + 2
    assert train.main(["--resume", "latest", "--routine", "ignite", f"EPOCHS={done}", *place]) == 0
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "done" and row["ROUTINE_NAME"] == "ignite"
    result = (tmp_path / "logs" / row["RUN"] / "result.json").read_text()
    assert f'"epochs": {done},' in result
    assert train.main(["--resume", row["RUN"], *place]) == 0
    assert (tmp_path / "logs" / row["RUN"] / "result.json").read_text() == result


def test_ctrl_c_before_a_run_begins_exits_130(config, monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "load", interrupt)
    assert train.main(config) == 130


def test_a_failure_exits_1(config, tmp_path):
    # the loss is infinite at once
    assert train.main([*config, "OPTIMIZER_CONFIG.lr=1e30", "EPOCHS=3"]) == 1
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "failed" and "expected finite numbers" in row["ERROR"]


# ------------------------------------------------------------------------------- bad input


def test_unknown_key(config, refuses):
    (line,) = refuses(config[0], "EPOCH=3")
    assert 'got "EPOCH". Did you mean "EPOCHS"?' in line


def test_misspelt_and_wrong_typed_arguments_are_reported_together(refuses, pairs):
    lines = refuses(
        *pairs,
        "MODEL_CONFIG.chin=1",
        "MODEL_CONFIG.n_recursions=many",
        "ACCUMULATE=zero",
        "OPTIMIZER_CONFIG.momentum=0.9",
        "MODEL_CONFIG.dropout=True",
    )
    text = "\n".join(lines)
    assert 'got "chin". Did you mean "ch_in"?' in text and "~MODEL_CONFIG.chin" in text
    assert 'train_config["MODEL_CONFIG"]["n_recursions"]: expected int, got \'many\'' in text
    assert 'train_config["MODEL_CONFIG"]["dropout"]: expected float, got True' in text
    assert 'train_config["ACCUMULATE"]' in text and "an integer of at least 1, got 'zero'" in text
    assert 'got "momentum"' in text and "~OPTIMIZER_CONFIG.momentum" in text


def test_missing_data_folder(refuses, pairs, tmp_path):
    lines = refuses(pairs[0], f"DATA_DIR={tmp_path}/nowhere")
    assert len(lines) == 2 and all("nowhere" in line for line in lines)
    assert lines[0].startswith("train.py: TRAIN_DATASET: ")


def test_unpaired_files_are_named(refuses, pairs, tmp_path):
    (tmp_path / "data/train/image/2.png").unlink()
    (tmp_path / "data/val/label/1.png").unlink()
    text = "\n".join(refuses(*pairs))
    assert "TRAIN_DATASET" in text and "2.png" in text
    assert "VAL_DATASET" in text and "1.png" in text


def test_image_and_mask_of_different_size(refuses, pairs, tmp_path):
    Image.fromarray(np.zeros((5, 12), np.uint8)).save(tmp_path / "data/train/label/1.png")
    (line,) = refuses(*pairs)
    assert "1.png" in line and re.search(r"9 ?x ?12", line) and re.search(r"5 ?x ?12", line)


def test_label_outside_the_classes_in_the_first_batch(refuses, pairs, tmp_path):
    for part in ("train", "val"):
        Image.fromarray(np.full((9, 12), 3, np.uint8)).save(tmp_path / f"data/{part}/label/0.png")
    lines = refuses(
        *pairs,
        "TASK=multiclass_segmentation",
        "MODEL_CONFIG.ch_out=3",
        "LOSS=torch.nn.CrossEntropyLoss",
    )
    assert any("TRAIN_DATASET, first batch" in line and "3" in line for line in lines)


def test_empty_folder(refuses, pairs, tmp_path):
    for path in (tmp_path / "data/train").glob("*/*.png"):
        path.unlink()
    assert any("TRAIN_DATASET" in line and "image" in line for line in refuses(*pairs))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(config, tmp_path, capsys):
    assert train.main([*config, "DEVICE=cuda"]) == 2
    assert 'got "cuda". Set DEVICE=cpu' in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_unknown_routine(config, refuses):
    (line,) = refuses(config[0], "--routine", "pytorhc")
    assert 'got "pytorhc". Did you mean "pytorch"?' in line


def test_config_file_without_train_config(refuses, tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    (line,) = refuses(str(tmp_path / "empty.py"))
    assert "empty.py" in line and "train_config" in line


def test_missing_config_file(refuses):
    (line,) = refuses("nowhere.py")
    assert "nowhere.py" in line


def test_model_and_loss_that_do_not_fit_the_data(refuses, pairs):
    lines = refuses(*pairs, "MODEL_CONFIG.ch_in=5")
    assert any("first batch (2, 1, 9, 12) through MODEL" in line for line in lines)


def test_resume_of_an_unknown_run(refuses):
    (line,) = refuses("--resume", "20260101-000000_mine")
    assert "--resume: expected a run with a checkpoint" in line


def test_verify_resume_is_not_a_resume(config, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main([*config, "--verify-resume", "--resume", "latest"])
    assert stop.value.code == 2
    assert "--verify-resume: expected no --resume beside it, got both" in capsys.readouterr().err


def test_two_configs(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["a.py", "b.py"])
    assert stop.value.code == 2 and "expected one CONFIG" in capsys.readouterr().err


def test_the_default_config_is_there():
    assert Path(train.default_config()).is_file()


def test_mail_at_the_end_by_a_flag(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SMTP_OUTBOX", str(tmp_path / "outbox"))
    assert train.main([*config, "-s", "me@example.org,you@example.org"]) == 0
    (mail,) = (tmp_path / "outbox").glob("*.eml")
    assert "me@example.org" in mail.read_text() and "you@example.org" in mail.read_text()
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert f"{row['RUN']} done" in mail.read_text()
    # a wrong receiver is told before anything is written
    assert train.main([*config, "-s", "nobody"]) == 2
    assert "NOTIFY" in capsys.readouterr().err
    assert len(rows(tmp_path / "logs" / "experiments.csv")) == 1
