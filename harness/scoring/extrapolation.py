"""Extrapolate the prediction of one subject from others to infinitely many others.

Subjects are predicted from pools of 1, 2, ... others with the protocol's regression, folds and metric. With x the
number of subjects, the predicted one included, scores rise as v(x) = v0 (1 - exp(-x / tau0)), and v0 is the ceiling. It
is estimated from 100 bootstraps of each neuroid's scores.

The features of a pool are a sum of Gram matrices (kernels/gram.py), each computed once; the sum is decomposed once per
fold for all subjects outside the pool. Therefore the pools are sampled if there are too many: at most ten per size,
each predicting all subjects outside it. Brain-Score instead draws ten subsets per size and five subjects of each, with
replacement. Where neither has to sample, both compute the same scores.

Method: harness/scoring/README.md#noise-ceilings.
Source: Schrimpf et al. 2021; brain-score/language at 0e0bb4a2 (August 2026), `ExtrapolationCeiling`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from math import comb
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.kernels.gram import Bands, Design, Scale, design
from harness.protocol import Protocol
from harness.records import GROUP, Floats, Fold, Integers
from harness.scoring import fitting, intervals, reliability_curve, saturation
from harness.scoring.fitting import CallRunner, Fitting, in_order

Curve = Literal["exponential", "reliability"]
# Called with the number of pools that are done, and of all pools.
Progress = Callable[[int, int], None]

# Responses are centred if a neuroid's mean exceeds its range by this factor.
_FAR = 1000.0
# Number of neuroids whose bootstraps are in memory at once.
_NEUROIDS = 256
# Brain-Score evaluates curves at 0 to 999 subjects; they are flat once their median gains less than this per subject.
_SUBJECTS, _FLAT = 1000, 0.0005


class PooledScores(NamedTuple):
    """Scores of subjects predicted from pools of others.

    Attributes:
        pools: the predicting subjects, in order of pool size.
        scores: (pool, fold, neuroid) float64; NaN if the pool contains the neuroid's own subject or the score is NaN.
    """

    pools: tuple[tuple[str, ...], ...]
    scores: Floats


def unseen(n_done: int, n_pools: int) -> None:
    """Progress that nobody follows."""


def collect(
    values: Floats, subjects: Sequence[str], groups: Sequence[str], splits: Sequence[Fold], protocol: Protocol, *,
    n_pools: int = 10, progress: Progress = unseen, run: CallRunner = in_order,
) -> PooledScores:  # fmt: skip
    """Predict every subject from pools of others.

    Args:
        values: (row, neuroid) responses of one experiment, NaN where absent. Only complete neuroids predict others;
            every neuroid is predicted on the rows it has.
        subjects: (neuroid,) the subject of each; "group" neither predicts nor is predicted.
        groups: (row,) rows left out together when alpha is chosen by groups.
        splits: the folds, as indices into these rows.
        protocol: regression and metric. If one alpha serves all neuroids, it is one per predicted subject.
        n_pools: maximum number of pools per size; see `draw_pools`.
        progress: called before each pool's scores are awaited.
        run: computes the pools, in this process or divided.

    Returns:
        Scores by pool; no pools if fewer than two subjects have a complete neuroid.
    """
    subject_of, regression = np.array(subjects), protocol.regression
    values = _centred(values)
    present = ~np.isnan(values).all(axis=0) & (subject_of != GROUP)
    complete = np.isfinite(values).all(axis=0) & present
    measured = np.unique(subject_of[complete]).tolist()
    pools = draw_pools(measured, n_pools, seed=0)
    if not pools:
        return PooledScores((), np.empty((0, len(splits), len(subject_of))))
    columns = [present]
    if regression.kind == "ridge" and not regression.per_neuroid:  # one alpha per subject
        columns = [present & (subject_of == subject) for subject in np.unique(subject_of[present])]
    # Subjects differ in scale, so a relative penalty, with one scale for all columns, is for models' features only.
    scale: Scale = "center" if regression.scale == "center" and not regression.relative else "zscore"
    fits = tuple((column, fitting.prepare(values[:, column], groups, splits, protocol)) for column in columns)
    pooled = _Pooled(values, subject_of, pools, measured, complete, fits, scale)
    scores = np.full((len(pools), len(splits), len(subject_of)), np.nan)
    results = run(pooled, len(pools), pooled.operations(splits))
    for n_done in range(len(pools)):
        progress(n_done, len(pools))
        scores[n_done] = next(results)
    return PooledScores(tuple(pools), scores)


@dataclass(frozen=True)
class _Pooled:
    """Predicts subjects from pools of others, one pool at a time; can be sent to another process.

    Attributes:
        values: (row, neuroid).
        subject_of: (neuroid,).
        pools: the pools.
        measured: subjects with complete neuroids.
        complete: (neuroid,) whether every row is present.
        fits: (neuroid,) which neuroids are fitted together, and how.
        scale: of the features.
    """

    values: Floats
    subject_of: NDArray[np.str_]
    pools: Sequence[tuple[str, ...]]
    measured: Sequence[str]
    complete: NDArray[np.bool_]
    fits: tuple[tuple[NDArray[np.bool_], Fitting], ...]
    scale: Scale

    def __call__(self, k: int) -> Floats:
        """(fold, neuroid) scores of the neuroids outside pool k; NaN for the others."""
        pool = self.pools[k]
        features = _features(self._designs, tuple(float(subject in pool) for subject in self.measured), self._grams)
        scores = np.full((len(self.fits[0][1].splits), len(self.subject_of)), np.nan)
        for column, setup in self.fits:
            predicted = np.flatnonzero(column & ~np.isin(self.subject_of, pool))
            if len(predicted):
                scores[:, predicted] = [fit.r for fit in setup.fit_design(features, self.values[:, predicted])]
        return scores

    def operations(self, splits: Sequence[Fold]) -> float:
        """Rough number of floating-point operations."""
        n_of = {subject: int((self.complete & (self.subject_of == subject)).sum()) for subject in self.measured}
        sizes = [sum(n_of[subject] for subject in pool) for pool in self.pools]
        return sum(fitting.flops_of_layer(splits, size, len(self.subject_of) - size) for size in sizes)

    @cached_property
    def _designs(self) -> tuple[Design, ...]:
        """The features of each subject."""
        of_subjects = (self.complete & (self.subject_of == subject) for subject in self.measured)
        return tuple(design(self.values[:, columns], self.scale) for columns in of_subjects)

    @cached_property
    def _grams(self) -> dict[tuple[int, bytes], Floats]:
        """Gram matrices, which pools share."""
        return {}


def _centred(values: Floats) -> Floats:
    """Without the means of the neuroids, in float64, if they are so large that they would cost digits."""
    count = np.maximum(np.isfinite(values).sum(axis=0), 1)
    means = np.nansum(values, axis=0, dtype=float) / count
    spread = np.nanmax(values, axis=0, initial=-np.inf) - np.nanmin(values, axis=0, initial=np.inf)
    is_far = (np.abs(means) > _FAR * spread) & (spread > 0)
    return values - means if is_far.any() else values


def _features(
    designs: tuple[Design, ...], weights: tuple[float, ...], grams: dict[tuple[int, bytes], Floats]
) -> Design | Bands:
    """Features of the subjects with weight 1: a sum of Gram matrices, or one wide matrix if columns are few."""
    side_by_side = [subject_design.X for subject_design, weight in zip(designs, weights, strict=True) if weight]
    if 2 * sum(X.shape[1] for X in side_by_side) < len(designs[0].X):
        return design(np.hstack(side_by_side), designs[0].scale)
    return Bands(designs, weights, grams)


def by_size(collected: PooledScores) -> Floats:
    """(size, fold, neuroid) mean over the pools of 1, 2, ... subjects; NaN where there is none."""
    sizes = np.array([len(pool) for pool in collected.pools], dtype=int)
    means = [intervals.mean(collected.scores[sizes == size], axis=0) for size in range(1, max(sizes, default=0) + 1)]
    return np.stack(means) if means else np.empty((0, *collected.scores.shape[1:]))


def predicted_alike(growth: Floats) -> list[tuple[Integers, Integers]]:
    """Group the columns of (size, column) scores by the sizes that are finite: indices of sizes and of columns."""
    has_size = np.atleast_2d(np.isfinite(growth).T)
    patterns, of_column = np.unique(has_size, axis=0, return_inverse=True)
    groups = [(np.flatnonzero(sizes), np.flatnonzero(of_column.reshape(-1) == k)) for k, sizes in enumerate(patterns)]
    return [(sizes, columns) for sizes, columns in groups if len(sizes)]


def draw_pools(subjects: Sequence[str], n_pools: int, seed: int) -> list[tuple[str, ...]]:
    """Draw pools of 1, 2, ..., n - 1 of the subjects: all pools of a size, or `n_pools` of them if there are more.

    Up to five subjects there are at most ten pools per size. Random pools are distinct, and subjects take turns in
    being left out, so that each is predicted from pools of (nearly) every size.

    Args:
        subjects: distinct names.
        n_pools: maximum per size.
        seed: of the random pools.
    """
    n, random = len(subjects), np.random.default_rng(seed)
    pools: list[tuple[str, ...]] = []
    for size in range(1, n):
        chosen = set(combinations(range(n), size)) if comb(n, size) <= n_pools else set()
        times_out = np.zeros(n)
        while len(chosen) < min(n_pools, comb(n, size)):
            order = np.argsort(times_out + 1.5 * random.random(n))
            times_out[order[: n - size]] += 1
            chosen.add(tuple(sorted(order[n - size :].tolist())))
        pools.extend(tuple(subjects[k] for k in pool) for pool in sorted(chosen))
    return pools


def extrapolate(
    collected: PooledScores, *, curve: Curve = "exponential", n_bootstraps: int = 100, threads: int = 1
) -> Floats:
    """Bootstrap the scores of every neuroid and fit the curve to each bootstrap.

    For each pool size a bootstrap resamples the scores of all pools and folds with replacement and takes their mean. As
    in Brain-Score, draws come from numpy.random.RandomState(0), restarted for each neuroid, and pools in which a fold
    has no score are left out.

    Args:
        collected: scores by pool.
        curve: "exponential" (harness/scoring/saturation.py) or "reliability" (harness/scoring/reliability_curve.py).
        n_bootstraps: number of bootstraps.
        threads: number of cores; blocks of neuroids are fitted in parallel.

    Returns:
        (neuroid, bootstrap, 2) v0 (the ceiling) and tau0 or k (in subjects). NaN if a fit did not converge, and for
        neuroids with scores from fewer than two pool sizes, which do not determine a curve.
    """
    curves = np.full((collected.scores.shape[2], n_bootstraps, 2), np.nan)
    complete = np.isfinite(collected.scores).all(axis=1)
    patterns, pattern_of = np.unique(complete, axis=1, return_inverse=True)
    sizes = np.array([len(pool) for pool in collected.pools], dtype=int)
    blocks: list[tuple[NDArray[np.bool_], Integers]] = []
    for pattern, present in enumerate(patterns.T):
        neuroids = np.flatnonzero(pattern_of.reshape(-1) == pattern)
        if len(np.unique(sizes[present])) > 1:
            n_blocks = -(-len(neuroids) // _NEUROIDS)
            blocks.extend((present, block) for block in np.array_split(neuroids, n_blocks))

    def fit(block: tuple[NDArray[np.bool_], Integers]) -> None:
        present, neuroids = block
        scores = collected.scores[present][..., neuroids]
        curves[neuroids] = _fit_bootstraps(scores, sizes[present], n_bootstraps, curve)

    with ThreadPoolExecutor(threads) as workers:
        list(workers.map(fit, blocks))
    return curves


def errors(curves: Floats) -> tuple[Floats, Floats]:
    """How far a ceiling may be off, as Brain-Score states it: 95 % of the bootstrapped curves where they are flat.

    The curves are read at the first number of subjects at which their median gains less than 0.0005 with one more
    subject. The ceiling itself is the median of v0, the value at infinity; it can therefore lie outside the interval,
    and an error can be negative.

    Args:
        curves: (neuroid, bootstrap, 2) v0 and tau0, from `extrapolate`.

    Returns:
        (neuroid,) lower error, the ceiling minus the 2.5th percentile, and (neuroid,) upper error, the 97.5th
        percentile minus the ceiling. NaN where the ceiling is NaN (a fit did not converge), or the curve is nowhere
        flat.

    Source: brain-score/language 2.3.0, `ExtrapolationCeiling.extrapolate_neuroid` (`error_low`, `error_high`). It
        computes them for each neuroid and loses them when it joins the neuroids.
    """
    lower, upper = np.full((2, len(curves)), np.nan)
    x = np.arange(float(_SUBJECTS))
    for neuroid in np.flatnonzero(np.isfinite(curves).all(axis=(1, 2))):
        v0, tau0 = curves[neuroid, :, :1], curves[neuroid, :, 1:]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            y = v0 * (1.0 - np.exp(-x / tau0))
            is_flat = np.diff(np.median(y, axis=0)) < _FLAT
        if is_flat.any():
            low, high = np.nanpercentile(y[:, int(is_flat.argmax())], (2.5, 97.5))
            ceiling = np.median(v0)
            lower[neuroid], upper[neuroid] = ceiling - low, high - ceiling
    return lower, upper


def _fit_bootstraps(scores: Floats, sizes: Integers, n_bootstraps: int, curve: Curve) -> Floats:
    """(neuroid, bootstrap, 2) v0 and tau0 or k from finite (pool, fold, neuroid) scores; sizes: (pool,) subjects."""
    x, n_neuroids = np.unique(sizes), scores.shape[2]
    by_size = [scores[sizes == size].reshape(-1, n_neuroids) for size in x]
    weights = _bootstrap_weights(tuple(len(group) for group in by_size), n_bootstraps)
    means = np.stack([weight @ group for weight, group in zip(weights, by_size, strict=True)], axis=-1)
    data = means.reshape(-1, len(x))
    fitted = saturation.fit(x + 1.0, data) if curve == "exponential" else reliability_curve.fit(x.astype(float), data)
    return fitted.reshape(n_bootstraps, n_neuroids, 2).swapaxes(0, 1)


@lru_cache(maxsize=64)
def _bootstrap_weights(counts: tuple[int, ...], n_bootstraps: int) -> list[Floats]:
    """For each count: (bootstrap, count) bootstrap weights, the number of draws of each score divided by the count."""
    random = np.random.RandomState(0)
    weights: list[Floats] = [np.empty((n_bootstraps, count)) for count in counts]
    for bootstrap in range(n_bootstraps):
        for weight, count in zip(weights, counts, strict=True):
            weight[bootstrap] = np.bincount(random.choice(count, count), minlength=count) / count
    return weights
