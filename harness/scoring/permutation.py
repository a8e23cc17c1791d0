"""Test of single neuroids: is its response predicted at all? Held-out predictions against permuted responses.

Rows are not independent: neighbouring scans share noise, and so do the sentences of a passage or of a topic. So whole
blocks of test rows are permuted within their fold, while the predictions stay where they are:

- rows are stimuli: the fold's groups (topics) change places, or its passages if it holds one group only;
- rows are scans, or the fold is a single passage: the responses of each continuous stretch are shifted in a circle.

The statistic is the sum over folds of Pearson r; the test is one-sided (r > 0). Each fold has a pool of arrangements
that begins with the one observed: all there are, or `POOL` drawn at random. The arrangements of the folds are combined
in all ways, or in `DRAWS` random ones, of which the observed combination is one, so p is at least `p_min`.

Predictions are kept, but those of one fold were learned from the responses of the others. Without an effect the r of
two folds are therefore correlated (`folds.correlation`), and their sum varies more than that of folds permuted
independently: by a factor of 1.4 for disjoint folds that cover all rows. The permuted sums are stretched about their
mean by this factor; without it 12 % of neuroids of pure noise have p < 0.05. So the test is approximate, as it is where
blocks differ in length or a series is not stationary; tests/benchmarks/false_positives.py measures how well it holds.

Method: harness/scoring/README.md#tests-of-single-neuroids. Source: Phipson & Smyth 2010 (p counts the observed
arrangement); Hemerik & Goeman 2018 (random subsets of permutations); Benjamini & Hochberg 1995.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise, permutations, product
from typing import NamedTuple

import numpy as np

from harness.protocol import FoldRule
from harness.records import Floats, Integers, Responses
from harness.scoring.held_out import HeldOutFold

DRAWS = 4_999
POOL = 200
_NEUROIDS = 1024  # neuroids at a time
_ROUNDING = 1e-6  # of a sum of r in float32


class NeuroidTest(NamedTuple):
    """(neuroid,) each: p; p_min, the smallest p possible; q, p after Benjamini-Hochberg over the neuroids.

    All are NaN where nothing is predicted.
    """

    p: Floats
    p_min: Floats
    q: Floats


def applies(rule: FoldRule) -> bool:
    """Whether neuroids can be tested: random splits test a row several times, so they have no separate arrangements."""
    return not rule.kind.endswith("shuffled")


def test_neuroids(folds: Sequence[HeldOutFold], responses: Responses, correlation: float, seed: int) -> NeuroidTest:
    """Test each neuroid.

    Args:
        folds: held-out predictions.
        responses: the recording.
        correlation: of the scores of two folds of an experiment without an effect (`LayerFit.fold_correlation`).
        seed: of the random arrangements.

    Returns:
        The test; all NaN if a row is tested in several folds (random splits), since the folds then have no separate
        arrangements.
    """
    p, p_min = np.full((2, len(responses.neuroid_ids)), np.nan)
    if not _share_test_rows(folds):
        stretch = _stretch(folds, correlation)
        for neuroids in np.array_split(np.arange(len(p)), math.ceil(len(p) / _NEUROIDS)):
            p[neuroids], p_min[neuroids] = _test(folds, responses, neuroids, stretch, seed)
    return NeuroidTest(p, p_min, benjamini_hochberg(p))


def _share_test_rows(folds: Sequence[HeldOutFold]) -> bool:
    """Whether a row is tested in several folds."""
    rows = np.concatenate([fold.rows for fold in folds])
    return len(np.unique(rows)) < len(rows)


def benjamini_hochberg(p: Floats) -> Floats:
    """(test,) p after the correction of Benjamini and Hochberg over the finite values; NaN stays NaN."""
    from scipy import stats

    q, finite = np.full(len(p), np.nan), np.isfinite(p)
    if finite.any():
        q[finite] = stats.false_discovery_control(p[finite])
    return q


def _stretch(folds: Sequence[HeldOutFold], correlation: float) -> float:
    """Standard deviation of a sum of correlated folds, relative to that of a sum of independent folds."""
    n_folds = Counter(fold.part for fold in folds)
    variance = sum(n * (1 + (n - 1) * correlation) for n in n_folds.values())
    return math.sqrt(variance / len(folds))


def _test(
    folds: Sequence[HeldOutFold], responses: Responses, neuroids: Integers, stretch: float, seed: int
) -> tuple[Floats, Floats]:
    """(neuroid,) p and its smallest possible value, for some neuroids."""
    of_fold = [_arranged_r(fold, responses, neuroids, [seed, k]) for k, fold in enumerate(folds)]
    p, p_min = np.full((2, len(neuroids)), np.nan)
    sizes = np.stack([n for _, n in of_fold])  # (fold, neuroid) arrangements; 0 where there is no prediction
    for columns in _equal_columns(sizes):
        scored = np.flatnonzero(sizes[:, columns[0]])
        if not len(scored):
            continue
        chosen = _combinations(sizes[scored, columns[0]], seed)
        total = sum(of_fold[fold][0][:, columns][chosen[:, k]] for k, fold in enumerate(scored))
        middle = total.mean(axis=0)
        is_higher = middle + stretch * (total - middle) >= total[0] - _ROUNDING
        is_higher[0] = True
        p[columns] = is_higher.mean(axis=0)
        p_min[columns] = 1 / len(chosen)
    return p, p_min


def _equal_columns(matrix: Floats | Integers) -> list[Integers]:
    """The columns of a matrix, grouped by their content."""
    if (matrix == matrix[:, :1]).all():
        return [np.arange(matrix.shape[1])]
    by_content: dict[bytes, list[int]] = {}
    for k, column in enumerate(np.ascontiguousarray(matrix.T)):
        by_content.setdefault(column.tobytes(), []).append(k)
    return [np.array(columns) for columns in by_content.values()]


def _combinations(sizes: Integers, seed: int) -> Integers:
    """(combination, fold) arrangement of each fold, the observed combination (0, 0, ...) first."""
    if math.prod(sizes.tolist()) <= DRAWS + 1:
        return np.array(list(product(*map(range, sizes))))
    drawn = (np.random.default_rng(seed).random((DRAWS, len(sizes))) * sizes).astype(np.int64)
    return np.concatenate([np.zeros((1, len(sizes)), dtype=np.int64), drawn])


def _arranged_r(
    fold: HeldOutFold, responses: Responses, neuroids: Integers, seed: Sequence[int]
) -> tuple[Floats, Integers]:
    """(POOL, neuroid) float32 r of a fold under each arrangement, and (neuroid,) the number of arrangements."""
    order = np.argsort(fold.rows)
    rows = fold.rows[order]
    predicted, observed = fold.predicted[np.ix_(order, neuroids)], responses.values[np.ix_(rows, neuroids)]
    present = np.isfinite(predicted) & np.isfinite(observed)
    r, n = np.zeros((POOL, len(neuroids)), np.float32), np.zeros(len(neuroids), np.int64)
    for columns in _equal_columns(present):
        pattern = present[:, columns[0]]
        if pattern.sum() < 2:
            continue
        x, y = (_standardised(values[np.ix_(pattern, columns)]) for values in (predicted, observed))
        values = _of_arrangements(x, y, responses, rows[pattern], np.random.default_rng(seed))
        varies = x.any(axis=0) & y.any(axis=0)
        r[: len(values), columns[varies]], n[columns[varies]] = values[:, varies], len(values)
    return r, n


def _standardised(values: Floats) -> Floats:
    """(row, neuroid) float32 columns with mean 0 and norm 1; 0 if constant."""
    values = values.astype(float)
    values -= values.mean(axis=0)
    norms = np.sqrt(np.square(values).sum(axis=0))
    is_constant = norms <= 1e-12 * np.sqrt(len(values)) * np.abs(values).max(initial=1e-300)
    standardised: Floats = (values / np.where(is_constant, np.inf, norms)).astype(np.float32)
    return standardised


def _of_arrangements(
    x: Floats, y: Floats, responses: Responses, rows: Integers, rng: np.random.Generator
) -> Floats:  # fmt: skip
    """(arrangement, neuroid) r of standardised x and rearranged y, the observed arrangement first."""
    groups, blocks = (np.array(labels)[rows] for labels in (responses.row_groups, responses.row_blocks))
    labels = groups if len(set(groups)) > 1 else blocks
    if responses.times_s is not None:
        return _shifted(x, y, blocks, rng)
    if len(set(labels)) == 1:
        return _shifted(x, y, labels, rng)
    arranged = islice(_block_orders(labels, rng), POOL)
    return np.stack([np.einsum("rn,rn->n", x, y[order]) for order in arranged])


def _block_orders(labels: Floats, rng: np.random.Generator) -> Iterator[Integers]:
    """Yield rows with their blocks in another order, the order as it is first; all orders if there are few."""
    names = list(dict.fromkeys(labels.tolist()))
    of_block = [np.flatnonzero(labels == name) for name in names]
    rows = np.argsort(np.concatenate(of_block), kind="stable")  # blocks may be interleaved
    if math.factorial(min(len(names), 12)) <= POOL:
        orders: Iterator[Sequence[int]] = permutations(range(len(names)))
    else:
        drawn = (rng.permutation(len(names)).tolist() for _ in range(POOL - 1))
        orders = (order for orders in ([list(range(len(names)))], drawn) for order in orders)
    return (np.concatenate([of_block[k] for k in order])[rows] for order in orders)


def _shifted(x: Floats, y: Floats, blocks: Floats, rng: np.random.Generator) -> Floats:
    """(arrangement, neuroid) r with the rows of each block shifted in a circle, by the convolution theorem."""
    from scipy import fft

    edges = [0, *(np.flatnonzero(blocks[1:] != blocks[:-1]) + 1), len(blocks)]
    lengths = [stop - start for start, stop in pairwise(edges)]
    shifts = _combinations_of_shifts(lengths, rng)
    total = np.zeros((len(shifts), x.shape[1]), dtype=np.float32)
    for k, (start, stop) in enumerate(pairwise(edges)):
        spectrum = fft.rfft(x[start:stop], axis=0).conj() * fft.rfft(y[start:stop], axis=0)
        total += fft.irfft(spectrum, stop - start, axis=0)[shifts[:, k]]
    return total


def _combinations_of_shifts(lengths: Sequence[int], rng: np.random.Generator) -> Integers:
    """(arrangement, block) shift of each block, without shifts first; all of them if there are few."""
    if math.prod(lengths) <= POOL:
        return np.array(list(product(*map(range, lengths))))
    drawn = (rng.random((POOL - 1, len(lengths))) * lengths).astype(np.int64)
    return np.concatenate([np.zeros((1, len(lengths)), dtype=np.int64), drawn])
