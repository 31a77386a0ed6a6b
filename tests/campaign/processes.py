"""Runs of two processes killed at random moments, resumed by any routine.

    python -m tests.campaign.processes --runs 20

A leg is two forked processes that find each other as those of `torchrun` do. Both are killed, or
one of them: then the other one must end by itself. In the end the bits are those of a run that
never stopped.
"""

import importlib
import os
import random
import socket
import time
from pathlib import Path
from typing import Any

import torch

from config.errors import ConfigError
from tests.campaign.common import Figures, fork, kill, run_script, say, wait
from tests.test_training.common import ROUTINES, bits, folders, make_config
from tests.test_training.test_resume import FULL
from training.resume import find_run

KINDS = {
    "SGD": {},
    "AdamW, OneCycle, EMA, ACCUMULATE 3, bf16": FULL,
}
PATIENCE = 60  # [s] a process that takes longer hangs

RUNS = "runs of two processes, each compared with one that never stopped"
KILLED = {
    (0, 1): "times both were killed",
    (0,): "times process 0 alone",
    (1,): "times process 1 alone",
}
RESUMED = "times that a run went on"
HUNG = "processes left alone that did not end"
FAILED = "legs that ended with an error"
DIFFERENT = "runs that ended with other bits"


def run(place: Path, runs: int = 20, kills: int = 3, epochs: int = 40, seed: int = 0) -> Figures:
    """Break runs of two processes; --kills: of each run."""
    names = [RUNS, *KILLED.values(), RESUMED, HUNG, FAILED, DIFFERENT, "lost"]
    figures = dict.fromkeys(names, 0)
    for routine in ROUTINES:
        importlib.import_module(f"training.{routine}_training")
    draw = random.Random(seed)
    for number in range(runs):
        kind = list(KINDS)[number % len(KINDS)]
        changes = {"SEED": number, "EPOCHS": epochs, "CHECKPOINT": {"every_steps": 2}}
        config = make_config(**KINDS[kind], **changes)
        whole, broken = place / f"{number}_whole", place / f"{number}_broken"
        started = time.monotonic()
        ended = train_in_two(draw.choice(ROUTINES), config, whole)
        seconds = time.monotonic() - started
        for _ in range(kills):
            victims = draw.choice(list(KILLED))
            figures[RESUMED] += has_checkpoint(broken)
            left = Leg(draw.choice(ROUTINES), config, broken).kill(draw.random() * seconds, victims)
            figures[KILLED[victims]] += 1
            figures[HUNG] += left
        figures[RESUMED] += has_checkpoint(broken)
        ended &= train_in_two(draw.choice(ROUTINES), config, broken)
        is_equal = ended and bits_of(broken) == bits_of(whole)
        figures[RUNS] += 1
        figures[FAILED] += not ended
        figures[DIFFERENT] += not is_equal
        say(f"run {number + 1}, {kind}: {'equal' if is_equal else 'NOT EQUAL'}")
    figures["lost"] = figures[HUNG] + figures[FAILED] + figures[DIFFERENT]
    return figures


class Leg:
    """Two processes that train a run, or go on with it."""

    def __init__(self, routine: str, config: dict[str, Any], place: Path) -> None:
        place.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = routine, config, place, port
        with open(place / "output.txt", "a", encoding="utf-8") as output:
            self.processes = [
                fork(train_one, rank, *arguments, output=output.fileno()) for rank in (0, 1)
            ]

    def kill(self, seconds: float, victims: tuple[int, ...]) -> int:
        """Kill after some time [s]; return how many of the others did not end by themselves."""
        wait(self.processes[0], seconds)
        for victim in victims:
            kill(self.processes[victim])
        return self.end()

    def end(self) -> int:
        """Wait until all have ended; return how many had to be killed for it."""
        hung = 0
        for process in self.processes:
            wait(process, PATIENCE)
            if process.is_alive():
                hung += kill(process)
            process.join()
        return hung


def train_in_two(routine: str, config: dict[str, Any], place: Path) -> bool:
    """Train to the end; tell whether both processes ended well."""
    leg = Leg(routine, config, place)
    return leg.end() == 0 and all(process.exitcode == 0 for process in leg.processes)


def train_one(rank: int, routine: str, config: dict[str, Any], place: Path, port: int) -> None:
    """Be one of two processes, as `torchrun` would start it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    module = importlib.import_module(f"training.{routine}_training")
    resumed = {"RESUME": newest(place)} if has_checkpoint(place) else {}
    module.train(None, None, config, folders(place) | resumed)


def has_checkpoint(place: Path) -> bool:
    """Tell whether there is a run to go on with."""
    try:
        newest(place)
    except ConfigError:
        return False
    return True


def newest(place: Path) -> str:
    """Return the name of the run that was saved last."""
    return find_run("latest", folders(place))


def bits_of(place: Path) -> tuple[str, bytes]:
    """Return what must be equal, of the run that was saved last."""
    name, where = newest(place), folders(place)
    last = where["WEIGHT_DIR"] / name / "last.pth"
    return bits({"paths": {"log_dir": where["LOG_DIR"] / name, "last": last}})


if __name__ == "__main__":
    run_script(run)
