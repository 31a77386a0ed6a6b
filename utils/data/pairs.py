"""Find pictures and their masks by name, and check what names and headers of files can show."""

from collections.abc import Sequence
from pathlib import Path

from utils.data.files import list_files, read_header
from utils.data.preprocess import Preprocess
from utils.data.splits import NUM_NAMED, some

Pair = tuple[Path, Path]
Size = tuple[int, int, int]  # height, width, channels [px, px, 1]

_FOLDERS = (("x", "y"), ("image", "label"))


def choose_folders(
    root: str | Path | None, image_dir: str | Path | None, mask_dir: str | Path | None
) -> tuple[list[Path], list[str]]:
    """Return the folder of pictures and that of masks, and what is wrong with the arguments."""
    if image_dir is not None and mask_dir is not None and root is None:
        return [Path(image_dir), Path(mask_dir)], []
    if image_dir is not None or mask_dir is not None or root is None:
        given = {"root": root, "image_dir": image_dir, "mask_dir": mask_dir}
        named = [f"{name} {str(path)!r}" for name, path in given.items() if path is not None]
        return [], [
            "root: expected root alone, or image_dir and mask_dir without it, got "
            f"{' and '.join(named) or 'none'}. Give the folder of x and y, or both folders."
        ]
    root = Path(root)
    names = [pair for pair in _FOLDERS if any((root / name).is_dir() for name in pair)]
    if len(names) == 1:
        return [root / name for name in names[0]], []
    got = "both" if names else "neither" if root.is_dir() else "no such folder"
    return [], [
        f"{root}: expected the folders x and y, or image and label, got {got}. Name the folder "
        "that holds them (DATA_DIR=...), or both by image_dir and mask_dir."
    ]


def find_pairs(
    folders: Sequence[Path], patterns: Sequence[str]
) -> tuple[dict[str, Pair], list[str]]:
    """Return the pairs by name, sorted, and what is wrong with the folders.

    Args:
        folders: Of pictures and of masks. The first may hold the second or be the same: what is
            a mask is no picture.
        patterns: What files are called, of pictures and of masks; see list_files.
    """
    found, problems = [], []
    for folder, pattern in zip(folders, patterns, strict=True):
        try:
            found.append(list_files(folder, pattern))
        except (OSError, ValueError) as error:
            problems.append(str(error))
    if problems:
        return {}, problems
    x_files, y_files = found
    masks = set(y_files.values())
    x_files = {name: path for name, path in x_files.items() if path not in masks}
    for files, others, other in ((x_files, y_files, folders[1]), (y_files, x_files, folders[0])):
        alone = [str(files[name]) for name in files if name not in others]
        if alone:
            problems.append(
                f"{other}: expected a file of the same name for each of {len(files)} in the other "
                f"folder, got none for {some(alone)}. Add the missing files, or take these out."
            )
    return {name: (x_files[name], y_files[name]) for name in x_files if name in y_files}, problems


def read_sizes(
    files: Sequence[Pair], masks_of_colours: bool
) -> tuple[dict[Pair, tuple[Size, Size]], list[str]]:
    """Return the sizes of both files of each pair, and what is wrong with their headers."""
    sizes, problems = {}, []
    for x_file, y_file in files:
        try:
            y_size = read_header(y_file, as_mask=not masks_of_colours)
            sizes[x_file, y_file] = read_header(x_file), y_size
        except (OSError, ValueError) as error:
            problems.append(str(error))
    return sizes, shorten_list(problems)


def check_sizes(
    sizes: dict[Pair, tuple[Size, Size]],
    task: str,
    preprocess: Preprocess,
    masks_of_colours: bool,
) -> list[str]:
    """Return what the sizes show: such that differ within a pair, channels that cannot be."""
    problems, unequal = [], []
    x_channels: dict[int, list[str]] = {}
    y_channels: dict[int, list[str]] = {}
    for (x_file, y_file), ((*x_size, x_ch), (*y_size, y_ch)) in sizes.items():
        if x_size != y_size and not (preprocess.size and _alike(x_size, y_size)):
            unequal.append(f"{y_file} ({_times(y_size)}, its picture {_times(x_size)})")
        x_channels.setdefault(x_ch, []).append(str(x_file))
        y_channels.setdefault(y_ch, []).append(str(y_file))
    if unequal:
        problems.append(
            f"expected masks of the height and width of their pictures, got {some(unequal)}. "
            "Arrays are channels-last, (H, W, C); masks of another resolution need "
            'PREPROCESS["size"].'
        )
    if not preprocess.channels:
        problems += _check_equal("pictures", x_channels)
    for ch_in, names in x_channels.items():
        try:
            preprocess.ch_out(ch_in)
        except ValueError as error:
            problems.append(f"{names[0]}: {error}")
    if masks_of_colours:
        gray = [name for ch, names in y_channels.items() if ch not in (3, 4) for name in names]
        if gray:
            problems.append(
                f"expected masks of three channels for the colours of label_values, got others in "
                f"{some(gray)}. Give numbers instead of colours."
            )
    elif task in ("binary_segmentation", "multiclass_segmentation"):
        many = [name for ch, names in y_channels.items() if ch != 1 for name in names]
        if many:
            problems.append(
                f"expected masks of one channel for {task}, got more in {some(many)}. Save the "
                "classes as numbers in one channel, or name their colours: "
                "label_values={(0, 0, 0): 0, (255, 0, 0): 1}."
            )
    else:
        problems += _check_equal("masks", y_channels)
    return problems


def shorten_list(problems: list[str]) -> list[str]:
    """Return the first problems of a kind, and how many more there are."""
    if len(problems) > NUM_NAMED:
        return [*problems[:NUM_NAMED], f"and {len(problems) - NUM_NAMED} more files like these."]
    return problems


def _check_equal(what: str, by_channels: dict[int, list[str]]) -> list[str]:
    if len(by_channels) < 2:
        return []
    common, *others = sorted(by_channels, key=lambda ch: -len(by_channels[ch]))
    found = "; ".join(f"{ch} in {some(by_channels[ch])}" for ch in others)
    return [
        f"expected {what} of equal channels, got {common} in {len(by_channels[common])} files, "
        f"but {found}. Convert these."
    ]


def _alike(x_size: Sequence[int], y_size: Sequence[int]) -> bool:
    """Tell whether two sizes have the same proportions, to a pixel."""
    (x_height, x_width), (y_height, y_width) = x_size, y_size
    return abs(x_height * y_width - x_width * y_height) <= max(*x_size, *y_size)


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
