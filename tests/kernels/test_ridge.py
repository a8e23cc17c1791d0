"""The batched ridge equals slow, independent implementations."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from harness.kernels.gram import design
from harness.kernels.metrics import pearson_r, r2
from harness.kernels.ridge import Penalty, Split, fit_folds, predict_held_out, response_factors
from tests.kernels.planted import (
    ALPHAS,
    BLOCKS,
    LABELS,
    MANY,
    SHAPES,
    SINGLE,
    TEST,
    TRAIN,
    assert_same_fit,
    fit,
    left_out_errors,
    planted,
    variation,
)

SPLITS = pytest.mark.parametrize("split", [SINGLE, BLOCKS], ids=["rows", "blocks"])


def predictions(X, Y, penalty, split=SINGLE, library=None, scale="center"):
    """(test, neuroid) predictions minus the training mean; NaN for neuroids that were left out."""
    X, Y = (X, Y) if library is None else (library.put(X), library.put(Y))
    predicted = np.full((len(split.test), Y.shape[1]), np.nan)
    for part in predict_held_out(design(X, scale), Y, split, penalty):
        predicted[:, part.neuroids] = part.predicted if library is None else library.get(part.predicted)
    return predicted


@cache
def refitted(shape, v):
    """(alpha, neuroid) errors of refits without each block of training rows; slow, so cached for all libraries."""
    X, Y = planted(*SHAPES[shape], v)
    models = [Ridge(alpha, solver="cholesky") for alpha in ALPHAS]
    return np.stack([left_out_errors(X[TRAIN], Y[TRAIN], LABELS, model) for model in models])


@pytest.mark.parametrize("shape", SHAPES)
def test_alphas_scores_and_r_equal_scikit_learn(shape, library):
    X, Y = planted(*SHAPES[shape])
    ours = fit(X, Y, SINGLE, Penalty(ALPHAS, tie="smaller"), library)
    theirs = RidgeCV(ALPHAS, alpha_per_target=True).fit(X[TRAIN], Y[TRAIN])
    assert len(set(theirs.alpha_)) > 3  # else equal alphas would prove little
    np.testing.assert_array_equal(ours.alpha, theirs.alpha_)
    np.testing.assert_array_equal(np.array(ALPHAS)[ours.place.astype(int)], ours.alpha)
    np.testing.assert_allclose((1 - ours.inner) * variation(Y[TRAIN]) / len(TRAIN), -theirs.best_score_, rtol=1e-9)
    np.testing.assert_allclose(ours.r, pearson_r(theirs.predict(X[TEST]), Y[TEST]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_standardised_features_equal_a_scaler_fitted_on_training_rows(shape, library):
    X, Y = planted(*SHAPES[shape])
    X[:, ::3] *= 1000
    X[TEST] *= 5  # would change the scales if test rows were looked at
    ours = fit(X, Y, SINGLE, Penalty(ALPHAS, tie="smaller"), library, "zscore")
    scaler = StandardScaler().fit(X[TRAIN])
    theirs = RidgeCV(ALPHAS, alpha_per_target=True).fit(scaler.transform(X[TRAIN]), Y[TRAIN])
    np.testing.assert_array_equal(ours.alpha, theirs.alpha_)
    expected = pearson_r(theirs.predict(scaler.transform(X[TEST])), Y[TEST])
    np.testing.assert_allclose(ours.r, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("v", [25, MANY], ids=["blocks", "triangles"])
@pytest.mark.parametrize("shape", SHAPES)
def test_leaving_out_blocks_equals_fitting_again_without_each(shape, v, library):
    X, Y = planted(*SHAPES[shape], v)
    ours, errors = fit(X, Y, BLOCKS, library=library), refitted(shape, v)
    np.testing.assert_array_equal(ours.alpha, np.array(ALPHAS)[errors.argmin(axis=0)])
    np.testing.assert_allclose(ours.inner, 1 - errors.min(axis=0) / variation(Y[TRAIN]), rtol=0, atol=1e-9)
    assert not np.array_equal(ours.alpha, fit(X, Y).alpha)  # the blocks matter here


def test_blocks_of_one_row_are_leave_one_out():
    X, Y = planted(60, 100)
    singles = np.random.default_rng(0).permutation(len(TRAIN))
    np.testing.assert_array_equal(fit(X, Y, Split(TRAIN, TEST, singles)).inner, fit(X, Y).inner)


@SPLITS
@pytest.mark.parametrize("v", [25, MANY], ids=["v<n", "v>n"])
def test_one_alpha_for_all_has_the_least_error_summed_over_neuroids(v, split, library):
    X, Y = planted(60, 40, v)
    ours = fit(X, Y, split, Penalty(ALPHAS, per_neuroid=False), library)
    singles = [fit(X, Y, split, Penalty((alpha,))) for alpha in ALPHAS]
    totals = [((1 - single.inner) * variation(Y[TRAIN])).sum() for single in singles]
    best = int(np.argmin(totals))
    assert 0 < best < len(ALPHAS) - 1
    np.testing.assert_array_equal(ours.alpha, ALPHAS[best])
    np.testing.assert_array_equal(ours.place, best)
    np.testing.assert_allclose(ours.r, singles[best].r, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.inner, singles[best].inner, rtol=0, atol=1e-12)


@pytest.mark.parametrize("budget", [None, 1], ids=["at once", "neuroid by neuroid"])
@pytest.mark.parametrize("v", [25, MANY], ids=["v<n", "v>n"])
def test_with_response_factors_some_neuroids_get_the_alpha_of_all(v, budget, library):
    X, Y = planted(60, 40, v)
    Y[30, ::3] = np.nan
    few = [0, 1, 3, 5]  # of both patterns, and those that follow the features least: alone they want another alpha
    penalty = Penalty(ALPHAS, per_neuroid=False)
    every, alone = fit(X, Y, BLOCKS, penalty, library), fit(X, Y[:, few], BLOCKS, penalty, library)
    factors = response_factors(library.put(Y), budget)
    together = fit(X, Y[:, few], BLOCKS, penalty, library, factors=factors)
    np.testing.assert_array_equal(together.alpha, every.alpha[few])
    assert (alone.alpha != every.alpha[few]).any()
    for present, Z in factors.items():
        rows = np.unpackbits(np.frombuffer(present, dtype=np.uint8), count=len(Y)).astype(bool)
        y = np.where(rows[:, None], Y, 0)[:, (np.isfinite(Y) == rows[:, None]).all(axis=0)]
        y[rows] -= y[rows].mean(axis=0)
        Z = library.get(Z)
        assert Z.shape[1] <= min(y.shape)
        np.testing.assert_allclose(Z @ Z.T, y @ y.T, rtol=0, atol=1e-11 * (y * y).sum())


@pytest.mark.parametrize("n_features", [12, 300])
def test_least_squares_is_the_minimum_norm_solution(n_features, library):
    X, Y = planted(60, n_features)
    X[:, 5] = X[:, 2] + X[:, 3]  # rank-deficient also where p < n
    theirs = LinearRegression(tol=1e-9).fit(X[TRAIN], Y[TRAIN])
    ours = predictions(X, Y, Penalty(), library=library) + Y[TRAIN].mean(axis=0)
    np.testing.assert_allclose(ours, theirs.predict(X[TEST]), rtol=0, atol=1e-8)
    found = fit(X, Y, SINGLE, Penalty(), library)
    assert found.rank == min(n_features - 1, 47)
    assert (found.alpha == 0).all()
    assert (found.place == 0).all()


@pytest.mark.parametrize("labels", [np.arange(48), LABELS], ids=["rows", "blocks"])
def test_least_squares_is_scored_inside_the_training_rows_too(labels, library):
    X, Y = planted(60, 12)
    found = fit(X, Y, Split(TRAIN, TEST, labels), Penalty(), library)
    errors = left_out_errors(X[TRAIN], Y[TRAIN], labels, LinearRegression())
    np.testing.assert_allclose(found.inner, 1 - errors / variation(Y[TRAIN]), rtol=0, atol=1e-9)


def fitted_exactly():
    """Features that fit rows exactly: all rows, single rows by their own feature, a wide part, repeated rows."""
    rng = np.random.default_rng(1)
    alone, part = rng.standard_normal((2, 60, 40))
    alone[:, :5], part[30:, :3], part[:30, 3:] = np.eye(60)[:, 12:17], 0, 0  # rows from 12 on train
    wide = rng.standard_normal((60, 300))
    return {"all": wide, "some": alone[:, :15], "a part": part, "twins": wide[np.r_[:30, :30]]}


@pytest.mark.parametrize("how", fitted_exactly())
def test_least_squares_that_fits_rows_exactly_equals_refits(how, library):
    X, Y = fitted_exactly()[how], planted(60, 300)[1]
    Y[TRAIN[7], 0] = Y[TRAIN[20], 1] = np.nan  # neuroids that have different rows
    found, mixed = (fit(X, Y, SINGLE, Penalty(), library, precision=each) for each in ("float64", "mixed"))
    np.testing.assert_allclose(1 - mixed.inner, 1 - found.inner, rtol=1e-5)
    for neuroid in range(Y.shape[1]):
        rows = TRAIN[np.isfinite(Y[TRAIN, neuroid])]
        y, errors = Y[rows, neuroid], []
        for k in range(len(rows)):
            others = np.delete(rows, k)
            centre, level = X[others].mean(axis=0), np.delete(y, k).mean()
            weights = np.linalg.pinv(X[others] - centre, rcond=1e-9) @ (np.delete(y, k) - level)
            errors.append(y[k] - level - (X[rows[k]] - centre) @ weights)
        assert found.inner[neuroid] == pytest.approx(1 - np.square(errors).sum() / variation(y[:, None])[0], abs=1e-9)


def test_least_squares_that_fits_a_block_exactly_has_no_inner_score():
    X, Y = planted(60, 300, MANY)
    found = fit(X, Y, BLOCKS, Penalty())
    assert np.isnan(found.inner).all()
    assert np.isfinite(found.r).all()


def test_a_relative_grid_is_a_multiple_of_the_mean_eigenvalue():
    X, Y = planted(60, 100)
    Z = X[TRAIN] - X[TRAIN].mean(axis=0)
    unit = (Z**2).sum() / len(TRAIN)
    relative = fit(X, Y, SINGLE, Penalty(ALPHAS, relative=True))
    assert_same_fit(relative, fit(X, Y, SINGLE, Penalty(tuple(alpha * unit for alpha in ALPHAS))))
    louder = fit(1000 * X, Y, SINGLE, Penalty(ALPHAS, relative=True))
    np.testing.assert_allclose(louder.r, relative.r, rtol=0, atol=1e-9)


@SPLITS
@pytest.mark.parametrize("precision", ["float64", "mixed"])
@pytest.mark.parametrize("threads", [1, 2])
def test_neuroids_that_miss_rows_are_fitted_without_them(split, precision, threads, library):
    X, Y = planted(60, 30, v=6)
    Y[20:30, [1, 4]] = np.nan  # training rows
    Y[5, 2] = np.nan  # a test row
    Y[TRAIN[1:], 3] = np.nan  # nothing to learn from a single row
    Y[TEST, 5] = np.nan  # nothing to be tested on
    found = fit(X, Y, split, library=library, precision=precision, threads=threads)
    tolerance = {"float64": 1e-12, "mixed": 1e-5}[precision]  # float32 has 7 digits
    for neuroid in (0, 1, 2, 4):
        have = np.isfinite(Y[:, neuroid])
        inner = None if split.inner is None else split.inner[have[TRAIN]]
        alone = fit(X, Y[:, [neuroid]], Split(TRAIN[have[TRAIN]], TEST[have[TEST]], inner))
        assert found.alpha[neuroid] == alone.alpha[0]
        np.testing.assert_allclose(
            [found.r[neuroid], found.inner[neuroid]], [alone.r[0], alone.inner[0]], rtol=0, atol=tolerance
        )
    assert np.isnan([row[[3, 5]] for row in found[:4]]).all()


@pytest.mark.parametrize("precision", ["float64", "mixed"])
@pytest.mark.parametrize("per_neuroid", [True, False])
@pytest.mark.parametrize("p", [30, 300], ids=["p<n", "p>n"])
@pytest.mark.parametrize("value", [0.0, 0.1, -3e4])
def test_a_neuroid_constant_in_training_is_nan_and_does_not_affect_others(value, p, per_neuroid, precision, library):
    X, Y = planted(60, p)
    spoiled = Y.copy()
    spoiled[TRAIN, 7] = value
    before, after = (
        fit(X, y, SINGLE, Penalty(ALPHAS, per_neuroid=per_neuroid), library, precision=precision) for y in (Y, spoiled)
    )
    assert np.isnan([row[7] for row in after[:4]]).all()
    others = np.arange(25) != 7
    if per_neuroid:  # one alpha for all may be another where a neuroid has gone
        np.testing.assert_array_equal(after.alpha[others], before.alpha[others])
    np.testing.assert_allclose(after.r[others], before.r[others], rtol=0, atol=1e-9)


def test_constant_features_give_nan(library):
    _, Y = planted(60, 1)
    found = fit(np.full((60, 8), 0.1), Y, library=library)
    assert found.rank == 0
    assert np.isnan(found[:4]).all()


def test_folds_fitted_together_equal_folds_fitted_alone(library):
    X, Y = planted(60, 40, v=70)
    Y[33, ::2] = np.nan
    splits = [BLOCKS, Split(np.arange(40), np.arange(40, 60)), Split(np.arange(1, 60, 2), np.arange(0, 60, 2))]
    together = fit_folds(design(library.put(X)), library.put(Y), splits, Penalty(ALPHAS), threads=2)
    for split, found in zip(splits, together, strict=True):
        assert_same_fit(found, fit(X, Y, split), 1e-12)
        assert found.rank == fit(X, Y, split).rank


def test_the_requested_metric_replaces_r(library):
    X, Y = planted(60, 30)
    predicted = predictions(X, Y, Penalty(ALPHAS))
    expected = r2(predicted + Y[TRAIN].mean(axis=0), Y[TEST])
    np.testing.assert_allclose(fit(X, Y, library=library, metric=r2).r, expected, rtol=0, atol=1e-10)


def test_a_planted_signal_is_recovered_and_noise_scores_zero():
    rng = np.random.default_rng(0)
    X, noise = rng.standard_normal((400, 50)), rng.standard_normal((400, 200))
    signal = X @ rng.standard_normal((50, 200)) / np.sqrt(50)
    split, alphas = Split(np.arange(300), np.arange(300, 400)), Penalty(tuple(np.logspace(-1, 6, 8)))
    assert fit(X, signal + 0.1 * noise, split, alphas).r.min() > 0.97
    # The mean over 200 neuroids of r with sd 1 / sqrt(100): four standard errors are 0.028.
    assert abs(np.nanmean(fit(X, noise, split, alphas).r)) < 0.028


def test_ties_keep_the_larger_alpha_or_on_request_the_smaller():
    X, Y = planted(60, 30)
    alike = tuple(np.logspace(17, 19, 9))  # all shrink everything to nothing; errors differ by a few roundings
    for tie, kept in (("larger", alike[-1]), ("smaller", alike[0])):
        assert (fit(X, Y, SINGLE, Penalty(alike, tie=tie)).alpha == kept).all()


def test_the_grid_may_be_given_in_any_order():
    X, Y = planted(60, 30)
    found = fit(X, Y, SINGLE, Penalty((100.0, 1.0, 10.0)))
    assert set(found.place) == {0, 1, 2}
    np.testing.assert_array_equal(found.alpha, np.array([1.0, 10.0, 100.0])[found.place.astype(int)])


@SPLITS
@pytest.mark.parametrize("precision", ["float64", "mixed"])
@pytest.mark.parametrize("penalty", [Penalty(ALPHAS), Penalty(ALPHAS, per_neuroid=False), Penalty()])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_library_gives_the_numbers_of_numpy(shape, penalty, precision, split, library):
    if library.name == "numpy":
        pytest.skip("the other side of the comparison")
    X, Y = planted(*SHAPES[shape], v=MANY)
    Y[20:30, 3] = np.nan
    host, device = (fit(X, Y, split, penalty, where, precision=precision) for where in (None, library))
    # A GPU rounds differently, and float32 has 7 digits.
    assert_same_fit(device, host, {"float64": 1e-9, "mixed": 1e-5}[precision])
