"""From what lies on disk to the target of a loss, by TASK; see utils.data.tasks for its form."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from config.errors import did_you_mean, shorten
from utils.data.preprocess import Preprocess
from utils.data.splits import some
from utils.data.tasks import check_target

MAP_TASKS = (
    "binary_segmentation",
    "multiclass_segmentation",
    "multilabel_segmentation",
    "regression",
)
ROW_TASKS = ("binary", "multiclass", "multilabel", "embedding", "regression")
_UNLISTED = -1.0
_LEFT_OUT = 255  # what ignore_index=255 of a loss or a metric leaves out

Colour = tuple[int, int, int]
LabelValues = Mapping[int | Colour, int]


# ------------------------------------------------------------------------------------ masks


class MaskTarget:
    """Turn a mask as it is on disk into the target of a segmentation, or of a regression of maps.

    Attributes:
        of_colours: The values on disk are colours, three channels that become one.

    Args:
        task: One of MAP_TASKS.
        label_values: What a value or a colour on disk means: a class, or 255 where the losses and
            metrics shall leave the pixel out (ignore_index=255); None takes the values as they are.
        size: [H, W] that the target is resized to [px], to the nearest pixel.
    """

    def __init__(
        self,
        task: str,
        label_values: LabelValues | None = None,
        size: Sequence[int] | None = None,
    ) -> None:
        self.task, self.size = task, size
        self._labels = None if label_values is None else _Labels(label_values)
        self.of_colours = self._labels is not None and self._labels.of_colours

    def __call__(self, array: np.ndarray, where: str | Path) -> Tensor:
        """Make the target.

        Args:
            array: (H, W), (H, W, K) or of colours (H, W, 3 or 4).
            where: The file, for errors.

        Returns:
            binary_segmentation (1, H, W) float32 of 0..1, multiclass_segmentation (H, W) int64,
            multilabel_segmentation (K, H, W) float32 of 0..1, regression (K, H, W) float32.

        Raises:
            ValueError: The mask holds a value that the task does not know.
        """
        if self._labels is not None:
            array = self._labels(array, where)
        else:
            _check_values(array, self.task, where)
        y = Preprocess()(array)  # (K, H, W) float32, exact for class numbers below 2 ** 24
        if self.size:
            y = F.interpolate(y[None], list(self.size), mode="nearest-exact")[0]
        return y[0].long() if self.task == "multiclass_segmentation" else y

    def shape(self, height: int, width: int, channels: int) -> tuple[int, ...]:
        """Return the shape of the target of a mask of this size."""
        size = tuple(self.size or (height, width))
        ch = 1 if self.of_colours else channels
        return size if self.task == "multiclass_segmentation" else (ch, *size)


def check_mask_options(task: str, label_values: LabelValues | None) -> list[str]:
    """Return what is wrong with the arguments of MaskTarget, a line for each problem."""
    problems = []
    if task not in MAP_TASKS:
        hint = did_you_mean(str(task), MAP_TASKS)
        problems.append(f"task: expected one of {', '.join(MAP_TASKS)}, got {task!r}.{hint}")
    if label_values is None:
        return problems
    if task == "regression":
        return [
            f"label_values: expected none for {task}, got {shorten(label_values)}. Leave it out."
        ]
    limit = float("inf") if task == "multiclass_segmentation" else 1
    is_right = (
        isinstance(label_values, Mapping)
        and len(label_values) > 0
        and (all(map(_is_value, label_values)) or all(map(_is_colour, label_values)))
        and all(
            isinstance(label, int) and (0 <= label <= limit or label == _LEFT_OUT)
            for label in label_values.values()
        )
    )
    if not is_right:
        classes = "class numbers from 0" if task == "multiclass_segmentation" else "0, 1 or 255"
        problems.append(
            f"label_values: expected numbers on disk with {classes} each, such as "
            "{0: 0, 255: 1}, or colours such as {(0, 0, 0): 0, (255, 0, 0): 1}, got "
            f"{shorten(label_values)}. Correct it."
        )
    return problems


class _Labels:
    """Map the values of a mask to classes, all others being an error."""

    def __init__(self, label_values: LabelValues) -> None:
        self.of_colours = isinstance(next(iter(label_values)), tuple)
        self.named = sorted(label_values)
        codes = np.array(self.named)
        self.values = _code(codes) if self.of_colours else codes
        self.labels = np.array([label_values[value] for value in self.named], dtype=np.float32)
        self.table = self._look_up(np.arange(256))

    def __call__(self, mask: np.ndarray, where: str | Path) -> np.ndarray:
        values = _code(mask) if self.of_colours else mask
        # a table is ten times faster than a search, and nearly all masks are of 8 bits
        labels = self.table.take(values) if values.dtype == np.uint8 else self._look_up(values)
        if labels.min() == _UNLISTED:
            unlisted = np.unique(values[labels == _UNLISTED])
            if self.of_colours:
                unlisted = [(v >> 16, v >> 8 & 255, v & 255) for v in unlisted.tolist()]
            raise ValueError(
                f"{where}: expected the values {some(self.named)} of label_values, got "
                f"{some(unlisted)}. List them, or correct the file."
            )
        return labels

    def _look_up(self, values: np.ndarray) -> np.ndarray:
        nearest = np.searchsorted(self.values, values).clip(max=len(self.values) - 1)
        return np.where(self.values[nearest] == values, self.labels[nearest], np.float32(_UNLISTED))


def _code(colours: np.ndarray) -> np.ndarray:
    """Turn colours (..., 3 or 4), 8 bit each, into one number each; alpha is left out."""
    red, green, blue = (colours[..., i].astype(np.int64) for i in range(3))
    return red << 16 | green << 8 | blue


def _is_value(value: object) -> bool:
    return isinstance(value, int | float)


def _is_colour(value: object) -> bool:
    is_triple = isinstance(value, tuple) and len(value) == 3
    return is_triple and all(isinstance(part, int) and 0 <= part <= 255 for part in value)


def _check_values(mask: np.ndarray, task: str, where: str | Path) -> None:
    """Refuse values on disk that a task cannot have, such as 255 in a binary mask."""
    if task == "regression" or (task == "multiclass_segmentation" and mask.dtype.kind != "f"):
        return
    if task == "multiclass_segmentation":
        rule, wrong = "whole numbers", (mask != np.floor(mask)) | np.isinf(mask)
    elif mask.min() >= 0 and mask.max() <= 1:  # nearly free; false for NaN
        return
    else:
        rule, wrong = "values in [0, 1]", ~((mask >= 0) & (mask <= 1))
    if wrong.any():
        raise ValueError(
            f"{where}: expected {rule} for {task}, got {some(np.unique(mask[wrong]))}. "
            "Say what the values mean, as in label_values={0: 0, 255: 1}."
        )


# ------------------------------------------------------------------------------------- rows


def make_row_targets(
    values: np.ndarray, task: str, classes: Sequence[str] | None, where: str
) -> tuple[Tensor, list[str] | None]:
    """Turn one target for each sample into the targets of a task.

    Args:
        values: (N,) or (N, K), numbers; or (N,) names of classes, as text.
        task: One of ROW_TASKS.
        classes: The names in the order of their numbers; None: as they sort.
        where: Where the values are from, for errors.

    Returns:
        (N,) int64 for multiclass and embedding, else (N, K) float32; and the names of the classes
        where the values are names.

    Raises:
        ValueError: A value is none of the task.
    """
    names = None
    if values.dtype.kind not in "biuf":
        values, names = _number_names(values, task, classes, where)
    if task in ("multiclass", "embedding"):
        parts = values[values % 1 != 0]  # true of NaN, too
        if len(parts):
            raise ValueError(
                f"{where}: expected whole numbers for {task}, got {some(np.unique(parts))}. "
                "Number the classes from 0, or give their names as text."
            )
        y = torch.from_numpy(values.astype(np.int64))
    else:
        y = torch.from_numpy(values.astype(np.float32))
        y = y[:, None] if y.ndim == 1 else y
    problem = check_target(y, task)
    if problem:
        raise ValueError(f"{where}: {problem}")
    return y, names


def _number_names(
    values: np.ndarray, task: str, classes: Sequence[str] | None, where: str
) -> tuple[np.ndarray, list[str]]:
    found = sorted(set(values.ravel().tolist()))
    names = found if classes is None else list(map(str, classes))
    if task not in ("multiclass", "embedding") and (task, len(names)) != ("binary", 2):
        rule = "two names" if task == "binary" else "numbers"
        raise ValueError(
            f"{where}: expected {rule} for {task}, got {some(found)}. Write numbers, or name "
            "another column."
        )
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise ValueError(
            f"{where}: expected one of {some(names)}, got {some(unknown)}. Add these to the "
            "classes, or correct the file."
        )
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[name] for name in values.tolist()]), names
