"""Tests of single neuroids against brute force, and their false positives on autocorrelated noise."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from harness.protocol import WIDE_RIDGE, FoldRule, Protocol
from harness.records import Features, Layer, Responses
from harness.scoring import folds, held_out, permutation
from harness.scoring.held_out import HeldOutFold

INDEPENDENT = 0.0  # correlation of folds


def _responses(values, groups, blocks=None, times=False):
    n, v = values.shape
    ids, groups = tuple(f"r{i}" for i in range(n)), tuple(groups)
    names = tuple(f"v{k}" for k in range(v))
    times_s = np.arange(n) * 2.0 if times else None
    blocks = groups if blocks is None else tuple(blocks)
    values = values.astype(np.float32)
    return Responses(values, ids, groups, blocks, names, ("s",) * v, ("",) * v, "z", times_s=times_s)


def _folds(predicted, rows):
    level = np.zeros(predicted.shape[1])
    return [HeldOutFold("", own, predicted[own].astype(np.float32), level) for own in rows]


def _r(x, y):
    return float(np.corrcoef(x, y)[0, 1])


def test_groups_change_places_within_their_fold():
    """Two folds with three and two groups of four rows: 3! x 2! arrangements, all enumerated."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20))
    rows = [np.arange(12), np.arange(12, 20)]
    responses = _responses(y[:, None], np.repeat(list("abcde"), 4))
    test = permutation.test_neuroids(_folds(x[:, None], rows), responses, INDEPENDENT, 0)
    sums = [
        _r(x[:12], np.concatenate([y[4 * g : 4 * g + 4] for g in first]))
        + _r(x[12:], np.concatenate([y[12 + 4 * g : 16 + 4 * g] for g in second]))
        for first, second in product(permutations(range(3)), permutations(range(2)))
    ]
    assert test.p[0] == pytest.approx(np.mean(np.array(sums) >= sums[0] - 1e-6))
    assert test.p_min[0] == pytest.approx(1 / 12)


def test_scans_are_shifted_in_a_circle_within_each_story():
    """One fold of two stories of five and seven scans: 35 arrangements."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 12))
    responses = _responses(y[:, None], ["g"] * 12, ["a"] * 5 + ["b"] * 7, times=True)
    test = permutation.test_neuroids(_folds(x[:, None], [np.arange(12)]), responses, INDEPENDENT, 0)
    values = [
        _r(x, np.concatenate([np.roll(y[:5], -first), np.roll(y[5:], -second)]))
        for first, second in product(range(5), range(7))
    ]
    assert test.p[0] == pytest.approx(np.mean(np.array(values) >= values[0] - 1e-6))
    assert test.p_min[0] == pytest.approx(1 / 35)


def test_a_predicted_neuroid_has_the_smallest_p_and_an_unpredicted_one_has_none():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 3))
    y = x + 0.3 * rng.normal(size=x.shape)
    x[:, 2] = np.nan
    y[5, 0] = np.nan
    rows = np.array_split(np.arange(200), 10)
    responses = _responses(y, [f"g{i}" for i in range(200)])
    test = permutation.test_neuroids(_folds(x, rows), responses, 1 / 9, 0)
    assert test.p[:2] == pytest.approx(1 / (permutation.DRAWS + 1))
    assert test.p_min[:2] == pytest.approx(test.p[:2])
    assert np.isnan([test.p[2], test.p_min[2], test.q[2]]).all()
    assert test.q[:2] == pytest.approx(test.p[:2])


def test_rows_that_several_folds_test_leave_no_test():
    x = np.random.default_rng(3).normal(size=(20, 1))
    responses = _responses(x, [f"g{i}" for i in range(20)])
    test = permutation.test_neuroids(_folds(x, [np.arange(12), np.arange(8, 20)]), responses, INDEPENDENT, 0)
    assert np.isnan(test.p).all()


def test_missing_responses_are_left_out_of_the_permuted_rows():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 24, 2))
    y[[3, 17], 1] = np.nan
    rows = [np.arange(12), np.arange(12, 24)]
    responses = _responses(y, [f"g{i}" for i in range(24)])
    both = permutation.test_neuroids(_folds(x, rows), responses, INDEPENDENT, 0)
    kept = np.setdiff1d(np.arange(24), [3, 17])
    alone = _responses(y[kept, 1:], [f"g{i}" for i in kept])
    of_kept = _folds(x[kept, 1:], [np.arange(11), np.arange(11, 22)])
    assert both.p[1] == permutation.test_neuroids(of_kept, alone, INDEPENDENT, 0).p[0]


def test_q_is_benjamini_hochberg_over_the_neuroids_with_a_test():
    p = np.array([0.001, np.nan, 0.04, 0.03, 0.5])
    expected = stats.false_discovery_control([0.001, 0.04, 0.03, 0.5])
    assert permutation.benjamini_hochberg(p)[[0, 2, 3, 4]] == pytest.approx(expected)
    assert np.isnan(permutation.benjamini_hochberg(p)[1])


def test_noise_shared_by_neighbouring_scans_is_rarely_significant():
    """AR(1) features and responses in eight stories, leave one story out: 6 recordings of 60 neuroids.

    Without the correlation of folds 11 % of 1,200 neuroids have p < 0.05, with it 3 %.
    """
    p, uncorrected = [], []
    for seed in range(6):
        rng = np.random.default_rng([seed, 7])
        lengths = rng.integers(30, 60, size=8)
        X, Y = (np.concatenate([_autocorrelated(rng, length, v) for length in lengths]) for v in (10, 60))
        responses = _responses(Y, np.repeat([f"s{i}" for i in range(8)], lengths), times=True)
        protocol = Protocol("strict", "none", FoldRule("leave one group out"), WIDE_RIDGE, "nested")
        features = Features({Layer("decoder", 0): X.astype(np.float32)}, responses.row_ids)
        by_fold = held_out.predict(features, responses, protocol, np.zeros((8, 60), dtype=int))
        correlation = folds.correlation(folds.make(protocol.folds, responses.row_groups))
        assert correlation == pytest.approx(1 / 7)
        p.append(permutation.test_neuroids(by_fold, responses, correlation, seed).p)
        uncorrected.append(permutation.test_neuroids(by_fold, responses, INDEPENDENT, seed).p)
    assert 0.005 < np.mean(np.concatenate(p) < 0.05) < 0.07
    assert 0.4 < np.mean(np.concatenate(p) < 0.5) < 0.6
    assert np.mean(np.concatenate(uncorrected) < 0.05) > 0.07


def _autocorrelated(rng, n, v, phi=0.8):
    noise = rng.normal(size=(n + 50, v))
    for t in range(1, n + 50):
        noise[t] += phi * noise[t - 1]
    return noise[50:]
