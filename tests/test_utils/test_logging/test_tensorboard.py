import functools
import importlib
import io
import signal
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from tests.test_training.common import ROUTINES, Net, Pictures, bits, folders, make_config
from training.callbacks import Callback
from training.run import Run
from training.state import RunInterrupted
from utils.logging.tensorboard import TensorBoard

pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")

EVERY = functools.partial(TensorBoard, pictures_every=1, n_pictures=2)
METRICS = ["train_loss", "val_loss", "val_accuracy", "val_f1"]


def train(routine, path, resume=None, **changes):
    """Train the tiny task with TensorBoard, and return the result."""
    place = folders(path) | ({"RESUME": resume} if resume else {})
    config = make_config(**{"TRACKERS": [TensorBoard], "CURVES": False} | changes)
    module = importlib.import_module(f"training.{routine}_training")
    with pytest.MonkeyPatch.context() as patch:
        if resume:  # files of one process are read in the order of the second in their names
            later = types.SimpleNamespace(**vars(time) | {"time": lambda: time.time() + 1})
            patch.setattr("tensorboard.summary.writer.event_file_writer.time", later)
        return module.train(None, None, config, place)


def read(path):
    """Return what TensorBoard reads of the one run in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = Path(path, "logs", "tensorboard").iterdir()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    return events.Reload()


def scalars(events):
    """Return the steps and the values of each name."""
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def writer_threads():
    return [thread for thread in threading.enumerate() if "Writer" in type(thread).__name__]


def steps_of_pictures(events):
    return [event.step for event in events.Images("samples")]


@pytest.mark.parametrize("routine", ROUTINES)
def test_the_values_of_every_epoch(routine, tmp_path):
    result = train(routine, tmp_path)
    values = scalars(read(tmp_path))
    assert values.keys() == {
        *METRICS, "lr", "seconds", "data_wait", "grad_norm", *(f"best_{name}" for name in METRICS)
    }  # fmt: skip
    for name, series in values.items():
        assert [step for step, _ in series] == ([14] if name.startswith("best_") else [7, 14])
    for name in METRICS:
        assert values[name][-1][1] == pytest.approx(result["metrics"][name])
        assert values[f"best_{name}"][0][1] == pytest.approx(result["best_metrics"][name])
    assert not writer_threads()


def hparams(events, name):
    """Return the hparams plugin's data of a kind."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = events.PluginTagToContent("hparams")[f"_hparams_/{name}"]
    return HParamsPluginData.FromString(content)


def test_the_config_and_the_final_values_at_the_end(tmp_path):
    test_set = functools.partial(Pictures, n=19, seed=1, augment=False)
    result = train("pytorch", tmp_path, TEST_DATASET=test_set)
    events = read(tmp_path)
    config = hparams(events, "session_start_info").session_start_info.hparams
    assert config["OPTIMIZER"].string_value == "torch.optim.SGD"
    assert config["OPTIMIZER_CONFIG.lr"].number_value == 0.05
    named = {info.name.tag for info in hparams(events, "experiment").experiment.metric_infos}
    assert {"val_loss", "best_val_loss", "test_loss"} <= named <= set(scalars(events))
    assert scalars(events)["test_loss"] == [
        (14, pytest.approx(result["test_metrics"]["test_loss"]))
    ]


class Stop(Callback):
    """Raises a signal after a batch of the second epoch, or as its validation starts."""

    def __init__(self, batch):
        self.batch = batch

    def on_batch_end(self, run, loss):
        if run.position.epoch == 1 and run.position.batch == self.batch:
            signal.raise_signal(signal.SIGTERM)

    def on_validation_start(self, run):
        if run.position.epoch == 1 and self.batch is None:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("batch", [3, 7, None], ids=["in an epoch", "its end", "its validation"])
@pytest.mark.parametrize(("first", "second"), [("pytorch", "ignite"), ("fastai", "lightning")])
def test_a_resumed_run_goes_on_without_a_step_twice(first, second, batch, tmp_path, monkeypatch):
    options = {"TRACKERS": [EVERY], "EPOCHS": 3, "CALLBACKS": [functools.partial(Stop, batch)]}
    with pytest.raises(RunInterrupted) as stop:
        train(first, tmp_path, **options)
    assert not any(name.startswith("best_") for name in scalars(read(tmp_path)))
    monkeypatch.setattr(signal, "raise_signal", lambda number: None)  # not again
    train(second, tmp_path, resume=stop.value.run, **options)
    events = read(tmp_path)
    values = scalars(events)
    for name in (*METRICS, "lr", "seconds", "data_wait"):
        assert [step for step, _ in values[name]] == [7, 14, 21]
    assert steps_of_pictures(events) == [7, 14, 21]
    assert [step for step, _ in values["best_val_loss"]] == [21]


class Fail(Callback):
    """Ends the run as its last epoch begins, once."""

    is_on = True

    def on_epoch_start(self, run):
        if Fail.is_on and run.position.epoch == 3:
            raise RuntimeError("out of luck")


def test_what_was_written_beyond_the_checkpoint_is_hidden(tmp_path, monkeypatch):
    options = {"EPOCHS": 4, "CHECKPOINT": {"every_epochs": 2}, "CALLBACKS": [Fail]}
    options |= {"TRACKERS": [EVERY]}
    with pytest.raises(RuntimeError, match="out of luck") as failure:
        train("pytorch", tmp_path, **options)
    assert [step for step, _ in scalars(read(tmp_path))["val_loss"]] == [7, 14, 21]
    monkeypatch.setattr(Fail, "is_on", False)
    result = train("pytorch", tmp_path, resume=failure.value.run, **options)
    events = read(tmp_path)
    series = scalars(events)["val_loss"]
    assert [step for step, _ in series] == [7, 14, 21, 28] == steps_of_pictures(events)
    assert series[-1][1] == pytest.approx(result["metrics"]["val_loss"])


def test_a_done_run_that_is_resumed_in_vain_adds_nothing(tmp_path):
    run = train("pytorch", tmp_path)["run"]
    before = scalars(read(tmp_path))
    train("pytorch", tmp_path, resume=run)
    assert scalars(read(tmp_path)) == before


class Draws(Net):
    """A network that draws also in eval mode, in torch, and whose validation tells."""

    def forward(self, x):
        return super().forward(x) + torch.rand(1)


class DrawsMore(Pictures):
    """Validation pictures that draw from python and numpy as well."""

    def __init__(self):
        super().__init__(19, 1)


def test_pictures_change_no_bit(tmp_path):
    options = {"MODEL": Draws, "VAL_DATASET": DrawsMore, "EMA": 0.9, "EPOCHS": 3}
    plain = train("pytorch", tmp_path / "a", TRACKERS=[], **options)
    drawn = train("pytorch", tmp_path / "b", TRACKERS=[EVERY], **options)
    assert steps_of_pictures(read(tmp_path / "b")) == [7, 14, 21]
    assert bits(drawn) == bits(plain)


def test_pictures_are_of_the_first_samples_every_few_epochs(tmp_path):
    tracker = functools.partial(TensorBoard, pictures_every=2, n_pictures=3)
    train("pytorch", tmp_path, TRACKERS=[tracker], EPOCHS=4)
    events = read(tmp_path)
    assert steps_of_pictures(events) == [7, 21]
    picture = Image.open(io.BytesIO(events.Images("samples")[0].encoded_image_string))
    assert picture.width == 3 * 160 + 2 * 4


@pytest.mark.parametrize(
    "changes", [{"TASK": None}, {"TRACKERS": [functools.partial(EVERY, pictures_every=0)]}]
)
def test_without_pictures(changes, tmp_path):
    result = train("pytorch", tmp_path, EPOCHS=1, **changes)
    events = read(tmp_path)
    assert events.Tags()["images"] == [] and "val_loss" in scalars(events)
    assert "warning" not in Path(result["paths"]["log_dir"], "train.log").read_text()


def test_pictures_that_fail_leave_the_values(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("no colour")

    monkeypatch.setattr("utils.logging.tensorboard.draw_samples", fail)
    result = train("pytorch", tmp_path, TRACKERS=[EVERY])
    log = Path(result["paths"]["log_dir"], "train.log").read_text()
    assert log.count("warning: TensorBoard: no pictures: ValueError: no colour") == 1
    assert len(scalars(read(tmp_path))["val_loss"]) == 2


@pytest.mark.parametrize("arguments", [{"pictures_every": -1}, {"n_pictures": -2}])
def test_numbers_below_zero(arguments, tmp_path):
    with Run(make_config(CURVES=False), folders(tmp_path)) as run:
        with pytest.raises(ValueError, match="expected pictures_every and n_pictures of at least"):
            TensorBoard(run, **arguments)


def test_without_the_package_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = train("pytorch", tmp_path, EPOCHS=1)
    log = Path(result["paths"]["log_dir"], "train.log").read_text()
    assert result["status"] == "done"
    assert "tracker TensorBoard left out: ImportError: TensorBoard: expected the package" in log
    assert "Install the extra `tensorboard`" in log


def test_a_full_disk_leaves_the_result(tmp_path, monkeypatch):
    plain = train("pytorch", tmp_path / "a", TRACKERS=[])

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", fail)
    result = train("pytorch", tmp_path / "b")
    log = Path(result["paths"]["log_dir"], "train.log").read_text()
    assert log.count("tracker TensorBoard left out: OSError") == 1
    assert bits(result) == bits(plain)
    assert not writer_threads()


def test_a_run_names_it_in_its_config(tmp_path):
    result = train("pytorch", tmp_path, TRACKERS=[EVERY], EPOCHS=1)
    text = Path(result["paths"]["log_dir"], "config.yaml").read_text()
    assert "{_target_: utils.logging.tensorboard.TensorBoard, pictures_every: 1" in text


class Segmentation(Pictures):
    """A mask for each picture: its bright pixels."""

    def __getitem__(self, index):
        return self.x[index], (self.x[index] > 0).float()


def test_pictures_of_a_segmentation_on_averaged_weights(tmp_path):
    options = {"TASK": "binary_segmentation", "METRICS": [], "LOSS": nn.BCEWithLogitsLoss}
    options |= {"MODEL": nn.Conv2d, "EMA": 0.9, "VALIDATE_EVERY": 2, "EPOCHS": 3}
    options["MODEL_CONFIG"] = {"in_channels": 1, "out_channels": 1, "kernel_size": 3, "padding": 1}
    data = {"TRAIN_DATASET": Segmentation, "VAL_DATASET": Segmentation}
    train("pytorch", tmp_path, TRACKERS=[EVERY], **options, **data)
    events = read(tmp_path)
    assert steps_of_pictures(events) == [14, 21]
    picture = Image.open(io.BytesIO(events.Images("samples")[0].encoded_image_string))
    assert picture.size == (60 + 2 * 160 + 4, 3 * 160 + 2 * 4)
