"""Banded ridge: separate penalties per group of features."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV

from harness.kernels import banded
from harness.kernels.banded import band_weights, fit_banded, unique_variance
from harness.kernels.gram import design
from harness.kernels.metrics import pearson_r, r2_over_training_mean
from harness.kernels.ridge import Penalty, Split, fit_fold

ALPHAS = tuple(np.logspace(-2, 6, 9))
ROWS = np.arange(80)
SPLIT = Split(ROWS[15:], ROWS[:15])
BLOCKED = Split(ROWS[15:], ROWS[:15], np.repeat(np.arange(13), 5))
WEIGHTS = np.array([[0.9, 0.1], [0.5, 0.5], [0.001, 0.999], [1.0, 0.0]])


def problem(seed=0, p=(30, 120), v=40):
    """Two bands of different size; each neuroid depends on one, the other, both or none."""
    rng = np.random.default_rng(seed)
    bands = [rng.standard_normal((80, width)) for width in p]
    shares = rng.choice([0.0, 1.0, 3.0], (2, v))
    signal = sum(
        share * (band @ rng.standard_normal((band.shape[1], v))) / np.sqrt(band.shape[1])
        for band, share in zip(bands, shares, strict=True)
    )
    return bands, signal + rng.standard_normal((80, v))


def by_definition(bands, Y, weights):
    """For each candidate scikit-learn's ridge on features scaled by the square roots of the weights; the best one."""
    best = (np.full(Y.shape[1], -np.inf), *(np.full(Y.shape[1], np.nan) for _ in range(2)))
    variance = Y[SPLIT.train].var(axis=0)
    for candidate in weights:
        X = np.hstack([np.sqrt(w) * band for w, band in zip(candidate, bands, strict=True)])
        model = RidgeCV(ALPHAS, alpha_per_target=True).fit(X[SPLIT.train], Y[SPLIT.train])
        inner = 1 + model.best_score_ / variance
        r = pearson_r(model.predict(X[SPLIT.test]), Y[SPLIT.test])
        wins = inner > best[0]
        best = tuple(np.where(wins, new, old) for new, old in zip((inner, r, model.alpha_), best, strict=True))
    return best


@pytest.mark.parametrize("p", [(30, 120), (3, 10)])
def test_banded_ridge_is_the_best_of_ridges_on_weighted_features(p, library):
    bands, Y = problem(p=p)
    inner, r, alpha = by_definition(bands, Y, WEIGHTS)
    designs = [design(library.put(band)) for band in bands]
    (found,) = fit_banded(designs, library.put(Y), [SPLIT], Penalty(ALPHAS, tie="smaller"), WEIGHTS)
    np.testing.assert_array_equal(found.fit.alpha, alpha)
    np.testing.assert_allclose(found.fit.r, r, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.fit.inner, inner, rtol=0, atol=1e-9)
    assert len(np.unique(found.weights[0])) > 2  # neuroids differ


def test_the_penalty_of_a_band_is_alpha_over_weight():
    bands, Y = problem(v=1)
    ((fit, weights),) = fit_banded([design(b) for b in bands], Y, [SPLIT], Penalty(ALPHAS), WEIGHTS[:3])
    scaled = np.hstack([band / np.sqrt(fit.alpha[0] / w) for band, w in zip(bands, weights[:, 0], strict=True)])
    model = Ridge(1.0).fit(scaled[SPLIT.train], Y[SPLIT.train])
    r = pearson_r(model.predict(scaled[SPLIT.test]).reshape(-1, 1), Y[SPLIT.test])
    np.testing.assert_allclose(fit.r, r, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", ["center", "zscore"])
@pytest.mark.parametrize("split", [SPLIT, BLOCKED], ids=["rows", "blocks"])
def test_one_band_is_plain_ridge(scale, split):
    bands, Y = problem()
    plain = fit_fold(design(bands[1], scale), Y, split, Penalty(ALPHAS))
    ((fit, weights),) = fit_banded([design(bands[1], scale)], Y, [split], Penalty(ALPHAS))
    assert (weights == 1).all()
    np.testing.assert_array_equal(fit.alpha, plain.alpha)
    np.testing.assert_allclose(fit.r, plain.r, rtol=0, atol=1e-9)


def test_a_band_with_weight_zero_is_ignored():
    bands, Y = problem()
    alone = fit_fold(design(bands[0]), Y, SPLIT, Penalty(ALPHAS))
    ((fit, _),) = fit_banded([design(b) for b in bands], Y, [SPLIT], Penalty(ALPHAS), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(fit.r, alone.r, rtol=0, atol=1e-9)


def test_every_fold_has_its_own_scale_and_cached_matrices_are_not_mixed_up():
    bands, Y = problem()
    later = Split(ROWS[:65], ROWS[65:])
    designs = [design(band, "zscore") for band in bands]
    together = fit_banded(designs, Y, [SPLIT, later], Penalty(ALPHAS), WEIGHTS)
    for fit, split in zip(together, (SPLIT, later), strict=True):
        (alone,) = fit_banded(designs, Y, [split], Penalty(ALPHAS), WEIGHTS)
        np.testing.assert_allclose(fit.fit.r, alone.fit.r, rtol=0, atol=1e-12)


def test_weights_cover_each_band_alone_and_sum_to_one():
    weights = band_weights(3)
    assert {tuple(row) for row in np.eye(3)} <= {tuple(row) for row in weights}
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert len({tuple(row) for row in weights}) == len(weights) > 10


@pytest.mark.parametrize("weights", [[[1.0]], [[-1.0, 2.0]], [[0.0, 0.0]], [1.0, 1.0]])
def test_invalid_band_weights_are_refused(weights):
    bands, Y = problem()
    with pytest.raises(ValueError, match="for 2 bands"):
        fit_banded([design(b) for b in bands], Y, [SPLIT], Penalty(ALPHAS), np.array(weights))


def test_banded_least_squares_is_refused():
    bands, Y = problem()
    with pytest.raises(ValueError, match="give alphas"):
        fit_banded([design(b) for b in bands], Y, [SPLIT], Penalty())


def planted(seed=0):
    """Neuroids that depend on the control, the model, both, or nothing; many rows, so that R2 is precise."""
    rng = np.random.default_rng(seed)
    control, model = rng.standard_normal((600, 2)), rng.standard_normal((600, 8))
    of_control, of_model = (X @ rng.standard_normal((X.shape[1], 50)) for X in (control, model))
    of_control, of_model = (signal / signal.std(axis=0) for signal in (of_control, of_model))
    signal = np.hstack([of_control, of_model, of_control + of_model, 0 * of_model])
    model = np.hstack([model, control + 0.01 * rng.standard_normal((600, 2))])  # the model knows the control too
    folds = np.array_split(np.arange(600), 5)
    splits = [Split(np.setdiff1d(np.arange(600), fold), fold) for fold in folds]
    return design(model), [design(control)], signal + rng.standard_normal(signal.shape), splits


def test_unique_variance_is_the_gain_of_the_model():
    model, controls, Y, splits = planted()
    found = unique_variance(model, controls, Y, splits, Penalty(ALPHAS))
    unique, alone, joint = (
        a.mean(axis=0).reshape(4, 50).mean(axis=1) for a in (found.unique, found.controls, found.joint)
    )
    np.testing.assert_allclose(unique, [0, 0.5, 1 / 3, 0], atol=0.03)  # signals and noise have variance 1
    np.testing.assert_allclose(alone, [0.5, 0, 1 / 3, 0], atol=0.03)
    np.testing.assert_allclose(joint, [0.5, 0.5, 2 / 3, 0], atol=0.03)
    explain = [fit.mean(axis=0) > 0 for fit in (found.joint, found.controls)]
    assert all(0 < some.mean() < 1 for some in explain)
    gain = explain[0] * found.joint - explain[1] * found.controls
    np.testing.assert_allclose(found.unique, gain, atol=1e-15)
    assert (found.unique.mean(axis=0) <= found.joint.mean(axis=0).clip(0)).all()


def test_r2_of_the_controls_is_that_of_scikit_learn_about_the_training_mean():
    model, controls, Y, splits = planted()
    found = unique_variance(model, controls, Y, splits, Penalty(ALPHAS, tie="smaller"))
    X = controls[0].X
    for k, (train, test, *_) in enumerate(splits):
        model = RidgeCV(ALPHAS, alpha_per_target=True).fit(X[train], Y[train])
        predicted, mean = model.predict(X[test]), Y[train].mean(axis=0)
        expected = 1 - ((Y[test] - predicted) ** 2).sum(axis=0) / ((Y[test] - mean) ** 2).sum(axis=0)
        n = len(train)
        is_null = -model.best_score_ >= Y[train].var(axis=0) * (n / (n - 1)) ** 2  # the mean, by leave-one-out
        assert 10 < is_null.sum() < 150
        np.testing.assert_allclose(found.controls[k], np.where(is_null, 0, expected), rtol=0, atol=1e-9)


def extrapolating(seed=0, n=200, v=30):
    """Slow drift and nothing else; its controls are cubic in time; the test rows lie at the end."""
    rng, rows = np.random.default_rng(seed), np.arange(n)
    t = np.linspace(-1, 1, n)
    Y = np.cumsum(rng.standard_normal((n, v)), axis=0) + 3 * rng.standard_normal((n, v))
    split = Split(rows[:155], rows[160:], rows[:155] // 40, 5)
    return design(rng.standard_normal((n, 10))), [design(np.stack([t, t**2, t**3], axis=1), "zscore")], Y, [split]


def test_both_fits_may_choose_the_training_mean():
    """Controls that extrapolate badly lose to the mean, and the model is not credited with the harm avoided."""
    model, controls, Y, splits = extrapolating()
    found = unique_variance(model, controls, Y, splits, Penalty(ALPHAS, relative=True))
    assert (found.controls == 0).mean() > 0.1
    assert (found.joint == 0).mean() > 0.1
    assert (found.unique <= found.joint.clip(0)).all()
    assert np.median(found.unique) <= 0  # the model knows nothing
    (fit,) = fit_banded(controls, Y, splits, Penalty(ALPHAS), np.ones((1, 1)), metric=r2_over_training_mean)
    assert fit.fit.r.min() < -0.5  # what the mean avoids


@pytest.mark.parametrize("gap", [0, 3])
def test_the_inner_score_of_the_mean_is_that_of_an_infinite_penalty(gap):
    bands, Y = problem()
    Y[5:30, 3] = np.nan
    split = Split(SPLIT.train, SPLIT.test, np.repeat(np.arange(5), 13), gap)
    strong = fit_fold(design(bands[0]), Y, split, Penalty((1e12,)))
    np.testing.assert_allclose(banded.inner_of_mean(Y, split), strong.inner, atol=1e-8)


def test_controls_that_are_constant_explain_nothing():
    model, _, Y, splits = planted()
    found = unique_variance(model, [design(np.ones((600, 1)))], Y, splits, Penalty(ALPHAS))
    assert (found.controls == 0).all()
    assert np.isfinite(found.joint).all()


def test_the_fit_of_the_controls_is_shared_with_the_joint_fit(monkeypatch):
    model, controls, Y, splits = planted()
    apart, fitted = fit_banded(controls, Y, splits, Penalty(ALPHAS), np.ones((1, 1)), metric=r2_over_training_mean), []

    def counted(features, *arguments, **how):
        fitted.append(features.weights)
        return original(features, *arguments, **how)

    original = banded.fit_folds
    monkeypatch.setattr(banded, "fit_folds", counted)
    joint = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    found = unique_variance(
        model, controls, Y, splits, Penalty(ALPHAS), joint_weights=joint, control_weights=np.ones((1, 1))
    )
    assert sorted(fitted) == sorted(map(tuple, joint.tolist()))
    of_fit = found.controls != 0
    assert of_fit.mean() > 0.5
    np.testing.assert_allclose(
        found.controls[of_fit], np.array([each.fit.r for each in apart])[of_fit], rtol=0, atol=1e-12
    )
