import numpy as np
import pytest
import torch

from utils.logging.samples import RIGHT, TEXT, WRONG, _cut, draw_samples, draw_sheet

N, H, W = 3, 8, 16
SIDE, GAP, MARGIN = 160, 4, 60  # of a picture, between pictures, for the labels at the left
GREEN, RED = (0, 122, 61), (192, 0, 0)


def logits_of(target, n_outputs, scale=5.0):
    """Return logits that decide as the target says."""
    if target.is_floating_point():
        return (target - 0.5) * scale
    return torch.nn.functional.one_hot(target, n_outputs).movedim(-1, 1).float() * scale


def count(pixels, colour):
    """Count pixels of about a colour."""
    return int((np.abs(pixels.astype(int) - colour).max(axis=2) < 60).sum())


def parts(picture):
    """Return input, target and prediction rows of the drawn samples, at their size."""
    rows = [picture[top : top + SIDE // 2, MARGIN:] for top in (0, 84, 168)]
    return [
        [row[:, i * (SIDE + GAP) : i * (SIDE + GAP) + SIDE][5::10, 5::10] for i in range(N)]
        for row in rows
    ]


@pytest.mark.parametrize(
    ("task", "shape", "n_outputs"),
    [
        ("binary_segmentation", (N, 1, H, W), 1),
        ("multiclass_segmentation", (N, H, W), 3),
        ("multilabel_segmentation", (N, 2, H, W), 2),
    ],
)
def test_a_segmentation_shows_input_target_and_decision(task, shape, n_outputs):
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, max(2, n_outputs), shape, generator=generator)
    target = target if task.startswith("multiclass") else (target > 0).float()
    x = torch.randn(N, 5, H, W, generator=generator)
    logits = logits_of(target, n_outputs)
    picture = draw_samples(x, target, logits, task)
    assert picture.shape == (2 * 84 + SIDE // 2, MARGIN + N * 164 - 4, 3)
    assert picture.dtype == np.uint8
    inputs, truths, predictions = parts(picture)
    for truth, prediction in zip(truths, predictions, strict=True):
        assert (truth == prediction).all()
        assert len(np.unique(truth.reshape(-1, 3), axis=0)) == {1: 2, 3: 3, 2: 3}[n_outputs]
    # the first three channels, from black to white
    shown = x[0, :3].numpy()
    expected = (shown - shown.min()) / (shown.max() - shown.min()) * 255
    assert np.abs(inputs[0].transpose(2, 0, 1) - expected).max() <= 1
    other = draw_samples(x, target, -logits, task)
    assert (parts(other)[1][0] == truths[0]).all()
    assert not (parts(other)[2][0] == truths[0]).all()


def test_a_classification_shows_true_and_decided_class():
    x, target = torch.rand(2, 1, 8, 8), torch.tensor([1, 0])
    right = draw_samples(x, target, logits_of(target, 3), "multiclass", ["cat", "dog", "cow"])
    wrong = draw_samples(x, target, logits_of(1 - target, 3), "multiclass", ["cat", "dog", "cow"])
    numbered = draw_samples(x, target, logits_of(target, 3), "multiclass")
    assert right.shape == (SIDE + GAP + 14 + GAP + 14, 2 * SIDE + GAP, 3)
    assert (right[:SIDE, :SIDE, 0] == right[:SIDE, :SIDE, 1]).all()  # gray
    assert count(right, GREEN) > 20 and count(right, RED) == 0
    assert count(wrong, RED) > 20 and count(wrong, GREEN) == 0
    assert (right[SIDE:] != numbered[SIDE:]).any()


@pytest.mark.parametrize(
    ("task", "target", "classes"),
    [
        ("binary", [[1.0], [0.0]], None),
        ("binary", [[1.0], [0.0]], ["healthy", "ill"]),
        ("binary", [[1.0], [0.0]], ["ill"]),
        ("multilabel", [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], ["a", "b", "c"]),
        ("multilabel", [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], None),
    ],
)
def test_yes_or_no_classes(task, target, classes):
    x, target = torch.rand(2, 4, 8, 8), torch.tensor(target)
    right = draw_samples(x, target, logits_of(target, 0), task, classes)
    wrong = draw_samples(x, target, -logits_of(target, 0), task, classes)
    assert count(right[SIDE:], GREEN) > 10 and count(right[SIDE:], RED) == 0
    assert count(wrong[SIDE:], RED) > 10 and count(wrong[SIDE:], GREEN) == 0


@pytest.mark.parametrize("task", ["regression", "embedding"])
def test_a_task_without_pictures(task):
    assert draw_samples(torch.rand(2, 3, 8, 8), torch.rand(2, 1), torch.rand(2, 1), task) is None


def test_an_input_that_is_no_picture():
    target = torch.tensor([0, 1])
    assert draw_samples(torch.rand(2, 16), target, torch.rand(2, 2), "multiclass") is None


def test_large_and_odd_pictures_are_brought_to_size():
    x = torch.full((1, 2, 700, 301), torch.nan)
    x[:, :, :350] = 3.0
    target = torch.zeros(1, 1, 700, 301)
    picture = draw_samples(x, target, target, "binary_segmentation")
    assert picture.shape == (3 * SIDE + 2 * GAP, MARGIN + SIDE, 3)


def test_of_two_channels_the_first_is_shown():
    x = torch.stack([torch.arange(64.0).view(8, 8), torch.full((8, 8), 1000.0)])[None]
    picture = draw_samples(x, torch.tensor([0]), torch.rand(1, 2), "multiclass")[:SIDE]
    assert picture.min() == 0 and picture.max() == 255


def test_a_sheet_wraps_after_eight_and_keeps_sizes_of_their_own():
    samples = [(torch.rand(1, 8, 8 + i % 2), None, torch.rand(3)) for i in range(10)]
    captions = [[(f"name {i}", TEXT), ("pred", RIGHT if i else WRONG)] for i in range(10)]
    sheet = draw_sheet(samples, captions, "multiclass")
    band = SIDE + GAP + 14 + GAP + 14
    assert sheet.shape == (2 * band + 12, 8 * SIDE + 7 * GAP, 3) and sheet.dtype == np.uint8
    assert count(sheet[SIDE:band, :SIDE], RED) > 10  # the first alone is wrong
    assert count(sheet[SIDE:band, SIDE:], RED) == 0 and count(sheet[SIDE:band, SIDE:], GREEN) > 70
    assert (sheet[band + 12 :, 2 * SIDE + 2 * GAP :] == 255).all()  # two in the second row


def test_a_sheet_of_a_segmentation_shows_target_and_decision():
    target = (torch.rand(2, 2, 8, 8) > 0.5).float()
    samples = [(torch.rand(12, 8, 8), mask, (mask - 0.5) * 4) for mask in target]
    sheet = draw_sheet(samples, [[("a", TEXT)], [("b", TEXT)]], "multilabel_segmentation")
    assert sheet.shape == (3 * (SIDE + GAP) + 14, MARGIN + 2 * SIDE + GAP, 3)
    truth, decision = (sheet[top : top + SIDE, MARGIN:] for top in (SIDE + GAP, 2 * (SIDE + GAP)))
    assert (truth == decision).all()


def test_long_names_keep_both_ends():
    assert _cut("short") == "short"
    name = "a/very/long/path/of/folders/in/folders/cat_0001"
    cut = _cut(name)
    first, last = cut.split("..")
    assert name.startswith(first) and name.endswith(last) and abs(len(first) - len(last)) <= 1
    assert 20 < len(cut) < len(name)
