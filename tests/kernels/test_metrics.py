"""Column-wise scores: every metric of the table keeps the same promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import r2_score

from kernels.arrays import gpu_available, to_device, to_host
from kernels.metrics import METRICS, constant, pearson_r, r2

# The slow independent version of each metric: (predicted column, observed column) -> score.
TWINS = {"pearson_r": lambda p, o: pearsonr(p, o).statistic, "r2": lambda p, o: r2_score(o, p)}


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    observed = rng.standard_normal((30, 7)) * 3 + 100
    return observed + rng.standard_normal((30, 7)), observed


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_equals_its_independent_twin(name, pair):
    predicted, observed = pair
    expected = [TWINS[name](p, o) for p, o in zip(predicted.T, observed.T, strict=True)]
    np.testing.assert_allclose(METRICS[name](predicted, observed), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_observations_given_back_score_one(name, pair):
    np.testing.assert_allclose(METRICS[name](pair[1], pair[1]), 1.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_constant_observations_are_not_measurable_and_spoil_no_other_column(name, pair):
    predicted, observed = pair
    spoiled = observed.copy()
    spoiled[:, 2] = 0.1  # its mean over 30 rows is not exactly .1
    scores = METRICS[name](predicted, spoiled)
    assert np.isnan(scores[2])
    others = np.arange(7) != 2
    np.testing.assert_array_equal(scores[others], METRICS[name](predicted, observed)[others])


@pytest.mark.parametrize("name", METRICS)
def test_a_shift_common_to_both_changes_nothing(name, pair):
    predicted, observed = pair
    shifted = METRICS[name](predicted - 100, observed - 100)
    np.testing.assert_allclose(shifted, METRICS[name](predicted, observed), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", METRICS)
def test_matrices_that_cannot_be_paired_are_refused(name, pair):
    with pytest.raises(ValueError, match=r"\(30, 7\).*\(29, 7\)"):
        METRICS[name](pair[0], pair[1][1:])


@pytest.mark.parametrize("name", METRICS)
def test_float32_is_computed_in_float64(name, pair):
    small = [matrix.astype(np.float32) for matrix in pair]
    assert METRICS[name](*small).dtype == np.float64
    np.testing.assert_array_equal(METRICS[name](*small), METRICS[name](*(m.astype(float) for m in small)))


def test_a_constant_prediction_has_no_correlation_but_an_r2(pair):
    flat = np.full_like(pair[1], 100.1)  # its mean over 30 rows is not exact
    assert np.isnan(pearson_r(flat, pair[1])).all()
    assert (r2(flat, pair[1]) <= 0).all()


def test_correlation_is_blind_to_scale_and_r2_is_not(pair):
    predicted, observed = pair
    np.testing.assert_allclose(pearson_r(predicted * 1e-9, observed), pearson_r(predicted, observed), atol=1e-12)
    assert (r2(predicted * 1e-9, observed) < r2(predicted, observed)).all()


def test_small_variation_about_a_large_mean_is_not_taken_for_constant():
    values = np.array([[1e6], [1e6 + 1e-6], [1e6]])
    assert not constant(values)[0]
    assert constant(np.array([[0.1], [np.nextafter(0.1, 1)], [0.1]]))[0]


@pytest.mark.skipif(not gpu_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_the_same_on_the_gpu(name, pair):
    on_device = METRICS[name](*(to_device(matrix) for matrix in pair))
    np.testing.assert_allclose(to_host(on_device), METRICS[name](*pair), rtol=0, atol=1e-12)
