"""Similarity of two matrices with the same rows: one number per pair of matrices, without a fit.

All functions compute in float64, from products of whole matrices, without loops over pairs of rows. They return NaN if
there is nothing to compare: a matrix without variation, or a row without a correlation.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Literal

from harness.kernels.arrays import Array, namespace, products
from harness.kernels.metrics import constant, pearson_r


def two_vs_two(
    predicted: Array, observed: Array, distance: Literal["correlation", "euclidean"] = "correlation"
) -> float:
    """Fraction of pairs of rows whose predictions are nearer to their own observations than to each other's.

    Args:
        predicted: (row, neuroid) held-out predictions.
        observed: (row, neuroid) responses, same rows and columns.
        distance: across neuroids, 1 - Pearson correlation or Euclidean.

    Returns:
        Accuracy over all pairs of rows, chance 0.5; a pair whose two sums of distances are equal up to rounding counts
        one half. NaN if a row is constant and the distance is "correlation".

    Raises:
        ValueError: if the shapes differ, there are fewer than 2 rows, a value is not finite, or the distance is
            unknown.

    Source: Mitchell et al. 2008, with cosine similarity; Wehbe et al. 2014, with Euclidean distance.
    """
    xp = _require_same_rows("predicted", predicted, "observed", observed)
    if predicted.shape != observed.shape:
        raise ValueError(f"two_vs_two: predictions are {predicted.shape}, observations {observed.shape}.")
    if distance not in ("correlation", "euclidean"):
        raise ValueError(f"two_vs_two: distance {distance!r}; wanted 'correlation' or 'euclidean'.")
    D, rounding = (_correlation if distance == "correlation" else _euclidean)(predicted, observed)
    if bool(xp.isnan(D).any()):
        return float(xp.nan)
    own, doubt = D.diagonal(), rounding.diagonal()
    gain = D + D.T - (own[:, None] + own)
    doubt = rounding + rounding.T + (doubt[:, None] + doubt)
    # Each pair occurs twice in the matrix; the diagonal neither wins nor loses.
    wins, losses, n = int((gain > doubt).sum()), int((gain < -doubt).sum()), len(D)
    return 0.5 + 0.5 * (wins - losses) / (n * (n - 1))


def linear_cka(X: Array, Y: Array) -> float:
    """Centred kernel alignment with linear kernels.

    Args:
        X: (row, feature).
        Y: (row, feature), same rows; the features may differ in kind and number.

    Returns:
        ||Y'X||^2 / (||X'X|| ||Y'Y||) of the centred columns, in [0, 1]; NaN if one matrix is constant.

    Raises:
        ValueError: if the number of rows differs or is below 2, or a value is not finite.

    Source: Kornblith et al. 2019, eq. 3 and section 3; equal to Brain-Score language's `linear_CKA`. Biased upwards if
        features exceed rows.
    """
    xp = _require_same_rows("X", X, "Y", Y)
    if bool(constant(X).all()) or bool(constant(Y).all()):
        return float(xp.nan)
    X, Y = about_mean(X), about_mean(Y)
    if max(X.shape[1], Y.shape[1]) <= len(X):
        return float(xp.linalg.norm(Y.T @ X) ** 2 / (xp.linalg.norm(X.T @ X) * xp.linalg.norm(Y.T @ Y)))
    K, L = X @ X.T, Y @ Y.T  # equal, and cheaper if rows are fewer than columns
    return float((K * L).sum() / (xp.linalg.norm(K) * xp.linalg.norm(L)))


def rsa(X: Array, Y: Array) -> float:
    """Representational similarity analysis: correlate the dissimilarities of pairs of rows between two matrices.

    Args:
        X: (row, feature).
        Y: (row, feature), same rows; the features may differ in kind and number.

    Returns:
        Spearman correlation, over all pairs of rows, of the dissimilarities 1 - Pearson r; dissimilarities equal up to
        rounding share their mean rank. NaN if a row is constant, all dissimilarities are equal, or there are fewer
        than 3 rows.

    Raises:
        ValueError: if the number of rows differs or is below 2, or a value is not finite.

    Source: Kriegeskorte et al. 2008; equal to Brain-Score language's `rdm` (without the diagonal), except for ties,
        which are broken there by rounding.
    """
    xp = _require_same_rows("X", X, "Y", Y)
    pairs = xp.triu(xp.ones((len(X), len(X)), dtype=bool), 1)
    of_pairs = [(dissimilarities(Z)[pairs], rounding_of(Z)) for Z in (X, Y)]
    if any(bool(xp.isnan(values).any()) for values, _ in of_pairs):
        return float(xp.nan)
    x, y = (ranks(values, rounding)[:, None] for values, rounding in of_pairs)
    return float(pearson_r(x, y)[0])


# Two (row, column) matrices -> one number; only `two_vs_two` requires the same columns.
SIMILARITIES: dict[str, Callable[[Array, Array], float]] = {
    similarity.__name__: similarity for similarity in (two_vs_two, linear_cka, rsa)
}


def dissimilarities(X: Array) -> Array:
    """(row, row) float64 1 - Pearson r of the rows of (row, column) X; NaN for a constant row."""
    return _correlation(X, X)[0]


def about_mean(X: Array) -> Array:
    """(row, column) float64 about the means of the columns; constant columns are exactly 0."""
    xp = namespace(X)
    return xp.where(constant(X), 0.0, X.astype(float) - X.mean(axis=0, dtype=float))


def _correlation(X: Array, Y: Array) -> tuple[Array, Array]:
    """(row, row) 1 - Pearson r of each row of X with each row of Y, NaN where one is constant; and the rounding."""
    xp = namespace(X, Y)
    D = 1.0 - _unit_rows(X) @ _unit_rows(Y).T
    return D, xp.full(D.shape, rounding_of(X))


def rounding_of(X: Array) -> float:
    """Largest difference, due to rounding, of two equal correlations over the columns."""
    return float(4.0 * X.shape[1] * namespace(X).finfo(float).eps)


def _unit_rows(X: Array) -> Array:
    """Rows minus their means, scaled to unit length; NaN where a row is constant."""
    xp, flat = namespace(X), constant(X.T)
    X = X.astype(float)
    X -= X.mean(axis=1, keepdims=True)
    return X / xp.where(flat, xp.nan, xp.sqrt(products(X, X, axis=1)))[:, None]


def _euclidean(X: Array, Y: Array) -> tuple[Array, Array]:
    """(row, row) distances from each row of X to each row of Y, and their rounding.

    Computed by one product, |x - y|^2 = |x|^2 + |y|^2 - 2 xy, about a common centre to limit cancellation. An error e
    of the square becomes e / d of the distance d, and at most sqrt(e).
    """
    xp = namespace(X, Y)
    centre = Y.mean(axis=0, dtype=float)
    X, Y = X.astype(float) - centre, Y.astype(float) - centre
    sizes = products(X, X, axis=1)[:, None] + products(Y, Y, axis=1)
    D = xp.sqrt((sizes - 2.0 * X @ Y.T).clip(0.0))
    error = rounding_of(X) * sizes
    return D, error / xp.where(error > 0, D + xp.sqrt(error), 1.0)


def ranks(values: Array, rounding: float, order: Array | None = None) -> Array:
    """(value,) float64 ranks from 1; neighbours that differ by no more than `rounding` share their mean rank.

    `order` are the indices that sort the values, if they are known.
    """
    xp = namespace(values)
    order = values.argsort() if order is None else order
    ascending = values[order]
    is_new = xp.concatenate([xp.zeros(1, dtype=bool), ascending[1:] - ascending[:-1] > rounding])
    group = xp.cumsum(is_new)
    counts = xp.bincount(group)
    ranks = xp.empty(len(values))
    ranks[order] = (xp.cumsum(counts) - (counts - 1) / 2.0)[group]
    return ranks


def _require_same_rows(name_x: str, X: Array, name_y: str, Y: Array) -> ModuleType:
    """The arrays' library; ValueError if the matrices do not have the same rows or are not finite."""
    xp = namespace(X, Y)
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y) or len(X) < 2:
        raise ValueError(
            f"{name_x} is {X.shape}, {name_y} {Y.shape}; wanted two matrices with the same number of rows, at least 2."
        )
    for name, Z in ((name_x, X), (name_y, Y)):
        broken = xp.flatnonzero(~xp.isfinite(Z).all(axis=1))
        if len(broken):
            raise ValueError(f"{name}: row {int(broken[0])} of {len(Z)} holds NaN or infinity; remove such rows.")
    return xp
