"""What a trained network gives, as files, the same in predict.py and run_prediction.py."""

import csv
import io
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.errors import ConfigError
from models.predictor import Predictor
from utils.data.files import SUFFIXES
from utils.data.pictures import draw, make_legend
from utils.logging.csv import FORMULA
from utils.path import create_dirs, read_json, write_atomic, write_json


class Outputs:
    """Writes outputs into a folder: NAME.npy and, of a segmentation, NAME.png and classes.json.

    Args:
        predictor: says what the network gives.
        folder: is made with the first output.
        replace: what is there; otherwise it stays.

    Attributes:
        names: of the classes, from `start` on; empty where the task has none.
        legend: the path of classes.json.
    """

    def __init__(self, predictor: Predictor, folder: Path, replace: bool) -> None:
        self.predictor, self.folder, self.replace = predictor, folder, replace
        self.names: list[str] | None = None
        self._n_outputs: tuple[int, ...] = ()
        self.legend = folder / "classes.json"

    def paths(self, base: str | Path) -> list[str]:
        """Return the files of an input; `base` is their path without ending."""
        return [f"{base}.npy"] + ([f"{base}.png"] if self.predictor.is_segmentation else [])

    def are_there(self, base: str | Path) -> bool:
        """Tell whether all files of an input are there."""
        return all(map(os.path.lexists, self.paths(base)))

    def start(self, logits: torch.Tensor) -> None:
        """Learn the names of the classes from the first output; write classes.json.

        Raises:
            ConfigError: CLASSES does not fit the network, or classes.json is of other classes;
                nothing is written.
        """
        predictor, names = self.predictor, []
        try:
            if predictor.is_segmentation or predictor.is_classification:
                names = predictor.class_names(logits.shape[1])
            if predictor.is_segmentation:
                legend = make_legend(predictor.task, names)
                if self.replace or not self.legend.exists():
                    create_dirs(self.folder)
                    write_json(self.legend, legend)
                elif read_json(self.legend) != legend:
                    raise ValueError(_of_other_classes(self.legend))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.names, self._n_outputs = names, logits.shape[1:2]

    def check(self, logits: torch.Tensor) -> None:
        """Refuse an output that has other classes than the first.

        Raises:
            ValueError: it has.
        """
        if self.names and logits.shape[1:2] != self._n_outputs:
            raise ValueError(
                f"expected {self._n_outputs[0]} outputs, as of the first input, got"
                f" {logits.shape[1]}. Look for an input of another size."
            )

    def write(self, base: str | Path, logits: torch.Tensor) -> None:
        """Write the files of an input.

        Args:
            base: their path without ending.
            logits: (1, K, ...), what the network gives for it.

        Raises:
            OSError: a file cannot be written.
        """
        predictor = self.predictor
        output = decision = predictor.decide(logits)
        if predictor.is_classification:
            output = predictor.as_probabilities(logits)
        create_dirs(Path(base).parent)
        file = io.BytesIO()
        np.save(file, output, allow_pickle=False)
        contents = [file.getbuffer()]
        if predictor.is_segmentation:
            contents.append(draw(decision, predictor.task, logits.shape[1]))
        for path, content in zip(self.paths(base), contents, strict=True):
            if self.replace or not os.path.lexists(path):
                write_atomic(path, content)


class ClassTable:
    """The rows of predictions.csv: file, class, probability of each class.

    Args:
        path: the file.
        keep: its rows; otherwise it is written anew.

    Raises:
        ValueError: it is no table.
    """

    def __init__(self, path: Path, keep: bool) -> None:
        self.path = path
        self._header: list[str] = []
        self._former: dict[str, list[str]] = {}  # rows that are there, by file
        self._rows: dict[str, list[Any]] = {}
        if keep and path.is_file():
            try:
                with open(path, newline="", encoding="utf-8") as file:
                    self._header, *rows = list(csv.reader(file)) or [[]]
            except (ValueError, csv.Error) as error:
                raise ValueError(
                    f"{path}: expected the table of an earlier prediction, got {error}."
                    " Choose another folder, or add --overwrite to replace it."
                ) from error
            self._former = {row[0]: row for row in rows if row}

    def has(self, path: str) -> bool:
        """Tell whether the row of a file is there."""
        return cell(path) in self._former

    def start(self, names: Sequence[str]) -> None:
        """Take the names of the classes for columns.

        Raises:
            ConfigError: the file that is there has others.
        """
        header = ["file", "class", *map(cell, names)]
        if self._header not in ([], header):
            raise ConfigError(_of_other_classes(self.path))
        self._header = header

    def add(self, path: str, chosen: str, probabilities: Sequence[float]) -> None:
        """Note the row of a file."""
        row = [cell(path), cell(chosen), *probabilities]
        self._rows[row[0]] = row

    def write(self, paths: Iterable[str]) -> None:
        """Write the rows that were there, and those of these files in their order."""
        if not self._rows:
            return
        new = {name: self._rows[name] for name in map(cell, paths) if name in self._rows}
        file = io.StringIO()
        rows = {**self._former, **new}.values()
        csv.writer(file, lineterminator="\n").writerows([self._header, *rows])
        write_atomic(self.path, file.getvalue())


def name_output(name: str, prefix: str, suffix: str, taken: set[str]) -> str:
    """Return the name of an output below the folder of outputs; one that is taken gets a number.

    Args:
        name: of the sample; its slashes make folders, and the ending of a picture goes.
        prefix: goes before the last part.
        suffix: goes behind it.
        taken: the names so far; receives the new one.
    """
    parts = [part for part in re.split(r"[/\\\0]+", name) if part.strip(". ")] or ["sample"]
    path = Path(parts[-1])
    last = path.stem if path.suffix.lower() in SUFFIXES else path.name
    wanted = "/".join([*parts[:-1], f"{prefix}{last}{suffix}"])
    numbers = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
    found = next(wanted + number for number in numbers if wanted + number not in taken)
    taken.add(found)
    return found


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, numbers by repr; what a row lacks stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_rows(path, columns, [[row.get(name, "") for name in columns] for row in rows])


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write lists of cells as CSV below a header, numbers by repr."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(cell, header))
    writer.writerows([cell(v) if isinstance(v, str) else repr(v) for v in row] for row in rows)
    write_atomic(path, file.getvalue())


def class_of(decision: np.ndarray, task: str, names: Sequence[str]) -> str:
    """Return the name of the class that a classification decided; of labels all, joined by ";".

    Args:
        decision: () or (K,) integers, as `Predictor.decide` gives them.
        task: binary, multiclass or multilabel.
        names: of the classes.
    """
    if task == "multilabel":
        return ";".join(names[i] for i in np.flatnonzero(decision))
    return names[int(decision)]


def cell(text: str) -> str:
    """Return text for a table; what a spreadsheet would run as a formula gets a `'` before it."""
    return f"'{text}" if FORMULA.match(text) else text


def _of_other_classes(path: Path) -> str:
    """Return the message for a file that belongs to outputs of another network."""
    return (
        f"-o: expected a {path.name} of this network's classes in {path.parent}, got one of"
        " others. Choose another folder, or add --overwrite to replace it."
    )
