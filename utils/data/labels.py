"""Which pictures there are and what each shows: from a folder for each class, or from a table.

First they are found (`find_in_folders`, `find_in_table`), then labels become targets
(`make_samples`). Each function returns what is wrong as well, a line for each problem.
"""

import logging
import os
import re
from collections.abc import Container, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from config.errors import did_you_mean
from utils.data.files import ARRAY_SUFFIXES, TABLE_SUFFIXES, list_files, read_table
from utils.data.splits import Fold, Holdout, held_out, some
from utils.data.tables import MISSING, Table

logger = logging.getLogger("plumbline")

# folders of these names hold the parts of a data set, and are no classes
_PARTS = frozenset(("base", "dev", "test", "train", "training", "val", "valid", "validation"))
_MISSING_TEXT = sorted(cell for cell in MISSING if cell is not None)
_NUM_TRIED = 100  # rows of a table by which its folder is found


class Labelled(NamedTuple):
    """Pictures and what a folder or a table says of each; all in the same order."""

    names: list[str]  # without suffix, such as "cat/1"
    files: list[Path]
    labels: np.ndarray  # (N,) names or numbers, or (N, K) numbers
    columns: list[str]  # of the labels


NONE = Labelled([], [], np.empty(0), [])


# ----------------------------------------------------------------------- a folder for each class


def find_in_folders(root: Path) -> tuple[Labelled, list[str]]:
    """Return the pictures of a folder with a folder for each class, and what is wrong with it."""
    try:
        found = list_files(root)
    except (OSError, ValueError) as error:
        return NONE, [str(error)]
    problems = []
    folders = sorted(
        place.name for place in root.iterdir() if place.is_dir() and not place.name.startswith(".")
    )
    if _PARTS.issuperset(folders) and folders:
        return NONE, [
            f"{root}: expected a folder for each class, got {some(folders)}. These are parts of "
            f"the data: name one of them, such as {root / folders[-1]}."
        ]
    stray = [path.name for name, path in found.items() if "/" not in name]
    if stray:
        problems.append(
            f"{root}: expected each picture in the folder of its class, got {some(stray)} beside "
            "these folders. Move the pictures, or take them out."
        )
    labels = [name.partition("/")[0] for name in found]
    empty = sorted(set(folders) - set(labels))
    if empty:
        problems.append(
            f"{root}: expected pictures in the folder of each class, got none in {some(empty)}. "
            "Fill these folders, or remove them."
        )
    return Labelled(list(found), list(found.values()), np.array(labels), [root.name]), problems


# --------------------------------------------------------------------------------------- a table


def find_in_table(
    path: Path,
    folder: Path | None,
    path_column: str,
    label_columns: Sequence[str] | None,
    several: bool,
    allow_unlabelled: bool = True,
) -> tuple[Labelled, list[str]]:
    """Return the pictures that a table names, and what is wrong with them.

    Args:
        path: The table; its first row holds names.
        folder: Where its paths start; None finds it, see `_find_folder`.
        path_column: The column of paths.
        label_columns: The columns of labels; None: see `_choose_columns`.
        several: Whether a picture has several labels, numbers in as many columns.
        allow_unlabelled: Whether there may be pictures that no table names.
    """
    try:
        table = read_table(path, header=True)
    except (OSError, ValueError) as error:
        return NONE, [str(error)]
    columns, problems = _choose_columns(path, table, path_column, label_columns, several)
    if problems:
        return NONE, problems
    cells = [str(cell).replace("\\", "/") for cell in table[path_column]]
    problems, gaps = _check_cells(path, table, path_column, columns, cells, several)
    if several and any(table[name].dtype.kind != "f" for name in columns):
        return NONE, problems
    place, wrong = _find_folder(path, cells, folder)
    if wrong:
        return NONE, problems + wrong
    files = [place / cell for cell in cells]
    missing = [
        cell
        for i, (cell, file) in enumerate(zip(cells, files, strict=True))
        if i not in gaps and not file.is_file()
    ]
    if missing:
        problems.append(
            f"{path}: expected a picture for each label, got none in {place} for {some(missing)}. "
            "Add the pictures, or take these rows out."
        )
    if not allow_unlabelled:
        problems += _check_unlabelled(path, path_column, place, files)
    names = [_name(cell) for cell in cells]
    labels = np.stack([table[name] for name in columns], axis=1)
    labels = labels if several else labels[:, 0]
    # a row with a gap has its message, and the others may have more to tell
    rows = [i for i in range(len(cells)) if i not in gaps]
    names, files = [names[i] for i in rows], [files[i] for i in rows]
    return Labelled(names, files, labels[rows], columns), problems


def _choose_columns(
    path: Path,
    table: Table,
    path_column: str,
    label_columns: Sequence[str] | None,
    several: bool,
) -> tuple[list[str], list[str]]:
    """Return the columns of labels, and what is wrong.

    Where none are named, they are "label" or the only one beside the paths; of several labels, all
    columns of numbers.
    """
    named = [path_column, *(label_columns or ())]
    problems = [
        f'{path}: expected a column "{name}", got {some(list(table))}.{did_you_mean(name, table)}'
        for name in named
        if name not in table
    ]
    if problems:
        return [], problems
    others = [name for name in table if name != path_column]
    if table[path_column].dtype.kind == "f":
        problems.append(
            f'{path}: expected the paths of pictures in the column "{path_column}", got numbers. '
            "Write them with suffix, such as 1.jpg."
        )
    columns = list(label_columns or ())
    if label_columns is None and several:
        # text in some rows is a mistake, text in all of them a remark
        columns = [name for name in others if any(map(_is_number, table[name]))]
    elif label_columns is None:
        columns = ["label"] if "label" in others else others
    if not columns or len(columns) > 1 and not several:
        rule = "at least one column of numbers" if several else 'a column "label" or a single one'
        problems.append(
            f'{path}: expected {rule} beside "{path_column}", got {some(others) or "none"}. Name '
            "the labels: label_columns=[...]."
        )
    return columns, problems


def _is_number(cell: object) -> bool:
    try:
        return float(cell) == float(cell)  # type: ignore[arg-type]
    except ValueError:
        return False


def _check_cells(
    path: Path,
    table: Table,
    path_column: str,
    columns: list[str],
    cells: list[str],
    several: bool,
) -> tuple[list[str], set[int]]:
    """Return what is wrong with the rows, and the numbers of those without a path or a label."""
    problems = []
    gaps: dict[int, str] = {}
    for name in (path_column, *columns):
        column = table[name]
        is_gap = np.isnan(column) if column.dtype.kind == "f" else np.isin(column, _MISSING_TEXT)
        for i in np.flatnonzero(is_gap).tolist():
            gaps.setdefault(i, f'"{name}" of row {i + 1} ({cells[i]})')
        if several and name != path_column and column.dtype.kind != "f":
            text = [i for i, cell in enumerate(column) if not _is_number(cell) and not is_gap[i]]
            problems += [
                f'{path}: expected numbers in the column "{name}", got "{column[i]}" in row '
                f"{i + 1} ({cells[i]}). Correct it, or name the labels: label_columns=[...]."
                for i in text[:1]
            ]
    if gaps:
        problems.append(
            f"{path}: expected a value in each cell, got none in {some(list(gaps.values()))}. Fill "
            "these, or take the rows out."
        )
    first: dict[str, int] = {}
    twice = [
        f"{cell} (rows {first[cell] + 1} and {i + 1})"
        for i, cell in enumerate(cells)
        if first.setdefault(cell, i) != i and i not in gaps
    ]
    if twice:
        problems.append(
            f"{path}: expected one row for each picture, got several of {some(twice)}. Take all "
            "but one out; several labels of a picture stand in columns."
        )
    return problems, set(gaps)


def _find_folder(path: Path, cells: list[str], folder: Path | None) -> tuple[Path, list[str]]:
    """Return the folder where the paths of a table start, and what is wrong.

    Looked through are `folder`, or that of the table, then images/ in it, then the folders in that,
    and after these the folders beside, with images/ and the folders in it. Of two that hold the
    same files it is the one whose name that of the table has in it: images/train for
    train_metadata.csv.
    """
    base = path.parent if folder is None else folder
    tried = cells[:: max(1, len(cells) // _NUM_TRIED)]
    best: list[Path] = []
    most = 0
    for places in _list_places(base):
        found = {place: sum((place / cell).is_file() for cell in tried) for place in places}
        if max(found.values(), default=0) > most:
            most = max(found.values())
            best = [place for place, n in found.items() if n == most]
        if most == len(tried):
            break
    if not best:
        return base, [
            f"{path}: expected its pictures below {base}, got none of {some(tried)}. Name the "
            "folder where these paths start: folder=..."
        ]
    below = {place: place.relative_to(base).as_posix() for place in best}
    for part in ({place: place.name for place in best}, below):  # images/train, then train/images
        named = [place for place in best if _words(part[place]) & _words(path.stem)]
        best = named if len(best) > 1 and named else best
    if len(best) > 1:
        return base, [
            f"{path}: expected its pictures in one folder, got files of these names in "
            f"{some(best)}. Name the folder: folder=..."
        ]
    return best[0], []


def _list_places(base: Path) -> Iterable[list[Path]]:
    for places in ([base], _folders_in(base)):
        images = [place / "images" for place in places]
        yield from (places, images, [folder for image in images for folder in _folders_in(image)])


def _words(text: str) -> set[str]:
    return set(re.split(r"[\W_]+", text.lower()))


def _folders_in(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))


def _check_unlabelled(
    path: Path, path_column: str, place: Path, files: Sequence[Path]
) -> list[str]:
    """Return the pictures beside those of a table that neither it nor another table names."""
    known = {os.path.normpath(file) for file in files}
    folders = {file.parent for file in files}
    beside = {
        os.path.normpath(file)
        for folder in folders
        if folder.is_dir()
        for file in folder.iterdir()
        if file.suffix.lower() in ARRAY_SUFFIXES and not file.name.startswith(".")
    }
    if beside <= known:
        return []
    for other in sorted(path.parent.iterdir()):
        if other == path or other.suffix.lower() not in TABLE_SUFFIXES:
            continue
        try:
            cells = read_table(other, header=True).get(path_column, ())
        except (OSError, ValueError):  # some other table, which is none of ours
            continue
        known |= {os.path.normpath(place / str(cell).replace("\\", "/")) for cell in cells}
    alone = sorted(beside - known)
    if not alone:
        return []
    return [
        f"{path}: expected a label for each picture, got none for {some(alone)}. Add the rows, "
        "take the pictures out, or leave them aside: allow_unlabelled=True."
    ]


def _name(cell: str) -> str:
    path = PurePosixPath(cell)
    path = path.relative_to(path.anchor) if path.is_absolute() else path
    return path.with_suffix("").as_posix() if path.name else cell


# ------------------------------------------------------------------------------------ identities


def find_identities(root: Path, parts: Sequence[str]) -> tuple[Labelled, list[str]]:
    """Return the pictures of several parts of a data set, named "<part>/...", and what is wrong.

    Args:
        root: The folder of the parts.
        parts: Folders, each with a folder for each identity or with a table, which may be beside.
    """
    names, files, labels, problems = [], [], [], []
    for part in parts:
        tables = [
            path
            for path in [*_files_in(root), *_files_in(root / part)]
            if path.suffix.lower() in TABLE_SUFFIXES
            and (path.parent != root or path.stem.lower() == part)
        ]
        if len(tables) > 1:
            problems.append(
                f"{root / part}: expected one table, got {some(tables)}. Take the others out."
            )
            continue
        if tables:
            found, wrong = find_in_table(tables[0], root / part, "image_path", ["label"], False)
        else:
            found, wrong = find_in_folders(root / part)
        problems += wrong
        names += [f"{part}/{name}" for name in found.names]
        files += found.files
        labels += _as_text(found.labels)
    return Labelled(names, files, np.array(labels), ["label"]), problems


def _files_in(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else []


def _as_text(labels: np.ndarray) -> list[str]:
    is_whole = labels.dtype.kind == "f" and not (labels % 1).any()
    return list(map(str, (labels.astype(np.int64) if is_whole else labels).tolist()))


# ------------------------------------------------------------------------- from labels to targets


class Samples(NamedTuple):
    """Pictures with their targets; see `utils.data.images.LabelledImages`."""

    names: list[str]
    files: list[Path]
    y: Tensor | dict[str, Tensor]  # (N, ...)
    classes: list[str] | None
    labels: list[int] | None  # (N,)


NO_SAMPLES = Samples([], [], torch.empty(0), None, None)


class Split(NamedTuple):
    """Which samples to take; see `utils.data.splits`."""

    subset: str
    holdout: Holdout
    fold: Fold
    seed: int


def make_samples(
    found: Labelled, task: str, classes: Sequence[str] | None, split: Split, where: str
) -> tuple[Samples, list[str]]:
    """Take the samples of a subset and turn their labels into the targets of a task.

    Args:
        found: The samples.
        task: multiclass, binary, embedding, or with numbers in columns multilabel, regression.
        classes: The names of the classes in order, or None; of several labels the columns.
        split: The subset. Its arguments are right, see `utils.data.splits.check_split`.
        where: What the samples are from, for errors.

    Returns:
        The samples, and what is wrong. Targets: (N,) int64 for multiclass and embedding, else
        (N, K) float32.
    """
    rows, held, problems = list(range(len(found.names))), set(), []
    if split.subset != "all":
        held, problems = held_out(found.names, *split[1:], f"the pictures of {where}")
        is_val = split.subset == "val"
        rows = [i for i, name in enumerate(found.names) if (name in held) == is_val]
    if task == "embedding":
        known = [i for i, name in enumerate(found.names) if name not in held]
        classes = classes or order_identities(_take(found, known), _take(found, rows))
        found, rows, held = _take(found, rows), list(range(len(rows))), set()
    if problems or not rows:
        return NO_SAMPLES, problems
    labels, names = None, found.columns
    if found.labels.ndim == 2:
        problems = _check_numbers(found, task, where)
        y = torch.from_numpy(found.labels[rows].astype(np.float32))
    else:
        numbers, names, problems = _number(found, task, classes, where)
        is_held = [name in held for name in found.names]
        problems += [] if problems else _check_held_out(numbers, is_held, names, where)
        labels = [numbers[i] for i in rows]
        y = torch.tensor(labels)
        y = y[:, None].float() if task == "binary" else y
        empty = [names[i] for i in sorted(set(range(len(names))) - set(labels))]
        if empty and split.subset != "val" and task != "embedding":
            logger.warning("%s: there are no pictures of %s", where, some(empty))
    found = _take(found, rows)
    return Samples(found.names, found.files, y, names, labels), problems


def order_identities(*parts: Labelled) -> list[str]:
    """Return the identities of some samples, those of the first part before the others.

    Validation numbers them in this order, those of the training first: a number means the same
    identity in both, and one that training has not shown has a number beyond its own.
    """
    names: dict[str, None] = {}
    for found in parts:
        labels = sorted(set(_as_text(found.labels)))
        is_numeric = found.labels.dtype.kind == "f"
        names |= dict.fromkeys(sorted(labels, key=float) if is_numeric else labels)
    return list(names)


def _take(found: Labelled, rows: Sequence[int]) -> Labelled:
    names, files = [found.names[i] for i in rows], [found.files[i] for i in rows]
    return Labelled(names, files, found.labels[list(rows)], found.columns)


def _check_numbers(found: Labelled, task: str, where: str) -> list[str]:
    """Return which labels in columns are none of the task."""
    rule, is_wrong = "finite numbers", ~np.isfinite(found.labels)
    if task == "multilabel":
        rule, is_wrong = "0 and 1", (found.labels < 0) | (found.labels > 1)
    problems = []
    for name, column, wrong in zip(found.columns, found.labels.T, is_wrong.T, strict=True):
        if wrong.any():
            first = wrong.argmax()
            problems.append(
                f"{where}: expected {rule} for {task}, got {column[first]:g} in the column "
                f'"{name}" ({found.names[first]}). Correct it, or name the labels: '
                "label_columns=[...]."
            )
    return problems


def _number(
    found: Labelled, task: str, classes: Sequence[str] | None, where: str
) -> tuple[list[int], list[str], list[str]]:
    """Return the class number of each sample, the names of the classes, and what is wrong."""
    is_numeric, given = found.labels.dtype.kind == "f", list(map(str, classes or ()))
    wrong = (found.labels % 1 != 0) | (found.labels < 0) if is_numeric else np.zeros(1, bool)
    if wrong.any():
        problem = (
            f"{where}: expected whole numbers from 0 for {task}, got "
            f"{found.labels[wrong.argmax()]:g} ({found.names[wrong.argmax()]}). Number the classes "
            "from 0, or write their names."
        )
        return [0] * len(found.names), given, [problem]
    labels = _as_text(found.labels)
    order = given or sorted(set(labels), key=int if is_numeric else None)
    if is_numeric and task != "embedding":  # the label is the number, whatever it is called
        n_classes = len(given) or max(map(int, labels)) + 1
        order = list(map(str, range(max(n_classes, 2) if task == "binary" else n_classes)))
    known = {label: number for number, label in enumerate(order)}
    problems = _check_labels(found.names, labels, known, where)
    if task == "binary" and len(known) != 2:
        problems.append(
            f"{where}: expected two classes for binary, got {some(order)}. Correct the labels, or "
            "set TASK=multiclass."
        )
    if task == "multiclass" and len(order) == 1:
        problems.append(
            f"{where}: expected pictures of several classes, got {order[0]} alone. Name the folder "
            "that holds one for each class, or correct the labels."
        )
    missing = sorted(set(order) - set(labels), key=order.index)
    if missing and is_numeric and not given and task == "multiclass":
        problems.append(
            f"{where}: expected pictures of each class from 0 to {order[-1]}, got none of "
            f"{some(missing)}. Number the classes without gaps, or name them: classes=[...]."
        )
    return [known.get(label, 0) for label in labels], given or order, problems


def _check_labels(
    names: list[str], labels: list[str], known: Container[str], where: str
) -> list[str]:
    """Return the labels that are none of the classes, each with the first picture of it."""
    unknown: dict[str, str] = {}
    for name, label in zip(names, labels, strict=True):
        if label not in known:
            unknown.setdefault(label, name)
    if not unknown:
        return []
    named = [f"{label} ({name})" for label, name in unknown.items()]
    return [
        f"{where}: expected one of the classes {some(list(known))}, got {some(named)}. What "
        "training has not seen cannot be told: take these out, or train them, too (CLASSES)."
    ]


def _check_held_out(
    numbers: list[int], is_held: Sequence[bool], names: list[str], where: str
) -> list[str]:
    """Return the classes of which a split leaves no picture to train on."""
    trained = {number for number, held in zip(numbers, is_held, strict=True) if not held}
    lost = [names[number] for number in sorted(set(numbers) - trained)]
    if not lost:
        return []
    return [
        f"{where}: expected pictures of each class on the side of training, got none of "
        f"{some(lost)}: all of them are held out. Hold out others, or take another seed."
    ]
