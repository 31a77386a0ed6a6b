"""A run that was stopped goes on under any routine, with the bits of one that never stopped."""

import functools
import importlib
import itertools
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import ConfigError
from tests.test_training.common import (
    ROUTINES,
    Noise,
    Pictures,
    StopAfter,
    Stream,
    bits,
    folders,
    make_config,
    rows,
    train,
)
from training.callbacks import Callback, EarlyStopping
from training.checkpoint import load_checkpoint, save_checkpoint
from training.resume import config_of, find_run, is_finished
from training.state import RunInterrupted

ADAMW = {"OPTIMIZER": torch.optim.AdamW, "OPTIMIZER_CONFIG": {"lr": 0.01}}
FULL = ADAMW | {"ONE_CYCLE": True, "EMA": 0.9, "ACCUMULATE": 3, "MIXED_PRECISION": True}
PLATEAU = {
    "SCHEDULER": torch.optim.lr_scheduler.ReduceLROnPlateau,
    "SCHEDULER_CONFIG": {"patience": 0, "threshold": 9.0, "threshold_mode": "abs"},
}
STREAM = {
    "TRAIN_DATASET": Stream,
    "VAL_DATASET": functools.partial(Stream, n=19, seed=1, augment=False),
    "ACCUMULATE": 2,
}
CONFIGS = {
    "sgd": {},
    "adamw-one_cycle-ema-accumulate-bf16": FULL,
    "plateau-validate_every": {**PLATEAU, "VALIDATE_EVERY": 2, "EPOCHS": 4},
    "fp16-clip": {"MIXED_PRECISION": "fp16", "CLIP_NORM": 0.5, "ACCUMULATE": 2},
    "stream": STREAM,
    "stream-2_workers": {
        **STREAM,
        "ACCUMULATE": 1,
        "DATA_LOADER_CONFIG": {"batch_size": 8, "num_workers": 2},
    },
    "early_stopping": {"CALLBACKS": [functools.partial(EarlyStopping, patience=9)]},
}


class Stop(Callback):
    """Raises SIGTERM once: after a batch, or at the start of the validation of an epoch."""

    done = False

    def __init__(self, epoch: int, batch: int) -> None:
        self.at = (epoch, batch)

    def on_batch_end(self, run, loss):
        self._stop(run)

    def on_validation_start(self, run):
        if self.at[1] == 99 and run.position.epoch == self.at[0]:
            signal.raise_signal(signal.SIGTERM)

    def on_epoch_end(self, run, metrics):
        if self.at[1] == 0 and run.position.epoch + 1 == self.at[0]:
            signal.raise_signal(signal.SIGTERM)

    def _stop(self, run):
        if (run.position.epoch, run.position.batch) == self.at:
            signal.raise_signal(signal.SIGTERM)


class Seen(Callback):
    """Counts the samples of each epoch."""

    def __init__(self) -> None:
        self.samples = {}

    def on_batch_end(self, run, loss):
        self.samples[run.position.epoch] = run.train_mean.n_samples


STOPS = {
    "at an epoch's end": (1, 0),
    "in an epoch, or in a window": (1, 4),
    "in the first batch": (0, 1),
    "with the validation outstanding": (1, 99),
}


def stop(routine, path, at, config):
    """Train until the position and return the run's name."""
    callbacks = [*config.get("CALLBACKS", []), functools.partial(Stop, *at)]
    with pytest.raises(RunInterrupted):
        train(routine, path, **config | {"CALLBACKS": callbacks})
    return find_run("latest", folders(path))


def resume(routine, path, name, **config):
    """Go on with a run after every global generator was disturbed."""
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    module = importlib.import_module(f"training.{routine}_training")
    return module.train(None, None, make_config(**config), folders(path) | {"RESUME": name})


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    @functools.cache
    def train_once(name):
        # a callback holds a state of its own, so the stopped run and this one have equal parts
        callbacks = [*CONFIGS[name].get("CALLBACKS", []), functools.partial(Stop, -1, -1)]
        config = CONFIGS[name] | {"CALLBACKS": callbacks}
        return bits(train("pytorch", tmp_path_factory.mktemp("unbroken"), **config))

    return train_once


def go_on(config, first, second, at, path):
    """Stop a run of a config under one routine and go on under another; return the result."""
    run = stop(first, path, at, config)
    callbacks = [*config.get("CALLBACKS", []), functools.partial(Stop, *at)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "raise_signal", lambda number: None)  # not again
        return resume(second, path, run, **config | {"CALLBACKS": callbacks})


@pytest.mark.parametrize("at", STOPS.values(), ids=STOPS)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("routine", ROUTINES)
def test_the_same_routine_goes_on(routine, name, at, unbroken, tmp_path):
    result = go_on(CONFIGS[name], routine, routine, at, tmp_path)
    assert bits(result) == unbroken(name)
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "done"


@pytest.mark.parametrize("at", STOPS.values(), ids=STOPS)
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(ROUTINES, 2)))
def test_another_routine_goes_on(first, second, at, unbroken, tmp_path):
    name = "adamw-one_cycle-ema-accumulate-bf16"
    assert bits(go_on(CONFIGS[name], first, second, at, tmp_path)) == unbroken(name)


def test_with_workers_and_back(unbroken, tmp_path):
    run = stop(
        "pytorch", tmp_path, (1, 4), {"DATA_LOADER_CONFIG": {"batch_size": 8, "num_workers": 2}}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "raise_signal", lambda number: None)
        result = resume("pytorch", tmp_path, run, CALLBACKS=[functools.partial(Stop, 1, 4)])
    assert bits(result) == unbroken("sgd")


def test_more_epochs_without_a_horizon(tmp_path):
    first = train("pytorch", tmp_path / "a", EPOCHS=1)
    longer = resume("ignite", tmp_path / "a", first["run"], EPOCHS=3)
    assert longer["epochs"] == 3
    assert bits(longer) == bits(train("pytorch", tmp_path / "b", EPOCHS=3))


def test_early_stopping_is_remembered(tmp_path):
    result = train("pytorch", tmp_path, EPOCHS=9, CALLBACKS=[functools.partial(StopAfter, 2)])
    assert is_finished(result["run"], folders(tmp_path), 9)
    again = resume("pytorch", tmp_path, result["run"], EPOCHS=9,
                   CALLBACKS=[functools.partial(StopAfter, 2)])  # fmt: skip
    assert again["epochs"] == 2


def test_a_damaged_checkpoint_falls_back_to_the_former_one(tmp_path, unbroken):
    run = stop("pytorch", tmp_path, (1, 4), CONFIGS["sgd"])
    path = tmp_path / "weights" / run / "checkpoint.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "raise_signal", lambda number: None)
        result = resume("fastai", tmp_path, run, CALLBACKS=[functools.partial(Stop, 1, 4)])
    assert bits(result) == unbroken("sgd")


def test_find_latest_and_read_its_config(tmp_path):
    first = train("pytorch", tmp_path, EPOCHS=1)["run"]
    second = train("pytorch", tmp_path, EPOCHS=1)["run"]
    place = folders(tmp_path)
    assert find_run("latest", place) == second and find_run(first, place) == first
    assert config_of(first, place) == str(tmp_path / "logs" / first / "config.yaml")
    with pytest.raises(ConfigError, match="Did you mean"):
        find_run(first + "x", place)
    Path(tmp_path / "logs" / first / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="Name the CONFIG as well"):
        config_of(first, place)
    with pytest.raises(ConfigError, match="expected a run with a checkpoint"):
        find_run("latest", folders(tmp_path / "empty"))


def test_a_checkpoint_that_is_older_than_a_key_goes_on(tmp_path):
    run = train("pytorch", tmp_path, EPOCHS=1)["run"]
    folder = tmp_path / "weights" / run
    checkpoint = load_checkpoint(folder)
    lines = checkpoint["config"].splitlines(keepends=True)
    older = [line for line in lines if not line.startswith(("PARAM_GROUPS", "WEIGHTS_STRICT"))]
    assert len(older) == len(lines) - 2
    for part in ("train", "val"):  # those of ON_BAD_SAMPLE
        del checkpoint["state"][f"bad_samples.{part}"]
    save_checkpoint({**checkpoint, "config": "".join(older)}, folder)
    assert resume("ignite", tmp_path, run, EPOCHS=2)["epochs"] == 2
    save_checkpoint({**checkpoint, "config": "".join(older)}, folder)
    with pytest.raises(ConfigError, match="expected PARAM_GROUPS as the run had it, {}, got"):
        resume("ignite", tmp_path, run, EPOCHS=2, PARAM_GROUPS={"head": {}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SEED": 1}, "expected SEED as the run had it, 0, got 1"),
        ({"OPTIMIZER_CONFIG": {"lr": 0.1}}, "expected OPTIMIZER_CONFIG as the run had it"),
        ({"DATA_LOADER_CONFIG": {"batch_size": 4}}, "expected DATA_LOADER_CONFIG"),
        ({"EPOCHS": 5, "ONE_CYCLE": True}, "expected ONE_CYCLE as the run had it"),
        (
            {"TRAIN_DATASET": functools.partial(Pictures, n=50)},
            r"samples: \[51, 19\]\), got \[50, 19\]",
        ),
    ],
)
def test_what_may_not_change(changes, message, tmp_path):
    run = train("pytorch", tmp_path, EPOCHS=1)["run"]
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=message):
        resume("pytorch", tmp_path, run, **{"EPOCHS": 1} | changes)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_workers_that_divide_a_stream_stay(tmp_path):
    two = {"TRAIN_DATASET": Stream, "DATA_LOADER_CONFIG": {"batch_size": 8, "num_workers": 2}}
    run = train("pytorch", tmp_path, EPOCHS=1, **two)["run"]
    one = {**two, "DATA_LOADER_CONFIG": {"batch_size": 8}}
    with pytest.raises(ConfigError, match="expected 2 workers, which divided the stream .* got 1"):
        resume("pytorch", tmp_path, run, EPOCHS=2, **one)
    halves = {**two, "DATA_LOADER_CONFIG": {"batch_size": 4, "num_workers": 2}, "ACCUMULATE": 2}
    with pytest.raises(ConfigError, match="expected ACCUMULATE as the run had it"):
        resume("pytorch", tmp_path, run, EPOCHS=2, **halves)


@pytest.mark.parametrize("at", [(1, 4), (1, 99)], ids=["in an epoch", "before the validation"])
@pytest.mark.parametrize(
    ("before", "after"), [((8, 1), (4, 2)), ((2, 4), (8, 1))], ids=["smaller", "larger"]
)
def test_smaller_batches_in_as_large_a_window(before, after, at, tmp_path):
    """No sample is learnt from twice or left out, and the number of updates stays."""

    def sizes(batch_size, accumulate):
        return {"DATA_LOADER_CONFIG": {"batch_size": batch_size}, "ACCUMULATE": accumulate}

    seen = Seen()
    run = stop("pytorch", tmp_path, at, {**sizes(*before), "CALLBACKS": [seen]})
    callbacks = [seen, functools.partial(Stop, *at)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "raise_signal", lambda number: None)
        result = resume("pytorch", tmp_path, run, **sizes(*after), CALLBACKS=callbacks)
    assert result["steps"] == 14 and result["epochs"] == 2
    assert seen.samples == {0: 51, 1: 51}
    assert "batch size" in (tmp_path / "logs" / run / "train.log").read_text()


def test_more_epochs_under_a_horizon_are_refused(tmp_path):
    run = train("pytorch", tmp_path, ONE_CYCLE=True)["run"]
    with pytest.raises(ConfigError, match=r"expected EPOCHS=2, .* WEIGHTS=last.pth"):
        resume("pytorch", tmp_path, run, ONE_CYCLE=True, EPOCHS=4)


def test_a_run_in_training_is_not_resumed_twice(tmp_path):
    run = train("pytorch", tmp_path, CALLBACKS=[Noise])["run"]
    place = folders(tmp_path)
    from filelock import FileLock

    with FileLock(Path(place["LOG_DIR"], run, ".lock")):
        with pytest.raises(ConfigError, match="which another process is training"):
            resume("pytorch", tmp_path, run, CALLBACKS=[Noise], EPOCHS=3)


def test_two_optimizers_of_a_copied_routine(tmp_path, unbroken):
    """What a routine tracks itself is restored when it tracks it again."""
    from training.run import Run

    def loop(place, epochs):
        with Run(make_config(EPOCHS=epochs), place) as run:
            second = torch.optim.SGD(run.module.head.parameters(), lr=0.01, momentum=0.9)
            run.track("second", second)
            for _ in run.epochs():
                run.begin_epoch()
                for batch in run.train_loader:
                    run.begin_batch()
                    loss = run.loss(run.model(batch.x), batch.y)
                    run.backward(loss)
                    second.step()
                    run.update()
                    run.end_batch(batch)
                with run.validating() as loader:
                    for batch in loader:
                        pred = run.model(batch.x)
                        run.val_step(pred, batch.y, run.loss(pred, batch.y))
                run.end_epoch()
            return run.result()

    whole = loop(folders(tmp_path / "whole"), 3)
    part = loop(folders(tmp_path / "part"), 1)
    rest = loop(folders(tmp_path / "part") | {"RESUME": part["run"]}, 3)
    assert bits(rest) == bits(whole)
    with pytest.raises(ValueError, match="expected parts of this run, got second as well"):
        resume("pytorch", tmp_path / "part", part["run"], EPOCHS=4)


class Killed(BaseException):
    """What no routine catches."""


class Kill(Callback):
    """Ends the run without a word at the 12th update."""

    def __init__(self, armed: bool = True) -> None:
        self.armed = armed

    def on_batch_end(self, run, loss):
        if self.armed and run.position.step == 12:
            raise Killed


@pytest.mark.parametrize("every", [{"every_steps": 3}, {"every_minutes": 1e-9}])
def test_a_killed_run_goes_on_from_the_middle_of_an_epoch(every, unbroken, tmp_path):
    with pytest.raises(Killed):
        train("pytorch", tmp_path, CHECKPOINT=every, CALLBACKS=[Kill()])
    run = find_run("latest", folders(tmp_path))
    path = tmp_path / "weights" / run / "checkpoint.pt"
    step = torch.load(path, weights_only=True)["state"]["position"]["step"]
    assert step == (9 if "every_steps" in every else 11)
    result = resume("ignite", tmp_path, run, CHECKPOINT=every, CALLBACKS=[Kill(armed=False)])
    assert bits(result) == unbroken("sgd")
