import csv
import io
import json

import pytest
from rich.cells import cell_len

from tests.test_utils.test_runs.common import ANCESTOR, draw, folders, make_run
from utils.runs.listing import show_columns, show_runs, write_csv, write_json
from utils.runs.table import find_runs


@pytest.fixture
def runs(tmp_path):
    make_run(tmp_path, "20260101-000000_digits", (0.5, 0.75), OPTIMIZER_CONFIG={"lr": 0.01})
    make_run(
        tmp_path, "20260102-000000_digits", (0.123456789,), "failed", OPTIMIZER="torch.optim.SGD"
    )
    make_run(tmp_path, "20260103-000000_digits", (0.25, 0.125), "running")
    return folders(tmp_path)


def show(places, width, **question):
    return draw(show_runs(find_runs(places, **question), places, width), width or 100_000)


def test_the_table_shows_what_the_runs_differ_in(runs):
    assert show(runs, 100).splitlines() == [
        "run                     status  epochs  best val_f1  OPTIMIZER     lr",
        "20260101-000000_digits  done       2/3         0.75  AdamW       0.01",
        "20260102-000000_digits  failed     1/3       0.1235  SGD        0.002",
        "20260103-000000_digits  lost       2/3         0.25  AdamW      0.002",
    ]


def test_a_sorted_table_shows_what_it_is_sorted_by(runs):
    head, *lines = show(runs, 120, sort="train_loss").splitlines()
    assert "  train_loss  " in head
    assert [line[:8] for line in lines] == ["20260103", "20260101", "20260102"]


def test_what_has_no_room_is_named_below(runs):
    text = show(runs, 60)
    assert "differ as well: OPTIMIZER (--columns, --csv)" in text and " lr" in text.splitlines()[0]


@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_no_line_is_longer_than_the_terminal_or_has_single_letters(tmp_path, width):
    for i in range(12):
        name = f"20260101-00000{i}_a-rather-long-name-of-a-session"
        make_run(tmp_path, name, (0.5,), MODEL_CONFIG={f"argument_{i}": i, "depth": i}, SEED=i)
    lines = show(folders(tmp_path), width).splitlines()
    if width >= 60:  # what every table has takes that much
        assert max(map(cell_len, lines)) <= width
    table = [line for line in lines if not line.startswith("differ")]
    assert len(table) <= 3 * 13  # a name takes up to three lines, no other field more than one


def test_a_pipe_gets_all_columns_and_whole_fields(tmp_path):
    note = "long " * 60
    make_run(tmp_path, "1_a", (0.5,), MODEL_CONFIG={"note": note})
    make_run(tmp_path, "2_b", (0.5,), MODEL_CONFIG={"note": "two\nlines\x1b[31m"})
    head, first, second = show(folders(tmp_path), None).splitlines()
    assert head.endswith("note") and note.strip() in first and "two lines [31m" in second


def test_runs_with_different_monitors_name_theirs(runs, tmp_path):
    make_run(tmp_path, "4_d", (0.5,), MONITOR="train_loss", MONITOR_MODE=None)
    text = show(runs, 120)
    assert "val_f1 0.75" in text and "train_loss 0.5" in text


def test_the_ancestors_runs_are_shown(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "experiments.csv").write_text(ANCESTOR)
    head, first, _ = (line.split() for line in show(folders(tmp_path), None).splitlines())
    assert head == ["run", "status", "epochs", "best", "val_loss", "MODEL"]
    assert first == ["20200101-000000_first", "5", "0.5", "UNET(", "(a):", "Conv2d()", ")"]


def test_columns_that_were_asked_for(runs):
    rows = find_runs(runs).rows
    names = ["OPTIMIZER_CONFIG.lr", "best_val_f1"]
    assert draw(show_columns(rows, names, 80)).splitlines()[:2] == [
        "RUN                        lr  best_val_f1",
        "20260101-000000_digits   0.01         0.75",
    ]
    whole = draw(show_columns(rows, names, None)).splitlines()
    assert whole[2].endswith("0.123456789")
    assert draw(show_columns(rows, names, 30)).splitlines()[:4] == [
        "20260101-000000_digits",
        "  OPTIMIZER_CONFIG.lr  0.01",
        "  best_val_f1          0.75",
        "",
    ]


def test_machines_get_every_field_as_it_was_written(runs):
    found = find_runs(runs)
    text = write_csv(found.rows, found.columns)
    assert list(csv.DictReader(io.StringIO(text))) == found.rows
    first = json.loads(write_json(found.rows, found.columns))[0]
    assert first["RUN"] == "20260101-000000_digits" and first["SEED"] == 0
    assert first["best_val_f1"] == 0.75 and first["MODEL"] == "models.ConvNet"
    assert json.loads(write_json(found.rows, ["best_val_f1"]))[2] == {"best_val_f1": None}


def test_json_has_no_numbers_that_json_does_not_know():
    rows = [{"RUN": "1", "a": "nan", "b": "-inf", "c": "True", "d": "1e3", "e": "007"}]
    assert json.loads(write_json(rows, list(rows[0]))) == [
        {"RUN": "1", "a": "nan", "b": "-inf", "c": True, "d": 1000.0, "e": 7}
    ]
