"""From an array on disk to the tensor that a model sees, in training and in prediction alike.

The config's PREPROCESS is a dict of plain values, which travels in the weights file; its words:

==========  ===================  ==========================================================
key         value                meaning
==========  ===================  ==========================================================
channels    "gray", "rgb"        one channel by luma, or three; an alpha channel is dropped
size        [H, W]               resized to it [px], bilinear and antialiased
short_side  whole number         instead of size: resized until its shorter side is it [px]
crop        [H, W]               then the middle of this size [px] is cut out
scale       number               values are multiplied by it: 1 / 255 for 8-bit pictures
mean        number, or one each  subtracted after scaling, per channel of the result
std         number, or one each  divided by after that
dtype       "float32"            the only one
==========  ===================  ==========================================================

Each may be left out or None. Nothing happens unasked: 8-bit values stay 0..255 without a scale.
short_side and crop are those of torchvision's Resize and CenterCrop, for a decision about a picture
as a whole; maps, such as masks, take size alone.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from config.errors import ConfigError, did_you_mean, shorten

_KEYS = ("channels", "size", "short_side", "crop", "scale", "mean", "std", "dtype")
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's convert("L")


class Preprocess:
    """Turn an array (H, W) or (H, W, C) into a tensor, as PREPROCESS says; see the module.

    Attributes:
        config: The dict as plain data.
        out_size: [H, W] of every tensor [px], or None where it depends on the array.

    Raises:
        ConfigError: The dict holds unknown keys or wrong values; all of them are named.
    """

    def __init__(self, config: Mapping | None = None) -> None:
        problems = check_preprocess(config)
        if problems:
            raise ConfigError(problems)
        self.config = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in (config or {}).items()
            if value is not None
        }
        self.channels = self.config.get("channels")
        self.size, self.cut = self.config.get("size"), self.config.get("crop")
        self.short_side = self.config.get("short_side")
        self.out_size = self.cut or self.size
        self._scale = self.config.get("scale")
        self._mean, self._std = (
            torch.tensor(self.config[key], dtype=torch.float32).reshape(-1, 1, 1)
            if key in self.config
            else None
            for key in ("mean", "std")
        )

    def __repr__(self) -> str:
        return f"Preprocess({self.config})"

    def ch_out(self, ch_in: int) -> int:
        """Return the channels of the tensor made from an array of `ch_in` channels.

        Raises:
            ValueError: An array of so many channels cannot be made gray or RGB, or has not one
                channel for each value of mean or std.
        """
        if self.channels and ch_in > 4:
            raise ValueError(
                f'PREPROCESS["channels"]: expected arrays of 1..4 channels for "{self.channels}", '
                f"got {ch_in}. Take the key out, or pick the channels beforehand."
            )
        ch_out = {"gray": 1, "rgb": 3}.get(self.channels, ch_in)
        for key, values in (("mean", self._mean), ("std", self._std)):
            if values is not None and len(values) not in (1, ch_out):
                raise ValueError(
                    f'PREPROCESS["{key}"]: expected one value or one for each of {ch_out} '
                    f"channels, got {len(values)}. Arrays are channels-last, (H, W, C)."
                )
        return ch_out

    def __call__(self, array: np.ndarray) -> Tensor:
        """Make the tensor.

        Args:
            array: (H, W) or (H, W, C), any numbers.

        Returns:
            (C, H, W) float32, contiguous, sharing no memory with the array.

        Raises:
            ValueError: The array has another shape, or channels that do not fit, see ch_out; or it
                is smaller than crop.
        """
        return self.normalise(self.crop(self.prepare(array)))

    def batch(self, arrays: np.ndarray) -> Tensor:
        """Make the tensors of many arrays of one size, with the bits of a call for each.

        Args:
            arrays: (N, H, W) or (N, H, W, C).

        Returns:
            (N, C, H, W) float32, contiguous.

        Raises:
            ValueError: As a call.
        """
        if self.channels or self.short_side or self.out_size:  # not done number by number
            return torch.stack([self(array) for array in arrays])
        view = arrays[:, None] if arrays.ndim == 3 else arrays.transpose(0, 3, 1, 2)
        self.ch_out(view.shape[1])
        x = torch.from_numpy(np.array(view, dtype=np.float32, order="C"))  # (N, C, H, W)
        if self._scale is not None:
            x.mul_(self._scale)
        return self.normalise(x)

    def prepare(self, array: np.ndarray, whole: bool = False) -> Tensor:
        """Make the tensor, but leave `crop` and `normalise` to be done; in between is augmented.

        Args:
            array: As in a call.
            whole: Leave short_side out, for an augmentation that chooses the size itself.

        Returns:
            (C, H, W) float32, contiguous, sharing no memory with the array.

        Raises:
            ValueError: As a call.
        """
        if array.ndim not in (2, 3):
            raise ValueError(
                f"PREPROCESS: expected an array (H, W) or (H, W, C), got shape {array.shape}. "
                "Arrays are channels-last, one picture each."
            )
        view = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        self.ch_out(len(view))
        # numpy converts, turns and copies in one pass, big-endian and read-only arrays too
        x = torch.from_numpy(np.array(view, dtype=np.float32, order="C"))  # (C, H, W)
        if self.channels:
            x = _convert(x, self.channels)
        if self.size:
            x = _resize(x, self.size)
        if self.short_side and not whole:
            height, width = x.shape[1:]
            short = min(height, width)
            # torchvision, too, rounds the longer side down
            x = _resize(x, [self.short_side * side // short for side in (height, width)])
        if self._scale is not None:
            x.mul_(self._scale)
        return x

    def crop(self, x: Tensor) -> Tensor:
        """Cut the middle out.

        Args:
            x: (C, H, W) float32; it is left as it is.

        Raises:
            ValueError: It is smaller than crop.
        """
        if self.cut is None:
            return x
        (height, width), (new_height, new_width) = x.shape[1:], self.cut
        if new_height > height or new_width > width:
            raise ValueError(
                f'PREPROCESS["crop"]: expected at most the {height} x {width} of the picture, got '
                f'{new_height} x {new_width}. Enlarge it before, by "short_side" or "size".'
            )
        # torchvision, too, rounds halves to the even number
        top, left = round((height - new_height) / 2), round((width - new_width) / 2)
        return x[:, top : top + new_height, left : left + new_width].contiguous()

    def normalise(self, x: Tensor) -> Tensor:
        """Subtract the mean and divide by std.

        Args:
            x: (C, H, W) or (N, C, H, W) float32; it is left as it is.
        """
        if self._mean is not None:
            x = x - self._mean
        return x if self._std is None else x / self._std


def check_preprocess(config: Mapping | None, of_maps: bool = False) -> list[str]:
    """Return what is wrong with a PREPROCESS dict, a line for each problem.

    Args:
        config: The dict.
        of_maps: The target is a map, which has the size of its picture.
    """
    if config is None:
        return []
    if not isinstance(config, Mapping):
        return [f"PREPROCESS: expected a dict, got {shorten(config)}. Write {{'scale': 1 / 255}}."]
    height_and_width = (
        "[height, width] as whole numbers above 0",
        lambda value: _is_list(value, _is_size) and len(value) == 2,
    )
    rules = {
        "channels": ('"gray" or "rgb"', lambda value: value in ("gray", "rgb")),
        "size": height_and_width,
        "short_side": ("a whole number above 0", _is_size),
        "crop": height_and_width,
        "scale": ("a finite number, not 0", lambda value: _is_number(value) and value != 0),
        "mean": (
            "a finite number or a list of them",
            lambda value: _is_number(value) or _is_list(value, _is_number),
        ),
        "std": (
            "a number above 0 or a list of them",
            lambda value: _is_positive(value) or _is_list(value, _is_positive),
        ),
        "dtype": ('"float32"', lambda value: value == "float32"),
    }
    problems = []
    for key, value in config.items():
        if key not in rules:
            hint = did_you_mean(str(key), _KEYS)
            problems.append(
                f'PREPROCESS["{key}"]: expected one of {", ".join(_KEYS)} as key.{hint}'
            )
        elif value is not None and not rules[key][1](value):
            problems.append(
                f'PREPROCESS["{key}"]: expected {rules[key][0]}, got {shorten(value)}. Correct it.'
            )
        elif value is not None and of_maps and key in ("short_side", "crop"):
            problems.append(
                f'PREPROCESS["{key}"]: expected none for a segmentation or other maps, got '
                f'{shorten(value)}. Give "size", which resizes picture and map alike.'
            )
    if config.get("size") is not None and config.get("short_side") is not None:
        problems.append(
            f'PREPROCESS["short_side"]: expected no "size" beside it, got {config["size"]}. '
            "Take one out."
        )
    return problems


def _resize(x: Tensor, size: list[int]) -> Tensor:
    if list(x.shape[1:]) == size:
        return x
    return F.interpolate(x[None], size, mode="bilinear", antialias=True)[0]


def _convert(x: Tensor, channels: str) -> Tensor:
    if len(x) < 3:  # gray, or gray with alpha
        return x[:1] if channels == "gray" else x[:1].repeat(3, 1, 1)
    if channels == "rgb":
        return x[:3]
    return (x[:3] * torch.tensor(_LUMA).reshape(3, 1, 1)).sum(dim=0, keepdim=True)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value: object) -> bool:
    return _is_number(value) and value > 0


def _is_size(value: object) -> bool:
    return isinstance(value, int) and _is_positive(value)


def _is_list(value: object, rule) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(rule, value))
