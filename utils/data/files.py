"""Read and write arrays and tables. On disk (H, W) or (H, W, C), channels last, in every format.

Every part of the kit reads through here, training and prediction alike, so they cannot disagree.
One table at the end of this file says which function reads which suffix.
"""

import importlib
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from utils.data import tables
from utils.data.tables import Table

# Pillow's modes and their channels; of palette pictures ("P") see read_array
_MODES = {
    "1": 1,
    "L": 1,
    "P": 1,
    "I": 1,
    "F": 1,
    "I;16": 1,
    "LA": 2,
    "RGB": 3,
    "RGBA": 4,
    "CMYK": 3,
}
# Pillow goes by content; these and no others, because some are drawn by a program, such as EPS
_PICTURES = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")

logger = logging.getLogger("plumbline")


def read_array(path: str | Path, mmap: bool = False, as_mask: bool = False) -> np.ndarray:
    """Read one file as it is: no scaling, no change of values.

    Pictures: a palette gives its colours, CMYK becomes RGB, one bit becomes 0 and 1. Of a .tif the
    first series counts, at full resolution; its bands, or else its pages, become the last axis. A
    table is (rows, columns) float64. Of a .npz, .pt, .pth, .h5 or .hdf5 the one array counts.

    Args:
        path: A file with one of the SUFFIXES.
        mmap: Leave the values of a .npy on disk until they are used (for arrays larger than
            memory); the array is then read-only. Other formats are read whole.
        as_mask: Take the indices of a palette instead of its colours: that is how masks with
            coloured classes are saved, and the index is the class.

    Returns:
        (H, W) or (H, W, C), in the file's dtype.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is damaged, of an unknown format, or holds no such array.
        ImportError: The format needs a package that is missing.
    """
    path = Path(path)
    suffix = _suffix(path)
    with _naming(path):
        if mmap and suffix == ".npy":
            array = np.lib.format.open_memmap(path, mode="r")
        else:
            array = _FORMATS[suffix].read(path, as_mask=as_mask)
        if isinstance(array, dict):
            array = _join(array)
    _check(path, array.shape, array.dtype)
    return array


def read_header(path: str | Path, as_mask: bool = False) -> tuple[int, int, int]:
    """Return (height, width, channels) [px, px, 1] of a file without reading its values.

    A table has no header that would tell; it is read.

    Raises:
        FileNotFoundError: No such file.
        ValueError: As read_array, as far as the header shows it.
        ImportError: As read_array.
    """
    path = Path(path)
    read_shape = _FORMATS[_suffix(path)].read_shape
    if read_shape is None:
        shape: tuple[int, ...] = read_array(path).shape
    else:
        with _naming(path):
            shape, dtype = read_shape(path, as_mask=as_mask)
        _check(path, shape, dtype)
    return shape[0], shape[1], shape[2] if len(shape) == 3 else 1


def read_table(path: str | Path, header: bool | None = None) -> Table:
    """Read one file as named columns, each (rows,) float64 or text.

    Args:
        path: A table, see utils.data.tables, or a file of an array (rows, columns).
        header: Whether the first row holds names; None: it is told by itself.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is damaged, of an unknown format, or holds no table.
        ImportError: As read_array.
    """
    path = Path(path)
    read = _FORMATS[_suffix(path)].read
    with _naming(path):
        table = read(path, header=header)
        if isinstance(table, dict):
            return table
    _check(path, table.shape, table.dtype)
    if table.ndim != 2:
        raise ValueError(
            f"{path}: expected a table (rows, columns), got shape {table.shape}. "
            "Save two axes, a row for each sample."
        )
    return {str(i): column for i, column in enumerate(table.T.astype(np.float64))}


def list_files(folder: str | Path, pattern: str = "*") -> dict[str, Path]:
    """Return the readable files of a folder and of those in it, by name, sorted.

    The name is the path in the folder without suffix, such as "berlin/1". Hidden files are ignored;
    what else does not fit is ignored with one warning that counts it. Beside arrays or pictures
    tables are taken for notes, and do not fit.

    Args:
        folder: Where to look.
        pattern: What a file is called, with one star for the part that is its name: `*_mask` finds
            a_mask.png of the name "a". With a suffix (`*.png`) it finds this format alone.

    Raises:
        FileNotFoundError: The folder is missing or holds no readable file.
        ValueError: Two files have the same name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: expected a folder, got none. Create it or correct the path."
        )
    if pattern.count("*") != 1:
        raise ValueError(
            f'{folder}: expected a name with one *, got "{pattern}". Write it as in "*_mask".'
        )
    paths = list(_walk(folder))
    found = [(_name(folder, path, pattern), path) for path in paths]
    found = sorted((name, path) for name, path in found if name)
    arrays = [entry for entry in found if entry[1].suffix.lower() not in _TABLES]
    files: dict[str, Path] = {}
    for name, path in arrays or found:
        if name in files:
            raise ValueError(
                f"{folder}: expected one file per name, got {files[name].name} and {path.name}. "
                "Rename or remove one."
            )
        files[name] = path
    ignored = sorted(set(paths) - set(files.values()))
    if ignored and files:
        logger.warning(
            "%s: %d files are ignored, such as %s", folder, len(ignored), ignored[0].name
        )
    called = "" if pattern == "*" else f" called {pattern}"
    if not files:
        raise FileNotFoundError(
            f"{folder}: expected files ({', '.join(SUFFIXES)}){called}, got none. "
            "Put the data there."
        )
    return files


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write an array (H, W) or (H, W, C) as .npy, or as .png when it holds integers from 0.

    Whatever integers, bool too, become 8 bit in a .png, or 16 bit (one channel only) where a
    value is above 255; no value is changed.

    Raises:
        ValueError: The format is neither, or a .png cannot hold these values or channels.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        np.save(path, array, allow_pickle=False)
        return
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: expected .npy or .png, got {path.suffix!r}. Change the name.")
    n_channels = array.shape[2] if array.ndim == 3 else 1
    limit = 65535 if n_channels == 1 else 255
    is_picture = array.dtype.kind in "bui" and array.ndim in (2, 3) and n_channels <= 4
    if not is_picture or not array.size or array.min() < 0 or array.max() > limit:
        raise ValueError(
            f"{path}: expected integers 0..{limit} of shape (H, W) or (H, W, 1..4), got "
            f"{array.dtype} of shape {array.shape}. Scale them to integers, or write .npy."
        )
    from PIL import Image

    array = array[:, :, 0] if array.ndim == 3 and n_channels == 1 else array
    Image.fromarray(array.astype(np.uint8 if array.max() <= 255 else np.uint16)).save(path)


# ------------------------------------------------------------------------- numpy, torch, hdf


def _read_npy(path: Path, **_: Any) -> np.ndarray:
    # the format's own readers: np.load would also open archives and offer to unpickle
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _npy_shape(path: Path, **_: Any) -> tuple[tuple[int, ...], np.dtype]:
    array = np.lib.format.open_memmap(path, mode="r")
    return array.shape, array.dtype


def _read_npz(path: Path, **_: Any) -> np.ndarray:
    with _open_npz(path) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _npz_shape(path: Path, **_: Any) -> tuple[tuple[int, ...], np.dtype]:
    with _open_npz(path) as file:
        is_first = np.lib.format.read_magic(file) == (1, 0)
        one, two = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
        shape, _, dtype = (one if is_first else two)(file)
    return shape, dtype


@contextmanager
def _open_npz(path: Path) -> Iterator[Any]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise ValueError(f"{len(names)} arrays in one file, {_some(names)}")
        with archive.open(names[0]) as file:
            yield file


def _read_tensor(path: Path, **_: Any) -> np.ndarray:
    return _load_tensor(path, "cpu").numpy()


def _tensor_shape(path: Path, **_: Any) -> tuple[tuple[int, ...], np.dtype]:
    import torch

    tensor = _load_tensor(path, "meta")  # leaves the values on disk
    return tuple(tensor.shape), torch.empty(0, dtype=tensor.dtype).numpy().dtype


def _load_tensor(path: Path, device: str) -> Any:
    import pickle

    import torch

    try:
        tensor = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "weights_only" not in str(error):
            raise
        # torch's own text explains how to trust it
        raise ValueError("other things than one tensor") from error
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"a {type(tensor).__name__}, no tensor")
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype is torch.bfloat16 else tensor  # numpy has none


def _read_hdf(path: Path, **_: Any) -> np.ndarray | Table:
    h5py = _import("h5py", path)
    with h5py.File(path, "r") as file:
        arrays = _list_hdf(file, h5py)
        if len(arrays) == 1:
            (array,) = (dataset[()] for dataset in arrays.values())
            if array.dtype.names is None:
                return array
            return {name: tables.make_column(array[name]) for name in array.dtype.names}
        return {name: tables.make_column(dataset[()]) for name, dataset in arrays.items()}


def _hdf_shape(path: Path, **_: Any) -> tuple[tuple[int, ...], np.dtype]:
    h5py = _import("h5py", path)
    with h5py.File(path, "r") as file:
        arrays = list(_list_hdf(file, h5py).values())
        if len(arrays) == 1 and arrays[0].dtype.names is None:
            return arrays[0].shape, arrays[0].dtype
    table = _join(_read_hdf(path))
    return table.shape, table.dtype


def _list_hdf(file: Any, h5py: ModuleType) -> dict[str, Any]:
    """Return the arrays of a file by path: one, or columns of equal length."""
    arrays: dict[str, Any] = {}

    def add(name: str, part: Any) -> None:
        if isinstance(part, h5py.Dataset):
            arrays[name] = part

    file.visititems(add)
    shapes = {array.shape for array in arrays.values()}
    are_columns = len(shapes) == 1 and len(next(iter(shapes)) or ()) == 1
    if len(arrays) != 1 and not are_columns:
        found = [f"{name} {array.shape}" for name, array in arrays.items()]
        raise ValueError(f"{len(arrays)} arrays in one file, {_some(found)}")
    return arrays


# ---------------------------------------------------------------------------------- pictures


def _read_tiff(path: Path, **_: Any) -> np.ndarray:
    import tifffile  # costs 0.1 s, which .npy and .png need not pay

    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        try:
            array = series.asarray()
        except ValueError as error:
            if "imagecodecs" in str(error):  # LZW, JPEG and other compressions
                _import("imagecodecs", path)
            raise
        return np.moveaxis(array, 0, 2) if _bands_first(series.axes) else array


def _tiff_shape(path: Path, **_: Any) -> tuple[tuple[int, ...], np.dtype]:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        shape = series.shape
        return (*shape[1:], shape[0]) if _bands_first(series.axes) else shape, series.dtype


def _bands_first(axes: str) -> bool:
    # tifffile names the axes. S, C: bands, on either side. Q: an array that tifffile wrote without
    # names, channels last by the kit's rule. Others before YX (I pages, Z, T) are pages.
    if axes in ("YX", "YXS", "YXC", "YXQ", "QYX"):
        return False
    if len(axes) != 3 or not axes.endswith("YX"):
        raise ValueError(f"several pictures in one file (axes {axes})")
    return True


def _read_picture(path: Path, as_mask: bool = False, **_: Any) -> np.ndarray:
    from PIL import Image

    with Image.open(path, formats=_PICTURES) as image:
        return to_array(image, as_mask)


def to_array(image: Any, as_mask: bool = False) -> np.ndarray:
    """Return a picture of Pillow as an array, as `read_array` does a file of it.

    Args:
        image: A PIL.Image.Image.
        as_mask: Take the indices of a palette instead of its colours.

    Returns:
        (H, W) or (H, W, C), uint8 where the picture has 8 bits or one.

    Raises:
        ValueError: It is of a mode that is not known, such as Lab, or is several pictures.
    """
    _picture_channels(image, as_mask)
    if image.mode == "P" and not as_mask:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode == "CMYK":
        image = image.convert("RGB")
    array = np.asarray(image)
    return array.astype(np.uint8) if array.dtype == bool else array


def _picture_shape(path: Path, as_mask: bool = False) -> tuple[tuple[int, ...], np.dtype]:
    from PIL import Image

    with Image.open(path, formats=_PICTURES) as image:
        return (image.height, image.width, _picture_channels(image, as_mask)), np.dtype("u1")


def _picture_channels(image: Any, as_mask: bool) -> int:
    if image.mode not in _MODES:
        raise ValueError(f"colour mode {image.mode}")
    # a .jpg of a phone may hold a second, smaller picture
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ValueError("several pictures in one file")
    # Pillow would cut it to 8 bits without a word; the fourth entry of a tile is the mode on disk
    tiles = getattr(image, "tile", ())  # of an open file alone
    if image.mode != "I;16" and any("16" in str(tile[3]) for tile in tiles):
        raise ValueError("16-bit colour, which needs .tif or .npy")
    if image.mode == "P" and not as_mask:
        return 4 if image.has_transparency_data else 3
    return _MODES[image.mode]


def _read_workbook(path: Path, **how: Any) -> Table:
    _import("openpyxl", path)
    return tables.read_workbook(path, **how)


# ------------------------------------------------------------------------------------- parts


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those in it, but none that is hidden."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        if os.path.realpath(place) in seen:  # a link back up
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        yield from (Path(place, name) for name in names if not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "~$"))  # the second is a lock of a spreadsheet


def _name(folder: Path, path: Path, pattern: str) -> str:
    """Return the name of a file in a folder, see list_files, or nothing where it does not fit."""
    wanted = Path(pattern)
    suffix = path.suffix.lower()
    if wanted.suffix.lower() in SUFFIXES:
        pattern, fits = wanted.stem, suffix == wanted.suffix.lower()
    else:
        fits = suffix in SUFFIXES
    before, after = pattern.split("*")
    fits = fits and path.stem.startswith(before) and path.stem.endswith(after) and path.is_file()
    name = path.stem[len(before) : len(path.stem) - len(after)] if fits else ""
    return (path.parent / name).relative_to(folder).as_posix() if name else ""


def _join(table: Table) -> np.ndarray:
    """Return the columns of a table as (rows, columns) float64."""
    for name, column in table.items():
        if column.dtype.kind != "f":
            row = next(i for i, cell in enumerate(column, 1) if not _is_number(cell))
            raise ValueError(f'text in column "{name}", "{column[row - 1]}" in its row {row}')
    return np.stack(list(table.values()), axis=1)


def _is_number(cell: str) -> bool:
    return tables.make_column([cell]).dtype.kind == "f"


def _import(package: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{path}: expected the package {package}, got none. Run `pip install {package}`."
        ) from error


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: expected one of {', '.join(SUFFIXES)}, got {path.suffix!r}. Convert the file."
        )
    return path.suffix.lower()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a damaged file into one error that names the file."""
    try:
        yield
    except (FileNotFoundError, MemoryError, ImportError):
        raise
    # the readers promise no types: struct.error, KeyError, SyntaxError, zlib.error
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        rule = f"a readable {path.suffix} file"
        if path.suffix.lower() == ".txt":  # any notes may be called so
            rule = f"one of {', '.join(SUFFIXES)}, and in a .txt a table"
        raise ValueError(
            f"{path}: expected {rule}, got {reason}. "
            "Write the file anew or take it out of the data."
        ) from error


def _check(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape or ()) not in (2, 3) or 0 in shape or dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: expected numbers of shape (H, W) or (H, W, C), got {dtype} of shape {shape}. "
            "Save one picture per file, channels last."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


# --------------------------------------------------------------------------------- the table


class _Format(NamedTuple):
    """How a suffix is read: `read(path, as_mask=, header=)` and `read_shape(path, as_mask=)`."""

    read: Callable[..., np.ndarray | Table]
    read_shape: Callable[..., tuple[tuple[int, ...], np.dtype]] | None = None


_TENSOR = _Format(_read_tensor, _tensor_shape)
_HDF = _Format(_read_hdf, _hdf_shape)
_PICTURE = _Format(_read_picture, _picture_shape)
_TIFF = _Format(_read_tiff, _tiff_shape)
_TEXT = _Format(tables.read_text)
_TABLES = {
    ".csv": _TEXT,
    ".tsv": _TEXT,
    ".txt": _TEXT,
    ".json": _Format(tables.read_json),
    ".xlsx": _Format(_read_workbook),
}
_FORMATS = {
    ".npy": _Format(_read_npy, _npy_shape),
    ".npz": _Format(_read_npz, _npz_shape),
    ".pt": _TENSOR,
    ".pth": _TENSOR,
    ".h5": _HDF,
    ".hdf5": _HDF,
    ".png": _PICTURE,
    ".jpg": _PICTURE,
    ".jpeg": _PICTURE,
    ".bmp": _PICTURE,
    ".webp": _PICTURE,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    **_TABLES,
}
SUFFIXES = tuple(_FORMATS)
TABLE_SUFFIXES = tuple(_TABLES)
ARRAY_SUFFIXES = tuple(suffix for suffix in _FORMATS if suffix not in _TABLES)
