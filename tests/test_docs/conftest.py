"""Fails the tests of a page that leave one of its blocks out; see blocks.py."""

from collections.abc import Iterator

import pytest

from tests.test_docs.blocks import PAGES, USED, read_blocks

NOT_PASSED: set[str] = set()  # modules with a test that failed or was skipped


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not report.passed:
        NOT_PASSED.add(report.nodeid.partition("::")[0])


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
