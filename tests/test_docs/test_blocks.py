"""Every page has its blocks used by a module of tests; the reader of the blocks finds them all."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from config.config import ROOT_PATH
from tests.test_docs import blocks, conftest
from tests.test_docs.blocks import PAGES, read_blocks

PAGE = """\
Title

.. code-block:: python
   :caption: mine.py

   a = 1


   b = a

Text.

   .. code-block:: sh

      make demo  \\
          ARGS=1
"""


def test_the_reader_gives_text_kind_and_line(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "ROOT_PATH", tmp_path)
    (tmp_path / "page.rst").write_text(PAGE)
    (tmp_path / "page.md").write_text("# A\n\n```sh\nmake\n```\n```text\ntree\n```\n")
    first, second = read_blocks(tmp_path / "page.rst")
    assert (first, first.place) == ("a = 1\n\n\nb = a\n", "page.rst:3")
    assert (second, second.place) == ("make demo  \\\n    ARGS=1\n", "page.rst:13")
    assert read_blocks(tmp_path / "page.rst", "sh") == [second]
    assert read_blocks(tmp_path / "page.md") == ["make\n", "tree\n"]
    changed = first.replace("1", "2")
    assert changed.place == first.place and changed.run()["b"] == 2
    with pytest.raises(AssertionError, match="page.rst:3: expected c"):
        first.replace("c", "d")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT_PATH)))
def test_a_page_with_blocks_has_a_module_of_tests(page):
    text = page.read_text(encoding="utf-8")
    marks = r"^```\w" if page.suffix == ".md" else r"^ *\.\. (?:code-block|code|sourcecode)::"
    found = read_blocks(page)
    assert len(found) == len(re.findall(marks, text, re.MULTILINE)), "a block is not found"
    assert page.suffix == ".md" or not re.search(r"^(?! *\.\.).*::$", text, re.MULTILINE), (
        "a block of unknown kind: write code-block, and the kind"
    )
    if len(found) > len(read_blocks(page, "sh")):
        module = Path(__file__).with_name(f"test_{page.stem.lower()}.py")
        assert module.is_file(), f"{page.name}: expected tests that use its blocks, see blocks.py"


def test_a_block_that_nothing_uses_fails_its_module(tmp_path, monkeypatch):
    (tmp_path / "made.rst").write_text(PAGE)
    monkeypatch.setattr(blocks, "ROOT_PATH", tmp_path)
    monkeypatch.setattr(conftest, "PAGES", [tmp_path / "made.rst"])
    path = tmp_path / "test_made.py"
    items = [SimpleNamespace(originalname="test_it", path=path)]
    request = SimpleNamespace(
        module=SimpleNamespace(test_it=None),
        session=SimpleNamespace(items=items),
        path=path,
        node=SimpleNamespace(nodeid="test_made.py"),
    )
    with pytest.raises(AssertionError, match=r"made\.rst:3"):
        conftest.check_blocks_are_used(request)
    read_blocks(tmp_path / "made.rst", "python")[0].use()
    conftest.check_blocks_are_used(request)


def test_yaml_blocks_are_yaml():
    for page in PAGES:
        for block in read_blocks(page, "yaml"):
            yaml.safe_load(block)
