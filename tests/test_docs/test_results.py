"""The page "What a run got wrong": its code runs, and its tables say what is there."""

import csv
import inspect
import json
import re
import sys

import pytest

from config.config import ROOT_PATH
from tests.test_docs.blocks import read_blocks
from training.callbacks import Ledger

PAGE = (ROOT_PATH / "docs" / "results.rst").read_text(encoding="utf-8")


CONFIG, COMPARE, LINE_UP = read_blocks("results.rst", "python")
TABLE, COMPARED = read_blocks("results.rst", "text")
(EVALUATION,) = read_blocks("results.rst", "json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train the page's config, and narrower; return the folders of both."""
    import experiments
    import train

    folder = tmp_path_factory.mktemp("results")
    CONFIG.write(folder / "experiments" / "mine.py")
    out = [f"LOG_DIR={folder / 'logs'}", f"WEIGHT_DIR={folder / 'weights'}", "DEVICE=cpu"]
    small = ["EPOCHS=4", "PROGRESS=False", "CURVES=False", "OPTIMIZER_CONFIG.lr=0.01"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "__path__", [*experiments.__path__, str(folder / "experiments")])
        for name, width in (("wide", 4), ("narrow", 1)):
            changes = [f"SESSION_NAME={name}", f"MODEL_CONFIG.bulk_ch={width}"]
            assert train.main(["experiments.mine", *small, *changes, *out]) == 0
        sys.modules.pop("experiments.mine")
    vars(experiments).pop("mine", None)
    return {name: next((folder / "logs").glob(f"*_{name}")) for name in ("wide", "narrow")}


def test_the_files_are_there(runs):
    table, _, _ = PAGE.partition("Nothing is kept in memory")
    names = set(re.findall(r"``([a-z]+\.(?:csv|json|png))``", table))
    there = {path.name for path in runs["wide"].iterdir()}
    assert names - there == {"scatter.png"} and len(names) == 7
    with open(runs["wide"] / "samples.csv", newline="") as file:
        columns = next(csv.reader(file))
    described = {"index", "name", "target", "prediction", "confidence", "loss"}
    assert described <= set(columns) and all(f"``{name}``" in PAGE for name in described)


def test_the_arguments_are_those_of_the_class():
    parameters = list(inspect.signature(Ledger).parameters.values())
    rows = re.findall(r"   \* - ``(\w+)``\n     - ([\d.]+)\n", PAGE)
    assert rows == [(p.name, str(p.default)) for p in parameters]


def test_the_evaluation_has_the_keys_of_the_page(runs):
    shown, found = (
        json.loads(EVALUATION.use()),
        json.loads((runs["wide"] / "evaluation.json").read_text()),
    )
    assert shown.keys() == found.keys() and shown["n_samples"] == found["n_samples"]
    for part in ("metrics", "intervals"):
        assert shown[part].keys() == found[part].keys()


def test_the_table_at_the_end_has_intervals(runs):
    log = (runs["wide"] / "train.log").read_text().splitlines()
    head, *rows = [line for line in TABLE.use().splitlines() if "epoch" not in line]
    assert head in log
    for row in rows:
        assert any(re.sub(r"[\d.]+", "0", line) == re.sub(r"[\d.]+", "0", row) for line in log)


def test_two_runs_are_compared(runs, capsys):
    def fill(block):
        for name, folder in runs.items():
            block = block.replace(f"logs/<{name}>", str(folder))
        return block

    names = fill(COMPARE).run()
    found, shown = capsys.readouterr().out.splitlines(), COMPARED.use().splitlines()
    assert len(found) == len(shown) and found[0] == shown[0]
    for line, of_page in zip(found[1:3], shown[1:3], strict=True):
        assert line.split()[0] == of_page.split()[0] and line.endswith(": different")
    fill(LINE_UP).run(names)
    assert len(names["rows"]) == 360 and names["rows"][0]["n_wrong"] == 2
