"""The confusion matrix: how often which class was decided where which one is true."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.data.tasks import activation, decide


def count_confusion(
    logits: Tensor, target: Tensor, task: str, ignore_index: int | None = None
) -> Tensor | None:
    """Count decisions against truth; the counts of batches add up to those of the set.

    Args:
        logits: As utils.data.tasks says, (N, K) or (N, K, H, W) float.
        target: As utils.data.tasks says; a class outside 0..K - 1 is left out.
        task: One of utils.data.tasks.TASKS.
        ignore_index: A value of the target that is left out.

    Returns:
        (K, K) int64, [true class, decided class], of samples or of pixels; (2, 2) of a binary task,
        (K, 2, 2) of labels. None of a task that decides nothing.
    """
    kind = activation(task)
    if kind == "none":
        return None
    # uint8 would take an ignore_index of -100 for 156
    truth = target if target.is_floating_point() else target.long()
    decision = decide(logits, task)
    kept = torch.ones_like(truth, dtype=torch.bool)
    if ignore_index is not None:
        kept = truth != ignore_index
    if kind == "softmax":
        n_classes = logits.shape[1]
        kept = kept & (truth >= 0) & (truth < n_classes)
        return _count(truth, decision, kept, n_classes)
    pairs = zip((truth > 0.5).unbind(1), decision.unbind(1), kept.unbind(1), strict=True)
    tables = [_count(*of_label, 2) for of_label in pairs]
    return tables[0] if task.startswith("binary") else torch.stack(tables)


def _count(truth: Tensor, decision: Tensor, kept: Tensor, n_classes: int) -> Tensor:
    cells = truth[kept].long() * n_classes + decision[kept].long()
    return torch.bincount(cells, minlength=n_classes**2).view(n_classes, n_classes)


def score_classes(
    confusion: np.ndarray, names: Sequence[str], with_iou: bool = False
) -> list[dict[str, Any]]:
    """Return precision, recall, f1 and support of each class, as scikit-learn's report has them.

    Args:
        confusion: (K, K) or (K, 2, 2) int64, see `count_confusion`.
        names: Of the classes or labels.
        with_iou: Intersection over union as well, the usual one of a segmentation.

    Returns:
        A row of each: `class`, `precision`, `recall`, `f1`, `iou` if wanted, and `support`, how
        often it is true. Where nothing was found or nothing is true, 0.
    """
    if confusion.ndim == 3:
        hits, support = confusion[:, 1, 1], confusion[:, 1].sum(1)
        found = confusion[:, :, 1].sum(1)
    else:
        hits, support, found = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    rows = []
    for name, tp, n_true, n_found in zip(
        names, *map(np.ndarray.tolist, (hits, support, found)), strict=True
    ):
        row = {"class": name, "precision": _ratio(tp, n_found), "recall": _ratio(tp, n_true)}
        row["f1"] = _ratio(2 * tp, n_true + n_found)
        if with_iou:
            row["iou"] = _ratio(tp, n_true + n_found - tp)
        rows.append(row | {"support": n_true})
    return rows


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
