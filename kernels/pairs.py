"""Similarity of two matrices over pairs of rows that a split separates: RSA and linear CKA without the usual bias.

Both measures compare values of pairs of rows: dissimilarities (RSA) or inner products (CKA). Over all pairs of few
rows, CKA of unrelated matrices with many columns is far above 0, and pairs of neighbouring rows are alike in any two
matrices that drift. Here each pair has one test and one training row of a split. If the split keeps dependent rows
together, the values of unrelated matrices are unrelated too: their expected product is 0, whatever the numbers of
columns.

For CKA this is the cross-validated form of the Hilbert-Schmidt independence criterion: the inner product of the
cross-covariance in the test rows with that in the training rows, both about their own means. With single rows left out
it tends to the unbiased estimator (Song et al. 2012; Nguyen et al. 2020; Murphy et al. 2024), which only omits the
pairs of a row with itself.

Source: Kriegeskorte et al. 2008 (RSA); Kornblith et al. 2019 (CKA). Cross-validated distances: Walther et al. 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.kernels.arrays import Array, namespace
from harness.kernels.similarity import about_mean, ranks

# A block of products whose norm is this small relative to the products before centring holds rounding errors.
_ROUNDING = 1e-12
_BLOCK = 256  # columns at a time
_NUMBERS = 2**24  # in memory at once


def squared_products(A: Array, B: Array) -> float:
    """||A'B||^2 of (row, a) A and (row, b) B, in blocks of columns."""
    xp, total = namespace(A, B), 0.0
    for start in range(0, B.shape[1], _BLOCK):
        total += float(xp.linalg.norm(A.T @ B[:, start : start + _BLOCK]) ** 2)
    return total


def gram(X: Array) -> Array:
    """(row, row) float64 inner products of the rows of X about their mean; constant columns count as 0."""
    X = about_mean(X)
    return X @ X.T


def standard_ranks(values: Array, rounding: float, order: Array | None = None) -> Array:
    """(value,) ranks with mean 0 and norm 1, so that the product of two is Spearman's correlation.

    NaN if a value is NaN or all are equal; values that differ by no more than `rounding` are equal. `order` are the
    indices that sort the values, if they are known.
    """
    xp = namespace(values)
    if not len(values) or bool(xp.isnan(values).any()):
        return xp.full(len(values), xp.nan)
    centred = ranks(values, rounding, order)
    centred -= centred.mean()
    norm = xp.linalg.norm(centred)
    return centred / (norm if norm > 0.1 else xp.nan)  # ranks are multiples of one half


class SortedPairs:
    """The values of all pairs of different rows, sorted once, from which the ranks of any of them follow.

    Attributes:
        first, second: (pair,) the two rows.
    """

    def __init__(self, matrix: Array, rounding: float) -> None:
        """Sort the values above the diagonal of a symmetric (row, row) matrix."""
        xp = namespace(matrix)
        self.first, self.second = xp.triu_indices(len(matrix), 1)
        self._values, self._rounding = matrix[self.first, self.second], rounding
        self._order = self._values.argsort()

    def standard_ranks(self, chosen: Array) -> Array:
        """`standard_ranks` of the values of some pairs, for a (pair,) mask."""
        place = namespace(chosen).cumsum(chosen) - 1
        return standard_ranks(self._values[chosen], self._rounding, place[self._order[chosen[self._order]]])


def standard_products(products: Array) -> Array:
    """(row, other row) products about the means of rows and columns, with norm 1; NaN if nothing varies."""
    xp = namespace(products)
    if not products.size:
        return products
    rows, columns = products.mean(axis=1, keepdims=True), products.mean(axis=0, keepdims=True)
    centred = products - rows - columns + products.mean()
    norm = xp.linalg.norm(centred)
    return centred / (norm if norm > _ROUNDING * xp.linalg.norm(products) else xp.nan)


class CrossProducts(NamedTuple):
    """Sums of products over pairs of rows, for each fold.

    Attributes:
        outer: (fold,) over pairs of a test and a training row, <Xt'Yt, Xr'Yr>, each side about its own mean.
        inner: (fold,) over pairs of training rows that other folds separate, about the mean of the training rows.
    """

    outer: Array
    inner: Array


def cross_products(X: Array, Y: Array, folds: Sequence[tuple[Array, Array]]) -> CrossProducts:
    """Sums of products of the inner products of rows of X with those of Y, without a matrix of all pairs of rows.

    Args:
        X: (row, feature) float64, near its mean to limit rounding errors.
        Y: (row, feature) float64, the same rows, likewise.
        folds: (train, test) indices of rows; the test rows of two folds are disjoint, and training rows are test rows
            of another fold.
    """
    xp = namespace(X, Y)
    outer, inner = xp.zeros(len(folds)), xp.zeros(len(folds))
    width = max(_BLOCK // 16, _NUMBERS // (len(folds) * X.shape[1]))
    for start in range(0, Y.shape[1], width):
        block = Y[:, start : start + width]
        sums = [X[test].T @ block[test] for _, test in folds]
        for k, (train, test) in enumerate(folds):
            others = [(other, sums[g]) for g, (_, other) in enumerate(folds) if g != k]
            trained, separated = _in_training(X, block, train, others)
            tested = sums[k] - len(test) * xp.outer(X[test].mean(axis=0), block[test].mean(axis=0))
            outer[k] += float((tested * trained).sum())
            inner[k] += separated
    return CrossProducts(outer, inner)


def _in_training(X: Array, Y: Array, train: Array, others: list[tuple[Array, Array]]) -> tuple[Array, float]:
    """X'Y over training rows about their means, and its squared norm without the pairs of rows of one other fold.

    `others` has, for each other fold, its test rows and X'Y over them; test rows near this fold may not be trained on.
    """
    xp = namespace(X, Y)
    x, y = X[train].mean(axis=0), Y[train].mean(axis=0)
    total, within = xp.zeros((X.shape[1], Y.shape[1])), 0.0
    for tested, products in others:
        is_trained = xp.isin(tested, train)
        rows, left_out = tested[is_trained], tested[~is_trained]
        X_sum, Y_sum = X[rows].sum(axis=0) - len(rows) * x, Y[rows].sum(axis=0)
        centred = products - X[left_out].T @ Y[left_out] - xp.outer(X_sum, y) - xp.outer(x, Y_sum)
        total += centred
        within += float((centred * centred).sum())
    return total, float((total * total).sum()) - within
