import csv
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from config.config import ROOT_PATH
from tests.test_training.common import CLASSES, ROUTINES, Net, Pictures, hash_weights, train
from training.callbacks import Callback, Ledger
from training.state import RunInterrupted
from utils.metrics import accuracy, f1

TEST = functools.partial(Pictures, n=13, seed=2, augment=False)
LEDGER = functools.partial(Ledger, n_worst=3, n_resamples=30)
FILES = {
    "samples.csv", "evaluation.json", "confusion.csv", "confusion.png", "classes.csv", "worst.png",
}  # fmt: skip


def read_files(result):
    """Return the bytes of the ledger's files, without the name of the run in them."""
    folder = Path(result["paths"]["log_dir"])
    found = {}
    for path in (*folder.iterdir(), *(folder / "test").glob("*")):
        if path.name in FILES:
            found[str(path.relative_to(folder))] = path.read_bytes()
    evaluation = json.loads(found.pop("evaluation.json"))
    assert evaluation.pop("weights") == result["paths"]["best"]
    return found | {"evaluation": evaluation}


def read_rows(result, name="samples.csv"):
    with open(Path(result["paths"]["log_dir"], name), newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", autouse=True)
def one_name():
    """Lets all runs start at the same moment: the title of a picture has the name of the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.record.timestamp", lambda: "20260101-000000")
        yield


@pytest.fixture(scope="module")
def of_raw_loop(tmp_path_factory):
    return train("pytorch", tmp_path_factory.mktemp("raw"), CALLBACKS=[LEDGER])


def test_the_ledger_has_the_values_of_the_training(of_raw_loop):
    result = of_raw_loop
    assert FILES == {p.name for p in Path(result["paths"]["log_dir"]).iterdir()} & FILES
    found = read_files(result)["evaluation"]
    best = {name: result["best_metrics"][f"val_{name}"] for name in ("loss", "accuracy", "f1")}
    assert found["metrics"] == best and found["set"] == "val" and found["n_samples"] == 19
    for name, (low, high) in found["intervals"].items():
        assert low <= best[name] <= high and low < high
    rows = read_rows(result)
    assert len(rows) == 19
    right = [row["target"] == row["prediction"] for row in rows]
    assert sum(right) / 19 == best["accuracy"]
    assert sum(float(row["loss"]) for row in rows) / 19 == pytest.approx(best["loss"], rel=1e-6)
    assert sum(int(row["support"]) for row in read_rows(result, "classes.csv")) == 19


@pytest.mark.parametrize("routine", ROUTINES[1:])
def test_every_routine_writes_the_same_bytes(routine, of_raw_loop, tmp_path):
    result = train(routine, tmp_path, CALLBACKS=[LEDGER])
    assert read_files(result) == read_files(of_raw_loop)


def test_workers_change_nothing(of_raw_loop, tmp_path):
    loading = {"batch_size": 8, "num_workers": 2}
    result = train("pytorch", tmp_path, CALLBACKS=[LEDGER], DATA_LOADER_CONFIG=loading)
    assert read_files(result) == read_files(of_raw_loop)


def test_it_changes_no_weights_and_no_values(of_raw_loop, tmp_path):
    plain = train("pytorch", tmp_path)
    for name in ("best", "last"):
        assert hash_weights(plain["paths"][name]) == hash_weights(of_raw_loop["paths"][name])
    assert plain["metrics"] == of_raw_loop["metrics"]


class Spoil(Callback):
    """Sets a learning rate that spoils all after some epochs."""

    def __init__(self, after=1):
        self.after = after

    def on_epoch_end(self, run, metrics):
        if run.position.epoch + 1 >= self.after:
            for group in run.optimizer.param_groups:
                group["lr"] = 30.0


def test_it_is_the_best_epoch_that_is_told(tmp_path):
    """Of averaged weights."""
    result = train("pytorch", tmp_path, CALLBACKS=[Spoil, LEDGER], EMA=0.5, EPOCHS=4)
    assert result["best_epoch"] < 4 and result["metrics"] != result["best_metrics"]
    metrics = read_files(result)["evaluation"]["metrics"]
    assert metrics["loss"] == result["best_metrics"]["val_loss"]


def test_the_test_set_has_a_folder_of_its_own(tmp_path):
    result = train("ignite", tmp_path, CALLBACKS=[LEDGER], TEST_DATASET=TEST)
    folder = Path(result["paths"]["log_dir"], "test")
    assert {path.name for path in folder.iterdir()} == FILES
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["set"] == "test" and found["n_samples"] == 13
    assert {f"test_{name}": v for name, v in found["metrics"].items()} == result["test_metrics"]
    log = Path(result["paths"]["log_dir"], "train.log").read_text()
    (line,) = (line for line in log.splitlines() if line.startswith("test_f1 "))
    assert line.endswith("]") and "interval of best" in log


class Counter:
    """A metric that keeps its sums itself."""

    def reset(self):
        self.n = 0

    def update(self, pred, target):
        self.n += len(pred)

    def compute(self):
        return float(self.n)


def test_metrics_that_keep_their_sums_come_from_the_training(tmp_path):
    result = train("pytorch", tmp_path, CALLBACKS=[LEDGER], METRICS={"n": Counter(), "f1": f1})
    found = read_files(result)["evaluation"]
    assert found["metrics"]["n"] == 19.0 and list(found["intervals"]) == ["loss", "f1"]
    log = Path(result["paths"]["log_dir"], "train.log").read_text()
    assert "no interval of n: no sum over the samples gives the value of the set" in log


def test_training_without_validation_leaves_nothing(tmp_path):
    from tests.test_training.common import folders, make_config
    from training import pytorch_training

    config = make_config(CALLBACKS=[LEDGER], MONITOR="train_loss", METRICS=[])
    result = pytorch_training.train(Pictures(), None, config, folders(tmp_path))
    assert result["status"] == "done"
    assert not FILES & {path.name for path in Path(result["paths"]["log_dir"]).iterdir()}


def test_the_best_epoch_may_be_one_without_validation(tmp_path):
    changes = {"MONITOR": "train_loss", "VALIDATE_EVERY": 2, "EPOCHS": 4}
    halt = functools.partial(Spoil, after=3)  # the third epoch is the best
    result = train("pytorch", tmp_path, CALLBACKS=[halt, LEDGER], **changes)
    assert result["best_epoch"] == 3 and "val_loss" not in result["best_metrics"]
    found = read_files(result)["evaluation"]
    assert found["metrics"].keys() == {"loss", "accuracy", "f1"} == found["intervals"].keys()
    log = Path(result["paths"]["log_dir"], "train.log").read_text()
    assert "interval of best" not in log  # the table has no value to stand beside


class Stop(Callback):
    def on_batch_end(self, run, loss):
        raise RunInterrupted(15)


def test_a_run_that_stopped_has_no_ledger(tmp_path):
    with pytest.raises(RunInterrupted):
        train("pytorch", tmp_path, CALLBACKS=[Stop, LEDGER])
    (folder,) = (tmp_path / "logs").glob("*_test")
    assert not (folder / "samples.csv").exists()


def test_an_error_in_it_is_loud_and_the_weights_are_safe(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no room")

    monkeypatch.setattr("models.results.write_table", fail)
    with pytest.raises(OSError, match="no room"):
        train("pytorch", tmp_path, CALLBACKS=[LEDGER])
    (folder,) = (tmp_path / "logs").glob("*_test")
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "failed" and result["error"] == "OSError: no room"
    assert {"best", "last", "checkpoint"} <= result["paths"].keys()
    assert (tmp_path / "weights" / folder.name / "best.pth").is_file()


def test_arguments_out_of_range_are_told_together():
    with pytest.raises(ValueError) as error:
        Ledger(n_worst=-1, n_resamples=-2, confidence=95)
    assert str(error.value).splitlines() == [
        "Ledger: expected n_worst of at least 0, got -1.",
        "Ledger: expected n_resamples of at least 0, got -2.",
        "Ledger: expected confidence above 0 and below 1, got 95. 0.95 is usual.",
    ]


def test_the_sheet_goes_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = "utils.logging.tensorboard.TensorBoard"
    result = train("pytorch", tmp_path, CALLBACKS=[LEDGER], TRACKERS=[tracker], EPOCHS=1)
    folder = Path(tmp_path, "logs", "tensorboard", result["run"])
    (picture,) = EventAccumulator(str(folder)).Reload().Images("val_worst")
    assert (picture.width, picture.step) == (3 * 160 + 2 * 4, 7)


SCRIPT = """
import sys
from pathlib import Path
from tests.test_training.common import train
from tests.test_training.test_ledger import LEDGER, TEST

train(sys.argv[1], Path(sys.argv[2]), CALLBACKS=[LEDGER], TEST_DATASET=TEST, EPOCHS=1)
"""


@pytest.mark.slow
def test_of_two_processes_the_first_writes_the_whole_set(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT_PATH)}
    done = subprocess.run(
        [*command, tmp_path / "script.py", "pytorch", tmp_path],
        env=env, cwd=ROOT_PATH, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "logs").glob("*_test")
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "done"
    assert [row["index"] for row in read_rows(result)] == [str(i) for i in range(19)]
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["metrics"]["accuracy"] == result["best_metrics"]["val_accuracy"]
    assert found["metrics"]["f1"] == result["best_metrics"]["val_f1"]
    assert len(read_rows(result, "test/samples.csv")) == 13


def test_values_are_those_of_the_network_and_scikit_learn(of_raw_loop):
    from sklearn.metrics import confusion_matrix

    from utils.torchutils import load_weights

    model = Net().eval()
    model.load_state_dict(load_weights(of_raw_loop["paths"]["best"])["model"])
    pictures = Pictures(n=19, seed=1, augment=False)
    with torch.no_grad():
        decided = model(pictures.x).argmax(1)
    assert [int(row["prediction"]) for row in read_rows(of_raw_loop)] == decided.tolist()
    matrix = confusion_matrix(pictures.y, decided, labels=range(CLASSES))
    rows = [list(row.values())[1:] for row in read_rows(of_raw_loop, "confusion.csv")]
    assert [[int(cell) for cell in row] for row in rows] == matrix.tolist()
    assert accuracy(model(pictures.x), pictures.y) == matrix.trace() / 19
