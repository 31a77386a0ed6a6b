"""The page "Search of hyperparameters": its space is one, a search writes the files it lists."""

import re

import pytest

from config.search import check_space
from models import ConvNet
from tests.test_docs.blocks import read_blocks
from tests.test_training.common import make_config
from tests.test_training.test_search import make_search, stand_in  # noqa: F401, a fixture


def test_the_space_of_the_page_is_one():
    (block,) = read_blocks("hyperparameters.rst", "python")
    config = make_config(MODEL=ConvNet, MODEL_CONFIG={"ch_in": 1, "n_classes": 3})
    assert check_space(block.run()["search_space"], config) == []


@pytest.mark.usefixtures("stand_in")
def test_a_search_writes_the_files_of_the_page(tmp_path):
    pytest.importorskip("optuna")
    (files,) = read_blocks("hyperparameters.rst", "text")
    search, _ = make_search(tmp_path, n_trials=1)
    search.start()
    search.run()
    head, *lines = files.replace("/N.", "/1.").use().splitlines()
    assert head.startswith("LOG_DIR/searches/")
    assert search.folder.parent == tmp_path / "logs" / "searches"
    names = re.findall(r"(?<![\w./])\w[\w/]*\.\w+", "\n".join(lines))
    assert len(names) == 7  # with train.py
    assert [name for name in names if not (search.folder / name).exists()] == ["train.py"]
