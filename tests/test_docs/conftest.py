"""Fails the tests of a page that leave one of its blocks out; see blocks.py.

Keeps the modules of the pages apart, too: many of them are called experiments/mine.py.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import experiments
from config.config import ROOT_PATH
from tests.test_docs.blocks import PAGES, USED, read_blocks

NOT_PASSED: set[str] = set()  # modules with a test that failed or was skipped


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not report.passed:
        NOT_PASSED.add(report.nodeid.partition("::")[0])


@pytest.fixture(scope="module", autouse=True)
def _configs_of_other_pages_are_forgotten() -> Iterator[None]:
    forget_configs()
    yield
    forget_configs()


def forget_configs() -> None:
    """Take the configs that readers have in experiments/ out of what is imported."""
    known = {name: sys.modules[name] for name in sys.modules if name.startswith("experiments.")}
    parts = {f"experiments.{name}": part for name, part in vars(experiments).items()}
    for name, module in (parts | known).items():
        file = getattr(module, "__file__", None)  # nothing but a module has one
        if file is not None and not Path(file).is_relative_to(ROOT_PATH):
            sys.modules.pop(name, None)
            vars(experiments).pop(name.removeprefix("experiments."), None)


@pytest.fixture(scope="module", autouse=True)
def _every_block_is_used(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    check_blocks_are_used(request)


def check_blocks_are_used(request: pytest.FixtureRequest) -> None:
    """Fail a module all of whose tests have passed without one of the blocks of its page."""
    tests = {name for name in vars(request.module) if name.startswith("test_")}
    items = request.session.items
    chosen = {item.originalname for item in items if item.path == request.path}
    if tests > chosen or request.node.nodeid in NOT_PASSED:
        return  # the blocks of the other tests are no news
    for page in PAGES:
        if request.path.stem == f"test_{page.stem.lower()}":
            shell = read_blocks(page, "sh")  # test_commands.py runs them
            others = [block for block in read_blocks(page) if block not in shell]
            unused = [block.place for block in others if block.place not in USED]
            assert not unused, f"blocks that no test here uses (see blocks.py): {unused}"
