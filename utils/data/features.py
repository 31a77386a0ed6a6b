"""Named features: what is known of each sample, read one by one and put together by name.

A feature is a class with a name and a way to read it off a table of the samples:

    class Synset(DatasetFeature):
        name = "synset"

        def read(self, index):
            return self.info.iloc[index]["synset"]

SAMPLED_FEATURES of a config lists those that are read, and `FeatureDataset` makes a sample of them,
the dict {"synset": ...}. Processing functions then change the sample. They take features by name
and the rest as `**kwargs`, and return all that is needed after them:

    def scale(rgb_image, **kwargs):
        return {"rgb_image": rgb_image / 255, **kwargs}
"""

import contextlib
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from config.errors import ConfigError, did_you_mean, shorten
from config.names import get_object
from utils.data.files import read_array
from utils.data.pairs import shorten_list
from utils.data.splits import Fold, Holdout, check_split, held_out, some

if TYPE_CHECKING:
    import pandas as pd

Fields = dict[str, Any]  # a sample: feature name -> value
Function = Callable[..., Mapping[str, Any]]  # a processing function

_READERS = {".csv": "read_csv", ".tsv": "read_table", ".json": "read_json", ".xlsx": "read_excel"}


class DatasetFeature(ABC):
    """One thing that is known of every sample: a picture, a number, a word.

    Derive a class, give it a `name` and `read`. Where it has an `__init__`, that takes `info` and
    `root` first and hands them on; further arguments are bound in SAMPLED_FEATURES, as in
    partial(Picture, size_px=64), so that config.yaml can hold them.

    Attributes:
        name: Its key in the sample and in the batch.
        info: The table, a row for each sample.
        root: The folder that relative paths start at, or None.
    """

    name: str = ""

    def __init__(self, info: "pd.DataFrame", root: Path | None = None) -> None:
        self.info, self.root = info, root

    @abstractmethod
    def read(self, index: int) -> Any:
        """Return the feature of a sample: a number, text, an array or a tensor.

        Random numbers that it draws follow from (seed, epoch, index).

        Args:
            index: The number of the sample, and of its row: self.info.iloc[index].
        """


class ColumnFeature(DatasetFeature):
    """A column of the table as it stands: partial(ColumnFeature, column="age").

    Several columns of numbers, or one in a list, give an array:
    partial(ColumnFeature, column=["age", "height"], name="body") is (2,) for a sample.

    Args:
        info: The table.
        root: Not needed.
        column: The column, or a list of them.
        name: Name of the feature, if it is not that of the column.

    Raises:
        ConfigError: There is no such column, a row has no value in it, or a list has text.
    """

    def __init__(
        self,
        info: "pd.DataFrame",
        root: Path | None = None,
        *,
        column: str | Sequence[str],
        name: str = "",
    ) -> None:
        super().__init__(info, root)
        self.name = name or (column if isinstance(column, str) else "")
        problems = _check_columns(info, [column] if isinstance(column, str) else column)
        if problems:
            raise ConfigError(problems)
        self.values = info[column if isinstance(column, str) else list(column)].to_numpy()
        if self.values.ndim > 1 and self.values.dtype.kind not in "biuf":
            raise ConfigError(
                f"expected columns of numbers in a list, got text in {some(column)}. Sample text by"
                " a feature of its own."
            )

    def read(self, index: int) -> Any:
        return self.values[index]


def _check_columns(info: "pd.DataFrame", columns: Iterable[str]) -> list[str]:
    """Return which columns are missing, or have rows without a value."""
    problems, known = [], list(map(str, info.columns))
    for column in columns:
        if column not in known:
            problems.append(
                f'expected one of the columns {some(known)}, got "{column}".'
                f"{did_you_mean(str(column), known)} Correct it."
            )
            continue
        gaps = np.flatnonzero(info[column].isna())
        if len(gaps):
            problems.append(
                f'expected a value in each row, got none in "{column}" of row {some(gaps)} from 0.'
                " Fill these, or take the rows out."
            )
    return problems


class FileFeature(ColumnFeature):
    """The array in a file that a column names: partial(FileFeature, column="path", name="image").

    Pictures are (H, W) or (H, W, C), channels last, as utils.data.files.read_array has them.

    Args:
        info: The table.
        root: The folder that relative paths start at; None is the current one.
        column: The column of the paths.
        name: Name of the feature, if it is not that of the column.

    Raises:
        ConfigError: As ColumnFeature, or a file is missing.
    """

    def __init__(
        self, info: "pd.DataFrame", root: Path | None = None, *, column: str, name: str = ""
    ) -> None:
        super().__init__(info, root, column=column, name=name)
        self.files = [Path(root or "", str(path)) for path in self.values]
        missing = [
            f"expected a file, got none at {path}. Correct the row, or root."
            for path in self.files
            if not path.is_file()
        ]
        if missing:
            raise ConfigError(shorten_list(missing))

    def read(self, index: int) -> np.ndarray:
        return read_array(self.files[index])


class FeatureDataset(Dataset):
    """Samples of named features; only those of `sampled_features` are made and read.

    A sample (x, y) is picked from what the processing functions leave. A field becomes a tensor, of
    float32 where it was float64; text stays text, and is a list in the batch.

    Attributes:
        info: The rows of the table that are the samples.
        features: The features, in order.
        names: The index of the table as text: the numbers of its rows, where it has no other.
        labels: The class number of each sample, where `labels` names a column.

    Args:
        info: The table of the samples, a pandas.DataFrame, or a function that returns it, which
            config.yaml can hold.
        info_file: Instead: its file, .csv, .tsv, .json or .xlsx.
        root: The folder that relative paths in the table start at; None is that of info_file.
        sampled_features: SAMPLED_FEATURES: classes derived from DatasetFeature, partials of them or
            their import paths.
        transforms: A processing function or its import path, or a list of them in order; see the
            module. Training and validation may have different ones.
        inputs: What x is: the name of a field, which gives its tensor; or a list of names, which
            gives a dict; None: a dict of all that are not the target.
        target: What y is, likewise; None: a dict of all fields.
        labels: The column of the class of each sample, numbers or text, which `balanced` and
            `per_class` of DATA_LOADER_CONFIG need; it decides nothing else.
        subset: "all", "train" or "val", as in PairedFolder.
        holdout: The share of the rows held out, or their names.
        fold: As in PairedFolder.
        seed: As in PairedFolder.

    Raises:
        ConfigError: Table, features, functions or names do not fit; all problems at once.
        ImportError: The package pandas is missing.
    """

    def __init__(
        self,
        info: "pd.DataFrame | Callable[[], pd.DataFrame] | None" = None,
        info_file: str | Path | None = None,
        root: str | Path | None = None,
        sampled_features: Sequence[Any] = (),
        transforms: Function | str | Sequence[Function | str] = (),
        inputs: str | Sequence[str] | None = None,
        target: str | Sequence[str] | None = None,
        labels: str | None = None,
        subset: str = "all",
        holdout: Holdout = (),
        fold: Fold = None,
        seed: int = 0,
    ) -> None:
        self.info = _read_info(info, info_file)
        self.names = list(map(str, self.info.index))
        self.inputs, self.target = inputs, target
        problems = check_split(subset, holdout, fold, seed)
        if not problems and subset != "all":
            held, problems = held_out(self.names, holdout, fold, seed, "rows of the table")
            rows = [i for i, name in enumerate(self.names) if (name in held) == (subset == "val")]
            self.info, self.names = self.info.iloc[rows], [self.names[i] for i in rows]
        if labels is not None:
            wrong_labels = [f"labels: {text}" for text in _check_columns(self.info, [labels])]
            if not wrong_labels:  # in alphabetical order, or that of the numbers
                self.labels = np.unique(self.info[labels], return_inverse=True)[1].tolist()
            problems += wrong_labels
        if root is None and info_file is not None:
            root = Path(info_file).parent
        root = None if root is None else Path(root)
        self.features, wrong_features = _make_features(sampled_features, self.info, root)
        self.functions, wrong_functions = _make_functions(transforms)
        wrong_names = _check_names("inputs", inputs) + _check_names("target", target)
        problems += wrong_features + wrong_functions + wrong_names
        if not problems:
            problems += self._check_sampled()
        if problems:
            raise ConfigError(problems)

    def _check_sampled(self) -> list[str]:
        """Return what is asked for and not sampled, as far as it shows before the first sample."""
        sampled = [feature.name for feature in self.features]
        if self.functions:
            asking = {self.functions[0].title: self.functions[0].asked}
        else:
            asking = {"inputs": _as_list(self.inputs), "target": _as_list(self.target)}
        return [
            _missing(name, by, sampled)
            for by, names in asking.items()
            for name in names
            if name not in sampled
        ]

    def __len__(self) -> int:
        return len(self.info)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read the features of a sample and process them.

        Returns:
            x and y, each a tensor, or a dict of tensors and text.

        Raises:
            ValueError: A file is damaged, a function does not return what is asked for later, or a
                field can be no part of a batch.
        """
        index = range(len(self))[index]
        fields: Fields = {}
        for feature in self.features:
            with _naming(f'the feature "{feature.name}"', index):
                fields[feature.name] = feature.read(index)
        dropped: dict[str, str] = {}  # field -> the function that did not return it
        for function in self.functions:
            _check_fields(fields, function.asked, function.title, dropped)
            former = fields
            with _naming(function.title, index):
                fields = function(former)
            dropped |= {name: function.title for name in former if name not in fields}
        for part, names in (("inputs", self.inputs), ("target", self.target)):
            _check_fields(fields, _as_list(names), part, dropped)
        inputs = self.inputs
        if inputs is None:
            inputs = [name for name in fields if name not in _as_list(self.target)]
        return _pick(fields, inputs), _pick(fields, self.target)


def channel_last(rgb_image: Any, **kwargs: Any) -> Fields:
    """Move the last axis of the feature `rgb_image` to the front.

    Channels are last in what it takes, hence the name, and first in what it gives, as networks have
    them.

    Args:
        rgb_image: (H, W, C), an array or a picture of Pillow.
        kwargs: The other features.

    Returns:
        All of them, rgb_image being an array (C, H, W).
    """
    return {"rgb_image": np.moveaxis(np.asarray(rgb_image), -1, 0), **kwargs}


def identity_mapping(**kwargs: Any) -> Fields:
    """Return all features as they are."""
    return kwargs


# ------------------------------------------------------------------------------------ set-up


def _read_info(info: Any, info_file: str | Path | None) -> "pd.DataFrame":
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "FeatureDataset: expected the package pandas, got none. Run `make env-dev`, or install"
            " the extra `features`."
        ) from error
    if (info is None) == (info_file is None):
        raise ConfigError(
            "info: expected a table, or else its file as info_file, got"
            f" {'neither' if info is None else 'both'}. Give one of them."
        )
    if info_file is None:
        table = info() if callable(info) else info
        if not isinstance(table, pd.DataFrame):
            raise ConfigError(
                "info: expected a pandas.DataFrame, or a function that returns one, got"
                f" {shorten(table)}. The path of a file is info_file."
            )
        return table
    reader = _READERS.get(Path(info_file).suffix.lower())
    if reader is None:
        raise ConfigError(
            f"info_file: expected one of {', '.join(_READERS)}, got {info_file}. Convert it, or"
            " give a function that reads it: info=..."
        )
    try:
        return getattr(pd, reader)(info_file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"info_file {info_file}: expected a table, got: {error}") from error


def _make_features(
    sampled: Any, info: "pd.DataFrame", root: Path | None
) -> tuple[list[DatasetFeature], list[str]]:
    """Return the features of SAMPLED_FEATURES, and what is wrong with them."""
    if not isinstance(sampled, list | tuple) or not sampled:
        return [], [
            "SAMPLED_FEATURES: expected a list of classes derived from DatasetFeature, got"
            f" {shorten(sampled)}. Name what is to be read."
        ]
    features: dict[str, DatasetFeature] = {}
    problems = []
    for entry in sampled:
        where = f"SAMPLED_FEATURES, {_title(entry)}"
        try:
            feature = _make_feature(entry, info, root)
        except ConfigError as error:
            problems += [f"{where}: {problem}" for problem in error.problems]
        except (TypeError, ValueError, LookupError, OSError, ImportError) as error:
            problems.append(f"{where}: {type(error).__name__}: {error}")
        else:
            if feature.name in features:
                problems.append(
                    f'{where}: expected one feature of the name "{feature.name}", got another one.'
                    " Rename it."
                )
            features[feature.name] = feature
    return list(features.values()), problems


def _make_feature(entry: Any, info: "pd.DataFrame", root: Path | None) -> DatasetFeature:
    make = get_object(entry) if isinstance(entry, str) else entry
    feature = make(info, root) if isinstance(make, type | functools.partial) else None
    if not isinstance(feature, DatasetFeature):
        raise ConfigError(
            "expected a class derived from DatasetFeature, or a partial of it, got"
            f" {shorten(make)}. Derive it, and name the class."
        )
    if not isinstance(feature.name, str) or not feature.name:
        raise ConfigError(
            f'expected a feature with a name, got {feature.name!r}. Give it one: name = "..." in'
            ' the class, or name="..." in the partial.'
        )
    return feature


def _make_functions(transforms: Any) -> tuple[list["_Function"], list[str]]:
    """Return the processing functions, and what is wrong with them."""
    entries = [transforms] if isinstance(transforms, str) or callable(transforms) else transforms
    if not isinstance(entries, list | tuple):
        return [], [
            "transforms: expected a processing function or a list of them, got"
            f" {shorten(transforms)}. Give the functions, or their import paths."
        ]
    functions, problems = [], []
    for entry in entries:
        try:
            functions.append(_Function(get_object(entry) if isinstance(entry, str) else entry))
        except ConfigError as error:
            problems += [f"transforms: {problem}" for problem in error.problems]
    return functions, problems


def _check_names(where: str, part: Any) -> list[str]:
    is_list = isinstance(part, list | tuple) and part
    if part is None or all(isinstance(name, str) for name in (part if is_list else [part])):
        return []
    return [
        f"{where}: expected the name of a field, a list of names or None, got {shorten(part)}."
        " Correct it."
    ]


def _title(entry: Any) -> str:
    """Return what a class, a function, a partial or an import path is called in messages."""
    while isinstance(entry, functools.partial):
        entry = entry.func
    return entry if isinstance(entry, str) else getattr(entry, "__name__", type(entry).__name__)


def _as_list(names: str | Sequence[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


# -------------------------------------------------------------------------------- the sample


class _Function:
    """A processing function, and the features that its signature asks for.

    Raises:
        ConfigError: It can be no processing function.
    """

    def __init__(self, call: Any) -> None:
        self.call, self.title = call, _title(call)
        if not callable(call) or isinstance(call, type):
            raise ConfigError(
                f"expected a function of features by name and **kwargs, got {shorten(call)}. Name"
                " the function."
            )
        parameters = inspect.signature(call).parameters.values()
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise ConfigError(
                f"expected **kwargs in the signature of {self.title}, which is given every feature,"
                f" got ({', '.join(p.name for p in parameters)}). Add it, and return what it holds."
            )
        by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.asked = [p.name for p in by_name if p.default is p.empty]

    def __call__(self, fields: Fields) -> Fields:
        processed = self.call(**fields)
        if not isinstance(processed, Mapping):
            raise ValueError(
                f"transforms: expected a dict of all fields from {self.title}, got"
                f" {type(processed).__name__}. End it by `return {{..., **kwargs}}`."
            )
        return dict(processed)


def _check_fields(
    fields: Fields, names: Iterable[str], by: str, dropped: Mapping[str, str]
) -> None:
    for name in names:
        if name not in fields:
            raise ValueError(_missing(name, by, fields, dropped.get(name)))


def _missing(name: str, by: str, fields: Iterable[str], dropped_by: str | None = None) -> str:
    """Return the message for a field that a function, inputs or target asks for in vain."""
    found = some(list(fields)) or "none"
    if dropped_by is not None:
        return (
            f'transforms: expected the field "{name}" for {by} from {dropped_by}, got {found}.'
            f" {dropped_by} drops it: end it by `return {{..., **kwargs}}`."
        )
    return (
        f'SAMPLED_FEATURES: expected "{name}" for {by}, got {found}.{did_you_mean(name, fields)}'
        " Sample a feature of this name, or correct the name."
    )


@contextlib.contextmanager
def _naming(what: str, index: int) -> Iterator[None]:
    """Say in which feature or function a key was not found; its error names the key alone."""
    try:
        yield
    except LookupError as error:
        raise ValueError(
            f"sample {index}: expected {what} to find all that it looks up, got"
            f" {type(error).__name__}: {error}. Look for it in the table and in SAMPLED_FEATURES."
        ) from error


def _pick(fields: Fields, wanted: str | Sequence[str] | None) -> Any:
    """Return x or y: one field, or a dict of those wanted, or of all."""
    if isinstance(wanted, str):
        return _as_part(wanted, fields[wanted])
    return {name: _as_part(name, fields[name]) for name in (fields if wanted is None else wanted)}


def _as_part(name: str, value: Any) -> Tensor | str:
    """Return a field as a batch can hold it.

    Raises:
        ValueError: It is neither numbers nor text.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, str):
        return str(value)  # numpy has a text of its own
    with contextlib.suppress(ValueError):  # a list of lists of different lengths
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            dtype = np.float32 if array.dtype == np.float64 else array.dtype
            return torch.from_numpy(
                np.array(array, dtype, order="C")
            )  # torch knows no mirrored one
    raise ValueError(
        f'field "{name}": expected numbers, an array, a tensor or text, got'
        f" {type(value).__name__}. Turn it into one of these by a processing function."
    )
