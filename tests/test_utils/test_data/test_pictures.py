import io

import numpy as np
from PIL import Image

from utils.data.pictures import draw, make_legend, make_palette


def pixels(png: bytes, mode: str | None = None) -> np.ndarray:
    """Return the pixels of a picture as they are stored, or in another mode."""
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert(mode) if mode else picture)


def colours(png: bytes) -> list[str]:
    """Return the colours of the first row, as a legend writes them."""
    return ["#" + bytes(pixel).hex() for pixel in pixels(png, "RGB")[0]]


def test_colours_are_distinct_and_begin_with_black():
    palette = make_palette(256)
    assert palette[0].tolist() == [0, 0, 0]
    assert len({tuple(colour) for colour in palette.tolist()}) == 256
    eight = make_palette(8).astype(int)
    distances = np.abs(eight[:, None] - eight[None]).sum(axis=2)
    assert distances[~np.eye(8, dtype=bool)].min() > 80


def test_binary_is_black_and_white():
    png = draw(np.array([[0, 1]], np.uint8), "binary_segmentation", 1)
    assert pixels(png).tolist() == [[0, 255]]
    assert make_legend("binary_segmentation", ["sea", "ship"]) == [
        {"index": 0, "class": "sea", "colour": "#000000"},
        {"index": 1, "class": "ship", "colour": "#ffffff"},
    ]
    assert colours(png) == ["#000000", "#ffffff"]


def test_multiclass_pictures_hold_the_classes_in_the_colours_of_the_legend():
    decision = np.array([[0, 2, 1, 2]], np.uint8)
    png = draw(decision, "multiclass_segmentation", 3)
    assert np.array_equal(pixels(png), decision)  # good as a mask to train with
    legend = make_legend("multiclass_segmentation", ["no", "a", "b"])
    assert [(row["index"], row["class"]) for row in legend] == [(0, "no"), (1, "a"), (2, "b")]
    assert colours(png) == [legend[i]["colour"] for i in (0, 2, 1, 2)]


def test_multilabel_pictures_show_the_highest_label():
    decision = np.array([[[0, 0], [1, 0], [0, 1], [1, 1]]], np.uint8)
    png = draw(decision, "multilabel_segmentation", 2)
    assert pixels(png).tolist() == [[0, 1, 2, 2]]
    legend = make_legend("multilabel_segmentation", ["a", "b"])
    assert colours(png) == ["#000000", *(legend[i]["colour"] for i in (0, 1, 1))]


def test_one_label_is_a_map_of_two_axes():
    png = draw(np.array([[1, 0]], np.uint8), "multilabel_segmentation", 1)
    assert pixels(png).tolist() == [[1, 0]]


def test_colours_return_when_a_byte_cannot_hold_the_classes():
    png = draw(np.array([[299, 1, 255]]), "multiclass_segmentation", 300)
    legend = make_legend("multiclass_segmentation", list(map(str, range(300))))
    assert colours(png) == [legend[i]["colour"] for i in (299, 1, 255)]
    assert legend[299]["colour"] == legend[299 - 256]["colour"]
