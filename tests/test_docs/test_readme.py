"""The README: its tree is that of the kit, its table that of the experiments."""

import re

from config.config import ROOT_PATH
from tests.test_docs.blocks import read_blocks

PAGE = (ROOT_PATH / "README.md").read_text(encoding="utf-8")


def test_the_tree_names_every_folder_and_command_line():
    (tree,) = read_blocks(ROOT_PATH / "README.md", "text")
    columns = [re.split(r"\s{2,}", line)[0] for line in tree.use().splitlines()]
    named = {name.rstrip("/") for column in columns for name in column.split()}
    assert [name for name in named if not (ROOT_PATH / name).exists()] == []
    folders = {path.parent.name for path in ROOT_PATH.glob("*/__init__.py")}
    scripts = {path.name for path in ROOT_PATH.glob("*.py")}
    assert (folders | scripts) - named == set()


def test_the_table_of_experiments_names_files():
    names = re.findall(r"^\| `(\w+\.py)` \|", PAGE, re.MULTILINE)
    assert len(names) >= 3
    assert [name for name in names if not (ROOT_PATH / "experiments" / name).is_file()] == []
