"""Losses `(pred, target) -> scalar`: pred are logits, a loss owns its sigmoid or softmax.

Each computes in float32 under mixed precision, and its gradient is finite for any finite logits.
To add one: write the function here and name it in LOSSES. `precision`, `recall` and `f1` of
utils.metrics can be imported from here too.

Letters: N batch, K output channels, `...` the pixels (H, W).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.metrics import f1, precision, recall

__all__ = [
    "LOSSES",
    "dice_bce_sum",
    "f1",
    "get_loss",
    "multi_class_dice_ce_sum",
    "multi_class_smooth_dice_loss",
    "precision",
    "recall",
    "smooth_dice_loss",
]


def smooth_dice_loss(pred: Tensor, target: Tensor, eps: float = 1.0) -> Tensor:
    """Return one minus the soft Dice coefficient, the mean over samples and channels.

    With p = sigmoid(pred), t = target and sums over the pixels of one sample and channel:

        1 - (2 sum(p t) + eps) / (sum(p) + sum(t) + eps)

    Source: Milletari, Navab, Ahmadi, "V-Net", 2016, arXiv 1606.04797, with sum(p) + sum(t) in place
    of sum(p^2) + sum(t^2); eps makes an empty target with an empty prediction a loss of 0.

    Args:
        pred: (N, K, ...) float, logits.
        target: (N, K, ...), 1 inside the object, 0 outside.
        eps: smoothing, in pixels.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ValueError: the shapes differ, or there are no pixels.
    """
    _check_same_shape("smooth_dice_loss", pred, target)
    return _dice_loss(pred.float().sigmoid(), target.float(), eps)


def dice_bce_sum(pred: Tensor, target: Tensor, bce_weight: float = 1.0, eps: float = 1.0) -> Tensor:
    """Return `smooth_dice_loss` plus the binary cross entropy, the mean over all pixels.

    Args:
        pred: (N, K, ...) float, logits.
        target: (N, K, ...), 1 inside the object, 0 outside.
        bce_weight: factor of the cross entropy.
        eps: smoothing of the Dice coefficient, in pixels.

    Returns:
        Scalar float32, at least 0.

    Raises:
        ValueError: the shapes differ, or there are no pixels.
    """
    _check_same_shape("dice_bce_sum", pred, target)
    pred, target = pred.float(), target.float()
    bce = F.binary_cross_entropy_with_logits(pred, target)
    return _dice_loss(pred.sigmoid(), target, eps) + bce_weight * bce


def multi_class_smooth_dice_loss(pred: Tensor, target: Tensor, eps: float = 1.0) -> Tensor:
    """Return one minus the soft Dice coefficient of each class, the mean over samples and classes.

    Formula and source are those of `smooth_dice_loss`, with p = softmax(pred) over the classes.

    Args:
        pred: (N, K, ...) float, logits, K > 1.
        target: (N, ...) integer, class indices 0..K - 1; or (N, K, ...), one-hot.
        eps: smoothing, in pixels.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ValueError: the shapes do not fit, there are no pixels, or K is 1.
    """
    _check_classes("multi_class_smooth_dice_loss", pred, target)
    prob = pred.float().softmax(1)
    if target.shape != pred.shape:
        target = torch.zeros_like(prob).scatter_(1, target.long().unsqueeze(1), 1.0)
    return _dice_loss(prob, target.float(), eps)


def multi_class_dice_ce_sum(
    pred: Tensor, target: Tensor, ce_weight: float = 1.0, eps: float = 1.0
) -> Tensor:
    """Return `multi_class_smooth_dice_loss` plus the cross entropy, the mean over all pixels.

    Args:
        pred: (N, K, ...) float, logits, K > 1.
        target: (N, ...) integer, class indices 0..K - 1; or (N, K, ...), one-hot.
        ce_weight: factor of the cross entropy.
        eps: smoothing of the Dice coefficient, in pixels.

    Returns:
        Scalar float32, at least 0.

    Raises:
        ValueError: the shapes do not fit, there are no pixels, or K is 1.
    """
    _check_classes("multi_class_dice_ce_sum", pred, target)
    pred = pred.float()
    target = target.float() if target.shape == pred.shape else target.long()
    ce = F.cross_entropy(pred, target)
    return multi_class_smooth_dice_loss(pred, target, eps) + ce_weight * ce


LOSSES = {
    "smooth_dice_loss": smooth_dice_loss,
    "dice_bce_sum": dice_bce_sum,
    "multi_class_smooth_dice_loss": multi_class_smooth_dice_loss,
    "multi_class_dice_ce_sum": multi_class_dice_ce_sum,
}


def get_loss(name: str) -> Callable[..., Tensor]:
    """Return the loss of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in LOSSES:
        raise ValueError(
            f"get_loss: expected one of {', '.join(LOSSES)}, got {name!r}. Name one of these."
        )
    return LOSSES[name]


def _dice_loss(prob: Tensor, target: Tensor, eps: float) -> Tensor:
    prob, target = prob.flatten(2), target.flatten(2)  # (N, K, pixels)
    both = (prob * target).sum(2)
    return (1 - (2 * both + eps) / (prob.sum(2) + target.sum(2) + eps)).mean()


def _check_same_shape(where: str, pred: Tensor, target: Tensor) -> None:
    # Unequal shapes would be broadcast: (N, 1, H, W) with (N, H, W) gives (N, N, H, W).
    if pred.shape != target.shape or pred.ndim < 3:
        raise ValueError(
            f"{where}: expected pred and target of one shape (N, K, ...), got {tuple(pred.shape)} "
            f"and {tuple(target.shape)}. Give the target a channel axis: target.unsqueeze(1)."
        )


def _check_classes(where: str, pred: Tensor, target: Tensor) -> None:
    indices = not target.is_floating_point() and pred.shape[:1] + pred.shape[2:] == target.shape
    if pred.ndim < 3 or pred.shape[1] < 2 or not (indices or pred.shape == target.shape):
        raise ValueError(
            f"{where}: expected pred (N, K, ...), K > 1, and integer target (N, ...) or one-hot "
            f"(N, K, ...), got {tuple(pred.shape)} and {tuple(target.shape)} of {target.dtype}. "
            "For one channel use a binary loss."
        )
