"""Targets: masks keep their classes, colours and names become numbers."""

import numpy as np
import pytest
import torch

from utils.data.targets import MaskTarget, check_mask_options, make_row_targets
from utils.data.tasks import check_target

COLOURS = {(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 4}


def colour_mask(classes, alpha=False):
    """Return (H, W, 3 or 4) uint8 with the colours of COLOURS."""
    mask = np.zeros((*classes.shape, 4 if alpha else 3), np.uint8)
    for colour, number in COLOURS.items():
        mask[classes == number, :3] = colour
    if alpha:
        mask[..., 3] = 255
    return mask


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_become_classes(alpha):
    classes = np.array([[0, 1, 4], [4, 0, 1]])
    target = MaskTarget("multiclass_segmentation", COLOURS)
    assert target.of_colours
    y = target(colour_mask(classes, alpha), "a.png")
    assert y.dtype == torch.int64 and torch.equal(y, torch.from_numpy(classes))
    assert y.shape == target.shape(2, 3, 3)
    binary = MaskTarget("binary_segmentation", {(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 0})
    assert binary(colour_mask(classes, alpha), "a.png").tolist() == [[[0, 1, 0], [0, 0, 1]]]
    assert binary.shape(2, 3, 4) == (1, 2, 3)


def test_pixels_can_be_left_out():
    for task in ("binary_segmentation", "multiclass_segmentation"):
        values = {0: 0, 7: 1, 9: 255}
        assert check_mask_options(task, values) == []
        y = MaskTarget(task, values)(np.array([[0, 7, 9]]), "a.npy")
        assert y.flatten().tolist() == [0, 1, 255]
        assert "got 255" in check_target(y[None], task, n_classes=2)
        assert check_target(y[None], task, 2, ignore_index=255) is None


def test_other_colours_are_named():
    mask = colour_mask(np.array([[0, 1]]))
    mask[0, 1] = (1, 2, 3)
    with pytest.raises(ValueError, match=r"a\.png: .* \(0, 0, 255\), \(255, 0, 0\) .* \(1, 2, 3\)"):
        MaskTarget("multiclass_segmentation", COLOURS)(mask, "a.png")


def test_a_resized_target_has_the_size_and_no_new_class():
    classes = np.kron(np.array([[0, 4], [1, 0]]), np.ones((5, 5), int))
    target = MaskTarget("multiclass_segmentation", size=[4, 6])
    y = target(classes, "a.npy")
    assert y.shape == (4, 6) == target.shape(10, 10, 1)
    assert set(y.unique().tolist()) == {0, 1, 4}


@pytest.mark.parametrize(
    "values",
    [
        {(0, 0, 0): 0, 255: 1},
        {(0, 0): 0},
        {(0, 0, 256): 0},
        {(0, 0, 0): 2},
        {"#ffffff": 1},
    ],
)
def test_wrong_colours_are_described(values):
    (problem,) = check_mask_options("binary_segmentation", values)
    assert "or colours such as {(0, 0, 0): 0, (255, 0, 0): 1}" in problem


# -------------------------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        ("multiclass", [0.0, 2.0], [0, 2]),
        ("embedding", [7, 5], [7, 5]),
        ("binary", [0, 1], [[0.0], [1.0]]),
        ("multilabel", [[0, 1], [1, 1]], [[0.0, 1.0], [1.0, 1.0]]),
        ("regression", [0.5, -3], [[0.5], [-3.0]]),
        ("regression", [[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_numbers_take_the_form_of_the_task(task, values, expected):
    y, names = make_row_targets(np.array(values), task, None, "y")
    assert y.tolist() == expected and names is None
    assert y.dtype == (torch.int64 if task in ("multiclass", "embedding") else torch.float32)


def test_names_are_numbered_as_they_sort_or_as_they_are_given():
    values = np.array(["dog", "cat", "dog"])
    y, names = make_row_targets(values, "multiclass", None, "y")
    assert y.tolist() == [1, 0, 1] and names == ["cat", "dog"]
    y, names = make_row_targets(values, "multiclass", ["dog", "eel", "cat"], "y")
    assert y.tolist() == [0, 2, 0] and names == ["dog", "eel", "cat"]
    assert make_row_targets(values, "binary", None, "y")[0].tolist() == [[1], [0], [1]]


@pytest.mark.parametrize(
    ("task", "values", "classes", "problem"),
    [
        ("multiclass", [0, 0.5], None, r"expected whole numbers for multiclass, got 0\.5\."),
        ("multiclass", [0, np.nan], None, "expected whole numbers for multiclass, got nan"),
        ("multiclass", [-1, 0], None, "expected numbers from 0 for multiclass, got -1"),
        ("multiclass", [[0], [1]], None, r"expected shape \(N\) for multiclass, got \(2, 1\)"),
        ("binary", [0, 2], None, r"expected values in \[0, 1\] for binary, got 2"),
        ("regression", [0, np.inf], None, "expected finite floats for regression, got 0, inf"),
        ("regression", ["a", "b"], None, "expected numbers for regression, got a, b"),
        ("binary", ["a", "b", "c"], None, "expected two names for binary, got a, b, c"),
        ("multiclass", ["a", "b"], ["a", "c"], "expected one of a, c, got b. Add"),
    ],
)
def test_values_that_are_none_of_the_task(task, values, classes, problem):
    with pytest.raises(ValueError, match=f"t.csv: .*{problem}"):
        make_row_targets(np.array(values), task, classes, "t.csv")
