"""The code blocks of README and docs, and which of them a test has used.

A page docs/x.rst is hooked in by a module tests/test_docs/test_x.py that reads its blocks by
`read_blocks("x.rst", "python")` and uses each: `block.run()` executes it, `block.write(path)` makes
a file of it for the command that the page gives, and `block.use()` returns the text for anything
else, such as the lines of a `text` block that a test compares with what is really printed. A block
that the module leaves out fails it (conftest.py), and so does a page without a module
(test_blocks.py). What the page takes for granted (`<run>`, a folder) is put in by `block.replace`.

Shell blocks are run by test_commands.py, line by line; its tables say what a new line may need.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

from config.config import ROOT_PATH

PAGES = [
    ROOT_PATH / "README.md",
    ROOT_PATH / "benchmarks" / "README.md",
    *sorted((ROOT_PATH / "docs").glob("*.rst")),
]
USED: set[str] = set()
_MARKDOWN = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_REST = re.compile(r"^( *)\.\. code-block:: *(\w*)\n((?:\1   .*\n|\s*\n)+)", re.MULTILINE)


class Block(str):
    """The text of a block, which knows where it stands; a changed one is still the same block.

    Attributes:
        place: The page and the line of it.
    """

    place: str

    def replace(self, old: str, new: str, count: int = -1) -> "Block":
        """Return the block with a part replaced, which must be there."""
        assert old in self, f"{self.place}: expected {old}"
        return make_block(super().replace(old, new, count), self.place)

    def use(self) -> str:
        """Count the block as used and return it."""
        USED.add(self.place)
        return str(self)

    def run(self, names: dict[str, Any] | None = None) -> dict[str, Any]:
        """Execute the block with these names and return them, with those that it makes."""
        names = {} if names is None else names
        exec(compile(self.use(), self.place, "exec"), names)
        return names

    def write(self, path: Path) -> Path:
        """Make a file of the block."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.use(), encoding="utf-8")
        return path


def make_block(text: str, place: str) -> Block:
    """Return a block that stands at a place."""
    block = Block(text)
    block.place = place
    return block


def read_blocks(page: str | Path, kind: str | None = None) -> list[Block]:
    """Return the blocks of a page, in order.

    Args:
        page: Its path, or its name in docs/.
        kind: python, sh, text, ...; all if None.
    """
    path = ROOT_PATH / "docs" / page
    text = path.read_text(encoding="utf-8")
    blocks = []
    for match in (_MARKDOWN if path.suffix == ".md" else _REST).finditer(text):
        *_, its_kind, content = match.groups()
        if kind in (None, its_kind):
            line = text.count("\n", 0, match.start()) + 1
            content = re.sub(r"^ *:\w+:.*\n", "", content)  # the caption
            place = f"{path.relative_to(ROOT_PATH)}:{line}"
            blocks.append(make_block(textwrap.dedent(content).strip("\n") + "\n", place))
    return blocks
