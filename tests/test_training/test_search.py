"""The search, with real processes: a stand-in for train.py, and at last train.py itself."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import hyperparameter
from config.config import ROOT_PATH
from config.errors import ConfigError
from config.search import choice, interval
from tests.test_training.common import folders, hash_weights, make_config
from training import search as module
from training.search import Search
from utils.logging.csv import read_tracker

pytest.importorskip("optuna")

# writes what train.py writes of a run, in 0.05 s; __COMMENT says what happens to it
STAND_IN = """
import json, pathlib, sys, time, yaml
words = dict(word.split("=", 1) for word in sys.argv if "=" in word)
config = yaml.safe_load(open(sys.argv[1]))
run = pathlib.Path(words["LOG_DIR"], words["DATE"] + "_" + config["SESSION_NAME"])
run.mkdir(parents=True)
lr = config["OPTIMIZER_CONFIG"]["lr"]
if config.get("__COMMENT") == "fails":
    sys.exit("out of luck")
value = (lr - 0.03) ** 2
rows = ["epoch,val_loss", *(f"{epoch},{value}" for epoch in range(1, 4))]
(run / "metrics.csv").write_text("\\n".join(rows) + "\\n")
if config.get("__COMMENT") == "hangs when bad" and value > 0.5:
    time.sleep(600)  # until it is stopped
(run / "result.json").write_text(json.dumps({"status": "done", "best_value": value}))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(STAND_IN)
    monkeypatch.setattr(module, "ROOT_PATH", tmp_path)


def make_search(path, space=None, n_trials=6, **changes):
    said = []
    space = space or {"OPTIMIZER_CONFIG.lr": interval(1e-3, 1.0, log=True)}
    search = Search(make_config(**changes), space, folders(path), n_trials, said.append)
    return search, said


def read_trials(search):
    with open(search.folder / "trials.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("stand_in")
def test_the_best_trial_is_named_and_kept_as_a_config(tmp_path):
    search, said = make_search(tmp_path)
    search.start()
    result = search.run(n_jobs=2)
    trials = read_trials(search)
    assert [row["state"] for row in trials] == ["complete"] * 6 and len(said) == 6
    assert result["value"] == min(float(row["value"]) for row in trials)
    assert result["run"] in [row["run"] for row in trials]
    best = Path(result["config"]).read_text()
    assert f"lr: {result['params']['OPTIMIZER_CONFIG.lr']}" in best
    assert "SESSION_NAME: test" in best


@pytest.mark.usefixtures("stand_in")
def test_the_same_seed_proposes_the_same_also_when_stopped_in_between(tmp_path):
    whole, _ = make_search(tmp_path / "whole", n_trials=12)
    whole.start()
    whole.run()
    part, _ = make_search(tmp_path / "part", n_trials=4)
    part.start()
    part.run()
    more = Search.continued(folders(tmp_path / "part"), 12, print)
    assert more.folder == part.folder
    more.run()
    key = "OPTIMIZER_CONFIG.lr"
    proposed = [[row[key] for row in read_trials(search)] for search in (whole, more)]
    assert len(set(proposed[0])) == 12 and proposed[0] == proposed[1]


@pytest.mark.usefixtures("stand_in")
def test_choices_alone_are_all_tried_once(tmp_path):
    space = {"OPTIMIZER_CONFIG.lr": choice(0.01, 0.1), "EPOCHS": choice(1, 2, 3)}
    search, _ = make_search(tmp_path, space, n_trials=20)
    search.start()
    search.run(n_jobs=3)
    rows = [(row["OPTIMIZER_CONFIG.lr"], row["EPOCHS"]) for row in read_trials(search)]
    assert len(rows) == 6 == len(set(rows))


@pytest.mark.usefixtures("stand_in")
def test_a_larger_space_of_choices_is_sampled(tmp_path):
    space = {"OPTIMIZER_CONFIG.lr": choice(*range(1, 30))}
    search, _ = make_search(tmp_path, space, n_trials=3)
    search.start()
    assert search.run()["n_trials"] == 3


@pytest.mark.usefixtures("stand_in")
def test_max_is_honoured(tmp_path):
    search, _ = make_search(tmp_path, MONITOR="val_accuracy", MONITOR_MODE="max")
    search.start()
    result = search.run(n_jobs=2)
    assert result["value"] == max(float(row["value"]) for row in read_trials(search))


@pytest.mark.usefixtures("stand_in")
def test_a_search_of_failures_is_given_up(tmp_path):
    search, said = make_search(tmp_path, n_trials=20, __COMMENT="fails")
    search.start()
    with pytest.raises(RuntimeError, match="3 failures and nothing else: out of luck"):
        search.run()
    assert len(said) == 3 and "failed: out of luck" in said[0]
    assert [row["state"] for row in read_trials(search)] == ["fail"] * 3


@pytest.mark.usefixtures("stand_in")
def test_a_hopeless_trial_is_pruned(tmp_path):
    lrs = choice(0.01, 0.02, 0.03, 0.04, 9.0)  # in this order; the rule compares with four
    space = {"OPTIMIZER_CONFIG.lr": lrs}
    search, _ = make_search(tmp_path, space, __COMMENT="hangs when bad")
    search.start()
    result = search.run(prune=True)
    states = [row["state"] for row in read_trials(search)]
    assert states == ["complete"] * 4 + ["pruned"] and result["n_trials"] == 4


def test_what_text_cannot_hold_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ConfigError, match="expected a config that text can hold.*CALLBACKS"):
        make_search(tmp_path, CALLBACKS=[lambda: None])
    with pytest.raises(ConfigError, match="OPTIMISER"):
        make_search(tmp_path, {"OPTIMISER": choice(1, 2)})
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_go_on_with(tmp_path):
    with pytest.raises(ConfigError, match="--continue: expected a search in .*searches"):
        Search.continued(folders(tmp_path))


@pytest.mark.usefixtures("stand_in")
def test_a_torn_record_is_dropped(tmp_path):
    search, _ = make_search(tmp_path, n_trials=2)
    search.start()
    search.run()
    with open(search.folder / "study.journal", "ab") as file:
        file.write(b'{"op_code": 4, "wor')
    assert Search.continued(folders(tmp_path), 3, print).run()["n_trials"] == 3


def write_config(path):
    """Write a config file of the tiny task with a space, for the command line."""
    text = """
        from tests.test_training.common import make_config
        from config.search import choice

        train_config = make_config(MODEL_CONFIG={"dropout": 0.1})
        search_space = {"MODEL_CONFIG.dropout": choice(0.0, 0.5)}
    """
    (path / "tiny.py").write_text(textwrap.dedent(text))
    places = [f"{name}={path / name}" for name in ("LOG_DIR", "WEIGHT_DIR", "DATA_DIR")]
    return [str(path / "tiny.py"), *places]


def test_the_command_line_trains_each_trial(tmp_path, capsys):
    assert hyperparameter.main([*write_config(tmp_path), "--jobs", "2", "EPOCHS=1"]) == 0
    out = capsys.readouterr().out
    assert "2 trials over MODEL_CONFIG.dropout" in out and "best of 2" in out
    rows = read_tracker(tmp_path / "LOG_DIR" / "experiments.csv")
    assert sorted(row["MODEL_CONFIG.dropout"] for row in rows) == ["0.0", "0.5"]
    assert [row["STATUS"] for row in rows] == ["done"] * 2
    for row in rows:
        assert (tmp_path / "WEIGHT_DIR" / row["RUN"] / "best.pth").exists()
        result = json.loads((tmp_path / "LOG_DIR" / row["RUN"] / "result.json").read_text())
        assert result["best_value"] == float(row["best_val_loss"])


@pytest.mark.slow  # eight processes that import torch
def test_a_stopped_search_goes_on_to_the_same_bits(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "part").mkdir()
    epochs = "EPOCHS=40"
    assert hyperparameter.main([*write_config(tmp_path / "whole"), epochs]) == 0
    command = [sys.executable, ROOT_PATH / "hyperparameter.py"]
    arguments = write_config(tmp_path / "part")
    env = {**os.environ, "PYTHONPATH": str(ROOT_PATH)}
    process = subprocess.Popen([*command, *arguments, epochs], env=env)
    weights = tmp_path / "part" / "WEIGHT_DIR"
    deadline = time.monotonic() + 120
    while not list(weights.glob("*/checkpoint.pt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    (row,) = read_tracker(tmp_path / "part" / "LOG_DIR" / "experiments.csv")
    assert row["STATUS"] == "interrupted"
    assert hyperparameter.main(["--continue", *arguments[1:]]) == 0
    found = {
        part: sorted(hash_weights(path) for path in (tmp_path / part).glob("*/*/last.pth"))
        for part in ("whole", "part")
    }
    assert len(found["whole"]) == 2 and found["whole"] == found["part"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a.py", "b.py"], "expected one CONFIG"),
        (["--trials", "0"], "expected a count from 1"),
        (["--continue", "a.py"], "expected no CONFIG beside it"),
    ],
)
def test_wrong_arguments(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        hyperparameter.main(argv)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_wrong_configs_end_with_2(tmp_path, capsys):
    pytest.importorskip("sklearn")
    log_dir = f"LOG_DIR={tmp_path}"
    assert hyperparameter.main(["EPOCHS=choice(1, x)", log_dir]) == 2
    assert "hyperparameter.py: search_space" in capsys.readouterr().err
    assert hyperparameter.main(["--continue", "EPOCHS=3", log_dir]) == 2
    assert "expected folders alone" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
