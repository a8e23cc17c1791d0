"""How alike two matrices are that describe the same rows: one number for both, no fit between them.

All compute in float64 and from products of whole matrices, so that pairs of rows cost no loop. All give NaN where there
is nothing to compare: a matrix without variation, or a row without a correlation.
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
    """Share of the pairs of rows whose predictions are nearer to their own observations than when exchanged.

    Args:
        predicted: (row, neuroid) held-out predictions.
        observed: (row, neuroid) responses, same rows and columns.
        distance: across neuroids, 1 - Pearson correlation or Euclidean.

    Returns:
        Accuracy over all pairs of rows, chance .5; a pair whose two sums of distances are equal but for rounding counts
        one half. NaN where a row is constant and the distance a correlation.

    Raises:
        ValueError: if the shapes differ, rows are fewer than 2, a value is not finite, or the distance is neither.

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
    # Each pair stands twice in the matrix; the diagonal neither wins nor loses.
    wins, losses, n = int((gain > doubt).sum()), int((gain < -doubt).sum()), len(D)
    return 0.5 + 0.5 * (wins - losses) / (n * (n - 1))


def linear_cka(X: Array, Y: Array) -> float:
    """Centred kernel alignment with linear kernels.

    Args:
        X: (row, feature).
        Y: (row, feature), same rows; features may be others and of another number.

    Returns:
        ||Y'X||^2 / (||X'X|| ||Y'Y||) of the centred columns, in [0, 1]; NaN where one matrix is constant.

    Raises:
        ValueError: if rows differ in number, there are fewer than 2, or a value is not finite.

    Source: Kornblith et al. 2019, eq. 3 and section 3; equal to Brain-Score language's `linear_CKA`. It is biased
        upwards where features exceed rows.
    """
    xp = _require_same_rows("X", X, "Y", Y)
    if bool(constant(X).all()) or bool(constant(Y).all()):
        return float(xp.nan)
    X, Y = (Z.astype(float) - Z.mean(axis=0, dtype=float) for Z in (X, Y))
    if max(X.shape[1], Y.shape[1]) <= len(X):
        return float(xp.linalg.norm(Y.T @ X) ** 2 / (xp.linalg.norm(X.T @ X) * xp.linalg.norm(Y.T @ Y)))
    K, L = X @ X.T, Y @ Y.T  # the same by rows, which are fewer
    return float((K * L).sum() / (xp.linalg.norm(K) * xp.linalg.norm(L)))


def rsa(X: Array, Y: Array) -> float:
    """Representational similarity: whether the same pairs of rows are unlike each other in both matrices.

    Args:
        X: (row, feature).
        Y: (row, feature), same rows; features may be others and of another number.

    Returns:
        Spearman correlation over all pairs of rows of the dissimilarities 1 - Pearson; those equal but for rounding
        share their mean rank. NaN where a row is constant, all dissimilarities are equal, or rows are fewer than 3.

    Raises:
        ValueError: if rows differ in number, there are fewer than 2, or a value is not finite.

    Source: Kriegeskorte et al. 2008; equal to Brain-Score language's `rdm`, of which the diagonal is no part, but for
        ties, which its rounding breaks.
    """
    xp = _require_same_rows("X", X, "Y", Y)
    pairs = xp.triu(xp.ones((len(X), len(X)), dtype=bool), 1)
    dissimilarities = [(_correlation(Z, Z)[0][pairs], _rounding(Z)) for Z in (X, Y)]
    if any(bool(xp.isnan(each).any()) for each, _ in dissimilarities):
        return float(xp.nan)
    x, y = (_ranks(each, rounding)[:, None] for each, rounding in dissimilarities)
    return float(pearson_r(x, y)[0])


# (row, column) and (row, column) -> one number; the columns must be the same for `two_vs_two` only.
SIMILARITIES: dict[str, Callable[[Array, Array], float]] = {
    "two_vs_two": two_vs_two,
    "linear_cka": linear_cka,
    "rsa": rsa,
}


def _correlation(X: Array, Y: Array) -> tuple[Array, Array]:
    """(row, row) 1 - Pearson of each row of X with each of Y, NaN where one is constant; and their rounding."""
    xp = namespace(X, Y)
    D = 1.0 - _unit_rows(X) @ _unit_rows(Y).T
    return D, xp.full(D.shape, _rounding(X))


def _rounding(X: Array) -> float:
    """By how much two correlations over the columns may differ that are equal."""
    return float(4.0 * X.shape[1] * namespace(X).finfo(float).eps)


def _unit_rows(X: Array) -> Array:
    """The rows less their means, of length 1; NaN where a row is constant."""
    xp, flat = namespace(X), constant(X.T)
    X = X.astype(float)
    X -= X.mean(axis=1, keepdims=True)
    return X / xp.where(flat, xp.nan, xp.sqrt(products(X, X, axis=1)))[:, None]


def _euclidean(X: Array, Y: Array) -> tuple[Array, Array]:
    """(row, row) distances from each row of X to each of Y, and their rounding.

    By one product: |x - y|^2 = |x|^2 + |y|^2 - 2 xy, about a common centre so that little cancels. What the square is
    off by, a distance d is off by over d, but never by more than its root.
    """
    xp = namespace(X, Y)
    centre = Y.mean(axis=0, dtype=float)
    X, Y = X.astype(float) - centre, Y.astype(float) - centre
    sizes = products(X, X, axis=1)[:, None] + products(Y, Y, axis=1)
    D = xp.sqrt((sizes - 2.0 * X @ Y.T).clip(0.0))
    off = _rounding(X) * sizes
    return D, off / xp.where(off > 0, D + xp.sqrt(off), 1.0)


def _ranks(values: Array, rounding: float) -> Array:
    """(value,) float64 ranks from 1; values that follow each other by no more than rounding share their mean rank."""
    xp, order = namespace(values), values.argsort()
    ascending = values[order]
    is_new = xp.concatenate([xp.zeros(1, dtype=bool), ascending[1:] - ascending[:-1] > rounding])
    group = xp.cumsum(is_new)
    counts = xp.bincount(group)
    ranks = xp.empty(len(values))
    ranks[order] = (xp.cumsum(counts) - (counts - 1) / 2.0)[group]
    return ranks


def _require_same_rows(name_x: str, X: Array, name_y: str, Y: Array) -> ModuleType:
    """The arrays' library; ValueError where the matrices do not describe the same rows, or are not finite."""
    xp = namespace(X, Y)
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y) or len(X) < 2:
        raise ValueError(
            f"{name_x} is {X.shape}, {name_y} {Y.shape}; wanted two matrices with the same rows, 2 at least."
        )
    for name, Z in ((name_x, X), (name_y, Y)):
        broken = xp.flatnonzero(~xp.isfinite(Z).all(axis=1))
        if len(broken):
            raise ValueError(f"{name}: row {int(broken[0])} of {len(Z)} holds NaN or infinity; leave such rows out.")
    return xp
