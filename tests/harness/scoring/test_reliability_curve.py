"""Growth of scores with the number of predicting subjects."""

from __future__ import annotations

import numpy as np
import pytest

from harness.scoring import reliability_curve

N = np.arange(1.0, 6.0)


def test_one_signal_with_equal_noise_lies_on_the_curve():
    """A neuroid of reliability rel, predicted from the mean of n others, has r = rel / sqrt(rel + (1 - rel) / n)."""
    reliabilities = np.array([0.1, 0.5, 0.9])
    r = reliabilities[:, None] / np.sqrt(reliabilities[:, None] + (1 - reliabilities[:, None]) / N)
    v0, k = reliability_curve.fit(N, r).T
    np.testing.assert_allclose(v0, np.sqrt(reliabilities), atol=2e-3)
    np.testing.assert_allclose(k, (1 - reliabilities) / reliabilities, rtol=0.02)


def test_negative_scores_give_a_negative_asymptote():
    assert reliability_curve.fit(N, np.full((1, 5), -0.1))[0, 0] == pytest.approx(-0.1, abs=0.01)


def test_the_asymptote_does_not_exceed_one():
    assert reliability_curve.fit(N, (0.2 * N)[None])[0, 0] <= 1.0


def test_slopes_are_the_derivatives_of_the_fit():
    y = 0.7 * np.sqrt(N / (N + 1.3))
    moved = reliability_curve.fit(N, np.vstack([y + 1e-3 * np.eye(5), y - 1e-3 * np.eye(5)]))[:, 0]
    (slopes,) = reliability_curve.slopes(N, reliability_curve.fit(N, y[None]))
    # The fit interpolates between candidates for k by a parabola, whose slope is right to 4 %.
    np.testing.assert_allclose(slopes, (moved[:5] - moved[5:]) / 2e-3, atol=0.05)
