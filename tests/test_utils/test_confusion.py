import numpy as np
import pytest
import torch
from sklearn.metrics import classification_report, confusion_matrix, multilabel_confusion_matrix

from utils.confusion import count_confusion, score_classes

NAMES = ["a", "b", "c", "d"]


def make(task, n=200, k=4, seed=0):
    """Return logits and targets of a task; of pictures of 3 x 5 pixels, if it is a segmentation."""
    generator = torch.Generator().manual_seed(seed)
    pixels = (3, 5) if task.endswith("_segmentation") else ()
    k = 1 if task.startswith("binary") else k
    logits = torch.randn(n, k, *pixels, generator=generator)
    if task.startswith("multiclass"):
        target = torch.randint(0, k - 1, (n, *pixels), generator=generator)  # "d" is never true
    else:
        target = (torch.rand(n, k, *pixels, generator=generator) < 0.3).float()
    return logits, target


def in_batches(task, batch_size, **options):
    logits, target = make(task)
    parts = zip(logits.split(batch_size), target.split(batch_size), strict=True)
    return sum(count_confusion(*part, task, **options) for part in parts)


@pytest.mark.parametrize("batch_size", [1, 64, 200])
@pytest.mark.parametrize("task", ["multiclass", "multiclass_segmentation"])
def test_classes_as_scikit_learn_counts_them(task, batch_size):
    logits, target = make(task)
    expected = confusion_matrix(target.flatten(), logits.argmax(1).flatten(), labels=range(4))
    found = in_batches(task, batch_size)
    assert found.dtype == torch.int64 and (found.numpy() == expected).all()


@pytest.mark.parametrize("task", ["binary", "binary_segmentation"])
def test_yes_and_no(task):
    logits, target = make(task)
    expected = confusion_matrix(target.flatten(), logits.flatten() > 0)
    assert (in_batches(task, 30).numpy() == expected).all()


@pytest.mark.parametrize("task", ["multilabel", "multilabel_segmentation"])
def test_labels_have_a_table_each(task):
    logits, target = make(task)
    of_samples = [x.movedim(1, -1).reshape(-1, 4) for x in (target, logits > 0)]
    expected = multilabel_confusion_matrix(*of_samples)
    assert (in_batches(task, 30).numpy() == expected).all()


@pytest.mark.parametrize("task", ["regression", "embedding"])
def test_a_task_that_decides_nothing(task):
    assert count_confusion(torch.rand(3, 2), torch.rand(3, 2), task) is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_what_is_left_out(dtype):
    logits, target = make("multiclass_segmentation")
    full = count_confusion(logits, target, "multiclass_segmentation")
    ignored = count_confusion(logits, target.to(dtype), "multiclass_segmentation", 1)
    assert (ignored[[0, 2, 3]] == full[[0, 2, 3]]).all() and not ignored[1].any()
    outside = torch.where(target == 1, 255, target).to(dtype)
    assert (count_confusion(logits, outside, "multiclass_segmentation") == ignored).all()
    logits, target = make("multilabel")
    target[:50] = -1
    kept = count_confusion(logits[50:], target[50:], "multilabel")
    assert (count_confusion(logits, target, "multilabel", -1) == kept).all()


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "binary"])
def test_scores_are_those_of_scikit_learn(task):
    logits, target = make(task)
    names = ["no", "yes"] if task == "binary" else NAMES
    found = {row["class"]: row for row in score_classes(in_batches(task, 64).numpy(), names)}
    pred = logits.argmax(1) if task == "multiclass" else logits > 0
    report = classification_report(
        target.int().squeeze(), pred.int().squeeze(), labels=range(len(names)),
        target_names=names, output_dict=True, zero_division=0,
    )  # fmt: skip
    for name in names:
        expected = report[name]
        row = found[name]
        assert row["support"] == expected["support"]
        values = [row[key] for key in ("precision", "recall", "f1")]
        names_there = ("precision", "recall", "f1-score")
        assert values == pytest.approx([expected[key] for key in names_there], abs=1e-15)


def test_intersection_over_union():
    rows = score_classes(np.array([[3, 1], [2, 0]]), ["a", "b"], with_iou=True)
    assert rows[0] == {
        "class": "a", "precision": 0.6, "recall": 0.75, "f1": 6 / 9, "iou": 0.5, "support": 4,
    }  # fmt: skip
    assert rows[1]["iou"] == 0.0 and list(rows[0])[-1] == "support"
    assert score_classes(np.zeros((1, 2, 2), int), ["a"], True)[0]["iou"] == 0.0  # never, nowhere
