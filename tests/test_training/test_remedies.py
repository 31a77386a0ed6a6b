"""Going on after a NaN or without memory, where the config allows it."""

import functools
import importlib

import pytest
import torch
from torch import nn

from tests.test_training.common import ROUTINES, Net, Pictures, bits, folders, make_config, rows
from tests.test_training.test_resume import FULL
from training.callbacks import Callback
from training.remedies import smallest_divisor, train
from training.run import NonFiniteLossError


class Broken(Pictures):
    """Two samples hold a NaN."""

    def __init__(self, bad: tuple[int, ...] = (7,)) -> None:
        super().__init__()
        self.x[list(bad)] = torch.nan


class Small(Net):
    """A GPU with room for batches up to a size."""

    def __init__(self, room: int = 4) -> None:
        super().__init__(dropout=0.0)
        self.room = room

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(x)


class Full(Callback):
    """The GPU is full from an epoch on, unless batches are small."""

    def on_epoch_start(self, run) -> None:
        run.module.room = 8 if run.position.epoch == 0 else 4


class Watch(Callback):
    """Collects the losses of all runs."""

    losses: list[float] = []

    def on_batch_end(self, run, loss) -> None:
        self.losses.append(loss)


def go(routine, path, **changes):
    module = importlib.import_module(f"training.{routine}_training")
    return train(module, make_config(**changes), folders(path))


def table(path):
    return rows(path / "logs" / "experiments.csv")


@pytest.mark.parametrize("config", [{}, FULL | {"EPOCHS": 2}], ids=["plain", "full"])
def test_the_update_of_a_nan_is_left_out(config, tmp_path):
    """A sample without a number comes up in every epoch: once it is skipped, then it is an end."""
    once = {**config, "TRAIN_DATASET": Broken, "EPOCHS": 1}
    results = {
        routine: go(routine, tmp_path / routine, **once, ON_NAN="skip") for routine in ROUTINES
    }
    assert len({bits(result) for result in results.values()}) == 1
    result = results["pytorch"]
    assert result["status"] == "done"
    assert result["metrics"]["train_loss"] > 0  # and no NaN
    with pytest.raises(NonFiniteLossError, match="epoch 2"):
        go("pytorch", tmp_path / "again", **{**once, "EPOCHS": 2}, ON_NAN="skip")
    statuses = [row["STATUS"] for row in table(tmp_path / "again")]
    assert statuses == ["failed", "failed"]  # the second one is the run that went on


def test_a_skipped_batch_changes_nothing_but_its_own_update(tmp_path):
    """All other batches of the epoch are learnt from, batch norm's statistics stay numbers."""
    result = go("pytorch", tmp_path, TRAIN_DATASET=Broken, EPOCHS=1, ON_NAN="skip")
    state = torch.load(result["paths"]["last"], weights_only=True)["model"]
    assert all(torch.isfinite(value).all() for value in state.values())
    assert result["steps"] == 7


def test_a_nan_goes_back_to_the_last_checkpoint_of_the_same_run(tmp_path):
    late = functools.partial(LateNaN, epoch=1)
    result = go("pytorch", tmp_path, CALLBACKS=[late], ON_NAN="skip", LOSS=Fragile, EPOCHS=3)
    (row,) = table(tmp_path)
    assert row["RUN"] == result["run"] and row["STATUS"] == "done"
    log = (tmp_path / "logs" / result["run"] / "train.log").read_text()
    assert "left out the update 10" in log


class Fragile(nn.CrossEntropyLoss):
    """Is NaN when it is told to."""

    breaks = False

    def forward(self, pred, target):
        loss = super().forward(pred, target)
        return loss * torch.nan if self.breaks else loss


class LateNaN(Callback):
    """The third batch of an epoch gives NaN."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_start(self, run) -> None:
        run.loss.breaks = False

    def on_batch_end(self, run, loss) -> None:
        run.loss.breaks = (run.position.epoch, run.position.batch) == (self.epoch, 2)


def test_without_the_key_nothing_is_tried_again(tmp_path):
    with pytest.raises(NonFiniteLossError, match="ON_NAN=skip"):
        go("pytorch", tmp_path, TRAIN_DATASET=Broken)
    with pytest.raises(torch.OutOfMemoryError):
        go("pytorch", tmp_path, MODEL=Small)
    assert [row["STATUS"] for row in table(tmp_path)] == ["failed", "failed"]
    log = (tmp_path / "logs" / table(tmp_path)[-1]["RUN"] / "train.log").read_text()
    assert "halve DATA_LOADER_CONFIG.batch_size and double ACCUMULATE" in log


@pytest.mark.parametrize("routine", ROUTINES)
def test_without_memory_the_batch_is_halved_and_the_window_doubled(routine, tmp_path):
    result = go(routine, tmp_path, MODEL=Small, MODEL_CONFIG={"room": 2}, ON_OOM="halve")
    # equal to a run that was asked for it
    config = {"MODEL": Small, "MODEL_CONFIG": {"room": 2}, "ON_OOM": "halve"}
    halves = {"DATA_LOADER_CONFIG": {"batch_size": 2}, "ACCUMULATE": 4}
    assert bits(result) == bits(go("pytorch", tmp_path / "asked", **config, **halves))
    assert result["steps"] == 14  # as with batches of 8


def test_without_memory_in_the_middle_the_run_goes_on(tmp_path):
    config = {"MODEL": Small, "MODEL_CONFIG": {"room": 8}, "CALLBACKS": [Full]}
    result = go("pytorch", tmp_path, **config, ON_OOM="halve", ONE_CYCLE=True, EPOCHS=3)
    (row,) = table(tmp_path)
    assert row["STATUS"] == "done" and row["DATA_LOADER_CONFIG.batch_size"] == "4"
    assert result["steps"] == 21 and result["epochs"] == 3


def test_a_single_sample_without_memory_is_the_end(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        go("pytorch", tmp_path, MODEL=Small, MODEL_CONFIG={"room": 0}, ON_OOM="halve")


@pytest.mark.parametrize(("n", "divisor"), [(1, None), (2, 2), (7, 7), (15, 3), (64, 2)])
def test_smallest_divisor(n, divisor):
    assert smallest_divisor(n) == divisor
