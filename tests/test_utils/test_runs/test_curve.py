import pytest

from config.errors import ConfigError
from tests.test_utils.test_runs.common import draw, folders, make_run
from utils.runs.curve import draw_curves, read_points
from utils.runs.folder import RunFolder


def test_a_line_runs_from_the_first_to_the_last_point():
    text = draw(draw_curves({"a": [(1, 0.0), (5, 1.0)]}, "val_f1", 24, 5, False)).splitlines()
    assert text == [
        "val_f1",
        "  1 \u2524               aaaa",
        "    \u2502           aaaaa",
        "0.5 \u2524       aaaaa",
        "    \u2502   aaaaa",
        "  0 \u2524aaaa",
        "    \u2514" + "\u2500" * 19,
        "     1      epoch      5",
        "a a  1 in epoch 5",
    ]


def test_dots_of_braille_are_finer_than_letters():
    lines = draw(draw_curves({"a": [(1, 0.0), (2, 1.0)]}, "loss", 20, 4)).splitlines()
    cells = {letter for line in lines[1:5] for letter in line if 0x2800 < ord(letter) <= 0x28FF}
    assert len(cells) > 2


def test_curves_lie_on_one_scale_and_the_later_one_on_top():
    curves = {"low": [(1, 0.0), (2, 0.0)], "high": [(1, 1.0), (2, 1.0)], "same": [(1, 1.0)]}
    lines = draw(draw_curves(curves, "loss", 20, 4, False)).splitlines()
    high, low = (lines[row].partition("\u2524")[2] for row in (1, 4))
    assert high == "c" + "b" * (len(high) - 1) and low == "a" * len(high)
    assert lines[-3:] == ["a low  0 in epoch 2", "b high  1 in epoch 2", "c same  1 in epoch 1"]


def test_a_single_epoch_is_a_point():
    lines = draw(draw_curves({"a": [(1, 0.5)]}, "loss", 30, 5, False)).splitlines()
    assert sum(line.count("a") for line in lines[1:6]) == 1


def test_epochs_without_a_number_are_left_out(tmp_path):
    log_dir = make_run(tmp_path, "1_a", (0.5, float("nan"), 0.25))
    run = RunFolder(log_dir.name, folders(tmp_path))
    assert read_points(run, "val_f1") == [(1, 0.5), (3, 0.25)]


def test_a_value_that_is_not_there(tmp_path):
    run = RunFolder(make_run(tmp_path, "1_a").name, folders(tmp_path))
    with pytest.raises(ConfigError, match='column of 1_a, got "val_f2". Did you mean "val_f1"'):
        read_points(run, "val_f2")
    empty = RunFolder("none", folders(tmp_path))
    with pytest.raises(ConfigError, match="no epochs yet"):
        read_points(empty, "val_f1")


def test_nothing_but_nan_is_no_curve():
    with pytest.raises(ConfigError, match="--of: expected loss as numbers, got none"):
        draw_curves({"a": []}, "loss", 80, 10)
