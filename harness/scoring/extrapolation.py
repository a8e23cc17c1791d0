"""The score that infinitely many other subjects would reach: what the best model could, if brains are all there is.

Subjects are predicted from pools of 1, 2, .. others, by the regression, folds and metric of the protocol; with x the
number of subjects, pool and predicted one together, scores rise as v(x) = v0 (1 - exp(-x / tau0)), and v0 is the
ceiling. It is taken from 100 bootstraps of the scores of each neuroid.

A pool of subjects is a sum of their Gram matrices (kernels/gram.py), each computed once, and is decomposed once for
each fold, for all subjects outside it. So pools are what is sampled where there are too many: at most ten of each size,
all subjects outside being predicted. Brain-Score draws ten subsets of each size and five of a subset's subjects to be
predicted, with replacement. Where neither samples, both compute the same scores.

Source: Schrimpf et al. 2021; brain-score/language at 0e0bb4a2 (August 2026), `ExtrapolationCeiling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.kernels.gram import Bands, Design, Scale, design
from harness.protocol import Protocol
from harness.records import GROUP, Floats, Fold, Integers
from harness.scoring import fitting, saturation

# Neuroids whose bootstraps are in memory at once.
_NEUROIDS = 256


class PooledScores(NamedTuple):
    """Scores of subjects predicted from others.

    Attributes:
        pools: the subjects that predict, sizes ascending.
        scores: (pool, fold, neuroid) float64, NaN where a pool holds the neuroid's own subject or none could be had.
    """

    pools: tuple[tuple[str, ...], ...]
    scores: Floats


def collect(
    values: Floats,
    subjects: Sequence[str],
    groups: Sequence[str],
    splits: Sequence[Fold],
    protocol: Protocol,
    *,
    n_pools: int = 10,
    seed: int = 0,
    threads: int = 1,
) -> PooledScores:
    """Predict every subject from pools of others.

    Args:
        values: (row, neuroid) responses of one experiment, NaN where absent. The neuroids of a subject that are
            complete predict others; whatever rows a neuroid has, it is predicted on them.
        subjects: (neuroid,); "group" neither predicts nor is predicted.
        groups: (row,) left out together when alpha is chosen by groups.
        splits: the folds, as indices into these rows.
        protocol: regression and metric. One alpha for all neuroids is one for each predicted subject.
        n_pools: of one size, at most; see `draw_pools`.
        seed: of the random ones.
        threads: as in kernels/ridge.py.

    Returns:
        No pools where fewer than two subjects have a complete neuroid.
    """
    of, regression = np.array(subjects), protocol.regression
    present = ~np.isnan(values).all(axis=0) & (of != GROUP)
    complete = np.isfinite(values).all(axis=0) & present
    measured = np.unique(of[complete]).tolist()
    pools = draw_pools(measured, n_pools, seed)
    scores = np.full((len(pools), len(splits), len(of)), np.nan)
    alone = regression.kind == "ridge" and not regression.per_neuroid
    together = [present & (of == subject) for subject in np.unique(of[present])] if alone else [present]
    ways = [fitting.prepare(values[:, part], groups, splits, protocol) for part in together if pools]
    scale: Scale = "center" if regression.scale == "center" else "zscore"  # people have no side of their own
    designs = tuple(design(values[:, complete & (of == subject)], scale) for subject in measured)
    grams: dict[tuple[int, bytes], Floats] = {}
    for pool, found in zip(pools, scores, strict=True):
        features = _features(designs, tuple(float(subject in pool) for subject in measured), grams)
        for part, way in zip(together, ways, strict=True):
            predicted = np.flatnonzero(part & ~np.isin(of, pool))
            if len(predicted):
                fits = way.fit_design(features, values[:, predicted], threads=threads)
                found[:, predicted] = [fit.r for fit in fits]
    return PooledScores(tuple(pools), scores)


def _features(
    designs: tuple[Design, ...], weights: tuple[float, ...], grams: dict[tuple[int, bytes], Floats]
) -> Design | Bands:
    """Those of the subjects with weight 1: a sum of Gram matrices, or side by side where they are few for the rows."""
    side_by_side = [one.X for one, weight in zip(designs, weights, strict=True) if weight]
    if 2 * sum(X.shape[1] for X in side_by_side) < len(designs[0].X):
        return design(np.hstack(side_by_side), designs[0].scale)
    return Bands(designs, weights, grams)


def draw_pools(subjects: Sequence[str], n_pools: int, seed: int) -> list[tuple[str, ...]]:
    """Pools of 1, 2, .. all but one of the subjects: all of a size where they are at most `n_pools`, else so many.

    Up to five subjects, ten are all. Random pools are distinct, and subjects take turns in being left out, so that each
    is predicted from pools of (nearly) every size.

    Args:
        subjects: distinct names.
        n_pools: of one size, at most.
        seed: of the random ones.
    """
    n, random = len(subjects), np.random.default_rng(seed)
    pools: list[tuple[str, ...]] = []
    for size in range(1, n):
        found = set(combinations(range(n), size)) if comb(n, size) <= n_pools else set()
        times_out = np.zeros(n)
        while len(found) < min(n_pools, comb(n, size)):
            order = np.argsort(times_out + 1.5 * random.random(n))
            times_out[order[: n - size]] += 1
            found.add(tuple(sorted(order[n - size :].tolist())))
        pools.extend(tuple(subjects[k] for k in pool) for pool in sorted(found))
    return pools


def extrapolate(collected: PooledScores, *, n_bootstraps: int = 100, threads: int = 1) -> Floats:
    """Bootstrap the scores of every neuroid and fit the curve to each bootstrap.

    A bootstrap draws, for each size of pool in turn, as many scores as there are, with replacement, from pools and
    folds alike, and takes their mean. Draws are those of numpy.random.RandomState(0), begun anew for each neuroid; a
    pool in which some fold has no score is left out. Both exactly as in Brain-Score; of the fit see
    harness/scoring/saturation.py.

    Args:
        collected: scores.
        n_bootstraps: how many.
        threads: on how many cores blocks of neuroids are fitted beside each other.

    Returns:
        (neuroid, bootstrap, 2) v0, which is a ceiling, and tau0, in subjects. NaN where a fit did not converge, and for
        neuroids with scores from fewer than two sizes of pool, through which any curve would do.
    """
    found = np.full((collected.scores.shape[2], n_bootstraps, 2), np.nan)
    whole = np.isfinite(collected.scores).all(axis=1)
    rows, of = np.unique(whole, axis=1, return_inverse=True)
    sizes = np.array([len(pool) for pool in collected.pools], dtype=int)
    blocks: list[tuple[NDArray[np.bool_], Integers]] = []
    for pattern, present in enumerate(rows.T):
        neuroids = np.flatnonzero(of.reshape(-1) == pattern)
        if len(np.unique(sizes[present])) > 1:
            n_blocks = -(-len(neuroids) // _NEUROIDS)
            blocks.extend((present, block) for block in np.array_split(neuroids, n_blocks))

    def fit(block: tuple[NDArray[np.bool_], Integers]) -> None:
        present, neuroids = block
        scores = collected.scores[present][..., neuroids]
        found[neuroids] = _fit_bootstraps(scores, sizes[present], n_bootstraps)

    with ThreadPoolExecutor(threads) as workers:
        list(workers.map(fit, blocks))
    return found


def _fit_bootstraps(scores: Floats, sizes: Integers, n_bootstraps: int) -> Floats:
    """(neuroid, bootstrap, 2) v0 and tau0 of neuroids with (pool, fold, neuroid) scores, all finite."""
    x, n_neuroids = np.unique(sizes), scores.shape[2]
    by_size = [scores[sizes == size].reshape(-1, n_neuroids) for size in x]
    shares = _shares(tuple(len(each) for each in by_size), n_bootstraps)
    means = np.stack([share @ each for share, each in zip(shares, by_size, strict=True)], axis=-1)
    fitted = saturation.fit(x + 1.0, means.reshape(-1, len(x)))
    return fitted.reshape(n_bootstraps, n_neuroids, 2).swapaxes(0, 1)


@lru_cache(maxsize=64)
def _shares(counts: tuple[int, ...], n_bootstraps: int) -> list[Floats]:
    """For each count (bootstrap, count): how often each score was drawn, over the count."""
    random = np.random.RandomState(0)
    shares: list[Floats] = [np.empty((n_bootstraps, count)) for count in counts]
    for bootstrap in range(n_bootstraps):
        for share, count in zip(shares, counts, strict=True):
            share[bootstrap] = np.bincount(random.choice(count, count), minlength=count) / count
    return shares
