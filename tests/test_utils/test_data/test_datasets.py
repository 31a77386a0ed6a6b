"""Datasets: pairs of files, files alone, arrays in memory, rows of tables, digits."""

import functools
import multiprocessing
import pickle
import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import utils.data
from config.errors import ConfigError
from models.predictor import Predictor
from tests.test_utils.test_data.test_files import write_any
from utils.data import (
    Arrays,
    Digits,
    InputFolder,
    PairedFolder,
    Preprocess,
    TableRows,
    from_arrays,
)
from utils.data.files import SUFFIXES, read_array, write_array
from utils.data.loading import make_loader
from utils.data.transforms import flip, random_crop


def write_pairs(root, x, y, folders=("x", "y"), suffixes=(".npy", ".npy")):
    """Write {stem: array} for both sides; return the root."""
    for folder, arrays, suffix in zip(folders, (x, y), suffixes, strict=True):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for stem, array in arrays.items():
            write_array(root / folder / f"{stem}{suffix}", array)
    return root


def pictures(*stems, shape=(8, 6, 3), seed=0):
    rng = np.random.default_rng(seed)
    return {stem: rng.integers(0, 255, shape, dtype=np.uint8) for stem in stems}


def masks(*stems, shape=(8, 6), n=2):
    rng = np.random.default_rng(1)
    return {stem: rng.integers(0, n, shape, dtype=np.uint8) for stem in stems}


def no_change(x, y):
    return x, y


def plus_noise(x, y):
    return x + torch.randn(()), y


# ------------------------------------------------------------------------- pairs: reading


@pytest.mark.parametrize("folders", [("x", "y"), ("image", "label")])
def test_pairs_are_matched_by_name_whatever_the_suffix(tmp_path, folders):
    x, y = pictures("b", "a", "10", "9"), masks("9", "10", "a", "b")
    write_pairs(tmp_path, x, y, folders, (".png", ".npy"))
    dataset = PairedFolder(tmp_path)
    assert dataset.names == ["10", "9", "a", "b"] and len(dataset) == 4
    for name, files, (x_item, y_item) in zip(dataset.names, dataset.files, dataset, strict=True):
        assert [file.name for file in files] == [f"{name}.png", f"{name}.npy"]
        assert torch.equal(x_item, torch.from_numpy(x[name]).permute(2, 0, 1).float())
        assert torch.equal(y_item, torch.from_numpy(y[name])[None].float())


def load(dataset, train=False, **config):
    """Return the batches of one epoch, as a run gets them."""
    loader = make_loader(dataset, {"batch_size": 2, **config}, 0, torch.device("cpu"), train)
    return list(loader)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_reaches_a_batch(tmp_path, suffix):
    array = np.kron(np.arange(15).reshape(3, 5), np.ones((16, 16), int)).astype(np.uint8)
    for folder, factor in (("x", 15), ("y", 1)):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            write_any(tmp_path / folder / f"{name}{suffix}", array * factor)
    is_exact = suffix not in (".jpg", ".jpeg", ".webp")
    task = "multiclass_segmentation" if is_exact else "regression"
    (batch,) = load(PairedFolder(tmp_path, task=task))
    n_channels = 3 if suffix == ".webp" else 1
    assert batch.x.shape == (2, n_channels, 48, 80) and batch.x.dtype == torch.float32
    expected = torch.from_numpy(array)
    assert (batch.x[1, 0] - 15 * expected).abs().max() <= (0 if is_exact else 3)
    if is_exact:
        assert torch.equal(batch.y[0], expected.long())


def test_several_bands_and_classes_reach_a_batch(tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 4)).astype(np.float32)  # height and bands
    y = np.random.default_rng(1).integers(0, 5, (2, 6, 4))
    write_pairs(tmp_path, dict(zip("ab", x, strict=True)), dict(zip("ab", y, strict=True)))
    dataset = PairedFolder(tmp_path, task="multiclass_segmentation", preprocess={"scale": 0.5})
    (batch,) = load(dataset)
    assert torch.equal(batch.x, torch.from_numpy(x).permute(0, 3, 1, 2) * 0.5)
    assert torch.equal(batch.y, torch.from_numpy(y))
    # the same array, as predict.py gives it to the network
    first = Predictor(torch.nn.Identity(), "cpu", preprocess={"scale": 0.5})
    assert torch.equal(first.logits(read_array(tmp_path / "x" / "a.npy"))[0], batch.x[0])


def test_a_mask_may_have_another_resolution_where_both_are_resized(tmp_path):
    write_pairs(tmp_path, pictures("a", shape=(12, 18, 3)), masks("a", shape=(4, 6)))
    with pytest.raises(ConfigError, match=r'a\.npy \(4 x 6, its picture 12 x 18\).*"size"'):
        PairedFolder(tmp_path)
    x, y = PairedFolder(tmp_path, preprocess={"size": [8, 12]})[0]
    assert x.shape == (3, 8, 12) and y.shape == (1, 8, 12)
    write_array(tmp_path / "y" / "a.npy", np.zeros((6, 4), np.uint8))
    with pytest.raises(ConfigError, match="6 x 4, its picture 12 x 18"):
        PairedFolder(tmp_path, preprocess={"size": [8, 12]})


def test_coloured_masks_are_told_apart_by_their_colours(tmp_path):
    mask = np.zeros((8, 6, 3), np.uint8)
    mask[2:5], mask[5:] = (255, 0, 0), (0, 0, 255)
    write_pairs(tmp_path, pictures("a", "b"), {"a": mask}, suffixes=(".npy", ".png"))
    picture = Image.fromarray(mask).convert("P", palette=Image.Palette.ADAPTIVE, colors=3)
    picture.save(tmp_path / "y" / "b.png")  # a palette in any order
    options = {"task": "multiclass_segmentation"}
    colours = {(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 2}
    dataset = PairedFolder(tmp_path, label_values=colours, **options)
    for _, y in dataset:
        assert y[:, 0].tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    write_array(tmp_path / "y" / "b.png", mask[..., 0])
    with pytest.raises(ConfigError, match=r"masks of three channels .* others in .*b\.png"):
        PairedFolder(tmp_path, label_values=colours, **options)


# ------------------------------------------------------------------------- pairs: folders


def test_folders_and_files_may_have_any_name(tmp_path):
    for name, array in pictures("1", "2", "deep/1").items():
        path = tmp_path / "images" / f"img_{name}.png" if "/" not in name else None
        path = path or tmp_path / "images" / "deep" / "img_1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_array(path, array)
        mask = tmp_path / "labels" / path.parent.relative_to(tmp_path / "images")
        mask.mkdir(parents=True, exist_ok=True)
        write_array(mask / f"{path.stem[4:]}-mask.npy", array[..., 0] % 2)
    options = {"image_dir": tmp_path / "images", "mask_dir": str(tmp_path / "labels")}
    dataset = PairedFolder(image_name="img_*", mask_name="*-mask", **options)
    assert dataset.names == ["1", "2", "deep/1"]
    for x, y in dataset:
        assert torch.equal(y, x[:1] % 2)
    held = PairedFolder(
        image_name="img_*", mask_name="*-mask", subset="val", holdout=["deep/*"], **options
    )
    assert held.names == ["deep/1"]
    with pytest.raises(ConfigError, match=r"none for .*img_1\.png(.|\n)*none for .*1-mask\.npy"):
        PairedFolder(**options)


@pytest.mark.parametrize("names", [{}, {"image_name": "*.jpg", "mask_name": "*.png"}])
def test_pictures_and_masks_may_share_a_folder(tmp_path, names):
    suffixes = (".npy", ".png")
    if names:
        Image.new("RGB", (6, 8)).save(tmp_path / "a.jpg")
        write_array(tmp_path / "a.png", masks("a")["a"])
    else:
        names = {"mask_name": "*_mask"}
        for suffix, name in zip(suffixes, ("a", "a_mask"), strict=True):
            write_array(tmp_path / f"{name}{suffix}", masks("a")["a"])
    dataset = PairedFolder(image_dir=tmp_path, mask_dir=tmp_path, **names)
    assert dataset.names == ["a"] and dataset[0][1].shape == (1, 8, 6)


def test_the_folder_of_masks_may_lie_in_that_of_pictures(tmp_path):
    write_pairs(tmp_path, pictures("a"), masks("a"), folders=("", "masks"))
    assert PairedFolder(image_dir=tmp_path, mask_dir=tmp_path / "masks").names == ["a"]


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({}, "got none"),
        ({"image_dir": "a"}, "got image_dir 'a'"),
        ({"mask_dir": "a"}, "got mask_dir 'a'"),
        ({"root": "r", "image_dir": "a", "mask_dir": "b"}, "got root 'r' and image_dir 'a' and"),
    ],
)
def test_folders_are_given_one_way(options, got):
    with pytest.raises(ConfigError, match=f"root: expected root alone, or .*, {got}"):
        PairedFolder(**options)


def test_training_and_prediction_see_the_same_tensor(tmp_path):
    # height equal to the channel count: the case in which a guessed layout goes wrong unnoticed
    x = pictures("a", shape=(3, 6, 3))
    config = {"scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "size": [6, 12]}
    write_pairs(tmp_path, x, masks("a", shape=(3, 6)))
    seen, _ = PairedFolder(str(tmp_path), preprocess=config)[0]
    assert torch.equal(seen, Preprocess(config)(x["a"]))
    assert torch.equal(seen, PairedFolder(tmp_path, preprocess=Preprocess(config))[0][0])


@pytest.mark.parametrize(
    ("task", "y", "dtype", "shape"),
    [
        ("binary_segmentation", np.eye(8, dtype=bool), torch.float32, (1, 8, 8)),
        ("binary_segmentation", np.eye(8)[:, :, None] / 2, torch.float32, (1, 8, 8)),
        ("multiclass_segmentation", np.arange(64).reshape(8, 8), torch.int64, (8, 8)),
        ("multiclass_segmentation", np.arange(64.0).reshape(8, 8), torch.int64, (8, 8)),
        ("multilabel_segmentation", np.ones((8, 8, 5)), torch.float32, (5, 8, 8)),
        ("regression", np.linspace(-9, 9, 128).reshape(8, 8, 2), torch.float32, (2, 8, 8)),
    ],
)
def test_targets_keep_their_values_and_take_the_form_of_the_task(tmp_path, task, y, dtype, shape):
    write_pairs(tmp_path, pictures("a", shape=(8, 8)), {"a": y})
    target = PairedFolder(tmp_path, task=task)[0][1]
    assert (target.dtype, tuple(target.shape)) == (dtype, shape)
    expected = np.moveaxis(y, 2, 0) if y.ndim == 3 else y
    np.testing.assert_array_equal(
        target.numpy().reshape(expected.shape), expected.astype(target.numpy().dtype)
    )


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_label_values_say_what_values_mean(tmp_path, dtype):
    mask = np.array([[0, 255], [7, 0]], dtype=dtype)
    write_pairs(tmp_path, pictures("a", shape=(2, 2)), {"a": mask})
    dataset = PairedFolder(
        tmp_path, task="multiclass_segmentation", label_values={7: 1, 0: 0, 255: 2}
    )
    assert dataset[0][1].tolist() == [[0, 2], [1, 0]]
    dataset = PairedFolder(tmp_path, label_values={7: 1, 0: 0, 255: 1})
    assert dataset[0][1].tolist() == [[[0, 1], [1, 0]]]
    dataset = PairedFolder(tmp_path, label_values={0: 0, 255: 1})
    with pytest.raises(ValueError, match=r"a\.npy: expected the values 0, 255 .*, got 7\."):
        dataset[0]


def test_classes_are_never_made_binary(tmp_path):
    mask = {"a": np.array([[0, 1], [2, 3]], np.uint8)}
    write_pairs(tmp_path, pictures("a", shape=(2, 2)), mask)
    assert PairedFolder(tmp_path, task="multiclass_segmentation")[0][1].tolist() == [[0, 1], [2, 3]]
    dataset = PairedFolder(tmp_path)
    with pytest.raises(ValueError, match=r"a\.npy: expected values in \[0, 1\] .*, got 2, 3\. .*"):
        dataset[0]


@pytest.mark.parametrize(("value", "shown"), [(1.5, "1.5"), (np.nan, "nan"), (np.inf, "inf")])
def test_fractions_are_no_classes(tmp_path, value, shown):
    write_pairs(tmp_path, pictures("a", shape=(1, 2)), {"a": np.array([[0, value]])})
    dataset = PairedFolder(tmp_path, task="multiclass_segmentation")
    with pytest.raises(ValueError, match=f"expected whole numbers .*, got {shown}"):
        dataset[0]


@pytest.mark.parametrize("task", ["binary_segmentation", "multiclass_segmentation"])
def test_a_resized_mask_has_no_new_values(tmp_path, task):
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 1
    write_pairs(tmp_path, {"a": mask * 100}, {"a": mask})
    x, y = PairedFolder(tmp_path, task=task, preprocess={"size": [5, 3]})[0]
    assert x.shape == (1, 5, 3) and y.shape[-2:] == (5, 3)
    assert set(y.unique().tolist()) == {0, 1}
    assert y.reshape(5, 3)[:, 0].max() == 0 and y.reshape(5, 3)[:, 2].min() == 1


def test_a_file_damaged_later_is_named(tmp_path):
    write_pairs(tmp_path, pictures("a"), masks("a"), suffixes=(".png", ".npy"))
    dataset = PairedFolder(tmp_path)
    path = tmp_path / "x" / "a.png"
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ValueError, match=r"a\.png: expected a readable \.png file"):
        dataset[0]


# ---------------------------------------------------------------------- pairs: transforms


def test_transforms_belong_to_one_dataset_alone(tmp_path):
    write_pairs(tmp_path, pictures("a", "b"), masks("a", "b"))
    one = functools.partial(random_crop, size_px=4)
    train = PairedFolder(tmp_path, subset="train", holdout=["b"], transform=[one, flip])
    val = PairedFolder(tmp_path, subset="val", holdout=["b"])
    assert (train.deterministic, val.deterministic) == (False, True)
    assert train[0][0].shape == (3, 4, 4) and train[0][1].shape == (1, 4, 4)
    assert val[0][0].shape == (3, 8, 6)
    assert torch.equal(val[0][0], val[0][0])
    assert PairedFolder(tmp_path, transform=one)[0][0].shape == (3, 4, 4)
    assert PairedFolder(tmp_path, transform=[]).deterministic


def test_a_picture_is_augmented_before_mean_and_std(tmp_path):
    write_pairs(tmp_path, pictures("a"), masks("a"))
    config = {"scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": 0.25}
    options = {"subset": "all", "preprocess": config}
    plain = PairedFolder(tmp_path, **options)[0][0]
    assert torch.equal(PairedFolder(tmp_path, transform=in_unit_range, **options)[0][0], plain)


def in_unit_range(x, y):
    assert x.min() >= 0 and x.max() <= 1 and x.max() > 0.5
    return x, y


def test_torchvision_serves_as_a_transform(tmp_path):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    y = {name: mask[..., None] for name, mask in masks("a", "b", n=5).items()}
    write_pairs(tmp_path, {name: mask * 50 for name, mask in y.items()}, y)
    rotation = functools.partial(v2.RandomAffine, degrees=90, translate=(0.3, 0.3))
    dataset = PairedFolder(
        tmp_path,
        task="multiclass_segmentation",
        preprocess={"scale": 1 / 255, "mean": 0.5},
        transform=[rotation, v2.ColorJitter(brightness=(0.5, 0.5))],
    )
    (first,), (again,) = load(dataset, train=True), load(dataset, train=True)
    assert torch.equal(first.x, again.x) and torch.equal(first.y, again.y)
    assert torch.allclose((first.x[:, 0] + 0.5) * 2 * 255, first.y * 50.0, atol=1e-3)
    assert type(first.x) is torch.Tensor
    assert torch.equal(load(PairedFolder(tmp_path, task="regression"))[0].x[0], read(y["a"] * 50))


def read(array):
    return torch.from_numpy(array).permute(2, 0, 1).float()


def test_repeat_gives_each_picture_again_augmented_anew(tmp_path):
    write_pairs(tmp_path, pictures("a", "b"), masks("a", "b"))
    dataset = PairedFolder(tmp_path, transform=plus_noise, repeat=3)
    assert len(dataset) == 6 and dataset.names == ["a", "b"]
    batches = load(dataset, train=True, shuffle=False, batch_size=6)
    x, y = batches[0]
    assert torch.equal(y[0], y[2]) and torch.equal(y[0], y[4])
    assert len(x[::2, 0, 0, 0].unique()) == 3
    assert len(list(PairedFolder(tmp_path, repeat=2))) == 4  # iterating ends
    with pytest.raises(ConfigError, match="repeat: expected a count from 1, got 0"):
        PairedFolder(tmp_path, repeat=0)


# -------------------------------------------------------------------------- pairs: memory


CONFIG = {"scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "size": [4, 4]}


@pytest.mark.parametrize("transform", [None, plus_noise])
@pytest.mark.parametrize("task", ["binary_segmentation", "multiclass_segmentation"])
def test_with_cache_nothing_is_read_any_more(tmp_path, monkeypatch, transform, task):
    x = pictures("a", "b") | pictures("c", shape=(9, 5, 3))
    write_pairs(tmp_path, x, masks("a", "b") | masks("c", shape=(9, 5)))
    for config in (CONFIG, {"scale": 0.5}):
        options = {"task": task, "preprocess": config, "transform": transform}
        reads = []
        with monkeypatch.context() as patch:
            patch.setattr(
                "utils.data.datasets.read_array",
                lambda path, reads=reads, **how: reads.append(path) or read_array(path, **how),
            )
            cached = PairedFolder(tmp_path, cache=True, **options)
            assert len(reads) == 6
            epochs = [load(cached, batch_size=1) for _ in range(2)]
            assert len(reads) == 6
        for batches in epochs:
            for batch, expected in zip(
                batches, load(PairedFolder(tmp_path, **options), batch_size=1), strict=True
            ):
                assert torch.equal(batch.x, expected.x) and torch.equal(batch.y, expected.y)


def in_place(x, y):
    return x.zero_(), y.zero_()


def test_a_transform_that_works_in_place_leaves_the_memory_alone(tmp_path):
    write_pairs(tmp_path, pictures("a"), {"a": np.ones((8, 6), np.uint8)})
    dataset = PairedFolder(tmp_path, transform=in_place, cache=True)
    dataset[0]
    dataset.transform = []
    assert dataset[0][0].max() > 0 and dataset[0][1].min() == 1
    data = Arrays(torch.ones(2, 1, 3, 3), torch.ones(2, 3, 3), transform=in_place)
    assert data[0][0].max() == 0 and data.x.min() == data.y.min() == 1


def test_with_cache_every_damaged_file_is_named_at_once(tmp_path):
    write_pairs(tmp_path, pictures("a", "b"), masks("a"), suffixes=(".png", ".npy"))
    write_array(tmp_path / "y" / "b.npy", np.full((8, 6), 255))
    path = tmp_path / "x" / "a.png"
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ConfigError, match=r"a\.png: expected a readable") as caught:
        PairedFolder(tmp_path, cache=True)
    assert "b.npy: expected values in [0, 1]" in caught.value.problems[1]


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_share_the_memory(tmp_path, context):
    stems = [f"s{i}" for i in range(5)]
    write_pairs(tmp_path, pictures(*stems), masks(*stems))
    v2 = pytest.importorskip("torchvision.transforms.v2")
    dataset = PairedFolder(tmp_path, transform=[plus_noise, v2.RandomVerticalFlip()], cache=True)
    expected = load(dataset, train=True)
    for path in (tmp_path / "x").iterdir():
        path.unlink()
    loader = make_loader(
        dataset,
        {"batch_size": 2, "num_workers": 1, "multiprocessing_context": context},
        0,
        torch.device("cpu"),
        True,
    )
    for _ in range(2):
        for batch, alone in zip(loader, expected, strict=True):
            assert torch.equal(batch.x, alone.x) and torch.equal(batch.y, alone.y)
    assert dataset._memory[0].values.is_shared() == (context == "spawn")


# ------------------------------------------------------------------------ pairs: holdout


@pytest.mark.parametrize("how", [{"holdout": 0.4}, {"fold": [1, 3]}, {"fold": (0, 3), "seed": 5}])
def test_training_and_validation_share_no_file(tmp_path, how):
    stems = [f"s{i:02}" for i in range(12)]
    write_pairs(tmp_path, pictures(*stems), masks(*stems))
    train, val = (set(PairedFolder(tmp_path, subset=s, **how).names) for s in ("train", "val"))
    assert train | val == set(stems) and not train & val
    assert len(val) == 4 or "holdout" in how


def test_held_out_files_are_on_one_side_only(tmp_path):
    stems = [f"s{i}" for i in range(6)]
    write_pairs(tmp_path, pictures(*stems), masks(*stems))
    train = PairedFolder(tmp_path, subset="train", holdout=("s1", "s4"))
    val = PairedFolder(tmp_path, subset="val", holdout=["s4", "s1"])
    assert val.names == ["s1", "s4"] and train.names == ["s0", "s2", "s3", "s5"]
    assert PairedFolder(tmp_path).names == stems


def test_a_share_is_held_out_and_stays_when_files_are_added(tmp_path):
    stems = [f"s{i}" for i in range(60)]
    write_pairs(tmp_path / "few", pictures(*stems[:40]), masks(*stems[:40]))
    write_pairs(tmp_path / "many", pictures(*stems), masks(*stems))
    few, many = (
        set(PairedFolder(tmp_path / name, subset="val", holdout=0.3).names)
        for name in ("few", "many")
    )
    assert many & set(stems[:40]) == few
    assert 0.15 < len(many) / 60 < 0.45
    train = PairedFolder(tmp_path / "many", subset="train", holdout=0.3)
    assert set(train.names) == set(stems) - many
    # the same in every process and on every machine, unlike hash()
    assert sorted(many)[:4] == ["s13", "s15", "s23", "s25"]


# ------------------------------------------------------------------------- pairs: errors


def test_all_problems_are_reported_together(tmp_path):
    x = pictures("a", "b", "c", "only_x") | {"gray": pictures("g", shape=(8, 6))["g"]}
    y = masks("a", "b", "gray", "only_y") | {"c": np.zeros((8, 5), np.uint8)}
    write_pairs(tmp_path, x, y)
    (tmp_path / "x" / "bad.npy").write_bytes(b"nothing")
    (tmp_path / "y" / "bad.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError) as caught:
        PairedFolder(tmp_path, preprocess={"scal": 2}, task="binary_segmentation", subset="trian")
    assert isinstance(caught.value, ConfigError)
    text = str(caught.value)
    for part in (
        'scale, mean, std, dtype as key. Did you mean "scale"?',
        "subset: expected one of all, train, val, got 'trian'. Did you mean \"train\"?",
        f"got none for {tmp_path / 'x' / 'only_x.npy'}. Add the missing files",
        f"got none for {tmp_path / 'y' / 'only_y.npy'}. Add the missing files",
        "bad.npy: expected a readable .npy file",
        "c.npy (8 x 5, its picture 8 x 6)",
        "expected pictures of equal channels, got 3 in 3 files, but 1 in",
    ):
        assert part in text
    assert len(caught.value.problems) == 7


def test_equal_counts_with_other_names_are_noticed(tmp_path):
    write_pairs(tmp_path, pictures("a", "b"), masks("a", "c"))
    with pytest.raises(ConfigError, match=r"none for .*b\.npy(.|\n)*none for .*c\.npy"):
        PairedFolder(tmp_path)


def test_of_many_files_ten_are_named(tmp_path):
    stems = [f"s{i:02d}" for i in range(14)]
    write_pairs(tmp_path / "a", pictures(*stems), masks("s00"))
    with pytest.raises(ConfigError, match=r"s01\.npy, .*s10\.npy and 3 more\. Add") as caught:
        PairedFolder(tmp_path / "a")
    assert "s11" not in str(caught.value)
    write_pairs(tmp_path / "b", pictures(*stems), masks(*stems))
    for path in (tmp_path / "b" / "x").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ConfigError, match="and 4 more files like these") as caught:
        PairedFolder(tmp_path / "b")
    assert len(caught.value.problems) == 11


def test_missing_empty_and_doubtful_folders(tmp_path):
    with pytest.raises(ConfigError, match="image and label, got no such folder"):
        PairedFolder(tmp_path / "gone")
    with pytest.raises(ConfigError, match="image and label, got neither"):
        PairedFolder(tmp_path)
    write_pairs(tmp_path, pictures("a"), {})
    with pytest.raises(ConfigError, match=r"/y: expected files .*, got none"):
        PairedFolder(tmp_path)
    (tmp_path / "y").rmdir()
    with pytest.raises(ConfigError, match="/y: expected a folder, got none"):
        PairedFolder(tmp_path)
    (tmp_path / "image").mkdir()
    with pytest.raises(ConfigError, match="image and label, got both"):
        PairedFolder(tmp_path)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"task": "multiclass"}, 'task: .* Did you mean "multiclass_segmentation"?'),
        ({"transform": [no_change, 3]}, "transform: expected functions"),
        ({"subset": "val"}, r'holdout: expected one with .* got \(\) with "val"'),
        ({"subset": "train"}, r'holdout: expected one with .* got \(\) with "train"'),
        ({"holdout": ["a"]}, 'holdout: expected one with .* with "all"'),
        ({"subset": "val", "holdout": "a"}, "holdout: expected a list .* got 'a'"),
        ({"subset": "val", "holdout": [1]}, r"holdout: expected a list .* as text, .* got \[1\]"),
        ({"subset": "val", "holdout": 1.5}, "a share between 0 and 1, got 1.5"),
        ({"subset": "val", "holdout": True}, "a share between 0 and 1, got True"),
        ({"subset": "val", "holdout": ["a", "z"]}, "holdout: expected names of files .* got z"),
        ({"subset": "val", "fold": [2, 2]}, r"fold: expected .* got \[2, 2\]"),
        ({"subset": "val", "holdout": 0.5, "seed": "a"}, "seed: expected a whole number, got 'a'"),
        ({"image_name": "img"}, r"/x: expected a name with one \*, got \"img\""),
        ({"subset": "val", "holdout": ["a", "b"]}, "both sides, got 2 of 2 held out"),
        ({"subset": "train", "fold": (2, 3)}, r"both sides, got 0 of 2 held out by fold \(2, 3\)"),
        ({"label_values": {0: 0, 255: 2}}, "numbers on disk with 0, 1 or 255 each"),
        ({"label_values": {"0": 0}}, "label_values: expected numbers on disk"),
        ({"label_values": {}}, "label_values: expected numbers on disk"),
        (
            {"label_values": {0: -1}, "task": "multiclass_segmentation"},
            "class numbers from 0 each",
        ),
        ({"label_values": {0: 0}, "task": "regression"}, "expected none for regression"),
        ({"preprocess": {"mean": [1, 2]}}, r"a\.npy: .*one for each of 3 channels, got 2"),
    ],
)
def test_wrong_options_are_described(tmp_path, options, problem):
    write_pairs(tmp_path, pictures("a", "b"), masks("a", "b"))
    with pytest.raises(ConfigError, match=problem):
        PairedFolder(tmp_path, **options)


@pytest.mark.parametrize("task", ["binary_segmentation", "multiclass_segmentation"])
def test_coloured_masks_are_refused(tmp_path, task):
    write_pairs(tmp_path, pictures("a"), pictures("a"))
    with pytest.raises(
        ConfigError, match=rf"masks of one channel for {task}, got more in .*a\.npy"
    ):
        PairedFolder(tmp_path, task=task)


@pytest.mark.parametrize("task", ["multilabel_segmentation", "regression"])
def test_masks_must_have_equal_channels(tmp_path, task):
    y = {"a": np.zeros((8, 6, 2)), "b": np.zeros((8, 6, 3)), "c": np.zeros((8, 6, 2))}
    write_pairs(tmp_path, pictures("a", "b", "c"), y)
    with pytest.raises(ConfigError, match=r"masks of equal channels, got 2 in 2 .* 3 in .*b\.npy"):
        PairedFolder(tmp_path, task=task)


def test_gray_and_colour_may_mix_when_they_are_converted(tmp_path):
    x = pictures("a") | {"b": pictures("b", shape=(8, 6))["b"]}
    write_pairs(tmp_path, x, masks("a", "b"))
    dataset = PairedFolder(tmp_path, preprocess={"channels": "rgb"})
    assert [tuple(x.shape) for x, _ in dataset] == [(3, 8, 6)] * 2


# ------------------------------------------------------------------------------- memory


def test_arrays_give_samples_and_whole_batches():
    x, y = np.arange(24, dtype="float32").reshape(6, 4), torch.arange(6)
    dataset = Arrays(x, y)
    assert dataset.deterministic and dataset.collated and len(dataset) == 6
    assert dataset[4][0].tolist() == x[4].tolist() and dataset[4][1] == 4
    batch_x, batch_y = dataset.__getitems__([5, 0, 5])
    assert torch.equal(batch_x, torch.from_numpy(x[[5, 0, 5]])) and batch_y.tolist() == [5, 0, 5]


def test_arrays_with_a_transform_are_neither_deterministic_nor_collated():
    dataset = Arrays(torch.zeros(6, 4), torch.arange(6), transform=plus_noise)
    assert not dataset.deterministic and not dataset.collated
    torch.manual_seed(0)
    assert dataset[0][0][0] != dataset[0][0][0]
    batch_x, batch_y = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch_x.shape == (3, 4) and batch_y.tolist() == [0, 1, 2]


def test_pictures_alone_come_with_their_names(tmp_path):
    for name, array in pictures("b", "a").items():
        write_array(tmp_path / f"{name}_x.npy", array)
    (tmp_path / "deep").mkdir()
    write_array(tmp_path / "deep" / "a_x.png", pictures("a")["a"])
    (tmp_path / "deep" / "notes.json").touch()
    dataset = InputFolder(tmp_path, {"scale": 0.5}, name="*_x")
    assert dataset.names == ["a", "b", "deep/a"] and len(dataset) == 3
    batches = load(dataset)
    assert [list(batch.y) for batch in batches] == [["a", "b"], ["deep/a"]]
    expected = Preprocess({"scale": 0.5})(pictures("a")["a"])
    assert torch.equal(batches[1].x[0], expected)
    for folder, options in ((tmp_path / "gone", {}), (tmp_path, {"preprocess": {"scal": 1}})):
        with pytest.raises(ConfigError, match='expected a folder|Did you mean "scale"'):
            InputFolder(folder, **options)


def test_arrays_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="as many x as y, got 3 and 2"):
        Arrays(np.zeros((3, 1)), np.zeros(2))


# --------------------------------------------------------------------- arrays in a notebook


@pytest.mark.parametrize("bands", [(), (3,)])
@pytest.mark.parametrize("transform", [None, no_change])
def test_arrays_give_what_the_same_files_give(tmp_path, bands, transform):
    x, y = pictures("a", "b", shape=(8, 6, *bands)), masks("a", "b", n=5)
    write_pairs(tmp_path, x, y)
    options = {
        "task": "multiclass_segmentation",
        "preprocess": {"scale": 1 / 255, "mean": 0.4, "size": [4, 3]},
        "label_values": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
        "transform": transform,
    }
    (expected,) = load(PairedFolder(tmp_path, **options))
    for many in (list, np.stack):
        data = from_arrays(many(list(x.values())), many(list(y.values())), **options)
        (batch,) = load(data)
        assert torch.equal(batch.x, expected.x) and torch.equal(batch.y, expected.y)
        assert data.collated == (transform is None)


def test_rows_of_numbers_serve_as_x():
    x, y = np.arange(6.0).reshape(3, 2), [2, 0, 1]
    data = from_arrays(x, y, "multiclass", preprocess={"scale": 2, "mean": [1, 0]})
    assert data.x.dtype == torch.float32 and data.x.tolist() == [[-1, 2], [3, 6], [7, 10]]
    assert data.y.tolist() == [2, 0, 1] and data.y.dtype == torch.int64
    assert from_arrays(x, [0.5, 1, 2], "regression").y.shape == (3, 1)
    assert from_arrays(np.zeros((3, 4, 4)), [1, 0, 1], "binary").x.shape == (3, 1, 4, 4)


def test_maps_of_a_regression_are_channels_first():
    y = np.arange(24.0).reshape(1, 2, 4, 3)
    data = from_arrays(np.zeros((1, 2, 4)), y, "regression")
    assert torch.equal(data.y, torch.from_numpy(y).permute(0, 3, 1, 2).float())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (([1, 2], [0, 1], "multiclass"), r"x: expected pictures .* got shape \(2,\)"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), "binary_segmentation"), "x: expected pictures"),
        ((np.zeros((2, 3)), [0, 1], "multiclas"), 'task: .* Did you mean "multiclass"'),
        ((torch.zeros(2, 3), [0, 1], "multiclass"), "x: expected numpy arrays, .* got a tensor"),
        (([[1, 2], [3]], [0, 1], "multiclass"), "x: expected arrays of equal shape"),
        ((np.zeros((2, 3)), [0, 1, 1], "multiclass"), "as many x as y, got 2 and 3"),
        ((np.zeros((2, 3, 4)), np.zeros((2, 4, 3)), "regression"), r"of x, got shape \(2, 4, 3\)"),
        ((np.zeros((2, 4, 4)), np.full((2, 4, 4), 7), "binary_segmentation"), r"y\[0\]: .* got 7"),
        ((np.zeros((2, 3)), [0, -1], "multiclass"), "y: target: expected numbers from 0"),
        ((np.zeros((2, 3)), [0, 1], "multiclass", None, 3), "transform: expected functions"),
    ],
)
def test_arrays_that_do_not_fit_are_described(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        from_arrays(*arguments)


# ----------------------------------------------------------------------------- rows of tables

TABLE = "id,size,weight,kind\nq,1,10,cat\nr,2,20,dog\ns,3,30,cat\nt,4,40,eel\n"


@pytest.fixture
def table(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    return tmp_path / "t.csv"


def test_rows_are_samples(table):
    columns = ["weight", "size"]
    rows = TableRows(table, "kind", columns=columns, preprocess={"mean": [20, 2], "std": [10, 1]})
    assert rows.columns == columns and rows.classes == ["cat", "dog", "eel"]
    assert rows.x.tolist() == [[-1, -1], [0, 0], [1, 1], [2, 2]] and rows.y.tolist() == [0, 1, 0, 2]
    assert (rows.x.dtype, rows.y.dtype, rows.collated) == (torch.float32, torch.int64, True)
    batch = load(rows, batch_size=3)[0]
    assert batch.x.shape == (3, 2) and batch.y.tolist() == [0, 1, 0]
    named = TableRows(table, "kind", columns=columns, classes=["eel", "dog", "cat"])
    assert named.y.tolist() == [2, 1, 2, 0] and named.x.tolist()[0] == [10, 1]


def test_rows_of_every_task(table, tmp_path):
    numbers = tmp_path / "n.txt"
    np.savetxt(numbers, [[1, 0, 1, 0.5], [2, 1, 1, 1.5]])
    assert TableRows(numbers, "1", "binary", columns=["0"]).y.tolist() == [[0], [1]]
    rows = TableRows(numbers, ["1", "2"], "multilabel")
    assert rows.columns == ["0", "3"] and rows.y.tolist() == [[0, 1], [1, 1]]
    assert TableRows(numbers, "3", "regression").y.tolist() == [[0.5], [1.5]]
    assert TableRows(numbers, 0, "embedding", columns=[3]).x.tolist() == [[0.5], [1.5]]
    rows = TableRows(table, None, columns=["size"])  # for prediction
    assert rows.x.tolist() == [[1], [2], [3], [4]] and rows.y.tolist() == [0, 1, 2, 3]
    np.save(tmp_path / "n.npy", np.loadtxt(numbers))
    assert torch.equal(TableRows(tmp_path / "n.npy", "0").x, TableRows(numbers, "0").x)


def test_rows_are_split_and_classes_are_those_of_the_whole_file(table):
    options = {"columns": ["size"], "target": "kind"}
    val = TableRows(table, subset="val", holdout=["3"], **options)
    train = TableRows(table, subset="train", holdout=["3"], **options)
    assert val.x.tolist() == [[4]] and val.y.tolist() == [2]
    assert train.x.tolist() == [[1], [2], [3]] and train.classes == ["cat", "dog", "eel"]
    folds = [TableRows(table, subset="val", fold=(i, 2), seed=3, **options) for i in (0, 1)]
    assert sorted(torch.cat([fold.x for fold in folds]).flatten().tolist()) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        (TABLE, {"target": "kid"}, 'one of the columns id, .*, got "kid". Did you mean "kind"'),
        (TABLE, {"columns": ["siz"]}, 'got "siz". Did you mean "size"'),
        (TABLE, {}, "numbers in the columns of x, got text in id. Name the columns"),
        (TABLE, {"columns": []}, "expected columns beside the target, got none"),
        (TABLE, {"columns": ["size", "kind"]}, "beside the target, got kind"),
        (TABLE, {"columns": ["size"], "target": ["weight", "kind"]}, "got text in kind"),
        (TABLE, {"columns": ["size"], "task": "regression"}, 't.csv, "kind": expected numbers'),
        (TABLE, {"columns": ["size"], "task": "map"}, "task: expected one of binary,"),
        (TABLE, {"columns": ["size"], "classes": ["cat"]}, "one of cat, got dog, eel"),
        (TABLE, {"columns": ["size"], "preprocess": {"size": [1, 1]}}, "scale, mean and std alone"),
        (TABLE, {"columns": ["size"], "subset": "val", "holdout": ["9"]}, "names of rows of .* 9"),
        (TABLE, {"columns": ["size"], "transform": 3}, "transform: expected functions"),
        ("size,kind\n1,cat\n,dog\n3,\n", {}, r'none in "kind" \(its row 3\), "size" \(its row 2'),
        ("size,kind\n1\n", {}, "1 cells in row 2 and 2 in the first"),
    ],
)
def test_rows_that_do_not_fit_are_described(tmp_path, text, options, problem):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=problem):
        TableRows(tmp_path / "t.csv", **({"target": "kind"} | options))


def test_digits_are_real_split_and_scaled():
    train, val = Digits("train"), Digits("val")
    assert (len(train), len(val)) == (1437, 360)
    for dataset in (train, val):
        x, y = dataset[0]
        assert (x.shape, x.dtype, y.dtype, y.shape) == ((1, 8, 8), torch.float32, torch.int64, ())
        assert dataset.x.min() == 0 and dataset.x.max() == 1
        assert dataset.y.unique().tolist() == list(range(10))
    both = torch.cat([train.x, val.x]).flatten(1)
    assert len(both.unique(dim=0)) == len(both)  # no picture is on both sides
    raw = Digits("val", preprocess={})
    assert torch.equal(raw.x / 16, val.x) and raw.preprocess.config == {}
    assert val.preprocess.config == Digits.PREPROCESS == {"scale": 1 / 16}


def test_digits_need_a_known_subset():
    with pytest.raises(ValueError, match="got 'vla'. Did you mean \"val\"?"):
        Digits("vla")


def test_digits_without_their_package_name_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        ImportError, match="scikit-learn to be installed, got none. Run `make env-dev`"
    ):
        Digits()


# -------------------------------------------------------------------------------- all


def check_in_other_process(data):
    dataset, expected = pickle.loads(data)
    assert torch.equal(dataset[1][0], expected)
    return True


def test_datasets_travel_to_spawned_workers(tmp_path):
    write_pairs(tmp_path, pictures("a", "b", "c"), masks("a", "b", "c"))
    crop = functools.partial(random_crop, size_px=8)
    datasets = [
        PairedFolder(
            tmp_path,
            preprocess={"scale": 0.1, "size": [8, 8]},
            transform=[crop],
            subset="train",
            holdout=["a"],
            label_values={0: 0, 1: 1},
        ),
        Arrays(torch.ones(3, 2), torch.zeros(3)),
        Digits("val"),
        utils.data.SyntheticScenes(3, size_px=16),
    ]
    payloads = [pickle.dumps((dataset, dataset[1][0].clone())) for dataset in datasets]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(check_in_other_process, payloads) == [True] * 4


def test_reading_draws_no_random_numbers(tmp_path):
    write_pairs(tmp_path, pictures("a"), masks("a"))
    datasets = [PairedFolder(tmp_path), Arrays(torch.ones(3, 2), torch.zeros(3)), Digits("val")]
    datasets.append(utils.data.SyntheticScenes(1, size_px=16))
    for dataset in datasets:
        assert dataset.deterministic
        states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        dataset[0]
        assert torch.equal(states[0], torch.get_rng_state())
        assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_the_package_exports_its_classes_and_nothing_else():
    for name in utils.data.__all__:
        assert getattr(utils.data, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = utils.data.Nothing
