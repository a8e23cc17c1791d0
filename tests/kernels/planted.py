"""Small problems with a planted signal, and a fit of one fold."""

from __future__ import annotations

import numpy as np

from harness.kernels.gram import design
from harness.kernels.ridge import FoldFit, Penalty, Split, fit_fold

ALPHAS = tuple(np.logspace(-3, 5, 9))
SHAPES = {"p<n": (60, 12), "p=n": (60, 48), "p>n": (60, 300)}
TRAIN, TEST = np.arange(12, 60), np.arange(12)
LABELS = np.repeat(np.arange(9), [3, 9, 5, 4, 7, 2, 6, 8, 4])  # blocks of unequal size over the 48 training rows
SINGLE, BLOCKS = Split(TRAIN, TEST), Split(TRAIN, TEST, LABELS)
MANY = 200  # neuroids for which blocks are left out by triangles where p > n: over four times the training rows


def planted(n: int, p: int, v: int = 25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features, and responses that depend on them with a strength that varies over neuroids."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) / np.sqrt(1 + np.arange(p)) + 3
    signal = X @ rng.standard_normal((p, v))
    return X, signal * np.linspace(0, 2, v) + rng.standard_normal((n, v)) + 50


def fit(X, Y, split=SINGLE, penalty=Penalty(ALPHAS), library=None, scale="center", **how) -> FoldFit:  # noqa: B008
    """Fit one fold, optionally on an array library."""
    if library is not None:
        X, Y = library.put(X), library.put(Y)
    return fit_fold(design(X, scale), Y, split, penalty, **how)


def variation(Y) -> np.ndarray:
    """(neuroid,) sums of squares about the mean."""
    return ((Y - Y.mean(axis=0)) ** 2).sum(axis=0)


def left_out_errors(X, Y, labels, model, mean_over="rows") -> np.ndarray:
    """(neuroid,) sum of squared errors of refits without each block, weighting rows or blocks equally."""
    error, blocks = np.zeros(Y.shape[1]), np.unique(labels)
    for label in blocks:
        out = labels == label
        missed = (Y[out] - model.fit(X[~out], Y[~out]).predict(X[out])) ** 2
        error += missed.sum(axis=0) if mean_over == "rows" else missed.mean(axis=0) * len(Y) / len(blocks)
    return error


def assert_same_fit(ours: FoldFit, theirs: FoldFit, atol: float = 1e-10, inner: float | None = None) -> None:
    """Assert equal alphas and scores; inner errors amplify rounding by the inverse of a row's residual weight."""
    np.testing.assert_allclose(ours.alpha, theirs.alpha, rtol=1e-9, atol=0)
    np.testing.assert_array_equal(ours.place, theirs.place)
    np.testing.assert_allclose(ours.r, theirs.r, rtol=0, atol=atol)
    inner = atol if inner is None else inner
    np.testing.assert_allclose(1 - ours.inner, 1 - theirs.inner, rtol=inner, atol=inner)
