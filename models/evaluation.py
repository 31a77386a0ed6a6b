"""A pass of a trained network over a dataset: outputs, loss, metrics, a row of each sample."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.outputs import class_of
from models.predictor import Predictor
from utils.data import tasks
from utils.data.loading import Loader, count_samples
from utils.metrics import Metrics

logger = logging.getLogger("plumbline")

_MAX_NUMBERS = 16  # of a target or an output that a cell of a table may hold


class Evaluation:
    """A validation as the training does it, with the same bits; iterate it once.

    Iterating gives for each batch the logits, (N, ...) float32, and a row of each sample: `index`,
    `name`, and as far as they are defined for one sample `target`, `prediction`, `confidence` (the
    probability of what was decided, the mean over labels and pixels), `loss` and the metrics.

    Args:
        predictor: the network and what its outputs mean.
        loader: of a validation, see `utils.data.loading.make_loader`; `batch.y` holds targets, or
            names, or None.
        loss: loss(pred, target) -> scalar tensor, or None.
        metrics: name -> metric, see `utils.metrics.Metrics`.
        mixed_precision: MIXED_PRECISION of a config.
        names: of the samples in the loader's order; None takes those of the batches, else numbers.
        has_targets: False: what `batch.y` holds are names, although it may be numbers.

    Attributes:
        n_samples: so far.
        has_targets: known with the first batch.

    Raises:
        ValueError: a batch does not fit the network or the task.
    """

    def __init__(
        self,
        predictor: Predictor,
        loader: Loader,
        loss: Callable[..., Tensor] | None,
        metrics: Mapping[str, Any],
        mixed_precision: bool | str = False,
        names: Sequence[str] | None = None,
        has_targets: bool = True,
    ) -> None:
        self.predictor, self.loader, self.loss = predictor, loader, loss
        self.n_samples, self.has_targets = 0, has_targets
        self._names, self._total = names, 0.0
        self._classes: list[str] = []
        self._autocast = _make_autocast(mixed_precision, torch.device(predictor.device).type)
        about = (predictor.device, predictor.classes)
        self._metrics = Metrics(metrics, *about) if metrics else None
        self._of_sample = [
            Metrics({name: metric}, *about)
            for name, metric in metrics.items()
            if _is_function(metric)
        ]

    def __iter__(self) -> Iterator[tuple[Tensor, list[dict[str, Any]]]]:
        for batch in self.loader:
            names, target = self._split(batch.y)
            with self._autocast:
                logits = self.predictor.model(batch.x)
                self._check(logits, target, count_samples(batch.x))
                if self.loss and self.has_targets:
                    loss = self.loss(logits, target)  # EDIT: as in your routine
                    self._total += loss.item() * len(logits)
            if self._metrics and self.has_targets:
                self._metrics.update(logits, target)
            logits = logits.float()
            yield logits, self._make_rows(logits, target, names)
            self.n_samples += len(logits)

    def values(self) -> dict[str, float]:
        """Return loss and metrics of the whole set; none without targets."""
        if not self.has_targets:
            return {}
        loss = {"loss": self._total / self.n_samples} if self.loss else {}
        return {**loss, **(self._metrics.compute() if self._metrics else {})}

    def _split(self, y: Any) -> tuple[list[str] | None, Any]:
        """Return names and targets; what there is not is None."""
        is_text = isinstance(y, (list, tuple)) and all(isinstance(name, str) for name in y)
        if y is not None and self.has_targets and not is_text:
            return None, y
        names = y.tolist() if isinstance(y, Tensor) else y
        return None if y is None else list(map(str, names)), None

    def _check(self, logits: Any, target: Any, n_samples: int) -> None:
        """Refuse outputs that do not fit; of the first batch names and targets as well."""
        predictor, first = self.predictor, self.n_samples
        try:
            predictor.check_outputs(logits, n_samples)
        except ValueError as error:
            raise ValueError(f"samples {first}..{first + n_samples - 1}: {error}") from error
        if first:
            return
        self.has_targets = target is not None
        if predictor.is_segmentation or predictor.is_classification:
            self._classes = predictor.class_names(logits.shape[1])
        if predictor.task and isinstance(tasks.label_of(target, predictor.task), Tensor):
            problem = tasks.check_target(target, predictor.task, logits.shape[1])
            if problem:
                raise ValueError(problem)
        if not self.has_targets and (self.loss or self._metrics):
            logger.warning("LOSS and METRICS need targets, and this dataset gives none")

    def _make_rows(
        self, logits: Tensor, target: Any, names: Sequence[str] | None
    ) -> list[dict[str, Any]]:
        predictor, width = self.predictor, len(str(self.loader.n_samples - 1))
        shares = _confidence(logits, predictor.task)
        rows = []
        for i, one in enumerate(logits.split(1)):
            number, truth = self.n_samples + i, _pick(target, i)
            row: dict[str, Any] = {"index": number, "name": f"{number:0{width}}"}
            if self._names is not None:
                row["name"] = self._names[number]
            elif names is not None:
                row["name"] = names[i]
            if not predictor.is_segmentation:
                label = tasks.label_of(truth, predictor.task)
                if isinstance(label, Tensor):
                    row["target"] = self._describe(_as_decision(label, predictor.task))
                row["prediction"] = self._describe(predictor.decide(one))
            if shares is not None:
                row["confidence"] = shares[i]
            rows.append(row | ({} if truth is None else self._values_of(one, truth)))
        return rows

    def _describe(self, values: np.ndarray) -> str:
        """Return a decision or a target of one sample, without a batch axis, as text."""
        if not self._classes:
            is_short = values.size <= _MAX_NUMBERS
            return ";".join(map(repr, values.ravel().tolist())) if is_short else ""
        if values.ndim == 0 and not 0 <= values < len(self._classes):
            return str(values)  # of no class, such as -100
        return class_of(values, self.predictor.task, self._classes)

    def _values_of(self, logits: Tensor, target: Any) -> dict[str, float]:
        """Return loss and metrics of one sample; one that needs more than a sample is left out."""
        values = {}
        if self.loss:
            with contextlib.suppress(Exception), self._autocast:
                values["loss"] = self.loss(logits, target).item()
        for bag in self._of_sample:
            with contextlib.suppress(Exception):
                bag.reset()
                bag.update(logits, target)
                values |= bag.compute()
        return values


def _make_autocast(wanted: bool | str, kind: str) -> Any:
    """Return the context of MIXED_PRECISION on a kind of device, as the training has it."""
    if not wanted:
        return contextlib.nullcontext()
    is_half = wanted == "fp16" or (wanted is True and kind == "cuda")
    return torch.autocast(kind, torch.float16 if is_half else torch.bfloat16)


def _is_function(metric: Any) -> bool:
    """Tell whether a metric keeps nothing from batch to batch."""
    is_class = isinstance(getattr(metric, "func", metric), type)
    return not is_class and not hasattr(metric, "update")


def _confidence(logits: Tensor, task: str | None) -> list[float] | None:
    """Return the confidence of each sample; None for a task that decides nothing."""
    kind = "none" if task is None else tasks.activation(task)
    if kind == "none":
        return None
    shares = tasks.probabilities(logits, task)
    shares = shares.amax(dim=1) if kind == "softmax" else torch.maximum(shares, 1 - shares)
    return shares.reshape(len(shares), -1).mean(dim=1).tolist()


def _as_decision(truth: Tensor, task: str | None) -> np.ndarray:
    """Return the target of one sample in the form of a decision."""
    values = truth[0].cpu().numpy()
    if task == "binary":
        values = values[0]
    return (values > 0.5).astype(np.int64) if task in ("binary", "multilabel") else values


def _pick(part: Any, i: int) -> Any:
    """Return sample i of a part of a batch, as a batch of one."""
    if isinstance(part, Mapping):
        return {name: _pick(value, i) for name, value in part.items()}
    if isinstance(part, tuple):
        return tuple(_pick(value, i) for value in part)
    return None if part is None else part[i : i + 1]
