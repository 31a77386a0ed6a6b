"""The parts of a run's state alone, and all of them together: saved, loaded, finished."""

import copy
import functools
import math
import multiprocessing
import os
import random
import signal
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.test_training.common import Net, StopAfter, bits, folders, make_config
from training.callbacks import Callback, EarlyStopping
from training.checkpoint import load_checkpoint
from training.pytorch_training import evaluate
from training.run import Run
from training.state import (
    Average,
    History,
    LossMean,
    Position,
    RunInterrupted,
    StopSignals,
)
from utils.torchutils import load_file, save_file


def through_a_file(part, path):
    """Return a part's state as a checkpoint gives it back."""
    save_file(part.state_dict(), path / "state.pt")
    return load_file(path / "state.pt")


# --------------------------------------------------------------------- position and losses


def test_position(tmp_path):
    position = Position()
    assert (position.epoch, position.batch, position.step) == (0, 0, 0)
    assert math.isnan(position.lr)
    position.epoch, position.batch, position.step, position.lr = 3, 2, 17, 0.1
    loaded = Position()
    loaded.load_state_dict(through_a_file(position, tmp_path))
    assert vars(loaded) == vars(position)


def test_mean_loss_counts_samples_not_batches(tmp_path):
    mean = LossMean()
    assert math.isnan(mean.mean())
    mean.add(1.0, 8)
    mean.add(4.0, 2)
    assert mean.mean() == 1.6
    loaded = LossMean()
    loaded.load_state_dict(through_a_file(mean, tmp_path))
    mean.add(2.0, 5)
    loaded.add(2.0, 5)
    assert loaded.mean() == mean.mean()
    mean.reset()
    assert math.isnan(mean.mean())


# ----------------------------------------------------------------------------------- history


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", [3.0, 1.0, 2.0], 1),
        ("max", [3.0, 1.0, 2.0], 0),
        ("min", [2.0, 1.0, 1.0], 1),  # the first of equal ones
        ("max", [1.0, 2.0, 2.0], 1),
        ("min", [math.nan, 5.0, math.nan], 1),
        ("max", [math.nan, -5.0, math.nan], 1),
        ("min", [math.nan, math.nan], None),
        ("max", [None, 0.0, None], 1),  # None: an epoch without validation
        ("min", [], None),
    ],
)
def test_best_epoch(mode, values, best, tmp_path):
    history = History("val_f1", mode)
    told = [
        history.add({"epoch": i + 1, **({} if value is None else {"val_f1": value})})
        for i, value in enumerate(values)
    ]
    assert history.best_epoch == best
    assert history.best == ({} if best is None else {"epoch": best + 1, "val_f1": values[best]})
    assert [i for i, is_best in enumerate(told) if is_best][-1:] == ([] if best is None else [best])
    loaded = History("val_f1", mode)
    loaded.load_state_dict(through_a_file(history, tmp_path))
    assert loaded.best == history.best and len(loaded.rows) == len(values)
    # and goes on from there
    worse = {"val_f1": -9.0 if mode == "max" else 9.0}
    assert loaded.add(worse) == (best is None)


# ----------------------------------------------------------------------------------- average


def step(model, scale):
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn(param.shape), alpha=scale)


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_average_equals_torchs(tmp_path):
    torch.manual_seed(0)
    model = Net()
    average = Average(model, 0.8)
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    reference.update_parameters(model)  # its first call copies the weights
    for i in range(6):
        step(model, 0.1)
        average.update()
        reference.update_parameters(model)
        if i == 2:  # a resumed run goes on with it
            state = through_a_file(average, tmp_path)
            average = Average(model, 0.8)
            average.load_state_dict(state)
    assert equal(average.averages, reference.module.parameters())
    assert not equal(average.averages, model.parameters())


def test_swap_exchanges_weights_and_average_and_a_second_one_undoes_it():
    model = Net()
    average = Average(model, 0.5)
    step(model, 1.0)
    weights = copy.deepcopy(list(model.parameters()))
    means = copy.deepcopy(average.averages)
    addresses = [p.data_ptr() for p in model.parameters()]
    average.swap()
    assert equal(model.parameters(), means) and equal(average.averages, weights)
    average.swap()
    assert equal(model.parameters(), weights) and equal(average.averages, means)
    assert [p.data_ptr() for p in model.parameters()] == addresses  # and nothing was copied


def test_optimizer_and_average_move_the_weights_after_a_swap_and_back():
    def run(swaps):
        torch.manual_seed(0)
        model = Net(dropout=0.0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        average = Average(model, 0.9)
        x = torch.randn(4, 1, 6, 6)
        for _ in range(3):
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update()
            if swaps:
                average.swap()
                model.eval()(x)
                model.train()
                average.swap()
        return list(model.parameters()), average.averages

    assert all(map(equal, run(True), run(False)))


def test_average_leaves_integers_and_buffers():
    model = nn.BatchNorm1d(3)
    model.register_parameter("codes", nn.Parameter(torch.arange(3), requires_grad=False))
    average = Average(model, 0.5)
    assert len(average.averages) == 2
    model.running_mean += 1
    average.swap()
    assert model.running_mean.tolist() == [1, 1, 1] and model.codes.tolist() == [0, 1, 2]


# ----------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_handlers_are_given_back(number, capfd):
    def former(number, frame):
        raise AssertionError("the signal is the run's")

    kept = signal.signal(number, former)
    try:
        signals = StopSignals()
        signals.install()
        signal.raise_signal(number)
        assert signals.received == number
        signals.remove()
        assert signal.getsignal(number) is former
    finally:
        signal.signal(number, kept)
    assert "saving the state after this update; once more to quit at once" in capfd.readouterr().err


def test_outside_of_the_main_thread_nothing_is_installed():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        signals = StopSignals()
        signals.install()
        seen.append((signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))
        signals.remove()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_stopped_a_run_is_no_error_and_knows_its_exit_code(number, code):
    stop = RunInterrupted(number)
    assert stop.exit_code == code and not isinstance(stop, Exception)
    assert str(stop) == f"stopped by {number.name}, the state is saved"


def receive_signals(pipe):
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    os.close(read)
    signals = StopSignals()
    signals.install()
    signal.raise_signal(signal.SIGINT)
    pipe.send(signals.received)
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pipe.send("quits")
    signal.raise_signal(signal.SIGTERM)
    pipe.send("still there")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork of this process is ended")
def test_the_second_signal_quits_at_once_although_nobody_reads():
    # `train.py 2>&1 | tee log`: Ctrl-C ends tee as well, and writing to it fails
    here, there = multiprocessing.Pipe()
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=receive_signals, args=(there,))
    process.start()
    there.close()
    assert (here.recv(), here.recv()) == (signal.SIGINT, "quits")
    with pytest.raises(EOFError):
        here.recv()
    process.join()
    assert process.exitcode == -signal.SIGTERM


# ------------------------------------------------------------------- the state of a whole run


class Streams(Callback):
    """Keeps what it draws from python and numpy: these streams go on in a resumed epoch."""

    def __init__(self):
        self.drawn = []

    def on_batch_end(self, run, loss):
        self.drawn.append((random.random(), np.random.rand()))


def drive(run, until=None):
    """Train as the raw routine does, and return after an update or an epoch (epoch, batch)."""
    for _ in run.epochs():
        run.begin_epoch()
        for batch in run.train_loader:
            run.begin_batch()
            with run.autocast():
                loss = run.loss(run.model(batch.x), batch.y)
            run.backward(loss)
            run.update()
            run.end_batch(batch)
            if (run.position.epoch, run.position.batch) == until:
                return
        if run.validates():
            with run.validating() as loader:
                evaluate(run, loader)
        run.end_epoch()
        if (run.position.epoch, run.position.batch) == until:
            return


def scramble():
    """Draw from every global generator, as other work of the process does."""
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)


def stop_and_go_on(path, config, until):
    """Train until a position, save, and finish in a second Run; returns its result and draws."""
    with Run(config, folders(path / "first")) as run:
        drive(run, until)
        run.save_checkpoint()
        drawn = list(run.callbacks[0].drawn)
    with Run(config, folders(path / "second")) as run:
        run.load_state_dict(load_checkpoint(path / "first" / "weights" / first_run(path))["state"])
        scramble()
        drive(run)
        return run.result(), drawn + run.callbacks[0].drawn


def first_run(path):
    (folder,) = (path / "first" / "weights").iterdir()
    return folder.name


CONFIGS = {
    "adamw-one_cycle-ema-bf16": {
        "OPTIMIZER": torch.optim.AdamW,
        "OPTIMIZER_CONFIG": {"lr": 0.01},
        "ONE_CYCLE": True,
        "EMA": 0.9,
        "MIXED_PRECISION": "bf16",
    },
    "fp16-accumulate-plateau": {
        "MIXED_PRECISION": "fp16",
        "ACCUMULATE": 2,
        "SCHEDULER": torch.optim.lr_scheduler.ReduceLROnPlateau,
        "SCHEDULER_CONFIG": {"patience": 0, "threshold": 10.0},
    },
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Result and draws of a run that was never stopped, trained once per config."""

    @functools.cache
    def train_once(name):
        config = make_config(**CONFIGS[name], EPOCHS=3, CALLBACKS=[Streams])
        with Run(config, folders(tmp_path_factory.mktemp("unbroken"))) as run:
            drive(run)
            return run.result(), run.callbacks[0].drawn

    return train_once


@pytest.mark.parametrize(
    "until",
    [(1, 0), (1, 4), (1, 7)],
    ids=["at the end of an epoch", "inside an epoch", "validation outstanding"],
)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_goes_on_with_the_same_bits(name, until, unbroken, tmp_path):
    config = make_config(**CONFIGS[name], EPOCHS=3, CALLBACKS=[Streams])
    result, drawn = stop_and_go_on(tmp_path, config, until)
    expected, expected_draws = unbroken(name)
    assert bits(result) == bits(expected)
    assert drawn == expected_draws
    assert result["best_value"] == expected["best_value"] and result["epochs"] == 3


def test_callbacks_go_on_with_their_state(tmp_path):
    stop = functools.partial(EarlyStopping, patience=2)
    config = make_config(OPTIMIZER_CONFIG={"lr": 0.0}, EPOCHS=9, CALLBACKS=[Streams, stop])
    with Run(config, folders(tmp_path / "unbroken")) as run:
        drive(run)
    assert run.position.epoch < 9
    result, _ = stop_and_go_on(tmp_path, config, (run.position.epoch - 1, 0))
    assert bits(result) == bits(run.result())


def test_a_run_that_was_told_to_stop_trains_no_further(tmp_path):
    stop = functools.partial(StopAfter, 1)
    with Run(make_config(EPOCHS=3, CALLBACKS=[stop]), folders(tmp_path / "first")) as run:
        drive(run)
        state = copy.deepcopy(run.state_dict())
    with Run(make_config(EPOCHS=3, CALLBACKS=[stop]), folders(tmp_path / "second")) as run:
        run.load_state_dict(state)
        assert list(run.epochs()) == [] and run.position.epoch == 1
