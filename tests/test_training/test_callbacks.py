import functools
import io
import math
import re
from pathlib import Path

import pytest
from rich.console import Console
from torch import nn

from tests.test_training.common import CLASSES, folders, make_config, train
from training.callbacks import Callback, EarlyStopping, Trackers
from training.run import Run

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

    def __init__(self, run, where="__init__"):
        self.where = where
        self._may_fail("__init__")

    def log(self, values, step):
        values.clear()  # no other tracker must see it
        self._may_fail("log")

    def close(self):
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
    result = train("pytorch", path, TRACKERS=trackers, **changes)
    log = Path(result["paths"]["log_dir"], "train.log").read_text()
    return result, [line for line in log.splitlines() if line.startswith("warning: ")]


def test_trackers_hear_every_epoch_and_the_end(tmp_path):
    result, warnings = train_with(tmp_path, Kept)
    (step, values), (last_step, last_values), end = Kept.told
    assert (step, last_step, end) == (7, 14, "closed")
    assert last_values == {"lr": 0.05, **result["metrics"]} and values.keys() == last_values.keys()
    assert not warnings


@pytest.mark.parametrize(
    ("tracker", "warning"),
    [
        (Breaks, "tracker Breaks left out: OSError: no server"),
        (functools.partial(Breaks, where="log"), "tracker Breaks left out: OSError: no server"),
        (functools.partial(Breaks, where="close"), "tracker Breaks left out: OSError: no server"),
        (functools.partial(Breaks, wrong=1), "tracker Breaks left out: TypeError: .*'wrong'"),
        (Incomplete, "tracker Incomplete left out: AttributeError: .*'log'"),
    ],
)
def test_a_tracker_that_fails_is_left_out_with_one_warning(tracker, warning, tmp_path):
    result, warnings = train_with(tmp_path, tracker, Kept)
    assert result["status"] == "done" and result["epochs"] == 2
    assert len(warnings) == 1 and re.match(f"warning: {warning}", warnings[0])
    assert Kept.told[1] == (14, {"lr": 0.05, **result["metrics"]}) and Kept.told[2] == "closed"


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


def shown(path, monkeypatch, is_terminal, **changes):
    """Train, and return what the terminal and train.log got."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=120)
    monkeypatch.setattr("training.run.make_console", lambda: console)
    try:
        train("pytorch", path, PROGRESS=True, **changes)
    finally:
        (log,) = (path / "logs").glob("*/train.log")
    return out.getvalue(), log.read_text()


def test_without_a_terminal_plain_lines(tmp_path, monkeypatch):
    text, log = shown(tmp_path, monkeypatch, is_terminal=False)
    assert text == log  # the same lines, no bar
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2500-\u25ff]", text)
    lines = text.splitlines()
    assert re.match(r"\S+_test: pytorch on cpu, 243 parameters, 7 batches per epoch; ", lines[0])
    names = "epoch step lr train_loss val_loss val_accuracy val_f1 seconds"
    assert lines[1].split() == names.split()
    assert [line.split()[:3] for line in lines[2:4]] == [
        ["1", "7", "5.00e-02"],
        ["2", "14", "5.00e-02"],
    ]
    ends = [cell.end() for cell in re.finditer(r"\S+", lines[1])]
    assert [cell.end() for cell in re.finditer(r"[\d.e-]+", lines[2])] == ends  # aligned
    assert re.match(r"done after \d+ seconds$", lines[4])
    assert re.match(r"best val_loss \d\.\d+ in epoch [12]$", lines[5])
    assert re.match(r" +best  /.*/best.pth$", lines[6])
    assert lines[-1].endswith("best.pth") and "predict.py -i FILES -o DIR --weights /" in lines[-1]


def test_the_best_epoch_has_a_star(tmp_path, monkeypatch):
    options = {"MODEL": Constant, "OPTIMIZER_CONFIG": {"lr": 0.0}}
    text, _ = shown(tmp_path, monkeypatch, is_terminal=False, **options)
    first, second = text.splitlines()[2:4]
    assert first.endswith(" *") and not second.endswith("*")  # the first of equal ones


def test_on_a_terminal_a_bar_and_the_file_without_it(tmp_path, monkeypatch):
    text, log = shown(tmp_path, monkeypatch, is_terminal=True)
    assert BAR in text and "\x1b[" in text
    assert BAR not in log and "\x1b" not in log and "\r" not in log
    assert all(line in text for line in log.splitlines())


def test_the_bar_ends_with_a_run_that_fails(tmp_path, monkeypatch):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True)
    monkeypatch.setattr("training.run.make_console", lambda: console)
    with pytest.raises(RuntimeError, match="out of luck"):
        train("pytorch", tmp_path, PROGRESS=True, CALLBACKS=[Fails])
    text = out.getvalue()
    assert "error: RuntimeError: out of luck" in text and "failed after" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back


def test_columns_appear_when_validation_starts(tmp_path, monkeypatch):
    text, _ = shown(tmp_path, monkeypatch, is_terminal=False, VALIDATE_EVERY=2, EPOCHS=3)
    lines = [line.split() for line in text.splitlines()[1:7]]
    assert lines[0] == "epoch step lr train_loss seconds".split()
    assert lines[2] == "epoch step lr train_loss val_loss val_accuracy val_f1 seconds".split()
    assert (lines[1][0], lines[3][0], lines[4][0]) == ("1", "2", "3")
    text, _ = shown(tmp_path / "more", monkeypatch, False, VALIDATE_EVERY=2, EPOCHS=4)
    third = text.splitlines()[5]  # not validated: the columns stay, and are empty
    assert third.split()[0] == "3" and len(third.split()) == 5
    assert len(third) == len(text.splitlines()[3])


@pytest.fixture
def bar(tmp_path, monkeypatch):
    """A run with a bar, and the callback of the bar."""
    console = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("training.run.make_console", lambda: console)
    with Run(make_config(PROGRESS=True), folders(tmp_path)) as run:
        yield run, run.callbacks[-1]


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
    values = [0.5, 0.0, 1e-7, -123456.5, math.nan, math.inf, 3]
    metrics = {f"val_{i}": value for i, value in enumerate(values)}
    progress.on_epoch_end(run, metrics)
    line = (run.record.log_dir / "train.log").read_text().splitlines()[-1]
    cells = "1 0 nan 0.5000 0 1e-07 -1.235e+05 nan inf 3".split()
    assert line.split()[:10] == cells


def test_the_line_for_predict_can_be_pasted(tmp_path, monkeypatch):
    text, _ = shown(tmp_path / "my data", monkeypatch, is_terminal=False, EPOCHS=1)
    assert re.search(r"--weights '/.*my data/.*/best.pth'$", text.splitlines()[-1])
