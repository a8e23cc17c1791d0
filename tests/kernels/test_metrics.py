"""Metrics: properties that every metric has on every array library."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import pearsonr, zscore
from sklearn.metrics import explained_variance_score, r2_score

from harness.kernels.metrics import (
    METRICS,
    against_ceiling,
    brainscore_r,
    constant,
    explainable_variance,
    explained_variance,
    pearson_r,
    r2,
)


def brainscore_twin(p, o):
    """As in Brain-Score's code: each side is divided by its norm plus 1e-8."""
    p, o = p - p.mean(), o - o.mean()
    return ((o / (np.linalg.norm(o) + 1e-8)) * (p / (np.linalg.norm(p) + 1e-8))).sum()


# A slow independent implementation of each metric: (predicted column, observed column) -> score.
TWINS = {
    "pearson_r": lambda p, o: pearsonr(p, o).statistic,
    "r2": lambda p, o: r2_score(o, p),
    "brainscore_r": brainscore_twin,
    "explained_variance": lambda p, o: explained_variance_score(o, p),
}
STRICT = sorted(METRICS.keys() - {"brainscore_r"})  # NaN, where Brain-Score says 0


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    observed = rng.standard_normal((30, 7)) * 3 + 100
    return observed + rng.standard_normal((30, 7)), observed


@pytest.fixture
def score(library):
    """Compute a metric of host arrays on the library and copy the scores back."""
    return lambda metric, *arrays: library.get(metric(*(library.put(array) for array in arrays)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_equals_an_independent_implementation(name, dtype, pair, score):
    predicted, observed = (matrix.astype(dtype) for matrix in pair)
    columns = zip(predicted.T.astype(float), observed.T.astype(float), strict=True)
    expected = [TWINS[name](p, o) for p, o in columns]
    scores = score(METRICS[name], predicted, observed)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_transposed_view_scores_like_its_copy_and_is_not_modified(name, pair, library):
    (p, o), before = [library.put(np.ascontiguousarray(matrix.T)) for matrix in pair], pair[0].T.copy()
    scores = library.get(METRICS[name](p.T, o.T))
    expected = library.get(METRICS[name](*map(library.put, pair)))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-14)  # sums run in another order
    np.testing.assert_array_equal(library.get(p), before)


@pytest.mark.parametrize("name", METRICS)
def test_observations_as_predictions_score_one(name, pair, score):
    tolerance = 1e-8 if name == "brainscore_r" else 1e-12  # its epsilon, beside norms over 10
    np.testing.assert_allclose(score(METRICS[name], pair[1], pair[1]), 1.0, rtol=0, atol=tolerance)


@pytest.mark.parametrize("spoilt", [0.1, 0.0, 1e6, np.nan])  # the mean of 30 times .1 is not exactly .1
@pytest.mark.parametrize("name", STRICT)
def test_constant_observations_are_nan_and_do_not_affect_other_columns(name, spoilt, pair, score):
    predicted, observed = pair
    spoiled = observed.copy()
    spoiled[:, 2] = spoilt
    scores = score(METRICS[name], predicted, spoiled)
    assert np.isnan(scores[2])
    others = np.arange(7) != 2
    np.testing.assert_array_equal(scores[others], score(METRICS[name], predicted, observed)[others])


@pytest.mark.parametrize("name", METRICS)
def test_a_column_with_a_non_finite_value_is_nan(name, pair, score):
    for side in (0, 1):
        spoiled = [matrix.copy() for matrix in pair]
        spoiled[side][3, 2] = np.nan
        assert np.flatnonzero(np.isnan(score(METRICS[name], *spoiled))).tolist() == [2]


def test_brainscore_r_of_a_constant_is_zero(pair, score):
    flat = np.full_like(pair[1], 100.1)
    for arrays in ((flat, pair[1]), (pair[1], flat), (flat, flat)):
        np.testing.assert_allclose(score(brainscore_r, *arrays), 0.0, rtol=0, atol=1e-6)  # 100.1 is rounded


def test_brainscore_r_depends_on_the_unit(pair, score):
    assert (score(brainscore_r, pair[0] * 1e-9, pair[1]) < 0.9 * score(pearson_r, *pair)).all()


@pytest.mark.parametrize("name", METRICS)
def test_a_shift_common_to_both_changes_nothing(name, pair, score):
    shifted = score(METRICS[name], pair[0] - 100, pair[1] - 100)
    np.testing.assert_allclose(shifted, score(METRICS[name], *pair), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", METRICS)
def test_matrices_that_cannot_be_paired_are_refused(name, pair, library):
    predicted, observed = map(library.put, pair)
    with pytest.raises(ValueError, match=r"\(30, 7\).*\(29, 7\)"):
        METRICS[name](predicted, observed[1:])
    with pytest.raises(ValueError, match=r"\(30,\)"):
        METRICS[name](predicted[:, 0], observed[:, 0])
    with pytest.raises(ValueError, match=r"\(0, 7\)"):
        METRICS[name](predicted[:0], observed[:0])


def test_one_row_has_no_score(pair, score):
    for name in STRICT:
        assert np.isnan(score(METRICS[name], pair[0][:1], pair[1][:1])).all()


def test_a_constant_prediction_has_no_correlation_but_an_r2(pair, score):
    flat = np.full_like(pair[1], 100.1)  # its mean over 30 rows is not exact
    assert np.isnan(score(pearson_r, flat, pair[1])).all()
    assert (score(r2, flat, pair[1]) <= 0).all()
    np.testing.assert_allclose(score(explained_variance, flat, pair[1]), 0.0, atol=1e-12)


def test_correlation_ignores_scale_and_r2_does_not(pair, score):
    predicted, observed = pair
    r = score(pearson_r, predicted, observed)
    for scale in (1e-9, 1e-120):  # the product of the squares would be no number any more
        np.testing.assert_allclose(score(pearson_r, predicted * scale, observed * scale), r, atol=1e-12)
    assert (score(r2, predicted * 1e-9, observed) < score(r2, predicted, observed)).all()


def test_explained_variance_ignores_an_offset_and_r2_does_not(pair, score):
    predicted, observed = pair
    shifted = score(explained_variance, predicted + 5, observed)
    np.testing.assert_allclose(shifted, score(explained_variance, predicted, observed), atol=1e-12)
    assert (score(r2, predicted + 5, observed) < shifted).all()


def test_small_variation_about_a_large_mean_is_not_constant(library, score):
    wobbling = np.array([[1e6], [1e6 + 1e-6], [1e6]])
    rounded = np.array([[0.1], [np.nextafter(0.1, 1)], [0.1]])
    signal = np.array([[1.0], [3.0], [2.0]])
    assert not score(constant, wobbling)[0]
    assert score(constant, rounded)[0]
    assert np.isfinite(score(pearson_r, wobbling, signal)[0])
    assert np.isnan(score(pearson_r, rounded, signal)[0])


def test_one_differing_row_in_a_long_column_is_not_constant(score):
    """1,000 roundings are 2e-13 of the mean; the sum of squares alone could not resolve 1e-12 in one row."""
    values = np.full((1000, 1), 1.0)
    values[7] += 1e-12
    assert np.isfinite(score(pearson_r, values, np.arange(1000.0)[:, None])[0])


def test_a_ratio_to_the_ceiling_is_not_clipped_and_needs_a_positive_ceiling(score):
    variance = np.array([0.1, -0.2, 0.6, 0.3, 0.3, 0.3, np.nan])
    ceiling = np.array([0.5, 0.5, 0.5, 0.0, -0.1, np.nan, 0.5])
    expected = [0.2, -0.4, 1.2, np.nan, np.nan, np.nan, np.nan]
    np.testing.assert_allclose(score(against_ceiling, variance, ceiling), expected, rtol=1e-14)


def test_correlations_are_squared_against_their_ceiling_and_keep_their_sign(score):
    r, ceiling = np.array([0.3, -0.3, 0.6]), np.array([0.6, 0.6, 0.5])
    shares = score(lambda *arrays: against_ceiling(*arrays, unit="correlation"), r, ceiling)
    np.testing.assert_allclose(shares, [0.25, -0.25, 1.44], rtol=1e-14)
    with pytest.raises(ValueError, match="'r'"):
        against_ceiling(r, ceiling, unit="r")
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        against_ceiling(r, ceiling[:2])


def test_predicting_the_true_signal_reaches_the_ceiling_in_either_unit(score):
    """The signal has variance 1, the noise 1/3: it explains 3/4 of the variance; 20,000 rows leave an error of 0.01."""
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((20_000, 3))
    data = signal + rng.standard_normal((4, 20_000, 3)) / np.sqrt(3)
    ceiling = score(explainable_variance, data)
    np.testing.assert_allclose(ceiling, 0.75, atol=0.01)
    shares = score(against_ceiling, score(explained_variance, signal, data[0]), ceiling)
    np.testing.assert_allclose(shares, 1.0, atol=0.02)
    r = score(pearson_r, signal, data[0])
    squared = score(lambda *arrays: against_ceiling(*arrays, unit="correlation"), r, np.sqrt(ceiling))
    np.testing.assert_allclose(squared, 1.0, atol=0.02)


@pytest.fixture
def repeats():
    rng = np.random.default_rng(0)
    scales = rng.uniform(1, 5, (4, 1, 6))
    return (rng.standard_normal((40, 6)) + rng.standard_normal((4, 40, 6))) * scales + 10 * scales


def test_corrected_explainable_variance_is_the_mean_correlation_of_two_repeats(repeats, score):
    for neuroid, share in enumerate(score(explainable_variance, repeats)):
        rs = [pearsonr(a, b).statistic for a, b in combinations(repeats[:, :, neuroid], 2)]
        assert share == pytest.approx(np.mean(rs), abs=1e-12)


def test_explainable_variance_is_the_variance_of_the_mean_over_the_mean_variance(repeats, score):
    z = zscore(repeats, axis=1)
    expected = z.mean(axis=0).var(axis=0, ddof=1) / z.var(axis=1, ddof=1).mean(axis=0)
    shares = score(lambda data: explainable_variance(data, bias_correction=False), repeats)
    np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(score(explainable_variance, repeats), expected - (1 - expected) / 3, atol=1e-12)


def test_a_neuroid_with_a_constant_or_broken_repeat_has_no_explainable_variance(repeats, score):
    spoiled = repeats.copy()
    spoiled[1, :, 2], spoiled[3, 5, 4] = 0.1, np.nan
    shares = score(explainable_variance, spoiled)
    assert np.flatnonzero(np.isnan(shares)).tolist() == [2, 4]
    np.testing.assert_array_equal(shares[[0, 1, 3, 5]], score(explainable_variance, repeats)[[0, 1, 3, 5]])


@pytest.mark.parametrize("shape", [(1, 40, 6), (4, 1, 6), (40, 6)])
def test_explainable_variance_needs_two_repeats_of_two_rows(shape, library):
    with pytest.raises(ValueError, match="at least 2 by 2"):
        explainable_variance(library.put(np.ones(shape)))
