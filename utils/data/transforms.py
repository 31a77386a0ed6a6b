"""Augment a picture and its mask together; for PairedFolder(transform=[...]).

Each takes and returns x: (C, H, W) and y: (H, W) or (K, H, W), draws from torch's global generator
(which the kit seeds for every sample) and leaves its arguments as they are. Bind arguments by
functools.partial, which can be captured: partial(random_crop, size_px=256).
"""

import torch
from torch import Tensor


def random_crop(x: Tensor, y: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    """Cut the same square out of both, anywhere inside the picture.

    Args:
        x: (C, H, W).
        y: (H, W) or (K, H, W).
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
    return x[..., rows, columns], y[..., rows, columns]


def flip(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror both left to right, and both top to bottom, each with a probability of one half.

    Args:
        x: (C, H, W).
        y: (H, W) or (K, H, W).

    Returns:
        x and y of the same shapes.
    """
    dims = [dim for dim, coin in zip((-1, -2), torch.rand(2).tolist(), strict=True) if coin < 0.5]
    return (x.flip(dims), y.flip(dims)) if dims else (x, y)


def rotate90(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Turn both by 0, 90, 180 or 270 degrees, with equal probability.

    Args:
        x: (C, H, H), square.
        y: (H, H) or (K, H, H).

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
    return x.rot90(turns, (-2, -1)), y.rot90(turns, (-2, -1))
