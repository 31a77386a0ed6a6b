"""Pictures with one target each: from a folder for each class, from a table, of identities.

What arguments, names and tables show is checked before training, and all problems are reported
together. So are the headers of the files: of up to NUM_HEADERS, evenly spread, because those of
100,000 take 10 s, and minutes over a network. What the others hide is found where it is read, and
the file is named.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from config.errors import ConfigError, did_you_mean, shorten
from utils.data.cache import PictureCache
from utils.data.files import read_array, read_header
from utils.data.labels import (
    NO_SAMPLES,
    Samples,
    Split,
    find_identities,
    find_in_folders,
    find_in_table,
    make_samples,
    order_identities,
)
from utils.data.pairs import shorten_list
from utils.data.preprocess import Preprocess, check_preprocess
from utils.data.splits import Fold, Holdout, check_split, some
from utils.data.transforms import (
    Transforms,
    check_transforms,
    keeps_size,
    make_pipeline,
    make_transforms,
    sets_size,
)

NUM_HEADERS = 2000
REMEDY = (
    'Make them equal by PREPROCESS: "channels" is "gray" or "rgb", "size" or "short_side" and '
    '"crop" are heights and widths; or by a transform that cuts them out.'
)

logger = logging.getLogger("plumbline")


class LabelledImages(Dataset):
    """Files of pictures with a target each; what the datasets of this module have in common.

    x: (C, H, W) float32, by PREPROCESS. y: as each of them says.

    Attributes:
        names: The names without suffix.
        files: The files in the same order.
        classes: The names of the classes or of the numbers in y, by number; or None.
        labels: The class number of each sample, `repeat` times over; or None.

    Args:
        samples: Names, files and targets.
        problems: What is wrong with them.
        preprocess: PREPROCESS, see utils.data.preprocess.
        transform: A function (x, y) -> (x, y) on tensors, one of torchvision.transforms.v2, a word
            ("light", "medium", "hard"), or a list of these in order; see utils.data.transforms.
        repeat: How often each picture comes in an epoch, each time augmented anew.
        cache: True keeps all pictures in memory as they are on disk; "disk" in one file, which the
            next run finds; see utils.data.cache.
        cache_dir: Where that file is.
        source: What it is of, the same in the next run.
        pool: The files that it holds, for all subsets.

    Raises:
        ConfigError: All problems.
    """

    def __init__(
        self,
        samples: Samples,
        problems: Sequence[str],
        preprocess: Mapping | Preprocess | None,
        transform: Transforms,
        repeat: int,
        cache: bool | str,
        cache_dir: Path,
        source: str,
        pool: Sequence[Path],
    ) -> None:
        config = preprocess.config if isinstance(preprocess, Preprocess) else preprocess
        wrong = check_preprocess(config)
        self.preprocess = Preprocess(None if wrong else config)
        wrong += check_transforms(transform)
        if not isinstance(repeat, int) or repeat < 1:
            wrong.append(f"repeat: expected a count from 1, got {shorten(repeat)}. Correct it.")
        if cache not in (False, True, "disk"):
            wrong.append(
                f'cache: expected False, True or "disk", got {shorten(cache)}. The folder for it '
                "is cache_dir."
            )
        problems = [*problems, *wrong]
        self.names, self.files, self.y, self.classes, labels = samples
        self.labels = None if wrong or labels is None else labels * repeat
        self.repeat, self._cache = repeat, None
        transforms = [] if wrong else make_transforms(transform)
        self._whole = sets_size(transforms)  # a transform cuts the whole picture
        self.transform = make_pipeline(transforms, self.preprocess)
        self.deterministic = not self.transform
        # sizes must be equal where nothing makes them so
        self._one_size = not self.preprocess.out_size and keeps_size(transforms)
        self._form: tuple[int, ...] | None = None
        if not problems and cache:
            on_disk = cache == "disk"
            kept = (pool, cache_dir, source) if on_disk else (self.files,)
            self._cache = PictureCache(*kept)
        if not problems:
            problems += self._check_headers()
        if problems:
            raise ConfigError(problems)

    def __len__(self) -> int:
        return len(self.files) * self.repeat

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """Read one picture.

        Returns:
            x: (C, H, W) float32, y: as the dataset has it.

        Raises:
            ValueError: The file is damaged, or differs from the others in size or channels.
        """
        index = range(len(self))[index] % len(self.files)
        file = self.files[index]
        array = read_array(file) if self._cache is None else self._cache[file]
        try:
            self._check_form(array.shape)
            x = self._prepare(array)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        y = self._target(index)
        for transform in self.transform:
            x, y = transform(x, y)
        return x, y

    def _prepare(self, array: np.ndarray) -> Tensor:
        if self.transform:
            return self.preprocess.prepare(array, self._whole)
        return self.preprocess(array)

    def _target(self, index: int) -> Any:
        if isinstance(self.y, Mapping):
            return {name: values[index] for name, values in self.y.items()}
        # a transform may work in place
        return self.y[index].clone() if self.transform else self.y[index]

    def _check_form(self, shape: Sequence[int]) -> None:
        """Refuse a picture that differs from the others in what must be equal."""
        form = self._form_of(*_full(shape))
        if self._form is not None and form != self._form:
            raise ValueError(
                f"expected a picture of {_describe(self._form)} as the others are, got "
                f"{_describe(form)}. {REMEDY}"
            )

    def _form_of(self, height: int, width: int, channels: int) -> tuple[int, ...]:
        """Return what must be equal: (height, width, channels) [px, px, 1], 0 for what need not."""
        channels = 0 if self.preprocess.channels else channels
        if not self._one_size:
            return 0, 0, channels
        short_side = self.preprocess.short_side
        if short_side:
            short = min(height, width)
            height, width = short_side * height // short, short_side * width // short
        return height, width, channels

    def _check_headers(self) -> list[str]:
        step = max(1, -(-len(self.files) // NUM_HEADERS))
        sizes, problems = {}, []
        for file in self.files if self._cache else self.files[::step]:
            try:
                sizes[file] = self._cache.shape(file) if self._cache else read_header(file)
            except (OSError, ValueError) as error:
                problems.append(str(error))
        problems = shorten_list(problems)
        forms: dict[tuple[int, ...], list[Path]] = {}
        for file, size in sizes.items():
            forms.setdefault(self._form_of(*_full(size)), []).append(file)
        if len(forms) > 1:
            common, *others = sorted(forms, key=lambda form: -len(forms[form]))
            named = "; ".join(f"{_describe(form)} in {some(forms[form])}" for form in others[:3])
            problems.append(
                f"expected pictures of one size and equal channels, got {_describe(common)} in "
                f"{len(forms[common])} files, but {named}. {REMEDY}"
            )
        if len(forms) == 1:
            problems += self._check_channels({_full(size)[2] for size in sizes.values()})
        cut = None if self._whole else self.preprocess.cut
        if cut and not (self.preprocess.size or self.preprocess.short_side):
            small = [f for f, size in sizes.items() if size[0] < cut[0] or size[1] < cut[1]]
            if small:
                problems.append(
                    f'PREPROCESS["crop"]: expected pictures of at least {cut[0]} x {cut[1]}, got '
                    f'smaller ones: {some(small)}. Enlarge them before, by "short_side" or "size".'
                )
        if not problems:
            self._form = next(iter(forms), None)
        return problems

    def _check_channels(self, found: Iterable[int]) -> list[str]:
        problems = []
        for channels in found:
            try:
                self.preprocess.ch_out(channels)
            except ValueError as error:
                problems.append(str(error))
        return sorted(set(problems))


def _full(shape: Sequence[int]) -> tuple[int, int, int]:
    return shape[0], shape[1], shape[2] if len(shape) == 3 else 1


def _describe(form: tuple[int, ...]) -> str:
    height, width, channels = form
    parts = [f"{height} x {width}"] if height else []
    parts += [f"{channels} channel{'s' * (channels != 1)}"] if channels else []
    return " and ".join(parts)


class ClassFolder(LabelledImages):
    """Pictures in a folder for each class: ``root/<class>/**.jpg``.

    All formats of utils.data.files will do. The target y by task: multiclass scalar int64, the
    number of the class in alphabetical order or in that of `classes`; binary (1,) float32, 1 for
    the second of two classes; embedding scalar int64, the number of the identity among those of the
    subset.

    Args:
        root: The folder of the folders.
        task: One of the three above.
        preprocess: As in LabelledImages; transform, too. Give a transform to the training alone.
        transform: As above.
        subset: "all", "train" (all but those held out) or "val" (those held out).
        holdout: What is held out for validation: a share, or names such as "cat/12" and
            ``"dog/*"``; see utils.data.splits.held_out.
        fold: Instead of a holdout: (number from 0, how many), one of so many equal parts.
        seed: Another one holds out another share or other parts.
        classes: The names of the classes in order; any other folder is an error.
        repeat: As in LabelledImages; cache, too.
        cache: As above.
        cache_dir: Where cache="disk" writes; None: root/.cache.

    Raises:
        ConfigError: Arguments, folders, names or headers do not fit; with cache, any file.
    """

    def __init__(
        self,
        root: str | Path,
        task: str = "multiclass",
        preprocess: Mapping | Preprocess | None = None,
        transform: Transforms = None,
        subset: str = "all",
        holdout: Holdout = (),
        fold: Fold = None,
        seed: int = 0,
        classes: Sequence[str] | None = None,
        repeat: int = 1,
        cache: bool | str = False,
        cache_dir: str | Path | None = None,
    ) -> None:
        root, split = Path(root), Split(subset, holdout, fold, seed)
        problems = _check_task(task, ("multiclass", "binary", "embedding"))
        problems += check_split(*split)
        found, wrong = find_in_folders(root)
        samples, unfit = NO_SAMPLES, []
        if found.files and not problems:
            samples, unfit = make_samples(found, task, classes, split, str(root))
        problems += wrong + unfit
        cache_dir = root / ".cache" if cache_dir is None else Path(cache_dir)
        kept = (cache, cache_dir, str(root.resolve()), found.files)
        super().__init__(samples, problems, preprocess, transform, repeat, *kept)


class ImageTable(LabelledImages):
    """Pictures that a table names, with their labels: a .csv or another format, with named columns.

    One label: the columns image_path and label, numbers of classes from 0 or their names. Several:
    image_path and a column of numbers for each.

    The target y by task: multiclass scalar int64; binary (1,) float32, from 0 and 1 or two names;
    multilabel (K,) float32 of 0..1; regression (K,) float32; embedding scalar int64, the number of
    the identity among those of the subset.

    Args:
        path: The table.
        folder: Where its paths start. None: its own folder, images/ in that, the folders in
            images/, or the same in a folder beside the table. Where images/train and images/test
            hold files of equal names, train_metadata.csv is about the first.
        task: One of the five above.
        path_column: The column of paths, relative or absolute.
        label_columns: The columns of labels. None: "label" or the only other one; of multilabel and
            regression `classes`, or all other columns of numbers.
        preprocess: As in LabelledImages; transform, too. Give a transform to the training alone.
        transform: As above.
        subset: "all", "train" (all but those held out) or "val" (those held out).
        holdout: What is held out for validation: a share, or names as in the table without suffix;
            see utils.data.splits.held_out.
        fold: Instead of a holdout: (number from 0, how many), one of so many equal parts.
        seed: Another one holds out another share or other parts.
        classes: The names of the classes in order; any other label is an error.
        allow_unlabelled: Let there be pictures beside the others that no table in this folder
            names.
        repeat: As in LabelledImages; cache, too.
        cache: As above.
        cache_dir: Where cache="disk" writes; None: .cache beside the table.

    Raises:
        ConfigError: Arguments, table, files or headers do not fit; with cache, any file.
        ImportError: The format of the table needs a package that is missing.
    """

    def __init__(
        self,
        path: str | Path,
        folder: str | Path | None = None,
        task: str = "multiclass",
        path_column: str = "image_path",
        label_columns: str | Sequence[str] | None = None,
        preprocess: Mapping | Preprocess | None = None,
        transform: Transforms = None,
        subset: str = "all",
        holdout: Holdout = (),
        fold: Fold = None,
        seed: int = 0,
        classes: Sequence[str] | None = None,
        allow_unlabelled: bool = False,
        repeat: int = 1,
        cache: bool | str = False,
        cache_dir: str | Path | None = None,
    ) -> None:
        path, split = Path(path), Split(subset, holdout, fold, seed)
        tasks = ("multiclass", "binary", "multilabel", "regression", "embedding")
        problems = _check_task(task, tasks) + check_split(*split)
        several = task in ("multilabel", "regression")
        columns = [label_columns] if isinstance(label_columns, str) else label_columns
        found, wrong = find_in_table(
            path,
            None if folder is None else Path(folder),
            path_column,
            classes if columns is None and several else columns,
            several,
            allow_unlabelled,
        )
        samples, unfit = NO_SAMPLES, []
        if found.files and not problems:
            samples, unfit = make_samples(found, task, classes, split, str(path))
        problems += wrong + unfit
        cache_dir = path.parent / ".cache" if cache_dir is None else Path(cache_dir)
        kept = (cache, cache_dir, f"{path.resolve()} {folder}", found.files)
        super().__init__(samples, problems, preprocess, transform, repeat, *kept)


class IdentityFolder(LabelledImages):
    """Pictures to tell identities apart, in three folders: train, base and val.

    Each holds a folder for each identity, or a table image_path, label; the table may lie beside it
    and be called train.csv. Identities of base and val need not be known in training, but each of
    val must be in base.

    The target y of train: scalar int64, the number of the identity. Of val a dict: "label", the
    same, with numbers beyond those of the training for identities that it does not have, and
    "gallery", bool: queries from val/ (False) are searched among those of base/ (True).

    Args:
        root: The folder of the three folders.
        part: "train" or "val"; val has the pictures of base and after them those of val.
        preprocess: As in LabelledImages; transform, repeat and cache, too.
        transform: As above.
        repeat: As above.
        cache: As above.
        cache_dir: Where cache="disk" writes; None: root/.cache.

    Raises:
        ConfigError: Folders, tables, identities or headers do not fit; with cache, any file.
    """

    def __init__(
        self,
        root: str | Path,
        part: str = "train",
        preprocess: Mapping | Preprocess | None = None,
        transform: Transforms = None,
        repeat: int = 1,
        cache: bool | str = False,
        cache_dir: str | Path | None = None,
    ) -> None:
        root = Path(root)
        problems = []
        if part not in ("train", "val"):
            hint = did_you_mean(str(part), ("train", "val"))
            problems.append(f'part: expected "train" or "val", got {part!r}.{hint}')
        found, wrong = find_identities(root, ["base", "val"] if part == "val" else ["train"])
        problems += wrong
        samples = NO_SAMPLES
        if found.files and not problems:
            everything = Split("all", (), None, 0)
            known, _ = find_identities(root, ["train"])  # which need not be there
            order = order_identities(known, found)
            samples, problems = make_samples(found, "embedding", order, everything, str(root))
        if part == "val":
            is_gallery = torch.tensor([name.startswith("base/") for name in samples.names])
            problems += _check_gallery(root, samples, is_gallery)
            samples = samples._replace(y={"label": samples.y, "gallery": is_gallery})
        cache_dir = root / ".cache" if cache_dir is None else Path(cache_dir)
        kept = (cache, cache_dir, f"{root.resolve()} {part}", found.files)
        super().__init__(samples, problems, preprocess, transform, repeat, *kept)


def _check_gallery(root: Path, samples: Samples, is_gallery: Tensor) -> list[str]:
    labels = samples.labels or []
    in_gallery = {label for label, is_base in zip(labels, is_gallery, strict=True) if is_base}
    lost = sorted(set(labels) - in_gallery)
    if not lost:
        return []
    return [
        f"{root / 'base'}: expected pictures of each identity in {root / 'val'}, got none of "
        f"{some([samples.classes[label] for label in lost])}. Put some of each there, to be found."
    ]


def _check_task(task: str, tasks: Sequence[str]) -> list[str]:
    if task in tasks:
        return []
    return [
        f"task: expected one of {', '.join(tasks)}, got {task!r}.{did_you_mean(str(task), tasks)}"
    ]
