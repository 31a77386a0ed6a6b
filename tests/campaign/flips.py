"""Bits flipped and ends cut off in the files of a run: every damage is noticed.

python -m tests.campaign.flips --flips 1000 --cuts 200
"""

import random
from collections.abc import Callable
from pathlib import Path

from tests.campaign.common import Figures, run_script, say
from tests.test_training.common import train
from training.checkpoint import load_checkpoint
from utils.torchutils import load_weights

FLIPS = "files with one bit flipped, half of them checkpoints, half weights"
CUTS = "files cut short"
NOTICED = "of all these, refused with the name of the file"
FALLEN_BACK = "of the checkpoints, replaced by the former one"


def run(place: Path, flips: int = 1000, cuts: int = 200, seed: int = 0) -> Figures:
    """Damage the checkpoint and the weights file of a run in many places, one at a time."""
    draw = random.Random(seed)
    paths = train("pytorch", place)["paths"]
    weights, checkpoint = Path(paths["last"]), Path(paths["checkpoint"])
    former = checkpoint.with_name("checkpoint.prev.pt").read_bytes()
    aside = checkpoint.with_name("checkpoint.damaged.pt")
    figures = {FLIPS: flips, CUTS: cuts, NOTICED: 0, FALLEN_BACK: 0, "lost": 0}
    for i in range(flips + cuts):
        path = (weights, checkpoint)[i % 2]
        good = path.read_bytes()
        data = bytearray(good)
        if i < flips:
            place_of_bit = draw.randrange(8 * len(data))
            data[place_of_bit // 8] ^= 1 << place_of_bit % 8
        else:
            del data[draw.randrange(len(data)) :]
        path.write_bytes(data)
        if path == weights:
            is_noticed = is_refused(load_weights, path, path)
        else:
            checkpoint.with_name("checkpoint.prev.pt").unlink(missing_ok=True)
            is_noticed = is_refused(load_checkpoint, path.parent, path)
            checkpoint.with_name("checkpoint.prev.pt").write_bytes(former)
            load_checkpoint(path.parent)  # puts the damaged one aside and reads the former one
            figures[FALLEN_BACK] += aside.exists()
            aside.unlink(missing_ok=True)
        figures[NOTICED] += is_noticed
        path.write_bytes(good)
        if (i + 1) % 100 == 0 or i + 1 == flips + cuts:
            say(f"flips {i + 1}/{flips + cuts}: {figures[NOTICED]} noticed")
    figures["lost"] = flips + cuts - figures[NOTICED]
    figures["lost"] += (flips + cuts) // 2 - figures[FALLEN_BACK]
    return figures


def is_refused(load: Callable[[Path], object], argument: Path, path: Path) -> bool:
    """Tell whether loading ends with a message that names the damaged file."""
    try:
        load(argument)
    except ValueError as error:
        return f'"{path}": expected ' in str(error) and "damaged" in str(error)
    return False


if __name__ == "__main__":
    run_script(run)
