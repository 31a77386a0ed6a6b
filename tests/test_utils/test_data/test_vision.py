"""Data sets of torchvision, from small ones in the form that the real ones have on disk."""

import numpy as np
import pytest
import torch

from config.errors import ConfigError
from tests import small_data
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
    for name, value in small_data.write_cifar(tmp_path / "cifar", n=4).items():
        monkeypatch.setattr(datasets.CIFAR10, name, value)
    return tmp_path / "cifar"


@pytest.fixture
def mnist(tmp_path):
    """MNIST of 6 and 4 pictures."""
    small_data.write_mnist(tmp_path / "mnist", n_train=6)
    return tmp_path / "mnist"


@pytest.fixture
def pets(tmp_path):
    """Oxford-IIIT Pet of 6 and 2 pictures."""
    small_data.write_pets(tmp_path / "pets", n=8, n_test=2)
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
        ConfigError, match=r"one size and equal channels, got \(40, 44, 3\), .*size"
    ):
        TorchvisionDataset("OxfordIIITPet", pets)


def test_no_download_is_said_with_a_way_out(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    with pytest.raises(ConfigError, match="got: no route to host. Put them there."):
        TorchvisionDataset("CIFAR10", tmp_path)
