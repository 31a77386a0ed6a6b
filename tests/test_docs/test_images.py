"""The page "Classify pictures": every code block of it runs."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import predict
import train
from config.codec import decode_config
from tests.test_docs.blocks import read_blocks
from tests.test_utils.test_data.test_vision import cifar, pets  # noqa: F401, fixtures

BLOCKS = read_blocks("images.rst", "python")
CONFIG, SPLIT, TABLE, LABELS, FACES, TORCHVISION, PETS, RECIPE, CACHE = BLOCKS
FOLDERS, TABLES, COLUMNS, IDENTITIES = read_blocks("images.rst", "text")
SMALL = [
    *("EPOCHS=1", "NUM_THREADS=1", "PROGRESS=False", "DEVICE=cpu"),
    *("MODEL_CONFIG.name=mobilenet_v3_small", "DATA_LOADER_CONFIG.num_workers=0"),
    *("PREPROCESS.short_side=36", "PREPROCESS.crop=[32, 32]"),
]


def draw(path, size=(40, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_pets(folder, widths=(50, 51)):
    """Make the files of the first layout."""
    for part, n in (("train", 5), ("val", 3)):
        for name in ("cat", "dog"):
            for i in range(1, n):
                draw(folder / part / name / f"{i}.jpg", (40, widths[i % 2]))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(config, here, *overrides):
    """Train a config on the pets; return the folder of logs and the weights."""
    out = [f"{name}={here / name}" for name in ("LOG_DIR", "WEIGHT_DIR")]
    command = [str(config), f"DATA_DIR={here / 'my/pets'}", *SMALL, *overrides, *out]
    assert train.main(command) == 0
    (log_dir,) = (here / "LOG_DIR").glob("*/")
    return log_dir, here / "WEIGHT_DIR" / log_dir.name / "best.pth"


def test_a_folder_for_each_class(here):
    write_pets(here / "my" / "pets")
    for line in FOLDERS.use().splitlines():
        assert (here / line.split()[0].split("...")[0].lstrip("/")).exists()
    log_dir, weights = run(CONFIG.write(here / "mine.py"), here)
    config = decode_config((log_dir / "config.yaml").read_text(encoding="utf-8"))
    assert config["CLASSES"] == ["cat", "dog"] and config["MODEL_CONFIG"]["num_classes"] == 2
    picture = here / "my" / "pets" / "val" / "cat" / "1.jpg"
    arguments = ["-i", str(picture), "-o", "out", "--weights", str(weights), "DEVICE=cpu"]
    assert predict.main(arguments) == 0


def test_the_lines_of_datasets_may_be_left_out(here):
    write_pets(here / "my" / "pets")
    kept = [line for line in CONFIG.splitlines() if "_DATASET" not in line]
    assert len(kept) == len(CONFIG.splitlines()) - 4
    (here / "mine.py").write_text("\n".join(kept))
    run(here / "mine.py", here, "TASK=binary")


def test_splits(here):
    write_pets(here, (50, 50))
    shutil.move("train", "pets")
    names = SPLIT.run()
    assert names["train"].classes == ["cat", "dog"]
    assert sorted(name for fold in names["folds"] for name in fold.names) == sorted(
        names["train"].names + names["val"].names
    )


def test_a_table_of_pictures(here):
    for part in ("train", "test"):
        lines = ["image_path,label"]
        for i, label in ((1, "cat"), (2, "dog")):
            draw(here / "train_dataset" / "images" / part / f"{i}.jpg")
            lines.append(f"{i}.jpg,{label}")
        (here / "train_dataset" / f"{part}_metadata.csv").write_text("\n".join(lines))
        assert all(line in TABLES.use() for line in lines)
    names = TABLE.run()
    assert names["train"].classes == ["cat", "dog"] and names["test"].labels == [0, 1]
    assert {file.parent.name for file in names["test"].files} == {"test"}


def test_several_labels(here):
    for i in (1, 2):
        draw(here / "photos" / f"{i}.jpg")
    (here / "labels.csv").write_text(COLUMNS.use())
    names = LABELS.run()
    assert names["y"].tolist() == [1, 1, 0] and names["labels"].classes[0] == "indoors"


def test_identities(here):
    places = [line.split("/")[3] for line in IDENTITIES.use().splitlines()]
    assert places == ["train", "base", "val"]
    for part in places:
        for name in ("ann", "bob"):
            draw(here / "faces" / part / name / "1.jpg")
    names = FACES.run()
    assert names["val"].names == ["base/ann/1", "base/bob/1", "val/ann/1", "val/bob/1"]
    assert names["y"]["gallery"] and names["y"]["label"].dtype == torch.int64


def test_data_sets_of_torchvision(cifar, monkeypatch):  # noqa: F811
    shutil.move(cifar, cifar.parent / "cifar10")
    monkeypatch.chdir(cifar.parent)
    names = TORCHVISION.run()
    assert names["x"].shape == (3, 32, 32) and 0 < len(names["held_out"]) < 5


def test_targets_of_the_pets(pets, monkeypatch):  # noqa: F811
    monkeypatch.chdir(pets.parent)
    names = PETS.run()
    assert names["breeds"].classes == ["Birman", "Beagle"]
    assert names["cat_or_dog"].classes == ["Cat", "Dog"]
    x, y = names["outlines"][0]
    assert x.shape == (3, 128, 128) and set(y.unique().tolist()) == {0, 1, 255}


def test_the_recipe_of_torchvision(here):
    pytest.importorskip("torchvision")
    write_pets(here)
    shutil.move("train", "pets")
    names = RECIPE.run()
    for part in ("train", "val"):
        assert names[part][0][0].shape == (3, 224, 224)


def test_a_cache(here):
    write_pets(here, (50, 50))
    shutil.move("train", "pets")
    train = CACHE.run()["train"]
    assert len(list((here / "pets" / ".cache").glob("*.bin"))) == 1 and len(train) == 8
