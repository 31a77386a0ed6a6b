"""Processes killed while they save checkpoints: one can be loaded, and none acknowledged is gone.

python -m tests.campaign.saves --kills 100 --megabytes 40
"""

import os
import random
from pathlib import Path

import torch

from config.keys import with_defaults
from tests.campaign.common import Figures, fork, kill, list_temps, run_script, say, wait
from tests.test_training.common import folders, make_config, train
from training.checkpoint import load_checkpoint, save_checkpoint
from training.record import Record

KILLS = "processes killed while saving"
IN_WRITE = "of these, with a file half written"
NO_FILE = "of these, between the two renames"
UNLOADABLE = "checkpoints not loadable"
OLDER = "checkpoints older than the last one acknowledged"
TEMPS = "temporary files left by the next start of the run"


def run(place: Path, kills: int = 100, megabytes: int = 40, seed: int = 0) -> Figures:
    """Kill a process that saves checkpoints in a loop, and load what is there."""
    draw = random.Random(seed)
    name = train("pytorch", place, EPOCHS=1)["run"]
    folder = place / "weights" / name
    figures = dict.fromkeys((KILLS, IN_WRITE, NO_FILE, UNLOADABLE, OLDER, TEMPS, "lost"), 0)
    last = 0
    while figures[KILLS] < kills:
        acknowledged = save_until_killed(folder, last + 1, megabytes, draw)
        figures[KILLS] += 1
        figures[IN_WRITE] += bool(list_temps(folder))
        figures[NO_FILE] += not (folder / "checkpoint.pt").exists()
        try:
            state = load_checkpoint(folder)
        except (OSError, ValueError) as error:
            say(f"{UNLOADABLE}: {error}")
            figures[UNLOADABLE] += 1
        else:
            last = state["step"]
            is_whole = torch.equal(state["weights"], make_weights(last, megabytes))
            figures[UNLOADABLE] += not is_whole
            figures[OLDER] += last < acknowledged
        start_again(place, name)
        for temp in list_temps(place):
            figures[TEMPS] += 1
            temp.unlink()
        say(f"saves {figures[KILLS]}/{kills}: {acknowledged} acknowledged, {last} loaded")
    figures["lost"] = figures[UNLOADABLE] + figures[OLDER] + figures[TEMPS]
    return figures


def save_until_killed(folder: Path, first: int, megabytes: int, draw: random.Random) -> int:
    """Kill a process at random or soon after a file was begun; return what it acknowledged last."""
    read, write = os.pipe()
    saver = fork(save_for_ever, folder, first, megabytes, write)
    os.close(write)
    with open(read, "rb") as pipe:
        start = pipe.read(4)
        wait(saver, draw.uniform(0, 0.5) * megabytes / 40)
        if draw.random() < 0.75:
            wait(saver, 5, until=lambda: not list_temps(folder))
            wait(saver, 5, until=lambda: bool(list_temps(folder)))
            wait(saver, draw.uniform(0, 0.05) * megabytes / 40)
        kill(saver)
        return int.from_bytes((start + pipe.read())[-4:], "big")


def save_for_ever(folder: Path, first: int, megabytes: int, pipe: int) -> None:
    """Save checkpoints and acknowledge each over a pipe."""
    for step in range(first, 1 << 31):
        save_checkpoint({"step": step, "weights": make_weights(step, megabytes)}, folder)
        os.write(pipe, step.to_bytes(4, "big"))


def make_weights(step: int, megabytes: int) -> torch.Tensor:
    """Return what the checkpoint of a step holds."""
    return torch.full((megabytes * 250_000,), step, dtype=torch.float32)


def start_again(place: Path, name: str) -> None:
    """Start a stopped run and let go of it: that is when its folders are tidied."""
    record = Record(with_defaults(make_config()), folders(place), "pytorch")
    record.start(resumed=name)
    record.release()


if __name__ == "__main__":
    run_script(run)
