"""Datasets: pictures with masks from folders, pictures alone, arrays, rows of a table, digits.

A dataset is any class with `__len__` and `__getitem__(index) -> (x, y)`. Two attributes make it
faster: `deterministic = True` (an item is always the same, so nothing needs to be seeded for it)
and `collated = True` (`__getitems__(indices)` returns the stacked batch).
"""

import functools
import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from config.errors import ConfigError, did_you_mean, shorten
from utils.data.files import list_files, read_array, read_table
from utils.data.pairs import check_sizes, choose_folders, find_pairs, read_sizes, shorten_list
from utils.data.preprocess import Preprocess, check_preprocess
from utils.data.splits import Fold, Holdout, check_split, held_out, some
from utils.data.targets import (
    MAP_TASKS,
    ROW_TASKS,
    LabelValues,
    MaskTarget,
    check_mask_options,
    make_row_targets,
)
from utils.data.transforms import (
    Transform,
    Transforms,
    check_transforms,
    make_pipeline,
    make_transforms,
    sets_size,
)

logger = logging.getLogger("plumbline")


class PairedFolder(Dataset):
    """Pictures and masks in two folders, paired by name: root/x and root/y, or image and label.

    x/a.png belongs to y/a.npy, x/berlin/a.png to y/berlin/a.npy; files are described in
    utils.data.files. Everything that names and headers can show is checked before training, and all
    problems are reported together.

    The target y by task: binary_segmentation (1, H, W) float32 of 0..1, multiclass_segmentation
    (H, W) int64, multilabel_segmentation (K, H, W) float32 of 0..1 from (H, W, K) on disk,
    regression (K, H, W) float32.

    Attributes:
        names: The names without suffix, sorted.
        files: The pairs (x file, y file) in the same order.

    Args:
        root: The folder of the two folders.
        task: One of the four above.
        preprocess: PREPROCESS for x (see utils.data.preprocess); y is only resized with it, to
            the nearest pixel.
        transform: A function (x, y) -> (x, y) on tensors, one of torchvision.transforms.v2, a word
            ("light", "medium", "hard"), or a list of these in order; see utils.data.transforms.
            Give it to the training set alone.
        subset: "all", "train" (all but those held out) or "val" (those held out).
        holdout: The names held out for validation (`berlin/*` for a folder of them), or the share
            of them, such as 0.2; see utils.data.splits.held_out.
        label_values: What a value on disk means, such as {0: 0, 255: 1}, or what a colour means,
            such as {(0, 0, 0): 0, (255, 0, 0): 1}; any other value is an error. 255 as a class is
            for ignore_index=255 of losses and metrics. Without it the values are taken as they are.
        image_dir: Instead of root: the folder of the pictures,
        mask_dir: and that of the masks, which may be the same or lie in it.
        image_name: What pictures are called, with a star for the name: `img_*`, `*.jpg`.
        mask_name: What masks are called, such as `*_mask`.
        fold: Instead of a holdout: (number from 0, how many), one of so many equal parts.
        seed: Another one holds out another share or other parts.
        repeat: How often each picture comes in an epoch, each time augmented anew.
        cache: Read everything now and keep it in memory, as float32.

    Raises:
        ConfigError: Arguments, folders, names or headers do not fit; with cache, any file.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        task: str = "binary_segmentation",
        preprocess: Mapping | Preprocess | None = None,
        transform: Transforms = None,
        subset: str = "all",
        holdout: Holdout = (),
        label_values: LabelValues | None = None,
        image_dir: str | Path | None = None,
        mask_dir: str | Path | None = None,
        image_name: str = "*",
        mask_name: str = "*",
        fold: Fold = None,
        seed: int = 0,
        repeat: int = 1,
        cache: bool = False,
    ) -> None:
        config = preprocess.config if isinstance(preprocess, Preprocess) else preprocess
        problems = check_preprocess(config, of_maps=True)
        self.preprocess = Preprocess(None if problems else config)
        wrong_split = check_split(subset, holdout, fold, seed)
        wrong = check_mask_options(task, label_values) + check_transforms(transform) + wrong_split
        if not isinstance(repeat, int) or repeat < 1:
            wrong.append(f"repeat: expected a count from 1, got {shorten(repeat)}. Correct it.")
        folders, wrong_folders = choose_folders(root, image_dir, mask_dir)
        pairs = {}
        if folders:
            pairs, wrong_folders = find_pairs(folders, (image_name, mask_name))
        problems += wrong + wrong_folders
        self.names = list(pairs)
        if pairs and not wrong_split and subset != "all":
            held, wrong_names = held_out(pairs, holdout, fold, seed, f"files in {folders[0]}")
            self.names = [name for name in pairs if (name in held) == (subset == "val")]
            problems += wrong_names
        self.files = [pairs[name] for name in self.names]
        self.task, self.repeat = task, repeat
        self.target = MaskTarget(task, None if wrong else label_values, self.preprocess.size)
        self.transform = [] if wrong else make_pipeline(transform, self.preprocess)
        self.deterministic = not self.transform
        self._memory: list[_Memory] = []
        colours = self.target.of_colours
        sizes, unreadable = read_sizes(self.files, colours)
        problems += unreadable + check_sizes(sizes, task, self.preprocess, colours)
        if cache and not problems:
            problems += self._fill_memory(list(sizes.values()))
        if problems:
            raise ConfigError(problems)

    def __len__(self) -> int:
        return len(self.files) * self.repeat

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Read one pair.

        Returns:
            x: (C, H, W) float32, y: as the task has it.

        Raises:
            ValueError: A file is damaged, or a mask holds a value that the task does not know.
        """
        index = range(len(self))[index] % len(self.files)
        x, y = (memory[index] for memory in self._memory) if self._memory else self._read(index)
        for transform in self.transform:
            x, y = transform(x, y)
        return x, y

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        x_file, y_file = self.files[index]
        array = read_array(x_file)
        x = self.preprocess.prepare(array) if self.transform else self.preprocess(array)
        return x, self.target(read_array(y_file, as_mask=not self.target.of_colours), y_file)

    def _fill_memory(self, sizes: list) -> list[str]:
        """Read all pairs into memory; return what is wrong with files."""
        x_shapes = [
            (self.preprocess.ch_out(ch), *(self.preprocess.size or (height, width)))
            for (height, width, ch), _ in sizes
        ]
        y_shapes = [self.target.shape(*y_size) for _, y_size in sizes]
        y_dtype = torch.int64 if self.task == "multiclass_segmentation" else torch.float32
        memory = [_Memory(x_shapes, torch.float32), _Memory(y_shapes, y_dtype)]
        problems = []
        for index in range(len(self.files)):
            try:
                for part, tensor in zip(memory, self._read(index), strict=True):
                    part.put(index, tensor)
            except (OSError, ValueError) as error:
                problems.append(str(error))
        self._memory = memory
        n_bytes = sum(part.values.nbytes for part in memory)
        logger.info("%d pairs are kept in memory, %.1f MB", len(self.files), n_bytes / 1e6)
        return shorten_list(problems)


class InputFolder(Dataset):
    """The pictures of a folder, without targets, for prediction.

    Attributes:
        names: The names without suffix, sorted, such as "berlin/1".
        files: The files in the same order.

    Args:
        folder: The folder; also those in it are read. See utils.data.files.
        preprocess: PREPROCESS of the training.
        name: What files are called, with a star for the name: `*_image`, `*.jpg`.

    Raises:
        ConfigError: The folder is missing or empty, or PREPROCESS is wrong.
    """

    deterministic = True

    def __init__(
        self,
        folder: str | Path,
        preprocess: Mapping | Preprocess | None = None,
        name: str = "*",
    ) -> None:
        self.preprocess = _as_preprocess(preprocess)
        try:
            found = list_files(folder, name)
        except (OSError, ValueError) as error:
            raise ConfigError(str(error)) from error
        self.names, self.files = list(found), list(found.values())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        """Return x: (C, H, W) float32, and the name.

        Raises:
            ValueError: The file is damaged.
        """
        return self.preprocess(read_array(self.files[index])), self.names[index]


class Arrays(Dataset):
    """Samples that lie in memory; a batch is fetched at once by indexing.

    Tensors as the model and the loss take them; `from_arrays` makes them of arrays as they are on
    disk.

    Args:
        x: (N, ...), a tensor or an array; kept, not copied.
        y: (N, ...), the targets.
        transform: As in PairedFolder, for one sample; batches are then made one by one.

    Raises:
        ValueError: x and y differ in length, or the transform is no function.
    """

    def __init__(
        self, x: Tensor | np.ndarray, y: Tensor | np.ndarray, transform: Transforms = None
    ) -> None:
        self.x, self.y = torch.as_tensor(x), torch.as_tensor(y)
        problems = check_transforms(transform)
        if len(self.x) != len(self.y):
            problems.append(
                f"Arrays: expected as many x as y, got {len(self.x)} and {len(self.y)}. Pair them."
            )
        if problems:
            raise ConfigError(problems)
        self.transform = make_transforms(transform)
        self.deterministic = self.collated = not self.transform

    def __len__(self) -> int:
        return len(self.x)

    @property
    def labels(self) -> Tensor | None:
        """The class of each sample, (N,) int64; None where the targets are no classes."""
        return self.y if self.y.dtype == torch.int64 and self.y.dim() == 1 else None

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.x[index], self.y[index]
        if self.transform:
            x, y = x.clone(), y.clone()  # for a transform that works in place
        for transform in self.transform:
            x, y = transform(x, y)
        return x, y

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor] | list:
        """Return the batch x: (N, ...), y: (N, ...); with a transform the list of its samples."""
        if self.transform:
            return [self[index] for index in indices]
        rows = torch.as_tensor(indices)
        return self.x[rows], self.y[rows]


def from_arrays(
    x: np.ndarray | Sequence[np.ndarray],
    y: np.ndarray | Sequence[np.ndarray],
    task: str,
    preprocess: Mapping | Preprocess | None = None,
    transform: Transforms = None,
    label_values: LabelValues | None = None,
) -> Arrays:
    """Make a dataset of arrays as they are on disk, in a notebook; what is done to files is done.

    Args:
        x: Pictures (N, H, W) or (N, H, W, C), channels last; or rows of numbers (N, C).
        y: Of a segmentation masks (N, H, W) or (N, H, W, K); of a regression these, or numbers (N,)
            or (N, K); of other tasks numbers of classes (N,), or one for each label (N, K).
        task: One of utils.data.tasks.TASKS.
        preprocess: PREPROCESS for x.
        transform: As in PairedFolder.
        label_values: As in PairedFolder.

    Raises:
        ConfigError: Arguments, lengths, shapes or values do not fit.
    """
    preprocess = _as_preprocess(preprocess)
    x, y = _as_array(x, "x"), _as_array(y, "y")
    is_map = task in MAP_TASKS and (task != "regression" or y.ndim > 2)
    problems = check_transforms(transform)
    if is_map:
        problems += check_preprocess(preprocess.config, of_maps=True)
        problems += check_mask_options(task, label_values)
    if not is_map and task not in ROW_TASKS:
        known = dict.fromkeys((*MAP_TASKS, *ROW_TASKS))
        hint = did_you_mean(str(task), known)
        problems.append(f"task: expected one of {', '.join(known)}, got {task!r}.{hint}")
    if x.ndim not in (2, 3, 4) or (x.ndim == 2 and is_map):
        problems.append(
            "x: expected pictures (N, H, W) or (N, H, W, C), or rows (N, C) with one target each, "
            f"got shape {x.shape}. The first axis counts the samples."
        )
    elif is_map and x.shape[1:3] != y.shape[1:3] and not preprocess.size:
        problems.append(
            f"y: expected maps of the height and width of x, got shape {y.shape} beside {x.shape}. "
            "Arrays are channels-last, (N, H, W, C)."
        )
    if problems:
        raise ConfigError(problems)
    transforms = make_transforms(transform)
    if x.ndim == 2:
        inputs = _prepare_rows(x, preprocess)
    else:
        transforms = make_pipeline(transforms, preprocess)
        inputs = _prepare_all(x, preprocess, transforms)
    if is_map:
        target = MaskTarget(task, label_values, preprocess.size)
        targets = torch.stack([target(mask, f"y[{i}]") for i, mask in enumerate(y)])
    else:
        targets, _ = make_row_targets(y, task, None, "y")
    return Arrays(inputs, targets, transforms)


class TableRows(Arrays):
    """The rows of a table: x are its columns of numbers, y is one of them.

    Attributes:
        columns: The names of the columns of x, in order.
        classes: The names of the classes by number, where the target is text; else None.

    Args:
        path: A table with or without a row of names; see utils.data.tables. An array (rows,
            columns) in any other format serves, too.
        target: The column of y, or a list of them for multilabel and regression; None gives the
            number of the row instead, for prediction. Columns without names are 0, 1, ...
        task: "multiclass" or "embedding": y is int64, from numbers or from names of classes;
            "binary", "multilabel", "regression": y is (K,) float32.
        columns: The columns of x; None takes all others.
        classes: The names of the classes in order; None: as those of this file sort. Give them
            where training and validation are two files.
        preprocess: PREPROCESS, its scale, and its mean and std for each column.
        transform: A function (x, y) -> (x, y), or a list of them.
        subset: "all", "train" or "val", as in PairedFolder.
        holdout: The share of the rows held out, or their numbers from 0, as text.
        fold: As in PairedFolder; seed, too.
        seed: Another draw.
        header: Whether the first row holds names; None: it is told by itself.

    Raises:
        ConfigError: The file or the arguments do not fit.
        ImportError: The format needs a package that is missing.
    """

    def __init__(
        self,
        path: str | Path,
        target: str | int | Sequence[str | int] | None,
        task: str = "multiclass",
        columns: Sequence[str | int] | None = None,
        classes: Sequence[str] | None = None,
        preprocess: Mapping | Preprocess | None = None,
        transform: Transforms = None,
        subset: str = "all",
        holdout: Holdout = (),
        fold: Fold = None,
        seed: int = 0,
        header: bool | None = None,
    ) -> None:
        self.preprocess = _as_preprocess(preprocess)
        problems = check_split(subset, holdout, fold, seed) + check_transforms(transform)
        if task not in ROW_TASKS:
            hint = did_you_mean(str(task), ROW_TASKS)
            problems.append(f"task: expected one of {', '.join(ROW_TASKS)}, got {task!r}.{hint}")
        if set(self.preprocess.config) - {"scale", "mean", "std", "dtype"}:
            problems.append(
                "PREPROCESS: expected scale, mean and std alone for rows of a table, got "
                f"{self.preprocess.config}. Take the others out."
            )
        try:
            table = read_table(path, header)
        except (OSError, ValueError) as error:
            raise ConfigError([*problems, str(error)]) from error
        is_one = isinstance(target, str | int)
        targets = list(map(str, [target] if is_one else target or ()))
        others = [name for name in table if name not in targets]
        self.columns = others if columns is None else list(map(str, columns))
        problems += _check_columns(path, table, self.columns, targets)
        if problems:
            raise ConfigError(problems)
        x = _prepare_rows(np.stack([table[c] for c in self.columns], axis=1), self.preprocess)
        self.classes = None
        y = torch.arange(len(x))
        self.has_targets = bool(targets)  # else y is the number of the row
        if targets:
            values = [table[c] for c in targets]
            array = values[0] if is_one else np.stack(values, axis=1)
            where = f'{path}, "{", ".join(targets)}"'
            y, self.classes = make_row_targets(array, task, classes, where)
        names = [str(number) for number in range(len(x))]
        if subset != "all":
            held, problems = held_out(names, holdout, fold, seed, f"rows of {path}")
            rows = [i for i, name in enumerate(names) if (name in held) == (subset == "val")]
            x, y = x[rows], y[rows]
        if problems:
            raise ConfigError(problems)
        super().__init__(x, y, transform)


class Digits(Arrays):
    """Handwritten digits that come with scikit-learn: 1797 real pictures of 8 x 8 pixels.

    Every fifth picture is for validation, the rest for training. x: (1, 8, 8) float32, y: scalar
    int64 in 0..9. Data: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI
    Machine Learning Repository, 1998.

    Args:
        subset: "train" (1437 pictures) or "val" (360).
        preprocess: PREPROCESS; None takes Digits.PREPROCESS, which maps 0..16 to [0, 1].
        transform: As in Arrays.

    Raises:
        ValueError: The subset is unknown.
        ImportError: The package scikit-learn is missing.
    """

    PREPROCESS = {"scale": 1 / 16}
    CLASSES = [str(digit) for digit in range(10)]

    def __init__(
        self,
        subset: str = "train",
        preprocess: Mapping | Preprocess | None = None,
        transform: Transforms = None,
    ) -> None:
        if subset not in ("train", "val"):
            raise ValueError(
                f'Digits: expected subset "train" or "val", got {subset!r}.'
                f"{did_you_mean(str(subset), ('train', 'val'))}"
            )
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                "Digits: expected scikit-learn to be installed, got none. Run `make env-dev`."
            ) from error
        digits = load_digits()
        chosen = (np.arange(len(digits.target)) % 5 == 0) == (subset == "val")
        self.preprocess = _as_preprocess(self.PREPROCESS if preprocess is None else preprocess)
        transforms = make_pipeline(transform, self.preprocess)
        x = _prepare_all(digits.images[chosen], self.preprocess, transforms)
        super().__init__(x, torch.from_numpy(digits.target[chosen].astype(np.int64)), transforms)


class _Memory:
    """Tensors of any shapes, one behind the other: a single piece of memory to share."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> None:
        self.shapes = shapes
        self.ends = list(itertools.accumulate(map(math.prod, shapes)))
        self.values = torch.empty(self.ends[-1], dtype=dtype)

    def put(self, index: int, tensor: Tensor) -> None:
        view = self._view(index)
        assert tensor.shape == view.shape, f"header {view.shape}, values {tensor.shape}"
        view.copy_(tensor)

    def __getitem__(self, index: int) -> Tensor:
        return self._view(index).clone()  # whoever works in place shall not change the memory

    def _view(self, index: int) -> Tensor:
        end, shape = self.ends[index], self.shapes[index]
        return self.values[end - math.prod(shape) : end].view(shape)


def _as_preprocess(preprocess: Mapping | Preprocess | None) -> Preprocess:
    return preprocess if isinstance(preprocess, Preprocess) else Preprocess(preprocess)


def _prepare_all(
    pictures: Iterable[np.ndarray], preprocess: Preprocess, transforms: Sequence[Transform]
) -> Tensor:
    """Return pictures as (N, C, H, W) float32, as far as they are the same in every epoch."""
    prepare = preprocess
    if transforms:
        prepare = functools.partial(preprocess.prepare, whole=sets_size(transforms))
    return torch.stack([prepare(picture) for picture in pictures])


def _prepare_rows(rows: np.ndarray, preprocess: Preprocess) -> Tensor:
    """Make rows (N, C) to a tensor (N, C) float32, each column being a channel of PREPROCESS."""
    return preprocess(rows[:, None])[:, :, 0].T.contiguous()


def _as_array(values: Any, name: str) -> np.ndarray:
    if isinstance(values, Tensor):
        raise ConfigError(
            f"{name}: expected numpy arrays, channels last, got a tensor. Arrays(x, y) takes "
            "tensors as they are."
        )
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ConfigError(f"{name}: expected arrays of equal shape, got {error}.") from error


def _check_columns(
    path: str | Path, table: Mapping[str, np.ndarray], columns: list[str], targets: list[str]
) -> list[str]:
    problems = []
    for name in (*columns, *targets):
        if name not in table:
            hint = did_you_mean(str(name), table)
            problems.append(
                f'{path}: expected one of the columns {some(list(table))}, got "{name}".{hint}'
            )
    if problems:
        return problems
    both = [name for name in columns if name in targets]
    if both or not columns:
        problems.append(
            f"columns: expected columns beside the target, got {some(both) or 'none'}. Name others."
        )
    numeric = columns if len(targets) == 1 else [*columns, *targets]  # one target may be names
    text = [name for name in numeric if table[name].dtype.kind != "f"]
    if text:
        return [
            *problems,
            f"{path}: expected numbers in the columns of x, got text in {some(text)}. "
            "Name the columns of numbers: columns=[...].",
        ]
    gaps = {name: table[name] == "" for name in targets if table[name].dtype.kind != "f"}
    gaps |= {name: np.isnan(table[name]) for name in (*columns, *targets) if name not in gaps}
    named = [f'"{name}" (its row {gap.argmax() + 1})' for name, gap in gaps.items() if gap.any()]
    if named:
        problems.append(
            f"{path}: expected a value in each row, got none in {some(named)}. "
            "Fill these, or take the rows out."
        )
    return problems
