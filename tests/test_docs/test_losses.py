"""The page "Losses and metrics": each of its blocks trains, its tables name what there is."""

import importlib
import math
import re
import sys
from pathlib import Path

import pytest
import sklearn.metrics
import torch

import utils.metrics
from config.config import ROOT_PATH
from config.keys import TASK_NAMES
from tests.test_docs.blocks import read_blocks
from tests.test_training.common import folders, make_config
from training.pytorch_training import train
from utils.data.tasks import check_target
from utils.loss import LOSSES, smooth_dice_loss
from utils.metrics import Metrics

PAGE = (ROOT_PATH / "docs" / "losses.rst").read_text(encoding="utf-8")
BLOCKS = read_blocks("losses.rst", "python")


class Made(torch.utils.data.Dataset):
    """Pictures (1, 6, 6) with a mask, with classes and a row without, or with yes against no."""

    def __init__(self, kind, n=12):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(n, 1, 6, 6, generator=generator)
        self.y = (self.x > 0.3).float()
        if kind == "classes":
            self.y = torch.randint(0, 3, (n, 6, 6), generator=generator)
            self.y[:, 0] = 255
        elif kind == "yes or no":
            self.y = (self.x.mean((2, 3)) > 0).float()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class Yes(torch.nn.Linear):
    """One logit of all pixels."""

    def forward(self, x):
        return super().forward(x.flatten(1))


def made(kind, model, **arguments):
    """Return the changes of a config for such data."""
    changes = {"MODEL": model, "MODEL_CONFIG": arguments, "TASK": None, "METRICS": {}}
    for part in ("TRAIN", "VAL"):
        changes |= {f"{part}_DATASET": Made, f"{part}_DATASET_CONFIG": {"kind": kind}}
    return changes


@pytest.fixture
def run_block(tmp_path, monkeypatch):
    """Train with the block that holds a text; return its module, the config and the result."""

    def run(text, **changes):
        (block,) = [block for block in BLOCKS if text in block]
        name = f"block_{BLOCKS.index(block)}"
        source = f"train_config = {{}}\n{block.use()}"
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        module = importlib.import_module(name)
        config = make_config(**(changes | module.train_config))
        result = train(None, None, config, folders(tmp_path))
        assert result["status"] == "done" and math.isfinite(result["metrics"]["val_loss"])
        text = Path(result["paths"]["log_dir"], "config.yaml").read_text(encoding="utf-8")
        assert "!not-captured" not in text
        return module, config, result

    yield run
    for name in [name for name in sys.modules if name.startswith("block_")]:
        del sys.modules[name]


def test_focal_loss_of_classes(run_block):
    run_block("focal_loss")


def test_class_weights_and_label_smoothing(run_block):
    run_block("label_smoothing")
    assert '``torch.nn.BCEWithLogitsLoss`` with ``{"pos_weight": torch.tensor(5.0)}``' in PAGE
    loss = torch.nn.BCEWithLogitsLoss(**{"pos_weight": torch.tensor(5.0)})
    assert loss(torch.zeros(2, 3), torch.ones(2, 3)).item() == pytest.approx(5 * math.log(2))


def test_pixels_without_a_label(run_block):
    changes = made("classes", torch.nn.Conv2d, in_channels=1, out_channels=3, kernel_size=1)
    _, _, result = run_block("ignore_index", **changes)
    assert 0 < result["metrics"]["val_iou"] < result["metrics"]["val_accuracy"] < 1


def test_a_loss_of_ones_own(run_block):
    changes = made("mask", torch.nn.Conv2d, in_channels=1, out_channels=1, kernel_size=1)
    module, _, _ = run_block("dice_and_weighted_bce", **changes)
    pred, target = torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 3)
    want = smooth_dice_loss(pred, target).item() + 5 * math.log(2)
    assert module.dice_and_weighted_bce(pred, target, 5.0).item() == pytest.approx(want)


def test_a_loss_with_parameters(run_block):
    _, _, result = run_block("CosineSoftmax", EPOCHS=5)
    assert 0.4 < result["metrics"]["val_recall_at_k"] <= 1
    state = torch.load(result["paths"]["checkpoint"], weights_only=True)["state"]
    assert "directions" in str(state)


def test_metrics_and_their_averages(run_block):
    module, config, result = run_block("val_f1_of_cat")
    assert result["metrics"]["val_accuracy"] < result["metrics"]["val_top2"] <= 1
    bag = Metrics(module.train_config["METRICS"], classes=config["CLASSES"])
    bag.update(torch.eye(3)[[0, 0, 1, 2]], torch.tensor([0, 1, 1, 2]))
    assert set(bag.compute()) >= {"f1", "f1_of_cat", "f1_of_dog", "f1_of_owl"}


def test_metrics_of_ones_own(run_block):
    changes = made("yes or no", Yes, in_features=36, out_features=1)
    module, config, _ = run_block("specificity", **changes)
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(50, 1, generator=generator)
    target = (pred + torch.randn(50, 1, generator=generator) > 0).float()
    want = {
        "brier": sklearn.metrics.brier_score_loss(target, pred.sigmoid()),
        "specificity": sklearn.metrics.recall_score(target < 0.5, pred <= 0),
        "auroc": sklearn.metrics.roc_auc_score(target, pred),
    }
    for n in (1, 7, 50):
        bag = Metrics(config["METRICS"])
        for x, y in zip(pred.split(n), target.split(n), strict=True):
            bag.update(x, y)
        assert bag.compute() == pytest.approx(want)
    assert module.specificity(pred, target).item() == pytest.approx(want["specificity"])


def test_metrics_of_ignite_and_torchmetrics(run_block):
    pytest.importorskip("ignite")
    pytest.importorskip("torchmetrics")
    _, _, result = run_block("torchmetrics")
    assert {"val_auroc", "val_top2", "val_f1"} <= set(result["metrics"])


# ---- the tables


def rows(heading):
    """Return the rows of the first table below a heading, as the literals of each cell."""
    text = PAGE[PAGE.index(f"\n{heading}\n---") :]
    table = re.search(r"\.\. list-table::\n((?:\n|   .*\n)+)", text)[1]
    cells = [re.split(r"\n     - ", row) for row in re.split(r"\n   \* - ", table)[2:]]
    return [[re.findall(r"``([\w.]+)``", cell) for cell in row] for row in cells]


def examples(task):
    """Return (pred, target) of a task."""
    generator = torch.Generator().manual_seed(0)
    pixels = (5, 4) if task.endswith("segmentation") else ()
    n_channels = 1 if task.startswith("binary") else 3
    pred = torch.randn(8, n_channels, *pixels, generator=generator)
    if task.startswith("multiclass") or task == "embedding":
        return pred, torch.randint(0, 3, (8, *pixels), generator=generator)
    return pred, (pred + torch.randn(pred.shape, generator=generator) > 0).float()


def test_the_losses_of_each_task_take_its_targets():
    table = rows("Which loss for which TASK")
    assert sorted(task for tasks, *_ in table for task in tasks) == sorted(TASK_NAMES)
    for tasks, _, losses in table:
        for task in tasks:
            pred, target = examples(task)
            assert check_target(target, task, pred.shape[1]) is None
            for name in losses:
                is_torch = name.startswith("torch.nn.")
                loss = getattr(torch.nn, name[9:])() if is_torch else LOSSES[name]
                assert loss(pred, target).isfinite(), (task, name)


def test_all_losses_are_in_the_table():
    assert [name for (name, *_), *_ in rows("The losses of the kit")] == list(LOSSES)


def test_all_metrics_are_in_the_table_and_take_the_targets_of_their_tasks():
    table = rows("The metrics of the kit")
    names = [name for names, *_ in table for name in names]
    assert sorted(names) == sorted(set(utils.metrics.__all__) - {"Metrics", "as_metrics"})
    for task in TASK_NAMES:
        group = {"regression": ["mae", "rmse", "r2"], "embedding": names[-3:]}
        for name in group.get(task, names[:5]):
            found = Metrics({name: getattr(utils.metrics, name)})
            found.update(*examples(task))
            assert all(map(math.isfinite, found.compute().values())), (task, name)
