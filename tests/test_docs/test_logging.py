"""The page "What a run shows and logs": its code runs, and it names what there is."""

import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from config.config import ROOT_PATH
from config.keys import KEYS
from tests.test_docs.blocks import read_blocks
from tests.test_training.common import train
from training.callbacks import Trackers

PAGE = (ROOT_PATH / "docs" / "logging.rst").read_text(encoding="utf-8")
CURVES, TENSORBOARD, OWN = read_blocks("logging.rst", "python")
(SHOWN,) = read_blocks("logging.rst", "text")


@pytest.fixture
def train_mine(tmp_path, monkeypatch):
    """Write a block as experiments/mine.py and train it for two epochs; return the log folder."""
    import experiments

    path = tmp_path / "experiments" / "mine.py"
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(path.parent)])

    def train_it(block):
        import train

        block.write(path)
        out = [f"LOG_DIR={tmp_path / 'logs'}", f"WEIGHT_DIR={tmp_path / 'weights'}"]
        small = ["EPOCHS=2", "MODEL_CONFIG.bulk_ch=2", "PROGRESS=False", "DEVICE=cpu"]
        assert train.main(["experiments.mine", *small, "CURVES=False", *out]) == 0
        return tmp_path / "logs"

    yield train_it
    sys.modules.pop("experiments.mine", None)
    vars(experiments).pop("mine", None)


def test_curves_of_another_run(tmp_path, monkeypatch):
    result = train("pytorch", tmp_path, CURVES=False)
    monkeypatch.chdir(tmp_path)
    CURVES.replace("<run>", result["run"]).replace("best_epoch=8", "best_epoch=2").run()
    with Image.open("curves.png") as picture:
        assert picture.format == "PNG"


def test_tensorboard(train_mine):
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (train_mine(TENSORBOARD) / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("val_accuracy")] == [45, 90]
    (picture,) = events.Images("samples")  # after the first epoch, then every other one
    assert picture.width == 8 * 160 + 7 * 4


def test_the_tracker_of_ones_own(train_mine):
    (path,) = train_mine(OWN).glob("*/epochs.jsonl")
    first, second, end = map(json.loads, path.read_text().splitlines())
    assert (first["step"], second["step"], end) == (45, 90, {"status": "done"})
    named = {"lr", "seconds", "data_wait", "grad_norm", "train_loss", "val_accuracy"}
    assert named <= first.keys()
    assert "left out" not in (path.parent / "train.log").read_text()


def test_the_terminal_shows_what_the_page_shows(tmp_path, monkeypatch, capsys):
    import train

    monkeypatch.setenv("COLUMNS", "100")
    out = [f"LOG_DIR={tmp_path / 'logs'}", f"WEIGHT_DIR={tmp_path / 'weights'}"]
    small = ["EPOCHS=2", "DATE=20260101-120000", "CURVES=False", "DEVICE=cpu"]
    assert train.main(["experiments/digits.py", *small, *out]) == 0
    said, shown = form(capsys.readouterr().out), form(SHOWN.use().replace("\n    ...\n", "\n"))
    assert [line for line in shown if line not in said] == []


def form(text):
    """Return the lines of a text without its numbers and columns' widths."""
    lines = re.sub(r"[-+.,:\d]*\d[-+.,e\d]*", "0", text).splitlines()
    return [" ".join(line.removesuffix("*").split()) for line in lines]


def test_what_the_page_names_is_there(tmp_path):
    train("pytorch", tmp_path, EPOCHS=1, CURVES=True)
    for name in re.findall(r"``logs/<run>/([a-z.]+)``", PAGE):
        assert list(Path(tmp_path, "logs").glob(f"*/{name}")), name
    keys = set(re.findall(r"``([A-Z_]+)[=.`]", PAGE))
    assert len(keys) > 5 and keys <= KEYS.keys()
    for name in re.findall(r"``(on_\w+)\(", PAGE):
        assert hasattr(Trackers, name)
    assert (ROOT_PATH / "docs/pictures/curves.png").stat().st_size < 60_000
