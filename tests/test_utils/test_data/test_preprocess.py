"""Preprocess: the one way from an array on disk to a tensor."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from config.errors import ConfigError
from utils.data.preprocess import Preprocess, check_preprocess


def numbers(*shape, dtype="uint8"):
    return (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)


def test_channels_last_becomes_channels_first_as_float():
    array = numbers(5, 7, 3)
    x = Preprocess()(array)
    assert (x.dtype, x.shape, x.is_contiguous()) == (torch.float32, (3, 5, 7), True)
    assert all(x[c, h, w] == array[h, w, c] for c in range(3) for h in range(5) for w in range(7))


def test_height_equal_to_channels_is_no_special_case():
    array = numbers(3, 7, 3)
    assert torch.equal(Preprocess()(array)[2, 1], torch.from_numpy(array[1, :, 2]).float())


def test_two_axes_are_one_channel():
    assert torch.equal(Preprocess()(numbers(5, 7)), Preprocess()(numbers(5, 7, 1)))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", ">i2", "int64", "float16", ">f8"])
def test_every_number_type_is_taken(dtype):
    array = numbers(4, 5, 2, dtype=dtype)
    assert np.array_equal(Preprocess()(array).numpy(), array.transpose(2, 0, 1).astype("float32"))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 2)])
def test_the_array_is_left_alone(shape):
    array = numbers(*shape, dtype="float32")
    before = array.copy()
    Preprocess({"scale": 2.0, "mean": 1.0})(array)
    Preprocess()(array).fill_(7)
    assert np.array_equal(array, before)
    array.flags.writeable = False  # as a memory-mapped file is
    Preprocess({"scale": 2.0})(array[::-1])


def test_scale_then_mean_then_std():
    x = Preprocess({"scale": 0.5, "mean": [1, 2], "std": [4.0, 5.0]})(np.full((2, 2, 2), 10))
    assert x[0].unique().item() == (10 * 0.5 - 1) / 4
    assert x[1].unique().item() == pytest.approx((10 * 0.5 - 2) / 5)


def test_mean_and_std_can_wait():
    preprocess = Preprocess({"scale": 0.5, "mean": [1, 2], "std": [4.0, 5.0], "size": [3, 3]})
    array = numbers(6, 6, 2)
    x = preprocess.prepare(array)
    assert torch.equal(x, Preprocess({"scale": 0.5, "size": [3, 3]})(array))
    before = x.clone()
    assert torch.equal(preprocess.normalise(x), preprocess(array))
    assert torch.equal(x, before)


def test_integers_are_not_scaled_unasked():
    assert Preprocess()(np.full((2, 2), 255, np.uint8)).max() == 255


def test_resizing_keeps_flat_areas_and_averages_when_shrinking():
    assert Preprocess({"size": [3, 4]})(np.full((9, 9, 2), 5.0)).shape == (2, 3, 4)
    stripes = np.zeros((16, 16), "float32")
    stripes[::4] = 1
    x = Preprocess({"size": [4, 4]})(stripes)
    assert (x - 0.25).abs().max() < 0.1  # without antialiasing the stripes would be skipped
    assert Preprocess({"size": (16, 16)})(stripes).equal(Preprocess()(stripes))


@pytest.mark.parametrize("shape", [(31, 47, 3), (47, 31, 3), (16, 64), (9, 10, 1), (24, 24, 3)])
def test_short_side_and_crop_are_those_of_torchvision(shape):
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    array = numbers(*shape)
    x = Preprocess({"short_side": 24, "crop": [17, 20]})(array)
    resized = functional.resize(Preprocess()(array), [24], antialias=True)
    assert torch.equal(x, functional.center_crop(resized, [17, 20])) and x.is_contiguous()
    assert torch.equal(Preprocess({"short_side": 24})(array), resized)


def test_what_is_left_to_be_done_after_an_augmentation():
    config = {"short_side": 8, "crop": [6, 4], "scale": 0.5, "mean": 3}
    preprocess, array = Preprocess(config), numbers(16, 20, 3)
    x = preprocess.prepare(array)
    assert x.shape == (3, 8, 10) and preprocess.out_size == [6, 4]
    assert torch.equal(preprocess.normalise(preprocess.crop(x)), preprocess(array))
    assert preprocess.prepare(array, whole=True).equal(Preprocess({"scale": 0.5})(array))


def test_a_picture_smaller_than_its_crop_is_refused():
    with pytest.raises(ValueError, match=r'"crop".*at most the 8 x 5 of the picture, got 8 x 6\.'):
        Preprocess({"crop": [8, 6]})(numbers(8, 5))


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
def test_gray_and_rgb(n_channels):
    array = numbers(6, 6, n_channels)
    gray, rgb = Preprocess({"channels": "gray"}), Preprocess({"channels": "rgb"})
    assert gray(array).shape == (1, 6, 6) and gray.ch_out(n_channels) == 1
    assert rgb(array).shape == (3, 6, 6) and rgb.ch_out(n_channels) == 3
    first = torch.from_numpy(array[:, :, 0]).float()
    assert torch.equal(rgb(array)[0], first)
    if n_channels < 3:
        assert torch.equal(gray(array)[0], first) and torch.equal(rgb(array)[2], first)
    else:
        luma = np.asarray(Image.fromarray(array[:, :, :3]).convert("L"), np.float32)
        assert np.abs(gray(array)[0].numpy() - luma).max() <= 0.5


def test_config_is_plain_data_and_travels():
    preprocess = Preprocess({"mean": (1, 2), "size": None, "scale": 0.5, "dtype": "float32"})
    assert preprocess.config == {"mean": [1, 2], "scale": 0.5, "dtype": "float32"}
    array = numbers(4, 4, 2)
    for same in (
        Preprocess(json.loads(json.dumps(preprocess.config))),
        pickle.loads(pickle.dumps(preprocess)),
    ):
        assert torch.equal(same(array), preprocess(array))
    assert repr(preprocess) == f"Preprocess({preprocess.config})"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"scal": 1}, r'"scal"\]: expected one of .* Did you mean "scale"\?'),
        ({"scale": 0}, "finite number, not 0, got 0"),
        ({"scale": True}, "finite number, not 0, got True"),
        ({"scale": float("nan")}, "finite number, not 0, got nan"),
        ({"mean": "0.5"}, "a list of them, got '0.5'"),
        ({"mean": []}, r"a list of them, got \[\]"),
        ({"std": [1, 0]}, r"above 0 or a list of them, got \[1, 0\]"),
        ({"std": -1}, "above 0"),
        ({"size": 64}, "height, width"),
        ({"size": [64]}, "height, width"),
        ({"size": [64, 0.5]}, "height, width"),
        ({"crop": 64}, r'"crop"\]: expected \[height, width\]'),
        ({"short_side": [64, 64]}, "whole number above 0"),
        ({"short_side": 64, "size": [64, 64]}, r'no "size" beside it, got \[64, 64\]'),
        ({"channels": "bgr"}, '"gray" or "rgb", got \'bgr\''),
        ({"dtype": "float16"}, "float32"),
        (["scale"], "PREPROCESS: expected a dict"),
    ],
)
def test_wrong_configs_are_described(config, problem):
    with pytest.raises(ConfigError, match=problem):
        Preprocess(config)


def test_all_problems_are_reported_together():
    assert len(check_preprocess({"scal": 1, "std": 0, "size": 3, "mean": 0.0})) == 3
    assert check_preprocess(None) == [] == check_preprocess({"scale": None})


def test_maps_are_not_cropped_and_have_one_size():
    (first, second) = check_preprocess({"short_side": 64, "crop": [32, 32]}, of_maps=True)
    assert first.startswith('PREPROCESS["short_side"]: expected none for a segmentation')
    assert second.startswith('PREPROCESS["crop"]: expected none for a segmentation')
    assert check_preprocess({"size": [64, 64], "crop": None}, of_maps=True) == []


def test_arrays_that_do_not_fit_are_described():
    with pytest.raises(ValueError, match=r"\(H, W\) or \(H, W, C\), got shape \(1, 2, 3, 4\)"):
        Preprocess()(numbers(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r'1\.\.4 channels for "rgb", got 12'):
        Preprocess({"channels": "rgb"})(numbers(4, 4, 12))
    with pytest.raises(ValueError, match='"mean".*one for each of 12 channels, got 3'):
        Preprocess({"mean": [1, 2, 3]})(numbers(4, 4, 12))
    with pytest.raises(ValueError, match='"std".*one for each of 1 channels, got 3'):
        Preprocess({"std": [1, 2, 3], "channels": "gray"})(numbers(4, 4, 3))
