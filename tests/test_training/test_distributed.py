"""One run in two processes: equal under every routine, exact metrics, exact resume."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.test_training import test_metric_learning
from tests.test_training.common import CLASSES, ROUTINES, Net, Pictures, rows
from tests.test_training.distributed import CONFIGS, METRICS, STOPS
from utils.data.loading import make_loader
from utils.metrics import Metrics
from utils.torchutils import load_weights

ROOT = Path(__file__).parents[2]


def torchrun(*arguments, cwd=ROOT, expect=0):
    """Start two processes and return what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    torchrun("-m", "tests.test_training.distributed", folder)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """What process 0 has found."""
    return json.loads((folder / "found.json").read_text())[0]


def test_both_processes_return_the_same(folder):
    first, second = json.loads((folder / "found.json").read_text())
    del first["test"]["seconds"], second["test"]["seconds"]
    assert first == second


@pytest.mark.parametrize("config", [*CONFIGS, "dicts"])
def test_the_routines_are_equal(config, found):
    expected = found[f"{config}, pytorch"] | {"run": None}
    for routine in ROUTINES:
        assert found[f"{config}, {routine}"] | {"run": None} == expected, routine


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("routine", ROUTINES)
@pytest.mark.parametrize("config", CONFIGS)
def test_a_stopped_run_goes_on_to_the_same_bits(config, routine, stop, found):
    assert found[f"{config}, {routine}, {stop}, exit"] == 143
    expected = found[f"{config}, pytorch"] | {"run": None}
    assert found[f"{config}, {routine}, {stop}"] | {"run": None} == expected


def test_staged_unfreezing_is_equal_everywhere_and_resumes(found):
    expected = found["staged, pytorch"] | {"run": None}
    assert len(csv_of(expected)) == 3
    for name in [*ROUTINES, "resumed"]:
        assert found[f"staged, {name}"] | {"run": None} == expected, name


CONFIG = """
from functools import partial
from tests.test_training.common import make_config
from tests.test_training.distributed import FailIn

train_config = make_config({})
"""


def write_config(folder, changes=""):
    path = folder / "mine.py"
    path.write_text(CONFIG.format(changes))
    return path, f"LOG_DIR={folder / 'logs'}", f"WEIGHT_DIR={folder / 'weights'}"


def test_the_command_line_says_each_thing_once(tmp_path):
    config = write_config(tmp_path)
    said = torchrun("train.py", *config, "--routine", "ignite", "-w", "PROGRESS=True")
    assert said.count("done after") == 1 and "ignite on 2 processes, cpu" in said
    assert "Warning" not in said
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "done"
    said = torchrun("train.py", *config, "MODLE=1", expect=1)
    assert said.count('got "MODLE"') == 1


@pytest.mark.parametrize("process", [0, 1])
def test_a_fault_of_one_process_ends_both(process, tmp_path):
    config = write_config(tmp_path, f"CALLBACKS=[partial(FailIn, {process})]")
    said = torchrun("train.py", *config, expect=1)
    assert "a fault of one process" in said
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "failed"


def test_the_processes_learn_from_different_samples(found, tmp_path):
    """Two processes with half the batch see the samples of one update in one process."""
    assert [row["step"] for row in csv_of(found["sgd, pytorch"])] == ["4", "8"]  # of 51 / 2 / 8


def csv_of(found):
    import csv

    return list(csv.DictReader(found["metrics"].splitlines()))


@pytest.mark.parametrize("part", ["val", "test"])
def test_metrics_are_those_of_one_process(part, found):
    """19 pictures in batches of 8: one process has two batches, the other one has one."""
    result = found["test"]
    model = Net().eval()
    weights = result["paths"]["best" if part == "test" else "last"]
    model.load_state_dict(load_weights(weights)["model"])
    pictures = Pictures(n=19, seed=1 if part == "val" else 2, augment=False)
    loader = make_loader(pictures, {"batch_size": 8}, 0, torch.device("cpu"), train=False)
    bag, losses = Metrics(METRICS), []
    with torch.no_grad():
        for x, y in loader:
            pred = model(x)
            bag.update(pred, y)
            losses.append((torch.nn.functional.cross_entropy(pred, y).item(), len(y)))
    total = 0.0
    for loss, n in losses:
        total += loss * n
    expected = {"loss": total / 19, **bag.compute()}
    values = result["metrics"] if part == "val" else result["test_metrics"]
    got = {name.removeprefix(f"{part}_"): v for name, v in values.items() if name != "train_loss"}
    assert got == expected


@pytest.mark.parametrize("name", ["arcface", "triplet"])
def test_embeddings_of_all_processes_are_searched(name, found):
    """24 pictures in batches of 8: one process has two batches, the other one has one."""
    result, config = found[name], test_metric_learning.CONFIGS[name]
    model = Net().eval()
    model.load_state_dict(load_weights(result["paths"]["last"])["model"])
    pictures = test_metric_learning.Searched()
    loader = make_loader(pictures, {"batch_size": 8}, 0, torch.device("cpu"), train=False)
    bag = Metrics(config["METRICS"])
    with torch.no_grad(), torch.autocast("cpu", enabled=config.get("MIXED_PRECISION", False)):
        for x, y in loader:
            bag.update(model(x), y)
    expected = {f"val_{key}": value for key, value in bag.compute().items()}
    assert {key: result["metrics"][key] for key in expected} == expected


def test_one_run_folder_and_one_row(folder):
    logs = folder / "sgd" / "pytorch" / "logs"
    assert len(list(logs.glob("*_test"))) == 1
    (row,) = rows(logs / "experiments.csv")
    assert row["STATUS"] == "done"
    environment = json.loads((logs / row["RUN"] / "environment.json").read_text())
    assert environment["processes"] == 2
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("routine", ROUTINES)
def test_what_each_process_has_left_out_is_written_down(routine, folder):
    (path,) = folder.glob(f"batches/{routine}/logs/*/bad_samples.csv")
    found = [(row["part"], row["index"]) for row in rows(path)]
    assert found == [("train", "3"), ("train", "12"), ("val", "3"), ("val", "12")]
    log = path.with_name("train.log").read_text()
    assert log.count("left out sample 12: OSError: 12.png") == 2  # training and validation


def test_a_loss_with_weights_is_averaged_too(found):
    assert CLASSES == 3 and "nan" not in found["loss"]["metrics"]
