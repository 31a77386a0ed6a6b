"""One run, read back from its row and its files."""

import csv
from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from config.errors import ConfigError, did_you_mean
from config.keys import KEYS
from utils.logging.csv import flatten
from utils.path import read_json
from utils.runs.query import read_number

STATUSES = ("running", "done", "failed", "interrupted", "lost")


class RunFolder:
    """What is known of a run; what is not there is empty.

    Args:
        name: The run.
        folders: The `global_config`.
        row: Its record in the table, if it has one.

    Attributes:
        log_dir: Its folder below LOG_DIR, which may be gone.
        weight_dir: Its folder below WEIGHT_DIR, which may be gone.
    """

    def __init__(
        self, name: str, folders: Mapping[str, Any], row: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.row = name, dict(row or {})
        self.log_dir = Path(folders["LOG_DIR"], name)
        self.weight_dir = Path(folders["WEIGHT_DIR"], name)

    @property
    def status(self) -> str:
        """One of STATUSES; nothing where a table of another program tells none."""
        return find_status(self.row.get("STATUS") or self.result.get("status", ""), self.log_dir)

    @cached_property
    def result(self) -> dict[str, Any]:
        """Content of result.json."""
        return self._read_json("result.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Content of environment.json."""
        return self._read_json("environment.json")

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """Content of evaluation.json, which `training.callbacks.Ledger` writes."""
        return self._read_json("evaluation.json")

    @cached_property
    def test_evaluation(self) -> dict[str, Any]:
        """The same of the test set."""
        return self._read_json("test/evaluation.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config as plain values, calls as one line of text; that of the row without a file."""
        from config.codec import describe, from_yaml  # PyYAML

        path = self.log_dir / "config.yaml"
        if not path.is_file():
            return {name: field for name, field in self.row.items() if is_of_config(name)}
        plain = from_yaml(path.read_text(encoding="utf-8"), str(path))
        if not isinstance(plain, dict):
            return {}
        plain.pop("format", None)  # it says nothing of the run
        return describe(plain)

    @property
    def flat_config(self) -> dict[str, str]:
        """The config as the table has it: dotted names, values as text."""
        flat = flatten(self.config)
        return {name: "" if value is None else str(value) for name, value in flat.items()}

    @cached_property
    def epochs(self) -> list[dict[str, str]]:
        """Rows of metrics.csv, fields as text."""
        try:
            with open(self.log_dir / "metrics.csv", newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except FileNotFoundError:
            return []

    @property
    def monitor(self) -> tuple[str, str]:
        """MONITOR and its mode, min or max."""
        name = self.row.get("MONITOR") or self.flat_config.get("MONITOR") or "val_loss"
        mode = self.row.get("MONITOR_MODE") or self.flat_config.get("MONITOR_MODE")
        return name, mode or "min"

    def best_epoch(self) -> dict[str, str]:
        """Return the row of the epoch in which MONITOR was best; none without one."""
        name, mode = self.monitor
        rows = [row for row in self.epochs if read_number(row.get(name) or "") is not None]
        choose = max if mode == "max" else min
        return choose(rows, key=lambda row: read_number(row[name]), default={})

    @property
    def can_resume(self) -> bool:
        """Whether it has stopped, and left a checkpoint."""
        is_open = self.status in ("lost", "interrupted", "failed")
        return is_open and any(self.weight_dir.glob("checkpoint*.pt"))

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.log_dir / name
        found = read_json(path) if path.is_file() else {}
        return found if isinstance(found, dict) else {}


def is_of_config(column: str, left_out: Container[str] = ()) -> bool:
    """Tell whether a column of the table is an entry of the config, of a key not left out."""
    key = column.split(".")[0]
    return key in KEYS and key not in left_out


def find_status(status: str, log_dir: Path) -> str:
    """Return a status as it is now: a run whose process is gone without a word is lost."""
    return "lost" if status == "running" and not is_held(log_dir) else status


def is_held(log_dir: Path) -> bool:
    """Tell whether a process trains the run of this folder: it holds the lock in it."""
    from filelock import FileLock, Timeout

    if not (log_dir / ".lock").exists():
        return False
    try:
        with FileLock(log_dir / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except PermissionError:  # another user's; nobody but he can tell
        return True


def find_name(text: str, names: Sequence[str], where: str) -> str:
    """Return the run that a text names: a name, a part of one name alone, or "latest".

    Args:
        text: What was typed.
        names: All runs, the newest last.
        where: The command, for messages.

    Raises:
        ConfigError: There is no such run, or there are several.
    """
    if text in names:
        return text
    if text == "latest" and names:
        return names[-1]
    found = [name for name in names if text in name]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[-5:]) + (f" and {len(found) - 5} others" if len(found) > 5 else "")
        raise ConfigError(
            f'{where}: expected one run, got "{text}", which is part of {shown}. Write more of it.'
        )
    raise ConfigError(
        f'{where}: expected a run, part of its name, or latest, got "{text}".'
        f"{did_you_mean(text, names)} `python runs.py list` shows them."
    )
