"""What every routine owes: a new one is held to it by its name in `common.ROUTINES`."""

import copy
import functools
import importlib
import inspect
import json
import math
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from config.config import global_config
from config.errors import ConfigError
from models.load import load_model
from tests.test_training.common import (
    ROUTINES,
    Net,
    Pictures,
    StopAfter,
    folders,
    hash_weights,
    make_config,
    rows,
    train,
)
from training.callbacks import Callback, EarlyStopping
from training.run import NonFiniteLossError, Run
from training.state import RunInterrupted
from utils.torchutils import load_weights

RESULT_KEYS = (
    "run status routine epochs steps best_epoch monitor best_value metrics best_metrics"
    " test_metrics seconds paths error"
).split()

pytestmark = pytest.mark.parametrize("routine", ROUTINES)


class Recorder(Callback):
    """Keeps what it hears, and in which mode the model is."""

    heard: list = []

    def on_start(self, run):
        Recorder.heard = ["start"]

    def on_epoch_start(self, run):
        self.heard.append("epoch")

    def on_batch_end(self, run, loss):
        assert run.module.training and isinstance(loss, float)
        self.heard.append("batch")

    def on_validation_start(self, run):
        assert not run.module.training
        self.heard.append("validation")

    def on_epoch_end(self, run, metrics):
        self.heard.append(sorted(metrics))

    def on_end(self, run, result):
        self.heard.append(result["status"])


class Bomb(Callback):
    """Does something at the third batch of the second epoch."""

    def __init__(self, act):
        self.act = act

    def on_batch_end(self, run, loss):
        if (run.position.epoch, run.position.batch) == (1, 3):
            self.act()


class Poisoned(Pictures):
    """Has a NaN in one picture."""

    def __init__(self):
        super().__init__(augment=False)
        self.x[30] = math.nan


class BreaksLater(Pictures):
    """Reads well until the training is under way."""

    n_read = 0

    def __getitem__(self, index):
        BreaksLater.n_read += 1
        if BreaksLater.n_read > 70:
            raise OSError(f"picture {index}.png: expected a picture, got a torn file")
        return super().__getitem__(index)


def fail():
    raise RuntimeError("out of luck")


def test_the_module_has_a_ready_config_and_the_signature(routine, tmp_path):
    module = importlib.import_module(f"training.{routine}_training")
    assert isinstance(module.train_config, dict)
    names = ["train_dataset", "val_dataset", "training_config", "global_config"]
    assert list(inspect.signature(module.train).parameters) == names


def test_the_ready_config_trains_on_folders_of_npy(routine, tmp_path):
    import numpy as np

    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind, channels in (("x", 12), ("y", 2)):
            folder = tmp_path / "data" / part / kind
            folder.mkdir(parents=True)
            for i in range(2):
                values = generator.random((9, 11, channels))
                values = (values > 0.5) if kind == "y" else values
                np.save(folder / f"{i}.npy", values.astype("float32"))
    module = importlib.import_module(f"training.{routine}_training")
    config = module.train_config | {"EPOCHS": 1, "DEVICE": "cpu", "PROGRESS": False}
    config["DATA_LOADER_CONFIG"] = {"batch_size": 2}
    result = module.train(None, None, config, folders(tmp_path))
    assert {"train_loss", "val_loss", "val_f1"} <= set(result["metrics"])


def test_the_result_and_its_files(routine, tmp_path):
    result = train(routine, tmp_path)
    assert list(result) == RESULT_KEYS
    assert result["status"] == "done" and result["routine"] == routine
    assert result["epochs"] == 2 and result["steps"] == 14 and result["error"] is None
    assert set(result["metrics"]) == {"train_loss", "val_loss", "val_accuracy", "val_f1"}
    log_dir = Path(result["paths"]["log_dir"])
    written = json.loads((log_dir / "result.json").read_text())
    assert written.keys() == result.keys() and written["metrics"] == result["metrics"]
    assert {p.name for p in log_dir.iterdir()} >= {
        "config.yaml", "environment.json", "metrics.csv", "result.json", "train.log",
    }  # fmt: skip
    metrics = rows(log_dir / "metrics.csv")
    assert list(metrics[0]) == "epoch step lr train_loss val_loss val_accuracy val_f1".split()
    assert [row["epoch"] for row in metrics] == ["1", "2"]
    assert float(metrics[1]["val_loss"]) == result["metrics"]["val_loss"]
    weight_dir = Path(result["paths"]["weight_dir"])
    assert {p.name for p in weight_dir.iterdir()} == {
        "best.pth", "last.pth", "checkpoint.pt", "checkpoint.prev.pt",
    }  # fmt: skip


def test_one_row_of_the_table_with_status_and_config(routine, tmp_path):
    result = train(routine, tmp_path)
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["RUN"] == result["run"] and row["STATUS"] == "done"
    assert row["OPTIMIZER"] == "torch.optim.SGD" and row["OPTIMIZER_CONFIG.lr"] == "0.05"
    assert row["ROUTINE_NAME"] == routine and row["HOST"] and row["PID"] == str(os.getpid())
    assert float(row["val_loss"]) == result["metrics"]["val_loss"]
    assert row["BEST_EPOCH"] == str(result["best_epoch"])


def test_the_loss_falls_and_best_is_the_best_epoch(routine, tmp_path):
    result = train(routine, tmp_path, EPOCHS=4)
    metrics = rows(Path(result["paths"]["log_dir"], "metrics.csv"))
    losses = [float(row["train_loss"]) for row in metrics]
    assert losses[-1] < losses[0]
    val_losses = [float(row["val_loss"]) for row in metrics]
    assert result["best_value"] == min(val_losses)
    assert result["best_epoch"] == val_losses.index(min(val_losses)) + 1


def test_best_weights_give_the_logged_value(routine, tmp_path):
    result = train(routine, tmp_path, MONITOR="val_accuracy", MONITOR_MODE="max", EPOCHS=3)
    model, meta = load_model(result["paths"]["best"], Net)
    data = Pictures(19, seed=1, augment=False)
    with torch.no_grad():
        pred = model(data.x).argmax(1)
    assert (pred == data.y).sum().item() / 19 == result["best_value"]
    assert meta["TASK"] == "multiclass" and meta["epoch"] == result["best_epoch"]


def test_the_callers_config_is_unchanged_and_may_be_read_only(routine, tmp_path):
    config = make_config(EPOCHS=1)
    before = copy.copy(config)
    inner = copy.deepcopy(config["OPTIMIZER_CONFIG"])
    module = importlib.import_module(f"training.{routine}_training")
    module.train(None, None, config, folders(tmp_path))
    assert config == before and config["OPTIMIZER_CONFIG"] == inner
    assert module.train_config["ROUTINE_NAME"] == routine


def test_datasets_handed_over(routine, tmp_path):
    module = importlib.import_module(f"training.{routine}_training")
    config = make_config(EPOCHS=1)
    del config["TRAIN_DATASET"], config["VAL_DATASET"]
    data = Pictures(), Pictures(19, seed=1, augment=False)
    result = module.train(*data, config, folders(tmp_path))
    assert hash_weights(result["paths"]["last"]) == hash_weights(
        train(routine, tmp_path / "again", EPOCHS=1)["paths"]["last"]
    )


class Counted(Pictures):
    """Notes which pictures are read, and whether their values may be remembered."""

    read: list = []

    def __getitem__(self, index):
        Counted.read.append(index)
        return super().__getitem__(index)


def test_an_epoch_reads_every_training_sample_once(routine, tmp_path):
    Counted.read = []
    train(routine, tmp_path, TRAIN_DATASET=Counted, EPOCHS=2)
    first_batch = len(Counted.read) - 2 * 51  # looked at before the run begins
    assert first_batch == 8
    for epoch in (Counted.read[8:59], Counted.read[59:]):
        assert sorted(epoch) == list(range(51))


def test_without_validation(routine, tmp_path):
    module = importlib.import_module(f"training.{routine}_training")
    config = make_config(EPOCHS=1, MONITOR="train_loss")
    result = module.train(Pictures(), None, config, folders(tmp_path))
    assert set(result["metrics"]) == {"train_loss"} and result["best_epoch"] == 1


def test_callbacks_hear_everything_in_order(routine, tmp_path):
    train(routine, tmp_path, CALLBACKS=[Recorder], EPOCHS=2)
    names = ["train_loss", "val_accuracy", "val_f1", "val_loss"]
    epoch = ["epoch", *["batch"] * 7, "validation", names]
    assert Recorder.heard == ["start", *epoch, *epoch, "done"]


def test_validate_every_second_epoch_and_the_last(routine, tmp_path):
    result = train(routine, tmp_path, VALIDATE_EVERY=2, EPOCHS=3, CALLBACKS=[Recorder])
    assert Recorder.heard.count("validation") == 2
    metrics = rows(Path(result["paths"]["log_dir"], "metrics.csv"))
    assert [bool(row["val_loss"]) for row in metrics] == [False, True, True]


def test_should_stop_ends_the_run_after_the_epoch(routine, tmp_path):
    result = train(routine, tmp_path, EPOCHS=9, CALLBACKS=[functools.partial(StopAfter, 2)])
    assert result["status"] == "done" and result["epochs"] == 2


def test_early_stopping(routine, tmp_path):
    stop = functools.partial(EarlyStopping, patience=2)
    optimizer = {"lr": 0.0}  # nothing gets better
    result = train(routine, tmp_path, EPOCHS=9, CALLBACKS=[stop], OPTIMIZER_CONFIG=optimizer)
    # batch norm's statistics move the validation loss: stopped when two in a row were no better
    assert result["epochs"] == result["best_epoch"] + 2


def test_the_test_set_is_evaluated_on_the_best_weights(routine, tmp_path):
    test_set = functools.partial(Pictures, n=19, seed=1, augment=False)
    config = {"TEST_DATASET": test_set, "MONITOR": "val_accuracy", "MONITOR_MODE": "max"}
    result = train(routine, tmp_path, EPOCHS=3, **config)
    assert result["test_metrics"] == {
        name.replace("val_", "test_"): value
        for name, value in result["best_metrics"].items()
        if name.startswith("val_")
    }
    # and last.pth stays the last epoch's
    again = train(routine, tmp_path / "again", EPOCHS=3)
    assert hash_weights(result["paths"]["last"]) == hash_weights(again["paths"]["last"])


def test_a_failure_is_recorded_and_raised(routine, tmp_path):
    with pytest.raises(RuntimeError, match="out of luck"):
        train(routine, tmp_path, CALLBACKS=[Bomb(fail)])
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "failed" and "out of luck" in row["ERROR"]
    log = (tmp_path / "logs" / row["RUN"] / "train.log").read_text()
    assert "Traceback" in log and "in fail" in log
    result = json.loads((tmp_path / "logs" / row["RUN"] / "result.json").read_text())
    assert result["status"] == "failed" and result["epochs"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_update_and_saves(routine, number, tmp_path):
    bomb = Bomb(functools.partial(signal.raise_signal, number))
    with pytest.raises(RunInterrupted) as stop:
        train(routine, tmp_path, CALLBACKS=[bomb], ACCUMULATE=2)
    assert stop.value.exit_code == 128 + number
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "interrupted"
    weight_dir = tmp_path / "weights" / row["RUN"]
    state = torch.load(weight_dir / "checkpoint.pt", weights_only=True)["state"]
    # batch 3 opened a window of 2: it was filled first (4 updates in epoch 1, then 2)
    assert state["position"]["epoch"] == 1 and state["position"]["batch"] == 4
    assert state["position"]["step"] == 6
    assert load_weights(weight_dir / "last.pth")["meta"]["run"] == row["RUN"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nan_stops_before_the_update_and_leaves_finite_weights(routine, tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"epoch 1, batch \d: .* the loss is nan"):
        train(routine, tmp_path, TRAIN_DATASET=Poisoned)
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "failed" and "Lower the learning rate" in row["ERROR"]
    state = load_weights(tmp_path / "weights" / row["RUN"] / "last.pth")["model"]
    assert "body.1.running_mean" in state
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_infinite_gradients_never_reach_a_weights_file(routine, tmp_path):
    # the loss stays finite until the weights are not
    huge = {"OPTIMIZER_CONFIG": {"lr": 1e38}, "LOSS": nn.MSELoss, "TASK": None}
    with pytest.raises(NonFiniteLossError):
        train(routine, tmp_path, **huge, METRICS=[], TRAIN_DATASET=Autoencoder,
              VAL_DATASET=Autoencoder, MODEL=Linear)  # fmt: skip
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    last = tmp_path / "weights" / row["RUN"] / "last.pth"
    assert not last.exists() or all(
        torch.isfinite(tensor).all() for tensor in load_weights(last)["model"].values()
    )


class Autoencoder(Pictures):
    def __getitem__(self, index):
        return self.x[index].flatten(), self.x[index].flatten()


class Linear(nn.Linear):
    def __init__(self):
        super().__init__(36, 36)


def test_a_file_that_breaks_in_an_epoch_fails_the_run_by_its_name(routine, tmp_path):
    BreaksLater.n_read = 0
    with pytest.raises(OSError, match=r"picture \d+.png"):
        train(routine, tmp_path, TRAIN_DATASET=BreaksLater)
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "failed" and ".png" in row["ERROR"]


def test_problems_are_found_before_anything_is_written(routine, tmp_path):
    with pytest.raises(ConfigError) as error:
        train(routine, tmp_path, EPOCH=3, EPOCHS=0)
    assert len(error.value.problems) == 2
    assert not (tmp_path / "logs").exists() and not (tmp_path / "weights").exists()


def test_two_runs_of_the_same_second_do_not_meet(routine, tmp_path):
    place = folders(tmp_path) | {"DATE": "20260101-000000"}
    module = importlib.import_module(f"training.{routine}_training")
    names = [module.train(None, None, make_config(EPOCHS=1), place)["run"] for _ in range(2)]
    assert names == ["20260101-000000_test", "20260101-000000_test_2"]
    assert len(rows(tmp_path / "logs" / "experiments.csv")) == 2


def test_every_parameter_is_trained_and_a_loss_with_weights_too(routine, tmp_path):
    result = train(routine, tmp_path, LOSS=Centers, EPOCHS=1)
    before = Net().state_dict()
    after = load_weights(result["paths"]["last"])["model"]
    assert all(not torch.equal(after[name], before[name]) for name in before)
    state = torch.load(result["paths"]["checkpoint"], weights_only=True)["state"]
    assert not torch.equal(state["loss"]["centers"], torch.zeros(3, 3))


class Centers(nn.Module):
    """Cross entropy and the distance to learnt centers."""

    def __init__(self):
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(3, 3))

    def forward(self, pred, target):
        distance = (pred - self.centers[target]).square().mean()
        return nn.functional.cross_entropy(pred, target) + 0.1 * distance


def test_the_readme_dict_of_old_trains(routine, tmp_path):
    """`sys.modules[__name__]`, a class with 12 -> 2 channels, Ignite's `Loss(f1)`."""
    ignite_metrics = pytest.importorskip("ignite.metrics")
    from models.unet import UNET
    from utils.data import Arrays
    from utils.loss import f1, precision, recall, smooth_dice_loss

    module = importlib.import_module(f"training.{routine}_training")
    Loss = ignite_metrics.Loss  # noqa: N806
    config = {
        "DATE": "20190101-000000",
        "SESSION_NAME": "training-run",
        "ROUTINE_NAME": sys.modules[module.__name__],
        "MODEL": UNET,
        "MODEL_CONFIG": {
            "ch_in": 12,
            "ch_out": 2,
            "n_recursions": 5,
            "dropout": 0.2,
            "use_shuffle": True,
            "activ": nn.ELU,
        },
        "DATA_LOADER_CONFIG": {
            "batch_size": 1,
            "shuffle": True,
            "pin_memory": True,
            "num_workers": 8,
        },
        "OPTIMIZER": torch.optim.SGD,
        "OPTIMIZER_CONFIG": {"lr": 1e-3},
        "EPOCHS": 1,
        "LOSS": smooth_dice_loss,
        "METRICS": {"f1": Loss(f1), "precision": Loss(precision), "recall": Loss(recall)},
        "DEVICE": torch.device("cpu"),
        "LOGFILE": "experiments.csv",
        "__COMMENT": None,
    }
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 12, 32, 32, generator=generator)
    data = Arrays(x, (x[:, :2] > 0).float())
    result = module.train(data, data, config, folders(tmp_path))
    assert set(result["metrics"]) == {
        "train_loss",
        "val_loss",
        "val_f1",
        "val_precision",
        "val_recall",
    }
    assert not result["run"].startswith("2019")  # DATE is the start of the run
    text = Path(result["paths"]["log_dir"], "config.yaml").read_text()
    assert "f1: {_target_: utils.metrics.f1, _partial_: true}" in text
    assert re.search(rf"ROUTINE_NAME: {routine}$", text, re.MULTILINE)


def test_folders_may_stay_the_projects(routine, tmp_path):
    # built, not entered: nothing is written into the project's own folders
    run = Run(make_config(), global_config, f"training.{routine}_training")
    assert run.routine == routine and run.record.name == ""
