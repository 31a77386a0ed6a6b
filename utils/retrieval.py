"""Retrieval metrics of embeddings, `recall_at_k`, `cmc` and `mean_average_precision`.

Each searches a whole set exactly; utils.metrics gives these names as well. Two forms of target::

    (N,) int64                    identities: each sample is searched among all others
    {"label": (N,) int64,
     "gallery": (N,) bool}        queries (False) are searched in the gallery (True) alone

A query whose identity is nowhere in what is searched is left out; where all are, the value is NaN.
Of samples equally near to the query those of another identity come first: a network that gives one
embedding for everything finds nothing, and the order of the dataset never counts. An embedding
with NaN is farther than any other.

Time grows with queries times gallery; some queries at a time bound the memory.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from config.errors import did_you_mean

__all__ = ["cmc", "mean_average_precision", "recall_at_k"]

# Of the table of queries by gallery, held at once: some 200 MiB with what is made of it.
TABLE_CELLS = 2**21

Distance = Literal["cosine", "euclidean"]


def recall_at_k(pred: Tensor, target: Any, k: int = 1, distance: Distance = "cosine") -> Tensor:
    """Return the share of queries with one of their own identity among the k nearest.

    Args:
        pred: (N, D) float, embeddings; for the cosine they need not be of length 1.
        target: (N,) integer, identities, or a dict with a gallery, see above.
        k: from 1 on.
        distance: what near means: a high "cosine", or a low "euclidean" distance.

    Returns:
        Scalar float64 in [0, 1]; NaN where no query has a partner.

    Raises:
        ValueError: the shapes do not fit, k is below 1, or the distance is none of these.
    """
    return _hits("recall_at_k", pred, target, [k], distance)[0]


def cmc(
    pred: Tensor, target: Any, ks: Sequence[int] = (1, 5, 10), distance: Distance = "cosine"
) -> dict[str, Tensor]:
    """Return points of the cumulative match characteristic: `recall_at_k` for each of some k.

    Arguments are those of `recall_at_k`, with several k.

    Returns:
        k as text -> scalar float64 in [0, 1]; in a config's METRICS the names are `cmc_1`, `cmc_5`
        and `cmc_10`.
    """
    values = _hits("cmc", pred, target, ks, distance)
    return {str(k): value for k, value in zip(ks, values, strict=True)}


def mean_average_precision(pred: Tensor, target: Any, distance: Distance = "cosine") -> Tensor:
    """Return the mean over the queries of their average precision, all that is searched ranked.

    With the partners of a query at the ranks r_1 < r_2 < ... < r_n its average precision is

        (1 / r_1 + 2 / r_2 + ... + n / r_n) / n

    which is scikit-learn's `average_precision_score` where no two are equally near. Source: Zheng
    et al., "Scalable Person Re-identification: A Benchmark" (Market-1501), 2015. Their code takes
    the mean of two neighbouring precisions at each rank, which differs a little.

    Args:
        pred: see `recall_at_k`.
        target: see `recall_at_k`.
        distance: see `recall_at_k`.

    Returns:
        Scalar float64 in [0, 1]; NaN where no query has a partner.

    Raises:
        ValueError: the shapes do not fit, or the distance is unknown.
    """
    values = [pred.new_zeros(0, dtype=torch.float64)]
    for partners, others in _tables("mean_average_precision", pred, target, distance):
        n_partners = (partners > -math.inf).sum(1, keepdim=True)  # (rows, 1)
        partners = partners.topk(int(n_partners.max()), dim=1).values  # nearest first
        n_before = others.shape[1] - torch.searchsorted(others.sort(dim=1).values, partners)
        number = torch.arange(1, partners.shape[1] + 1, device=pred.device)
        precision = number.double() / (number + n_before)  # at the rank of each partner
        precision = precision.where(number <= n_partners, 0.0)
        values.append(precision.sum(1) / n_partners[:, 0])
    return torch.cat(values).mean()


def _hits(
    where: str, pred: Tensor, target: Any, ks: Sequence[int], distance: Distance
) -> list[Tensor]:
    """Return the share of queries with a partner among the k nearest, for each k."""
    if not ks or min(ks) < 1:
        raise ValueError(f"{where}: expected k from 1 on, got {list(ks)}. Correct it.")
    n_before = [torch.zeros(0, dtype=torch.int64, device=pred.device)]
    for partners, others in _tables(where, pred, target, distance):
        n_before.append((others >= partners.amax(1, keepdim=True)).sum(1))
    n_before = torch.cat(n_before)
    return [(n_before < k).double().mean() for k in ks]


def _tables(
    where: str, pred: Tensor, target: Any, distance: Distance
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield how near the samples searched are to some of the queries that have a partner.

    Yields:
        partners: (rows, M) float32, of the query's own identity; -inf for all other samples.
        others: (rows, M) float32, of other identities; -inf for the partners and the query itself.
    """
    label, gallery = _split(where, pred, target, distance)
    if gallery is None:
        query = searched = torch.arange(len(label), device=label.device)
    else:
        query, searched = (~gallery).nonzero()[:, 0], gallery.nonzero()[:, 0]
    # in float64 and rounded: arithmetic must not tell apart what is equally near
    pred = F.normalize(pred.double()) if distance == "cosine" else pred.double()
    lowest = torch.finfo(torch.float32).min
    n_rows = max(1, TABLE_CELLS // max(1, len(searched)))
    for rows in query.split(n_rows):
        if distance == "cosine":
            near = (pred[rows] @ pred[searched].T).round(decimals=9)
        else:
            mode = "donot_use_mm_for_euclid_dist"  # which is fast and not exact
            near = -torch.cdist(pred[rows], pred[searched], compute_mode=mode)
        near = near.float().nan_to_num(nan=lowest, neginf=lowest)  # (rows, M)
        same = label[rows, None] == label[searched]
        itself = rows[:, None] == searched
        partners = near.masked_fill(~same | itself, -math.inf)
        others = near.masked_fill(same, -math.inf)
        has_partner = (same & ~itself).any(1)
        if has_partner.any():
            yield partners[has_partner], others[has_partner]


def _split(
    where: str, pred: Tensor, target: Any, distance: Distance
) -> tuple[Tensor, Tensor | None]:
    """Return identities, (N,), and where the gallery is, (N,) bool or None."""
    label, gallery = target, None
    if isinstance(target, Mapping):
        label, gallery = target.get("label"), target.get("gallery")
    parts = [pred, label, gallery] if isinstance(target, Mapping) else [pred, label]
    if not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(
            f"{where}: expected target as a tensor, or a dict of tensors label and gallery, got "
            f"{type(target).__name__}. Let the dataset give one of them as y."
        )
    if pred.ndim != 2 or any(part.shape != pred.shape[:1] for part in parts[1:]):
        raise ValueError(
            f"{where}: expected pred (N, D) and target (N,), or a dict of label (N,) and gallery "
            f"(N,), got {', '.join(str(tuple(part.shape)) for part in parts)}. Correct them."
        )
    if distance not in get_args(Distance):
        raise ValueError(
            f"{where}: expected distance as one of {', '.join(get_args(Distance))}, got "
            f"{distance!r}.{did_you_mean(str(distance), get_args(Distance))} Name one of these."
        )
    return label, None if gallery is None else gallery.bool()
