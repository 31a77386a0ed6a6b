"""Datasets: pairs of files, arrays in memory, digits."""

import functools
import multiprocessing
import pickle
import random
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import utils.data
from config.errors import ConfigError
from utils.data import Arrays, Digits, PairedFolder, Preprocess
from utils.data.files import write_array
from utils.data.transforms import flip, random_crop


def write_pairs(root, x, y, folders=("x", "y"), suffixes=(".npy", ".npy")):
    """Write {stem: array} for both sides; return the root."""
    for folder, arrays, suffix in zip(folders, (x, y), suffixes, strict=True):
        (root / folder).mkdir(parents=True)
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


# ------------------------------------------------------------------------ pairs: holdout


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
        'expected one of channels, size, scale, mean, std, dtype as key. Did you mean "scale"?',
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
        ({"subset": "val", "holdout": ["a", "b"]}, "both sides, got 2 of 2 held out"),
        ({"subset": "train", "holdout": 1e-9}, "both sides, got 0 of 2 held out by 1e-09"),
        ({"label_values": {0: 0, 255: 2}}, "numbers on disk with 0 or 1 each"),
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


def test_arrays_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="as many x as y, got 3 and 2"):
        Arrays(np.zeros((3, 1)), np.zeros(2))


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
