"""The page "Metric learning": its blocks train, predict and search."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pytorch_metric_learning")
pytest.importorskip("torchvision")

import run_prediction
import train
from config.config import ROOT_PATH
from tests.test_docs.blocks import read_blocks
from tests.test_run_prediction import read_rows
from tests.test_training.common import CLASSES, folders, make_config
from tests.test_training.test_metric_learning import MARGIN
from training.pytorch_training import train as train_config_of
from utils.metrics import Metrics

CONFIG, LOSSES, METRICS, CIFAR, NEAREST, PREDICTION = read_blocks("metric_learning.rst", "python")
(LAYOUT,) = read_blocks("metric_learning.rst", "text")
SMALL = ["NUM_THREADS=1", "PROGRESS=False", "DEVICE=cpu"]


def write_faces(folder, size=(40, 32)):
    """Make the folders of the page: identities to learn from, others to search."""
    draw = np.random.default_rng(0)
    for part, names in (("train", "abc"), ("base", "xy"), ("val", "xy")):
        for name in names:
            (folder / part / name).mkdir(parents=True)
            for i in range(1, 5):
                pixels = draw.integers(0, 100, (*size, 3)) + ord(name) % 5 * 30
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{i}.jpg")


def test_the_config_trains_and_its_weights_predict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_faces(tmp_path / "my" / "data" / "faces")
    for line in LAYOUT.use().splitlines():
        part = re.match(r"/my/data/faces/(\w+)/<identity>/1\.jpg", line)[1]
        assert list((tmp_path / "my" / "data" / "faces" / part).glob("*/1.jpg"))
    places = [f"LOG_DIR={tmp_path}/logs", f"WEIGHT_DIR={tmp_path}/weights"]
    places += [f"DATA_DIR={tmp_path}/my/data", *SMALL]
    few = ["EPOCHS=1", "DATA_LOADER_CONFIG.batch_size=12", "DATA_LOADER_CONFIG.num_workers=0"]
    small = [*few, "PREPROCESS.size=[32,32]"]
    assert train.main([str(CONFIG.write(tmp_path / "mine.py")), *small, *places]) == 0
    (config,) = tmp_path.glob("logs/*/config.yaml")
    assert "num_classes: 3" in config.read_text(encoding="utf-8")
    mine = str(PREDICTION.write(tmp_path / "predict_mine.py"))
    small = ["DATA_LOADER_CONFIG.batch_size=12", f"OUTPUT_DIR={tmp_path}/out"]
    assert run_prediction.main([mine, *small, *places]) == 0
    (metrics,) = tmp_path.glob("logs/*/metrics.csv")
    header, row = metrics.read_text(encoding="utf-8").splitlines()
    value = dict(zip(header.split(","), row.split(","), strict=True))["val_map"]
    assert f'"map": {value}' in (tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")
    found = read_rows({"paths": {"samples": tmp_path / "out" / "samples.csv"}})
    assert [line["target"] for line in found] == ["3"] * 4 + ["4"] * 4 + ["3"] * 4 + ["4"] * 4
    assert np.load(tmp_path / "out" / f"{found[0]['output']}").shape == (64,)


def test_the_config_for_cifar_trains(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write_faces(tmp_path / "cifar", (32, 32))
    CONFIG.write(tmp_path / "first_of_the_page.py")
    config = CIFAR.replace("experiments.mine", "first_of_the_page").write(tmp_path / "cifar.py")
    places = [f"{name}={tmp_path}" for name in ("LOG_DIR", "WEIGHT_DIR", "DATA_DIR")]
    small = ["EPOCHS=1", "MODEL_CONFIG.bulk_ch=2"]
    assert train.main([str(config), *small, *SMALL, *places]) == 0
    (config,) = tmp_path.glob("*/config.yaml")
    assert "kind: cosface" in config.read_text(encoding="utf-8")


class Steps(list):
    """A config that keeps each of its changes."""

    def __ior__(self, changes):
        self.append(changes)
        return self


def test_the_losses_train(tmp_path):
    steps = LOSSES.run({"train_config": Steps()})["train_config"]
    assert [changes["LOSS"].__name__ for changes in steps] == ["MarginLoss", "TripletLoss"]
    for changes in steps:
        changes.pop("DATA_LOADER_CONFIG", None)
        if "embedding_size" in changes["LOSS_CONFIG"]:
            changes["LOSS_CONFIG"] |= {"embedding_size": 3, "num_classes": CLASSES}
        config = make_config(**MARGIN | changes | {"EPOCHS": 1})
        result = train_config_of(None, None, config, folders(tmp_path))
        assert 0 <= result["metrics"]["val_recall"] <= 1


def test_the_metrics_have_the_names_of_the_page():
    metrics = METRICS.run({"train_config": {}})["train_config"]["METRICS"]
    assert all(isinstance(metric, partial) for metric in metrics.values())
    bag = Metrics(metrics)
    bag.update(torch.randn(8, 3), torch.arange(8) // 2)
    assert list(bag.compute()) == ["cmc_1", "cmc_20", "map"]


def test_the_nearest_are_pictures_of_the_same_sign(tmp_path):
    config = str(ROOT_PATH / "experiments" / "metric_learning.py")
    places = [f"LOG_DIR={tmp_path}/logs", f"WEIGHT_DIR={tmp_path}/weights"]
    small = ["EPOCHS=2", "TRAIN_DATASET_CONFIG.last=40", "LOSS_CONFIG.num_classes=40"]
    assert train.main([config, *small, *SMALL, *places]) == 0
    (best,) = tmp_path.glob("weights/*/best.pth")
    names = NEAREST.replace("weights/<run>/best.pth", str(best)).run()
    signs, nearest = names["signs"].y.numpy(), names["nearest"]
    assert nearest.shape == (600, 6) and (nearest != np.arange(600)[:, None]).all()
    assert (signs[nearest[:, 0]] == signs).mean() > 0.3  # by chance 19 / 599
