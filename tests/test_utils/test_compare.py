import csv
import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from utils.compare import compare, line_up, mcnemar, read_samples


def write(path, rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path.parent


def make_run(folder, decided, truth, losses=None, names=None):
    """Write the samples.csv of a classification and return its folder."""
    rows = [
        {"index": i, "name": f"s{i}", "target": t, "prediction": p, "confidence": 0.9}
        for i, (p, t) in enumerate(zip(decided, truth, strict=True))
    ]
    for row in rows:
        row["f1"] = float(row["prediction"] == row["target"])
    for row, name in zip(rows, names or (), strict=False):
        row["name"] = name
    for row, loss in zip(rows, losses if losses is not None else (), strict=False):
        row["loss"] = loss
    return write(folder / "samples.csv", rows)


@pytest.fixture
def truth():
    return np.random.default_rng(0).integers(0, 3, 400)


def spoil(truth, n, seed):
    """Return the truth with n labels changed."""
    decided = truth.copy()
    chosen = np.random.default_rng(seed).permutation(len(truth))[:n]
    decided[chosen] = (decided[chosen] + 1) % 3
    return decided


def test_two_runs_that_differ_by_chance(tmp_path, truth):
    first, second = spoil(truth, 40, 1), spoil(truth, 44, 2)
    found = compare(make_run(tmp_path / "a", first, truth), make_run(tmp_path / "b", second, truth))
    value = found.differences["accuracy"]
    assert (value.a, value.b) == (accuracy_score(truth, first), accuracy_score(truth, second))
    assert value.low < 0 < value.high and value.p > 0.5 and not value.is_clear
    wrong, then = first != truth, second != truth
    assert found.n_samples == 400 and found.n_only == (0, 0)
    assert list(found.differences) == ["accuracy"]  # f1 of one sample is the same
    assert found.gained == [f"s{i}" for i in np.flatnonzero(wrong & ~then)]
    assert found.lost == [f"s{i}" for i in np.flatnonzero(~wrong & then)]
    assert found.both_wrong == [f"s{i}" for i in np.flatnonzero(wrong & then)]
    text = "\n".join(found.lines())
    assert "accuracy  0.9000 -> 0.8900  (-0.0100 [" in text and "not distinguishable" in text
    assert f"{len(found.gained)} gained, {len(found.lost)} lost" in text


def test_two_runs_that_differ_clearly(tmp_path, truth):
    rng = np.random.default_rng(3)
    losses = rng.exponential(size=400)
    a = make_run(tmp_path / "a", spoil(truth, 80, 1), truth, losses)
    b = make_run(
        tmp_path / "b", spoil(truth, 30, 2), truth, losses - 0.1 + rng.normal(size=400) / 10
    )
    accuracy, loss = (compare(a, b).differences[name] for name in ("accuracy", "loss"))
    assert accuracy.is_clear and accuracy.low > 0 and accuracy.p < 1e-4
    assert loss.is_clear and loss.p is None
    assert loss.b - loss.a == pytest.approx(-0.1, abs=0.02)
    # of the pairs, not of the values: their own spread is ten times as wide
    assert loss.high - loss.low == pytest.approx(4 * 0.1 / math.sqrt(400), rel=0.1)
    lines = compare(a, b).lines()
    assert sum(line.endswith("): different") for line in lines) == 2


def test_one_set_with_itself(tmp_path, truth):
    run = make_run(tmp_path / "a", spoil(truth, 30, 1), truth, np.ones(400))
    found = compare(run, run / "samples.csv")
    assert not any(d.is_clear for d in found.differences.values())
    assert found.differences["accuracy"].p == 1.0 and not found.gained and not found.lost


def test_no_difference_is_seldom_called_one(tmp_path, truth):
    """At a level of 5 %, of two runs that are wrong by chance alone."""
    clear = 0
    for seed in range(40):
        a = make_run(tmp_path / "a", spoil(truth, 40, 2 * seed), truth)
        b = make_run(tmp_path / "b", spoil(truth, 40, 2 * seed + 1), truth)
        clear += compare(a, b, n_resamples=200, seed=seed).differences["accuracy"].is_clear
    assert clear <= 5


def test_samples_are_matched_by_name(tmp_path):
    a = make_run(tmp_path / "a", [0, 1, 1], [0, 1, 2], names=["p", "q", "r"])
    b = make_run(tmp_path / "b", [2, 1, 0], [2, 1, 0], names=["r", "q", "x"])
    found = compare(a, b)
    assert found.n_samples == 2 and found.n_only == (1, 1) and found.gained == ["r"]
    assert "1 of the first alone, 1 of the second alone" in found.lines()
    twice = make_run(tmp_path / "c", [0, 1, 1], [0, 1, 2], names=["p", "p", "r"])
    assert compare(a, twice).n_samples == 3  # by their numbers


def test_values_of_a_segmentation(tmp_path):
    rows = [{"index": i, "name": i, "confidence": 0.9, "iou": i / 10, "f1": ""} for i in range(8)]
    a = write(tmp_path / "a" / "samples.csv", rows)
    better = [row | {"iou": row["iou"] + 0.1 + row["index"] / 100} for row in rows]
    found = compare(a, write(tmp_path / "b" / "samples.csv", better))
    assert list(found.differences) == ["iou"] and found.differences["iou"].is_clear
    assert found.gained == found.both_wrong == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "other"}, "expected the samples of .*a, got none of them"),
        ({"target": 5}, 'got another target of "x"'),
        ({"confidence": None, "loss": None}, "expected a value in common with .*a, got none"),
    ],
)
def test_what_cannot_be_compared(tmp_path, change, problem):
    row = {"index": 0, "name": "x", "target": 1, "prediction": 1, "confidence": 0.5, "loss": 1.0}
    a = write(tmp_path / "a" / "samples.csv", [row])
    changed = {key: value for key, value in (row | change).items() if value is not None}
    b = write(tmp_path / "b" / "samples.csv", [changed])
    with pytest.raises(ValueError, match=problem):
        compare(a, b)


def test_files_that_are_no_ledger(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_samples(tmp_path)
    (tmp_path / "samples.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected rows with the columns index and name, got a, b"):
        read_samples(tmp_path)
    (tmp_path / "samples.csv").write_bytes(b"index,name\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="expected a samples.csv, got"):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1), (1, 0, 1), (5, 0, 1 / 16), (9, 1, 22 / 1024)]
)
def test_mcnemar_of_small_numbers(gained, lost, p):
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == p


def test_mcnemar_is_the_binomial_test():
    from scipy.stats import binomtest

    for gained, lost in ((30, 50), (400, 460), (5000, 5200)):
        assert mcnemar(gained, lost) == pytest.approx(binomtest(gained, gained + lost).pvalue)


def test_runs_side_by_side(tmp_path):
    truth, names = [0, 1, 2], ["p", "q", "r"]
    runs = {
        "a": make_run(tmp_path / "a", [0, 2, 1], truth, [0.1, 0.9, 0.8], names),
        "b": make_run(tmp_path / "b", [0, 1, 1], truth, [0.1, 0.2, 0.7], names),
        "c": make_run(tmp_path / "c", [0], [0], [0.3], ["p"]),
    }
    first, second, third = line_up(runs)
    assert first == {
        "name": "r", "target": "2", "n_wrong": 2,
        "a.prediction": "1", "a.confidence": "0.9", "a.loss": "0.8",
        "b.prediction": "1", "b.confidence": "0.9", "b.loss": "0.7",
    }  # fmt: skip
    assert (second["name"], second["n_wrong"]) == ("q", 1)
    assert third["c.prediction"] == "0" and third["n_wrong"] == 0
