"""Choose alpha by leave-one-out: exact errors, and a lower bound that spares most alphas their computation.

With c = P y the residual of the training rows (kernels/ridge.py) and d the diagonal of P, the residual of a left-out
row is c_i / d_i (Golub, Heath & Wahba 1979). The error of an alpha is e = sum w c^2 with w = 1 / d^2, and costs one
product with U. Inner products of the residuals of two alphas are almost free, since U is orthonormal:

    c_a' c_0 = sum_i D_ai D_0i W_i^2,     D = alpha / (lam + alpha),  W = U'y.

So c_0 is computed for one alpha only, the winner of generalised cross-validation, and every other residual is
c_a = s c_0 + f, with f orthogonal to c_0 and of known length. With m the smallest weight and E = w - m,

    e_a >= m ||c_a||^2 + max(0, s^2 c_0'E c_0 - 2 s ||f|| ||g||),   g the part of E c_0 that is orthogonal to c_0,

and an error is computed only if this bound is below the smallest error so far, which is the case for 1.5 to 1.8 of 12
alphas. The chosen alpha is the same. The bound is our own; we know no library that has it. Blocks of rows:
kernels/blocks.py. On a GPU all errors are computed, since there the products cost less than selecting neuroids (on an
H200, half the time or less).

Least squares is the limit alpha -> 0. For a row that the features do not fit exactly, c_i / d_i holds with the
projector P = N. For a row that they fit exactly (N_ii = 0; all rows at rank n - 1), c and P vanish like alpha C^+, and
the leave-one-out residual of the minimum-norm fit is (C^+ y)_i / (C^+)_ii.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.kernels.arrays import Array, namespace, to_host
from harness.kernels.gram import Basis

# Under least squares P is a projector; a row (or block) with a smaller diagonal (or eigenvalue) is fitted exactly.
FITTED_EXACTLY = 1e-9
# Rounding of an error, in eps: an alpha is pruned only if its error exceeds the smallest by more than this.
ROUNDING = 256


@dataclass(frozen=True)
class SingleRows:
    """Leave out each training row by itself. All arrays have the float type of the neuroid side.

    Residuals are scaled by the square root of an alpha's mean weight, so that squares stay near the magnitude of the
    responses for every alpha and float32 does not overflow.

    Attributes:
        U: (train, rank) directions of the features; under least squares 0 in rows that they do not fit exactly.
        kept: (alpha, rank + 1) scaled D; the last column, with D = 1, is for the part outside the directions.
        weights: (alpha, train) w divided by its mean.
    """

    U: Array
    kept: Array
    weights: Array

    def errors(self, W: Array, rest: Array | None) -> Array:
        """(neuroid, alpha) sums of squared leave-out residuals.

        Args:
            W: (neuroid, rank) y'U of the responses.
            rest: (neuroid, train) part of the responses outside the directions; None if these span everything.
        """
        return namespace(W).stack([self.error(k, W, rest) for k in range(len(self.kept))], axis=1)

    def least_errors(self, W: Array, rest: Array | None) -> Array:
        """As `errors`, with infinity for pruned alphas; the smallest error of each neuroid is always computed."""
        xp = namespace(W)
        if len(self.kept) == 1 or xp is not np:
            return self.errors(W, rest)
        squares = xp.concatenate([W * W, (rest * rest).sum(axis=1)[:, None]], axis=1) if rest is not None else W * W
        first = (squares @ self._power(squares).T).argmin(axis=1)
        errors = xp.full((len(W), len(self.kept)), xp.inf, dtype=W.dtype)
        bounds = xp.full_like(errors, xp.inf)
        for k in range(len(self.kept)):
            neuroids = xp.flatnonzero(first == k)
            if len(neuroids):
                residual = self._residual(k, *chosen(neuroids, W, rest))
                residual *= residual
                errors[neuroids, k] = residual @ self.weights[k]
                bounds[neuroids] = self._bounds(k, residual, *chosen(neuroids, squares))
        bounds[xp.arange(len(first)), first] = xp.inf  # already computed
        for k in by_promise(bounds):
            neuroids = xp.flatnonzero(bounds[:, k] < errors.min(axis=1))
            if len(neuroids):
                errors[neuroids, k] = self.error(k, *chosen(neuroids, W, rest))
        return errors

    def least_total(self, W: Array, rest: Array | None) -> Array:
        """(1, alpha) errors summed over neuroids, treated as one long response; infinity for pruned alphas."""
        xp = namespace(W)
        squares = W * W if rest is None else xp.concatenate([W * W, (rest * rest).sum(axis=1)[:, None]], axis=1)
        squares, errors = squares.sum(axis=0, keepdims=True), xp.full((1, len(self.kept)), xp.inf)
        first = int((squares @ self._power(squares).T).argmin())
        residual = (self._residual(first, W, rest) ** 2).sum(axis=0, keepdims=True)
        errors[0, first] = (residual @ self.weights[first])[0]
        bounds = to_host(self._bounds(first, residual, squares)[0])
        for k in bounds.argsort().tolist():
            if k != first and bounds[k] < float(errors.min()):
                errors[0, k] = self.error(k, W, rest).sum()
        return errors

    def operator(self, k: int, U: Array, outside: Array | None) -> Array:
        """(train, train) E such that ||E y||^2 is the error of alpha k.

        Args:
            k: index of the alpha.
            U: (train, rank) directions of the features.
            outside: (train, train) projector on what they do not span; None if they span everything.
        """
        c = self._residual(k, U, outside).T
        return c * namespace(c).sqrt(self.weights[k])[:, None]

    def error(self, k: int, W: Array, rest: Array | None) -> Array:
        """(neuroid,) error of alpha k."""
        residual = self._residual(k, W, rest)
        residual *= residual
        return residual @ self.weights[k]

    def _bounds(self, k: int, c0_squared: Array, squares: Array) -> Array:
        """(neuroid, alpha) lower bounds of the errors, from the squared residuals of alpha k and the squares of W."""
        return bounds(k, self.kept, self.weights, c0_squared @ weight_sums(self.weights).T, squares)

    def _power(self, squares: Array, root: bool = False) -> Array:
        """(alpha, columns of squares) weight of each square in a residual's squared norm, or its square root."""
        kept = self.kept[:, : squares.shape[1]]
        return kept if root else kept * kept

    def _residual(self, k: int, W: Array, rest: Array | None) -> Array:
        """(neuroid, train) scaled residual c of alpha k."""
        c = (W * self.kept[k, :-1]) @ self.U.T
        return c if rest is None else c + self.kept[k, -1] * rest


def single_rows(basis: Basis, alphas: Array, U: Array) -> SingleRows:
    """Prepare to leave out single rows.

    Args:
        basis: of the training rows, float64.
        alphas: (alpha,) positive, or a single 0 for least squares.
        U: (train, rank) directions of the basis in the float type of the neuroid side.
    """
    xp, square = namespace(basis.U), basis.U**2
    kept = alphas[:, None] / (basis.lam + alphas[:, None])
    null = 0.0 if basis.spans else (1.0 - 1.0 / len(square) - square.sum(axis=1)).clip(0.0)
    if not float(alphas[0]):
        fitted_exactly = xp.zeros(len(square)) + null < FITTED_EXACTLY
        kept, null = float(basis.lam.max()) / basis.lam[None], xp.where(fitted_exactly, 0.0, null)
        U, square = U * fitted_exactly[:, None], square * fitted_exactly[:, None]
    weights = (kept @ square.T + null) ** -2.0
    mean = weights.mean(axis=1, keepdims=True)
    kept = xp.concatenate([kept, xp.ones_like(mean)], axis=1) * xp.sqrt(mean)
    return SingleRows(U, kept.astype(U.dtype), (weights / mean).astype(U.dtype))


def weight_sums(weights: Array) -> Array:
    """(2 alpha + 1, train) rows whose products with squared residuals `bounds` needs; they can be summed over rows."""
    xp = namespace(weights)
    ones = xp.ones_like(weights[:1])
    return xp.concatenate([weights - weights.min(axis=1, keepdims=True), (weights - 1.0) ** 2, ones])


def bounds(k: int, kept: Array, weights: Array, sums: Array, squares: Array) -> Array:
    """Lower bounds of the leave-one-out errors of all alphas, from the residuals of one.

    Rounding is allowed for in every difference of nearly equal numbers, so that no bound is too high. Sums of squares
    are never multiplied with each other: for responses in tesla the product underflows in float32.

    Args:
        k: index of the alpha whose residuals are known.
        kept: as of `SingleRows`.
        weights: as of `SingleRows`.
        sums: (neuroid, 2 alpha + 1) products of its squared residuals with `weight_sums`.
        squares: (neuroid, rank or rank + 1) squares of W, and of the part outside the directions.

    Returns:
        (neuroid, alpha).
    """
    xp = namespace(squares)
    rounding = ROUNDING * float(xp.finfo(squares.dtype).eps)
    D = kept[:, : squares.shape[1]]
    n_alphas, smallest = len(D), weights.min(axis=1, keepdims=True)
    inner = squares @ xp.concatenate([D * D, D * D[k], (D - D[k]) ** 2, (D - D[k]) * D[k]]).T
    norm, along, gap, gap_along = (inner[:, i * n_alphas : (i + 1) * n_alphas] for i in range(4))
    excess, spread, c0 = sums[:, :n_alphas], sums[:, n_alphas:-1], sums[:, -1:]
    safe = xp.where(c0 > 0, c0, 1.0)
    s = along / safe
    f = (gap - gap_along * (gap_along / safe)).clip(0.0) + rounding * gap
    mixed = excess - (1.0 - smallest.T) * c0
    g = (spread - mixed * (mixed / safe)).clip(0.0) + rounding * spread
    gain = (s * s * excess - 2.0 * s * xp.sqrt(f) * xp.sqrt(g)).clip(0.0)
    return (smallest.T * norm + gain) * (1.0 - rounding)


def chosen(neuroids: Array, *arrays: Array | None) -> list[Array | None]:
    """Take the rows of some neuroids from each array; None stays None."""
    return [None if array is None else array.take(neuroids, axis=0) for array in arrays]


def by_promise(guesses: Array) -> list[int]:
    """Alpha indices, ordered by the number of neuroids for which an alpha has the smallest guess."""
    votes = namespace(guesses).bincount(guesses.argmin(axis=1), minlength=guesses.shape[1])
    return sorted(range(guesses.shape[1]), key=lambda k: -int(votes[k]))
