"""The examples in docstrings give what they show."""

import doctest
import importlib

import pytest

from config.config import ROOT_PATH

FOLDERS = ("config", "utils", "layers", "models", "training", "experiments")
FILES = [path for folder in FOLDERS for path in sorted((ROOT_PATH / folder).rglob("*.py"))]
EXAMPLES = [path for path in FILES if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT_PATH)))
def test_an_example_gives_what_it_shows(path):
    name = ".".join(path.relative_to(ROOT_PATH).with_suffix("").parts)
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0 and results.attempted > 0
