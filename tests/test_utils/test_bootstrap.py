import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from utils.bootstrap import ResampledSums, interval


def resample(values, n_resamples=50, seed=0, batch_size=64):
    """Return the sums over each resample, of values that come in batches."""
    resampled = ResampledSums(len(values), n_resamples, seed)
    for start in range(0, len(values), batch_size):
        resampled.add(values[start : start + batch_size])
    return resampled.sums()


@pytest.mark.parametrize("n_samples", [1, 2, 255, 256, 257, 1000])
def test_a_resample_has_as_many_samples_as_the_set(n_samples):
    times = resample(np.eye(n_samples))
    assert times.shape == (50, n_samples)
    assert (times.sum(axis=1) == n_samples).all()
    assert (times == times.round()).all() and times.min() >= 0


def test_samples_are_drawn_as_with_replacement():
    """Across the blocks in which they are drawn, too: a share of 256, one of 256 and one of 88."""
    n_samples = 600
    times = resample(np.eye(n_samples), n_resamples=4000)
    assert np.abs(times.mean(axis=0) - 1).max() < 5 / math.sqrt(4000)
    assert times.var(axis=0).mean() == pytest.approx(1 - 1 / n_samples, abs=0.01)
    halves = times[:, :256].sum(axis=1)  # binomial
    share = 256 / n_samples
    assert halves.mean() == pytest.approx(256, abs=1)
    assert halves.var() == pytest.approx(n_samples * share * (1 - share), rel=0.1)
    missing = (times == 0).mean()  # 1 / e of all sets lack a sample
    assert missing == pytest.approx((1 - 1 / n_samples) ** n_samples, abs=0.002)


def test_a_value_is_that_of_the_samples_drawn():
    """Against repeating the samples themselves."""
    rng = np.random.default_rng(1)
    truth, found = rng.integers(0, 2, (2, 300))
    counts = np.stack([truth & found, (1 - truth) & found, truth & (1 - found)], axis=1)
    sums, times = resample(counts, 20), resample(np.eye(300), 20)
    for (tp, fp, fn), each in zip(sums, times.astype(int), strict=True):
        expected = f1_score(np.repeat(truth, each), np.repeat(found, each))
        assert 2 * tp / (2 * tp + fp + fn) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 256, 700])
def test_the_size_of_the_batches_does_not_matter(batch_size):
    values = np.random.default_rng(2).normal(size=(700, 3))
    assert (resample(values, batch_size=batch_size) == resample(values)).all()


def test_another_seed_gives_other_sets():
    values = np.random.default_rng(2).normal(size=(70, 1))
    assert (resample(values, seed=1) != resample(values)).any()


@pytest.mark.parametrize("n_told", [2, 4])
def test_as_many_samples_as_were_told(n_told):
    with pytest.raises(ValueError, match=f"ResampledSums: expected {n_told} samples, got 3"):
        resampled = ResampledSums(n_told)
        resampled.add(np.zeros((3, 1)))
        resampled.sums()


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of a share of 0.3 in 200 sets of 400."""
    rng, n_held, widths = np.random.default_rng(3), 0, []
    for seed in range(200):
        values = (rng.random((400, 1)) < 0.3).astype(float)
        low, high = interval(resample(values, 400, seed)[:, 0] / 400)
        n_held += low <= 0.3 <= high
        widths.append(high - low)
    assert 0.90 <= n_held / 200 <= 0.99
    expected = 2 * 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert np.mean(widths) == pytest.approx(expected, rel=0.05)


def test_bounds_are_quantiles():
    values = np.arange(1001.0)
    assert interval(values) == pytest.approx((25, 975))
    assert interval(values, 0.5) == pytest.approx((250, 750))
    assert interval(np.append(values, math.nan)) == interval(values)
    assert all(map(math.isnan, interval(np.full(3, math.nan))))


def test_a_value_that_is_not_finite_touches_no_other():
    values = np.array([[1.0, math.nan, math.inf]] * 3 + [[2.0, 1.0, 1.0]])
    sums = resample(values, 20)
    assert np.isfinite(sums[:, 0]).all() and np.isnan(sums[:, 1]).all()
