"""What the processes of `torchrun` run in tests/test_training/test_distributed.py.

    torchrun --nproc-per-node 2 -m tests.test_training.distributed FOLDER

One start of two processes serves all cases: starting them takes longer than all the training.
"""

import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tests.test_training import test_metric_learning
from tests.test_training.common import CLASSES, ROUTINES, Pictures, bits, train
from tests.test_training.test_dict_batches import DICTS
from tests.test_training.test_resume import FULL, PLATEAU, Stop, go_on, resume
from training.callbacks import Callback, EarlyStopping, Unfreeze
from training.state import RunInterrupted
from utils.distributed import gather, rank
from utils.metrics import accuracy, f1


class Torn(Pictures):
    """Two of its pictures cannot be read; of the validation's, one by each process."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index in (3, 12):
            raise OSError(f"{index}.png: expected a picture, got a torn file")
        return super().__getitem__(index)


def fade(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Make the pictures of a batch of a process darker, as chance has it."""
    return torch.rand(()) * x, y


CONFIGS = {
    "sgd": {},
    "full": {**FULL, "CALLBACKS": [functools.partial(EarlyStopping, patience=9)]},
    "plateau": {**PLATEAU, "CLIP_NORM": 0.5},
    "batches": {
        "DATA_LOADER_CONFIG": {"batch_size": 8, "per_class": 4},
        "BATCH_TRANSFORM": fade,
        "TRAIN_DATASET": Torn,
        "VAL_DATASET": functools.partial(Torn, n=19, seed=1, augment=False),
        "ON_BAD_SAMPLE": "skip",
    },
}
STOPS = {"in an epoch": (1, 2), "at an epoch's end": (1, 0)}


def error_per_sample(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return (N,) float, one value per sample."""
    return nn.functional.cross_entropy(pred, target, reduction="none")


def spread(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return a number that only the whole set gives."""
    return pred.std() + target.float().mean()


METRICS = {"accuracy": accuracy, "f1": f1, "error": error_per_sample, "spread": spread}


class Weighted(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CLASSES))

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(pred * self.scale, target)


class FailIn(Callback):
    """Raises in one process alone."""

    def __init__(self, process: int) -> None:
        self.process = process

    def on_batch_end(self, run: Any, loss: float) -> None:
        if rank() == self.process and run.position.batch == 2:
            raise ValueError("a fault of one process")


class SignalIn(Stop):
    """Process 1 alone is told to stop."""

    def on_batch_end(self, run: Any, loss: float) -> None:
        if rank() == 1:
            super().on_batch_end(run, loss)

    def on_epoch_end(self, run: Any, metrics: Mapping[str, float]) -> None:
        if rank() == 1:
            super().on_epoch_end(run, metrics)


class Alike(Callback):
    """Checks that every process has the same weights, which process 0 alone writes."""

    def on_epoch_end(self, run: Any, metrics: Mapping[str, float]) -> None:
        own = torch.cat([param.detach().flatten() for param in run.module.parameters()])
        assert all(own.tolist() == other for other in gather(own.tolist()))


STAGED = {
    "CALLBACKS": [
        functools.partial(Unfreeze, stages={0: ["head"], 1: ["body.1"], 2: ["*"]}),
        Alike,
    ],
    "DDP_CONFIG": {"find_unused_parameters": True},
    "PARAM_GROUPS": {"body": {"lr": 0.01}},
    "ACCUMULATE": 2,
    "EPOCHS": 3,
}


def main(folder: Path) -> None:
    """Train every case under every routine, and write what came out."""
    found: dict[str, Any] = {}
    for name, config in CONFIGS.items():
        for routine in ROUTINES:
            config = {"METRICS": METRICS, **config}
            callbacks = [*config.get("CALLBACKS", []), functools.partial(SignalIn, -1, -1)]
            whole = train(routine, folder / name / routine, **{**config, "CALLBACKS": callbacks})
            found[f"{name}, {routine}"] = _describe(whole)
            for stop, at in STOPS.items():
                place = folder / name / routine / stop
                stopping = [*callbacks[:-1], functools.partial(SignalIn, *at)]
                try:
                    train(routine, place, **{**config, "CALLBACKS": stopping})
                except RunInterrupted as error:
                    found[f"{name}, {routine}, {stop}, exit"] = error.exit_code
                run = next((place / "logs").glob("*_test")).name
                other = ROUTINES[(ROUTINES.index(routine) + 1) % len(ROUTINES)]
                rest = resume(other, place, run, **{**config, "CALLBACKS": stopping})
                found[f"{name}, {routine}, {stop}"] = _describe(rest)
    for routine in ROUTINES:
        found[f"dicts, {routine}"] = _describe(train(routine, folder / "dicts" / routine, **DICTS))
        staged = train(routine, folder / "staged" / routine, **STAGED)
        found[f"staged, {routine}"] = _describe(staged)
    rest = go_on(STAGED, "pytorch", "ignite", (1, 4), folder / "staged" / "broken")
    found["staged, resumed"] = _describe(rest)
    for name in ("arcface", "triplet"):
        found[name] = train("pytorch", folder / name, **test_metric_learning.CONFIGS[name])
        del found[name]["seconds"]
    trained_loss = train("pytorch", folder / "loss", LOSS=Weighted)
    found["loss"] = _describe(trained_loss)
    sets = {"TEST_DATASET": functools.partial(Pictures, n=19, seed=2, augment=False)}
    found["test"] = train("ignite", folder / "test", METRICS=METRICS, **sets)
    everywhere = [None, None]
    dist.all_gather_object(everywhere, {key: value for key, value in found.items()})
    if rank() == 0:
        (folder / "found.json").write_text(json.dumps(everywhere))


def _describe(result: Mapping[str, Any]) -> dict[str, Any]:
    weights, metrics = bits(result)
    return {"weights": weights, "metrics": metrics.decode(), "run": result["run"]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")  # one group for all runs: each of them uses it
    try:
        main(Path(sys.argv[1]))
    finally:
        dist.destroy_process_group()
