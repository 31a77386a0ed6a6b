"""The routine in the page "Write your own routine": it trains, resumes and keeps its promises."""

import functools
import multiprocessing
import re
import signal
from pathlib import Path

import pytest

import train
from config.config import ROOT_PATH
from config.load import load_routine
from experiments.scenes import train_config
from tests.test_docs.blocks import read_blocks
from tests.test_training.common import bits, folders
from training import pytorch_training, verify
from training.callbacks import Callback
from training.run import Run
from training.state import RunInterrupted
from training.verify import leaves
from utils.torchutils import load_file

PAGE = (ROOT_PATH / "docs" / "own_routine.rst").read_text(encoding="utf-8")


class Stop(Callback):
    """Raises a signal after a batch of the second epoch, or at the start of its validation."""

    def __init__(self, batch: int | None) -> None:
        self.batch = batch

    def on_batch_end(self, run, loss):
        if run.position.epoch == 1 and run.position.batch == self.batch:
            signal.raise_signal(signal.SIGTERM)

    def on_validation_start(self, run):
        if run.position.epoch == 1 and self.batch == 99:
            signal.raise_signal(signal.SIGTERM)


def make_config(batch=None, **changes):
    """Return a config of 4 training batches, stopped after one of them."""
    data = {f"{part}_DATASET_CONFIG": {"n_scenes": 8, "size_px": 16} for part in ("TRAIN", "VAL")}
    config = {
        **train_config,
        **data,
        "TEST_DATASET": None,
        "TEST_DATASET_CONFIG": {},
        "MODEL_CONFIG": {"ch_in": 12, "ch_out": 2, "bulk_ch": 2, "n_recursions": 1, "dropout": 0.2},
        "DATA_LOADER_CONFIG": {"batch_size": 2},
        "ACCUMULATE": 2,
        "EPOCHS": 3,
        "CALLBACKS": [functools.partial(Stop, batch)],
        "DEVICE": "cpu",
        "NUM_THREADS": 1,
        "PROGRESS": False,
    }
    return config | changes


@pytest.fixture
def write_routine(tmp_path):
    """Write the page's file with a change, and return its path."""

    def write(old="", new=""):
        (block,) = read_blocks("own_routine.rst", "python")
        return str(block.replace(old, new).write(tmp_path / "adversarial.py"))

    return write


def state(result):
    """Return every value of a run's last checkpoint by name."""
    return dict(leaves(load_file(result["paths"]["checkpoint"])["state"]))


def test_the_critic_takes_part(write_routine, tmp_path):
    routine = load_routine(write_routine())
    result = routine.train(None, None, make_config(), folders(tmp_path / "own"))
    assert result["status"] == "done" and result["routine"] == str(tmp_path / "adversarial.py")
    assert {"critic 0.weight", "critic_optimizer state 0 exp_avg"} <= set(state(result))
    plain = pytorch_training.train(None, None, make_config(), folders(tmp_path / "plain"))
    assert bits(result) != bits(plain)


def test_without_the_critic_it_is_the_routine_pytorch(write_routine, tmp_path):
    routine = load_routine(write_routine("WEIGHT = 0.1", "WEIGHT = 0"))
    result = routine.train(None, None, make_config(), folders(tmp_path / "own"))
    plain = pytorch_training.train(None, None, make_config(), folders(tmp_path / "plain"))
    assert bits(result) == bits(plain)


@pytest.mark.parametrize("batch", [1, 4, 99])
def test_it_goes_on_with_equal_bits(batch, write_routine, tmp_path, monkeypatch):
    routine = load_routine(write_routine())
    whole = routine.train(None, None, make_config(), folders(tmp_path / "whole"))
    place = folders(tmp_path / "part")
    with pytest.raises(RunInterrupted):
        routine.train(None, None, make_config(batch), place)
    (name,) = (path.name for path in place["WEIGHT_DIR"].iterdir())
    monkeypatch.setattr(signal, "raise_signal", lambda number: None)  # not again
    rest = routine.train(None, None, make_config(batch), place | {"RESUME": name})
    assert bits(rest) == bits(whole) and state(rest) == state(whole)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "This config resumes to the bit"),
        ('        run.track("critic", critic)\n', "does not resume to the bit: loss differs"),
        (
            '        run.track("critic_optimizer", critic_optimizer)\n',
            "critic: 0.weight differs first, after batch 2 of epoch 2.",  # as the page says
        ),
    ],
)
def test_verify_resume_finds_what_is_not_tracked(line, said, write_routine, monkeypatch, capfd):
    multiprocessing.set_forkserver_preload(["torch._dynamo", "training.run"])
    monkeypatch.setattr(verify, "_START", "forkserver")  # quick
    overrides = ["MODEL_CONFIG.bulk_ch=2", "TRAIN_DATASET_CONFIG.size_px=16", "TEST_DATASET=None"]
    overrides += ["~TEST_DATASET_CONFIG", "DEVICE=cpu", "NUM_THREADS=1"]
    overrides += ["VAL_DATASET_CONFIG.size_px=16", "MODEL_CONFIG.n_recursions=1"]
    code = train.main(["--verify-resume", "--routine", write_routine(line), *overrides])
    out = capfd.readouterr().out
    assert said in out and code == int(bool(line))


def test_what_the_page_names_is_there(tmp_path):
    run = Run(make_config(), folders(tmp_path))
    names = set(re.findall(r"``run\.(\w+)", PAGE))
    assert len(names) > 15
    assert [name for name in names if not hasattr(run, name)] == []
    files = set(re.findall(r"``((?:training|tests)/\w[\w/]*\.py)``", PAGE)) - {
        "training/mine_training.py"
    }
    assert len(files) > 3
    assert [name for name in files if not Path(ROOT_PATH, name).is_file()] == []
