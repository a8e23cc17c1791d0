"""Batched ridge regression: every neuroid and alpha of a fold from one eigendecomposition.

Rows (stimuli, scans) are few, features and neuroids many; so all happens in the dual and weights are never formed.
With C = U diag(lam) U' the centred Gram matrix of the training rows (kernels/gram.py) and W = U'Y, a penalty alpha

    leaves on the training rows the residual  P Y,  P = U diag(alpha / (lam + alpha)) U' + N,
    leaves on a block B it never saw          (P_BB)^-1 (P Y)_B,  exactly, intercept included,
    predicts for a new row, t = U'k           t' diag(1 / (lam + alpha)) W,

N being the projector on what features do not span (0 at rank n - 1). Least squares is alpha = 0. Alpha is chosen in
kernels/search.py.

Source: leave-one-out, Golub, Heath & Wahba 1979; leave-block-out by the same inverse of a partitioned matrix, equal to
himalaya's KernelRidgeCV (Dupre la Tour et al. 2022) with the same inner folds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from kernels.arrays import Array, namespace, to_host
from kernels.gram import Basis, Design, decompose
from kernels.metrics import constant, pearson_r
from kernels.search import leaving_out


@dataclass(frozen=True)
class Penalty:
    """How strongly weights are held down.

    Attributes:
        alphas: the grid, positive; empty for minimum-norm least squares.
        relative: multiply the grid by tr(C) / n of the training rows.
        per_neuroid: one alpha for each neuroid, or one for all that have the same rows (Brain-Score's rule).
        tie: which alpha to keep of those whose errors are equal to 10 eps: "larger", or "smaller" as scikit-learn.
        cutoff: least squares drops directions whose squared singular value is under this times the largest.
    """

    alphas: tuple[float, ...] = ()
    relative: bool = False
    per_neuroid: bool = True
    tie: Literal["larger", "smaller"] = "larger"
    cutoff: float = 1e-12

    def __post_init__(self) -> None:
        if not all(0 < alpha < np.inf for alpha in self.alphas):
            raise ValueError(f"alphas must be positive and finite, got {self.alphas}; give none for least squares.")
        object.__setattr__(self, "alphas", tuple(sorted(self.alphas)))


class HeldOut(NamedTuple):
    """Predictions of rows that the fit did not see, for some neuroids.

    Attributes:
        neuroids: (neuroid,) their columns in the responses.
        predicted, observed: (test, neuroid) float64, both less the mean of the training rows.
        alpha, inner: (neuroid,) the penalty, and its score inside the training rows.
        place: (neuroid,) place of alpha in the grid.
        rank: of the training features.
    """

    neuroids: Array
    predicted: Array
    observed: Array
    alpha: Array
    inner: Array
    place: Array
    rank: int


class FoldFit(NamedTuple):
    """Scores of one fold, on the host.

    Attributes:
        r, alpha, inner: (neuroid,) NaN where not measurable.
        at_low, at_high: share of the measurable neuroids whose alpha is the grid's first or last; NaN without a grid.
        rank: of the training features; the largest where neuroids have different rows.
    """

    r: Array
    alpha: Array
    inner: Array
    at_low: float
    at_high: float
    rank: int


def fit_fold(
    features: Design,
    Y: Array,
    train: Array,
    test: Array,
    penalty: Penalty,
    inner: Array | None = None,
    budget_bytes: int = 2**25,
) -> FoldFit:
    """Fit on the training rows, choosing alpha among them, and correlate with the test rows.

    Args:
        features: of all rows.
        Y: (row, neuroid) responses, NaN where absent; neuroids that miss the same rows are fitted together.
        train: row indices.
        test: row indices.
        penalty: the grid, and how to choose from it.
        inner: (train,) whole numbers; alpha is chosen by leaving out the rows of one number at a time, None for one row
            at a time. Least squares has nothing to choose, and its inner score leaves out the same rows.
        budget_bytes: memory for the neuroid side, which goes in blocks; it changes nothing but rounding.

    Returns:
        `inner` is 1 - error / variance over the training rows; NaN where least squares fits a left-out row exactly
        (at rank n - 1 always). A neuroid that is constant on the training rows is NaN throughout.

    Raises:
        ValueError: if the fold has no training or no test rows, or `inner` has one number only.
        TypeError: if features and responses lie in different libraries.
    """
    r, alpha, inner_score, place = (np.full(Y.shape[1], np.nan) for _ in range(4))
    rank = 0
    for part in predict_held_out(features, Y, train, test, penalty, inner, budget_bytes):
        r[part.neuroids] = to_host(pearson_r(part.predicted, part.observed))
        alpha[part.neuroids], inner_score[part.neuroids] = to_host(part.alpha), to_host(part.inner)
        place[part.neuroids] = to_host(part.place)
        rank = max(rank, part.rank)
    place = place[np.isfinite(alpha)]
    if not penalty.alphas or not len(place):
        return FoldFit(r, alpha, inner_score, np.nan, np.nan, rank)
    last = len(penalty.alphas) - 1
    return FoldFit(r, alpha, inner_score, float(np.mean(place == 0)), float(np.mean(place == last)), rank)


def predict_held_out(
    features: Design,
    Y: Array,
    train: Array,
    test: Array,
    penalty: Penalty,
    inner: Array | None = None,
    budget_bytes: int = 2**25,
) -> Iterator[HeldOut]:
    """Predict the test rows, one block of neuroids after the other; arguments and errors as in `fit_fold`.

    Left out are neuroids with fewer than two training rows (or inner blocks) or no test row, and all neuroids where no
    feature varies over the training rows.
    """
    namespace(features.X, Y)
    train, test = np.asarray(train), np.asarray(test)
    labels = np.arange(len(train)) if inner is None else np.asarray(inner)
    if not len(train) or not len(test):
        raise ValueError(f"a fold with {len(train)} training and {len(test)} test rows; both sides must have rows.")
    if len(train) > 1 and len(set(labels.tolist())) == 1:
        raise ValueError("inner: all training rows have one number; give at least two, or None for single rows.")
    for neuroids, in_train, in_test in _patterns(Y, train, test):
        blocks = _blocks(labels[in_train])
        if len(blocks) < 2 or not in_test.any():
            continue
        rows, test_rows = train[in_train], test[in_test]
        basis = decompose(features, rows, test_rows, 0.0 if penalty.alphas else penalty.cutoff)
        if len(basis.lam):
            size = max(1, budget_bytes // (8 * (5 * len(rows) + 3 * len(test_rows))))
            parts = [neuroids[start : start + size] for start in range(0, len(neuroids), size)]
            yield from _predict(basis, Y, rows, test_rows, parts, blocks, penalty)


def _patterns(Y: Array, train: Array, test: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Neuroids that have the same rows: their columns, and which training and test rows they have."""
    missing = to_host(namespace(Y).isnan(Y))[np.concatenate([train, test])]
    pattern = np.zeros(Y.shape[1], dtype=np.int64)
    if missing.any():
        pattern = np.unique(np.packbits(missing, axis=0), axis=1, return_inverse=True)[1].reshape(-1)
    for one in np.unique(pattern):
        neuroids = np.flatnonzero(pattern == one)
        present = ~missing[:, neuroids[0]]
        yield neuroids, present[: len(train)], present[len(train) :]


def _blocks(labels: Array) -> list[Array]:
    """The rows of each label."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _predict(
    basis: Basis, Y: Array, train: Array, test: Array, parts: list[Array], blocks: list[Array], penalty: Penalty
) -> Iterator[HeldOut]:
    """Predictions for neuroids that all have the given rows."""
    xp = namespace(Y)
    alphas = xp.asarray(penalty.alphas or (0.0,)) * (basis.mean_lam if penalty.relative else 1.0)
    left_out, first = leaving_out(blocks, basis, alphas), 0
    if not penalty.per_neuroid:
        Z = _stand_in(Y, train, parts)
        errors = left_out.errors(Z, basis.U.T @ Z).sum(axis=1, keepdims=True)
        first = int(_choose(errors, penalty.tie)[0])
        left_out = leaving_out(blocks, basis, alphas[first : first + 1])
    for neuroids in parts:
        y = _take(Y, train, neuroids)
        mean, flat = y.mean(axis=0), constant(y)
        y -= mean
        W = basis.U.T @ y
        errors = left_out.least_errors(y, W)
        place = first + _choose(errors, penalty.tie)
        error = xp.take_along_axis(errors, place[None] - first, axis=0)[0]
        alpha = xp.where(flat, xp.nan, alphas[place])
        inner = 1.0 - error / xp.where(flat, xp.nan, (y * y).sum(axis=0))
        observed = _take(Y, test, neuroids) - mean
        predicted = xp.broadcast_to(basis.T @ (W / (basis.lam[:, None] + alpha)), observed.shape)
        yield HeldOut(neuroids, predicted, observed, alpha, inner, place, len(basis.lam))


def _take(Y: Array, rows: Array, neuroids: Array) -> Array:
    """(row, neuroid) float64 copy of some rows and columns."""
    xp = namespace(Y)
    return Y[xp.asarray(rows)[:, None], xp.asarray(neuroids)].astype(float)


def _stand_in(Y: Array, train: Array, parts: list[Array]) -> Array:
    """(train, at most train) centred Z with ZZ' = YY': errors summed over neuroids depend on nothing else."""
    xp = namespace(Y)
    total = 0.0
    for neuroids in parts:
        y = _take(Y, train, neuroids)
        y -= y.mean(axis=0)
        if len(parts) == 1 and len(neuroids) <= len(train):
            return y
        total = total + y @ y.T
    square, directions = xp.linalg.eigh(total)
    return directions * xp.sqrt(square.clip(0.0))


def _choose(errors: Array, tie: str) -> Array:
    """(neuroid,) place of the least of (alpha, neuroid) errors; of those equal to 10 eps, the last or the first."""
    xp = namespace(errors)
    least = errors <= errors.min(axis=0) * (1.0 + 10.0 * xp.finfo(float).eps)
    return least.argmax(axis=0) if tie == "smaller" else len(errors) - 1 - least[::-1].argmax(axis=0)
