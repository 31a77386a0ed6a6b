"""The page "Which run was it?": what its blocks show is what runs.py prints."""

import re

import pytest

import runs
from config.config import ROOT_PATH, global_config
from tests.test_docs.blocks import read_blocks
from tests.test_utils.test_runs.common import make_run

LISTED, DRAWN = read_blocks("runs.rst", "text")


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    return [f"LOG_DIR={tmp_path / 'logs'}", f"WEIGHT_DIR={tmp_path / 'weights'}"]


def lines_of(capsys, *words):
    assert runs.main(list(words)) == 0
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_the_list_is_what_runs_py_prints(tmp_path, places, capsys):
    for name, f1, status, seed, lr in (
        ("20260101-120000_digits", (0.5, 0.75, 0.9556), "done", 0, 0.001),
        ("20260101-120130_digits", (0.75, 0.9861, 0.9806), "done", 0, 0.003),
        ("20260101-120210_digits", (0.7778, 0.9278), "interrupted", 1, 0.003),
        ("20260101-120300_digits", (0.8611,), "running", 2, 0.003),
    ):
        make_run(tmp_path, name, f1, status, SEED=seed, OPTIMIZER_CONFIG={"lr": lr})
    shown = lines_of(capsys, "list", *places)
    assert shown[:-1] == LISTED.use().splitlines() and shown[-1].startswith("lost: ")


def test_the_curves_are_what_runs_py_draws(tmp_path, places, capsys):
    names = re.findall(r"^\w (\S+)", DRAWN.use(), re.MULTILINE)
    for name, n_epochs, slowness in zip(names, (5, 8), (1.0, 1.7), strict=True):
        losses = [1.8 * 2 ** (-epoch / slowness) for epoch in range(1, n_epochs + 1)]
        make_run(tmp_path, name, tuple(1 - loss for loss in losses))
    words = ["--of", "train_loss", "--height", "11", *places]
    shown = lines_of(capsys, "curve", *names, *words)
    assert shown == DRAWN.splitlines()


def test_runs_are_found_in_python(tmp_path, monkeypatch):
    make_run(tmp_path, "1_a", (0.5,))
    make_run(tmp_path, "2_b", (0.25,), OPTIMIZER_CONFIG={"lr": 0.5})
    monkeypatch.setitem(global_config, "LOG_DIR", tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    finds, reports = read_blocks("runs.rst", "python")
    names = finds.run()
    assert [(row["RUN"], row["best_val_f1"]) for row in names["found"].rows] == [("1_a", "0.5")]
    reports.run(names)
    assert "<h1>1_a</h1>" in (tmp_path / "best.html").read_text(encoding="utf-8")


def test_the_page_names_the_options_that_there_are():
    page = (ROOT_PATH / "docs" / "runs.rst").read_text(encoding="utf-8")
    source = (ROOT_PATH / "runs.py").read_text(encoding="utf-8")
    options = set(re.findall(r"--[a-z]+", page)) - {"--help"}
    assert len(options) > 15 and all(f'"{option}"' in source for option in options)
    assert set(runs.COMMANDS) <= set(re.findall(r"python runs\.py (\w+)", page))
