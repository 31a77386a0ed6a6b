"""The page "Ready-made networks": its blocks make networks, its table is true."""

import re

import pytest
import torch

from benchmarks import zoo as benchmark
from config.check import check_config
from config.config import ROOT_PATH
from models import zoo
from models.zoo import CLASSIFIERS, SEGMENTERS
from tests.test_docs.blocks import read_blocks
from tests.test_models.test_zoo import hub, make, put  # noqa: F401, a fixture

torchvision = pytest.importorskip("torchvision")

PAGE = (ROOT_PATH / "docs" / "zoo.rst").read_text(encoding="utf-8")
FIRST, PRETRAINED, EMBEDDER, SEGMENTER, OTHERS, OWN = read_blocks("zoo.rst", "python")


def config_of(block):
    """Return the config that the first block makes, with the changes of another."""
    names = FIRST.run()
    return block.run(names)["train_config"] if block != FIRST else names["train_config"]


def output_of(config, ch_in, size=32):
    """Return what the model of a config gives for two pictures."""
    assert check_config(config) == []
    return config["MODEL"](**config["MODEL_CONFIG"]).eval()(torch.zeros(2, ch_in, size, size))


def test_the_first_config():
    assert output_of(config_of(FIRST), 1, 8).shape == (2, 10)


def test_pretrained_weights(hub):  # noqa: F811
    put(hub, "mobilenet_v3_small", "DEFAULT", make(zoo.classifier, "mobilenet_v3_small", 1000))
    config = config_of(PRETRAINED.replace("resnet50", "mobilenet_v3_small"))
    assert output_of(config, 3).shape == (2, 37)
    transforms = torchvision.models.ResNet50_Weights.DEFAULT.transforms()
    assert config["PREPROCESS"]["mean"] == transforms.mean
    assert config["PREPROCESS"]["std"] == transforms.std


def test_the_embedder():
    names = EMBEDDER.run()
    assert names["vectors"].shape == (2, 128)
    assert torch.allclose(names["vectors"].norm(dim=1), torch.ones(2))


def test_the_segmenter():
    assert output_of(config_of(SEGMENTER), 12).shape == (2, 1, 32, 32)
    assert all(f"``{name}``" in PAGE for name in SEGMENTERS)


@pytest.mark.slow  # timm and segmentation_models_pytorch are imported
def test_networks_of_other_packages():
    pytest.importorskip("timm")
    pytest.importorskip("segmentation_models_pytorch")
    config = config_of(OTHERS.replace('"imagenet"', "None"))
    assert output_of(config, 1).shape == (2, 10)
    segmentation = OTHERS.replace('"imagenet"', "None").run(FIRST.run())["segmentation"]
    assert output_of({**config, **segmentation}, 3).shape == (2, 1, 32, 32)


def test_other_channels_for_a_network_of_ones_own():
    assert OWN.run()["net"](torch.zeros(1, 12, 9, 9)).shape == (1, 8, 4, 4)


def read_table():
    """Return the cells of the table, a list for each network."""
    table = PAGE.partition(benchmark.BEGIN)[2].partition(benchmark.END)[0]
    head, *rows = re.split(r"\n   \* - ", table)[1:]
    assert head.split("\n     - ") == list(benchmark.HEAD)
    return [row.partition("\n\n")[0].split("\n     - ") for row in rows]


def test_the_table_holds_all_18_networks():
    rows = read_table()
    assert [name for name, *_ in rows] == [f"``{name}``" for name in CLASSIFIERS]
    assert all(len(row) == len(benchmark.HEAD) for row in rows)
    assert all("1, 3, 12" in row and "yes" in row for row in rows)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18"])
def test_the_table_gives_what_is_measured_but_for_the_times(name):
    (row,) = [cells for cells in read_table() if cells[0] == f"``{name}``"]
    assert benchmark.measure(name, 1).cells()[:5] == row[:5]
