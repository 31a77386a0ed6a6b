"""Runs killed at random moments, resumed by any routine: the bits of runs that never stopped.

    python -m tests.campaign.kills --runs 20 --kills 200

Each run is trained unbroken once. Then it is trained by legs, each in a process of its own that a
SIGKILL ends, and each under a routine drawn by chance; the last leg is left in peace. A leg forks
from this process, which has imported everything; some are `python train.py --resume latest`.

Half of the moments are drawn evenly over what the run still has to do, the others within phases
that are short. A leg notes its phase in shared memory, so that it is known where a kill fell.
"""

import functools
import importlib
import math
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from config.config import ROOT_PATH
from config.errors import ConfigError
from tests.campaign.common import (
    CONTEXT,
    PATIENCE,
    Figures,
    fork,
    kill,
    list_temps,
    run_script,
    say,
    wait,
)
from tests.test_training.common import (
    ROUTINES,
    bits,
    folders,
    hash_weights,
    make_config,
    rows,
    train,
)
from tests.test_training.test_resume import FULL
from training.record import Record
from training.resume import find_run
from training.run import Run

KINDS = {
    "SGD": {},
    "AdamW, OneCycle, EMA, ACCUMULATE 3, bf16": FULL,
    "plateau, VALIDATE_EVERY 2": {
        "SCHEDULER": torch.optim.lr_scheduler.ReduceLROnPlateau,
        "SCHEDULER_CONFIG": {"patience": 2, "min_lr": 1e-3},
        "VALIDATE_EVERY": 2,
    },
}
PHASES = ("at the start", "in training", "in validation", "in the writing of files", "at the end")
START, TRAINING, VALIDATION, WRITING, END = range(len(PHASES))

RUNS = "runs, each compared with one that never stopped"
KILLS = "times that they were killed"
PHASE = "of these, {}"
COMMANDS = "of these, ``python train.py``, at any moment"
HALF_WRITTEN = "of these, with a file half written"
RESUMED = "times that a run went on under {}"
ANEW = "times that it began anew, killed before its first checkpoint"
DIFFERENT = "runs that ended with other bits"
FAILED = "legs that ended with an error"


def run(
    place: Path,
    runs: int = 20,
    kills: int = 200,
    commands: int = 10,
    length: int = 10,
    seed: int = 0,
    routines: Sequence[str] = ROUTINES,
) -> Figures:
    """Break runs by kills; --commands: legs that are train.py, --length: of a run, about [s/3]."""
    names = [RUNS, KILLS, *map(PHASE.format, PHASES), COMMANDS, HALF_WRITTEN]
    names += [*map(RESUMED.format, routines), ANEW, DIFFERENT, FAILED, "lost"]
    figures = dict.fromkeys(names, 0)
    for routine in routines:
        importlib.import_module(f"training.{routine}_training")
    train("pytorch", place / "first", EPOCHS=1)  # torch imports some of itself on first use
    draw = random.Random(seed)
    while figures[RUNS] < runs or figures[KILLS] < kills:
        number = figures[RUNS]
        n_kills = math.ceil((kills - figures[KILLS]) / max(1, runs - number))
        trial = Trial(place / str(number), number, length, routines, draw, figures)
        trial.run(n_kills, with_command=number < commands)
        figures[RUNS] += 1
        say(f"run {number + 1}, {trial.name}: {figures[KILLS]}/{kills} kills, {trial.verdict}")
    figures["lost"] = figures[DIFFERENT] + figures[FAILED]
    return figures


def make_run(number: int, length: int) -> dict[str, Any]:
    """Return the config of a run."""
    n_workers = 2 * (number // len(KINDS) % 2)
    changes = {
        "SEED": number,
        "EPOCHS": (3 if n_workers else 12) * length,  # a worker takes time to start
        "CHECKPOINT": {"every_steps": 3} if number // (2 * len(KINDS)) % 2 else {},
        "DATA_LOADER_CONFIG": {"batch_size": 8, "num_workers": n_workers},
    }
    return make_config(**list(KINDS.values())[number % len(KINDS)], **changes)


class Watch:
    """Shared memory in which a leg notes what it is doing, and for how long."""

    def __init__(self) -> None:
        self.phase = CONTEXT.RawValue("i", START)
        self.times = CONTEXT.RawArray("i", len(PHASES))
        self.seconds = CONTEXT.RawArray("d", len(PHASES))
        self.since = time.monotonic()

    def enter(self, phase: int) -> None:
        """Note the end of a phase and the beginning of the next one."""
        now = time.monotonic()
        self.seconds[self.phase.value] += now - self.since
        self.since, self.phase.value = now, phase
        self.times[phase] += 1

    def mean(self, phase: int) -> float:
        """Return how long a phase takes [s]."""
        return self.seconds[phase] / max(1, self.times[phase])

    def follow(self) -> None:
        """Note the phases of the Run in this process."""
        self.since = time.monotonic()
        self._enter_at(Run, "begin_epoch", TRAINING)
        self._enter_at(Run, "begin_validation", VALIDATION)
        self._enter_at(Run, "end_validation", TRAINING)
        self._enter_at(Record, "finish", END)
        for owner, name in ((Run, "save_checkpoint"), (Record, "save_weights")):
            self._enter_at(owner, name, WRITING, comes_back=True)
        self._enter_at(Record, "write_metrics", WRITING, comes_back=True)

    def _enter_at(self, owner: type, name: str, phase: int, comes_back: bool = False) -> None:
        method = getattr(owner, name)

        @functools.wraps(method)
        def noted(*args: Any, **keywords: Any) -> Any:
            former = self.phase.value
            self.enter(phase)
            result = method(*args, **keywords)
            if comes_back:
                self.enter(former)
            return result

        setattr(owner, name, noted)


class Trial:
    """One run: trained unbroken, then by legs that are killed."""

    def __init__(
        self,
        place: Path,
        number: int,
        length: int,
        routines: Sequence[str],
        draw: random.Random,
        figures: Figures,
    ) -> None:
        self.place, self.number, self.length = place / "broken", number, length
        self.routines, self.draw, self.figures = routines, draw, figures
        self.config = make_run(number, length)
        n_workers = self.config["DATA_LOADER_CONFIG"]["num_workers"]
        every = "every_steps" if self.config["CHECKPOINT"] else "every epoch"
        kind = list(KINDS)[number % len(KINDS)]
        self.name = f"{kind}, {n_workers} workers, checkpoint {every}"
        self.verdict = "equal"
        self.usual = Watch()  # of the unbroken run
        self.place.mkdir(parents=True)
        self.errors = os.open(place / "errors.txt", os.O_CREAT | os.O_RDWR)
        whole = place / "unbroken"
        leg = fork(train_leg, self.config, whole, None, "pytorch", self.usual, output=self.errors)
        leg.join()
        assert leg.exitcode == 0, (place / "errors.txt").read_text()
        self.expected = get_outcome(whole)

    def run(self, n_kills: int, with_command: bool) -> None:
        """Kill this many legs, or fewer if the run is over before; then compare."""
        command = self.draw.randrange(n_kills) if with_command else None
        done = 0
        while done < n_kills:
            if not self.leg(n_kills - done, is_command=done == command):
                break
            done += 1
        else:
            self.leg(0, is_command=False)
        os.close(self.errors)
        if self.verdict == "equal":
            outcome = get_outcome(self.place)
            other = [name for name in outcome if outcome[name] != self.expected[name]]
            if other:
                self.verdict = f"DIFFERENT: {', '.join(other)}"
                self.figures[DIFFERENT] += 1

    def leg(self, n_kills: int, is_command: bool) -> bool:
        """Train until killed; False when the run has ended first.

        Args:
            n_kills: Kills that this run shall still have, 0 for the last leg.
            is_command: Whether the leg is `python train.py`.
        """
        watch, resumed = Watch(), find_latest(self.place)
        temps = set(list_temps(self.place))
        routine = self.draw.choice(self.routines)
        if is_command:
            command = make_command(self.place, self.number, self.length, resumed, routine)
            leg = fork(os.execve, *command, output=self.errors)
        else:
            args = (self.config, self.place, resumed, routine, watch)
            leg = fork(train_leg, *args, output=self.errors)
        if resumed:
            self.figures[RESUMED.format(routine)] += 1
        elif list(self.place.glob("logs/*/config.yaml")):
            self.figures[ANEW] += 1
        if n_kills and is_command:
            self.wait_for_command(leg, self.share(n_kills))
        elif n_kills:
            self.wait_for_phase(leg, watch, n_kills)
        else:
            wait(leg)
        if kill(leg) and n_kills:
            self.figures[KILLS] += 1
            self.figures[COMMANDS if is_command else PHASE.format(PHASES[watch.phase.value])] += 1
            self.figures[HALF_WRITTEN] += not temps.issuperset(list_temps(self.place))
            return True
        if leg.exitcode != 0:
            self.verdict = f"FAILED under {routine}: {self.place.parent / 'errors.txt'}"
            self.figures[FAILED] += 1
            say((self.place.parent / "errors.txt").read_text())
        return False

    def share(self, n_kills: int) -> float:
        """Draw how much [s] of what is left of the run is trained before the next kill."""
        path = self.place / "logs" / str(find_latest(self.place)) / "metrics.csv"
        n_done = len(rows(path)) if path.exists() else 0
        left = (1 - n_done / self.config["EPOCHS"]) * sum(self.usual.seconds)
        return self.draw.uniform(0, 2 * left / (n_kills + 1))

    def wait_for_phase(self, leg: Any, watch: Watch, n_kills: int) -> None:
        """Wait for a random moment, in half of the cases within a phase that is short."""
        if n_kills == 1 and self.draw.random() < 0.5:
            phase = END
        else:
            phase = self.draw.choice([None, None, None, START, VALIDATION, WRITING, WRITING])
        seconds = self.share(n_kills)
        if phase != START:
            wait(leg, until=lambda: watch.phase.value != START)
            wait(leg, PATIENCE if phase == END else seconds, lambda: watch.phase.value == END)
        if phase in (VALIDATION, WRITING):
            n_times = watch.times[phase]
            wait(leg, until=lambda: watch.times[phase] > n_times)
        if phase is not None:
            wait(leg, self.draw.uniform(0, self.usual.mean(phase)))

    def wait_for_command(self, leg: Any, seconds: float) -> None:
        """Wait for a random moment of the imports, or after the first checkpoint."""
        if self.draw.random() < 0.5:
            wait(leg, self.draw.uniform(0, 5))
        else:
            former = date_checkpoints(self.place)
            wait(leg, until=lambda: date_checkpoints(self.place) != former)
            wait(leg, seconds)


def train_leg(
    config: dict[str, Any], place: Path, resumed: str | None, routine: str, watch: Watch
) -> None:
    """Train, from the checkpoint if there is one."""
    watch.follow()
    module = importlib.import_module(f"training.{routine}_training")
    module.train(None, None, config, folders(place) | ({"RESUME": resumed} if resumed else {}))
    watch.enter(END)


def make_command(
    place: Path, number: int, length: int, resumed: str | None, routine: str
) -> tuple[str, list[str], dict[str, str]]:
    """Return what `exec` takes to train on the command line."""
    config = place.parent / "config.py"
    config.write_text(
        f"from tests.campaign.kills import make_run\ntrain_config = make_run({number}, {length})\n"
    )
    command = [sys.executable, str(ROOT_PATH / "train.py"), "--routine", routine]
    command += ["--resume", "latest"] if resumed else [str(config)]
    command += [f"{name}={path}" for name, path in folders(place).items() if name != "ROOT_PATH"]
    return sys.executable, command, os.environ | {"PYTHONPATH": str(ROOT_PATH)}


def find_latest(place: Path) -> str | None:
    """Return the run that can go on, if there is one."""
    try:
        return find_run("latest", folders(place))
    except ConfigError:
        return None


def date_checkpoints(place: Path) -> set[int]:
    """Return when the checkpoints were written."""
    return {path.stat().st_mtime_ns for path in place.glob("weights/*/checkpoint.prev.pt")}


def get_outcome(place: Path) -> dict[str, Any]:
    """Return what two runs must have in common, bit by bit, and what must not be left."""
    run = find_latest(place)
    weights, logs = place / "weights" / run, place / "logs" / run
    last, metrics = bits({"paths": {"log_dir": logs, "last": weights / "last.pth"}})
    table = rows(place / "logs" / "experiments.csv")
    return {
        "last.pth": last,
        "best.pth": hash_weights(weights / "best.pth"),
        "metrics.csv": metrics,
        "status in the table": [row["STATUS"] for row in table if row["RUN"] == run],
        "temporary files": [path.name for path in (*list_temps(weights), *list_temps(logs))],
    }


if __name__ == "__main__":
    run_script(run)
