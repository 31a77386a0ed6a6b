"""What a training step costs beside its arithmetic: the routines against hand-written loops.

    python -m benchmarks.step              both sides get the same ready-made batches
    python -m benchmarks.step --loader     both sides read the same dataset, each by its own loader

A routine runs as it is, by its own `train()`; what can be switched on is built in and off. The
network is so small that a step takes about 0.1 ms: what is added to it shows. README.md beside this
file has the method and figures.
"""

import argparse
import contextlib
import importlib
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, Dataset

from utils.data.loading import Batch, Loader
from utils.seed import WEIGHTS, mix, seed_all
from utils.torchutils import load_weights

BATCH_SIZE = 32
N_FEATURES, N_CLASSES = 16, 10
N_DISTINCT = 64  # batches in memory; they are repeated, so that the caches see the same
OPTIMIZER_CONFIG = {"lr": 1e-2, "momentum": 0.9}
Weights = Mapping[str, torch.Tensor]


def make_mlp() -> nn.Module:
    """Return the network: (N, 16) float to (N, 10) logits."""
    return nn.Sequential(nn.Linear(N_FEATURES, 32), nn.ReLU(), nn.Linear(32, N_CLASSES))


def make_start() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return network and optimizer with the weights that a run of SEED 0 begins with."""
    seed_all(mix(0, WEIGHTS))
    model = make_mlp().train()
    return model, torch.optim.SGD(model.parameters(), **OPTIMIZER_CONFIG)


# ------------------------------------------------------------------------------------- data


class Samples(Dataset):
    """Random samples, (16,) float with a class; of `n_batches` batches, the first 64 distinct."""

    deterministic = True  # reading draws nothing, so the kit has nothing to seed

    def __init__(self, n_batches: int) -> None:
        generator = torch.Generator().manual_seed(1)
        n_distinct = min(n_batches, N_DISTINCT) * BATCH_SIZE
        self.x = torch.randn(n_distinct, N_FEATURES, generator=generator)
        self.y = torch.randint(N_CLASSES, (n_distinct,), generator=generator)
        self.n_samples = n_batches * BATCH_SIZE

    def __len__(self) -> int:
        return self.n_samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index % len(self.x)], self.y[index % len(self.x)]


def make_batches(samples: Samples) -> list[Batch]:
    """Return the batches of an epoch, in the dataset's order."""
    pairs = zip(samples.x.split(BATCH_SIZE), samples.y.split(BATCH_SIZE), strict=True)
    distinct = [Batch(x, y) for x, y in pairs]
    return [distinct[i % len(distinct)] for i in range(len(samples) // BATCH_SIZE)]


# -------------------------------------------------------------------------------- both sides


def run_loop(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Weights:
    """Train by the loop that everybody writes; nothing can be taken out of it."""
    model, optimizer = make_start()
    loss_function = nn.CrossEntropyLoss()
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
    return model.state_dict()


def run_learner(batches: Any) -> Weights:
    """Train by a fastai Learner with the two callbacks that it needs: no Recorder, no bar."""
    from fastai.callback.core import TrainEvalCallback
    from fastai.data.core import DataLoaders
    from fastai.learner import CastToTensor, Learner
    from fastai.optimizer import OptimWrapper

    model, optimizer = make_start()
    dls = DataLoaders(batches, ())
    dls._device = torch.device("cpu")  # as the routine does: without it every batch pays a search
    dls.n_inp = 1
    learn = Learner(
        dls,
        model,
        loss_func=nn.CrossEntropyLoss(),
        opt_func=lambda params, lr: OptimWrapper(opt=optimizer),
        lr=OPTIMIZER_CONFIG["lr"],
        moms=None,
        cbs=[TrainEvalCallback(), CastToTensor()],
        default_cbs=False,
    )
    learn.fit(1, wd=0.0)
    return model.state_dict()


def run_routine(routine: str, samples: Samples, batches: list[Batch] | None = None) -> Weights:
    """Train by a routine of the kit, all that can be off being off; read back its last weights.

    With `batches` its loader, which is built as ever, gives these and reads nothing.
    """
    config = {
        "MODEL": make_mlp,
        "LOSS": nn.CrossEntropyLoss,
        "OPTIMIZER": torch.optim.SGD,
        "OPTIMIZER_CONFIG": OPTIMIZER_CONFIG,
        "DATA_LOADER_CONFIG": {"batch_size": BATCH_SIZE, "shuffle": False},
        "MONITOR": "train_loss",
        "EPOCHS": 1,
        "DEVICE": "cpu",
        "NUM_THREADS": 1,
        "PROGRESS": False,
        "CURVES": False,
    }
    train = importlib.import_module(f"training.{routine}_training").train
    with tempfile.TemporaryDirectory() as folder:
        folders = {name: Path(folder) for name in ("ROOT_PATH", "DATA_DIR", "LOG_DIR")}
        folders["WEIGHT_DIR"] = Path(folder, "weights")
        with contextlib.ExitStack() as changes:
            if batches is not None:
                ready = mock.patch.object(Loader, "__iter__", lambda loader: iter(batches))
                changes.enter_context(ready)
            result = train(samples, None, config, folders)
        return load_weights(result["paths"]["last"])["model"]


class Comparison(NamedTuple):
    """A routine, what it is compared with, and the largest ratio that is wanted."""

    routine: str
    other: str
    target: float


COMPARISONS = (
    Comparison("pytorch", "loop", 1.10),
    Comparison("ignite", "loop", 1.20),
    Comparison("fastai", "loop", math.inf),  # the Learner's own steps: reported, not judged
    Comparison("fastai", "learner", 1.10),
)
OTHERS: dict[str, Callable[[Any], Weights]] = {"loop": run_loop, "learner": run_learner}


# ------------------------------------------------------------------------------------ timing


def time_step(run: Callable[[], Weights], n_steps: int) -> tuple[float, Weights]:
    """Return the CPU seconds of a step, and the weights after the last.

    Counted from the end of the first to the end of the last optimizer step: setting up and
    writing files are not in it. With one thread CPU time is what an idle machine would take, and
    it leaves out what other processes took.

    Raises:
        RuntimeError: The optimizer was not stepped `n_steps` times.
    """
    ends = []
    seen = 0

    def note_end(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen in (1, n_steps):
            ends.append(time.process_time())

    handle = register_optimizer_step_post_hook(note_end)
    try:
        weights = run()
    finally:
        handle.remove()
    if seen != n_steps:
        raise RuntimeError(
            f"benchmark: expected {n_steps} optimizer steps, got {seen}."
            " Both sides must do the same work: mend the side that was added or changed."
        )
    return (ends[-1] - ends[0]) / (n_steps - 1), weights


def check_equal(weights: Weights, expected: Weights, name: str) -> None:
    """Check that a side ended with the same bits as the hand-written loop.

    Raises:
        RuntimeError: A weight differs.
    """
    wrong = [key for key in expected if not torch.equal(weights[key], expected[key])]
    if wrong:
        raise RuntimeError(
            f"benchmark: expected {name} to end with the weights of the loop, got others in"
            f" {', '.join(wrong)}. A ratio of different work says nothing: mend that side."
        )


def compare(
    comparison: Comparison, n_steps: int, n_pairs: int, use_loader: bool
) -> list[tuple[float, float]]:
    """Run the routine and the other in turns, in this process.

    Returns:
        CPU seconds per step of (routine, other), a pair per turn.
    """
    torch.set_num_threads(1)
    samples = Samples(n_steps)
    batches = None if use_loader else make_batches(samples)
    loader = DataLoader(samples, BATCH_SIZE) if use_loader else [tuple(pair) for pair in batches]
    sides = (
        partial(run_routine, comparison.routine, samples, batches),
        partial(OTHERS[comparison.other], loader),
    )
    expected = run_loop(loader)
    pairs = []
    for turn in range(n_pairs + 1):
        seconds = [0.0, 0.0]
        for i in (0, 1) if turn % 2 else (1, 0):
            seconds[i], weights = time_step(sides[i], n_steps)
            check_equal(weights, expected, comparison[i])
        if turn > 0:  # the first one warms up
            pairs.append((seconds[0], seconds[1]))
    return pairs


def compare_all(
    comparisons: Sequence[Comparison], n_processes: int, *how: Any
) -> dict[Comparison, list[tuple[float, float]]]:
    """Compare in fresh processes, whose memory layout is luck, in another order each time.

    Args:
        comparisons: What to compare.
        n_processes: Processes for each of them.
        how: The further arguments of `compare`.
    """
    pairs: dict[Comparison, list[tuple[float, float]]] = {one: [] for one in comparisons}
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for turn in range(n_processes):
            for one in random.Random(turn).sample(comparisons, len(comparisons)):
                print(f"{turn + 1}/{n_processes} {one.routine} and {one.other}", file=sys.stderr)
                pairs[one] += pool.submit(compare, one, *how).result()
    return pairs


def format_table(pairs: Mapping[Comparison, list[tuple[float, float]]]) -> str:
    """Return a line per comparison: the ratio and its quartiles, microseconds per step."""
    columns = ("routine", "against", "ratio", "quartiles", "target", "us", "of", "added")
    lines = ["{:8} {:8} {:>6} {:>13} {:>7} {:>7} {:>7} {:>7}".format(*columns)]
    for one, times in pairs.items():
        ratios = [ours / other for ours, other in times]
        low, ratio, high = statistics.quantiles(ratios, method="inclusive")
        target = "" if one.target == math.inf else f"{one.target:.2f}"
        ours, other = (1e6 * statistics.median(side) for side in zip(*times, strict=True))
        added = 1e6 * statistics.median(ours - other for ours, other in times)
        lines.append(
            f"{one.routine:8} {one.other:8} {ratio:6.3f} {low:6.3f} {high:6.3f} {target:>7}"
            f" {ours:7.1f} {other:7.1f} {added:+7.1f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="ROUTINE", help="pytorch, ignite or fastai")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps of a run")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs in a process")
    parser.add_argument("--processes", type=int, default=3, help="fresh processes per comparison")
    parser.add_argument("--loader", action="store_true", help="read a dataset instead of a list")
    args = parser.parse_args(arguments)
    if min(args.steps, args.pairs) < 2 or args.processes < 1:
        parser.error(
            "expected at least 2 steps, 2 pairs and 1 process, got"
            f" {args.steps}, {args.pairs} and {args.processes}. Ask for more."
        )
    wanted = [one for one in COMPARISONS if not args.only or one.routine in args.only]
    pairs = compare_all(wanted, args.processes, args.steps, args.pairs, args.loader)
    print(format_table(pairs))


if __name__ == "__main__":
    main()
