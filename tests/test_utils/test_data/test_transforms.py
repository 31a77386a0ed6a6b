"""Transforms: picture and mask move together."""

import functools
import pickle

import pytest
import torch

from utils.data.preprocess import Preprocess
from utils.data.transforms import (
    check_transforms,
    flip,
    make_pipeline,
    make_transforms,
    random_crop,
    rotate90,
    sets_size,
)


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


@pytest.mark.parametrize(
    "transform", [flip, rotate90, functools.partial(random_crop, size_px=4)], ids=str
)
def test_what_is_no_map_stays_as_it_is(transform):
    y = torch.tensor(3)
    torch.manual_seed(0)
    assert transform(torch.rand(2, 8, 8), y)[1] is y


# ------------------------------------------------------------------- beside PREPROCESS


def half(x, y):
    return x[:, : x.shape[1] // 2, : x.shape[2] // 2], y


def test_crop_mean_and_std_come_after_the_transforms():
    preprocess = Preprocess({"crop": [4, 6], "mean": 1, "std": 2})
    assert make_pipeline(None, preprocess) == make_pipeline([], preprocess) == []
    x, y = torch.arange(80.0).reshape(1, 8, 10), torch.tensor(1)

    def apply(*transforms):
        new = x
        for transform in make_pipeline(list(transforms), preprocess):
            new, _ = transform(new, y)
        return new

    assert apply("light").shape == (1, 4, 6)
    assert torch.equal(apply(half), (x[:, :4, :5] - 1) / 2)  # cut already, and smaller
    assert apply(functools.partial(random_crop, size_px=7)).shape == (1, 7, 7)


def test_transforms_that_choose_the_size_are_known(v2):
    fixing = [
        functools.partial(random_crop, size_px=4),
        functools.partial(v2.RandomResizedCrop, size=8),
        v2.RandomCrop(8),
        v2.Compose([v2.RandomHorizontalFlip(), v2.Resize((4, 4))]),
    ]
    for transform in fixing:
        assert sets_size(make_transforms([flip, transform]))
    assert not sets_size(make_transforms([flip, half, v2.RandomRotation(10)]))
    assert not sets_size(make_transforms("hard")) and not sets_size([])


# -------------------------------------------------------------------------- torchvision


@pytest.fixture
def v2():
    return pytest.importorskip("torchvision.transforms.v2")


def classes_and_picture(y_axes):
    """Return y of 5 classes and x that repeats it in its first two channels, scaled to 0..1."""
    classes = torch.arange(5).repeat_interleave(4).expand(20, 20).contiguous()
    classes = classes.tril() if y_axes == 2 else classes.float()[None].repeat(3, 1, 1)
    y = classes if y_axes == 2 else classes.tril()
    x = (y if y_axes == 2 else y[0]).float() / 8
    return x.repeat(3, 1, 1), y


@pytest.mark.parametrize("y_axes", [2, 3])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("RandomHorizontalFlip", {"p": 1}),
        ("RandomResizedCrop", {"size": (16, 12), "interpolation": 0}),
        ("RandomRotation", {"degrees": 45}),
        ("RandomAffine", {"degrees": 30, "translate": (0.2, 0.2), "shear": 10}),
        ("RandomPerspective", {"p": 1, "interpolation": 0}),
    ],
)
def test_geometry_of_torchvision_moves_both_and_keeps_the_classes(v2, y_axes, name, arguments):
    x, y = classes_and_picture(y_axes)
    (transform,) = make_transforms(functools.partial(getattr(v2, name), **arguments))
    torch.manual_seed(1)
    new_x, new_y = transform(x, y)
    assert type(new_x) is type(new_y) is torch.Tensor
    assert new_y.dtype == y.dtype and new_y.dim() == y.dim()
    assert not torch.equal(new_y, y)
    assert set(new_y.unique().tolist()) <= set(range(5)) and len(new_y.unique()) > 2
    shown = new_y if y_axes == 2 else new_y[0]
    assert torch.equal((new_x[0] * 8).round().long(), shown.long())  # nearest neighbours in both


def test_colour_of_torchvision_changes_the_picture_alone(v2):
    x, y = classes_and_picture(2)
    for transform in make_transforms([v2.ColorJitter(0.5, 0.5), v2.GaussianBlur(3)]):
        torch.manual_seed(1)
        new_x, new_y = transform(x, y)
        assert torch.equal(new_y, y) and not torch.equal(new_x, x) and type(new_x) is torch.Tensor


@pytest.mark.parametrize("y", [torch.tensor(3), torch.tensor([1.0, 0.0])])
def test_a_class_beside_a_picture_stays(v2, y):
    (transform,) = make_transforms(v2.RandomVerticalFlip(p=1))
    x = torch.arange(32.0).reshape(2, 4, 4)
    new_x, new_y = transform(x, y)
    assert torch.equal(new_x, x.flip(1)) and torch.equal(new_y, y)


def test_a_class_a_partial_and_an_object_are_one(v2):
    x, y = classes_and_picture(2)
    made = make_transforms(
        [v2.RandomVerticalFlip, functools.partial(v2.RandomVerticalFlip, p=1), flip]
    )
    again = [*make_transforms(made), *pickle.loads(pickle.dumps(make_transforms(made)))]
    assert made[2] is flip and len(again) == 6
    for transform in (made[1], again[1], again[4]):
        assert torch.equal(transform(x, y)[1], y.flip(0))
    (composed,) = make_transforms(v2.Compose([v2.RandomVerticalFlip(1), v2.Lambda(torch.neg)]))
    assert torch.equal(composed(x, y)[1], y.flip(0).neg())


@pytest.mark.parametrize("nested", [False, True])
def test_colour_is_refused_on_values_that_it_would_cut_off(v2, nested):
    jitter = v2.ColorJitter(0.1)
    transform = v2.Compose([v2.RandomApply([jitter], p=0.5)]) if nested else jitter
    (transform,) = make_transforms(transform)
    with pytest.raises(ValueError, match=r"in 0\.\.1 for ColorJitter, got 0\.\.127\. .*1 / 255"):
        transform(torch.arange(128.0).reshape(1, 8, 16), torch.zeros(8, 16))
    (geometry,) = make_transforms(v2.RandomVerticalFlip(p=1))
    assert geometry(torch.full((1, 2, 2), 127.0), torch.zeros(2, 2))[0].max() == 127


def test_what_is_no_transform_is_described(v2):
    assert check_transforms(None) == check_transforms([flip, v2.Identity]) == []
    for wrong in ("flip", [flip, "flip"]):
        (problem,) = check_transforms(wrong)
        assert 'or one of light, medium, hard, got "flip".' in problem
    assert 'Did you mean "medium"?' in check_transforms("medum")[0]
    for wrong in (3, [flip, 3], {"a": flip}):
        (problem,) = check_transforms(wrong)
        assert problem.startswith("transform: expected functions (x, y) -> (x, y), got")
    from torchvision import transforms as v1

    for old in (v1.RandomVerticalFlip(), functools.partial(v1.RandomRotation, 10)):
        (problem,) = check_transforms([flip, old])
        assert problem.startswith("transform: expected one of torchvision.transforms.v2, got")
