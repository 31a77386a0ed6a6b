import functools
import importlib
import io
import math
import re
import signal
import types
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from tests.test_training.common import (
    CLASSES,
    ROUTINES,
    Net,
    Pictures,
    bits,
    folders,
    make_config,
    train,
)
from training.callbacks import Callback, Curves, EarlyStopping, Progress, Summary, Trackers, figures
from training.callbacks.figures import Waits
from training.callbacks.progress import choose_columns, tabulate_result
from training.callbacks.summary import describe_shape, summarize
from training.run import Run
from training.state import RunInterrupted

BAR = "\u2501"


class Constant(nn.Sequential):
    """Neither batch norm nor dropout: without a learning rate no value ever changes."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(36, CLASSES))


# ----------------------------------------------------------------------------- early stopping


@pytest.mark.parametrize("patience", [0, -1])
def test_early_stopping_checks_its_patience(patience):
    with pytest.raises(ValueError, match=f"expected patience of at least 1, got {patience}"):
        EarlyStopping(patience)


def test_early_stopping_counts_epochs_with_validation(tmp_path):
    result = train(
        "pytorch",
        tmp_path,
        MODEL=Constant,
        OPTIMIZER_CONFIG={"lr": 0.0},
        CALLBACKS=[functools.partial(EarlyStopping, patience=2)],
        VALIDATE_EVERY=2,
        EPOCHS=9,
    )
    # validated after 2, 4, 6, ...: the first was the best, the next two were not better
    assert (result["best_epoch"], result["epochs"]) == (2, 6)


def test_early_stopping_keeps_its_count():
    stop, loaded = EarlyStopping(), EarlyStopping()
    stop.n_worse = 3
    loaded.load_state_dict(stop.state_dict())
    assert loaded.n_worse == 3 and loaded.patience == 5


# ----------------------------------------------------------------------------------- trackers


class Kept:
    """A tracker that keeps what it is told."""

    told: list = []

    def __init__(self, run):
        self.name = run.record.name

    def __len__(self):
        return 0  # as a list of nothing so far, it counts as false

    def log(self, values, step):
        Kept.told.append((step, values))

    def close(self):
        Kept.told.append("closed")


class Breaks:
    """A tracker that fails in one of its methods."""

    closed = 0

    def __init__(self, run, where="__init__"):
        self.where = where
        self._may_fail("__init__")

    def log(self, values, step):
        values.clear()  # no other tracker must see it
        self._may_fail("log")

    def on_end(self, run, result):
        result.clear()
        self._may_fail("on_end")

    def close(self):
        Breaks.closed += 1
        self._may_fail("close")

    def _may_fail(self, name):
        if self.where == name:
            raise OSError("no server")


class Incomplete:
    """A tracker without methods."""

    def __init__(self, run):
        """Take the run."""


def train_with(path, *trackers, **changes):
    Kept.told = []
    result = train("pytorch", path, TRACKERS=trackers, CURVES=False, **changes)
    log = Path(result["paths"]["log_dir"], "train.log").read_text()
    return result, [line for line in log.splitlines() if line.startswith("warning: ")]


def test_trackers_hear_every_epoch_and_the_end(tmp_path):
    result, warnings = train_with(tmp_path, Kept)
    (step, values), (last_step, last_values), end = Kept.told
    assert (step, last_step, end) == (7, 14, "closed")
    assert last_values.items() >= {"lr": 0.05, **result["metrics"]}.items()
    assert last_values.keys() - result["metrics"] == {"lr", "seconds", "data_wait", "grad_norm"}
    assert values.keys() == last_values.keys() and not warnings
    assert all(type(value) is float for value in values.values())  # no tensor on a device


def test_a_tracker_named_by_its_import_path(tmp_path):
    Kept.told = []
    _, warnings = train_with(tmp_path, f"{__name__}.Kept", f"{__name__}.Keept")
    assert len(Kept.told) == 3
    (warning,) = warnings
    assert f'tracker {__name__}.Keept left out: ConfigError: "{__name__}.Keept"' in warning


class Listens(Kept):
    """A tracker with the hooks that it may have."""

    def on_validation_start(self, run):
        Kept.told.append((run.position.step, run.module.training))

    def on_end(self, run, result):
        Kept.told.append(result["status"])


def test_a_tracker_may_hear_of_validation_and_result(tmp_path):
    train_with(tmp_path, Listens, EPOCHS=1)
    assert Kept.told[0] == (7, False) and Kept.told[1][0] == 7
    assert Kept.told[2:] == ["done", "closed"]


@pytest.mark.parametrize(
    ("tracker", "warning"),
    [
        (Breaks, "tracker Breaks left out: OSError: no server"),
        (functools.partial(Breaks, where="log"), "tracker Breaks left out: OSError: no server"),
        (functools.partial(Breaks, where="close"), "tracker Breaks left out: OSError: no server"),
        (functools.partial(Breaks, where="on_end"), "tracker Breaks left out: OSError: no server"),
        (functools.partial(Breaks, wrong=1), "tracker Breaks left out: TypeError: .*'wrong'"),
        (Incomplete, "tracker Incomplete left out: AttributeError: .*'log'"),
    ],
)
def test_a_tracker_that_fails_is_left_out_with_one_warning(tracker, warning, tmp_path):
    Breaks.closed = 0
    result, warnings = train_with(tmp_path, tracker, Kept)
    assert result["status"] == "done" and result["epochs"] == 2
    assert len(warnings) == 1 and re.match(f"warning: {warning}", warnings[0])
    step, values = Kept.told[1]
    assert step == 14 and values["val_loss"] == result["metrics"]["val_loss"]
    assert Kept.told[2] == "closed"
    # once, also when it failed before, but never what could not be made
    assert Breaks.closed == (getattr(tracker, "keywords", {}).get("where") is not None)


def test_a_tracker_without_close(tmp_path):
    class Open(Incomplete):
        def log(self, values, step):
            """Take them."""

    result, warnings = train_with(tmp_path, Open)
    assert result["status"] == "done"
    assert [line for line in warnings if "tracker Open left out: AttributeError" in line]


class Fails(Callback):
    def on_epoch_end(self, run, metrics):
        raise RuntimeError("out of luck")


def test_trackers_are_closed_when_a_run_fails(tmp_path):
    with pytest.raises(RuntimeError, match="out of luck"):
        train_with(tmp_path, Kept, CALLBACKS=[Fails])
    assert Kept.told == ["closed"]


def test_ctrl_c_inside_a_tracker_is_no_failure_of_it():
    def interrupt(run):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trackers([interrupt]).on_start(None)


# ----------------------------------------------------------------------------------- progress


def without_escapes(text):
    """Return what a terminal got without its colours and moves of the cursor."""
    return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]|\r", "", text)


def shown(path, monkeypatch, is_terminal, width=120, **changes):
    """Train, and return what the terminal and train.log got."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=width)
    monkeypatch.setattr("training.run.make_console", lambda: console)
    try:
        train("pytorch", path, **{"PROGRESS": True, "CURVES": False} | changes)
    finally:
        (log,) = (path / "logs").glob("*/train.log")
    return out.getvalue(), log.read_text()


def test_without_a_terminal_plain_lines(tmp_path, monkeypatch):
    text, log = shown(tmp_path, monkeypatch, is_terminal=False)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2500-\u25ff]", text)
    lines = text.splitlines()
    # the same lines, no bar; the log has the model's parts as well
    summary = ["part", "body", "head", "Net"]
    assert [line for line in log.splitlines() if line.split()[0] not in summary] == lines
    assert re.match(r"\S+_test: pytorch on cpu, 7 batches per epoch$", lines[0])
    assert lines[1] == "Net: 243 parameters; * marks the best val_loss"
    names = "epoch step lr train_loss val_loss val_accuracy val_f1 seconds wait grad_norm"
    assert lines[2].split() == names.split() and len(lines[2]) <= 98
    assert [line.split()[:3] for line in lines[3:5]] == [
        ["1", "7", "5.00e-02"],
        ["2", "14", "5.00e-02"],
    ]
    ends = [cell.end() for cell in re.finditer(r"\S+", lines[2])]
    assert [cell.end() for cell in re.finditer(r"[\d.e%-]+", lines[3])] == ends  # aligned
    assert re.match(r"done after \S+ s, \S+ s per epoch$", lines[5])
    assert [line.split()[0] for line in lines[6:12]] == [
        "best", "epoch", "train_loss", "val_loss", "val_accuracy", "val_f1",
    ]  # fmt: skip
    assert re.match(r" +best  /.*/best.pth$", lines[12])
    assert lines[-1].endswith("best.pth") and "predict.py -i FILES -o DIR --weights /" in lines[-1]


@pytest.mark.parametrize(
    ("width", "hidden"),
    [(80, ["wait"]), (60, ["step", "wait", "grad_norm"]), (160, [])],
)
def test_a_terminal_shows_the_columns_it_has_room_for(width, hidden, tmp_path, monkeypatch):
    options = {"EPOCHS": 1, "METRICS": {"f1": make_config()["METRICS"][1]}}
    text, log = shown(tmp_path, monkeypatch, is_terminal=True, width=width, **options)
    (head,) = [line for line in log.splitlines() if re.match(" epoch  .*train_loss", line)]
    assert head in without_escapes(text)
    names = "epoch step lr train_loss val_loss val_f1 seconds wait grad_norm".split()
    assert head.split() == [name for name in names if name not in hidden]
    assert len(head) <= width - 2
    (rest,) = re.findall(r"^epoch 1: (.*)", log, re.MULTILINE) if hidden else [""]
    assert re.findall(r"([a-z_]+) \S+", rest) == [
        name.replace("wait", "data_wait") for name in hidden
    ]


def test_columns_are_chosen_by_weight():
    names = ["epoch", "step", "lr", "train_loss", "lr_1", "seconds", "data_wait", "grad_norm"]
    assert choose_columns(names, 0) == ["epoch", "train_loss"]
    with_star = 6 + 12 + 2
    assert choose_columns(names, with_star + 9) == ["epoch", "train_loss", "seconds"]
    assert choose_columns(names, with_star + 10) == ["epoch", "lr", "train_loss"]
    assert choose_columns(names, 99) == [name for name in names if name != "lr_1"]


def test_the_table_at_the_end():
    result = {
        "best_metrics": {"train_loss": 0.5, "val_r2": 0.25},
        "metrics": {"train_loss": 0.125, "val_r2": -1234.5, "val_new": 1.0},
        "test_metrics": {"test_r2": 0.375},
        "best_epoch": 3,
        "epochs": 12,
        "monitor": "val_r2",
    }
    assert tabulate_result(result) == [
        "                  best        last",
        "epoch                3          12",
        "train_loss      0.5000      0.1250",
        "val_r2 *        0.2500       -1234",
        "val_new                     1.0000",
        "test_r2         0.3750",
    ]
    nothing = {"best_metrics": {}, "metrics": {}, "test_metrics": {}}
    assert tabulate_result(result | nothing) == []
    only_last = tabulate_result(result | {"best_metrics": {}, "best_epoch": None})
    assert only_last[1].split() == ["epoch", "12"] and only_last[2].split() == [
        "train_loss",
        "0.1250",
    ]


def test_frozen_parameters_are_told(tmp_path, monkeypatch):
    text, log = shown(tmp_path, monkeypatch, is_terminal=False, MODEL=Frozen, EPOCHS=1)
    assert text.splitlines()[1] == (
        "Frozen: 243 parameters, 195 of them trainable; * marks the best val_loss"
    )
    assert re.search(r"^body +48 +0 +\(N, 4, 4, 4\)$", log, re.MULTILINE)


class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.body.requires_grad_(False)


def test_the_best_epoch_has_a_star(tmp_path, monkeypatch):
    options = {"MODEL": Constant, "OPTIMIZER_CONFIG": {"lr": 0.0}}
    text, _ = shown(tmp_path, monkeypatch, is_terminal=False, **options)
    first, second = text.splitlines()[3:5]
    assert first.endswith(" *") and not second.endswith("*")  # the first of equal ones


def test_on_a_terminal_a_bar_and_the_file_without_it(tmp_path, monkeypatch):
    text, log = shown(tmp_path, monkeypatch, is_terminal=True)
    assert BAR in text and "\x1b[" in text
    assert BAR not in log and "\x1b" not in log and "\r" not in log
    plain = without_escapes(text)
    table = [line for line in log.splitlines() if re.match(r" +(epoch|\d+) ", line)]
    assert len(table) == 3 and all(line in plain for line in table)


def test_the_bar_ends_with_a_run_that_fails(tmp_path, monkeypatch):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True)
    monkeypatch.setattr("training.run.make_console", lambda: console)
    with pytest.raises(RuntimeError, match="out of luck"):
        train("pytorch", tmp_path, PROGRESS=True, CURVES=False, CALLBACKS=[Fails])
    text = out.getvalue()
    assert "error: RuntimeError: out of luck" in text and "failed after" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back


def test_columns_appear_when_validation_starts(tmp_path, monkeypatch):
    text, _ = shown(tmp_path, monkeypatch, is_terminal=False, VALIDATE_EVERY=2, EPOCHS=3)
    lines = [line.split() for line in text.splitlines()[2:8]]
    assert lines[0] == "epoch step lr train_loss seconds wait grad_norm".split()
    assert lines[2] == (
        "epoch step lr train_loss val_loss val_accuracy val_f1 seconds wait grad_norm".split()
    )
    assert (lines[1][0], lines[3][0], lines[4][0]) == ("1", "2", "3")
    text, _ = shown(tmp_path / "more", monkeypatch, False, VALIDATE_EVERY=2, EPOCHS=4)
    third = text.splitlines()[6]  # not validated: the columns stay, and are empty
    assert third.split()[0] == "3" and len(third.split()) == 7
    assert len(third) == len(text.splitlines()[4])


@pytest.fixture
def bar(tmp_path, monkeypatch):
    """A run with a bar, and the callback of the bar."""
    console = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("training.run.make_console", lambda: console)
    with Run(make_config(PROGRESS=True, CURVES=False), folders(tmp_path)) as run:
        yield run, next(own for own in run.callbacks if isinstance(own, Progress))


def test_the_bar_of_a_resumed_epoch_starts_at_its_batch(bar):
    run, progress = bar
    run.position.batch = 3
    run.begin_epoch()
    (task,) = progress.bar.tasks
    assert (task.completed, task.total, task.description) == (3, 7, "epoch 1/2")


def test_the_bar_shows_loss_and_validation(bar):
    run, progress = bar
    run.begin_epoch()
    (task,) = progress.bar.tasks
    run.position.batch = 2
    progress.on_batch_end(run, 0.25)
    assert (task.completed, task.fields["loss"]) == (2, "loss 0.25")
    assert progress.next_refresh > 0
    progress.next_refresh = math.inf
    run.position.batch = 3
    progress.on_batch_end(run, 0.125)  # too soon after the last
    assert (task.completed, task.fields["loss"]) == (2, "loss 0.25")
    progress.on_validation_start(run)
    assert (task.completed, task.fields["loss"]) == (3, "validating")


def test_numbers_of_every_size_fit_their_column(bar):
    run, progress = bar
    values = [0.5, 0.0, -1.2345e-7, -123456.5, 123.456, 1234.56, math.nan, math.inf, 3]
    metrics = {f"val_{i}": value for i, value in enumerate(values)}
    run.figures = {"seconds": 0.123, "data_wait": 0.756, "grad_norm": 12.5}
    progress.console = Console(file=io.StringIO(), width=200, force_terminal=True)
    progress.on_epoch_end(run, metrics)
    line = (run.record.log_dir / "train.log").read_text().splitlines()[-1]
    cells = "1 0 nan 0.5000 0 -1.23e-07 -1.23e+05 123.5 1235 nan inf 3 0.1 76% 12.5000".split()
    assert line.split() == cells


def test_the_line_for_predict_can_be_pasted(tmp_path, monkeypatch):
    text, _ = shown(tmp_path / "my data", monkeypatch, is_terminal=False, EPOCHS=1)
    assert re.search(r"--weights '/.*my data/.*/best.pth'$", text.splitlines()[-1])


class Stopped(Callback):
    """Is stopped after the first epoch."""

    def on_epoch_end(self, run, metrics):
        signal.raise_signal(signal.SIGTERM)


def test_a_run_that_was_stopped_shows_how_to_go_on(tmp_path):
    with pytest.raises(RunInterrupted):
        train("pytorch", tmp_path, CALLBACKS=[Stopped])
    (log,) = tmp_path.glob("logs/*/train.log")
    places = f"LOG_DIR={tmp_path}/logs WEIGHT_DIR={tmp_path}/weights DATA_DIR={tmp_path}/data"
    command = f"python train.py --resume {log.parent.name} {places}"
    assert log.read_text().splitlines()[-1] == f"  resume  {command}"


# ------------------------------------------------------------------------------------ figures


class Clock:
    """Stands for the module `time`: it moves when it is told to."""

    now = 0.0

    @classmethod
    def perf_counter(cls):
        return cls.now


class Slow(Pictures):
    """Half a second for each picture."""

    def __getitem__(self, index):
        Clock.now += 0.5
        return super().__getitem__(index)


class Work(Callback):
    """Two seconds for each step, ten for a validation; keeps the figures."""

    def on_start(self, run):
        self.heard = []
        self.before = torch.cat([p.detach().flatten() for p in run.module.parameters()])

    def on_batch_end(self, run, loss):
        Clock.now += 2
        after = torch.cat([p.detach().flatten() for p in run.module.parameters()])
        self.moved, self.before = (after - self.before).norm().item(), after.clone()

    def on_validation_start(self, run):
        Clock.now += 10

    def on_epoch_start(self, run):
        self.heard.append(run.figures)

    def on_end(self, run, result):
        self.heard.append(run.figures)


@pytest.mark.parametrize("routine", ROUTINES)
def test_the_time_of_an_epoch_and_the_share_of_waiting(routine, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "time", Clock)
    work = Work()
    train(routine, tmp_path, TRAIN_DATASET=Slow, CALLBACKS=[work], CURVES=False)
    before, *heard = work.heard
    seconds = 51 * 0.5 + 7 * 2 + 10
    assert before == {} and len(heard) == 2
    for told in heard:
        assert told["seconds"] == seconds and told["data_wait"] == 51 * 0.5 / seconds


def test_waiting_is_from_asking_to_getting(monkeypatch):
    def batches():
        for i in range(3):
            Clock.now += 1
            yield i
        Clock.now += 0.25  # until it says that there is no more

    monkeypatch.setattr(figures, "time", Clock)
    waits = Waits(batches())
    for _ in waits:
        Clock.now += 5
    assert waits.seconds == 3.25


def test_workers_are_waited_for(tmp_path):
    loader = {"batch_size": 8, "num_workers": 1}
    _, (told, *_) = None, listen(tmp_path, DATA_LOADER_CONFIG=loader)
    assert 0 < told["data_wait"] < 1 and told["seconds"] > 0


def listen(path, routine="pytorch", **changes):
    """Train, and return the figures of the epochs."""
    Kept.told = []
    train(routine, path, TRACKERS=[Kept], CURVES=False, **changes)
    return [values for _, values in Kept.told[:-1]]


@pytest.mark.parametrize("clip", [None, 0.01])
def test_the_gradient_norm_is_that_of_the_last_update_before_clipping(clip, tmp_path):
    work = Work()
    options = {"CLIP_NORM": clip, "ACCUMULATE": 2, "OPTIMIZER_CONFIG": {"lr": 0.5}}
    *_, told = listen(tmp_path, CALLBACKS=[work], **options)
    if clip is None:
        assert told["grad_norm"] == pytest.approx(work.moved / 0.5, rel=1e-4)
    else:
        assert work.moved / 0.5 == pytest.approx(0.01, rel=1e-3) and told["grad_norm"] > 0.1


@pytest.mark.parametrize("routine", ROUTINES)
def test_the_gradient_norm_is_the_same_under_every_routine(routine, tmp_path):
    options = {"CLIP_NORM": 0.5, "ACCUMULATE": 3}
    norms = [told["grad_norm"] for told in listen(tmp_path, routine, **options)]
    first = [told["grad_norm"] for told in listen(tmp_path / "raw", **options)]
    assert norms == first and len(set(norms)) == 2 and all(norm > 0 for norm in norms)


def two_groups(params, lr):
    """Return an optimizer with two learning rates."""
    return torch.optim.SGD([{"params": params[:2]}, {"params": params[2:], "lr": lr / 10}], lr=lr)


@pytest.mark.parametrize(
    "changes",
    [
        {"SCHEDULER": torch.optim.lr_scheduler.StepLR, "SCHEDULER_CONFIG": {"step_size": 1}},
        {
            "SCHEDULER": torch.optim.lr_scheduler.StepLR,
            "SCHEDULER_CONFIG": {"step_size": 7},
            "SCHEDULER_INTERVAL": "step",
        },
    ],
)
def test_the_learning_rate_of_each_group_is_that_of_the_last_update(changes, tmp_path):
    options = {"OPTIMIZER": two_groups, "OPTIMIZER_CONFIG": {"lr": 0.5}, **changes}
    told = listen(tmp_path, **options)
    assert [values["lr"] for values in told] == [0.5, 0.05]
    assert [values["lr_1"] for values in told] == pytest.approx([0.05, 0.005])


class Sparse(nn.Module):
    """A network whose gradients are sparse in part; its frozen part has none."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4, sparse=True)
        self.head = nn.Linear(4, CLASSES)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        index = x.mean((1, 2, 3)).clamp(0, 4).long()
        return self.head(self.table(index))


def test_the_norm_of_sparse_and_missing_gradients(tmp_path):
    work = Work()
    options = {"OPTIMIZER_CONFIG": {"lr": 0.5}, "MODEL": Sparse, "CALLBACKS": [work]}
    *_, told = listen(tmp_path, **options)
    assert told["grad_norm"] == pytest.approx(work.moved / 0.5, rel=1e-4) and told["grad_norm"] > 0


def test_an_epoch_without_its_last_update_has_no_norm(tmp_path):
    Kept.told = []
    config = make_config(TRACKERS=[Kept], CURVES=False)
    module = importlib.import_module("training.pytorch_training")
    module.train(None, None, config, folders(tmp_path) | {"SKIP": [1, 6]})
    (_, first), (_, second), _ = Kept.told
    assert "grad_norm" in first and "grad_norm" not in second


class StopInValidation(Callback):
    def on_validation_start(self, run):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("routine", ROUTINES)
def test_an_epoch_resumed_at_its_validation_has_its_figures(routine, tmp_path, monkeypatch):
    config = make_config(CALLBACKS=[StopInValidation], CURVES=False, EPOCHS=1, TRACKERS=[Kept])
    train_it = importlib.import_module(f"training.{routine}_training").train
    with pytest.raises(RunInterrupted) as stop:
        train_it(None, None, config, folders(tmp_path))
    Kept.told = []
    monkeypatch.setattr(signal, "raise_signal", lambda number: None)  # not again
    train_it(None, None, config, folders(tmp_path) | {"RESUME": stop.value.run})
    (step, told), _ = Kept.told
    # its last update was made before: the rest of the epoch took little
    assert step == 7 and "grad_norm" not in told
    assert 0 < told["seconds"] < 60 and 0 <= told["data_wait"] <= 1


# ------------------------------------------------------------------------------------ summary


def test_the_parts_of_the_model_stand_in_the_log(tmp_path):
    result = train("pytorch", tmp_path, EPOCHS=1, CURVES=False)
    log = Path(result["paths"]["log_dir"], "train.log").read_text()
    assert (
        "part  parameters  trainable  output\n"
        "body          48         48  (N, 4, 4, 4)\n"
        "head         195        195  (N, 3)\n"
        "Net          243        243  (N, 3)\n"
    ) in log


@pytest.mark.parametrize("routine", ROUTINES)
def test_the_summary_leaves_no_hook_and_no_trace(routine, tmp_path):
    class Check(Callback):
        hooks: list = []

        def on_batch_end(self, run, loss):
            Check.hooks += [m for m in run.module.modules() if m._forward_hooks]

    result = train(routine, tmp_path, EPOCHS=1, CURVES=False, CALLBACKS=[Check])
    log = Path(result["paths"]["log_dir"], "train.log").read_text()
    assert Check.hooks == [] and log.count("trainable  output") == 1


def test_a_compiled_model_has_no_hooks(tmp_path):
    config = make_config(COMPILE=True, CURVES=False)
    with Run(config, folders(tmp_path)) as run:
        assert not any(module._forward_hooks for module in run.module.modules())
        log = (run.record.log_dir / "train.log").read_text()
        assert re.search(r"^body +48 +48$", log, re.MULTILINE)


def test_a_routine_that_calls_the_parts_alone(tmp_path):
    with Run(make_config(CURVES=False), folders(tmp_path)) as run:
        run.module.head(run.module.body(run.train_loader.first().x))
        for _ in range(2):
            for callback in run.callbacks:
                if isinstance(callback, Summary):
                    callback.on_epoch_end(run, {})
        log = (run.record.log_dir / "train.log").read_text()
    assert log.count("(N, 4, 4, 4)") == 1 and re.search(r"^Net +243 +243$", log, re.MULTILINE)


def test_hooks_go_with_a_run_that_never_began(tmp_path):
    with Run(make_config(CURVES=False), folders(tmp_path)) as run:
        assert run.module._forward_hooks
    assert not any(module._forward_hooks for module in run.module.modules())


def test_a_model_without_parts():
    lines = summarize(nn.Linear(3, 2), {}).splitlines()
    assert [line.split() for line in lines[1:]] == [["Linear", "8", "8"]]


def test_shapes_of_any_output():
    a, b = torch.zeros(2, 3), torch.zeros(2, 4, 5)
    assert describe_shape(a) == "(N, 3)" and describe_shape(a[0, 0]) == "()"
    assert describe_shape((a, [b])) == "(N, 3), (N, 4, 5)"
    assert describe_shape({"mask": b, "none": None}) == "mask (N, 4, 5), none NoneType"


# ------------------------------------------------------------------------------------- curves


def draw_in(path, **changes):
    result = train("pytorch", path, CURVES=True, **changes)
    folder = Path(result["paths"]["log_dir"])
    return result, folder / "curves.png", (folder / "train.log").read_text()


def test_a_run_ends_with_its_curves(tmp_path):
    _, path, log = draw_in(tmp_path)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 3 * 300
    assert f"  curves  {path}\n" in log and "warning" not in log


def test_without_curves(tmp_path):
    result = train("pytorch", tmp_path, CURVES=False)
    assert not Path(result["paths"]["log_dir"], "curves.png").exists()


def fail_to_draw(*_):
    raise ImportError("no matplotlib")


def test_curves_that_fail_leave_the_result_as_it_is(tmp_path, monkeypatch):
    whole, _, _ = draw_in(tmp_path / "a")
    monkeypatch.setattr("training.callbacks.curves.draw_curves", fail_to_draw)
    monkeypatch.setattr("training.callbacks.curves._PAUSE", 0)
    result, path, log = draw_in(tmp_path / "b")
    assert bits(result) == bits(whole) and result["status"] == "done"
    assert not path.exists() and log.count("warning: curves.png left out") == 1
    assert "ImportError: no matplotlib (CURVES=False draws none)" in log


def test_a_failed_run_has_its_curves_too(tmp_path):
    with pytest.raises(RuntimeError, match="out of luck"):
        train("pytorch", tmp_path, CURVES=True, CALLBACKS=[Fails])
    (path,) = tmp_path.glob("logs/*/curves.png")
    assert path.stat().st_size > 1000


def test_a_run_that_fails_at_once_has_none(tmp_path):
    with pytest.raises(ZeroDivisionError), Run(make_config(CURVES=True), folders(tmp_path)):
        raise ZeroDivisionError
    assert not list(tmp_path.glob("logs/*/curves.png"))


def test_a_long_run_is_drawn_now_and_then(tmp_path, monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("training.callbacks.curves.time", clock)
    drawn = []

    def draw(rows, best_epoch, title):
        drawn.append((clock.now, best_epoch, title))
        clock.now += took
        return b"picture"

    monkeypatch.setattr("training.callbacks.curves.draw_curves", draw)
    history = types.SimpleNamespace(rows=[{"epoch": 1}], best_epoch=0)
    record = types.SimpleNamespace(name="a run", log_dir=tmp_path)
    run, curves, took = types.SimpleNamespace(history=history, record=record), Curves(), 0.25
    curves.on_start(run)
    for seconds in (59, 61, 100, 122, 123):
        clock.now = seconds
        curves.on_epoch_end(run, {})
    assert drawn == [(61, 1, "a run"), (122, 1, "a run")]
    took, clock.now = 3, 200  # a slow one: the next after 100 times as long
    curves.on_epoch_end(run, {})
    clock.now = 500
    curves.on_epoch_end(run, {})
    history.best_epoch = None
    curves.on_end(run, {})
    assert [(now, best) for now, best, _ in drawn[2:]] == [(200, 1), (500, None)]
    assert (tmp_path / "curves.png").read_bytes() == b"picture"
