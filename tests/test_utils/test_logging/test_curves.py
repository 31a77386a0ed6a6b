import csv
import io
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from config.config import ROOT_PATH
from utils.logging.curves import draw_curves, group_values

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


def make_rows(n, metrics=("accuracy", "f1"), every=1):
    """Return the rows of n epochs, validated every few of them and in the last one."""
    rows = []
    for epoch in range(1, n + 1):
        row = {"epoch": epoch, "step": 7 * epoch, "lr": 0.1, "train_loss": 1 / epoch}
        if epoch % every == 0 or epoch == n:
            row |= {"val_loss": 1.1 / epoch, **{f"val_{name}": 1 - 1 / epoch for name in metrics}}
        rows.append(row)
    return rows


def read(png):
    """Return (H, W, 3) of a PNG."""
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def count(pixels, colour):
    return int((np.abs(pixels.astype(int) - colour).max(axis=2) < 8).sum())


@pytest.mark.parametrize(
    ("n_metrics", "columns", "rows"),
    [(0, 1, 1), (1, 2, 1), (2, 3, 1), (3, 2, 2), (14, 3, 4)],
)
def test_a_panel_for_each_metric(n_metrics, columns, rows):
    names = [f"m{i}" for i in range(n_metrics)]
    height, width, _ = read(draw_curves(make_rows(2, names))).shape
    assert width == max(600, 408 * columns) and height == 276 * rows + 36


@pytest.mark.parametrize("n", [1, 2, 5, 40])
@pytest.mark.parametrize("metrics", [(), ("accuracy", "f1")])
def test_both_curves_are_drawn(n, metrics):
    pixels = read(draw_curves(make_rows(n, metrics), n, "a run"))
    assert count(pixels, BLUE) > 20 and count(pixels, ORANGE) > 60


def test_the_best_epoch_is_marked():
    rows = make_rows(5)
    plain, marked = read(draw_curves(rows, None, "a")), read(draw_curves(rows, 3, "a"))
    changed = np.abs(plain.astype(int) - marked).max(axis=2)[40:] > 8  # below the titles
    columns = np.flatnonzero(changed.sum(axis=0) > 20)
    assert len(np.split(columns, np.flatnonzero(np.diff(columns) > 100) + 1)) == 3  # in each panel
    assert count(marked, ORANGE) > count(plain, ORANGE)


def test_rows_of_metrics_csv_give_the_same_picture():
    rows = make_rows(4, every=2)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[1])
    writer.writeheader()
    writer.writerows(rows)
    text.seek(0)
    assert draw_curves(csv.DictReader(text), 4) == draw_curves(rows, 4)


def test_values_are_grouped_by_what_they_are():
    assert group_values(make_rows(2, ("f1_water",), every=2)) == {
        "loss": {"train": {1: 1.0, 2: 0.5}, "val": {2: 0.55}},
        "f1_water": {"val": {2: 0.5}},
    }


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"epoch": 1, "train_loss": math.nan, "val_loss": math.inf}],
        [{"epoch": 1, "train_loss": 1.0, "val_loss": None}, {"epoch": 2, "train_loss": math.nan}],
        [{"epoch": 1, "train_loss": 0.0}, {"epoch": 2, "train_loss": 1e9}],
        [{"epoch": 1, "train_loss": -1e-9}, {"epoch": 2, "train_loss": 1e30}],
        [{"epoch": epoch, "train_loss": 1e-12} for epoch in range(1, 2000)],
    ],
)
@pytest.mark.filterwarnings("error")
def test_odd_values_are_drawn_without_a_word(rows):
    assert read(draw_curves(rows, 1, "$_$ title \u00e9")).size > 0


def test_the_users_backend_and_style_are_left_alone():
    code = """
import sys
from utils.logging.curves import draw_curves
assert "matplotlib" not in sys.modules  # those who draw import it
import matplotlib
matplotlib.use("svg")
matplotlib.rcParams["font.size"] = 31
rows = [{"epoch": 1, "train_loss": 1.0}]
first = draw_curves(rows)
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.get_backend() == "svg" and matplotlib.rcParams["font.size"] == 31
matplotlib.rcParams.update({"figure.facecolor": "black", "axes.facecolor": "black"})
assert draw_curves(rows) == first
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT_PATH, check=True)
