"""The page "Your own project": a conflict is told as it shows; test_new_project.py has the rest."""

from types import SimpleNamespace

import project
from tests.test_docs.blocks import read_blocks


def test_conflicts_are_told_as_on_the_page(monkeypatch, capsys):
    (shown,) = read_blocks("projects.rst", "text")
    codes = {"layers/conv.py": "UU", "utils/name.py": "UD"}
    monkeypatch.setattr(project, "run_git", lambda *_: SimpleNamespace(returncode=1, stderr=""))
    monkeypatch.setattr(project, "list_unmerged", lambda: codes)
    assert project.merge("commit", "Update Plumbline from v0.1 to v0.2") == 1
    assert capsys.readouterr().err.startswith(shown.use())
