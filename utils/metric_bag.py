"""The bag of metrics that every training routine and every prediction uses.

`as_metrics` reads the METRICS of a config, `Metrics` computes them over a whole set, whatever the
batch size. The kit's own metrics are in utils.metrics, which gives these two names as well.
"""

import inspect
import logging
import math
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from config.check import check_call
from utils.distributed import gather, interleave, world_size

# Predictions and targets kept in CPU memory for functions that need the whole set at once.
KEEP_BYTES = 512 * 2**20


# ---- METRICS of a config


def _is_ignite(metric: Any, name: str = "Metric") -> bool:
    """Tell whether this is an Ignite metric, whose package then is loaded and is not imported."""
    cls = getattr(sys.modules.get("ignite.metrics"), name, None)
    return cls is not None and isinstance(metric, cls)


def _unwrap(metric: Any) -> Any:
    """Return the function inside Ignite's `Loss(function)`, anything else as it is.

    `Loss` takes the mean over batches, which for a ratio such as F1 is not that of the data set.
    """
    # The very class: one derived from Loss has a reason for it.
    if type(metric) is not getattr(sys.modules.get("ignite.metrics"), "Loss", None):
        return metric
    # With a transform of its own, Ignite decides what the function is given.
    default = inspect.signature(type(metric)).parameters["output_transform"].default
    # pylint: disable-next=protected-access
    return metric._loss_fn if metric._output_transform is default else metric


def _name(metric: Any) -> str:
    if isinstance(metric, partial):
        return _name(metric.func)
    return getattr(metric, "__name__", type(metric).__name__)


def _is_class(metric: Any) -> bool:
    return isinstance(metric.func if isinstance(metric, partial) else metric, type)


def as_metrics(metrics: Mapping[str, Any] | Sequence[Any] | None) -> dict[str, Any]:
    """Return the METRICS of a config as a new dict: name -> metric.

    Metrics of a list are named by their `__name__`, objects by their class. Ignite's
    `Loss(function)` becomes the function. Classes, and partials of classes, stay as they are.

    Raises:
        TypeError: neither a dict, nor a list, nor None.
        ValueError: an entry is no metric, a partial has an argument that its function does not
            take, or two of a list have one name; all are told at once.
    """
    if metrics is None:
        return {}
    if isinstance(metrics, Mapping):
        named = [(name, _unwrap(metric)) for name, metric in metrics.items()]
    elif isinstance(metrics, Sequence) and not isinstance(metrics, str):
        named = [(_name(metric), metric) for metric in map(_unwrap, metrics)]
    else:
        raise TypeError(
            f"METRICS: expected a dict or a list of metrics, got {metrics!r}. "
            'Write {"name": metric} or [metric].'
        )
    problems = [
        f"METRICS[{name!r}]: expected a function (pred, target), or a torchmetrics or Ignite "
        f"metric, got {metric!r}. Give the function or the object itself."
        for name, metric in named
        if not callable(metric) and not hasattr(metric, "compute")
    ]
    for name, metric in named:
        if isinstance(metric, partial) and not _is_class(metric) and not metric.args:
            where = f"METRICS[{name!r}]"
            problems += check_call(metric.func, metric.keywords, where, n_given=2)
    names = [name for name, _ in named]
    problems += [
        f"METRICS: expected one name for each metric, got {name!r} {names.count(name)} times. "
        "Use a dict to name them."
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if problems:
        raise ValueError("\n".join(problems))
    return dict(named)


# ---- the bag


def _counts_form(metric: Any) -> tuple[Callable, Callable] | None:
    """Return counts and compute of a metric that has them, else None.

    The arguments of a partial are bound to those that know them by name; if none does, the partial
    has no counts form.
    """
    if hasattr(metric, "counts"):
        return metric.counts, metric.compute
    if not isinstance(metric, partial) or not hasattr(metric.func, "counts") or metric.args:
        return None
    form = metric.func.counts, metric.func.compute
    known = [inspect.signature(function).parameters for function in form]
    if any(key not in known[0] and key not in known[1] for key in metric.keywords):
        return None
    counts, compute = (
        partial(function, **{k: v for k, v in metric.keywords.items() if k in names})
        for function, names in zip(form, known, strict=True)
    )
    return counts, compute


def _identity(function: Callable) -> Hashable:
    """Return what is equal for partials of one function with equal arguments."""
    if not isinstance(function, partial):
        return function
    try:
        arguments = frozenset(function.keywords.items())
    except TypeError:  # an argument without a hash
        return function
    return (function.func, arguments) if arguments else function.func


def _updated_parts(metric: Any) -> list[Any]:
    """Return the objects to update for a metric: itself, or what an Ignite metric is made of.

    Ignite's mIoU or Fbeta read other metrics, which may be shared and have their own transform.
    """
    if not _is_ignite(metric, "MetricsLambda"):
        return [metric]
    members = [member for member in (*metric.args, *metric.kwargs.values()) if _is_ignite(member)]
    return [part for member in members for part in _updated_parts(member)]


def _leaves(value: Any) -> list[Any]:
    """Return what dicts and tuples hold at any depth, in order."""
    if type(value) is dict:
        value = tuple(value.values())
    if type(value) is tuple:
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]


def _map(function: Callable, *values: Any) -> Any:
    """Apply a function to the tensors at the same place of dicts and tuples of one structure.

    Lists of text, one for each sample, are joined. Other lists are no structure: one may hold one
    entry per sample.
    """
    first = values[0]
    if type(first) is dict:
        return {key: _map(function, *(value[key] for value in values)) for key in first}
    if type(first) is tuple:
        return tuple(_map(function, *parts) for parts in zip(*values, strict=True))
    if _is_text(first):
        return [text for value in values for text in value]
    return function(*values) if isinstance(first, Tensor) else first


def _is_text(part: Any) -> bool:
    return type(part) is list and all(isinstance(text, str) for text in part)


def _shape(leaf: Any) -> Any:
    """Return what a leaf must have in common with others to be joined; None: it cannot be."""
    if isinstance(leaf, Tensor) and leaf.ndim:
        return leaf.shape[1:]
    return list if _is_text(leaf) else None


def _plain(x: Tensor) -> Tensor:
    x = x.detach()
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _batch_size(pred: Any, target: Any) -> int:
    for leaf in _leaves((pred, target)):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise TypeError(
        "Metrics.update: expected a tensor with a batch axis in pred or target, got "
        f"{type(pred).__name__} and {type(target).__name__}. Give tensors, or dicts of tensors."
    )


def _flatten(name: str, result: Any, classes: Sequence[str] = ()) -> dict[str, float]:
    """Return a number as {name: number}, a vector or a dict as {name_<key>: number}.

    The keys of a vector are the classes where it has as many values, else 0, 1, ...
    """
    if hasattr(result, "tolist"):
        result = result.tolist()
    if isinstance(result, Mapping):
        items = list(result.items())
    elif isinstance(result, (list, tuple)):
        keys = classes if len(classes) == len(result) else range(len(result))
        items = list(zip(keys, result, strict=True))
    else:
        return {name: float(result)}
    if len(items) == 1 and not isinstance(result, Mapping):
        return _flatten(name, result[0], classes)
    parts = [_flatten(f"{name}_{key}", part, classes) for key, part in items]
    return {key: value for part in parts for key, value in part.items()}


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    """Return the weighted mean in float64, the same for any order of the values."""
    if len(values) == 1:
        return values[0]
    terms = [value * weight for value, weight in zip(values, weights, strict=True)]
    # fsum raises on inf - inf, where a sum is nan.
    total = math.fsum(terms) if all(map(math.isfinite, terms)) else sum(terms)
    return total / sum(weights)


class Metrics:
    """Hold the metrics of a config and compute them over a whole set of batches.

    A metric is one of:

    - a function with a counts form (the kit's own, or yours): exact, and equal for any batch size;
    - a torchmetrics metric, or another object with `reset`, `update(pred, target)` and `compute`;
    - an Ignite metric, also one made of others, with its own output transform;
    - a function giving one value per sample, (N,) float: the mean over the set, in float64;
    - a function giving anything else: evaluated once on the whole set, kept on the CPU up to
      KEEP_BYTES and moved to the device for that. A larger set, or one with samples of different
      sizes, is evaluated in parts as large as fit; the result is the mean of the parts weighted by
      their samples, and a warning says so once.

    A class, or a partial of one, is instantiated here. Objects are used as given, not copied: two
    bags at work at the same time need two objects, so give both the class.

    Args:
        metrics: the METRICS of a config, see `as_metrics`.
        device: where the predictions are; metrics that are modules are moved there.
        classes: the CLASSES of a config, which name the values of a metric that gives as many.

    Raises:
        TypeError, ValueError: see `as_metrics`.
    """

    def __init__(
        self,
        metrics: Mapping[str, Any] | Sequence[Any] | None,
        device: str | torch.device = "cpu",
        classes: Sequence[str] | None = None,
    ) -> None:
        self._device = torch.device(device)
        self._classes = classes or ()
        self._counts: dict[Hashable, Callable] = {}
        self._counted: dict[str, tuple[Hashable, Callable]] = {}  # what is counted, and compute
        self._objects: dict[str, Any] = {}
        self._functions: dict[str, Callable] = {}
        metrics = as_metrics(metrics)
        self._names = list(metrics)
        for name, metric in metrics.items():
            metric = _unwrap(metric() if _is_class(metric) else metric)
            if isinstance(metric, torch.nn.Module):
                metric = metric.to(self._device)
            # First, as Ignite's metrics make up any attribute that is asked for.
            if all(hasattr(metric, method) for method in ("reset", "update", "compute")):
                self._objects[name] = metric
            elif form := _counts_form(metric):
                counts, compute = form
                self._counts[_identity(counts)] = counts
                self._counted[name] = _identity(counts), compute
            else:
                self._functions[name] = metric
        parts = [part for metric in self._objects.values() for part in _updated_parts(metric)]
        self._updated = list({id(part): part for part in parts}.values())
        self._per_sample: dict[str, bool] = {}  # learnt from a function's first result
        self._said: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._num_samples = 0
        self._sums: dict[Hashable, Tensor] = {}
        self._values: dict[str, list[Tensor]] = {name: [] for name in self._functions}
        self._kept: list[tuple[Any, Any]] = []
        self._kept_bytes = 0
        self._kept_shapes: list[Any] = []
        self._parts: list[tuple[int, dict[str, dict[str, float]]]] = []
        for metric in self._objects.values():
            metric.reset()

    @torch.no_grad()
    def update(self, pred: Any, target: Any) -> None:
        """Take in one batch.

        Args:
            pred: (N, ...) float, logits, or dicts and tuples of such; half precision becomes
                float32.
            target: (N, ...), the truth, or dicts and tuples of such.

        Raises:
            TypeError: no tensor in pred and target.
            ValueError: a function gave one value per sample in the first batch and no more.
        """
        pred = _map(_plain, pred)
        n = _batch_size(pred, target)
        self._num_samples += n
        # The kit's metrics share one counting function: with equal arguments it runs once.
        for key, counts in self._counts.items():
            sums = counts(pred, target)
            self._sums[key] = self._sums[key] + sums if key in self._sums else sums
        for metric in self._updated:
            if _is_ignite(metric):
                # Its `update` alone would skip the output transform.
                state = SimpleNamespace(output=(pred, target))
                metric.iteration_completed(SimpleNamespace(state=state))
            else:
                metric.update(pred, target)
        for name, function in self._functions.items():
            if self._per_sample.get(name, True):
                self._update_function(name, function(pred, target), n)
        if not all(self._per_sample.values()):
            self._keep(pred, target)

    def _update_function(self, name: str, result: Any, n: int) -> None:
        if name not in self._per_sample:
            is_vector = isinstance(result, Tensor) and result.ndim > 0
            self._per_sample[name] = is_vector and result.numel() == n
        if self._per_sample[name]:
            if result.numel() != n:
                raise ValueError(
                    f"METRICS[{name!r}]: expected one value per sample, ({n},), as in the first "
                    f"batch, got {tuple(result.shape)}. Return (N,) always, or a scalar or a dict."
                )
            self._values[name].append(result.reshape(-1))

    def _keep(self, pred: Any, target: Any) -> None:
        """Keep a batch for the functions of the whole set; first evaluate what it cannot join."""
        leaves = _leaves((pred, target))
        shapes = [_shape(leaf) for leaf in leaves]
        size = sum(x.nbytes for x in leaves if isinstance(x, Tensor))
        if self._kept:
            reason = ""
            if shapes != self._kept_shapes or None in shapes:
                reason = "the batches differ in form"
            elif self._kept_bytes + size > KEEP_BYTES:
                reason = f"the set needs more than {KEEP_BYTES} bytes"
            if reason:
                self._warn(reason)
                self._parts.append(self._evaluate())
                self._kept, self._kept_bytes = [], 0
        self._kept.append(_map(Tensor.cpu, (pred, target)))
        self._kept_bytes += size
        self._kept_shapes = shapes

    def _warn(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            names = ", ".join(name for name, known in self._per_sample.items() if not known)
            logging.getLogger("plumbline").warning(
                "METRICS: %s: %s. The value is a mean of parts weighted by their samples, not that "
                "of the whole set. A counts form or one value per sample would be exact.",
                names,
                reason,
            )

    def _evaluate(self) -> tuple[int, dict[str, dict[str, float]]]:
        """Evaluate the functions of the whole set on the batches kept."""

        def join(*parts: Tensor) -> Tensor:
            return (torch.cat(parts) if len(parts) > 1 else parts[0]).to(self._device)

        pred, target = _map(join, *self._kept)
        results = {
            name: _flatten(name, function(pred, target), self._classes)
            for name, function in self._functions.items()
            if not self._per_sample[name]
        }
        return _batch_size(pred, target), results

    @property
    def counted(self) -> list[str]:
        """The metrics with a counts form, which follow from sums over samples."""
        return list(self._counted)

    @property
    def means(self) -> list[str]:
        """The metrics of one value per sample, as far as batches have shown it."""
        return [name for name, is_one in self._per_sample.items() if is_one]

    @torch.no_grad()
    def count(self, pred: Any, target: Any) -> dict[Hashable, Tensor]:
        """Return what samples add to the sums of the counted metrics; the bag stays as it is.

        Args:
            pred: as in `update`.
            target: as in `update`.
        """
        pred = _map(_plain, pred)
        return {key: counts(pred, target) for key, counts in self._counts.items()}

    def compute_counted(self, name: str, sums: Mapping[Hashable, Tensor]) -> dict[str, float]:
        """Return what `compute` gives for a counted metric, of sums of what `count` returned.

        Raises:
            ValueError: there were class indices outside 0..K - 1.
        """
        key, compute = self._counted[name]
        return _flatten(name, compute(sums[key]), self._classes)

    @torch.no_grad()
    def gather(self) -> None:
        """Take in what the bags of the other processes hold, in the order of one process.

        Collective; once, before `compute`. Each process has had the batches r, r + W, ... of W
        processes, one at least. Objects do it themselves in their `compute`.
        """
        if world_size() == 1:
            return
        sums = [value.cpu() for value in self._sums.values()]
        values = {name: [v.cpu() for v in own] for name, own in self._values.items()}
        bags = gather((self._num_samples, sums, values, self._kept, self._parts))
        numbers, sums, values, kept, parts = zip(*bags, strict=True)
        self._num_samples = sum(numbers)
        self._sums = dict(zip(self._sums, map(sum, zip(*sums, strict=True)), strict=True))
        self._values = {name: interleave([v[name] for v in values]) for name in self._values}
        self._parts = [part for own in parts for part in own]
        self._kept, self._kept_bytes = [], 0
        for pred, target in interleave(kept):
            self._keep(pred, target)

    @torch.no_grad()
    def compute(self) -> dict[str, float]:
        """Return the value of each metric over all batches since the last reset.

        A result that is a vector or a dict becomes name_0, name_1, ... or name_<key>; a vector of
        one value per class name_<class>. Before the first batch there is no value: nan for each
        name.

        Raises:
            ValueError: a counted metric met class indices outside 0..K - 1.
        """
        if not self._num_samples:
            return dict.fromkeys(self._names, math.nan)
        sums = {key: value.cpu() for key, value in self._sums.items()}
        parts = self._parts + ([self._evaluate()] if self._kept else [])
        values: dict[str, float] = {}
        for name in self._names:
            if name in self._counted:
                values |= self.compute_counted(name, sums)
            elif name in self._objects:
                values |= _flatten(name, self._objects[name].compute(), self._classes)
            elif self._per_sample[name]:
                samples = torch.cat(self._values[name]).tolist()
                values[name] = _mean(samples, [1] * len(samples))
            else:
                for key in dict.fromkeys(key for _, results in parts for key in results[name]):
                    having = [(n, results[name]) for n, results in parts if key in results[name]]
                    values[key] = _mean([part[key] for _, part in having], [n for n, _ in having])
        return values
