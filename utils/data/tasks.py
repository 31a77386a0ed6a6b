"""What each TASK means: the target's form, how logits become probabilities and decisions.

Letters: N batch, K classes (output channels), H, W pixels. Models give logits, always.

=======================  ============  ========================  ===========  =========
TASK                     logits        target                    probability  decision
=======================  ============  ========================  ===========  =========
binary                   (N, 1)        (N, 1) float, 0..1        sigmoid      logit > 0
multiclass               (N, K)        (N,) int64, 0..K-1        softmax      argmax
multilabel               (N, K)        (N, K) float, 0..1        sigmoid      logit > 0
binary_segmentation      (N, 1, H, W)  (N, 1, H, W) float, 0..1  sigmoid      logit > 0
multiclass_segmentation  (N, K, H, W)  (N, H, W) int64, 0..K-1   softmax      argmax
multilabel_segmentation  (N, K, H, W)  (N, K, H, W) float, 0..1  sigmoid      logit > 0
embedding                (N, D)        (N,) int64, identity *    none         none
regression               (N, ...)      (N, ...) float, finite    none         none
=======================  ============  ========================  ===========  =========

* or {"label": (N,) int64, "gallery": (N,) bool}: queries (False) are searched in the gallery
(True) alone.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from config.errors import did_you_mean

# task -> (activation, shape of the target); any shape where none is given
_TASKS = {
    "binary": ("sigmoid", "N 1"),
    "multiclass": ("softmax", "N"),
    "multilabel": ("sigmoid", "N K"),
    "binary_segmentation": ("sigmoid", "N 1 H W"),
    "multiclass_segmentation": ("softmax", "N H W"),
    "multilabel_segmentation": ("sigmoid", "N K H W"),
    "embedding": ("none", "N"),
    "regression": ("none", None),
}
TASKS = tuple(_TASKS)


def activation(task: str) -> str:
    """Return what turns the logits of a task into probabilities: "sigmoid", "softmax" or "none".

    Raises:
        ValueError: The task is unknown.
    """
    if task not in TASKS:
        hint = did_you_mean(str(task), TASKS)
        raise ValueError(f"TASK: expected one of {', '.join(TASKS)}, got {task!r}.{hint}")
    return _TASKS[task][0]


def probabilities(logits: Tensor, task: str) -> Tensor:
    """Turn logits into probabilities.

    Args:
        logits: (N, K) or (N, K, H, W) float, what the model gives.
        task: One of TASKS.

    Returns:
        Same shape and dtype, in [0, 1]; the logits themselves for embedding and regression.

    Raises:
        ValueError: The task is unknown.
    """
    kind = activation(task)
    if kind == "sigmoid":
        return logits.sigmoid()
    return logits.softmax(dim=1) if kind == "softmax" else logits


def decide(logits: Tensor, task: str) -> Tensor:
    """Turn logits into decisions; a probability of exactly one half is a no.

    Args:
        logits: (N, K) or (N, K, H, W) float, what the model gives.
        task: One of TASKS.

    Returns:
        Binary and multilabel: same shape, bool. Multiclass: (N,) or (N, H, W) int64, the class.
        Embedding and regression: the logits themselves.

    Raises:
        ValueError: The task is unknown.
    """
    kind = activation(task)
    if kind == "sigmoid":
        return logits > 0
    return logits.argmax(dim=1) if kind == "softmax" else logits


def label_of(target: Any, task: str | None) -> Any:
    """Return the identities of an embedding's target, and every other target as it is."""
    is_dict = task == "embedding" and isinstance(target, Mapping)
    return target.get("label", target) if is_dict else target


def check_target(
    target: Any, task: str, n_classes: int | None = None, ignore_index: int | None = None
) -> str | None:
    """Say in one line what is wrong with the targets of a batch, or None when they fit the task.

    Args:
        target: A batch of targets as the table above has them.
        task: One of TASKS.
        n_classes: K, the outputs of the model; None leaves it unchecked. Binary tasks have one
            whatever it says, and identities of an embedding are not bound by it: validation
            shows new ones.
        ignore_index: A value that loss and metrics leave out.

    Raises:
        ValueError: The task is unknown.
    """
    kind = activation(task)
    shape = _TASKS[task][1]
    if task == "embedding" and isinstance(target, Mapping):
        gallery, target = target.get("gallery"), target.get("label")
        if not all(isinstance(part, Tensor) and part.ndim == 1 for part in (gallery, target)):
            return "target: expected label (N,) and gallery (N,) in a dict for embedding."
        if gallery.dtype != torch.bool:
            return f"target: expected gallery as bool for embedding, got {gallery.dtype}."
    if shape is not None and not _has_shape(target, shape.split(), n_classes):
        rule = shape.replace("K", str(n_classes or "K")).replace(" ", ", ")
        return f"target: expected shape ({rule}) for {task}, got {tuple(target.shape)}."
    if task == "regression":
        if not target.is_floating_point() or not target.isfinite().all():
            return f"target: expected finite floats for {task}, got {_values(target)}."
        return None
    if kind == "sigmoid":
        bad = ~((target >= 0) & (target <= 1))  # written so that NaN is bad
        rule, remedy = "values in [0, 1]", "Map them, for files by label_values={0: 0, 255: 1}."
    else:
        if target.dtype != torch.int64:
            return f"target: expected int64 for {task}, got {target.dtype}. Convert by .long()."
        bad = target < 0
        rule, remedy = "numbers from 0", "Number them from 0, for files by label_values."
        if n_classes is not None and task != "embedding":
            bad = bad | (target >= n_classes)
            rule = f"classes 0..{n_classes - 1}"
            remedy = "Map them, for files by label_values, or give the model more outputs."
    if ignore_index is not None:
        bad = bad & (target != ignore_index)
    if bad.any():
        return f"target: expected {rule} for {task}, got {_values(target[bad])}. {remedy}"
    return None


def _has_shape(target: Tensor, shape: list[str], n_classes: int | None) -> bool:
    sizes = {"1": 1, "K": n_classes}
    return target.ndim == len(shape) and all(
        sizes.get(letter) in (None, size) for letter, size in zip(shape, target.shape, strict=True)
    )


def _values(target: Tensor) -> str:
    found = target.unique().tolist()
    return ", ".join(f"{value:g}" for value in found[:5]) + (", ..." if len(found) > 5 else "")
