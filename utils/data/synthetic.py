"""Satellite-like scenes made from a seed: 12 bands in, water and buildings out; needs no files.

A scene is smooth land (vegetation, soil, forest) with lakes, rectangular buildings and, to mislead,
roads with the spectrum of roofs and cloud shadows as dark as water. Brightness and haze change from
scene to scene. So one band and one threshold do not do: a network must look at the spectrum and at
the shape.

    python -m utils.data.synthetic --out data/train --n 20        writes such scenes as files
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils.data.files import write_array

CLASSES = ["water", "buildings"]

# reflectances of 12 bands, from 443 to 2190 nm, as a satellite such as Sentinel-2 sees them
_SPECTRA = {
    "vegetation": (0.03, 0.04, 0.07, 0.05, 0.11, 0.28, 0.34, 0.36, 0.38, 0.37, 0.20, 0.11),
    "soil": (0.09, 0.11, 0.15, 0.19, 0.22, 0.25, 0.27, 0.29, 0.31, 0.31, 0.38, 0.33),
    "forest": (0.02, 0.03, 0.04, 0.03, 0.06, 0.15, 0.19, 0.20, 0.21, 0.20, 0.10, 0.05),
    "water": (0.06, 0.06, 0.07, 0.05, 0.04, 0.03, 0.03, 0.03, 0.03, 0.03, 0.02, 0.01),
    "roof": (0.18, 0.21, 0.24, 0.26, 0.27, 0.28, 0.29, 0.30, 0.31, 0.31, 0.33, 0.32),
}
_MEAN, _STD = 0.2, 0.12  # of all bands over many scenes, so that x is about zero mean, unit range


class SyntheticScenes(Dataset):
    """Scenes with masks of water and buildings, the same ones for the same seed, kept in memory.

    x: (C, H, W) float32, about zero mean and unit range. y: (2, H, W) float32, 1 inside the object,
    0 outside, in the order of CLASSES.

    Args:
        n_scenes: How many.
        size_px: Height and width [px].
        n_bands: C.
        seed: Another seed gives other scenes: 0 to train, 1 to validate, say.

    Raises:
        ValueError: A count is below 1 or the size below 16.
    """

    deterministic = True
    CLASSES = CLASSES

    def __init__(self, n_scenes: int, size_px: int = 64, n_bands: int = 12, seed: int = 0) -> None:
        if min(n_scenes, n_bands) < 1 or size_px < 16 or seed < 0:
            raise ValueError(
                "SyntheticScenes: expected n_scenes and n_bands from 1, size_px from 16, seed from "
                f"0, got {n_scenes}, {n_bands}, {size_px}, {seed}. Correct it."
            )
        self.n_scenes, self.size_px, self.n_bands, self.seed = n_scenes, size_px, n_bands, seed
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return self.n_scenes

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        index = range(self.n_scenes)[index]
        if index not in self._cache:
            x, y = make_scene(self.seed, index, self.size_px, self.n_bands)
            self._cache[index] = torch.from_numpy(x), torch.from_numpy(y)
        return self._cache[index]

    def __getstate__(self) -> dict:
        # a worker makes its scenes itself, sooner than it would receive them
        return {**self.__dict__, "_cache": {}}


def make_scene(
    seed: int, index: int, size_px: int = 64, n_bands: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Make one scene, the same for the same arguments.

    Returns:
        x: (C, H, W) float32, about zero mean and unit range; y: (2, H, W) float32, 0 or 1.
    """
    rng = np.random.default_rng((seed, index))
    land, forest, lakes, mud, shadow, texture = _smooth_noise(rng, 6, size_px)
    water = lakes > np.quantile(lakes, rng.uniform(0.75, 0.93))
    roads = _roads(rng, size_px)
    buildings = _buildings(rng, size_px) & ~water

    spectra = _spectra(n_bands)
    land = np.clip(land * 1.5 + 0.5, 0, 1)
    forest = np.clip(forest * 4 - 1, 0, 1)
    x = _mix(spectra["soil"], spectra["vegetation"], land)
    x += forest * (spectra["forest"][:, None, None] - x)
    x[:, roads | buildings] = spectra["roof"][:, None]
    x *= 1 + 0.25 * texture
    x *= 1 - 0.8 * np.clip(shadow * 6 - 2.5, 0, 1)
    x[:, water] = _mix(spectra["water"], spectra["soil"], np.clip(mud * 0.5, 0, 0.3))[:, water]

    brightness = rng.uniform(0.75, 1.3)
    haze = rng.uniform(0, 0.05) * np.linspace(1, 0, n_bands, dtype=np.float32)[:, None, None]
    x = x * np.float32(brightness) + haze.astype(np.float32)
    x += 0.03 * rng.standard_normal(x.shape, dtype=np.float32)
    return (x - _MEAN) / _STD, np.stack([water, buildings]).astype(np.float32)


def _spectra(n_bands: int) -> dict[str, np.ndarray]:
    at = np.linspace(0, 11, n_bands)
    return {
        name: np.interp(at, range(12), row).astype(np.float32) for name, row in _SPECTRA.items()
    }


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Blend two spectra (C,) by the share (H, W) of the second, to (C, H, W)."""
    return first[:, None, None] + share * (second - first)[:, None, None]


def _smooth_noise(rng: np.random.Generator, n: int, size_px: int) -> np.ndarray:
    """Return n fields (n, H, W) float32 within -1..1: value noise of three octaves."""
    field = np.zeros((n, size_px, size_px), np.float32)
    for cell_px, weight in ((24, 0.6), (12, 0.3), (6, 0.1)):
        n_cells = size_px // cell_px + 3
        grid = rng.uniform(-1, 1, (n, n_cells, n_cells)).astype(np.float32)
        at = np.arange(size_px) / cell_px + rng.uniform()
        cell = at.astype(int)
        share = (at - cell).astype(np.float32)
        share = share * share * (3 - 2 * share)  # smooth at the cell borders
        rows = grid[:, cell] * (1 - share)[:, None] + grid[:, cell + 1] * share[:, None]
        field += weight * (rows[:, :, cell] * (1 - share) + rows[:, :, cell + 1] * share)
    return field


def _roads(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Return a mask (H, W) of one to three straight roads, 2 px wide."""
    n = rng.integers(1, 4)
    angle = rng.uniform(0, np.pi, (n, 1, 1))
    row, column = rng.uniform(0, size_px, (2, n, 1, 1))
    rows, columns = np.ogrid[:size_px, :size_px]
    distance = (rows - row) * np.cos(angle) + (columns - column) * np.sin(angle)
    return (np.abs(distance) < 1).any(axis=0)


def _buildings(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Return a mask (H, W) of turned rectangles, 6 to 14 px long and wide."""
    mask = np.zeros((size_px, size_px), bool)
    n = max(3, round(rng.integers(5, 11) * (size_px / 64) ** 2))
    for row, column, angle, height, width in zip(
        *rng.uniform(2, size_px - 2, (2, n)),
        rng.uniform(0, np.pi, n),
        *rng.uniform(3, 7, (2, n)),  # half of the sides
        strict=True,
    ):
        top, left = max(int(row) - 10, 0), max(int(column) - 10, 0)
        near = (
            slice(top, min(int(row) + 11, size_px)),
            slice(left, min(int(column) + 11, size_px)),
        )
        rows, columns = np.ogrid[near]
        rows, columns = rows - row, columns - column
        along = rows * np.cos(angle) + columns * np.sin(angle)
        across = columns * np.cos(angle) - rows * np.sin(angle)
        mask[near] |= (np.abs(along) < height) & (np.abs(across) < width)
    return mask


def main(arguments: list[str] | None = None) -> None:
    """Write scenes as files, channels-last, the way PairedFolder reads them."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.data.synthetic",
        description="Write synthetic scenes: OUT/x/scene_000.npy (H, W, 12) and "
        f"OUT/y/scene_000.npy (H, W, 2) with {' and '.join(CLASSES)}.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder, new or empty")
    parser.add_argument("--n", type=int, default=20, help="number of scenes (default: 20)")
    parser.add_argument("--size", type=int, default=96, help="height and width [px] (default: 96)")
    parser.add_argument(
        "--seed", type=int, default=0, help="other seeds, other scenes (default: 0)"
    )
    options = parser.parse_args(arguments)
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"--out: expected a new or empty folder, got {options.out}. Choose another.")
    try:
        scenes = SyntheticScenes(options.n, size_px=options.size, seed=options.seed)
    except ValueError as error:
        parser.error(str(error))
    for name in ("x", "y"):
        (options.out / name).mkdir(parents=True)
    for index, scene in enumerate(scenes[i] for i in range(len(scenes))):
        for name, tensor in zip(("x", "y"), scene, strict=True):
            array = tensor.permute(1, 2, 0).contiguous().numpy()  # (H, W, C)
            write_array(options.out / name / f"scene_{index:03d}.npy", array)
    print(f"{len(scenes)} scenes of {options.size} x {options.size} px in {options.out}/x and /y")


if __name__ == "__main__":
    main()
