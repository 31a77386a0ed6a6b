"""Search hyperparameters: Optuna proposes, `train.py` trains each trial in a process of its own.

What a search writes, LOG_DIR/searches/<date>_<SESSION_NAME>/:

    search.yaml     the config, the space, how many trials: what --continue goes on with
    study.journal   Optuna's own record
    trials/N.yaml   the config of a trial, to be run again; N.log is what it said
    trials.csv      a row of each trial: state, value, parameters, run
    best.yaml       the config of the best trial

Each trial is a run like any other: its row is in experiments.csv, its files are where those of all
runs are. So a trial that was killed is resumed to the same bits when the search goes on.
"""

import itertools
import logging
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from config.codec import decode_config, encode_config, from_yaml, to_config_yaml, to_yaml
from config.config import ROOT_PATH
from config.errors import ConfigError
from config.search import (
    Choice,
    Space,
    apply,
    check_space,
    decode_space,
    encode_space,
    label_options,
)
from models.outputs import write_table
from training.state import RunInterrupted, StopSignals
from utils.logging.csv import read_tracker
from utils.name import reserve_dir, run_name, timestamp
from utils.path import create_dirs, read_json, write_atomic
from utils.seed import mix

logger = logging.getLogger("plumbline")

FORMAT = 1
_POLL = 0.1  # [s] between two looks at the trials that run
_FEW = 3  # trials that may fail before the search is given up, where none has succeeded


@dataclass
class Trial:
    """A trial at work: Optuna's trial, its process, and its run's folder once that is there."""

    asked: Any
    process: subprocess.Popen
    run: str
    n_reported: int = 0
    is_pruned: bool = False


class Search:
    """A search and its folder.

    Args:
        config: The config that every trial starts from.
        space: What is searched; see config.search.
        folders: The `global_config`.
        n_trials: In all. A space of choices with no more combinations is searched whole.
        say: Receives a line for each trial that ends.

    Raises:
        ConfigError: Every problem of the space, or a config that text cannot hold; nothing is
            written.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        space: Space,
        folders: Mapping[str, Any],
        n_trials: int = 20,
        say: Callable[[str], None] = logger.info,
    ) -> None:
        problems = check_space(space, config)
        if problems:
            raise ConfigError(problems)
        plain, lost = encode_config(config)
        plain_space = encode_space(space, lost)
        if lost:
            raise ConfigError(
                "search: expected a config that text can hold, as each trial is a process of its"
                f" own, got {', '.join(lost)}. Name classes, functions or functools.partial."
            )
        self.config, self.space, self.folders, self.say = config, space, folders, say
        self.labels = {
            key: label_options(values.options)
            for key, values in space.items()
            if isinstance(values, Choice)
        }
        n_combinations = math.prod(map(len, self.labels.values()))
        self.is_grid = len(self.labels) == len(space) and n_combinations <= n_trials
        self.n_trials = n_combinations if self.is_grid else n_trials
        self.about = {"format": FORMAT, "trials": self.n_trials, "space": plain_space}
        self.about["config"] = plain
        self.folder = Path()  # known when it starts
        self.study: Any = None

    # ------------------------------------------------------------------------------ its folder

    def start(self) -> None:
        """Make the folder and an empty study."""
        name = run_name(timestamp(), self.config.get("SESSION_NAME", "training-run"))
        self.folder = reserve_dir(Path(self.folders["LOG_DIR"], "searches"), name)
        create_dirs(self.folder / "trials")
        write_atomic(self.folder / "search.yaml", to_yaml(self.about))
        self._open_study()
        if self.is_grid:
            for labels in itertools.product(*self.labels.values()):
                self.study.enqueue_trial(dict(zip(self.labels, labels, strict=True)))

    @classmethod
    def continued(
        cls,
        folders: Mapping[str, Any],
        n_trials: int | None = None,
        say: Callable[[str], None] = logger.info,
    ) -> "Search":
        """Return the newest search, to go on with.

        Args:
            folders: The `global_config`.
            n_trials: In all; None takes what the search was begun with.
            say: As for a new one.

        Raises:
            ConfigError: There is none, or its file cannot be read.
        """
        found = sorted(Path(folders["LOG_DIR"], "searches").glob("*/search.yaml"))
        if not found:
            raise ConfigError(
                f"--continue: expected a search in {Path(folders['LOG_DIR'], 'searches')}, got"
                " none. Start one without it."
            )
        path = max(found, key=lambda path: path.stat().st_mtime)
        about = from_yaml(path.read_text(encoding="utf-8"), str(path))
        if not isinstance(about, Mapping) or about.get("format") != FORMAT:
            raise ConfigError(
                f"{path}: expected a search of format {FORMAT}, got another. Start a new one."
            )
        config = decode_config(to_config_yaml(about["config"]), str(path))
        space = decode_space(about["space"])
        search = cls(config, space, folders, n_trials or about["trials"], say)
        search.folder = path.parent
        search._open_study()
        return search

    def _open_study(self) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = self.folder / "study.journal"
        # a kernel lock ends with its process; Optuna's own, left by a killed one, blocks for 30 s
        lock = FileLock(self.folder / "study.journal.lock")
        with lock:
            _drop_torn_line(path)
        mode = self.config.get("MONITOR_MODE") or "min"
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path), lock_obj=lock)),
            study_name="search",
            direction={"min": "minimize", "max": "maximize"}[mode],
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
            load_if_exists=True,
        )

    # ---------------------------------------------------------------------------------- trials

    def run(self, n_jobs: int = 1, prune: bool = False) -> dict[str, Any]:
        """Train the trials that are left.

        Args:
            n_jobs: How many run at a time; each takes its share of the CPU's threads.
            prune: Stop a trial in an epoch whose value is worse than the median of the others'.

        Returns:
            `name`, `folder`, `n_trials` that are done, and of the best one `value`, `params`, `run`
            and `config`, the path of best.yaml; these four are None where no trial succeeded.

        Raises:
            ConfigError: A trial of before is still being trained.
            RunInterrupted: A signal came; the trials at work have saved their state.
            RuntimeError: The first trials all failed.
        """
        n_threads = max(1, torch.get_num_threads() // n_jobs)
        waiting = self._begun()
        running: list[Trial] = []
        signals = StopSignals()
        signals.install()
        try:
            while signals.received is None:
                while len(running) < n_jobs and (trial := self._next(waiting, n_threads)):
                    running.append(trial)
                if not running:
                    return self._result()
                running = [trial for trial in running if not self._has_ended(trial, prune)]
                time.sleep(_POLL)
            raise RunInterrupted(signals.received)
        finally:
            self._stop(running)
            signals.remove()

    def _begun(self) -> Iterator[Any]:
        """Yield the trials that a stopped search left at work."""
        from optuna.trial import Trial as OptunaTrial
        from optuna.trial import TrialState

        for frozen in self.study.get_trials(states=(TrialState.RUNNING,)):
            lock = Path(self.folders["LOG_DIR"], self._run_of(frozen.number), ".lock")
            try:
                if lock.exists():
                    FileLock(lock, timeout=0).acquire().lock.release()
            except Timeout as error:
                raise ConfigError(
                    f"--continue: expected trials that have stopped, got {lock.parent.name}, which"
                    " another process is training. Wait for it, or stop it."
                ) from error
            yield OptunaTrial(self.study, frozen._trial_id)  # pylint: disable=protected-access

    def _next(self, waiting: Iterator[Any], n_threads: int) -> Trial | None:
        asked = next(waiting, None)
        if asked is None and self._n_asked() < self.n_trials:
            asked = self._ask()
        return None if asked is None else self._begin(asked, n_threads)

    def _n_asked(self) -> int:
        from optuna.trial import TrialState

        return sum(one.state != TrialState.WAITING for one in self.study.trials)

    def _ask(self) -> Any:
        import optuna

        # a sampler for each trial: what it draws follows from the seed and the number of the trial,
        # whether the search was stopped in between or not
        seed = mix(self.config.get("SEED", 0), self._n_asked()) % 2**32
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        asked = self.study.ask()
        for key, values in self.space.items():
            if isinstance(values, Choice):
                asked.suggest_categorical(key, self.labels[key])
            elif all(isinstance(bound, int) for bound in values[:2]):
                asked.suggest_int(key, values.low, values.high, log=values.log)
            else:
                asked.suggest_float(key, values.low, values.high, log=values.log)
        return asked

    def _begin(self, asked: Any, n_threads: int) -> Trial:
        """Start the process of a trial; one whose run has a checkpoint goes on."""
        number, run = asked.number, self._run_of(asked.number)
        path = self.folder / "trials" / f"{number + 1}.yaml"
        config = apply(self.config, self._values_of(asked.params))
        config["SESSION_NAME"] = self._session_of(number)
        config["NUM_THREADS"] = config.get("NUM_THREADS") or n_threads
        folders = [f"{name}={self.folders[name]}" for name in ("LOG_DIR", "WEIGHT_DIR", "DATA_DIR")]
        command = [sys.executable, str(ROOT_PATH / "train.py")]
        if list(Path(self.folders["WEIGHT_DIR"], run).glob("checkpoint*.pt")):
            command += ["--resume", run]
        else:
            write_atomic(path, to_config_yaml(encode_config(config)[0]))
            command += [str(path), f"DATE={self._date()}"]
        with open(path.with_suffix(".log"), "ab") as log:
            process = subprocess.Popen(  # pylint: disable=consider-using-with; it outlives this
                [*command, *folders],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is this process's, which stops them in order
            )
        return Trial(asked, process, run)

    def _has_ended(self, trial: Trial, prune: bool) -> bool:
        """Tell Optuna the value of a trial that has ended; of one at work look at its epochs."""
        has_ended = trial.process.poll() is not None
        if prune and not trial.is_pruned:
            self._report(trial)
            if not has_ended and trial.asked.should_prune():
                trial.is_pruned = True
                trial.process.terminate()
        if not has_ended:
            return False
        from optuna.trial import TrialState

        number, result = trial.asked.number, self._read_result(trial.run)
        value = result.get("best_value") if result.get("status") == "done" else None
        if value is not None and math.isfinite(value):
            self.study.tell(trial.asked, value)
            said = f"{self.config.get('MONITOR', 'val_loss')} {value:.4g}"
        elif trial.is_pruned:
            self.study.tell(trial.asked, state=TrialState.PRUNED)
            said = f"pruned after epoch {trial.n_reported}"
        else:
            self.study.tell(trial.asked, state=TrialState.FAIL)
            said = f"failed: {self._last_line(number)}"
        params = ", ".join(f"{name}={_show(value)}" for name, value in trial.asked.params.items())
        self.say(f"trial {number + 1} of {self.n_trials}: {said}; {params}")
        self._write_trials()
        states = [one.state for one in self.study.trials if one.state.is_finished()]
        if len(states) >= _FEW and set(states) == {TrialState.FAIL}:
            raise RuntimeError(
                f"search: expected trials that train, got {len(states)} failures and nothing else:"
                f" {self._last_line(number)} What they said is in {self.folder / 'trials'}."
            )
        return True

    def _report(self, trial: Trial) -> None:
        """Tell Optuna the epochs that a trial has ended."""
        path = Path(self.folders["LOG_DIR"], trial.run, "metrics.csv")
        rows = read_tracker(path) if path.exists() else []
        for row in rows[trial.n_reported :]:
            trial.n_reported += 1
            value = row.get(self.config.get("MONITOR", "val_loss"))
            if value:  # not in an epoch without validation
                trial.asked.report(float(value), int(row["epoch"]))

    @staticmethod
    def _stop(running: list[Trial]) -> None:
        """End the trials at work: they save their state, for --continue."""
        for trial in running:
            if trial.process.poll() is None:
                trial.process.terminate()
        for trial in running:
            trial.process.wait()

    # ------------------------------------------------------------------------- names and values

    def _date(self) -> str:
        return self.folder.name

    def _session_of(self, number: int) -> str:
        return f"trial-{number + 1:03d}"

    def _run_of(self, number: int) -> str:
        """Return the name of a trial's run; the newest, where it had to start again."""
        name = run_name(self._date(), self._session_of(number))
        log_dir = Path(self.folders["LOG_DIR"])
        later = (f"{name}_{n}" for n in itertools.count(2))
        again = list(itertools.takewhile(lambda run: (log_dir / run).exists(), later))
        return [name, *again][-1]

    def _values_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that Optuna's parameters stand for."""
        return {
            key: values.options[self.labels[key].index(params[key])]
            if isinstance(values, Choice)
            else params[key]
            for key, values in self.space.items()
        }

    def _read_result(self, run: str) -> dict[str, Any]:
        path = Path(self.folders["LOG_DIR"], run, "result.json")
        return read_json(path) if path.exists() else {}

    def _last_line(self, number: int) -> str:
        log = self.folder / "trials" / f"{number + 1}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing."

    def _write_trials(self) -> None:
        rows = []
        for one in self.study.trials:
            value = "" if one.value is None else one.value
            row = {"trial": one.number + 1, "state": one.state.name.lower(), "value": value}
            rows.append({**row, **one.params, "run": self._run_of(one.number)})
        if rows:
            write_table(self.folder / "trials.csv", rows)

    def _result(self) -> dict[str, Any]:
        from optuna.trial import TrialState

        done = self.study.get_trials(states=(TrialState.COMPLETE,))
        result = {"name": self.folder.name, "folder": str(self.folder), "n_trials": len(done)}
        if not done:
            return result | dict.fromkeys(("value", "params", "run", "config"))
        best = self.study.best_trial
        config = apply(self.config, self._values_of(best.params))
        write_atomic(self.folder / "best.yaml", to_config_yaml(encode_config(config)[0]))
        return result | {
            "value": best.value,
            "params": best.params,
            "run": self._run_of(best.number),
            "config": str(self.folder / "best.yaml"),
        }


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _drop_torn_line(path: Path) -> None:
    """Drop a last line that a killed process has written in part."""
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
