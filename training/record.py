"""The files of one run: its folders, its row in the table of all runs, its config as text."""

import csv
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from config.codec import describe, encode_config, encode_model, name_of, to_config_yaml
from config.errors import ConfigError
from models.outputs import write_table
from utils.data.bad_samples import BadSamples
from utils.data.fingerprint import fingerprint
from utils.distributed import world_size
from utils.logging.csv import CsvTracker, flatten, read_tracker
from utils.name import reserve_dir, run_name, timestamp
from utils.path import create_dirs, remove_stale_temps, write_atomic, write_json
from utils.torchutils import save_weights

if TYPE_CHECKING:
    from training.run import Run

logger = logging.getLogger("plumbline")

_PACKAGES = ("torch", "numpy", "torchvision", "pytorch-ignite", "fastai", "lightning")
# of files that git does not know, how many are recorded, and with text up to which size
_MAX_UNTRACKED, _MAX_BYTES = 200, 50_000


class Record:
    """Writes what DESIGN calls the files of a run; knows nothing of training.

    Args:
        config: The complete config of the run.
        folders: The `global_config`; `DATE` in it is the user's own name of the moment.
        routine: Name of the routine.
        datasets: By part, such as "train"; their fingerprints are recorded.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folders: Mapping[str, Any],
        routine: str,
        datasets: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.folders, self.routine = config, folders, routine
        self.datasets = datasets or {}
        self.plain, self.lost = encode_config({**config, "ROUTINE_NAME": routine})
        self.name = ""
        self.log_dir = self.weight_dir = Path()  # known when it starts
        self.table = CsvTracker(Path(folders["LOG_DIR"]) / Path(config["LOGFILE"]).name)
        self._open = ExitStack()

    def set_name(self, name: str) -> None:
        """Take the name of the run, from which its folders follow."""
        self.name = name
        self.log_dir = Path(self.folders["LOG_DIR"], name)
        self.weight_dir = Path(self.folders["WEIGHT_DIR"], name)

    def start(self, resumed: str | None = None) -> str:
        """Make the folders, take the run's lock, write the config and the row `running`.

        Args:
            resumed: Name of a run that goes on; its folders and its row are taken over.

        Returns:
            The name of the run.

        Raises:
            ConfigError: The run that is to go on is being trained by another process, or the table
                is damaged.
        """
        log_dir, weight_dir = Path(self.folders["LOG_DIR"]), Path(self.folders["WEIGHT_DIR"])
        create_dirs(log_dir, weight_dir)
        try:
            read_tracker(self.table.path)
        except ValueError as error:
            raise ConfigError(f"LOGFILE: {error}") from error
        if resumed is not None:
            self.set_name(resumed)
        else:
            self.plain["DATE"] = self.folders.get("DATE") or timestamp()
            name = run_name(self.plain["DATE"], self.config["SESSION_NAME"])
            self.set_name(reserve_dir(log_dir, name).name)
        create_dirs(self.log_dir, self.weight_dir)
        self._take_lock()
        for path in (*self.log_dir.glob("*.tmp"), *self.weight_dir.glob("*.tmp")):
            remove_stale_temps(path.with_name(path.name.rsplit(".", 2)[0]))
        write_atomic(self.log_dir / "config.yaml", to_config_yaml(self.plain))
        write_json(self.log_dir / "environment.json", self._environment())
        row = {"RUN": self.name, "STATUS": "running", "HOST": socket.gethostname()}
        row |= {"PID": os.getpid(), **flatten(describe(self.plain))}
        if resumed is None:
            self.table.append(row)
        else:
            self.table.update(self.name, row)
        return self.name

    def _take_lock(self) -> None:
        """Hold the run's lock: free when the process is gone, however it went."""
        # not 0: who looks whether the run is lost holds it for a moment (utils.runs.folder.is_held)
        lock = FileLock(self.log_dir / ".lock", timeout=0.5)
        try:
            self._open.enter_context(lock)
        except Timeout as error:
            raise ConfigError(
                f'--resume: expected a run that has stopped, got "{self.name}", which another'
                " process is training. Wait for it, or stop it."
            ) from error

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the row's final values and `result.json`, and free the lock."""
        with self._open:
            row = {"STATUS": result["status"], "BEST_EPOCH": result["best_epoch"]}
            row |= {**result["metrics"], **result["test_metrics"]}
            row |= {f"best_{name}": value for name, value in result["best_metrics"].items()}
            row |= {"SECONDS": round(result["seconds"], 1), "ERROR": result["error"]}
            try:
                self.table.update(self.name, row)
            except ValueError as error:  # damaged by hand since the run began
                logger.warning(
                    "%s The row of this run stays as it was; its values are in %s.",
                    error,
                    self.log_dir / "result.json",
                )
            # last: with it the run counts as finished, and is left alone
            write_json(self.log_dir / "result.json", result)

    def release(self) -> None:
        """Free the run's lock."""
        self._open.close()

    def paths(self) -> dict[str, str]:
        """Return where the files of the run lie; those of weights once they exist."""
        paths = {"log_dir": self.log_dir, "weight_dir": self.weight_dir}
        for name in ("best.pth", "last.pth", "checkpoint.pt"):
            if (self.weight_dir / name).exists():
                paths[Path(name).stem] = self.weight_dir / name
        if (self.log_dir / "bad_samples.csv").exists():
            paths["bad_samples"] = self.log_dir / "bad_samples.csv"
        paths |= {"table": self.table.path}
        return {name: str(path) for name, path in paths.items()}

    def write_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `metrics.csv`: a row per epoch, numbers by repr, no times."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(
            [repr(row[name]) if name in row else "" for name in columns] for row in rows
        )
        write_atomic(self.log_dir / "metrics.csv", text.getvalue())

    def write_bad_samples(self, bad: Mapping[str, BadSamples]) -> None:
        """Write `bad_samples.csv`: a row for each sample of a part that was left out, if any."""
        rows = [
            {"part": part, "index": index, "name": name, "error": error}
            for part, samples in bad.items()
            for index, (name, error) in sorted(samples.found.items())
        ]
        if rows:
            write_table(self.log_dir / "bad_samples.csv", rows)

    def save_weights(self, name: str, state: Mapping[str, Any], epoch: int) -> None:
        """Write a weights file with what it takes to rebuild and use the model."""
        meta = {
            "MODEL": name_of(self.config["MODEL"]),
            "MODEL_CONFIG": encode_model(self.config["MODEL_CONFIG"]),
            "run": self.name,
            "epoch": epoch,
        }
        classes = self.config["CLASSES"]
        meta |= {
            "TASK": self.config["TASK"],
            "CLASSES": classes and [str(name) for name in classes],
        }
        # lists for tuples, plain numbers for numpy's, which weights_only refuses
        meta["PREPROCESS"] = json.loads(json.dumps(self.config["PREPROCESS"]))
        save_weights(self.weight_dir / name, state, meta)

    def _environment(self) -> dict[str, Any]:
        commit = self._git("rev-parse", "--verify", "HEAD")
        return {
            "format": 1,
            "command": sys.argv,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": find_versions(),
            "threads": torch.get_num_threads(),
            "processes": world_size(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "folders": {name: str(path) for name, path in self.folders.items()},
            "commit": commit and commit.strip(),
            "diff": self._git("diff", "--no-color", "--no-ext-diff", "HEAD"),
            "untracked": self._find_untracked(),
            "data": {part: fingerprint(dataset) for part, dataset in self.datasets.items()},
            "not_captured": self.lost,
        }

    def _find_untracked(self) -> dict[str, dict[str, str | None]]:
        """Return hash and text of the .py files that git does not know, which no diff shows."""
        listed = self._git("ls-files", "-z", "--others", "--exclude-standard", "--", "*.py")
        found: dict[str, dict[str, str | None]] = {}
        for name in sorted((listed or "").split("\0"))[:_MAX_UNTRACKED]:
            path = Path(self.folders["ROOT_PATH"], name)
            if not name or not path.is_file():
                continue
            content = path.read_bytes()
            is_small = len(content) <= _MAX_BYTES
            found[name] = {
                "sha256": hashlib.sha256(content).hexdigest(),
                "text": content.decode("utf-8", "replace") if is_small else None,
            }
        return found

    def _git(self, *command: str) -> str | None:
        """Return what git says of the project; None without git or outside a repository."""
        try:
            done = subprocess.run(
                ["git", "-C", str(self.folders["ROOT_PATH"]), *command],
                capture_output=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.decode("utf-8", "replace")


def find_versions() -> dict[str, str | None]:
    """Return the versions of the kit's frameworks, None if missing, and of what is imported."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    known = {*sys.stdlib_module_names, *versions, "ignite"}
    for name in sorted(set(sys.modules) - known):
        version = getattr(sys.modules[name], "__dict__", {}).get("__version__")
        if "." not in name and name[0] != "_" and isinstance(version, str):
            versions[name] = version
    return versions


def make_result(run: "Run", status: str, error: BaseException | None = None) -> dict[str, Any]:
    """Return what a run came to: what every routine returns, and the content of result.json.

    Epochs are counted from 1. `metrics` are those of the last epoch, `best_metrics` those of the
    epoch in which MONITOR was best.
    """
    history, last = run.history, run.history.rows[-1:]
    return {
        "run": run.record.name,
        "status": status,
        "routine": run.routine,
        "epochs": run.position.epoch,
        "steps": run.position.step,
        "best_epoch": None if history.best_epoch is None else history.best_epoch + 1,
        "monitor": run.monitor,
        "best_value": history.best.get(run.monitor),
        "metrics": values_of(*last) if last else {},
        "best_metrics": values_of(history.best),
        "test_metrics": run.test_metrics,
        "seconds": time.monotonic() - run.started,
        "paths": run.record.paths(),
        "error": f"{type(error).__name__}: {error}" if status == "failed" else None,
    }


def values_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the losses and metrics of an epoch's row."""
    return {name: value for name, value in row.items() if name not in ("epoch", "step", "lr")}
