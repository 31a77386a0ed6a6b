"""The page "Quick start": a run leaves the files that it lists."""

import re

from tests.test_docs.blocks import read_blocks
from tests.test_training.common import train


def test_a_run_leaves_the_files_of_the_page(tmp_path):
    (files,) = read_blocks("quickstart.rst", "text")
    run = train("pytorch", tmp_path, EPOCHS=1)["run"]
    for line in files.replace("<run>", run).use().splitlines():
        path, *others = re.split(r"\s{2,}", line)[0].split()
        folder = (tmp_path / path).parent
        for name in (path.rpartition("/")[2], *others):
            assert (folder / name).exists(), line
