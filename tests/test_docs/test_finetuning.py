"""The page "Fine-tuning": its configs train, and the log says what the page shows."""

import sys
from pathlib import Path

import pytest
import torch

import train
from tests.test_docs.blocks import make_block, read_blocks
from utils.torchutils import load_weights

PRETRAINED, FEW, STAGED, GROUPS = read_blocks("finetuning.rst", "python")
HEAD_LINE, STAGE_LINES, GROUP_LINES = read_blocks("finetuning.rst", "text")
MINE = """
import torch
from torch import nn
from utils.data import Arrays

data = {"x": torch.rand(8, 3, 32, 32), "y": torch.arange(8) % 3}
train_config = {
    "TASK": "multiclass",
    "TRAIN_DATASET": Arrays, "TRAIN_DATASET_CONFIG": data,
    "VAL_DATASET": Arrays, "VAL_DATASET_CONFIG": data,
    "DATA_LOADER_CONFIG": {"batch_size": 4},
    "LOSS": nn.CrossEntropyLoss,
}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Train the config of a file in experiments/; return the run's folders of logs and weights."""
    import experiments

    folder = tmp_path / "experiments"
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(folder)])
    monkeypatch.setattr(sys, "path", [*sys.path])  # a config's folder joins it
    monkeypatch.chdir(tmp_path)
    out = [f"LOG_DIR={tmp_path / 'logs'}", f"WEIGHT_DIR={tmp_path / 'weights'}"]

    def run_config(name, *overrides):
        small = ["NUM_THREADS=1", "DEVICE=cpu", "PROGRESS=False", "CURVES=False", *out]
        assert (
            train.main([f"experiments/{name}.py", f"SESSION_NAME={name}", *small, *overrides]) == 0
        )
        (logs,) = Path("logs").glob(f"*_{name}")
        return logs, Path("weights", logs.name)

    yield run_config
    for name in [name for name in sys.modules if name.startswith("experiments.")]:
        if Path(sys.modules[name].__file__).is_relative_to(tmp_path):
            del sys.modules[name]


def log_of(logs):
    return (logs / "train.log").read_text(encoding="utf-8").splitlines()


def test_a_pretrained_network(run, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    published = torchvision.models.resnet18(num_classes=1000).state_dict()
    torch.save(published, tmp_path / "resnet18.pth")
    make_block(MINE, "mine").write(tmp_path / "experiments" / "mine.py")
    block = PRETRAINED.replace('"DEFAULT"', repr(str(tmp_path / "resnet18.pth")))
    block.write(tmp_path / "experiments" / "finetune.py")
    logs, weights = run("finetune", "EPOCHS=1")
    assert any("fc.weight, fc.bias" in line for line in log_of(logs))
    after = load_weights(weights / "last.pth")["model"]
    for name, value in after.items():
        assert torch.equal(value, published[name]) is not name.startswith("fc."), name


def test_weights_of_a_run_and_parts_that_learn_later(run, tmp_path):
    FEW.write(tmp_path / "experiments" / "five.py")
    below = ("TRAIN_DATASET_CONFIG.below=5", "VAL_DATASET_CONFIG.below=5")
    few = "TRAIN_DATASET_CONFIG.per_class=5"
    _, five = run("five", few, "EPOCHS=1", *below)
    make_block(FEW.use() + STAGED.use(), "few").write(tmp_path / "experiments" / "few.py")
    logs, _ = run("few", few, "EPOCHS=11", "WEIGHTS=latest")
    (said,) = HEAD_LINE.replace("<run>", five.name).use().splitlines()
    log = [line.replace(f"{tmp_path}/", "") for line in log_of(logs)]
    assert said in log
    assert [line for line in log if ": trains " in line] == STAGE_LINES.use().splitlines()


def test_learning_rates_of_parts(run, tmp_path):
    for name in ("few", "more"):
        make_block(FEW.use() + GROUPS.use(), name).write(tmp_path / "experiments" / f"{name}.py")
    small = ("TRAIN_DATASET_CONFIG.per_class=5", "EPOCHS=1")
    logs, _ = run("few", *small)
    assert log_of(logs)[:6] == GROUP_LINES.use().splitlines()
    logs, _ = run("more", *small, "PARAM_GROUPS.head.lr=1e-2")
    assert "lr_5: head, norm_and_bias, 10 parameters, lr=0.01, weight_decay=0.0" in log_of(logs)
