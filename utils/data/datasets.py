"""Datasets: pictures with masks from two folders, arrays in memory, handwritten digits.

A dataset is any class with `__len__` and `__getitem__(index) -> (x, y)`. Two attributes make it
faster: `deterministic = True` (an item is always the same, so nothing needs to be seeded for it)
and `collated = True` (`__getitems__(indices)` returns the stacked batch).
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from config.errors import ConfigError, did_you_mean, shorten
from utils.data.files import list_files, read_array, read_header
from utils.data.preprocess import Preprocess, check_preprocess

Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_FOLDERS = (("x", "y"), ("image", "label"))
_TASKS = ("binary_segmentation", "multiclass_segmentation", "multilabel_segmentation", "regression")
_SUBSETS = ("all", "train", "val")
_NUM_NAMED = 10  # files named in one problem; the rest is counted
_UNLISTED = -1.0


class PairedFolder(Dataset):
    """Pictures and masks in two folders, paired by name: root/x and root/y, or image and label.

    x/a.png belongs to y/a.npy; files are described in utils.data.files. Everything that names and
    headers can show is checked before training, and all problems are reported together.

    The target y by task: binary_segmentation (1, H, W) float32 of 0..1, multiclass_segmentation
    (H, W) int64, multilabel_segmentation (K, H, W) float32 of 0..1 from (H, W, K) on disk,
    regression (K, H, W) float32.

    Attributes:
        names: The stems, sorted.
        files: The pairs (x file, y file) in the same order.

    Args:
        root: The folder of the two folders.
        task: One of the four above.
        preprocess: PREPROCESS for x (see utils.data.preprocess); y is only resized with it, to
            the nearest pixel.
        transform: A function (x, y) -> (x, y) on tensors, or a list of them in order. Give it to
            the training set alone.
        subset: "all", "train" (all but those held out) or "val" (those held out).
        holdout: The stems held out for validation, or the share of them, such as 0.2. A share is
            drawn by a hash of each stem, so a file stays on its side when others are added; of
            few files it is met roughly (0.2 of 30 files: 2 to 10).
        label_values: What a value on disk means, such as {0: 0, 255: 1}; any other value is an
            error. Without it the values are taken as they are.

    Raises:
        ConfigError: Arguments, folders, names or headers do not fit.
    """

    def __init__(
        self,
        root: str | Path,
        task: str = "binary_segmentation",
        preprocess: Mapping | Preprocess | None = None,
        transform: Transform | Sequence[Transform] | None = None,
        subset: str = "all",
        holdout: Sequence[str] | float = (),
        label_values: Mapping[int, int] | None = None,
    ) -> None:
        self.task = task
        self.transform = [transform] if callable(transform) else list(transform or [])
        self.deterministic = not self.transform
        self._labels = None
        config = preprocess.config if isinstance(preprocess, Preprocess) else preprocess
        problems = check_preprocess(config)
        self.preprocess = Preprocess(None if problems else config)
        wrong_options = _check_options(task, self.transform, subset, holdout, label_values)
        pairs, wrong_folders = _find_pairs(Path(root))
        problems += wrong_options + wrong_folders
        held_out: set[str] = set()
        if pairs and not wrong_options:
            held_out, wrong = _hold_out(root, pairs, subset, holdout)
            problems += wrong
            self._labels = None if label_values is None else _Labels(label_values)
        self.names = [
            name for name in pairs if subset == "all" or (name in held_out) == (subset == "val")
        ]
        self.files = [pairs[name] for name in self.names]
        problems += _check_headers(self.files, task, self.preprocess)
        if problems:
            raise ConfigError(problems)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Read one pair.

        Returns:
            x: (C, H, W) float32, y: as the task has it.

        Raises:
            ValueError: A file is damaged, or a mask holds a value that the task does not know.
        """
        x_file, y_file = self.files[index]
        x = self.preprocess(read_array(x_file))
        y = self._target(y_file)
        for transform in self.transform:
            x, y = transform(x, y)
        return x, y

    def _target(self, path: Path) -> Tensor:
        array = read_array(path)
        if self._labels is not None:
            array = self._labels(array, path)
        else:
            _check_values(array, self.task, path)
        y = Preprocess()(array)  # (K, H, W) float32, exact for class numbers below 2 ** 24
        if self.preprocess.size:
            y = F.interpolate(y[None], self.preprocess.size, mode="nearest-exact")[0]
        return y[0].long() if self.task == "multiclass_segmentation" else y


class Arrays(Dataset):
    """Samples that lie in memory; a batch is fetched at once by indexing.

    Args:
        x: (N, ...), a tensor or an array; kept, not copied.
        y: (N, ...), the targets.
        transform: A function (x, y) -> (x, y) for one sample; batches are then made one by one.

    Raises:
        ValueError: x and y differ in length.
    """

    def __init__(
        self, x: Tensor | np.ndarray, y: Tensor | np.ndarray, transform: Transform | None = None
    ) -> None:
        self.x, self.y = torch.as_tensor(x), torch.as_tensor(y)
        if len(self.x) != len(self.y):
            raise ValueError(
                f"Arrays: expected as many x as y, got {len(self.x)} and {len(self.y)}. Pair them."
            )
        self.transform = transform
        self.deterministic = self.collated = transform is None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.x[index], self.y[index]
        return (x, y) if self.transform is None else self.transform(x, y)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor] | list:
        """Return the batch x: (N, ...), y: (N, ...); with a transform the list of its samples."""
        if self.transform is not None:
            return [self[index] for index in indices]
        rows = torch.as_tensor(indices)
        return self.x[rows], self.y[rows]


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
        transform: Transform | None = None,
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
        if not isinstance(preprocess, Preprocess):
            preprocess = Preprocess(self.PREPROCESS if preprocess is None else preprocess)
        self.preprocess = preprocess
        x = torch.stack([preprocess(image) for image in digits.images[chosen]])
        super().__init__(x, torch.from_numpy(digits.target[chosen].astype(np.int64)), transform)


class _Labels:
    """Map the values of a mask to classes, all others being an error."""

    def __init__(self, label_values: Mapping[int, int]) -> None:
        values = sorted(label_values)
        self.values = np.array(values)
        self.labels = np.array([label_values[value] for value in values], dtype=np.float32)
        self.table = self._look_up(np.arange(256))

    def __call__(self, mask: np.ndarray, path: Path) -> np.ndarray:
        # a table is ten times faster than a search, and nearly all masks are of 8 bits
        labels = self.table.take(mask) if mask.dtype == np.uint8 else self._look_up(mask)
        if labels.min() == _UNLISTED:
            unlisted = np.unique(mask[labels == _UNLISTED])
            raise ValueError(
                f"{path}: expected the values {_some(self.values)} of label_values, got "
                f"{_some(unlisted)}. List them, or correct the file."
            )
        return labels

    def _look_up(self, mask: np.ndarray) -> np.ndarray:
        nearest = np.searchsorted(self.values, mask).clip(max=len(self.values) - 1)
        return np.where(self.values[nearest] == mask, self.labels[nearest], np.float32(_UNLISTED))


def _check_values(mask: np.ndarray, task: str, path: Path) -> None:
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
            f"{path}: expected {rule} for {task}, got {_some(np.unique(mask[wrong]))}. "
            "Say what the values mean, as in label_values={0: 0, 255: 1}."
        )


def _check_options(
    task: str, transform: list, subset: str, holdout: object, label_values: Mapping | None
) -> list[str]:
    """Return what is wrong with the arguments of PairedFolder taken by themselves."""
    problems = []
    for key, value, known in (("task", task, _TASKS), ("subset", subset, _SUBSETS)):
        if value not in known:
            hint = did_you_mean(str(value), known)
            problems.append(f"{key}: expected one of {', '.join(known)}, got {value!r}.{hint}")
    if not all(map(callable, transform)):
        problems.append(
            f"transform: expected functions (x, y) -> (x, y), got {shorten(transform)}. "
            "Give the functions themselves."
        )
    if isinstance(holdout, Real):
        is_right = 0 < holdout < 1
    else:
        is_right = isinstance(holdout, list | tuple | set | frozenset)
        is_right = is_right and all(isinstance(stem, str) for stem in holdout)
    if not is_right:
        problems.append(
            "holdout: expected a list of file names without suffix, as text, or a share between "
            f"0 and 1, got {shorten(holdout)}. Correct it."
        )
    elif subset in _SUBSETS and bool(holdout) == (subset == "all"):
        problems.append(
            f'holdout: expected one with subset "train" or "val" and none with "all", got '
            f'{shorten(holdout)} with "{subset}". Give both or neither.'
        )
    if label_values is not None:
        problems += _check_label_values(task, label_values)
    return problems


def _check_label_values(task: str, label_values: Mapping) -> list[str]:
    if task == "regression":
        return [
            f"label_values: expected none for {task}, got {shorten(label_values)}. Leave it out."
        ]
    limit = float("inf") if task == "multiclass_segmentation" else 1
    is_right = (
        isinstance(label_values, Mapping)
        and len(label_values) > 0
        and all(isinstance(value, int | float) for value in label_values)
        and all(isinstance(label, int) and 0 <= label <= limit for label in label_values.values())
    )
    if is_right:
        return []
    classes = "class numbers from 0" if task == "multiclass_segmentation" else "0 or 1"
    return [
        f"label_values: expected numbers on disk with {classes} each, such as {{0: 0, 255: 1}}, "
        f"got {shorten(label_values)}. Correct it."
    ]


def _find_pairs(root: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Return the pairs by name, sorted, and what is wrong with the folders."""
    names = [pair for pair in _FOLDERS if any((root / name).is_dir() for name in pair)]
    if len(names) != 1:
        got = "both" if names else "neither" if root.is_dir() else "no such folder"
        rule = "expected the folders x and y, or image and label"
        return {}, [f"{root}: {rule}, got {got}. Name the folder that holds them (DATA_DIR=...)."]
    folders = [root / name for name in names[0]]
    found, problems = [], []
    for folder in folders:
        try:
            found.append(list_files(folder))
        except (OSError, ValueError) as error:
            problems.append(str(error))
    if problems:
        return {}, problems
    x_files, y_files = found
    for files, others, other in ((x_files, y_files, folders[1]), (y_files, x_files, folders[0])):
        alone = [str(files[stem]) for stem in files if stem not in others]
        if alone:
            problems.append(
                f"{other}: expected a file of the same name for each in the folder beside it, got "
                f"none for {_some(alone)}. Add the missing files, or take these out."
            )
    return {stem: (x_files[stem], y_files[stem]) for stem in x_files if stem in y_files}, problems


def _hold_out(
    root: str | Path, stems: Iterable[str], subset: str, holdout: Sequence[str] | float
) -> tuple[set[str], list[str]]:
    """Return the stems held out, and what is wrong with them."""
    stems = set(stems)
    if isinstance(holdout, Real):
        # Python's own hash() differs from process to process
        digests = {stem: hashlib.sha256(stem.encode()).digest()[:8] for stem in stems}
        held_out = {s for s, digest in digests.items() if int.from_bytes(digest) < holdout * 2**64}
    else:
        held_out = set(holdout)
    unknown = sorted(held_out - stems)
    if unknown:
        return held_out, [
            f"holdout: expected names of files in {root}, got {_some(unknown)}. "
            "Give the names without suffix."
        ]
    if subset != "all" and len(held_out) in (0, len(stems)):
        return held_out, [
            f"holdout: expected files on both sides, got {len(held_out)} of {len(stems)} held out "
            f"by {shorten(holdout)}. Name the files to hold out."
        ]
    return held_out, []


def _check_headers(files: list[tuple[Path, Path]], task: str, preprocess: Preprocess) -> list[str]:
    """Return what the headers show: sizes that differ within a pair, channels that cannot be."""
    problems, sizes = [], []
    x_channels: dict[int, list[str]] = {}
    y_channels: dict[int, list[str]] = {}
    for x_file, y_file in files:
        try:
            *x_size, x_ch = read_header(x_file)
            *y_size, y_ch = read_header(y_file)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        if x_size != y_size:
            sizes.append(f"{y_file} ({_times(y_size)}, its picture {_times(x_size)})")
        x_channels.setdefault(x_ch, []).append(str(x_file))
        y_channels.setdefault(y_ch, []).append(str(y_file))
    if len(problems) > _NUM_NAMED:
        problems[_NUM_NAMED:] = [f"and {len(problems) - _NUM_NAMED} more files like these."]
    if sizes:
        problems.append(
            f"expected masks of the height and width of their pictures, got {_some(sizes)}. "
            "Arrays are channels-last, (H, W, C)."
        )
    if not preprocess.channels:
        problems += _check_equal("pictures", x_channels)
    for ch_in, names in x_channels.items():
        try:
            preprocess.ch_out(ch_in)
        except ValueError as error:
            problems.append(f"{names[0]}: {error}")
    if task in ("binary_segmentation", "multiclass_segmentation"):
        many = [name for ch, names in y_channels.items() if ch != 1 for name in names]
        if many:
            problems.append(
                f"expected masks of one channel for {task}, got more in {_some(many)}. "
                "Save the classes as numbers in one channel."
            )
    else:
        problems += _check_equal("masks", y_channels)
    return problems


def _check_equal(what: str, by_channels: dict[int, list[str]]) -> list[str]:
    if len(by_channels) < 2:
        return []
    common, *others = sorted(by_channels, key=lambda ch: -len(by_channels[ch]))
    found = "; ".join(f"{ch} in {_some(by_channels[ch])}" for ch in others)
    return [
        f"expected {what} of equal channels, got {common} in {len(by_channels[common])} files, "
        f"but {found}. Convert these."
    ]


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _some(items: Sequence) -> str:
    text = ", ".join(str(item) for item in items[:_NUM_NAMED])
    return text + (f" and {len(items) - _NUM_NAMED} more" if len(items) > _NUM_NAMED else "")
