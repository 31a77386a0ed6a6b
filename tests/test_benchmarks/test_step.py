"""The benchmark compares equal work; how long that takes is no test's business."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import step

ROOT = Path(__file__).resolve().parents[2]
N_STEPS = 5


@pytest.fixture(autouse=True)
def keep_threads():
    """Give torch its threads back."""
    former = torch.get_num_threads()
    yield
    torch.set_num_threads(former)


@pytest.mark.parametrize("use_loader", [False, True])
@pytest.mark.parametrize("comparison", step.COMPARISONS, ids=lambda one: one.routine + one.other)
def test_both_sides_of_a_comparison_are_timed(comparison, use_loader):
    for side in comparison[:2]:
        pytest.importorskip("fastai" if side in ("fastai", "learner") else "torch")
        pytest.importorskip("ignite" if side == "ignite" else "torch")
    pairs = step.compare(comparison, N_STEPS, 2, use_loader)
    assert len(pairs) == 2
    assert all(seconds > 0 for pair in pairs for seconds in pair)


@pytest.mark.parametrize("routine", ["pytorch", "ignite", "fastai"])
def test_a_routine_ends_with_the_weights_of_the_loop(routine):
    pytest.importorskip("torch" if routine == "pytorch" else routine)
    samples = step.Samples(N_STEPS)
    batches = step.make_batches(samples)
    weights = step.run_routine(routine, samples, batches)
    expected = step.run_loop(batches)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    start = step.make_start()[0].state_dict()
    assert not any(torch.equal(weights[name], start[name]) for name in expected)


def test_ready_batches_are_those_of_the_dataset_and_repeat():
    samples = step.Samples(step.N_DISTINCT + 2)
    batches = step.make_batches(samples)
    loader = torch.utils.data.DataLoader(samples, step.BATCH_SIZE)
    for batch, (x, y) in zip(batches, loader, strict=True):
        assert torch.equal(batch.x, x)
        assert torch.equal(batch.y, y)
    assert torch.equal(batches[0].x, batches[step.N_DISTINCT].x)


def test_other_weights_than_the_loops_are_refused():
    expected = step.run_loop(step.make_batches(step.Samples(2)))
    weights = {name: value.clone() for name, value in expected.items()}
    step.check_equal(weights, expected, "mine")
    weights["2.bias"][0] = torch.nextafter(weights["2.bias"][0], torch.tensor(9.0))
    with pytest.raises(RuntimeError, match=r"expected mine to end .* got others in 2\.bias"):
        step.check_equal(weights, expected, "mine")


def test_a_side_that_leaves_steps_out_is_refused():
    batches = step.make_batches(step.Samples(4))
    with pytest.raises(RuntimeError, match="expected 5 optimizer steps, got 4"):
        step.time_step(lambda: step.run_loop(batches), 5)


def test_the_table_shows_medians_of_pairs():
    one = step.Comparison("pytorch", "loop", 1.1)
    head, line = step.format_table({one: [(2e-6, 1e-6), (3e-6, 2e-6), (9e-6, 3e-6)]}).splitlines()
    assert head.split() == "routine against ratio quartiles target us of added".split()
    assert line.split() == "pytorch loop 2.000 1.750 2.500 1.10 3.0 2.0 +1.0".split()


@pytest.mark.parametrize("argument", ["--steps=1", "--pairs=1", "--processes=0"])
def test_too_few_repeats_are_refused(argument, capsys):
    with pytest.raises(SystemExit, match="2"):
        step.main([argument])
    assert "expected at least 2 steps, 2 pairs and 1 process" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_a_line_per_comparison():
    few = ["--only", "pytorch", "--steps", "5", "--pairs", "2", "--processes", "1"]
    command = [sys.executable, "-m", "benchmarks.step", *few]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = [line.split()[:2] for line in done.stdout.splitlines()]
    assert shown == [["routine", "against"], ["pytorch", "loop"]]
