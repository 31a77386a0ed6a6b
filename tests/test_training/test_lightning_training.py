"""What Lightning does of its own accord, and must not do to a run."""

import functools
import importlib.util
import logging
import os
import random
import signal
import sys
import warnings
from pathlib import Path

import pytest
import torch

from tests.test_training.common import (
    Pictures,
    StopAfter,
    bits,
    folders,
    make_config,
    rows,
    train,
)
from training.callbacks import Callback
from training.state import RunInterrupted

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lightning") is None, reason="the package lightning is not installed"
)

TEST_SET = functools.partial(Pictures, n=19, seed=1, augment=False)


class Act(Callback):
    """Does something after a batch, once armed."""

    act = None

    def __init__(self, epoch: int = 0, batch: int = 3) -> None:
        self.at = (epoch, batch)

    def on_batch_end(self, run, loss):
        if Act.act is not None and (run.position.epoch, run.position.batch) == self.at:
            Act.act()


@pytest.fixture
def act(monkeypatch):
    """Return a function that arms `Act`."""
    return functools.partial(monkeypatch.setattr, Act, "act")


def make_recorder():
    """Return a Lightning callback that keeps what it hears."""
    from lightning.pytorch import Callback as LightningCallback

    class Recorder(LightningCallback):
        def __init__(self):
            self.heard, self.losses = [], []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            is_same = pl_module.transfer_batch_to_device(batch, pl_module.device, 0) is batch
            self.heard.append((trainer.current_epoch, batch_idx, is_same))
            self.usr1 = signal.getsignal(signal.SIGUSR1)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.losses.append(outputs["loss"].item())

        def on_fit_end(self, trainer, pl_module):
            self.folder = trainer.default_root_dir

    return Recorder()


def test_callbacks_of_lightnings_own_hear_the_training(tmp_path):
    recorder = make_recorder()
    result = train("lightning", tmp_path, LIGHTNING_CALLBACKS=[recorder])
    assert recorder.heard == [(epoch, batch, True) for epoch in range(2) for batch in range(7)]
    assert len(recorder.losses) == 14 and all(loss > 0 for loss in recorder.losses)
    assert recorder.folder == result["paths"]["log_dir"]
    assert bits(result) == bits(train("lightning", tmp_path / "without"))


def test_its_early_stopping_finds_the_values_of_an_epoch(tmp_path):
    from lightning.pytorch.callbacks import EarlyStopping

    stop = EarlyStopping("val_loss", min_delta=9.0, patience=2)
    result = train("lightning", tmp_path, LIGHTNING_CALLBACKS=[stop], EPOCHS=9)
    assert result["status"] == "done" and result["epochs"] == 3


def test_a_callback_that_stops_the_trainer_stops_the_run(tmp_path):
    from lightning.pytorch.callbacks import LambdaCallback

    stop = LambdaCallback(
        on_validation_end=lambda trainer, _: setattr(trainer, "should_stop", True)
    )
    result = train("lightning", tmp_path, LIGHTNING_CALLBACKS=[stop])
    assert result["status"] == "done" and result["epochs"] == 1


def test_a_run_that_stopped_itself_is_not_taken_up_again(tmp_path):
    from training import lightning_training

    config = {"EPOCHS": 9, "CALLBACKS": [functools.partial(StopAfter, 2)]}
    name = train("lightning", tmp_path, **config)["run"]
    place = folders(tmp_path) | {"RESUME": name}
    assert lightning_training.train(None, None, make_config(**config), place)["epochs"] == 2


def test_what_the_run_does_itself_is_refused_aloud(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    with pytest.raises(Exception, match="`enable_checkpointing=False` but found `ModelCheckpoint`"):
        train("lightning", tmp_path, LIGHTNING_CALLBACKS=[ModelCheckpoint()])


@pytest.mark.parametrize("val_dataset", [None, TEST_SET()], ids=["without validation", "with"])
def test_nothing_is_printed_and_no_other_file_written(
    val_dataset, tmp_path, capfd, caplog, monkeypatch
):
    from training import lightning_training, pytorch_training

    config = make_config(EPOCHS=1, MONITOR="train_loss", TEST_DATASET=TEST_SET)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    seen = []
    for routine in (pytorch_training, lightning_training):
        place = tmp_path / routine.__name__
        capfd.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            routine.train(Pictures(), val_dataset, config, folders(place) | {"DATE": "now"})
        seen.append(({path.relative_to(place) for path in place.rglob("*")}, capfd.readouterr()))
    assert seen[0] == seen[1]
    assert not [record for record in caplog.records if record.name.startswith("lightning")]
    assert not list(tmp_path.joinpath("here").iterdir())


def test_its_loggers_and_the_filters_of_warnings_are_put_back(tmp_path, caplog):
    import lightning.pytorch  # noqa: F401, adds filters of its own

    name = "lightning.pytorch.utilities.rank_zero"
    caplog.set_level(logging.DEBUG, name)
    filters = list(warnings.filters)
    train("lightning", tmp_path, EPOCHS=1)
    assert logging.getLogger(name).level == logging.DEBUG
    assert warnings.filters == filters


def test_a_second_ctrl_c_stays_one(tmp_path, act):
    act(functools.partial(signal.default_int_handler, signal.SIGINT, None))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train("lightning", tmp_path, CALLBACKS=[Act])
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_exit_stays_an_exit(tmp_path, act):
    act(functools.partial(sys.exit, 7))
    with pytest.raises(SystemExit) as stop:
        train("lightning", tmp_path, CALLBACKS=[Act])
    assert stop.value.code == 7


SLURM = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "sweep", "SLURM_JOB_ID": "1"}


def test_a_job_of_a_cluster_is_one_process_with_its_own_signals(tmp_path, monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    recorder, handler = make_recorder(), signal.getsignal(signal.SIGUSR1)
    result = train("lightning", tmp_path, LIGHTNING_CALLBACKS=[recorder])
    assert result["status"] == "done" and recorder.usr1 is handler


def test_the_model_stays_on_its_device(tmp_path, monkeypatch):
    def move(module):
        raise AssertionError("taken off the device")

    monkeypatch.setattr(torch.nn.Module, "cpu", move)
    assert train("lightning", tmp_path, EPOCHS=1, TEST_DATASET=TEST_SET)["status"] == "done"


def is_plain(pred, target):
    """Return a 1 per sample, unless the tensors are ones that nothing may write into."""
    return torch.full((len(target),), float(not (pred.is_inference() or pred.requires_grad)))


def test_validation_and_test_see_tensors_as_under_every_routine(tmp_path):
    result = train("lightning", tmp_path, EPOCHS=1, METRICS=[is_plain], TEST_DATASET=TEST_SET)
    assert result["metrics"]["val_is_plain"] == result["test_metrics"]["test_is_plain"] == 1.0


@pytest.mark.parametrize(
    ("at", "changes"),
    [
        ((0, 7), {"VALIDATE_EVERY": 2}),  # all batches done, no validation due
        ((1, 7), {"VALIDATE_EVERY": 2}),  # all batches done, the validation outstanding
        ((2, 3), {"DATA_LOADER_CONFIG": {"batch_size": 8, "num_workers": 2}}),
    ],
    ids=str,
)
def test_resume_calls_the_hooks_of_what_is_left(at, changes, tmp_path, act):
    from training import lightning_training

    config = changes | {"EPOCHS": 4, "ACCUMULATE": 3, "CALLBACKS": [functools.partial(Act, *at)]}
    unbroken = bits(train("pytorch", tmp_path / "unbroken", **config))
    act(functools.partial(os.kill, os.getpid(), signal.SIGTERM))
    with pytest.raises(RunInterrupted):
        train("lightning", tmp_path, **config)
    act(None)
    random.seed(7)
    (path,) = Path(tmp_path, "weights").iterdir()
    recorder = make_recorder()
    config = make_config(**config, LIGHTNING_CALLBACKS=[recorder])
    result = lightning_training.train(None, None, config, folders(tmp_path) | {"RESUME": path.name})
    assert bits(result) == unbroken
    done = [(epoch, batch) for epoch, batch, _ in recorder.heard]
    assert done == [(e, b) for e in range(4) for b in range(7) if (e, b) >= at]
