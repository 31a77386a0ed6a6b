import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn

from config.codec import decode_config, encode_config
from config.config import ROOT_PATH
from config.errors import ConfigError
from config.keys import with_defaults
from tests.test_training.common import Net, Pictures, folders, make_config, rows
from training.record import Record, find_versions
from utils.data.fingerprint import fingerprint
from utils.logging.csv import read_tracker
from utils.torchutils import load_weights

RESULT = {
    "status": "done",
    "best_epoch": 2,
    "metrics": {"val_loss": 0.5},
    "best_metrics": {"val_loss": 0.25},
    "test_metrics": {"test_loss": 0.75},
    "seconds": 1.26,
    "error": None,
}


@pytest.fixture
def start(tmp_path):
    """A function that starts a record; what is left open is finished at the end."""
    started = []

    def start_record(place=None, **changes):
        config = with_defaults(make_config(**changes))
        data = {"train": Pictures(5, 0)}
        record = Record(config, folders(tmp_path) | (place or {}), "pytorch", data)
        record.start()
        started.append(record)
        return record

    yield start_record
    for record in started:
        record._open.close()


def environment(record):
    return json.loads((record.log_dir / "environment.json").read_text())


# -------------------------------------------------------------------------- config as text


def test_config_yaml_is_the_config(start):
    record = start(LOSS_CONFIG={"label_smoothing": 0.1}, CLASSES=["a", "b", "c"])
    config = decode_config((record.log_dir / "config.yaml").read_text())
    assert config["MODEL"] is Net and config["TRAIN_DATASET"] is Pictures
    assert config["LOSS"] is nn.CrossEntropyLoss and config["METRICS"] == record.config["METRICS"]
    assert config["VAL_DATASET"].func is Pictures
    assert config["VAL_DATASET"].keywords == {"n": 19, "seed": 1, "augment": False}
    assert config.pop("ROUTINE_NAME") == "pytorch"
    assert config.pop("DATE") == record.name.removesuffix("_test")
    same = [name for name in record.config if name not in ("DATE", "ROUTINE_NAME", "VAL_DATASET")]
    assert {name: config[name] for name in same} == {name: record.config[name] for name in same}
    assert (record.log_dir / "config.yaml").read_text().startswith("format: 1\n")
    again, lost = encode_config(config)
    assert not lost and again.items() <= record.plain.items()


def test_the_date_of_the_user_stays(start):
    record = start({"DATE": "monday"})
    assert record.name == "monday_test"
    assert decode_config((record.log_dir / "config.yaml").read_text())["DATE"] == "monday"


# ------------------------------------------------------------------------------ environment


def test_environment(start, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "EPOCHS=3", "a b"])
    found = environment(start())
    assert found["command"] == ["train.py", "EPOCHS=3", "a b"]
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert found["versions"]["numpy"] == np.__version__
    assert set(found["versions"]) >= {"torchvision", "pytorch-ignite", "fastai", "lightning"}
    assert found["python"] == platform.python_version()
    assert found["threads"] == torch.get_num_threads()
    assert found["folders"]["ROOT_PATH"] == str(ROOT_PATH)
    assert found["not_captured"] == [] and found["format"] == 1
    assert found["data"] == {"train": fingerprint(Pictures(5, 0))}


def test_versions_are_those_of_what_is_imported(monkeypatch):
    module = types.ModuleType("timm")
    module.__version__ = "1.2.3"
    monkeypatch.setitem(sys.modules, "timm", module)
    monkeypatch.setitem(sys.modules, "odd", types.SimpleNamespace(__version__=(1, 2)))
    monkeypatch.setitem(sys.modules, "gone", None)
    found = find_versions()
    assert found["timm"] == "1.2.3" and not {"odd", "gone", "json", "ignite"} & set(found)
    assert not any("." in name or name.startswith("_") for name in found)


def test_what_cannot_be_captured_is_named(start):
    record = start(CALLBACKS=[lambda: None])
    assert environment(record)["not_captured"] == ["CALLBACKS.0"]


def git(folder, *command):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *identity, *command],
                          check=True, capture_output=True, text=True)  # fmt: skip
    return done.stdout.strip()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_commit_and_changes_rebuild_the_code(start, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    git(project, "init")
    git(project, "config", "color.ui", "always")
    (project / "net.py").write_text("a = 1\n\n\nb = 2\n\n\n")
    git(project, "add", ".")
    git(project, "commit", "-m", "first")
    (project / "net.py").write_text("a = 3\n\n\nb = 2\n\n\n")
    found = environment(start({"ROOT_PATH": project}))
    assert found["commit"] == git(project, "rev-parse", "HEAD")
    git(project, "checkout", "net.py")
    (tmp_path / "change.diff").write_text(found["diff"])
    git(project, "apply", tmp_path / "change.diff")
    assert (project / "net.py").read_text() == "a = 3\n\n\nb = 2\n\n\n"


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_files_that_git_does_not_know_are_recorded(start, tmp_path):
    project = tmp_path / "project"
    (project / "mine").mkdir(parents=True)
    git(project, "init")
    (project / ".gitignore").write_text("left_out.py\n")
    (project / "left_out.py").write_text("a = 1\n")
    (project / "notes.txt").write_text("a = 1\n")
    (project / "mine" / "net \u00e4.py").write_bytes(b"a = 1\n")
    (project / "large.py").write_bytes(b"#" * 60_000)
    found = environment(start({"ROOT_PATH": project}))["untracked"]
    assert found == {
        "large.py": {"sha256": hashlib.sha256(b"#" * 60_000).hexdigest(), "text": None},
        "mine/net \u00e4.py": {"sha256": hashlib.sha256(b"a = 1\n").hexdigest(), "text": "a = 1\n"},
    }


def test_outside_of_a_repository(start, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = environment(start({"ROOT_PATH": tmp_path}))
    assert found["commit"] is None and found["diff"] is None and found["untracked"] == {}


def test_without_git(start, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment(start())
    assert found["commit"] is None and found["diff"] is None


# --------------------------------------------------------------------------------- the table

TAKE_LOCK = "import sys, filelock; filelock.FileLock(sys.argv[1], timeout=0).acquire()"


def test_the_row_says_running_while_the_lock_is_held(start, tmp_path):
    record = start()
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert (row["RUN"], row["STATUS"], row["PID"]) == (record.name, "running", str(os.getpid()))
    lock = record.log_dir / ".lock"
    other = subprocess.run([sys.executable, "-c", TAKE_LOCK, lock], capture_output=True,
                           text=True, check=False)  # fmt: skip
    assert other.returncode == 1 and "Timeout" in other.stderr
    record.finish(RESULT)
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    found = [row[name] for name in ("STATUS", "BEST_EPOCH", "SECONDS", "ERROR")]
    assert found == ["done", "2", "1.3", ""]
    values = [float(row[name]) for name in ("val_loss", "best_val_loss", "test_loss")]
    assert values == [0.5, 0.25, 0.75]
    assert json.loads((record.log_dir / "result.json").read_text()) == RESULT
    with FileLock(lock, timeout=0) as held:
        assert held.is_locked


def test_a_run_in_training_is_not_started_twice(start):
    record = start()
    second = Record(record.config, record.folders, "pytorch")
    with pytest.raises(ConfigError, match="--resume: expected a run that has stopped, got"):
        second.start(resumed=record.name)


@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil", "two\nlines", "=cmd|' /C calc'!A0", "", ".", "x" * 500]
)
def test_a_session_name_stays_a_name(name, start, tmp_path):
    record = start(SESSION_NAME=name)
    assert record.log_dir.parent == tmp_path / "logs"
    assert record.weight_dir.parent == tmp_path / "weights"
    assert record.weight_dir.is_dir() and len(record.name) < 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "weights"]
    table = tmp_path / "logs" / "experiments.csv"
    assert len(table.read_text().splitlines()) == 2
    (raw,), (row,) = rows(table), read_tracker(table)
    assert row["SESSION_NAME"] == name and row["RUN"] == record.name
    assert not raw["SESSION_NAME"].startswith("=")


def damage(table):
    with open(table, "a", encoding="utf-8") as file:
        file.write("a,line,by,hand" + "," * 200 + "\n")


def test_a_table_damaged_during_the_run_loses_no_result(start, tmp_path, caplog):
    record = start()
    damage(record.table.path)
    before = record.table.path.read_text()
    record.finish(RESULT)
    (message,) = [entry.getMessage() for entry in caplog.records]
    assert "experiments.csv line 3" in message and "Mend the line by hand." in message
    assert f"its values are in {record.log_dir / 'result.json'}" in message
    assert json.loads((record.log_dir / "result.json").read_text()) == RESULT
    assert record.table.path.read_text() == before
    with FileLock(record.log_dir / ".lock", timeout=0) as held:
        assert held.is_locked


def test_a_damaged_table_is_told_before_a_run_has_its_folder(start, tmp_path):
    damage(start().table.path)
    before = sorted((tmp_path / "logs").iterdir())
    with pytest.raises(ConfigError, match=r"LOGFILE: .*experiments.csv line 3: .*Mend the line"):
        start()
    assert sorted((tmp_path / "logs").iterdir()) == before


def test_what_a_kill_left_goes_at_the_next_start(start, tmp_path):
    """Also between the two renames of a checkpoint, where no checkpoint.pt is."""
    record = start()
    left = [
        record.weight_dir / f"checkpoint.pt.{'0' * 16}.tmp",
        record.log_dir / f"result.json.{'f' * 16}.tmp",
    ]
    for path in left:
        path.write_text("half")
    theirs = record.log_dir / "notes.tmp"
    theirs.write_text("not of the kit")
    record.release()
    again = Record(record.config, record.folders, "pytorch")
    again.start(record.name)
    again.release()
    assert not any(path.exists() for path in left) and theirs.exists()


def test_a_run_counts_as_finished_when_its_row_does(start, tmp_path, monkeypatch):
    """A kill between the two writes leaves a run that goes on, no row that runs for ever."""
    record = start()

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.record.write_json", die)
    with pytest.raises(KeyboardInterrupt):
        record.finish(RESULT)
    assert rows(record.table.path)[0]["STATUS"] == "done"


def test_errors_of_the_disk_stay_errors_and_free_the_lock(start):
    record = start()
    record.table.path.unlink()
    record.table.path.mkdir()  # cannot be written, whoever asks
    with pytest.raises(OSError, match="experiments.csv"):
        record.finish(RESULT)
    with FileLock(record.log_dir / ".lock", timeout=0) as held:
        assert held.is_locked


# ---------------------------------------------------------------------------------- other files


def test_metrics_csv(start):
    record = start()
    first = {"epoch": 1, "lr": 0.1, "train_loss": 1 / 3}
    second = {**first, "epoch": 2, 'val_iou.road, "paved"': float("nan")}
    record.write_metrics([first, second])
    found = rows(record.log_dir / "metrics.csv")
    assert found[0] == {"epoch": "1", "lr": "0.1", "train_loss": repr(1 / 3),
                        'val_iou.road, "paved"': ""}  # fmt: skip
    assert found[1]['val_iou.road, "paved"'] == "nan"
    assert (record.log_dir / "metrics.csv").read_bytes().count(b"\n") == 3


class Small(nn.Linear):
    def __init__(self, activ=None, n=2):
        super().__init__(n, n)


def test_weights_tell_how_to_use_them(start):
    preprocess = {"scale": 1 / 255, "mean": [0.5], "std": (0.25,)}
    config = {"MODEL_CONFIG": {"dropout": 0.5}, "CLASSES": ["a", 2, "c"]}
    record = start(**config, PREPROCESS=preprocess)
    record.save_weights("last.pth", Net().state_dict(), 3)
    weights = load_weights(record.weight_dir / "last.pth")
    assert weights["meta"] == {
        "MODEL": "tests.test_training.common.Net",
        "MODEL_CONFIG": '{"dropout": 0.5}',
        "TASK": "multiclass",
        "CLASSES": ["a", "2", "c"],
        "PREPROCESS": {"scale": 1 / 255, "mean": [0.5], "std": [0.25]},
        "run": record.name,
        "epoch": 3,
    }
    assert set(weights["model"]) == set(Net().state_dict())


@pytest.mark.parametrize(
    ("changes", "model", "arguments"),
    [
        ({"MODEL": functools.partial(Small, n=3), "MODEL_CONFIG": {}}, None, "{}"),
        ({"MODEL": Small, "MODEL_CONFIG": {"activ": nn.ELU()}}, f"{__name__}.Small", "null"),
    ],
)
def test_a_model_that_text_cannot_name(changes, model, arguments, start):
    record = start(**changes, CLASSES=None)
    record.save_weights("last.pth", Small().state_dict(), 1)
    meta = load_weights(record.weight_dir / "last.pth")["meta"]
    found = meta["MODEL"], meta["MODEL_CONFIG"], meta["CLASSES"], meta["PREPROCESS"]
    assert found == (model, arguments, None, None)


def test_paths_name_what_exists(start):
    record = start()
    assert set(record.paths()) == {"log_dir", "weight_dir", "table"}
    record.save_weights("last.pth", Net().state_dict(), 1)
    paths = record.paths()
    assert paths["last"] == str(record.weight_dir / "last.pth") and "best" not in paths
    assert paths["table"] == str(record.table.path) and Path(paths["log_dir"]).is_dir()
