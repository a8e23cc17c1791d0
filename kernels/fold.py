"""One outer fold: decompose its training rows once, then fit one block of neuroids after the other.

Matrices with rows on both sides (the decomposition, leaving rows out) are prepared once, in float64. A block of
neuroids then costs a few matrix products in the float type of the neuroid side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from harness.kernels.arrays import Array, namespace, products
from harness.kernels.blocks import Blocks, Triangles, blocks
from harness.kernels.gram import Bands, Basis, Design, decompose
from harness.kernels.penalty import Penalty, near_least
from harness.kernels.responses import Block
from harness.kernels.search import ROUNDING, SingleRows, chosen, single_rows
from harness.kernels.split import Split

# Training rows are far from the mean of all rows if their squared mean exceeds their variance by this factor.
_FAR = 256.0


class HeldOut(NamedTuple):
    """Predictions of the test rows for some neuroids.

    Attributes:
        neuroids: (neuroid,) their columns in the responses.
        predicted, observed: (test, neuroid), both minus the mean of the training rows.
        alpha: (neuroid,) the chosen penalty.
        inner: (neuroid,) its score within the training rows.
        place: (neuroid,) index of alpha in the grid.
        rank: of the training features.
    """

    neuroids: Array
    predicted: Array
    observed: Array
    alpha: Array
    inner: Array
    place: Array
    rank: int


@dataclass(frozen=True)
class Fold:
    """A prepared fold.

    Attributes:
        train, test: row indices.
        basis: of the training rows, float64.
        penalty: the grid and the rule of choice.
        alphas: (alpha,) candidates; a single one if it was already chosen for all neuroids.
        first: index of the first candidate in the grid.
        U: (train, rank) directions of the basis in the float type of the neuroid side.
        search: leave-out errors, in the same float type.
    """

    train: Array
    test: Array
    basis: Basis
    penalty: Penalty
    alphas: Array
    first: int
    U: Array
    search: SingleRows | Blocks | Triangles

    def predict(self, block: Block) -> HeldOut:
        """Choose alphas on the training rows and predict the test rows."""
        xp, (y, mean, observed) = namespace(block.values), self._rows(block)
        level = abs(y[0])
        if len(self.alphas) == 1 or not self.basis.spans:  # otherwise U is orthogonal to the mean
            y -= mean
        fit = self._with_one_alpha if len(self.alphas) == 1 else self._with_own_alphas
        predicted, error, total, place, flat = fit(y, level, block)
        return HeldOut(
            block.neuroids, xp.broadcast_to(predicted, (len(self.test), len(flat))), observed,
            alpha=xp.where(flat, xp.nan, self.alphas[place]),
            inner=1.0 - error / xp.where(flat, xp.nan, total),
            place=xp.where(flat, xp.nan, self.first + place),
            rank=len(self.basis.lam),
        )  # fmt: skip

    def _rows(self, block: Block) -> tuple[Array, Array, Array]:
        """(train, neuroid) responses, (neuroid,) their mean, and (test, neuroid) responses minus this mean.

        In float32, responses are stored minus their mean over all rows. Where the training rows lie far from that mean,
        they are centred again from the responses as given.
        """
        xp = namespace(block.values)
        y = block.values.take(self.train, axis=0)
        mean = y.mean(axis=0)
        observed = block.values.take(self.test, axis=0) - mean
        if y.dtype != float:
            squares = mean * mean
            far = xp.flatnonzero(_FAR * (products(y, y, axis=0) / len(y) - squares) < squares)
            if len(far):
                exact = block.exact[self.train[:, None], far].astype(float)
                centre = exact.mean(axis=0)
                y[:, far], mean[far] = (exact - centre).astype(y.dtype), 0.0
                observed[:, far] = (block.exact[self.test[:, None], far] - centre).astype(y.dtype)
        return y, mean, observed

    def _with_own_alphas(self, y: Array, level: Array, block: Block) -> tuple[Array, ...]:
        """Fit with one alpha per neuroid.

        Args:
            y: (train, neuroid) responses, overwritten.
            level: (neuroid,) magnitude of the responses before centring.
            block: the responses that y comes from.

        Returns:
            (test, neuroid) predictions, then (neuroid,) smallest error, sum of squares, index of alpha in `alphas`, and
            whether the neuroid is constant.
        """
        xp, basis = namespace(y), self.basis
        W = y.T @ self.U
        total = products(W, W, axis=1) if basis.spans else products(y, y, axis=0)
        flat = is_flat(y, total, level, block.rounding)
        W[xp.flatnonzero(flat)] = 0.0  # only rounding is left of them; predict their mean
        errors = self.search.least_errors(W, _outside(basis, y, W, self.U))
        place = self._place(block, errors)
        error = xp.take_along_axis(errors, place[:, None], axis=1)[:, 0]
        W *= (1.0 / (basis.lam + self.alphas[:, None])).astype(W.dtype).take(place, axis=0)
        return (W @ basis.T.astype(W.dtype).T).T, error, total, place, flat

    def _with_one_alpha(self, y: Array, level: Array, block: Block) -> tuple[Array, ...]:
        """As `_with_own_alphas`, with matrices shared by all neuroids."""
        xp = namespace(y)
        total = products(y, y, axis=0)
        flat = is_flat(y, total, level, block.rounding)
        y[:, xp.flatnonzero(flat)] = 0.0
        to_test, to_left_out = self._operators
        error = xp.full(len(flat), xp.nan)
        if to_left_out is not None:
            missed = to_left_out @ y
            error = products(missed, missed, axis=0)
        return to_test @ y, error, total, xp.zeros(len(flat), dtype=np.int64), flat

    @cached_property
    def _operators(self) -> tuple[Array, Array | None]:
        """(test, train) matrix to predictions, and (train, train) matrix to leave-out residuals, None if it has NaN."""
        xp, basis = namespace(self.U), self.basis
        to_test = (basis.T / (basis.lam + self.alphas[0])) @ basis.U.T
        n = len(basis.U)
        outside = None if basis.spans else xp.eye(n) - 1.0 / n - basis.U @ basis.U.T
        to_left_out = self._exact.operator(0, basis.U, outside)
        dtype, is_finite = self.U.dtype, bool(xp.isfinite(to_left_out).all())
        return to_test.astype(dtype), to_left_out.astype(dtype) if is_finite else None

    def _place(self, block: Block, errors: Array) -> Array:
        """(neuroid,) index of the smallest of (neuroid, alpha) errors; near ties are recomputed in float64."""
        xp, place = namespace(errors), self.penalty.choose(errors)
        if errors.dtype == float:
            return place
        is_near = near_least(errors, ROUNDING * float(xp.finfo(errors.dtype).eps))
        ambiguous = xp.flatnonzero(is_near.sum(axis=1) > 1)
        if len(ambiguous):
            y = block.exact[self.train[:, None], ambiguous].astype(float)
            y -= y.mean(axis=0)
            W = y.T @ self.basis.U
            rest, exact = _outside(self.basis, y, W, self.basis.U), xp.full((len(ambiguous), errors.shape[1]), xp.inf)
            for k in range(errors.shape[1]):
                neuroids = xp.flatnonzero(is_near[ambiguous, k])
                if len(neuroids):
                    exact[neuroids, k] = self._exact.error(k, *chosen(neuroids, W, rest))
            place[ambiguous] = self.penalty.choose(exact)
        return place

    @cached_property
    def _exact(self) -> SingleRows | Blocks:
        """The search in float64, for single alphas."""
        if isinstance(self.search, SingleRows):
            return single_rows(self.basis, self.alphas, self.basis.U)
        return replace(self.search.direct if isinstance(self.search, Triangles) else self.search, U=self.basis.U)


def prepare(
    features: Design | Bands, split: Split, penalty: Penalty, dtype: type, many: int, factor: Array | None
) -> Fold | None:
    """Decompose a fold's training rows and prepare the choice of alpha; None if nothing can be measured.

    Args:
        features: of all rows.
        split: the fold, without absent rows.
        penalty: the grid and the rule of choice.
        dtype: of the neuroid side.
        many: number of neuroids to be fitted.
        factor: (row, column) Z with Z Z' = Y Y' if one alpha is chosen for all neuroids; else None.
    """
    xp = namespace(features.X)
    inner_rows = split.inner_blocks()
    if len(inner_rows) < 2 or not len(split.test):
        return None
    gaps = split.gaps(inner_rows) if split.gap else None
    if gaps and any(len(rows) + len(gap) == len(split.train) for rows, gap in zip(inner_rows, gaps, strict=True)):
        return None
    train, test = xp.asarray(split.train), xp.asarray(split.test)
    basis = decompose(features, train, test, 0.0 if penalty.alphas else penalty.cutoff)
    if not len(basis.lam):
        return None
    alphas, first = xp.asarray(penalty.alphas or (0.0,)) * (basis.mean_lam if penalty.relative else 1.0), 0
    if factor is not None and len(alphas) > 1:
        first = _one_for_all(basis, inner_rows, alphas, penalty, factor[train], gaps)
        alphas = alphas[first : first + 1]
    U = basis.U.astype(dtype, copy=False)
    search = leaving_out(inner_rows, basis, alphas, U, penalty, many, gaps)
    return Fold(train, test, basis, penalty, alphas, first, U, search)


def leaving_out(
    rows: Sequence[Array], basis: Basis, alphas: Array, U: Array, penalty: Penalty, many: int,
    gaps: Sequence[Array] | None,
) -> SingleRows | Blocks | Triangles:  # fmt: skip
    """Choose between leaving out single rows and blocks, in the float type of U; arguments as in `blocks`."""
    if len(rows) == len(U) and gaps is None:
        return single_rows(basis, alphas, U)
    return blocks(rows, basis, alphas, U, penalty.mean_over, many, gaps)


def _one_for_all(
    basis: Basis, rows: Sequence[Array], alphas: Array, penalty: Penalty, Z: Array, gaps: Sequence[Array] | None
) -> int:
    """Index of the alpha with the smallest error summed over neuroids, which depends only on Z Z'; in float64."""
    Z = Z - Z.mean(axis=0)
    W = Z.T @ basis.U
    search = leaving_out(rows, basis, alphas, basis.U, penalty, 1, gaps)
    direct = search.direct if isinstance(search, Triangles) else search
    return int(penalty.choose(direct.least_total(W, _outside(basis, Z, W, basis.U)))[0])


def _outside(basis: Basis, y: Array, W: Array, U: Array) -> Array | None:
    """(neuroid, train) part of the centred responses y outside the directions U; None if U spans everything."""
    return None if basis.spans else y.T - W @ U.T


def is_flat(y: Array, total: Array, level: Array, rounding: Array) -> Array:
    """(neuroid,) whether a column of (train, neuroid) y varies by rounding only.

    Args:
        y: responses, about any centre.
        total: (neuroid,) sums of squares about the mean.
        level: (neuroid,) magnitude of the numbers that `total` was computed from.
        rounding: (neuroid,) differences up to this size are rounding errors.
    """
    xp = namespace(y)
    flat = xp.zeros(len(total), dtype=bool)
    suspects = xp.flatnonzero(total <= len(y) * (1e3 * float(xp.finfo(y.dtype).eps) * level + rounding) ** 2)
    if len(suspects):
        columns = y[:, suspects]
        flat[suspects] = columns.max(axis=0) - columns.min(axis=0) <= rounding[suspects]
    return flat
