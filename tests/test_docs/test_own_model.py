"""The page "Your own model": its config trains, its weights are used as it says."""

import sys

import pytest
import torch

from tests.test_docs.blocks import read_blocks

FIRST, SECOND = read_blocks("own_model.rst", "python")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with experiments/mine.py of the page, imported as `experiments.mine`."""
    import experiments

    folder = FIRST.write(tmp_path / "experiments" / "mine.py").parent
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(folder)])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("experiments.mine", None)


def test_it_trains_and_its_weights_are_used(project):
    import train

    overrides = ["EPOCHS=1", "NUM_THREADS=1", "PROGRESS=False", "DEVICE=cpu"]
    out = [f"LOG_DIR={project / 'logs'}", f"WEIGHT_DIR={project / 'weights'}"]
    assert train.main(["experiments.mine", "MODEL_CONFIG.n_hidden=64", *overrides, *out]) == 0
    (weights,) = project.glob("weights/*/best.pth")
    names = SECOND.replace("weights/<run>/best.pth", str(weights)).run()
    assert names["model"](torch.zeros(2, 1, 8, 8)).shape == (2, 10)
