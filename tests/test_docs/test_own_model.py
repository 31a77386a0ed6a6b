"""The page "Your own model": its config trains, its weights are used as it says."""

import re
import sys
import textwrap

import pytest
import torch

from config.config import ROOT_PATH

PAGE = (ROOT_PATH / "docs" / "own_model.rst").read_text(encoding="utf-8")
FIRST, SECOND = (
    textwrap.dedent(re.sub(r"^   :caption:.*\n", "", block)).lstrip()
    for block in re.findall(r"code-block:: python\n((?:   .*\n|\n)+)", PAGE)
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with experiments/mine.py of the page, imported as `experiments.mine`."""
    import experiments

    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "mine.py").write_text(FIRST, encoding="utf-8")
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
    names = {}
    exec(SECOND.replace("weights/<run>/best.pth", str(weights)), names)
    assert names["model"](torch.zeros(2, 1, 8, 8)).shape == (2, 10)
