"""Fit the growth of prediction scores with the number of predicting subjects, from the reliability of their mean.

    v(n) = v0 sqrt(n / (n + k)),   v0 <= 1,   k > 0,

with n the number of predicting subjects and k the noise variance of one of them relative to the signal variance. This
is exact if subjects share a signal and have independent noise of equal variance (Spearman-Brown). The exponential curve
of Brain-Score (saturation.py) approaches its asymptote faster than such data do and ends too low
(harness/scoring/README.md#noise-ceilings).

Source: Spearman 1910 and Brown 1910 (reliability of a mean).
"""

from __future__ import annotations

import numpy as np

from harness.records import Floats

# Candidates for k; 30 is a reliability of 0.03 of a single subject.
_K = np.geomspace(0.02, 30.0, 40)
_STEP = np.log(_K[1] / _K[0])
# Fits whose candidates are in memory at once.
_BLOCK = 2**13


def fit(n: Floats, y: Floats) -> Floats:
    """Fit the curve to every row of data by least squares.

    Args:
        n: (point,) numbers of predicting subjects.
        y: (fit, point) finite scores.

    Returns:
        (fit, 2) v0 and k. v0 is negative where scores are.
    """
    blocks = [_fit(n, y[start : start + _BLOCK]) for start in range(0, len(y), _BLOCK)]
    return np.concatenate(blocks) if blocks else np.empty((0, 2))


def slopes(n: Floats, fitted: Floats) -> Floats:
    """Change of v0 with each score, to first order.

    Args:
        n: (point,) numbers of predicting subjects.
        fitted: (fit, 2) v0 and k, from `fit`.

    Returns:
        (fit, point); k is held where it is at the end of its range or undetermined.
    """
    v0, k = fitted[:, :1], fitted[:, 1:]
    growth = np.sqrt(n / (n + k))
    by_k = -0.5 * v0 * growth * k / (n + k)  # derivative by log k
    squares = (by_k**2).sum(axis=1, keepdims=True)
    is_free = (k > _K[0]) & (k < _K[-1]) & (squares > 0) & (len(n) > 1)
    shared = np.where(is_free, (growth * by_k).sum(axis=1, keepdims=True) / np.where(squares > 0, squares, 1.0), 0.0)
    own = growth - shared * by_k
    weights: Floats = own / (own * growth).sum(axis=1, keepdims=True)
    return weights


def _fit(n: Floats, y: Floats) -> Floats:
    """Best candidate for k, improved by a parabola through its neighbours."""
    errors = np.stack([_at(n, y, np.full(len(y), k))[1] for k in _K])  # (candidate, fit)
    best, fits = errors.argmin(axis=0), np.arange(len(y))
    inner = np.clip(best, 1, len(_K) - 2)
    below, here, above = (errors[inner + offset, fits] for offset in (-1, 0, 1))
    bend = below - 2 * here + above
    shift = np.where((inner == best) & (bend > 0), 0.5 * (below - above) / np.where(bend > 0, bend, 1.0), 0.0)
    k = np.where(inner == best, _K[best] * np.exp(_STEP * np.clip(shift, -0.5, 0.5)), _K[best])
    return np.stack([_at(n, y, k)[0], k], axis=1)


def _at(n: Floats, y: Floats, k: Floats) -> tuple[Floats, Floats]:
    """(fit,) best v0 for (fit,) k, and its squared error."""
    growth = np.sqrt(n / (n + k[:, None]))
    v0 = np.clip((growth * y).sum(axis=1) / (growth**2).sum(axis=1), -1.0, 1.0)
    return v0, ((v0[:, None] * growth - y) ** 2).sum(axis=1)
