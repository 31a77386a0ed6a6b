"""The page "Datasets": every code block of it runs."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from config.config import global_config
from tests.test_docs.blocks import Block, read_blocks
from utils.data.loading import make_loader

BLOCKS = read_blocks("datasets.rst", "python")
CONFIGS = [block for block in BLOCKS if "\ntrain_config = {" in block]
OTHERS = [block for block in BLOCKS if block not in CONFIGS]
SMALL = ["EPOCHS=1", "NUM_THREADS=1", "PROGRESS=False", "DEVICE=cpu"]
SMALL_UNET = ["MODEL_CONFIG.bulk_ch=2", "MODEL_CONFIG.n_recursions=1"]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array.astype(np.uint8)).save(path)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """What the page says that its reader has; the current folder."""
    rng = np.random.default_rng(0)
    for i in range(10):
        name = f"img_{i}" if i else "berlin/3"
        size = (40 + i, 48)
        save(tmp_path / f"images/{name}.jpg", rng.integers(0, 256, (*size, 3)))
        save(tmp_path / f"masks/{name}_mask.png", rng.integers(0, 2, size) * 255)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_folder(root, x, y, names):
    for i, name in enumerate(names):
        save(root / "x" / f"{name}.npy", x[i])
        save(root / "y" / f"{name}.npy", y[i])


def train(config, folder, *overrides):
    """Train a file or a block as the page says; return the table of metrics."""
    import train as command

    if isinstance(config, Block):
        config = config.write(folder / "mine.py")
    out = [f"{name}={folder / name}" for name in ("LOG_DIR", "WEIGHT_DIR")]
    assert command.main([str(config), f"DATA_DIR={folder}", *SMALL, *overrides, *out]) == 0
    (table,) = folder.glob("LOG_DIR/*/metrics.csv")
    return table.read_text().splitlines()


def block_of(word, blocks=None):
    """Return the one block that holds a word."""
    (block,) = [block for block in (OTHERS if blocks is None else blocks) if word in block]
    return block


def test_folders_and_masks_of_any_name(data):
    header, _ = train(block_of("mask_name", CONFIGS), data, *SMALL_UNET)
    assert header.startswith("epoch,step,lr,train_loss,val_loss,val_f1")


def test_four_bands_and_five_classes(data):
    rng = np.random.default_rng(1)
    for part in ("train", "val"):
        x = rng.normal(size=(4, 16, 16, 4)).astype(np.float32)
        write_folder(data / part, x, rng.integers(0, 5, (4, 16, 16)), "abcd")
    header, _ = train(block_of('"wood"', CONFIGS), data, *SMALL_UNET)
    assert header.endswith("val_loss,val_iou")


def test_the_layout_needs_no_config(data):
    rng = np.random.default_rng(1)
    (layout,) = read_blocks("datasets.rst", "text")
    names = re.findall(r"\S+\.png", layout.use().splitlines()[0].removeprefix("data/train/x/"))
    folders = re.findall(r"data/(\w+/[xy])/", layout)
    assert names == ["1.png", "2.png", "berlin/3.png"]
    assert folders == ["train/x", "train/y", "val/x", "val/y"]
    for folder in folders:
        for name in names:
            shape, values = ((16, 16, 3), 256) if folder.endswith("x") else ((16, 16), 2)
            save(data / folder / name, rng.integers(0, values, shape))
    (data / "mine.py").write_text(
        "from experiments.scenes import train_config as scenes\n"
        "train_config = {k: v for k, v in scenes.items() if '_DATASET' not in k}\n"
    )
    task = ["TASK=binary_segmentation", "CLASSES=['water']", "MODEL_CONFIG.ch_in=3"]
    assert len(train(data / "mine.py", data, *task, "MODEL_CONFIG.ch_out=1", *SMALL_UNET)) == 2


def test_colours(data):
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255), (255, 255, 255)], np.uint8)
    save(data / "coloured/x/a.png", np.zeros((4, 6, 3), np.uint8))
    save(data / "coloured/y/a.png", colours[np.arange(24).reshape(4, 6) % 4])
    names = block_of("coloured").run()
    expected = torch.tensor([0, 1, 2, 255])[torch.arange(24).reshape(4, 6) % 4]
    assert torch.equal(names["y"], expected) and names["x"].shape == (3, 4, 6)


@pytest.fixture
def folder(data):
    """A folder train with ten pictures of three channels and masks of 0 and 1."""
    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, (10, 40, 40, 3), dtype=np.uint8)
    names = [*map(str, range(8)), "berlin/3", "berlin/4"]
    write_folder(data / "train", x, (x[..., 0] > 99).astype(np.uint8), names)
    return data


def test_splits(folder):
    folds = block_of("folds = ").run()["folds"]
    assert sorted(name for fold in folds for name in fold.names) == sorted(
        [*map(str, range(8)), "berlin/3", "berlin/4"]
    )
    assert {len(fold) for fold in folds} == {2}


def load(dataset):
    return next(iter(make_loader(dataset, {"batch_size": 4}, 0, torch.device("cpu"), True)))


def test_functions_as_transforms(folder):
    batch = load(block_of("noise").run()["dataset"])
    assert batch.x.shape == (4, 3, 32, 32) and batch.y.shape == (4, 1, 32, 32)
    assert not torch.equal(batch.x, batch.x.round())


def test_transforms_of_torchvision(folder):
    pytest.importorskip("torchvision")
    dataset = block_of("v2.RandomAffine").run()["dataset"]
    batch = load(dataset)
    assert len(dataset) == 40 and batch.x.min() >= -2 and batch.x.max() <= 2
    assert set(batch.y.unique().tolist()) == {0, 1}


@pytest.fixture
def flowers(data):
    rng = np.random.default_rng(3)
    rows = [
        f"{5.8 + kind + 0.1 * rng.normal():.2f},{3 - kind},{['iris', 'rose'][kind]}"
        for kind in rng.integers(0, 2, 40)
    ]
    (data / "flowers.csv").write_text("length,width,kind\n" + "\n".join(rows))
    return data


def test_rows_of_a_table(flowers):
    names = block_of("rows = ").run()
    assert names["rows"].columns == ["length", "width"] and names["rows"].classes == [
        "iris",
        "rose",
    ]
    assert len(names["mean"]) == len(names["std"]) == 2
    header, _ = train(block_of("TableRows", CONFIGS), flowers)
    assert header.endswith("val_loss,val_accuracy")


def test_arrays_in_a_notebook(data, monkeypatch):
    for name in ("LOG_DIR", "WEIGHT_DIR"):
        monkeypatch.setitem(global_config, name, data / name)
    block = block_of("from_arrays").replace('"ch_out": 1}', '"ch_out": 1, "bulk_ch": 2}')
    result = block.run()["result"]
    assert result["status"] == "done" and result["epochs"] == 1


def test_pictures_without_masks(data):
    names = block_of("InputFolder").run()
    assert names["name"] == "berlin/3" and names["x"].shape == (3, 40, 48)
    assert names["x"].max() <= 1


def test_a_dataset_of_your_own(data):
    (data / "tiles").mkdir()
    (data / "tiles" / "houses.csv").write_text("place,houses\na,3\nb,0\nc,1\nd,2\n")
    for when in ("before", "after"):
        for place in "abcd":
            save(data / "tiles" / when / f"{place}.npy", np.full((4, 4, 2), ord(place)))
    batch = load(block_of("class Tiles").run()["tiles"])
    assert batch.x["after"].shape == (4, 2, 4, 4) and batch.y.shape == (4, 1)
    assert sorted(batch.y.flatten().tolist()) == [0, 1, 2, 3]
