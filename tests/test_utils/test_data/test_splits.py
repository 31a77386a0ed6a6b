"""Splits: every sample is on one side, the same one in every process."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from utils.data.splits import check_split, held_out, some

ROOT = Path(__file__).resolve().parents[3]
NAMES = [f"s{i}" for i in range(53)]


def hold(holdout=(), fold=None, seed=0, names=NAMES):
    held, problems = held_out(names, holdout, fold, seed, "files in data")
    assert not problems
    return held


def test_folds_share_all_samples_in_equal_parts():
    folds = [hold(fold=(i, 5)) for i in range(5)]
    assert sorted(map(len, folds)) == [10, 10, 11, 11, 11]
    assert set().union(*folds) == set(NAMES) and sum(map(len, folds)) == 53
    assert hold(fold=[0, 5], names=reversed(NAMES)) == folds[0]
    assert folds[0] != set(NAMES[::5])  # drawn, not counted off


@pytest.mark.parametrize("how", [{"holdout": 0.3}, {"fold": (1, 4)}])
def test_another_seed_is_another_draw(how):
    draws = [frozenset(hold(seed=seed, **how)) for seed in (0, 1, 2)]
    assert len(set(draws)) == 3
    assert hold(seed=1, **how) == draws[1]


def test_the_draw_is_the_same_in_another_process():
    code = (
        "from utils.data.splits import held_out;"
        "print(*sorted(held_out([f's{i}' for i in range(53)], 0.3, None, 7, '')[0]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == sorted(hold(0.3, seed=7))


def test_names_may_stand_for_whole_folders():
    names = ["berlin/1", "berlin/2", "rome/1", "rome/[a]", "rome/a"]
    assert hold(["berlin/*"], names=names) == {"berlin/1", "berlin/2"}
    assert hold(["rome/[a]", "*/2"], names=names) == {"rome/[a]", "berlin/2"}


@pytest.mark.parametrize(
    ("subset", "holdout", "fold", "seed", "problem"),
    [
        ("train", 0.2, (0, 5), 0, "fold: expected a fold or a holdout, got both"),
        ("all", (), (0, 5), 0, 'fold: expected none with subset "all"'),
        ("val", (), (5, 5), 0, r"fold: expected \[number from 0, how many\], .* got \(5, 5\)"),
        ("val", (), (0, 1), 0, "fold: expected"),
        ("val", (), 3, 0, "fold: expected .* got 3"),
        ("val", (), (0, 5.0), 0, "fold: expected"),
        ("val", 0.2, None, 1.5, "seed: expected a whole number, got 1.5"),
        ("vla", 0.2, None, 0, 'subset: .* Did you mean "val"?'),
    ],
)
def test_wrong_splits_are_described(subset, holdout, fold, seed, problem):
    (found,) = check_split(subset, holdout, fold, seed)
    assert re.match(problem, found)


def test_right_splits_have_no_problem():
    for arguments in (("all", (), None, 0), ("val", ["a"], None, 3), ("train", (), [2, 3], 0)):
        assert check_split(*arguments) == []


def test_a_share_leaves_none_of_two_sides_empty():
    assert len(hold(1e-9)) == 1 and len(hold(1 - 1e-9)) == 52
    assert hold(1e-9) < hold(0.1) < hold(0.5) < hold(1 - 1e-9)
    _, (problem,) = held_out(["s1"], 0.5, None, 0, "files in data")
    assert "expected some on both sides, got 0 of 1 held out by 0.5" in problem


def test_both_sides_must_have_samples():
    for holdout, fold, asked in ((["s*"], None, r"\['s\*'\]"), ((), (4, 5), r"fold \(4, 5\)")):
        _, (problem,) = held_out(["s1", "s2"], holdout, fold, 0, "files in data")
        assert "expected some on both sides, got" in problem
        assert asked.replace("\\", "") in problem
    _, (problem,) = held_out(["s1"], ["x", "y*"], None, 0, "files in data")
    assert problem.startswith("holdout: expected names of files in data, got x, y*.")


def test_long_lists_are_cut():
    assert some(list(range(12))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
