"""The batched ridge equals slow and independent ways to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from kernels.arrays import gpu_available, to_device, to_host
from kernels.gram import design
from kernels.metrics import pearson_r
from kernels.ridge import Penalty, fit_fold, predict_held_out

ALPHAS = tuple(np.logspace(-3, 5, 9))
SHAPES = {"p<n": (60, 12), "p=n": (60, 48), "p>n": (60, 300)}
TRAIN, TEST = np.arange(12, 60), np.arange(12)
LABELS = np.repeat(np.arange(9), [3, 9, 5, 4, 7, 2, 6, 8, 4])  # blocks of unequal size over the 48 training rows


def planted(n: int, p: int, v: int = 25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features, and responses that follow them to a degree that differs between neuroids."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) / np.sqrt(1 + np.arange(p)) + 3
    signal = X @ rng.standard_normal((p, v))
    return X, signal * np.linspace(0, 2, v) + rng.standard_normal((n, v)) + 50


def predictions(X, Y, train, test, penalty, inner=None, scale="center"):
    """(test, neuroid) predictions less the training mean; NaN for neuroids that were left out."""
    predicted = np.full((len(test), Y.shape[1]), np.nan)
    for part in predict_held_out(design(X, scale), Y, train, test, penalty, inner):
        predicted[:, part.neuroids] = part.predicted
    return predicted


def left_out_errors(X, Y, labels, model) -> np.ndarray:
    """(neuroid,) sum of squared errors by fitting again without each block in turn."""
    error = np.zeros(Y.shape[1])
    for label in np.unique(labels):
        out = labels == label
        error += ((Y[out] - model.fit(X[~out], Y[~out]).predict(X[out])) ** 2).sum(axis=0)
    return error


def variation(Y) -> np.ndarray:
    return ((Y - Y.mean(axis=0)) ** 2).sum(axis=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_alphas_scores_and_r_are_those_of_scikit_learn(shape):
    X, Y = planted(*SHAPES[shape])
    fit = fit_fold(design(X), Y, TRAIN, TEST, Penalty(ALPHAS, tie="smaller"))
    theirs = RidgeCV(ALPHAS, alpha_per_target=True).fit(X[TRAIN], Y[TRAIN])
    assert len(set(theirs.alpha_)) > 3  # else equal alphas would prove little
    np.testing.assert_array_equal(fit.alpha, theirs.alpha_)
    np.testing.assert_allclose((1 - fit.inner) * variation(Y[TRAIN]) / len(TRAIN), -theirs.best_score_, rtol=1e-9)
    np.testing.assert_allclose(fit.r, pearson_r(theirs.predict(X[TEST]), Y[TEST]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_standardised_features_are_those_of_a_scaler_fitted_on_training_rows(shape):
    X, Y = planted(*SHAPES[shape])
    X[:, ::3] *= 1000
    X[TEST] *= 5  # would change the scales if test rows were looked at
    fit = fit_fold(design(X, "zscore"), Y, TRAIN, TEST, Penalty(ALPHAS, tie="smaller"))
    scaler = StandardScaler().fit(X[TRAIN])
    theirs = RidgeCV(ALPHAS, alpha_per_target=True).fit(scaler.transform(X[TRAIN]), Y[TRAIN])
    np.testing.assert_array_equal(fit.alpha, theirs.alpha_)
    expected = pearson_r(theirs.predict(scaler.transform(X[TEST])), Y[TEST])
    np.testing.assert_allclose(fit.r, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_leaving_out_blocks_equals_fitting_again_without_each(shape):
    X, Y = planted(*SHAPES[shape])
    fit = fit_fold(design(X), Y, TRAIN, TEST, Penalty(ALPHAS), LABELS)
    errors = np.stack(
        [left_out_errors(X[TRAIN], Y[TRAIN], LABELS, Ridge(alpha, solver="cholesky")) for alpha in ALPHAS]
    )
    np.testing.assert_array_equal(fit.alpha, np.array(ALPHAS)[errors.argmin(axis=0)])
    np.testing.assert_allclose(fit.inner, 1 - errors.min(axis=0) / variation(Y[TRAIN]), rtol=0, atol=1e-9)
    single = fit_fold(design(X), Y, TRAIN, TEST, Penalty(ALPHAS))
    assert not np.array_equal(fit.alpha, single.alpha)  # the blocks matter here


def test_blocks_of_one_row_are_leave_one_out():
    X, Y = planted(60, 100)
    singles = np.random.default_rng(0).permutation(len(TRAIN))
    ours, theirs = (fit_fold(design(X), Y, TRAIN, TEST, Penalty(ALPHAS), inner) for inner in (singles, None))
    np.testing.assert_array_equal(ours.inner, theirs.inner)


@pytest.mark.parametrize("labels", [None, LABELS], ids=["rows", "blocks"])
@pytest.mark.parametrize("v", [25, 200], ids=["v<n", "v>n"])
def test_one_alpha_for_all_has_the_least_error_summed_over_neuroids(v, labels):
    X, Y = planted(60, 40, v)
    fit = fit_fold(design(X), Y, TRAIN, TEST, Penalty(ALPHAS, per_neuroid=False), labels)
    singles = [fit_fold(design(X), Y, TRAIN, TEST, Penalty((alpha,)), labels) for alpha in ALPHAS]
    totals = [((1 - single.inner) * variation(Y[TRAIN])).sum() for single in singles]
    best = int(np.argmin(totals))
    assert 0 < best < len(ALPHAS) - 1
    np.testing.assert_array_equal(fit.alpha, ALPHAS[best])
    np.testing.assert_allclose(fit.r, singles[best].r, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fit.inner, singles[best].inner, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_features", [12, 300])
def test_least_squares_is_the_minimum_norm_solution(n_features):
    X, Y = planted(60, n_features)
    X[:, 5] = X[:, 2] + X[:, 3]  # rank-deficient also where p < n
    theirs = LinearRegression(tol=1e-9).fit(X[TRAIN], Y[TRAIN])
    ours = predictions(X, Y, TRAIN, TEST, Penalty()) + Y[TRAIN].mean(axis=0)
    np.testing.assert_allclose(ours, theirs.predict(X[TEST]), rtol=0, atol=1e-8)
    fit = fit_fold(design(X), Y, TRAIN, TEST, Penalty())
    assert fit.rank == min(n_features - 1, 47)
    assert (fit.alpha == 0).all()
    assert np.isnan([fit.at_low, fit.at_high]).all()


@pytest.mark.parametrize("labels", [np.arange(48), LABELS], ids=["rows", "blocks"])
def test_least_squares_is_scored_inside_the_training_rows_too(labels):
    X, Y = planted(60, 12)
    fit = fit_fold(design(X), Y, TRAIN, TEST, Penalty(), labels)
    errors = left_out_errors(X[TRAIN], Y[TRAIN], labels, LinearRegression())
    np.testing.assert_allclose(fit.inner, 1 - errors / variation(Y[TRAIN]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("labels", [None, LABELS], ids=["rows", "blocks"])
def test_least_squares_that_fits_every_row_exactly_says_nothing_inside(labels):
    X, Y = planted(60, 300)
    fit = fit_fold(design(X), Y, TRAIN, TEST, Penalty(), labels)
    assert np.isnan(fit.inner).all()
    assert np.isfinite(fit.r).all()


@pytest.mark.parametrize("labels", [None, LABELS], ids=["rows", "blocks"])
def test_least_squares_that_fits_one_row_exactly_says_nothing_inside(labels):
    for row in TRAIN[:12]:
        X, Y = planted(60, 12)
        X[:, 0] = 0
        X[row, 0] = 1  # a feature of one row alone, which no other row can predict
        fit = fit_fold(design(X), Y, TRAIN, TEST, Penalty(), labels)
        assert fit.rank == 12
        assert np.isnan(fit.inner).all()
        assert np.isfinite(fit.r).all()


def test_a_relative_grid_is_a_multiple_of_the_mean_eigenvalue():
    X, Y = planted(60, 100)
    Z = X[TRAIN] - X[TRAIN].mean(axis=0)
    unit = (Z**2).sum() / len(TRAIN)
    relative = fit_fold(design(X), Y, TRAIN, TEST, Penalty(ALPHAS, relative=True))
    absolute = fit_fold(design(X), Y, TRAIN, TEST, Penalty(tuple(alpha * unit for alpha in ALPHAS)))
    np.testing.assert_allclose(relative.alpha, absolute.alpha, rtol=1e-12)
    louder = fit_fold(design(1000 * X), Y, TRAIN, TEST, Penalty(ALPHAS, relative=True))
    np.testing.assert_allclose(louder.r, relative.r, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("scale", "is_blind"), [("center", True), ("zscore", False)])
def test_rotating_features_leaves_predictions_alone_unless_they_are_standardised_after_it(scale, is_blind):
    X, Y = planted(60, 30)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((30, 30)))[0]
    before, after = (
        predictions(features, Y, TRAIN, TEST, Penalty(ALPHAS), scale=scale) for features in (X, X @ rotation)
    )
    assert np.allclose(before, after, rtol=0, atol=1e-9) == is_blind


@pytest.mark.parametrize(("scale", "wobble"), [("center", 0), ("zscore", 0), ("zscore", 1e-4)])
def test_columns_that_are_constant_but_for_rounding_leave_predictions_alone(scale, wobble):
    X, Y = planted(60, 30)
    flat = np.array([0.1, 0.0, 1e4]) + wobble * np.random.default_rng(1).standard_normal((60, 3)) * [0, 0, 1]
    before, after = (predictions(Z, Y, TRAIN, TEST, Penalty(ALPHAS), scale=scale) for Z in (X, np.hstack([X, flat])))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-10)


@pytest.mark.parametrize("labels", [None, LABELS], ids=["rows", "blocks"])
def test_neuroids_that_miss_rows_are_fitted_without_them(labels):
    X, Y = planted(60, 30, v=6)
    Y[20:30, [1, 4]] = np.nan  # training rows
    Y[5, 2] = np.nan  # a test row
    Y[TRAIN[1:], 3] = np.nan  # nothing to learn from a single row
    Y[TEST, 5] = np.nan  # nothing to be tested on
    fit = fit_fold(design(X), Y, TRAIN, TEST, Penalty(ALPHAS), labels)
    for neuroid in (0, 1, 2, 4):
        have = np.isfinite(Y[:, neuroid])
        train, test = TRAIN[have[TRAIN]], TEST[have[TEST]]
        inner = None if labels is None else labels[have[TRAIN]]
        alone = fit_fold(design(X), Y[:, [neuroid]], train, test, Penalty(ALPHAS), inner)
        assert fit.alpha[neuroid] == alone.alpha[0]
        np.testing.assert_allclose([fit.r[neuroid], fit.inner[neuroid]], [alone.r[0], alone.inner[0]], atol=1e-12)
    assert np.isnan([fit.r[[3, 5]], fit.alpha[[3, 5]], fit.inner[[3, 5]]]).all()


@pytest.mark.parametrize("per_neuroid", [True, False])
def test_a_neuroid_that_is_constant_in_training_is_not_measurable_and_spoils_no_other(per_neuroid):
    X, Y = planted(60, 30)
    spoiled = Y.copy()
    spoiled[TRAIN, 7] = 0.1
    before, after = (
        fit_fold(design(X), y, TRAIN, TEST, Penalty(ALPHAS, per_neuroid=per_neuroid)) for y in (Y, spoiled)
    )
    assert np.isnan([after.r[7], after.alpha[7], after.inner[7]]).all()
    others = np.arange(25) != 7
    np.testing.assert_allclose(after.r[others], before.r[others], rtol=0, atol=1e-9)


def test_features_that_do_not_vary_measure_nothing():
    _, Y = planted(60, 1)
    fit = fit_fold(design(np.full((60, 8), 0.1)), Y, TRAIN, TEST, Penalty(ALPHAS))
    assert fit.rank == 0
    assert np.isnan([fit.r, fit.alpha, fit.inner]).all()
    assert np.isnan([fit.at_low, fit.at_high]).all()


def test_massive_activations_lose_no_precision():
    X, Y = planted(60, 300)
    X[:, :4] = X[:, :4] * 1e4 + 1e4
    X = X.astype(np.float32)
    fit = fit_fold(design(X), Y, TRAIN, TEST, Penalty(ALPHAS, tie="smaller"))
    theirs = RidgeCV(ALPHAS, alpha_per_target=True, gcv_mode="svd").fit(X[TRAIN].astype(float), Y[TRAIN])
    np.testing.assert_array_equal(fit.alpha, theirs.alpha_)
    np.testing.assert_allclose(fit.r, pearson_r(theirs.predict(X[TEST].astype(float)), Y[TEST]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("penalty", [Penalty(ALPHAS), Penalty(ALPHAS, per_neuroid=False), Penalty()])
def test_the_size_of_the_blocks_of_neuroids_changes_nothing(penalty):
    X, Y = planted(60, 40, v=100)
    whole, one_by_one = (fit_fold(design(X), Y, TRAIN, TEST, penalty, None, budget) for budget in (2**30, 1))
    np.testing.assert_array_equal(whole.alpha, one_by_one.alpha)
    np.testing.assert_allclose(whole.r, one_by_one.r, rtol=0, atol=1e-12)
    np.testing.assert_allclose(whole.inner, one_by_one.inner, rtol=0, atol=1e-12)


def test_a_planted_signal_comes_back_and_noise_gives_none():
    rng = np.random.default_rng(0)
    X, noise = rng.standard_normal((400, 50)), rng.standard_normal((400, 200))
    signal = X @ rng.standard_normal((50, 200)) / np.sqrt(50)
    train, test = np.arange(300), np.arange(300, 400)
    alphas = Penalty(tuple(np.logspace(-1, 6, 8)))
    assert fit_fold(design(X), signal + 0.1 * noise, train, test, alphas).r.min() > 0.97
    # A mean over 200 neuroids of r with sd 1 / sqrt(100): four standard errors are .028.
    assert abs(np.nanmean(fit_fold(design(X), noise, train, test, alphas).r)) < 0.028


def test_equal_errors_keep_the_larger_alpha_or_the_smaller_where_asked():
    X, Y = planted(60, 30)
    alike = tuple(np.logspace(17, 19, 9))  # all shrink everything to nothing; errors differ by a few roundings
    for tie, kept in (("larger", alike[-1]), ("smaller", alike[0])):
        assert (fit_fold(design(X), Y, TRAIN, TEST, Penalty(alike, tie=tie)).alpha == kept).all()


def test_the_shares_at_the_ends_of_the_grid_are_counted():
    X, Y = planted(60, 30)
    Y[:, 0] = 1.0  # not measurable, so not counted
    fit = fit_fold(design(X), Y, TRAIN, TEST, Penalty((100.0, 1.0, 10.0)))
    measured = fit.alpha[1:]
    assert fit.at_low == np.mean(measured == 1.0) > 0
    assert fit.at_high == np.mean(measured == 100.0) > 0
    assert fit.at_low + fit.at_high < 1


@pytest.mark.parametrize(("train", "test"), [([], [0, 1]), ([0, 1, 2], [])])
def test_a_fold_without_rows_on_a_side_is_an_error(train, test):
    X, Y = planted(60, 5)
    with pytest.raises(ValueError, match="both sides must have rows"):
        fit_fold(design(X), Y, np.array(train, dtype=int), np.array(test, dtype=int), Penalty(ALPHAS))


@pytest.mark.parametrize("alphas", [(0.0, 1.0), (-1.0,), (np.inf,), (np.nan,)])
def test_alphas_that_are_no_penalties_are_refused(alphas):
    with pytest.raises(ValueError, match="positive"):
        Penalty(alphas)


def test_inner_blocks_must_be_two_at_least():
    X, Y = planted(60, 5)
    with pytest.raises(ValueError, match="one number"):
        fit_fold(design(X), Y, TRAIN, TEST, Penalty(ALPHAS), np.zeros(48, dtype=int))


@pytest.mark.skipif(not gpu_available(), reason="needs a GPU")
@pytest.mark.parametrize("labels", [None, LABELS], ids=["rows", "blocks"])
@pytest.mark.parametrize("penalty", [Penalty(ALPHAS), Penalty(ALPHAS, per_neuroid=False), Penalty()])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gpu_gives_the_same_numbers(shape, penalty, labels):
    X, Y = planted(*SHAPES[shape], v=200)
    Y[20:30, 3] = np.nan
    host = fit_fold(design(X), Y, TRAIN, TEST, penalty, labels)
    device = fit_fold(design(to_device(X)), to_device(Y), TRAIN, TEST, penalty, labels)
    np.testing.assert_array_equal(to_host(device.alpha), host.alpha)
    np.testing.assert_allclose(to_host(device.r), host.r, rtol=0, atol=1e-9)
    np.testing.assert_allclose(to_host(device.inner), host.inner, rtol=0, atol=1e-9)
