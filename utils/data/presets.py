"""Augmentation by one word: transform="light", "medium" or "hard".

======  ============================================================================
light   mirrored left to right; moved by up to a tenth of the side
medium  besides turned by up to 15 degrees, scaled by 0.85 to 1.15; colours change a
        little
hard    turned by up to 30 degrees, sheared, scaled by 0.7 to 1.4; colours change
        much; in half of the pictures a part of up to 15 % is covered
======  ============================================================================

Pictures keep their size, and beyond an edge they go on as in a mirror. A mask moves with its
picture and keeps its classes. Any number of channels and any scale of values will do. Where left
and right mean something, as in digits and text, list the functions of this module that fit instead:
transform=[shift, partial(colour, strength=0.2)].

They are written here, in elementwise arithmetic, because torchvision's contrast sums up in an order
that depends on the number of threads, and so on where a sample is made.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def mirror(x: Tensor, y: Any) -> tuple[Tensor, Any]:
    """Mirror both left to right with a probability of one half.

    Args:
        x: (C, H, W), here and below.
        y: (H, W) or (K, H, W), here and below; what is no map stays as it is.

    Returns:
        x and y of the same shapes, here and below.
    """
    if torch.rand(()) < 0.5:
        return x, y
    return x.flip(-1), y.flip(-1) if is_map(x, y) else y


def shift(x: Tensor, y: Any, share: float = 0.1) -> tuple[Tensor, Any]:
    """Move both by whole pixels, up to a share of each side."""
    index = []
    for side in x.shape[-2:]:
        way = min(round(share * side), side - 1)
        at = torch.arange(side) + torch.randint(-way, way + 1, ())
        at = at.abs()  # mirrored at the first pixel, then at the last
        index.append(side - 1 - (side - 1 - at).abs())
    rows, columns = index[0][:, None], index[1]
    return x[..., rows, columns], y[..., rows, columns] if is_map(x, y) else y


def warp(
    x: Tensor,
    y: Any,
    degrees: float = 15,
    scale: tuple[float, float] = (0.85, 1.15),
    share: float = 0.1,
    shear: float = 0,
) -> tuple[Tensor, Any]:
    """Turn, scale, shear and move both, between pixels; y to the nearest pixel.

    Args:
        x: As above, float.
        y: As above.
        degrees: The largest angle, either way.
        scale: The smallest factor and the largest.
        share: The furthest way of the centre, as a share of each side.
        shear: The largest shear, as a tangent.
    """
    height, width = x.shape[-2:]
    angle, tangent = _draw(-1, 1) * math.radians(degrees), _draw(-1, 1) * shear
    factor = _draw(*scale)
    right, down = _draw(-1, 1) * share * width, _draw(-1, 1) * share * height
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    # where a pixel of the result is read, counted from the centre [px]
    to_x = torch.arange(width) - (width - 1) / 2
    to_y = (torch.arange(height) - (height - 1) / 2)[:, None]
    from_x = cos * to_x + (cos * tangent - sin) * to_y + right
    from_y = sin * to_x + (sin * tangent + cos) * to_y + down
    # grid_sample has the edges of the picture at -1 and 1
    grid = torch.stack([from_x * (2 / width), from_y * (2 / height)], dim=-1)[None]  # (1, H, W, 2)
    options = {"padding_mode": "reflection", "align_corners": False}
    new_x = F.grid_sample(x[None], grid, mode="bilinear", **options)[0]
    if not is_map(x, y):
        return new_x, y
    # class numbers are exact as float64, whatever their type
    maps = y.reshape(1, -1, height, width).double()
    new_y = F.grid_sample(maps, grid.double(), mode="nearest", **options)
    return new_x, new_y.reshape(y.shape).to(y.dtype)


def colour(x: Tensor, y: Any, strength: float = 0.2) -> tuple[Tensor, Any]:
    """Change the brightness, the contrast and the balance of the channels of x.

    Args:
        x: As above, float.
        y: Anything; it stays as it is.
        strength: The factors are drawn from 1 - strength to 1 + strength, that of each channel,
            which changes the hue, from half of it.
    """
    gain, contrast = (_draw(1 - strength, 1 + strength) for _ in range(2))
    balance = 1 + (2 * torch.rand(len(x), 1, 1) - 1) * strength / 2
    mean = float(x.numpy().mean())  # numpy's does not depend on threads
    return (x - mean) * (contrast * gain) * balance + mean * gain * balance, y


def cover(x: Tensor, y: Any, probability: float = 0.5, area: float = 0.15) -> tuple[Tensor, Any]:
    """Cover a rectangle of x with the mean of each channel.

    Source: Zhong et al., Random Erasing Data Augmentation, 2017, https://arxiv.org/abs/1708.04896.

    Args:
        x: As above, float.
        y: Anything; it stays as it is, and what is covered shall be found nevertheless.
        probability: How often.
        area: The largest share of the picture; the smallest is 0.02.
    """
    if torch.rand(()) >= probability:
        return x, y
    height, width = x.shape[-2:]
    pixels, ratio = _draw(0.02, area) * height * width, math.exp(_draw(-1, 1))
    rows = min(max(round(math.sqrt(pixels * ratio)), 1), height)
    columns = min(max(round(math.sqrt(pixels / ratio)), 1), width)
    top, left = (int(torch.randint(n, ())) for n in (height - rows + 1, width - columns + 1))
    mean = torch.from_numpy(x.numpy().mean(axis=(1, 2)))
    x = x.clone()
    x[:, top : top + rows, left : left + columns] = mean[:, None, None]
    return x, y


PRESETS = {
    "light": [mirror, shift],
    "medium": [mirror, warp, colour],
    "hard": [
        mirror,
        partial(warp, degrees=30, scale=(0.7, 1.4), share=0.15, shear=0.15),
        partial(colour, strength=0.4),
        cover,
    ],
}


def is_map(x: Tensor, y: Any) -> bool:
    """Tell whether the target of a picture is a map of it, such as a mask."""
    # a class or a number beside a picture is none
    return isinstance(y, Tensor) and y.ndim > 1 and y.shape[-2:] == x.shape[-2:]


def _draw(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
