"""The data sets of torchvision by their name, downloaded where they are missing."""

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from config.check import check_call
from config.errors import ConfigError, did_you_mean
from utils.data.files import to_array
from utils.data.images import REMEDY
from utils.data.preprocess import Preprocess, check_preprocess
from utils.data.splits import Fold, Holdout, check_split, held_out, some
from utils.data.targets import LabelValues, MaskTarget, check_mask_options
from utils.data.tasks import TASKS, check_target
from utils.data.transforms import (
    Transforms,
    check_transforms,
    keeps_size,
    make_pipeline,
    make_transforms,
    sets_size,
)

_NUM_SIZES = 16  # pictures whose sizes are compared before training

# where the data sets keep what `torchvision.datasets` has no common word for
_LABELS = ("targets", "labels", "_labels", "_bin_labels", "y", "_samples", "samples")
_FILES = ("_images", "_image_files", "_samples", "samples")


class TorchvisionDataset(Dataset):
    """A data set of torchvision.datasets: CIFAR10, MNIST, OxfordIIITPet, Flowers102 and others.

    x: (C, H, W) float32, by PREPROCESS, of 0..255 before it. Data sets that lie in memory (CIFAR,
    MNIST and the like) are read a batch at once, which takes microseconds for a picture.

    The target y by task: multiclass and embedding scalar int64, binary (1,) float32, multilabel and
    regression (K,) float32, a segmentation as in PairedFolder.

    Attributes:
        classes: The names of the classes by number, or None.
        labels: The class number of each picture, or None where it would have to be read.
        names: The names of the files without suffix, or numbers from 0.
        files: The files, or None.

    Args:
        name: The name of the class in torchvision.datasets.
        root: The folder that holds the data, or gets them.
        task: What the target is; see utils.data.tasks.
        preprocess: PREPROCESS, see utils.data.preprocess.
        transform: As in ClassFolder. Give it to the training alone.
        subset: "all", "train" (all but those held out) or "val" (those held out), beside what
            torchvision calls a split.
        holdout: What is held out: a share of the pictures, or their `names`.
        fold: Instead of a holdout: (number from 0, how many), one of so many equal parts.
        seed: Another one holds out another share or other parts.
        classes: Names of the classes instead of those that torchvision has.
        label_values: Of a segmentation, as in PairedFolder.
        download: Get the data where they are missing.
        **arguments: Those of torchvision's class: train=False, split="test", ...

    Raises:
        ConfigError: The name or arguments are unknown, data are missing or do not fit the task.
        ImportError: The package torchvision is missing.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        task: str = "multiclass",
        preprocess: Mapping | Preprocess | None = None,
        transform: Transforms = None,
        subset: str = "all",
        holdout: Holdout = (),
        fold: Fold = None,
        seed: int = 0,
        classes: Sequence[str] | None = None,
        label_values: LabelValues | None = None,
        download: bool = True,
        **arguments: Any,
    ) -> None:
        config = preprocess.config if isinstance(preprocess, Preprocess) else preprocess
        is_map = str(task).endswith("_segmentation")
        problems = check_preprocess(config, of_maps=is_map) + check_transforms(transform)
        problems += check_split(subset, holdout, fold, seed)
        if task not in TASKS:
            hint = did_you_mean(str(task), TASKS)
            problems.append(f"task: expected one of {', '.join(TASKS)}, got {task!r}.{hint}")
        elif is_map:
            problems += check_mask_options(task, label_values)
        made, wrong = _make(name, Path(root), download, arguments) if not problems else (None, [])
        if made is None:
            raise ConfigError(problems + wrong)
        self.task, self.preprocess = task, Preprocess(config)
        self.target = MaskTarget(task, label_values, self.preprocess.size) if is_map else None
        transforms = make_transforms(transform)
        self._whole = sets_size(transforms)
        self.transform = make_pipeline(transforms, self.preprocess)
        self.deterministic = not self.transform
        first, last = made[0], made[len(made) - 1]
        self.labels = None if is_map else _find_labels(made, first[1], last[1])
        self.files, self.names = _find_files(made, Path(root))
        self.classes = _find_classes(made, task, arguments)
        self._rows, self._made, self._data = range(len(made)), made, None
        if self.labels is not None and _is_in_memory(made, first[0], last[0]):
            # as a tensor, which workers share; the rest is not needed
            self._made, self._data = None, torch.as_tensor(made.data)
        problems = self._check_target(name, first[1]) + self._rename(name, classes)
        if subset != "all":
            held, wrong = held_out(self.names, holdout, fold, seed, f"the pictures of {name}")
            problems += wrong
            self._take([i for i in self._rows if (self.names[i] in held) == (subset == "val")])
        if not problems and keeps_size(transforms) and not self.preprocess.out_size:
            problems += self._check_sizes(name)
        if problems:
            raise ConfigError(problems)
        self.collated = self._data is not None and self.deterministic

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Read one picture.

        Returns:
            x: (C, H, W) float32, y: as the task has it.

        Raises:
            ValueError: The picture is damaged, or a mask holds a value that the task does not know.
        """
        array, raw = self._read(index)
        y = self._make_target(raw)
        if not self.transform:
            return self.preprocess(array), y
        x = self.preprocess.prepare(array, self._whole)
        for transform in self.transform:
            x, y = transform(x, y)
        return x, y

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor] | list:
        """Return the batch x: (N, C, H, W), y: (N, ...), or the list of its samples."""
        if not self.collated:
            return [self[index] for index in indices]
        rows = [self._rows[index] for index in indices]
        targets = [self._make_target(self.labels[index]) for index in indices]
        return self.preprocess.batch(self._data[rows].numpy()), torch.stack(targets)

    def _read(self, index: int) -> tuple[np.ndarray, Any]:
        """Return the picture, (H, W) or (H, W, C), and the target as torchvision has it."""
        index = range(len(self))[index]
        if self._data is not None:
            return self._data[self._rows[index]].numpy(), self.labels[index]
        image, raw = self._made[self._rows[index]]
        return to_array(image), raw

    def _make_target(self, raw: Any) -> Tensor:
        if self.target is not None:
            return self.target(to_array(raw, as_mask=True), "mask")
        if self.task in ("multiclass", "embedding"):
            return torch.tensor(int(raw))
        return torch.as_tensor(raw, dtype=torch.float32).reshape(-1)

    def _check_target(self, name: str, raw: Any) -> list[str]:
        try:
            left_out = None if self.target is None else 255  # by label_values
            problem = check_target(self._make_target(raw)[None], self.task, None, left_out)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            problem = f"got {type(raw).__name__}: {error}."
        if problem is None:
            return []
        return [
            f"{name}: expected targets for {self.task}. {problem} Set another TASK, or name others "
            "by the arguments of torchvision's class."
        ]

    def _rename(self, name: str, classes: Sequence[str] | None) -> list[str]:
        if classes is None:
            return []
        known, self.classes = self.classes, list(map(str, classes))
        if known is None or len(known) == len(self.classes) or self.task == "binary":
            return []
        return [
            f"{name}: expected names of {len(known)} classes, got {len(classes)}. They are "
            f"{some(known)}: name all of them, or leave CLASSES out."
        ]

    def _check_sizes(self, name: str) -> list[str]:
        """Compare pictures that lie evenly spread."""
        step = -(-len(self) // _NUM_SIZES)
        sizes = sorted({self._read(i)[0].shape for i in range(0, len(self), step)})
        if len(sizes) < 2:
            return []
        return [
            f"{name}: expected pictures of one size and equal channels, got {some(sizes)}. {REMEDY}"
        ]

    def _take(self, rows: list[int]) -> None:
        self._rows = rows
        for name in ("labels", "names", "files"):
            values = getattr(self, name)
            setattr(self, name, None if values is None else [values[i] for i in rows])


# --------------------------------------------------- what the classes of torchvision have made


def _make(
    name: str, root: Path, download: bool, arguments: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    """Return a data set of torchvision, and what is wrong."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ImportError(
            "TorchvisionDataset: expected torchvision to be installed, got none. Run `make "
            "env-dev`."
        ) from error
    known = [word for word in datasets.__all__ if isinstance(getattr(datasets, word), type)]
    if name not in known:
        hint = did_you_mean(str(name), known)
        return None, [
            f"name: expected the name of a class in torchvision.datasets, got {name!r}.{hint}"
        ]
    make = getattr(datasets, name)
    problems = [
        f"{name}: expected transform, a function of (x, y), for pictures and targets, got {word}. "
        "Leave it out."
        for word in ("target_transform", "transforms")
        if word in arguments
    ]
    accepted = inspect.signature(make).parameters.values()
    words = {parameter.name for parameter in accepted}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted):  # for its base
        words |= {word for base in make.__mro__ for word in inspect.signature(base).parameters}
    # some cannot be downloaded, and one is made up
    given = {"root": str(root), "download": download}
    given = {word: value for word, value in given.items() if word in words}
    problems += check_call(make, arguments, name, filled_in=given)
    if problems:
        return None, problems
    try:
        return make(**given, **arguments), []
    except (RuntimeError, OSError) as error:
        remedy = "Put them there" if download else "Set download=True, or put them there"
        return None, [f"{name}: expected its files in {root}, got: {error}. {remedy}."]
    except (TypeError, ValueError) as error:
        return None, [f"{name}: {error}"]


def _find_labels(made: Any, first: Any, last: Any) -> list[int] | None:
    """Return the class number of each picture where they can be had without reading pictures."""
    for name in _LABELS:
        values = getattr(made, name, None)
        if values is None or len(values) != len(made):
            continue
        labels = [value[1] if isinstance(value, tuple) else value for value in values]
        try:
            labels = [int(label) for label in labels]
            if (labels[0], labels[-1]) == (int(first), int(last)):
                return labels
        except (TypeError, ValueError, RuntimeError):  # no numbers, but files or several labels
            continue
    return None


def _find_files(made: Any, root: Path) -> tuple[list[Path] | None, list[str]]:
    """Return the files where they are known, and a name for each picture."""
    for name in _FILES:
        values = getattr(made, name, None)
        if not isinstance(values, list) or len(values) != len(made):
            continue
        values = [value[0] if isinstance(value, tuple) else value for value in values]
        if all(isinstance(value, (str, Path)) for value in values):
            files = [Path(value) for value in values]
            names = [os.path.relpath(file.with_suffix(""), root) for file in files]
            return files, [Path(name).as_posix() for name in names]
    return None, [str(i) for i in range(len(made))]


def _find_classes(made: Any, task: str, arguments: Mapping[str, Any]) -> list[str] | None:
    if task.endswith("_segmentation") or task == "regression":
        return None
    names = {"multilabel": ("attr_names",), "binary": ("bin_classes", "classes")}
    # the pets have breeds and, by this argument, cat and dog
    is_binary = "binary-category" in str(arguments.get("target_types"))
    own = ("bin_classes",) if is_binary else ("classes", "categories")
    for name in names.get(task, own):
        classes = getattr(made, name, None)
        if isinstance(classes, (list, tuple)) and (task != "binary" or len(classes) == 2):
            # of some each name is a tuple of words for the same thing
            return [str(word[0] if isinstance(word, tuple) else word) for word in classes]
    return None


def _is_in_memory(made: Any, first: Any, last: Any) -> bool:
    """Tell whether `data` holds all pictures as they come: (N, H, W) or (N, H, W, C) uint8."""
    data = getattr(made, "data", None)
    if not isinstance(data, (np.ndarray, Tensor)) or len(data) != len(made):
        return False
    return all(
        array.dtype == np.uint8 and np.array_equal(array, to_array(image))
        for array, image in ((np.asarray(data[0]), first), (np.asarray(data[-1]), last))
    )
