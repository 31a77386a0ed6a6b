"""Augment a picture and its mask together; for transform=[...] of a dataset.

A transform takes and returns x: (C, H, W) and y: (H, W) or (K, H, W), draws from torch's global
generator (which the kit seeds for every sample) and leaves its arguments as they are. It sees x
after channels, size, short_side and scale of PREPROCESS, and before crop, mean and std. Where a
transform chooses the size itself (random_crop, and of torchvision RandomResizedCrop, RandomCrop,
CenterCrop, Resize), it sees the whole picture: short_side and crop are left out. Bind arguments by
functools.partial, which can be captured: partial(random_crop, size_px=256).

The words "light", "medium" and "hard" stand for ready-made ones, see utils.data.presets.

Transforms of torchvision.transforms.v2 serve, too: the class, a partial of it, or an object. They
get x as an image and y as a mask, so that geometry changes both, y to the nearest pixel, and colour
x alone.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from config.errors import did_you_mean, shorten
from utils.data.preprocess import Preprocess
from utils.data.presets import PRESETS, colour, cover, is_map, mirror, shift, warp

Transform = Callable[[Tensor, Any], tuple[Tensor, Any]]
Transforms = str | Transform | Sequence[str | Transform] | None  # what a dataset is given

# of torchvision: these reckon with values in 0..1 and cut off all others
_OF_UNIT_RANGE = (
    *("AugMix", "AutoAugment", "ColorJitter", "GaussianNoise", "RandAugment"),
    *("RandomAdjustSharpness", "RandomAutocontrast", "RandomEqualize", "RandomInvert"),
    *("RandomPhotometricDistort", "RandomPosterize", "RandomSolarize", "TrivialAugmentWide"),
)
# of torchvision: the picture has their size afterwards
_OF_SIZE = ("CenterCrop", "RandomCrop", "RandomResizedCrop", "Resize")
# and here its own
_KEEPING = (
    *_OF_UNIT_RANGE,
    *("Compose", "RandomApply", "RandomChoice", "RandomOrder", "Identity", "ElasticTransform"),
    *("GaussianBlur", "RandomAffine", "RandomErasing", "RandomGrayscale", "RandomHorizontalFlip"),
    *("RandomPerspective", "RandomVerticalFlip"),
)


def make_transforms(transform: Transforms) -> list[Transform]:
    """Return what a `transform=` argument says as a list of functions (x, y) -> (x, y).

    Args:
        transform: None, a function, one of torchvision (see the module), the name of a preset (see
            utils.data.presets), or a list of these.
    """
    found = []
    for part in _as_list(transform):
        found += PRESETS[part] if isinstance(part, str) else [_as_pair(part)]
    return found


def make_pipeline(transform: Transforms, preprocess: Preprocess) -> list[Transform]:
    """Return the transforms, and after them crop, mean and std of PREPROCESS; see the module.

    An empty list where there are no transforms: PREPROCESS is then done at once.
    """
    transforms = make_transforms(transform)
    crops = not sets_size(transforms)
    return [*transforms, functools.partial(_finish, preprocess, crops)] if transforms else []


def _finish(preprocess: Preprocess, crops: bool, x: Tensor, y: Any) -> tuple[Tensor, Any]:
    cut = preprocess.cut if crops else None
    # a function of the user's may have cut already
    if cut and (x.shape[1] > cut[0] or x.shape[2] > cut[1]):
        x = preprocess.crop(x)
    return preprocess.normalise(x), y


def sets_size(transforms: Sequence[Transform]) -> bool:
    """Tell whether one of the transforms that `make_transforms` gave chooses the size itself."""
    return any(
        getattr(part, "func", part) is random_crop
        or isinstance(part, _Torchvision)
        and any(name in _OF_SIZE for name in _names(part.transform))
        for part in transforms
    )


def keeps_size(transforms: Sequence[Transform]) -> bool:
    """Tell whether all transforms are known to leave the size of a picture as it is."""
    own = (flip, rotate90, mirror, shift, warp, colour, cover)
    return all(
        getattr(part, "func", part) in own
        or isinstance(part, _Torchvision)
        and all(name in _KEEPING for name in _names(part.transform))
        for part in transforms
    )


def check_transforms(transform: Any) -> list[str]:
    """Return what is wrong with a `transform=` argument, a line for each problem."""
    transform = _as_list(transform)
    unknown = [part for part in transform if isinstance(part, str) and part not in PRESETS]
    if unknown:
        return [
            f"transform: expected functions (x, y) -> (x, y) or one of {', '.join(PRESETS)}, got "
            f'"{unknown[0]}".{did_you_mean(unknown[0], PRESETS)}'
        ]
    if not all(isinstance(part, str) or callable(part) for part in transform):
        return [
            f"transform: expected functions (x, y) -> (x, y), got {shorten(transform)}. "
            "Give the functions themselves."
        ]
    old = [part for part in transform if _module(part) == "torchvision.transforms.transforms"]
    return [
        f"transform: expected one of torchvision.transforms.v2, got {shorten(part)}. "
        "Take the class of the same name from there, which moves masks, too."
        for part in old
    ]


def _as_list(transform: Any) -> Sequence[Any]:
    if transform is None:
        return []
    return transform if isinstance(transform, (list, tuple)) else [transform]


class _Torchvision:
    """A transform of torchvision.transforms.v2 as a function (x, y) -> (x, y)."""

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform
        self.of_unit_range = [name for name in _names(transform) if name in _OF_UNIT_RANGE]

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors

        if self.of_unit_range and (x.min() < -1e-3 or x.max() > 1 + 1e-3):
            raise ValueError(
                f"transform: expected values in 0..1 for {self.of_unit_range[0]}, got "
                f"{x.min():g}..{x.max():g}. Scale them by PREPROCESS, as in {{'scale': 1 / 255}}."
            )
        if not is_map(x, y):  # torchvision would take some of them for pictures
            return self.transform(tv_tensors.Image(x)).as_subclass(Tensor), y
        x, y = self.transform(tv_tensors.Image(x), tv_tensors.Mask(y))
        return x.as_subclass(Tensor), y.as_subclass(Tensor)


def _as_pair(transform: Any) -> Transform:
    # torchvision doubles the time of an import; who gives one of its transforms has it imported
    v2 = sys.modules.get("torchvision.transforms.v2")
    if v2 is None:
        return transform
    made = transform.func if isinstance(transform, functools.partial) else transform
    if isinstance(made, type) and issubclass(made, v2.Transform):
        transform = transform()
    return _Torchvision(transform) if isinstance(transform, v2.Transform) else transform


def _module(transform: Any) -> str:
    made = transform.func if isinstance(transform, functools.partial) else transform
    return getattr(made if isinstance(made, type) else type(made), "__module__", "")


def _names(transform: Any) -> list[str]:
    """Return the names of a transform of torchvision and of those in it."""
    parts = getattr(transform, "transforms", ())
    return [type(transform).__name__, *(name for part in parts for name in _names(part))]


def random_crop(x: Tensor, y: Any, size_px: int) -> tuple[Tensor, Any]:
    """Cut the same square out of both, anywhere inside the picture.

    Args:
        x: (C, H, W).
        y: (H, W) or (K, H, W); what is no map stays as it is.
        size_px: The side of the square [px].

    Returns:
        x: (C, size_px, size_px) and y: (size_px, size_px) or (K, size_px, size_px).

    Raises:
        ValueError: The picture is smaller than the square.
    """
    height, width = x.shape[-2:]
    if not 0 < size_px <= min(height, width):
        raise ValueError(
            f"random_crop: expected size_px from 1 to the picture's {height} x {width}, got "
            f"{size_px}. Choose a smaller crop, or leave out the smaller pictures."
        )
    top = int(torch.randint(height - size_px + 1, ()))
    left = int(torch.randint(width - size_px + 1, ()))
    rows, columns = slice(top, top + size_px), slice(left, left + size_px)
    return x[..., rows, columns], y[..., rows, columns] if is_map(x, y) else y


def flip(x: Tensor, y: Any) -> tuple[Tensor, Any]:
    """Mirror both left to right, and both top to bottom, each with a probability of one half.

    Args:
        x: (C, H, W).
        y: (H, W) or (K, H, W); what is no map stays as it is.

    Returns:
        x and y of the same shapes.
    """
    dims = [dim for dim, coin in zip((-1, -2), torch.rand(2).tolist(), strict=True) if coin < 0.5]
    return x.flip(dims), y.flip(dims) if is_map(x, y) else y


def rotate90(x: Tensor, y: Any) -> tuple[Tensor, Any]:
    """Turn both by 0, 90, 180 or 270 degrees, with equal probability.

    Args:
        x: (C, H, H), square.
        y: (H, H) or (K, H, H); what is no map stays as it is.

    Returns:
        x and y of the same shapes.

    Raises:
        ValueError: The picture is not square, so that turned ones would not fit in a batch.
    """
    height, width = x.shape[-2:]
    if height != width:
        raise ValueError(
            f"rotate90: expected a square picture, got {height} x {width}. "
            "Put random_crop before it, or use flip alone."
        )
    turns = int(torch.randint(4, ()))
    return x.rot90(turns, (-2, -1)), y.rot90(turns, (-2, -1)) if is_map(x, y) else y
