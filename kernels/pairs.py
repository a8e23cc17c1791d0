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

import numpy as np

from harness.kernels.arrays import Array, namespace
from harness.kernels.metrics import constant
from harness.kernels.similarity import about_mean, ranks

# A block of products whose norm is this small relative to the products before centring holds rounding errors.
_ROUNDING = 1e-12
_BLOCK = 256  # columns at a time
_NUMBERS = 2**24  # in memory at once


def squared_products(X: Array, Y: Array, draws: Sequence[Array]) -> Array:
    """(draw, column) ||A'b||^2, where A and b are the rows of X and of a column of Y in a draw, about their means.

    The sum over columns is the squared norm of A'B. Most rows are in most draws, so those that a draw leaves out are
    subtracted from the products of all rows.

    Args:
        X: (row, feature) float64, near its mean to limit rounding errors.
        Y: (row, feature) float64, the same rows, likewise.
        draws: indices of more than half of the rows, none of them twice.
    """
    xp = namespace(X, Y)
    squares = xp.zeros((len(draws), Y.shape[1]))
    of_X = [_Drawn(X, rows) for rows in draws]
    width = max(_BLOCK // 16, _NUMBERS // (4 * X.shape[1]))
    for start in range(0, Y.shape[1], width):
        columns = slice(start, start + width)
        block = Y[:, columns]
        products = X.T @ block
        for k, rows in enumerate(draws):
            x, y = of_X[k], _Drawn(block, rows)
            drawn = products - x.left_out.T @ y.left_out - len(rows) * xp.outer(x.mean, y.mean)
            squares[k, columns] = xp.where(y.varies, (drawn[x.varies] ** 2).sum(axis=0), 0.0)
    return squares


class _Drawn:
    """A draw of the rows of a matrix.

    Attributes:
        mean: (column,) mean of the drawn rows.
        varies: (column,) whether they vary.
        left_out: (row, column) the other rows.
    """

    def __init__(self, X: Array, rows: Array) -> None:
        is_drawn = np.zeros(len(X), dtype=bool)
        is_drawn[rows] = True
        drawn = X[rows]
        self.mean, self.varies, self.left_out = drawn.mean(axis=0), ~constant(drawn), X[np.flatnonzero(~is_drawn)]


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
    """Sums of products over pairs of rows, for each fold and column y of Y; add those of columns compared together.

    Attributes:
        outer: (fold, column) over pairs of a test and a training row, <Xt'yt, Xr'yr>, each side about its own mean.
        inner: (fold, column) over pairs of training rows that other folds separate, about the mean of the training
            rows.
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
    outer, inner = xp.zeros((2, len(folds), Y.shape[1]))
    width = max(_BLOCK // 16, _NUMBERS // (len(folds) * X.shape[1]))
    for start in range(0, Y.shape[1], width):
        columns = slice(start, start + width)
        block = Y[:, columns]
        sums = [X[test].T @ block[test] for _, test in folds]
        for k, (train, test) in enumerate(folds):
            others = [(other, sums[g]) for g, (_, other) in enumerate(folds) if g != k]
            trained, separated = _in_training(X, block, train, others)
            tested = sums[k] - len(test) * xp.outer(X[test].mean(axis=0), block[test].mean(axis=0))
            outer[k, columns], inner[k, columns] = (tested * trained).sum(axis=0), separated
    return CrossProducts(outer, inner)


def _in_training(X: Array, Y: Array, train: Array, others: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """X'Y over training rows about their means, and the squared norms of its columns without pairs of one other fold.

    `others` has, for each other fold, its test rows and X'Y over them; test rows near this fold may not be trained on.
    """
    xp = namespace(X, Y)
    x, y = X[train].mean(axis=0), Y[train].mean(axis=0)
    total, within = xp.zeros((X.shape[1], Y.shape[1])), xp.zeros(Y.shape[1])
    for tested, products in others:
        is_trained = xp.isin(tested, train)
        rows, left_out = tested[is_trained], tested[~is_trained]
        X_sum, Y_sum = X[rows].sum(axis=0) - len(rows) * x, Y[rows].sum(axis=0)
        centred = products - X[left_out].T @ Y[left_out] - xp.outer(X_sum, y) - xp.outer(x, Y_sum)
        total += centred
        within += (centred * centred).sum(axis=0)
    return total, (total * total).sum(axis=0) - within
