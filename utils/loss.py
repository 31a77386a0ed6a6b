"""Losses `(pred, target) -> scalar`: pred are logits, a loss owns its sigmoid or softmax.

Each computes in float32 under mixed precision, and its gradient is finite for any finite logits.
Where the target is `ignore_index`, a pixel is left out of sums and counts, whatever the network
gives there; a batch of nothing else has a loss of 0. A mask goes into the target:
`target.masked_fill(~mask, 255)` with `ignore_index=255`.

To add one: write the function here and name it in LOSSES. `precision`, `recall` and `f1` of
utils.metrics can be imported from here too. docs/losses.rst says which loss is for which TASK.

Letters: N batch, K output channels, `...` the pixels (H, W).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config.errors import did_you_mean
from utils.metrics import f1, precision, recall

__all__ = [
    "LOSSES",
    "FocalLoss",
    "dice_bce_sum",
    "f1",
    "focal_loss",
    "get_loss",
    "multi_class_dice_ce_sum",
    "multi_class_smooth_dice_loss",
    "precision",
    "recall",
    "smooth_dice_beta_loss",
    "smooth_dice_loss",
]


def smooth_dice_loss(
    pred: Tensor, target: Tensor, eps: float = 1.0, ignore_index: int | None = None
) -> Tensor:
    """Return one minus the soft Dice coefficient, the mean over samples and channels.

    With p = sigmoid(pred), t = target and sums over the pixels of one sample and channel:

        1 - (2 sum(p t) + eps) / (sum(p) + sum(t) + eps)

    Source: Milletari, Navab, Ahmadi, "V-Net", 2016, arXiv 1606.04797, with sum(p) + sum(t) in place
    of sum(p^2) + sum(t^2); eps makes an empty target with an empty prediction a loss of 0.

    Args:
        pred: (N, K, ...) float, logits.
        target: (N, K, ...), 1 inside the object, 0 outside.
        eps: smoothing, in pixels, above 0.
        ignore_index: value of the target where a pixel is left out; a sample and channel without
            any other is left out of the mean.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ValueError: the shapes differ, or there are no pixels.
    """
    _check_same_shape("smooth_dice_loss", pred, target)
    target, kept = _leave_out(target.float(), ignore_index)
    return _dice_loss(pred.float().sigmoid(), target, kept, eps)


def smooth_dice_beta_loss(
    pred: Tensor,
    target: Tensor,
    beta: float = 1.0,
    eps: float = 1.0,
    ignore_index: int | None = None,
) -> Tensor:
    """Return one minus the soft F-beta score, the mean over samples and channels.

    A pixel missed weighs beta^2 times one found wrongly: above 1 for recall, below 1 for precision,
    1 is `smooth_dice_loss`. With the letters used there:

        1 - ((1 + beta^2) sum(p t) + eps) / (sum(p) + beta^2 sum(t) + eps)

    Source: Salehi, Erdogmus, Gholipour, "Tversky loss", 2017, arXiv 1706.05721, with their
    alpha = 1 / (1 + beta^2), the weight of the found wrongly, and 1 - alpha, that of the missed.

    Args:
        pred: (N, K, ...) float, logits.
        target: (N, K, ...), 1 inside the object, 0 outside.
        beta: at least 0.
        eps: smoothing, in pixels, above 0.
        ignore_index: see `smooth_dice_loss`.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ValueError: the shapes differ, or there are no pixels.
    """
    _check_same_shape("smooth_dice_beta_loss", pred, target)
    target, kept = _leave_out(target.float(), ignore_index)
    return _dice_loss(pred.float().sigmoid(), target, kept, eps, beta)


def dice_bce_sum(
    pred: Tensor,
    target: Tensor,
    bce_weight: float = 1.0,
    eps: float = 1.0,
    ignore_index: int | None = None,
) -> Tensor:
    """Return `smooth_dice_loss` plus the binary cross entropy, the mean over all pixels.

    Args:
        pred: (N, K, ...) float, logits.
        target: (N, K, ...), 1 inside the object, 0 outside.
        bce_weight: factor of the cross entropy.
        eps: smoothing of the Dice coefficient, in pixels, above 0.
        ignore_index: see `smooth_dice_loss`.

    Returns:
        Scalar float32, at least 0.

    Raises:
        ValueError: the shapes differ, or there are no pixels.
    """
    _check_same_shape("dice_bce_sum", pred, target)
    pred = pred.float()
    target, kept = _leave_out(target.float(), ignore_index)
    bce = _mean(F.binary_cross_entropy_with_logits(pred, target, reduction="none"), kept)
    return _dice_loss(pred.sigmoid(), target, kept, eps) + bce_weight * bce


def multi_class_smooth_dice_loss(
    pred: Tensor, target: Tensor, eps: float = 1.0, ignore_index: int | None = None
) -> Tensor:
    """Return one minus the soft Dice coefficient of each class, the mean over samples and classes.

    Formula and source are those of `smooth_dice_loss`, with p = softmax(pred) over the classes.

    Args:
        pred: (N, K, ...) float, logits, K > 1.
        target: (N, ...) integer, class indices 0..K - 1; or (N, K, ...), one-hot.
        eps: smoothing, in pixels, above 0.
        ignore_index: value of the target where a pixel is left out (one-hot: in any channel); a
            sample without any other is left out of the mean.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ValueError: the shapes do not fit, there are no pixels, or K is 1.
    """
    _check_classes("multi_class_smooth_dice_loss", pred, target)
    target, kept = _leave_out_pixels(target, ignore_index, pred.shape)
    return _multi_class_dice_loss(pred.float(), target, kept, eps)


def multi_class_dice_ce_sum(
    pred: Tensor,
    target: Tensor,
    ce_weight: float = 1.0,
    eps: float = 1.0,
    ignore_index: int | None = None,
) -> Tensor:
    """Return `multi_class_smooth_dice_loss` plus the cross entropy, the mean over all pixels.

    Args:
        pred: (N, K, ...) float, logits, K > 1.
        target: (N, ...) integer, class indices 0..K - 1; or (N, K, ...), one-hot.
        ce_weight: factor of the cross entropy.
        eps: smoothing of the Dice coefficient, in pixels, above 0.
        ignore_index: see `multi_class_smooth_dice_loss`.

    Returns:
        Scalar float32, at least 0.

    Raises:
        ValueError: the shapes do not fit, there are no pixels, or K is 1.
    """
    _check_classes("multi_class_dice_ce_sum", pred, target)
    pred = pred.float()
    target, kept = _leave_out_pixels(target, ignore_index, pred.shape)
    ce = F.cross_entropy(pred, target, reduction="none").unsqueeze(1)
    return _multi_class_dice_loss(pred, target, kept, eps) + ce_weight * _mean(ce, kept)


def focal_loss(
    pred: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float | Sequence[float] | Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Return the focal loss: the cross entropy, in which what is sure already weighs little.

    With p the probability of what is true, the mean over samples, pixels and labels:

        -alpha (1 - p)^gamma log(p)

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, arXiv 1708.02002, who take
    gamma 2 and alpha 0.25, and divide by the number of objects in place of the mean.

    Args:
        pred: (N, K, ...) float, logits; (N,) will do for yes against no.
        target: the shape of pred, 1 inside the object, 0 outside (binary and multilabel, p by
            sigmoid); or (N, ...) integer, class indices 0..K - 1 (p by softmax).
        gamma: at least 0; 0 is the cross entropy.
        alpha: binary and multilabel: weight of the ones in [0, 1], that of the zeros is 1 - alpha;
            class indices: K weights. None weighs all alike.
        ignore_index: value of the target where a sample or pixel is left out.

    Returns:
        Scalar float32, at least 0.

    Raises:
        ValueError: the shapes do not fit, or alpha does not.
    """
    is_binary = pred.shape == target.shape
    if not is_binary and not _is_indices(pred, target):
        raise ValueError(
            "focal_loss: expected pred and target of one shape, or pred (N, K, ...), K > 1, and "
            f"integer target (N, ...), got {tuple(pred.shape)} and {tuple(target.shape)} of "
            f"{target.dtype}. For one channel give the target a channel axis: target.unsqueeze(1)."
        )
    if alpha is not None:
        alpha = torch.as_tensor(alpha, dtype=torch.float32, device=pred.device)
        if alpha.shape != (() if is_binary else pred.shape[1:2]):
            rule = "one number" if is_binary else f"{pred.shape[1]} weights"
            raise ValueError(
                f"focal_loss: expected {rule} as alpha for pred {tuple(pred.shape)} and target "
                f"{tuple(target.shape)}, got {alpha.tolist()}. Leave it out to weigh all alike."
            )
    pred = pred.float()
    target, kept = _leave_out(target.float() if is_binary else target.long(), ignore_index)
    if is_binary:
        loss = F.binary_cross_entropy_with_logits(pred, target, reduction="none")
        unsure = target * (-pred).sigmoid() + (1 - target) * pred.sigmoid()
        weight = None if alpha is None else alpha * target + (1 - alpha) * (1 - target)
    else:
        loss = F.cross_entropy(pred, target, reduction="none")
        unsure = -torch.expm1(-loss)
        weight = None if alpha is None else alpha[target]
    # The slope of 0^gamma is infinite for gamma below 1.
    loss = unsure.clamp(min=1e-30) ** gamma * loss
    return _mean(loss if weight is None else weight * loss, kept)


class FocalLoss(nn.Module):
    """`focal_loss` as a module, with the same arguments."""

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.gamma, self.ignore_index = gamma, ignore_index
        # A buffer, so that weights are on the device once and not sent there with each batch.
        alpha = None if alpha is None else torch.as_tensor(alpha, dtype=torch.float32)
        self.register_buffer("alpha", alpha, persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch, see `focal_loss`."""
        return focal_loss(pred, target, self.gamma, self.alpha, self.ignore_index)


LOSSES = {
    "smooth_dice_loss": smooth_dice_loss,
    "smooth_dice_beta_loss": smooth_dice_beta_loss,
    "dice_bce_sum": dice_bce_sum,
    "multi_class_smooth_dice_loss": multi_class_smooth_dice_loss,
    "multi_class_dice_ce_sum": multi_class_dice_ce_sum,
    "focal_loss": focal_loss,
}


def get_loss(name: str) -> Callable[..., Tensor]:
    """Return the loss of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in LOSSES:
        raise ValueError(
            f"get_loss: expected one of {', '.join(LOSSES)}, got {name!r}."
            f"{did_you_mean(str(name), LOSSES)} Name one of these."
        )
    return LOSSES[name]


def _dice_loss(
    prob: Tensor, target: Tensor, kept: Tensor | None, eps: float, beta: float = 1.0
) -> Tensor:
    if kept is not None:
        prob, target = prob * kept, target * kept
        kept = kept.flatten(2).any(2).expand(prob.shape[:2])  # of which something is left
    prob, target = prob.flatten(2), target.flatten(2)  # (N, K, pixels)
    both, weight = (prob * target).sum(2), beta * beta
    whole = prob.sum(2) + weight * target.sum(2)
    return _mean(1 - ((1 + weight) * both + eps) / (whole + eps), kept)


def _multi_class_dice_loss(pred: Tensor, target: Tensor, kept: Tensor | None, eps: float) -> Tensor:
    prob = pred.softmax(1)
    if target.shape != pred.shape:
        target = torch.zeros_like(prob).scatter_(1, target.unsqueeze(1), 1.0)
    return _dice_loss(prob, target, kept, eps)


def _leave_out(target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor | None]:
    """Return the target with 0 for ignore_index, and where it was something else, bool."""
    if ignore_index is None:
        return target, None
    kept = target != ignore_index
    return target * kept, kept


def _leave_out_pixels(
    target: Tensor, ignore_index: int | None, shape: torch.Size
) -> tuple[Tensor, Tensor | None]:
    """Return class indices int64 or one-hot float32, and the pixels kept, (N, 1, ...) bool."""
    if target.shape != shape:
        target, kept = _leave_out(target.long(), ignore_index)
        return target, None if kept is None else kept.unsqueeze(1)
    target, kept = _leave_out(target.float(), ignore_index)
    return target, None if kept is None else kept.all(1, keepdim=True)


def _mean(values: Tensor, kept: Tensor | None) -> Tensor:
    """Return the mean of the values kept; 0 where there are none."""
    return values.mean() if kept is None else (values * kept).sum() / kept.sum().clamp(min=1)


def _is_indices(pred: Tensor, target: Tensor) -> bool:
    """Tell whether these are logits of several classes and class indices."""
    is_integer = not (target.is_floating_point() or target.dtype == torch.bool)
    is_right = pred.ndim > 1 and pred.shape[:1] + pred.shape[2:] == target.shape
    return is_integer and is_right and pred.shape[1] > 1


def _check_same_shape(where: str, pred: Tensor, target: Tensor) -> None:
    # Unequal shapes would be broadcast: (N, 1, H, W) with (N, H, W) gives (N, N, H, W).
    if pred.shape != target.shape or pred.ndim < 3:
        raise ValueError(
            f"{where}: expected pred and target of one shape (N, K, ...), got {tuple(pred.shape)} "
            f"and {tuple(target.shape)}. Give the target a channel axis: target.unsqueeze(1)."
        )


def _check_classes(where: str, pred: Tensor, target: Tensor) -> None:
    is_one_hot = pred.shape == target.shape and pred.ndim > 1 and pred.shape[1] > 1
    if pred.ndim < 3 or not (is_one_hot or _is_indices(pred, target)):
        raise ValueError(
            f"{where}: expected pred (N, K, ...), K > 1, and integer target (N, ...) or one-hot "
            f"(N, K, ...), got {tuple(pred.shape)} and {tuple(target.shape)} of {target.dtype}. "
            "For one channel use a binary loss."
        )
