"""Transforms: picture and mask move together."""

import pytest
import torch

from utils.data.transforms import flip, random_crop, rotate90


def pair(height, width, y_axes):
    """Return x whose values name their pixel, and y that repeats them."""
    pixels = torch.arange(height * width).reshape(height, width)
    x = torch.stack([pixels, -pixels]).float()
    return x, (pixels if y_axes == 2 else pixels[None].repeat(3, 1, 1))


@pytest.mark.parametrize("y_axes", [2, 3])
@pytest.mark.parametrize(
    ("transform", "arguments", "n_results"),
    [(random_crop, {"size_px": 6}, 9), (flip, {}, 4), (rotate90, {}, 4)],
)
def test_both_move_together_in_all_ways_and_repeatably(transform, arguments, n_results, y_axes):
    x, y = pair(8, 8, y_axes)
    before = x.clone(), y.clone()
    torch.manual_seed(0)
    results = [transform(x, y, **arguments) for _ in range(100)]
    for new_x, new_y in results:
        assert torch.equal(new_x[0].long(), new_y if y_axes == 2 else new_y[1])
        assert torch.equal(new_x[0], -new_x[1])
    seen = {tuple(new_x[0].flatten().tolist()) for new_x, _ in results}
    assert len(seen) == n_results
    torch.manual_seed(0)
    assert torch.equal(transform(x, y, **arguments)[0], results[0][0])
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


def test_shapes_stay_what_they_are():
    x, y = pair(6, 9, 2)
    assert [tuple(part.shape) for part in random_crop(x, y, 6)] == [(2, 6, 6), (6, 6)]
    assert [tuple(part.shape) for part in flip(x, y)] == [(2, 6, 9), (6, 9)]


@pytest.mark.parametrize("size_px", [0, 7])
def test_a_crop_must_fit(size_px):
    with pytest.raises(ValueError, match=f"from 1 to the picture's 6 x 9, got {size_px}"):
        random_crop(*pair(6, 9, 2), size_px)


def test_only_squares_are_turned():
    with pytest.raises(ValueError, match="expected a square picture, got 6 x 9"):
        rotate90(*pair(6, 9, 2))
