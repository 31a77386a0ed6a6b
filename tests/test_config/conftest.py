"""Config files outside the project change what Python can import: each test leaves it as it was."""

import sys

import pytest

from config import names


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file outside the project and return its path as text."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(names, "_folders", set())

    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    yield write
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
