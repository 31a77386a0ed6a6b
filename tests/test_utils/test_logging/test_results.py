import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from utils.logging import results
from utils.logging.figure import new_figure
from utils.logging.results import draw_confusion, draw_scatter

INCH = 120  # [px]


def pixels(picture):
    with Image.open(io.BytesIO(picture)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture
def panels(monkeypatch):
    """Collects the panels of what is drawn; the last one of a table is its bar of colours."""
    found = []

    @contextlib.contextmanager
    def new_and_kept(*size):
        with new_figure(*size) as (figure, file):
            yield figure, file
        found.extend(figure.axes)

    monkeypatch.setattr(results, "new_figure", new_and_kept)
    return found


def read_colours(panel):
    """Return the brightness of each cell, 0..1."""
    image = panel.images[0]
    return image.cmap(image.norm(image.get_array()))[..., :3].mean(axis=2)


def test_a_cell_is_as_dark_as_its_share_of_the_true_class(panels):
    counts = np.array([[90, 10, 0], [0, 5, 0], [500, 0, 500]])
    draw_confusion(counts, ["a", "b", "c"])
    panel = panels[0]
    light = read_colours(panel)
    shares = counts / counts.sum(axis=1, keepdims=True)
    order = np.argsort(-shares, axis=None, kind="stable")
    assert (np.diff(light.flat[order]) >= 0).all()
    assert light[1, 1] == light.min() < 0.3  # of 5 samples all: as dark as can be
    assert light[2, 0] == light[2, 2] and light[0, 1] < light[0, 2] - 0.1  # a tenth is seen
    texts = np.array([text.get_text() for text in panel.texts]).reshape(3, 3)
    assert texts.tolist() == [["90", "10", ""], ["", "5", ""], ["500", "", "500"]]
    for text, behind in zip(panel.texts, light.flat, strict=True):
        assert abs(int(text.get_color() == "white") - behind) > 0.35  # it can be read
    assert [label.get_text() for label in panel.get_yticklabels()] == ["a", "b", "c"]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("decided", "true")


def test_labels_have_a_row_each(panels):
    counts = np.array([[[7, 3], [0, 10]], [[10, 0], [5, 5]]])
    draw_confusion(counts, ["cloud", "sea"], unit="pixels")
    found = [label.get_text() for label in panels[0].get_xticklabels()]
    assert found == [
        "there:\nfound",
        "there:\nmissed",
        "not there:\nfound",
        "not there:\nnot found",
    ]
    texts = [text.get_text() for text in panels[0].texts]
    assert texts == ["10", "", "3", "7", "5", "5", "", "10"]
    assert panels[0].images[0].get_array().tolist() == [[1, 0, 0.3, 0.7], [0.5, 0.5, 0, 1]]
    assert panels[1].get_ylabel() == "share of true pixels"


@pytest.mark.parametrize("n_classes", [2, 10, 30, 31, 100])
def test_there_is_room_for_names_and_counts(n_classes, panels):
    names = [f"a class of things, number {i:03}" for i in range(n_classes)]
    draw_confusion(np.eye(n_classes, dtype=int) * 123_456, names, "val, 360 samples")
    panel = panels[0]
    width, height = (panel.get_window_extent().size / n_classes).tolist()  # of a cell [px]
    shown = [text for text in panel.texts if text.get_text() == "123k"]
    assert len(shown) == (n_classes if n_classes <= 30 else 0)
    for text in shown:
        assert text.get_window_extent().width < width
    labels = panel.get_yticklabels()
    shorts = [name if len(name) <= 28 else f"{name[:13]}..{name[-13:]}" for name in names]
    assert [label.get_text() for label in labels] == shorts
    assert labels[0].get_window_extent().height < height * 1.2
    across = panel.get_xticklabels()[0].get_window_extent()
    assert across.width < width * 1.2  # no name reaches the next one
    inside = panel.figure.bbox
    for label in (*labels, *panel.get_xticklabels(), panel.title):
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= inside.x1 and box.y1 <= inside.y1


@pytest.mark.parametrize("labels", [False, True])
def test_of_very_many_classes_those_with_the_most_errors(labels, monkeypatch):
    drawn = {}
    monkeypatch.setattr(results, "_draw_table", lambda *args: drawn.update(args=args) or b"")
    n_classes = 150
    counts = np.eye(n_classes, dtype=int) * 20
    counts[120, 7] = 3
    if labels:
        counts = np.zeros((n_classes, 2, 2), dtype=int)
        counts[[7, 120], 1, 0] = 3
    draw_confusion(counts, list(map(str, range(n_classes))), "digits")
    table, shares, rows, columns, title, _ = drawn["args"]
    assert len(rows) == 50 and {"7", "120"} <= set(rows)
    assert title == "digits: the 50 of 150 with the most errors"
    row = rows.index("120")
    column = 1 if labels else columns.index("7")
    assert table[row, column] == 3 and shares[row, column] == (1 if labels else 3 / 23)


def test_names_of_any_kind_and_classes_never_seen(panels):
    draw_confusion(np.zeros((2, 2), dtype=int), ["$x_", ""], "a $title")
    assert not panels[0].images[0].get_array().any()
    assert panels[0].get_title() == "a $title"


COUNTS = {0: "0", 9999: "9999", 10_000: "10k", 12_345: "12.3k", 123_456_789: "123M", 10**10: "10G"}


@pytest.mark.parametrize(("number", "text"), COUNTS.items())
def test_counts_are_short(number, text):
    assert results._count(number) == text


def test_numbers_beside_the_truth():
    truth = np.linspace(-1, 1, 50)[:, None]
    dots = np.array([0, 114, 178])
    exact, off = (pixels(draw_scatter(truth, pred)) for pred in (truth, truth[::-1]))
    for image, slope in ((exact, -1), (off, 1)):
        rows, columns = np.nonzero(np.abs(image - dots).max(axis=2) < 90)
        assert np.sign(np.polyfit(columns, rows, 1)[0]) == slope  # rows are counted downwards
    with_nan = np.where(np.arange(50)[:, None] % 2, truth, np.nan)
    assert (pixels(draw_scatter(truth, with_nan)) != exact).any()
    wide = pixels(draw_scatter(np.ones((3, 12)), np.ones((3, 12))))
    assert wide.shape[0] > 9 * INCH and wide.shape[1] > 9 * INCH  # nine panels
