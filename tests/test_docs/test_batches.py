"""The page "Batches": its dataset, in the configs that it speaks of."""

import collections

import numpy as np
import pytest
import torch
from PIL import Image

from config.config import ROOT_PATH
from tests.test_docs.blocks import read_blocks
from utils.data.loading import make_loader

PAGE = (ROOT_PATH / "docs" / "batches.rst").read_text(encoding="utf-8")
DATASET, *CONFIGS = read_blocks("batches.rst", "python")


@pytest.fixture
def photos(tmp_path):
    """The dataset of the page, on twelve pictures of three classes."""
    rng = np.random.default_rng(0)
    for name, n in (("cat", 8), ("dog", 3), ("owl", 1)):
        (tmp_path / name).mkdir()
        for i in range(n):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.jpg")
    return DATASET.run()["Photos"](tmp_path, {"scale": 1 / 255})


def classes_of(dataset, **options):
    loader = make_loader(dataset, options, 0, torch.device("cpu"), train=True)
    return [collections.Counter(batch.y.tolist()) for batch in loader]


def test_photos_have_classes_and_labels(photos):
    assert photos.classes == ["cat", "dog", "owl"] and len(photos) == 12
    assert collections.Counter(photos.labels) == {0: 8, 1: 3, 2: 1}


def test_the_options_of_the_page(photos):
    assert "DATA_LOADER_CONFIG.balanced=True" in PAGE and "DATA_LOADER_CONFIG.per_class=4" in PAGE
    (epoch,) = classes_of(photos, batch_size=12, balanced=True)
    assert epoch == {0: 4, 1: 4, 2: 4}
    batches = classes_of(photos, batch_size=4, per_class=2)
    assert [set(batch.values()) for batch in batches] == [{2}] * 3


@pytest.mark.parametrize("block", CONFIGS)
def test_the_configs_of_the_page_train(block, tmp_path):
    import train

    config = block.write(tmp_path / "mine.py")
    out = [f"{name}={tmp_path / name}" for name in ("LOG_DIR", "WEIGHT_DIR")]
    small = ["EPOCHS=1", "NUM_THREADS=1", "PROGRESS=False", "DEVICE=cpu", "CURVES=False"]
    assert train.main([str(config), *small, *out]) == 0
