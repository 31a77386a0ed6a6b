"""Curves as SVG: ticks, places and which values share a plot."""

import pytest

from tests.test_utils.test_runs.common import folders, make_run
from utils.runs.plots import make_plots, make_ticks, thin
from utils.runs.table import open_runs


def plots_of(path, text):
    (path / "logs" / "1_a" / "metrics.csv").write_text(text)
    return make_plots(open_runs(["1_a"], folders(path), "report"))


@pytest.mark.parametrize(
    ("arguments", "ticks"),
    [
        ((0.0, 1.0, 6), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ((-3, 7, 5), [0, 5]),
        ((1e-9, 3e-9, 5), [1e-9, 1.5e-9, 2e-9, 2.5e-9, 3e-9]),
        ((1, 300, 6, 1), [50, 100, 150, 200, 250, 300]),
        ((1, 3, 6, 1), [1, 2, 3]),  # no half epochs
        ((0.5, 1.5, 6, 1), [1]),
    ],
)
def test_ticks_are_round_numbers(arguments, ticks):
    assert make_ticks(*arguments) == ticks


def test_train_and_val_share_a_plot_and_the_learning_rate_comes_last(tmp_path):
    make_run(tmp_path, "1_a")
    head = "epoch,step,lr,val_f1,train_loss,val_loss,grad_norm"
    plots = plots_of(tmp_path, f"{head}\n1,1,0.1,0.5,3,2,9\n2,2,0.1,0.75,2,1,9\n")
    assert [plot["title"] for plot in plots] == ["loss", "f1", "grad_norm", "learning rate"]
    curves = plots[0]["curves"]
    assert [curve["label"] for curve in curves] == ["train_loss", "val_loss"]
    assert curves[0]["best"] is None and curves[1]["best"] is not None  # in epoch 2, by val_f1


def test_lines_keep_to_the_frame_and_a_high_value_stands_high(tmp_path):
    make_run(tmp_path, "1_a")
    (plot,) = plots_of(tmp_path, "epoch,val_f1\n1,0.0\n2,1.0\n3,0.5\n")
    places = [tuple(map(float, pair.split(","))) for pair in plot["curves"][0]["line"].split()]
    (x1, low), (x2, high), (x3, middle) = places
    assert x1 == plot["data"]["left"] and x3 == plot["data"]["right"] and x2 == (x1 + x3) / 2
    assert high < middle < low and middle == pytest.approx((low + high) / 2, abs=0.1)


def test_numbers_that_are_none_leave_a_gap_and_a_single_one_is_a_dot(tmp_path):
    make_run(tmp_path, "1_a")
    text = "epoch,train_loss,val_f1,val_x\n1,nan,0.5,\n2,inf,,\n3,1.0,0.75,\n4"
    plots = plots_of(tmp_path, text)
    assert [plot["title"] for plot in plots] == ["loss", "f1"]
    assert plots[0]["curves"][0]["dot"] and plots[0]["data"]["curves"][0]["points"] == [[3.0, 1.0]]
    assert plots[1]["curves"][0]["dot"] is None


def test_thinned_rows_keep_both_ends():
    assert thin([1, 2, 3], 3) == [1, 2, 3]
    assert thin(range(1000), 4) == [0, 333, 666, 999]
