"""Banded ridge: a separate penalty per group of features (band), and the unique variance of one band.

With Z_b the centred features of band b, a penalty alpha / w_b on its regression weights gives the Gram matrix

    K = sum_b w_b Z_b Z_b',

so each choice of band weights w is one more ridge (kernels/ridge.py) on a sum of Gram matrices that are computed once.
Each neuroid takes the band weights with the smallest inner error, by the same rule as for alpha.

Source: Nunez-Elizalde, Huth & Gallant 2019 (banded ridge, tikhonov); Dupre la Tour et al. 2022 (by kernels, as
himalaya's MultipleKernelRidgeCV, which draws the weights at random). Unique variance: the R2 of the joint fit minus
that of the controls (Feghhi, Hadidi et al. 2026); the floor of both at 0 is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from harness.kernels.arrays import Array, to_host
from harness.kernels.gram import Bands, Design
from harness.kernels.metrics import r2_over_training_mean
from harness.kernels.penalty import Penalty
from harness.kernels.ridge import FoldFit, Split, fit_folds


class BandedFit(NamedTuple):
    """Scores of one fold.

    Attributes:
        fit: as of any ridge, with the best band weights of each neuroid; the penalty of a band is alpha / weight.
        weights: (band, neuroid) the best band weights; NaN where not measurable.
    """

    fit: FoldFit
    weights: Array


class UniqueVariance(NamedTuple):
    """Held-out variance that a model explains beyond controls; (fold, neuroid) each, NaN where not measurable.

    R2 is that of `metrics.r2_over_training_mean`.

    Attributes:
        joint: R2 of model and controls together; not bounded below.
        controls: R2 of the controls alone; not bounded below.
        unique: joint - controls, where a fit counts as 0 (the training mean) for a neuroid on which its mean over the
            folds is negative: harm that the joint fit avoids is not a gain. Its mean over the folds is at most that of
            `joint`, or 0.
    """

    joint: Array
    controls: Array
    unique: Array


def band_weights(n_bands: int, steps: Sequence[float] = (1e-4, 1e-2, 1.0)) -> Array:
    """(candidate, band) weights that sum to 1: all mixtures of the steps, and each band alone.

    Args:
        n_bands: at least one.
        steps: relative weights of a band.
    """
    mixed = np.array(list(product(steps, repeat=n_bands))).reshape(-1, n_bands)
    weights = np.concatenate([np.eye(n_bands), mixed / mixed.sum(axis=1, keepdims=True)])
    return np.unique(weights.round(12), axis=0)


def fit_banded(
    bands: Sequence[Design], Y: Array, splits: Sequence[Split], penalty: Penalty, weights: Array | None = None,
    **how: Any,
) -> list[BandedFit]:  # fmt: skip
    """`fit_folds` with band weights that are chosen, like alpha, within the training rows.

    Args:
        bands: the features of each band, with the same rows.
        Y: (row, neuroid) responses, NaN where absent.
        splits: the folds.
        penalty: the grid of alphas; with `relative` each candidate has its own scale, tr(C) / n of the weighted sum.
        weights: (candidate, band) not negative, with at least one positive weight per candidate; default
            `band_weights`. Bands should be on the same scale: use design(X, "zscore") and divide X by the square root
            of its number of features.
        how: as in `fit_folds`.

    Raises:
        ValueError: if the weights do not match the bands or are negative, or the penalty is least squares.
    """
    return _best(_checked(weights, len(bands)), _fits(bands, Y, splits, penalty, how), Y, splits)


def unique_variance(
    model: Design, controls: Sequence[Design], Y: Array, splits: Sequence[Split], penalty: Penalty, *,
    joint_weights: Array | None = None, control_weights: Array | None = None, **how: Any,
) -> UniqueVariance:  # fmt: skip
    """Held-out variance that a model explains beyond controls: R2 of the joint fit minus R2 of the controls.

    Both fits are banded, so the joint fit can give the model zero weight, and its candidates include those of the
    controls. Both can also choose nothing, the training mean, whose R2 is 0: a neuroid takes it if no candidate has a
    smaller inner error. `unique` can still be negative on held-out rows, if the model's features fit noise.

    Args:
        model: features of the model.
        controls: features of each control, with the same rows.
        Y: (row, neuroid) responses, NaN where absent.
        splits: the folds.
        penalty: the grid of alphas.
        joint_weights: as in `fit_banded`; first the model's band, then the controls'.
        control_weights: weights of the controls' bands.
        how: as in `fit_folds`, except the metric, which is R2.
    """
    fits = _fits([model, *controls], Y, splits, penalty, how | {"metric": r2_over_training_mean})
    weights = _checked(control_weights, len(controls))
    alone = np.concatenate([np.zeros((len(weights), 1)), weights], axis=1)
    of_nothing = [inner_of_mean(Y, split) for split in splits]
    joint, others = (
        np.stack([_or_nothing(*fold) for fold in zip(_best(candidates, fits, Y, splits), of_nothing, strict=True)])
        for candidates in (_checked(joint_weights, 1 + len(controls)), alone)
    )
    return UniqueVariance(joint, others, gain(joint) - gain(others))


def gain(r2: Array) -> Array:
    """(fold, neuroid) R2 of a fit, or 0 for a neuroid on which its mean over the folds is negative."""
    return np.where(_mean(r2) > 0, r2, 0.0 * r2)


def inner_of_mean(Y: Array, split: Split) -> Array:
    """(neuroid,) inner score of no features: each left-out block is predicted by the mean of the other training rows.

    Returns:
        1 - error / variance over the training rows, on the host, at most 0; NaN for a neuroid that is constant there,
        has no test row, or has a block without other rows.
    """
    y, labels = to_host(Y)[np.asarray(split.train)].astype(float), split.labels
    blocks = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    y -= _mean(y)
    error, present = np.zeros(y.shape[1]), np.isfinite(y)
    filled, count = np.where(present, y, 0.0), present.sum(axis=0)
    for block, gap in zip(blocks, split.gaps(blocks) if split.gap else [()] * len(blocks), strict=True):
        out = np.r_[block, gap].astype(int)
        n_others = count - present[out].sum(axis=0)
        mean = -filled[out].sum(axis=0) / np.where(n_others > 0, n_others, np.nan)  # y sums to 0; NaN without others
        error += np.where(present[block], (y[block] - mean) ** 2, 0.0).sum(axis=0)
    variance = np.nansum(y**2, axis=0)
    measurable = (variance > 0) & np.isfinite(to_host(Y)[np.asarray(split.test)]).any(axis=0)
    return 1.0 - error / np.where(measurable, variance, np.nan)


def _mean(y: Array) -> Array:
    """(neuroid,) mean of the rows (or folds) that are present; NaN where none is."""
    present = np.isfinite(y)
    return np.where(present, y, 0.0).sum(axis=0) / np.where(present.any(axis=0), present.sum(axis=0), np.nan)


def _or_nothing(best: BandedFit, inner_of_nothing: Array) -> Array:
    """(neuroid,) R2 of the best fit, or 0 where no fit has a smaller inner error than the mean."""
    return np.where(inner_of_nothing >= np.nan_to_num(best.fit.inner, nan=-np.inf), 0.0, best.fit.r)


def _checked(weights: Array | None, n_bands: int) -> Array:
    """Check (candidate, band) weights, or return the default."""
    weights = band_weights(n_bands) if weights is None else np.asarray(weights, dtype=float)
    if weights.ndim != 2 or weights.shape[1] != n_bands or not (weights >= 0).all() or not weights.any(axis=1).all():
        raise ValueError(
            f"band weights have shape {weights.shape} for {n_bands} bands; wanted (candidate, band), none negative, "
            "and at least one positive weight per candidate."
        )
    return weights


def _fits(
    bands: Sequence[Design], Y: Array, splits: Sequence[Split], penalty: Penalty, how: dict[str, Any]
) -> Callable[[tuple[float, ...]], list[FoldFit]]:
    """A cached function from candidate weights to fits: the controls alone are also a candidate of the joint fit."""
    if not penalty.alphas:
        raise ValueError("banded least squares: band weights have no effect without a penalty; give alphas.")
    designs, grams, sums = tuple(bands), {}, {}  # type: tuple[Design, ...], dict[tuple[int, bytes], Array], dict[bytes, Any]

    @cache
    def fit(candidate: tuple[float, ...]) -> list[FoldFit]:
        return fit_folds(Bands(designs, candidate, grams, sums=sums), Y, splits, penalty, **how)

    return fit


def _best(
    weights: Array, fits: Callable[[tuple[float, ...]], list[FoldFit]], Y: Array, splits: Sequence[Split]
) -> list[BandedFit]:
    """For each fold the best candidate of each neuroid."""
    r, alpha, inner, place = np.full((4, Y.shape[1]), np.nan)
    nothing = FoldFit(r, alpha, inner, place, rank=0)
    best = [BandedFit(nothing, np.full((weights.shape[1], Y.shape[1]), np.nan)) for _ in splits]
    for candidate in weights:
        best = [_better(old, new, candidate) for old, new in zip(best, fits(tuple(candidate.tolist())), strict=True)]
    return best


def _better(old: BandedFit, new: FoldFit, candidate: Array) -> BandedFit:
    """For each neuroid the fit with the higher inner score; the old one in a tie."""
    inner = to_host(new.inner)
    wins = np.isfinite(inner) & ~(old.fit.inner >= inner)
    r, alpha, inner, place = (np.where(wins, b, a) for a, b in zip(old.fit[:4], new[:4], strict=True))
    fit = FoldFit(r, alpha, inner, place, max(old.fit.rank, new.rank))
    return BandedFit(fit, np.where(wins, candidate[:, None], old.weights))
