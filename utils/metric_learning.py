"""Losses that make embeddings of one identity near and those of different identities far.

    MarginLoss     a direction for each identity of the training, and a margin to all the others
    TripletLoss    no weights: compares the samples of a batch, which needs some of each identity

Both are losses (pred, target) of TASK "embedding", computed by pytorch-metric-learning in float32,
also under mixed precision. They draw nothing, but for the first values of the directions, which
follow from SEED. docs/metric_learning.rst says which to take.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from config.errors import did_you_mean

try:
    from pytorch_metric_learning import distances, losses, miners
except ImportError as error:
    raise ImportError(
        "utils.metric_learning: expected the package pytorch-metric-learning, got none."
        " Run `make env-dev`."
    ) from error

__all__ = ["MarginLoss", "TripletLoss"]

MarginKind = Literal["arcface", "cosface", "sphereface"]
Mining = Literal["hard", "semihard", "all"]
Distance = Literal["cosine", "euclidean"]

# margin and scale of each kind
_PAPERS = {"arcface": (0.5, 64.0), "cosface": (0.35, 64.0), "sphereface": (4, 1.0)}


class MarginLoss(nn.Module):
    """Softmax over the cosines to a direction for each identity, the true one made harder.

    With t the angle between an embedding and the direction of its identity, the cross entropy of
    `scale` times the cosines to all directions, in which the true one's is::

        arcface       cos(t + margin)        Deng et al., 2018, arXiv 1801.07698
        cosface       cos(t) - margin        Wang et al., 2018, arXiv 1801.09414
        sphereface    cos(margin t)          Liu et al., 2017, arXiv 1704.08063; the scale is
                                             multiplied by the length of the embedding

    (continued so that it falls over the whole half turn). The directions are weights: the
    optimizer trains them, and the checkpoint keeps them; no weights file has them.

    Args:
        embedding_size: D, the outputs of the model.
        num_classes: identities of the training. Left out in LOSS_CONFIG, as many as the training
            data has classes.
        kind: "arcface", "cosface" or "sphereface".
        margin: an angle [rad], a part of a cosine, or a whole number of times; None takes that of
            the paper: 0.5, 0.35, 4.
        scale: above 0, the larger the harder the softmax; None: 64, 64, 1. With some ten
            identities 16 is a better beginning than 64.

    Raises:
        ValueError: an argument is out of its range; all are told at once.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        kind: MarginKind = "arcface",
        margin: float | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        problems = [_problem_of("kind", kind, get_args(MarginKind))]
        papers = _PAPERS.get(kind, (1, 1.0))
        margin = papers[0] if margin is None else margin
        scale = papers[1] if scale is None else scale
        for name, value in (("embedding_size", embedding_size), ("num_classes", num_classes)):
            problems.append("" if value >= 1 else f"{name}: expected at least 1, got {value}.")
        problems.append("" if scale > 0 else f"scale: expected a number above 0, got {scale}.")
        if kind == "sphereface" and (margin < 1 or margin != int(margin)):
            problems.append(f"margin: expected 1, 2, 3, ... for sphereface, got {margin}.")
        elif margin < 0:
            problems.append(f"margin: expected at least 0, got {margin}.")
        _refuse("MarginLoss", problems)
        self.embedding_size, self.num_classes = embedding_size, num_classes
        arguments = {"num_classes": num_classes, "embedding_size": embedding_size, "scale": scale}
        if kind == "arcface":
            self.softmax = losses.ArcFaceLoss(margin=math.degrees(margin), **arguments)
        elif kind == "cosface":
            self.softmax = losses.CosFaceLoss(margin=margin, **arguments)
        else:
            self.softmax = losses.SphereFaceLoss(margin=int(margin), **arguments)

    def forward(self, pred: Tensor, target: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return the mean over the samples of identities that have a direction.

        Validation may show other identities: they have no loss and are left out, and where there
        is no other sample the loss is NaN. In training they are refused.

        Args:
            pred: (N, D) float, embeddings of any length.
            target: (N,) int64, identities; or a dict with them as "label".

        Returns:
            Scalar float32, at least 0.

        Raises:
            ValueError: the shapes do not fit, or gradients are wanted of an identity without a
                direction.
        """
        label = _labels("MarginLoss", pred, target)
        if pred.shape[1] != self.embedding_size:
            raise ValueError(
                f"MarginLoss: expected pred (N, {self.embedding_size}), got {tuple(pred.shape)}."
                f" Set LOSS_CONFIG.embedding_size={pred.shape[1]}, or change the model."
            )
        is_known = (label >= 0) & (label < self.num_classes)
        if not is_known.all():
            if torch.is_grad_enabled():
                raise ValueError(
                    f"MarginLoss: expected identities 0..{self.num_classes - 1} in training, got"
                    f" {label[~is_known][0]}. Number them from 0 on, or raise"
                    " LOSS_CONFIG.num_classes."
                )
            pred, label = pred[is_known], label[is_known]
        if len(label) == 0:
            return pred.new_full((), math.nan, dtype=torch.float32)
        # it would turn its weights into the type of pred
        with torch.autocast(pred.device.type, enabled=False):
            return self.softmax(pred.float(), label)


class TripletLoss(nn.Module):
    """Each sample shall be nearer to one of its own identity than to one of another, by a margin.

    The mean, over the triplets of a batch that are mined and do not keep the margin, of::

        distance to the own - distance to the other + margin

    Source: Schroff et al., "FaceNet", 2015, arXiv 1503.03832; the choice of triplets "hard" is
    batch hard of Hermans et al., "In Defense of the Triplet Loss", 2017, arXiv 1703.07737.

    A batch without a triplet has a loss of 0. Batches should hold several samples of each identity:
    DATA_LOADER_CONFIG.per_class.

    Args:
        margin: above 0, in the unit of the distance.
        mining: "hard": of each sample its farthest partner and the nearest other; "semihard": all
            in which the other is farther than the partner, by less than the margin; "all": all that
            there are. Time and memory of the last two grow with N^3: up to 1 GiB for 512 samples.
        distance: "cosine", one minus the cosine, in [0, 2]; or "euclidean", of the embeddings as
            they are.

    Raises:
        ValueError: an argument is out of its range; all are told at once.
    """

    def __init__(
        self, margin: float = 0.2, mining: Mining = "hard", distance: Distance = "cosine"
    ) -> None:
        super().__init__()
        problems = [
            "" if margin > 0 else f"margin: expected a number above 0, got {margin}.",
            _problem_of("mining", mining, get_args(Mining)),
            _problem_of("distance", distance, get_args(Distance)),
        ]
        _refuse("TripletLoss", problems)
        metric = distances.CosineSimilarity()
        if distance == "euclidean":
            metric = distances.LpDistance(normalize_embeddings=False)
        self.violation = losses.TripletMarginLoss(margin=margin, distance=metric)
        self.miner: Callable[..., Any] | None = None
        if mining == "hard":
            self.miner = miners.BatchHardMiner(distance=metric)
        elif mining == "semihard":
            self.miner = miners.TripletMarginMiner(margin, "semihard", distance=metric)

    def forward(self, pred: Tensor, target: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch.

        Args:
            pred: (N, D) float, embeddings.
            target: (N,) int64, identities; or a dict with them as "label".

        Returns:
            Scalar float32, at least 0.

        Raises:
            ValueError: the shapes do not fit.
        """
        label = _labels("TripletLoss", pred, target)
        with torch.autocast(pred.device.type, enabled=False):
            pred = pred.float()
            triplets = None if self.miner is None else self.miner(pred, label)
            return self.violation(pred, label, triplets)


def _labels(where: str, pred: Tensor, target: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Return the identities of a target, (N,)."""
    label = target["label"] if isinstance(target, Mapping) else target
    if pred.ndim != 2 or label.shape != pred.shape[:1] or label.is_floating_point():
        raise ValueError(
            f"{where}: expected pred (N, D) and integer identities (N,), got {tuple(pred.shape)}"
            f" and {tuple(label.shape)} of {label.dtype}. Correct the model or the dataset."
        )
    return label


def _problem_of(name: str, value: str, options: tuple[str, ...]) -> str:
    """Return what is wrong with the name of an option; nothing if it is one."""
    if value in options:
        return ""
    hint = did_you_mean(str(value), options)
    return f"{name}: expected one of {', '.join(options)}, got {value!r}.{hint}"


def _refuse(where: str, problems: list[str]) -> None:
    problems = [problem for problem in problems if problem]
    if problems:
        raise ValueError(f"{where}: {' '.join(problems)} Correct LOSS_CONFIG.")
