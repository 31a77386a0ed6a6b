"""Small data sets in the form that real ones have on disk, drawn from a seed."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
from PIL import Image


def make_draw():
    return np.random.default_rng(0)


def write_slices(folder):
    """Write slices and labels with the names and the values of experiments/membrane.py."""
    draw = make_draw()
    for name in ("image", "label"):
        (folder / name).mkdir(parents=True)
    for stem in ("0", "1", "2", "5", "11", "17", "23", "29"):
        cells = np.kron(draw.random((16, 16)) < 0.8, np.ones((17, 17), bool))  # (272, 272)
        image = np.where(cells, 160, 60) + draw.integers(-20, 20, cells.shape)
        Image.fromarray(image.astype(np.uint8)).save(folder / "image" / f"{stem}.png")
        Image.fromarray(np.where(cells, 255, 0).astype(np.uint8)).save(
            folder / "label" / f"{stem}.png"
        )


def write_tables(folder, columns, label):
    """Write pictures of different sizes and the tables of training and test beside them."""
    draw = make_draw()
    for part, n in (("train", 20), ("test", 4)):
        (folder / "images" / part).mkdir(parents=True)
        lines = [f"image_path,{columns}"]
        for i in range(n):
            values = draw.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)
            Image.fromarray(values).save(folder / "images" / part / f"{i}.jpg")
            lines.append(f"{i}.jpg,{label(i)}")
        (folder / f"{part}_metadata.csv").write_text("\n".join(lines))


def write_class_folders(folder, parts=("train", "val"), classes=("ant", "bee", "cat"), n=6):
    """Write n pictures of different sizes for each class of each part."""
    draw = make_draw()
    for part in parts:
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for i in range(n):
                values = draw.integers(0, 256, (40 + i, 48, 3), dtype=np.uint8)
                Image.fromarray(values).save(folder / part / name / f"{i}.JPEG")


def write_cifar(folder, n=8):
    """Write CIFAR-10 of n pictures a file.

    Returns:
        The attributes of torchvision's class that hold the check sums of the real files.
    """
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    draw = make_draw()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def write_batch(name):
        data = draw.integers(0, 256, (n, 3072), dtype=np.uint8)
        return write(name, {"data": data, "labels": draw.integers(0, 10, n).tolist()})

    words = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    name, md5 = write("batches.meta", {"label_names": words})
    return {
        "train_list": [write_batch(f"data_batch_{i}") for i in range(1, 6)],
        "test_list": [write_batch("test_batch")],
        "meta": {"filename": name, "key": "label_names", "md5": md5},
    }


def write_mnist(folder, n_train=150, n_test=4):
    """Write MNIST of so many pictures."""
    draw = make_draw()
    folder = folder / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, n in (("train", n_train), ("t10k", n_test)):
        images = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = draw.integers(0, 10, n, dtype=np.uint8)
        for kind, magic, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
            header = struct.pack(f">{1 + array.ndim}i", magic, *array.shape)
            content = header + array.tobytes()
            (folder / f"{part}-{kind}-ubyte").write_bytes(content)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))


def write_pets(folder, n=20, n_test=4):
    """Write Oxford-IIIT Pet of two breeds, pictures of different sizes with masks of 1, 2 and 3."""
    folder = folder / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    lines = {"trainval": [], "test": []}
    for i in range(n):
        # name, number of the breed, 1 for cats and 2 for dogs
        breed, label, species = (("Birman", 1, 1), ("beagle", 2, 2))[i % 2]
        picture = np.full((40 + i, 44, 3), 10 * i, np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{breed}_{i}.jpg")
        mask = np.full(picture.shape[:2], 2, np.uint8)
        mask[5:19], mask[19:22] = 1, 3
        Image.fromarray(mask).save(folder / "annotations" / "trimaps" / f"{breed}_{i}.png")
        part = "test" if i >= n - n_test else "trainval"
        lines[part].append(f"{breed}_{i} {label} {species} {i}")
    for part, rows in lines.items():
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(rows))
