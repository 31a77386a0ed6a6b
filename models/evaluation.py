"""A pass of a trained network over a dataset: outputs, loss, metrics, a row of each sample."""

import contextlib
import logging
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.outputs import class_of
from models.predictor import Predictor
from utils.bootstrap import ResampledSums, interval
from utils.confusion import count_confusion
from utils.data import tasks
from utils.data.loading import Loader, count_samples
from utils.metrics import Metrics

logger = logging.getLogger("plumbline")

_MAX_NUMBERS = 16  # of a target or an output that a cell of a table may hold
_MAX_SUMS = 2**25  # of all resamples, held at once: 256 MiB


class Evaluation:
    """A validation as the training does it, with the same bits; iterate it once.

    Iterating gives for each batch the logits, (N, ...) float32, and a row of each sample: `index`,
    `name`, `path` where there are files, and as far as they are defined for one sample `target`,
    `prediction`, `confidence` (the probability of what was decided, the mean over labels and
    pixels), `loss` and the metrics.

    Args:
        predictor: the network and what its outputs mean.
        loader: of a validation, see `utils.data.loading.make_loader`; `batch.y` holds targets, or
            names, or None.
        loss: loss(pred, target) -> scalar tensor, or None.
        metrics: name -> metric, see `utils.metrics.Metrics`.
        mixed_precision: MIXED_PRECISION of a config.
        ignore_index: a value of the target that loss and metrics leave out.
        n_resamples: how often `intervals` draws the samples anew; 0 for none.

    Attributes:
        n_samples: so far.
        has_targets: known with the first batch. A dataset that says `has_targets = False` gives
            names, although they may be numbers.
        class_names: of a classification or segmentation, known with the first batch.
        confusion: so far, of a task that decides, see `utils.confusion.count_confusion`.

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
        ignore_index: int | None = None,
        n_resamples: int = 0,
    ) -> None:
        self.predictor, self.loader, self.loss = predictor, loader, loss
        self.n_samples, self.n_resamples = 0, n_resamples
        self.has_targets = getattr(loader.dataset, "has_targets", True)
        self.class_names: list[str] = []
        self.confusion: Tensor | None = None
        self._ignore_index, self._total = ignore_index, 0.0
        self._names, self._files = _names_of(loader.dataset), _files_of(loader.dataset)
        self._numbers: list[int] = []  # of the samples of a batch
        self._next = 0  # the number that comes after them
        self._resampled = ResampledSums(loader.n_samples - len(loader.bad.found), n_resamples)
        self._columns: list[str] = []
        self._layout: dict[Hashable, Tensor] = {}  # what is counted, and a sample's counts
        self._sum_of_losses = 0.0
        self._values: dict[str, float] | None = None  # of the set, once they are asked for
        self._counts: list[dict[Hashable, Tensor]] = []  # of each sample of a batch
        self._autocast = _make_autocast(mixed_precision, torch.device(predictor.device).type)
        about = (predictor.device, predictor.classes)
        self._metrics = Metrics(metrics, *about) if metrics else None
        self._of_sample = {
            name: Metrics({name: metric}, *about)
            for name, metric in metrics.items()
            if is_function(metric)
        }

    def __iter__(self) -> Iterator[tuple[Tensor, list[dict[str, Any]]]]:
        for batch in self.loader:
            self._count(batch.x)
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
            if self.class_names and isinstance(target, Tensor):
                self._confuse(logits, target)
            rows = self._make_rows(logits, target, names)
            if self.n_resamples and self.has_targets:
                self._resample(rows)
            yield logits, rows
            self.n_samples += len(logits)
            self._values = None

    def _count(self, x: Any) -> None:
        """Number the samples of a batch as the dataset does, with gaps for those left out."""
        left_out = self.loader.bad.of_batch
        end = self._next + count_samples(x) + len(left_out)
        self._numbers = [i for i in range(self._next, end) if i not in left_out]
        self._next = end

    def logits(self, x: Any) -> Tensor:
        """Return what the network gives for a batch, as in the pass."""
        with self._autocast:
            return self.predictor.model(x)

    def values(self) -> dict[str, float]:
        """Return loss and metrics of the whole set; none without targets."""
        if not self.has_targets:
            return {}
        if self._values is None:  # a metric of the whole set may take its time
            self._values = {"loss": self._total / self.n_samples} if self.loss else {}
            self._values |= self._metrics.compute() if self._metrics else {}
        return dict(self._values)

    def intervals(self, confidence: float = 0.95) -> dict[str, tuple[float, float]]:
        """Return low and high of `values` by a bootstrap over the samples, as far as they have any.

        They are had by metrics with a counts form or with one value per sample, and by a loss that
        is the mean of the samples' losses. Iterate first.

        Args:
            confidence: how much of the resamples' values an interval holds, above 0 and below 1.
        """
        values = self.values()
        if not values or not self.n_resamples:
            return {}
        found = {name: interval(each, confidence) for name, each in self._resampled_values()}
        mean = self._sum_of_losses / self.n_samples
        if self.loss and not math.isclose(mean, values["loss"], rel_tol=1e-4, abs_tol=1e-7):
            del found["loss"]
        return {name: found[name] for name in values if name in found}

    def _resampled_values(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the names of values, and the value of each resample, (n_resamples,) float64."""
        sums = self._resampled.sums()
        for i, name in enumerate(self._columns):
            yield name, sums[:, i] / self.n_samples
        tables, start = {}, len(self._columns)
        for key, like in self._layout.items():
            part = torch.from_numpy(sums[:, start : start + like.numel()])
            tables[key] = part.reshape(-1, *like.shape).to(like.dtype)
            start += like.numel()
        for name in self._metrics.counted if tables else ():
            draws = [
                self._metrics.compute_counted(name, dict(zip(tables, each, strict=True)))
                for each in zip(*tables.values(), strict=True)
            ]
            for part in draws[0]:
                yield part, np.array([draw[part] for draw in draws])

    def _resample(self, rows: list[dict[str, Any]]) -> None:
        """Give the bootstrap what each sample of a batch adds up to: loss, values, counts."""
        if not self.n_samples:
            self._columns = ["loss"] if self.loss else []
            self._columns += self._metrics.means if self._metrics else []
            first = self._counts[0]
            n_sums = sum(sums.numel() for sums in first.values()) * self.n_resamples
            self._layout = {key: s.cpu() for key, s in first.items() if n_sums <= _MAX_SUMS}
        values = [[_number(row.get(name)) for name in self._columns] for row in rows]
        parts = [np.array(values, dtype=np.float64).reshape(len(rows), -1)]
        for key in self._layout:
            parts.append(torch.stack([sums[key].flatten() for sums in self._counts]).cpu().numpy())
        self._resampled.add(np.concatenate(parts, axis=1))
        self._sum_of_losses += sum(row.get("loss", math.nan) for row in rows)

    def _confuse(self, logits: Tensor, target: Tensor) -> None:
        counts = count_confusion(logits, target, self.predictor.task, self._ignore_index)
        self.confusion = counts if self.confusion is None else self.confusion + counts

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
            self.class_names = predictor.class_names(logits.shape[1])
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
        rows: list[dict[str, Any]] = []
        self._counts = []
        for i, one in enumerate(logits.split(1)):
            number, truth = self._numbers[i], _pick(target, i)
            row: dict[str, Any] = {"index": number, "name": f"{number:0{width}}"}
            if self._names is not None:
                row["name"] = self._names[number]
            elif names is not None:
                row["name"] = names[i]
            if self._files is not None:
                row["path"] = self._files[number]
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
        if not self.class_names:
            is_short = values.size <= _MAX_NUMBERS
            return ";".join(map(repr, values.ravel().tolist())) if is_short else ""
        if values.ndim == 0 and not 0 <= values < len(self.class_names):
            return str(values)  # of no class, such as -100
        return class_of(values, self.predictor.task, self.class_names)

    def _values_of(self, logits: Tensor, target: Any) -> dict[str, float | str]:
        """Return loss and metrics of one sample; one that needs more than a sample is left out."""
        values: dict[str, float] = {}
        if self.loss:
            with contextlib.suppress(Exception), self._autocast:
                values["loss"] = self.loss(logits, target).item()
        counts = self._metrics.count(logits, target) if self._metrics else {}
        self._counts.append(counts)
        for name, bag in self._of_sample.items():
            with contextlib.suppress(Exception):
                if name in bag.counted:
                    values |= bag.compute_counted(name, counts)
                else:
                    bag.reset()
                    bag.update(logits, target)
                    values |= bag.compute()
        # nan, of a class that is not there or of neighbours, is no value: an empty cell
        return {k: "" if k != "loss" and math.isnan(v) else v for k, v in values.items()}


def _number(value: Any) -> float:
    """Return the number of a cell, nan for one that is empty."""
    return value if isinstance(value, float) else math.nan


def _names_of(dataset: Any) -> list[str] | None:
    """Return the names of a dataset's samples, if it has one of its own for each."""
    names = getattr(dataset, "names", None)
    if not isinstance(names, (list, tuple)) or len(set(map(str, names))) != len(dataset):
        return None
    return list(map(str, names))


def _files_of(dataset: Any) -> list[str] | None:
    """Return the files of a dataset's samples, the first of each where it has several."""
    files = getattr(dataset, "files", None)
    if not isinstance(files, (list, tuple)) or len(files) != len(dataset):
        return None
    firsts = [file[0] if isinstance(file, (list, tuple)) else file for file in files]
    are_paths = all(isinstance(file, (str, Path)) for file in firsts)
    return list(map(str, firsts)) if are_paths else None


def _make_autocast(wanted: bool | str, kind: str) -> Any:
    """Return the context of MIXED_PRECISION on a kind of device, as the training has it."""
    if not wanted:
        return contextlib.nullcontext()
    is_half = wanted == "fp16" or (wanted is True and kind == "cuda")
    return torch.autocast(kind, torch.float16 if is_half else torch.bfloat16)


def is_function(metric: Any) -> bool:
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
