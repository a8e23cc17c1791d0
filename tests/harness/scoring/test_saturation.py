"""The saturation curve of ceilings: vectorised fits equal SciPy's fits one by one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from harness.scoring import saturation

X = np.arange(2, 10)
ROUNDING = 2.0**-52


def curve(x, v0, tau0):
    return v0 * (1 - np.exp(-x / tau0))


def by_scipy(x, y):
    """(fit, 2) SciPy's fits one by one; NaN where it does not converge."""
    found = np.full((len(y), 2), np.nan)
    for place, data in enumerate(y):
        try:
            found[place] = curve_fit(curve, x, data, bounds=([0, -np.inf], [1, np.inf]))[0]
        except RuntimeError:
            continue
    return found


def rising(rng, n):
    """Curves of many shapes, with noise."""
    return curve(X, rng.uniform(0.05, 0.95, (n, 1)), rng.uniform(0.5, 6, (n, 1))) + 0.02 * rng.standard_normal((n, 8))


DATA = {
    "rising": rising,
    "noise": lambda rng, n: 0.05 * rng.standard_normal((n, 8)),
    "weak": lambda rng, n: 0.03 + 0.03 * rng.standard_normal((n, 8)),
    "negative": lambda rng, n: -0.03 + 0.03 * rng.standard_normal((n, 8)),
    "falling": lambda rng, n: 0.3 - 0.03 * X + 0.01 * rng.standard_normal((n, 8)),
    "steep": lambda rng, n: 0.2 * X + 0.02 * rng.standard_normal((n, 8)),  # v0 at its bound
}


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value", "ignore:Covariance")
@pytest.mark.parametrize("kind", DATA)
def test_fits_differ_from_scipy_no_more_than_scipy_differs_from_itself(kind):
    """SciPy is repeated with the last digit of the data changed, which shows the spread its tolerance allows."""
    rng = np.random.default_rng(0)
    y = DATA[kind](rng, 100)
    theirs, again = by_scipy(X, y), by_scipy(X, y * (1 + ROUNDING * rng.choice([-1, 1], y.shape)))
    ours = saturation.fit(X, y)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    fitted = np.isfinite(theirs).all(axis=1) & np.isfinite(again).all(axis=1)
    for share in (0.5, 0.9, 0.97):
        difference, noise = (np.quantile(np.abs(v - theirs)[fitted, 0], share) for v in (ours, again))
        assert difference < 4 * noise + 1e-9
    assert np.median(np.abs(ours - theirs)[fitted, 0]) < 2e-9


def test_fits_that_do_not_converge_in_scipy_are_nan():
    y = 0.05 * np.random.default_rng(0).standard_normal((700, 8))
    ours = saturation.fit(X, y)
    unfitted = np.flatnonzero(np.isnan(ours).all(axis=1))
    assert 0 < len(unfitted) < 10
    with np.errstate(all="ignore"):
        assert np.isnan(by_scipy(X, y[unfitted])).all()


def test_a_curve_without_noise_is_recovered():
    v0, tau0 = (each.ravel() for each in np.meshgrid([0.3, 0.5, 0.9], [1.0, 2.0, 5.0]))
    found = saturation.fit(X, curve(X, v0[:, None], tau0[:, None]))
    np.testing.assert_allclose(found, np.stack([v0, tau0], axis=1), rtol=1e-5)


def test_v0_stays_within_its_bounds():
    found = saturation.fit(X, np.concatenate([DATA["steep"](np.random.default_rng(0), 50), np.full((1, 8), -1.0)]))
    assert (found[:, 0] > 0).all()
    assert (found[:, 0] < 1).all()
    assert found[:-1, 0].min() > 0.99
    assert found[-1, 0] < 1e-6


def test_fits_are_independent_of_each_other():
    y = np.concatenate([make(np.random.default_rng(0), 1500) for make in (DATA["rising"], DATA["noise"], DATA["weak"])])
    together = saturation.fit(X, y)
    np.testing.assert_array_equal(together[::50], saturation.fit(X, y[::50]))
