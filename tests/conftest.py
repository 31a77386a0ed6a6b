"""Skips the tests of a routine whose package is not installed."""

import importlib.util

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("lightning") is not None:
        return
    skip = pytest.mark.skip(reason="the package lightning is not installed")
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if any(isinstance(value, str) and value == "lightning" for value in values):
            item.add_marker(skip)
