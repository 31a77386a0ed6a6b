"""Presets: pictures keep their size, masks move along, the bits depend on the seed alone."""

import functools

import pytest
import torch

from utils.data.presets import PRESETS, colour, cover, is_map, mirror, shift, warp
from utils.data.transforms import make_transforms


def apply(transforms, x, y, seed=0):
    torch.manual_seed(seed)
    for transform in make_transforms(transforms):
        x, y = transform(x, y)
    return x, y


def picture(channels=3, height=40, width=52):
    """Return a picture of five plateaus, and the mask that numbers them."""
    y = (torch.arange(height)[:, None] // 9 + torch.arange(width) // 14) % 5
    return (y / 5).expand(channels, -1, -1).contiguous(), y


@pytest.mark.parametrize("channels", [1, 3, 12])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_keeps_sizes_types_and_classes(name, channels):
    x, y = picture(channels)
    before = x.clone(), y.clone()
    for seed in range(5):
        new_x, new_y = apply(name, x, y, seed)
        assert new_x.shape == x.shape and new_x.dtype == torch.float32 and new_x.isfinite().all()
        assert new_y.shape == y.shape and new_y.dtype == torch.int64
        assert set(new_y.unique().tolist()) <= set(range(5))
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


@pytest.mark.parametrize("y", [torch.tensor(3), torch.ones(4), {"label": torch.tensor(3)}])
@pytest.mark.parametrize("name", PRESETS)
def test_what_is_no_map_stays(name, y):
    assert apply(name, picture()[0], y)[1] is y


@pytest.mark.parametrize("name", PRESETS)
def test_the_seed_alone_decides_and_not_the_threads(name):
    x = torch.rand(3, 300, 300, generator=torch.Generator().manual_seed(0))
    y = torch.tensor(1)
    before = torch.get_num_threads()
    results = []
    for threads, seed in ((1, 7), (3, 7), (1, 8)):
        torch.set_num_threads(threads)
        results.append(apply(name, x, y, seed)[0])
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_the_stronger_a_preset_the_more_it_changes():
    x, y = picture()
    changes = [
        sum(float((apply(name, x, y, seed)[0] - x).abs().mean()) for seed in range(20))
        for name in PRESETS
    ]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("transform", [mirror, shift, functools.partial(warp, scale=(1, 1))])
def test_mask_and_picture_move_together(transform):
    x, y = picture(1)
    inside = slice(12, -12)
    for seed in range(5):
        new_x, new_y = apply(transform, x, y, seed)
        near = (new_x[0] * 5 - new_y).abs()[inside, inside] < 0.51  # pixels between two plateaus
        assert near.float().mean() > (0.85 if transform not in (mirror, shift) else 1 - 1e-6)


def test_a_mirror_is_one_half_of_the_time():
    x = torch.arange(6.0).reshape(1, 2, 3)
    seen = [
        torch.equal(apply(mirror, x, torch.tensor(0), seed)[0], x.flip(-1)) for seed in range(40)
    ]
    assert 8 < sum(seen) < 32


def test_a_shift_goes_on_as_in_a_mirror():
    x = torch.arange(10.0).expand(1, 10, 10)
    rows = {
        tuple(apply(functools.partial(shift, share=0.3), x, 0, s)[0][0, 0].tolist())
        for s in range(60)
    }
    assert (3, 2, 1, 0, 1, 2, 3, 4, 5, 6) in rows and (3, 4, 5, 6, 7, 8, 9, 8, 7, 6) in rows
    assert len(rows) == 7


def test_a_warp_is_what_it_says():
    x = torch.zeros(1, 21, 31)
    x[0, 10, 15], x[0, 10, 20] = 1, 1
    still = functools.partial(warp, degrees=0, scale=(1, 1), share=0)
    assert torch.allclose(apply(still, x, 0)[0], x, atol=1e-5)
    twice = functools.partial(warp, degrees=0, scale=(2, 2), share=0)
    at = apply(twice, x, 0)[0][0]
    assert at[10, 15] == pytest.approx(1, abs=1e-4) and at[10, 25] == pytest.approx(1, abs=1e-4)
    turned = functools.partial(warp, degrees=90, scale=(1, 1), share=0)
    for seed in range(20):  # the second point stays on its circle
        where = (apply(turned, x, 0, seed)[0][0] > 0.2).nonzero() - torch.tensor([10, 15])
        distance = where.float().norm(dim=1)
        assert ((distance < 1) | ((distance - 5).abs() < 1)).all() and len(where) > 1


def test_colours_change_by_their_strength():
    x = torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(0))
    for seed in range(10):
        ratio = apply(functools.partial(colour, strength=0.2), x, 0, seed)[0].mean((1, 2)) / x.mean(
            (1, 2)
        )
        assert (0.8 * 0.9 - 0.02 < ratio).all() and (ratio < 1.2 * 1.1 + 0.02).all()
        assert len(ratio.unique()) == 3
    assert torch.allclose(apply(functools.partial(colour, strength=0.0), x, 0)[0], x, atol=1e-6)
    doubled = apply(functools.partial(colour, strength=0.4), 255 * x, 0)[0]
    assert torch.allclose(
        doubled / 255, apply(functools.partial(colour, strength=0.4), x, 0)[0], atol=1e-5
    )


@pytest.mark.parametrize(("height", "width"), [(40, 40), (5, 60), (1, 2)])
def test_what_is_covered_is_one_rectangle_of_the_mean(height, width):
    x = torch.rand(2, height, width, generator=torch.Generator().manual_seed(0))
    covered = 0
    for seed in range(40):
        new, _ = apply(cover, x, 0, seed)
        changed = (new != x).any(0)
        covered += bool(changed.any())
        if changed.any():
            rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
            assert changed.sum() == len(rows) * len(columns)
            assert new[:, rows[0], columns[0]].flatten().tolist() == pytest.approx(
                x.mean((1, 2)).tolist(), abs=1e-5
            )
            assert changed.float().mean() < 0.2 or height * width < 20
    assert 8 < covered < 32


def test_maps_are_told_from_numbers():
    x = torch.zeros(3, 4, 5)
    assert is_map(x, torch.zeros(4, 5)) and is_map(x, torch.zeros(7, 4, 5))
    assert not any(is_map(x, y) for y in (torch.zeros(()), torch.zeros(5), torch.zeros(5, 4), {}))
