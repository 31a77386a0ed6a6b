"""Data sets of torchvision, from small ones in the form that the real ones have on disk."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from config.errors import ConfigError
from utils.data import Preprocess, TorchvisionDataset
from utils.data.loading import make_loader

datasets = pytest.importorskip("torchvision.datasets")

PREPROCESS = {"scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": 0.25}


def load(dataset, **config):
    loader = make_loader(dataset, {"batch_size": 3, **config}, 0, torch.device("cpu"), False)
    return list(loader)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """CIFAR-10 of 4 pictures a file, whose check sums take the place of the real ones."""
    folder = tmp_path / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def write_batch(name):
        data = draw.integers(0, 256, (4, 3072), dtype=np.uint8)
        return write(name, {"data": data, "labels": draw.integers(0, 10, 4).tolist()})

    words = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = write("batches.meta", {"label_names": words})
    lists = [[write_batch(f"data_batch_{i}") for i in range(1, 6)], [write_batch("test_batch")]]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", lists[0])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", lists[1])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": meta[1]})
    return folder.parent


@pytest.fixture
def mnist(tmp_path):
    """MNIST of 6 and 4 pictures."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "mnist" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, n in (("train", 6), ("t10k", 4)):
        images = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = draw.integers(0, 10, n, dtype=np.uint8)
        for kind, magic, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
            header = struct.pack(f">{1 + array.ndim}i", magic, *array.shape)
            content = header + array.tobytes()
            (folder / f"{part}-{kind}-ubyte").write_bytes(content)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    return tmp_path / "mnist"


@pytest.fixture
def pets(tmp_path):
    """Oxford-IIIT Pet of two breeds, pictures of different sizes with masks of 1, 2 and 3."""
    folder = tmp_path / "pets" / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    lines = {"trainval": [], "test": []}
    for i in range(8):
        breed, label = (("Birman", 1), ("beagle", 2))[i % 2]
        picture = np.full((20 + i, 24, 3), 20 * i, np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{breed}_{i}.jpg")
        mask = np.full(picture.shape[:2], 2, np.uint8)
        mask[5:9], mask[9:12] = 1, 3
        Image.fromarray(mask).save(folder / "annotations" / "trimaps" / f"{breed}_{i}.png")
        lines["test" if i > 5 else "trainval"].append(f"{breed}_{i} {label} {label} {i}")
    for part, rows in lines.items():
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(rows))
    return tmp_path / "pets"


def test_cifar_is_read_as_its_pictures_are(cifar):
    for train, n in ((True, 20), (False, 4)):
        expected = datasets.CIFAR10(cifar, train=train)
        dataset = TorchvisionDataset("CIFAR10", cifar, preprocess=PREPROCESS, train=train)
        assert len(dataset) == n and dataset.classes[3] == "cat" and dataset.collated
        assert dataset.labels == expected.targets
        for i, (x, y) in enumerate(dataset[i] for i in range(n)):
            image, target = expected[i]
            assert torch.equal(x, Preprocess(PREPROCESS)(np.asarray(image)))
            assert y.dtype == torch.int64 and y == target


@pytest.mark.parametrize(
    "preprocess",
    [None, PREPROCESS, {"channels": "gray"}, {"size": [7, 9]}, {"short_side": 20, "crop": [9, 8]}],
)
def test_a_batch_has_the_bits_of_its_samples(cifar, preprocess):
    dataset = TorchvisionDataset("CIFAR10", cifar, preprocess=preprocess)
    x, y = dataset.__getitems__([3, 0, 19])
    for i, index in enumerate((3, 0, 19)):
        assert torch.equal(x[i], dataset[index][0]) and torch.equal(y[i], dataset[index][1])
    batches = [load(dataset, num_workers=workers) for workers in (0, 2)]
    for batch, other in zip(*batches, strict=True):
        assert torch.equal(batch.x, other.x) and torch.equal(batch.y, other.y)


def test_mnist_is_gray_and_its_classes_can_be_renamed(mnist):
    digits = list("0123456789")
    dataset = TorchvisionDataset("MNIST", mnist, preprocess={"scale": 1 / 255}, classes=digits)
    assert dataset[0][0].shape == (1, 28, 28) and dataset.collated and dataset.classes == digits
    assert TorchvisionDataset("MNIST", mnist, train=False).classes[0] == "0 - zero"
    with pytest.raises(ConfigError, match=r"MNIST: expected names of 10 classes, got 2\. They are"):
        TorchvisionDataset("MNIST", mnist, classes=["a", "b"])


def test_pictures_of_a_split_are_divided(cifar):
    parts = [
        TorchvisionDataset("CIFAR10", cifar, subset=subset, holdout=0.3)
        for subset in ("train", "val")
    ]
    names = [name for part in parts for name in part.names]
    assert sorted(names, key=int) == list(map(str, range(20)))
    whole = TorchvisionDataset("CIFAR10", cifar)
    for part in parts:
        for i, name in enumerate(part.names):
            assert torch.equal(part[i][0], whole[int(name)][0])
            assert part.labels[i] == whole.labels[int(name)]


def test_pictures_are_augmented_one_by_one(cifar):
    dataset = TorchvisionDataset("CIFAR10", cifar, preprocess=PREPROCESS, transform="medium")
    assert not dataset.deterministic and not dataset.collated
    (one, *_), (other, *_) = load(dataset), load(dataset, num_workers=1)
    assert torch.equal(one.x, other.x)
    assert not torch.equal(one.x[0], TorchvisionDataset("CIFAR10", cifar)[0][0])


def test_pets_by_breed(pets):
    dataset = TorchvisionDataset("OxfordIIITPet", pets, preprocess={"size": [16, 16]})
    assert dataset.classes == ["Birman", "Beagle"] and dataset.labels == [0, 1, 0, 1, 0, 1]
    assert dataset.names[1] == "oxford-iiit-pet/images/beagle_1" and not dataset.collated
    assert dataset.files[1].name == "beagle_1.jpg"
    (first, _) = load(dataset)
    assert first.x.shape == (3, 3, 16, 16) and first.y.tolist() == [0, 1, 0]
    assert (
        len(TorchvisionDataset("OxfordIIITPet", pets, preprocess={"crop": [9, 9]}, split="test"))
        == 2
    )


def test_cats_and_dogs(pets):
    dataset = TorchvisionDataset(
        "OxfordIIITPet",
        pets,
        task="binary",
        preprocess={"short_side": 16, "crop": [16, 16]},
        target_types="binary-category",
    )
    assert dataset.classes == ["Cat", "Dog"] and dataset.labels == [0, 1, 0, 1, 0, 1]
    assert dataset[1][1].tolist() == [1.0]


def test_pets_and_their_outlines(pets):
    dataset = TorchvisionDataset(
        "OxfordIIITPet",
        pets,
        task="binary_segmentation",
        preprocess={"size": [16, 16]},
        transform="light",
        label_values={1: 1, 2: 0, 3: 255},
        target_types="segmentation",
    )
    assert dataset.classes is None and dataset.labels is None
    x, y = dataset[0]
    assert x.shape == (3, 16, 16) and y.shape == (1, 16, 16)
    assert set(y.unique().tolist()) == {0, 1, 255}


def test_pictures_that_are_made_up_and_several_labels():
    dataset = TorchvisionDataset("FakeData", ".", size=5, image_size=(3, 8, 8), num_classes=4)
    assert len(dataset) == 5 and dataset.labels is None and dataset[0][0].shape == (3, 8, 8)
    named = TorchvisionDataset("FakeData", ".", classes=["a", "b", "c", "d"], size=5)
    assert named.classes == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "CIFAR11",
            {},
            r"name: expected the name of a class .* got 'CIFAR11'\. Did you mean \"CIF",
        ),
        ("CIFAR10", {"trian": True}, r'got "trian"\. Did you mean "train"\?'),
        ("CIFAR10", {"train": "yes"}, r'\["train"\]: expected bool, got \'yes\''),
        ("CIFAR10", {"target_transform": abs}, "expected transform, a function of .* target_tran"),
        (
            "CIFAR10",
            {"download": False},
            r"CIFAR10: expected its files in .*, got: .* Set download",
        ),
        ("OxfordIIITPet", {"split": "val"}, "OxfordIIITPet: Unknown value 'val' for argument spl"),
        (
            "CIFAR10",
            {"task": "multiclas"},
            r'task: expected one of binary.*Did you mean "multiclass',
        ),
        ("CIFAR10", {"subset": "val"}, "holdout: expected one with subset"),
        ("CIFAR10", {"preprocess": {"scal": 1}}, 'Did you mean "scale"'),
        ("CIFAR10", {"transform": "lihgt"}, 'Did you mean "light"'),
    ],
)
def test_wrong_arguments_are_described(tmp_path, name, options, message):
    with pytest.raises(ConfigError, match=message):
        TorchvisionDataset(name, tmp_path, **options)


def test_a_task_that_the_targets_do_not_fit(cifar, pets):
    with pytest.raises(ConfigError, match="CIFAR10: expected targets for binary. target: expected"):
        TorchvisionDataset("CIFAR10", cifar, task="binary")
    with pytest.raises(ConfigError, match="CIFAR10: expected targets for binary_segmentation. got"):
        TorchvisionDataset("CIFAR10", cifar, task="binary_segmentation")
    with pytest.raises(ConfigError, match="OxfordIIITPet: expected targets for multiclass. got"):
        TorchvisionDataset("OxfordIIITPet", pets, target_types="segmentation")


def test_sizes_that_differ_are_told_before_training(pets):
    with pytest.raises(
        ConfigError, match=r"one size and equal channels, got \(20, 24, 3\), .*size"
    ):
        TorchvisionDataset("OxfordIIITPet", pets)


def test_no_download_is_said_with_a_way_out(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    with pytest.raises(ConfigError, match="got: no route to host. Put them there."):
        TorchvisionDataset("CIFAR10", tmp_path)
