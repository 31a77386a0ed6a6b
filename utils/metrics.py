"""Metrics of a whole data set, whatever the batch size.

Each is a function `(pred, target) -> scalar` of one batch: `accuracy`, `precision`, `recall`, `f1`,
`iou` of classes, `mae`, `rmse`, `r2` of numbers, and those of embeddings, which are explained in
utils.retrieval. All but the last carry a counts form, with which `Metrics` gets the value of a
whole set from its batches:

    f1.counts(pred, target) -> sums      numbers that add up over batches
    f1.compute(sums) -> float

Counts of decisions are integers, so the value has the same bits for any batch size; sums of errors
are float64, where the order of adding shows in the last digits.

A function of your own gets the same by setting the two attributes. An option is bound by
`partial(iou, ignore_index=255)`. docs/losses.rst says which metric is for which TASK.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from utils.metric_bag import Metrics, as_metrics
from utils.retrieval import cmc, mean_average_precision, recall_at_k

__all__ = [
    "Metrics",
    "accuracy",
    "as_metrics",
    "cmc",
    "f1",
    "iou",
    "mae",
    "mean_average_precision",
    "precision",
    "r2",
    "recall",
    "recall_at_k",
    "rmse",
]

Average = Literal["macro", "micro", "none"]
_AVERAGES = (None, "macro", "micro", "none")


# ---- decisions


def _fit_shapes(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return pred and target, of one shape where that is meant, or say what does not fit.

    The one place that decides the task of the counted metrics, from the shapes of pred and target:
    - equal shapes: binary or multilabel;
    - (N, 1, ...) with (N, ...): binary, the target gets the channel;
    - (N, K, ...) with integer (N, ...), K > 1: multiclass.

    Args:
        pred: any of the shapes above, logits.
        target: any of the shapes above; 1 or 0, or class indices.

    Raises:
        TypeError: pred or target is no tensor.
        ValueError: no rule fits the two shapes.
    """
    if not (isinstance(pred, Tensor) and isinstance(target, Tensor)):
        raise TypeError(
            "metrics: expected pred and target as tensors, got "
            f"{type(pred).__name__} and {type(target).__name__}. "
            "Write a function that picks the tensors and calls the metric."
        )
    if pred.shape == target.shape:
        return pred, target
    if pred.ndim > 1 and pred.shape[:1] + pred.shape[2:] == target.shape:
        if pred.shape[1] == 1:
            return pred, target.unsqueeze(1)
        if not target.is_floating_point() and target.dtype != torch.bool:
            return pred, target
    raise ValueError(
        "metrics: expected pred (N, K, ...) with integer target (N, ...), pred (N, 1, ...) with "
        f"target (N, ...), or equal shapes, got pred {tuple(pred.shape)} and target "
        f"{tuple(target.shape)} of {target.dtype}. Bring the target into one of these forms."
    )


def _sum(x: Tensor, average: Average | None) -> Tensor:
    """Return the sum of each channel, (K,), where they have values of their own, else of all."""
    channels = x.unbind(1) if average in ("macro", "none") and x.ndim > 1 else [x]
    # torch.sum of flags makes integers of them first and is some ten times as slow.
    add = torch.count_nonzero if x.dtype == torch.bool else torch.sum
    return torch.stack([add(channel) for channel in channels])


def _check_average(average: Average | None) -> None:
    if average not in _AVERAGES:
        raise ValueError(
            f"metrics: expected average as one of {', '.join(map(repr, _AVERAGES))}, got "
            f"{average!r}. Name one of these."
        )


def _histogram(index: Tensor, num_classes: int) -> Tensor:
    """Count the indices 0..num_classes - 1; index num_classes is left out."""
    # torch.bincount waits for the GPU to learn the size of its result, this does not.
    bins = torch.zeros(num_classes + 1, dtype=torch.int64, device=index.device)
    return bins.index_add_(0, index, torch.ones_like(index))[:num_classes]


def _count_decisions(
    pred: Tensor,
    target: Tensor,
    average: Average | None = None,
    ignore_index: int | None = None,
    k: int = 1,
) -> Tensor:
    """Count right and wrong decisions, on the device of pred and without waiting for it.

    Args:
        pred: (N, K, ...), (N, 1, ...) or (N, ...) float, logits; half precision will do.
        target: class indices or 1 and 0, see `_fit_shapes`.
        average: "macro" and "none" count each label of a multilabel target by itself.
        ignore_index: value of the target that is left out.
        k: a true class among the k highest counts as found.

    Returns:
        (5, K) int64, sums over samples and pixels: true positives, false positives, false
        negatives, true negatives of each class; labels that are no class, in each column. K is 1 in
        the binary case, and in the multilabel case unless `average` asks for each label.
    """
    _check_average(average)
    pred, target = _fit_shapes(pred, target)
    is_binary = pred.shape == target.shape
    if k != 1 and (k < 1 or is_binary):
        raise ValueError(
            f"accuracy: expected k from 1 on, and 1 for yes against no, got {k} for pred "
            f"{tuple(pred.shape)} and target {tuple(target.shape)}. Leave k out, or raise it."
        )
    if not target.is_floating_point():
        target = target.long()  # uint8 would take an ignore_index of -100 for 156
    kept = torch.ones_like(target, dtype=torch.bool)
    if ignore_index is not None:
        kept = target != ignore_index
    if is_binary:
        found, there = (pred > 0) & kept, (target > 0.5) & kept
        sets = (found & there, found, there, kept)
        hits, found, there, total = (_sum(x, average) for x in sets)
        outside = torch.zeros_like(hits)
    else:
        num_classes = pred.shape[1]
        if k == 1:
            found = pred.argmax(1)
        else:
            highest = pred.topk(min(k, num_classes), dim=1).indices
            found = torch.where((highest == target.unsqueeze(1)).any(1), target, highest[:, 0])
        is_class = (target >= 0) & (target < num_classes)
        outside, total = (torch.count_nonzero(x) for x in (kept & ~is_class, kept))
        there = torch.where(kept & is_class, target, num_classes)
        # A class that is left out is not looked for elsewhere either: it has no value of its own.
        counted = kept & (found != ignore_index) if ignore_index is not None else kept
        found = torch.where(counted, found, num_classes)
        hits = torch.where(found == there, found, num_classes)
        hits, found, there = (_histogram(x.flatten(), num_classes) for x in (hits, found, there))
    rest = total - found - there + hits
    return torch.stack((hits, found - hits, there - hits, rest, outside.expand_as(hits)))


def _per_class(sums: Tensor) -> list[list[int]]:
    """Return [tp, fp, fn, tn] of each class.

    Raises:
        ValueError: a multiclass target had values outside 0..K - 1.
    """
    classes = sums.T.tolist()
    outside = classes[0][4]
    if outside:
        raise ValueError(
            f"metrics: expected class indices 0..{len(classes) - 1} in the target, got {outside} "
            "values outside. Correct the labels or the number of output channels, or name a value "
            "that stands for no class: partial(iou, ignore_index=255)."
        )
    return [column[:4] for column in classes]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _score(
    sums: Tensor, average: Average | None = None, *, ratio: Callable[[int, int, int], float]
) -> float | list[float]:
    """Return ratio(tp, fp, fn), averaged over the classes that were predicted or are true."""
    classes = [column[:3] for column in _per_class(sums)]
    if average == "none":
        return [ratio(*column) if any(column) else math.nan for column in classes]
    if average == "micro":
        classes = [[sum(numbers) for numbers in zip(*classes, strict=True)]]
    values = [ratio(*column) for column in classes if any(column)]
    return _ratio(math.fsum(values), len(values))


def _accuracy_of(sums: Tensor) -> float:
    classes = _per_class(sums)
    right = sum(tp for tp, _, _, _ in classes)
    if len(classes) == 1:
        right += classes[0][3]
    return _ratio(right, sum(classes[0]))


def _of_batch(metric: Any, pred: Tensor, target: Tensor, *options: Any) -> Tensor:
    """Return the value of one batch; options: average and what else the counts take."""
    sums = metric.counts(pred, target, *options)
    return torch.tensor(metric.compute(sums, *options[:1]), device=pred.device)


def accuracy(pred: Tensor, target: Tensor, k: int = 1, ignore_index: int | None = None) -> Tensor:
    """Return the share of right decisions.

    Args:
        pred: (N, K, ...) float, logits of K classes; or any shape, logits of yes against no.
        target: (N, ...) integer, class indices 0..K - 1; or the shape of pred (or that without its
            only channel), 1 inside the object, 0 outside.
        k: of several classes, it is right to have the true one among the k highest logits.
        ignore_index: value of the target where a sample or pixel is left out.

    Returns:
        Scalar float in [0, 1].

    Raises:
        TypeError: pred or target is no tensor.
        ValueError: the shapes do not fit, a class index is outside 0..K - 1 and is not
            ignore_index, or k is below 1, or above it without classes.
    """
    sums = _count_decisions(pred, target, ignore_index=ignore_index, k=k)
    return torch.tensor(_accuracy_of(sums), device=pred.device)


def precision(
    pred: Tensor,
    target: Tensor,
    average: Average | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Return the share of true among the found, tp / (tp + fp).

    Nothing found is 0. Same as scikit-learn's `precision_score` with zero_division 0.

    Args:
        pred: see `accuracy`.
        target: see `accuracy`.
        average: "macro": the mean over the classes or labels that occur in prediction or truth;
            "micro": of the decisions of all together; "none": a value for each, nan where it
            occurs in neither. None is macro for class indices, micro for a multilabel target.
            A binary target has one value, that of 1.
        ignore_index: see `accuracy`. If it is a class, that class has no value.

    Returns:
        Scalar float in [0, 1]; (K,) with "none".

    Raises:
        TypeError: pred or target is no tensor.
        ValueError: the shapes do not fit, a class index is outside 0..K - 1 and is not
            ignore_index, or average is none of the above.
    """
    return _of_batch(precision, pred, target, average, ignore_index)


def recall(
    pred: Tensor,
    target: Tensor,
    average: Average | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Return the share of found among the true, tp / (tp + fn).

    Arguments and rules are those of `precision`; nothing true is 0.
    """
    return _of_batch(recall, pred, target, average, ignore_index)


def f1(
    pred: Tensor,
    target: Tensor,
    average: Average | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Return the harmonic mean of precision and recall (Dice), 2 tp / (2 tp + fp + fn).

    Arguments and rules are those of `precision`; nothing found and nothing true is 0.
    """
    return _of_batch(f1, pred, target, average, ignore_index)


def iou(
    pred: Tensor,
    target: Tensor,
    average: Average | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Return the intersection over the union (Jaccard index), tp / (tp + fp + fn).

    Arguments and rules are those of `precision`; nothing found and nothing true is 0.
    """
    return _of_batch(iou, pred, target, average, ignore_index)


accuracy.counts = _count_decisions
accuracy.compute = _accuracy_of
precision.counts = _count_decisions
precision.compute = partial(_score, ratio=lambda tp, fp, fn: _ratio(tp, tp + fp))
recall.counts = _count_decisions
recall.compute = partial(_score, ratio=lambda tp, fp, fn: _ratio(tp, tp + fn))
f1.counts = _count_decisions
f1.compute = partial(_score, ratio=lambda tp, fp, fn: _ratio(2 * tp, 2 * tp + fp + fn))
iou.counts = _count_decisions
iou.compute = partial(_score, ratio=lambda tp, fp, fn: _ratio(tp, tp + fp + fn))


# ---- numbers


def _sum_errors(pred: Tensor, target: Tensor, average: Average | None = None) -> Tensor:
    """Add up what mae, rmse and r2 are made of, on the device of pred.

    Returns:
        (5, K) float64: number of values, sums of |error|, error^2, target and target^2. K is 1
        unless `average` asks for each output.
    """
    _check_average(average)
    pred, target = _fit_shapes(pred, target)
    if pred.shape != target.shape:
        raise ValueError(
            f"metrics: expected pred and target of one shape, got {tuple(pred.shape)} and "
            f"{tuple(target.shape)} of {target.dtype}. Of class indices take accuracy or f1."
        )
    target = target.double()
    error = pred.double() - target
    sums = (
        _sum(torch.ones_like(target, dtype=torch.bool), average),
        _sum(error.abs(), average),
        _sum(error.square(), average),
        _sum(target, average),
        _sum(target.square(), average),
    )
    return torch.stack(sums)


def _error(
    sums: Tensor, average: Average | None = None, *, value: Callable[..., float]
) -> float | list[float]:
    values = [value(*column) for column in sums.T.tolist()]
    return values if average == "none" else math.fsum(values) / len(values)


def _r2_of(n: float, _: float, squares: float, total: float, total_squares: float) -> float:
    spread = total_squares - _ratio(total * total, n)
    # What rounding leaves of a constant target is no spread.
    if spread <= 1e-10 * total_squares:
        return float(squares == 0)
    return 1 - squares / spread


def mae(pred: Tensor, target: Tensor, average: Average | None = None) -> Tensor:
    """Return the mean absolute error.

    Args:
        pred: (N, ...) float.
        target: the shape of pred, or that without its only channel.
        average: "macro": the mean of the values of the outputs (channels, axis 1), as scikit-learn
            has it; "none": a value for each. None and "micro": of all values together.

    Returns:
        Scalar float, in the unit of the target; (K,) with "none".

    Raises:
        TypeError: pred or target is no tensor.
        ValueError: the shapes do not fit, or average is none of the above.
    """
    return _of_batch(mae, pred, target, average)


def rmse(pred: Tensor, target: Tensor, average: Average | None = None) -> Tensor:
    """Return the root of the mean squared error. Arguments are those of `mae`."""
    return _of_batch(rmse, pred, target, average)


def r2(pred: Tensor, target: Tensor, average: Average | None = None) -> Tensor:
    """Return the coefficient of determination: 1 is perfect, 0 is the mean of the target.

    Arguments are those of `mae`. Of a target that is constant (its spread is below 1e-5 of its
    size) it is 1 without any error and 0 with one, which is scikit-learn's rule.
    """
    return _of_batch(r2, pred, target, average)


mae.counts = _sum_errors
mae.compute = partial(_error, value=lambda n, absolute, *_: _ratio(absolute, n))
rmse.counts = _sum_errors
rmse.compute = partial(_error, value=lambda n, _, squares, *__: math.sqrt(_ratio(squares, n)))
r2.counts = _sum_errors
r2.compute = partial(_error, value=_r2_of)
