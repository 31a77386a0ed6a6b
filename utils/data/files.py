"""Read and write arrays: .npy, .png, .jpg, .tif. On disk (H, W) or (H, W, C), channels last.

Every part of the kit reads through here, training and prediction alike, so they cannot disagree.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

SUFFIXES = (".npy", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Pillow's modes and their channels; palette pictures ("P") give their indices, see read_array
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

logger = logging.getLogger("plumbline")


def read_array(path: str | Path, mmap: bool = False) -> np.ndarray:
    """Read one file as it is: no scaling, no change of values.

    A palette picture gives its indices, not its colours: that is how masks with coloured classes
    are saved, and the index is the class. Save a photo with a palette as RGB before use. CMYK
    becomes RGB; one-bit pictures become 0 and 1. Of a .tif the first series counts, at full
    resolution, and its bands become the last axis.

    Args:
        path: A file with one of the SUFFIXES.
        mmap: Leave the values of a .npy on disk until they are used (for arrays larger than
            memory); the array is then read-only. Other formats are read whole.

    Returns:
        (H, W) or (H, W, C), in the file's dtype.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is damaged, of an unknown format, or holds no picture.
    """
    path = Path(path)
    suffix = _suffix(path)
    with _naming(path):
        if suffix == ".npy":
            array = _read_npy(path, mmap)
        elif suffix in (".tif", ".tiff"):
            array = _read_tiff(path)
        else:
            array = _read_picture(path)
    _check(path, array.shape, array.dtype)
    return array


def read_header(path: str | Path) -> tuple[int, int, int]:
    """Return (height, width, channels) [px, px, 1] of a file without reading its values.

    Raises:
        FileNotFoundError: No such file.
        ValueError: As read_array, as far as the header shows it.
    """
    path = Path(path)
    suffix = _suffix(path)
    with _naming(path):
        if suffix == ".npy":
            array = _read_npy(path, mmap=True)
            shape, dtype = array.shape, array.dtype
        elif suffix in (".tif", ".tiff"):
            import tifffile

            with tifffile.TiffFile(path) as tiff:
                series = tiff.series[0]
                shape, dtype = series.shape, series.dtype
                if _bands_first(series.axes):
                    shape = (*shape[1:], shape[0])
        else:
            from PIL import Image

            with Image.open(path) as image:
                shape, dtype = (image.height, image.width, _picture_channels(image)), np.dtype("u1")
    _check(path, shape, dtype)
    return shape[0], shape[1], shape[2] if len(shape) == 3 else 1


def list_files(folder: str | Path) -> dict[str, Path]:
    """Return the readable files of a folder by stem, sorted by name.

    Hidden files are ignored; what else cannot be read is ignored with one warning that counts it.

    Raises:
        FileNotFoundError: The folder is missing or holds no readable file.
        ValueError: Two files have the same stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: expected a folder, got none. Create it or correct the path."
        )
    files: dict[str, Path] = {}
    n_ignored = 0
    for name in sorted(os.listdir(folder)):
        if name.startswith("."):
            continue
        path = folder / name
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            n_ignored += 1
        elif path.stem in files:
            raise ValueError(
                f"{folder}: expected one file per name, got {files[path.stem].name} and {name}. "
                "Rename or remove one."
            )
        else:
            files[path.stem] = path
    if n_ignored:
        logger.warning(
            "%s: %d entries are no %s file and are ignored", folder, n_ignored, ", ".join(SUFFIXES)
        )
    if not files:
        raise FileNotFoundError(
            f"{folder}: expected files ({', '.join(SUFFIXES)}), got none. Put the data there."
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


def _read_npy(path: Path, mmap: bool) -> np.ndarray:
    # the format's own readers: np.load would also open archives and offer to unpickle
    if mmap:
        return np.lib.format.open_memmap(path, mode="r")
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_tiff(path: Path) -> np.ndarray:
    import tifffile  # costs 0.1 s, which .npy and .png need not pay

    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        array = series.asarray()
        return np.moveaxis(array, 0, 2) if _bands_first(series.axes) else array


def _bands_first(axes: str) -> bool:
    # tifffile names the axes. S, C: bands, on either side. Q: an array that tifffile wrote without
    # names, channels last by the kit's rule. Anything else (I pages, Z, T) is not one picture.
    if axes not in ("YX", "YXS", "YXC", "YXQ", "QYX", "SYX", "CYX"):
        raise ValueError(f"several pictures in one file (axes {axes})")
    return axes in ("SYX", "CYX")


def _read_picture(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        _picture_channels(image)
        if image.mode == "CMYK":
            image = image.convert("RGB")
        array = np.asarray(image)
    return array.astype(np.uint8) if array.dtype == bool else array


def _picture_channels(image) -> int:
    if image.mode not in _MODES:
        raise ValueError(f"colour mode {image.mode}")
    # Pillow would cut it to 8 bits without a word; the fourth entry of a tile is the mode on disk
    if image.mode != "I;16" and any("16" in str(tile[3]) for tile in image.tile):
        raise ValueError("16-bit colour, which needs .tif or .npy")
    return _MODES[image.mode]


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
    except (FileNotFoundError, MemoryError):
        raise
    # the readers promise no types: struct.error, KeyError, SyntaxError, zlib.error
    except Exception as error:
        raise ValueError(
            f"{path}: expected a readable {path.suffix} file, got {error}. "
            "Write the file anew or take it out of the data."
        ) from error


def _check(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) not in (2, 3) or 0 in shape or dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: expected numbers of shape (H, W) or (H, W, C), got {dtype} of shape {shape}. "
            "Save one picture per file, channels last."
        )
