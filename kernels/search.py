"""The choice of alpha, one training row left out at a time: exact errors, and most alphas ruled out without theirs.

With c = P y the residual of the training rows (kernels/ridge.py) and d the diagonal of P, a row that was left out is
missed by c_i / d_i (Golub, Heath & Wahba 1979). The error of an alpha is e = sum w c^2, w = 1 / d^2, and costs one
product with U. What is almost free are inner products of the residuals of two alphas, since U is orthonormal:

    c_a' c_0 = sum_i D_ai D_0i W_i^2,     D = alpha / (lam + alpha),  W = U'y.

So c_0 is computed for one alpha alone, that of generalised cross-validation, and every other residual is known as
c_a = s c_0 + f, f orthogonal to c_0 and of known length. With m the least of w and E = w - m,

    e_a >= m ||c_a||^2 + max(0, s^2 c_0'E c_0 - 2 s ||f|| ||g||),   g the part of E c_0 that is orthogonal to c_0,

and only where this is under the least error so far is the error computed: 1.5 to 1.8 of 12 alphas are. The alpha
chosen is the same. Source of the bound: ours, found in no library. Blocks of rows: kernels/blocks.py. On a GPU all
errors are computed: products cost less there than asking which neuroids need them (on an H200 half the time or less).

Least squares is the limit alpha -> 0. A row that features do not fit exactly keeps c_i / d_i, P being the projector N.
A row that they do (N_ii = 0; all rows, at rank n - 1) takes a direction of its own along when it leaves: c and P shrink
with alpha, as alpha C^+ does, and the minimum-norm fit of the others misses it by (C^+ y)_i / (C^+)_ii.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.kernels.arrays import Array, namespace, to_host
from harness.kernels.gram import Basis

# Under least squares P is a projector; a row with a diagonal under this is fitted exactly and says nothing.
FITTED_EXACTLY = 1e-9
# Rounding of an error, in eps: an alpha is ruled out where its error is above the least by more than that.
ROUNDING = 256


@dataclass(frozen=True)
class SingleRows:
    """Each training row left out by itself. All arrays are of one float type, that of the neuroid side.

    Residuals are scaled by the root of an alpha's mean weight: what is squared stays near the responses' own size,
    whatever the alpha, and float32 does not run over.

    Attributes:
        U: (train, rank) directions of the features; under least squares 0 in rows that they do not fit exactly.
        kept: (alpha, rank + 1) scaled D; the last column is for what the directions do not span, D = 1.
        weights: (alpha, train) w over its mean.
    """

    U: Array
    kept: Array
    weights: Array

    def errors(self, W: Array, rest: Array | None) -> Array:
        """(neuroid, alpha) sums of squared held-out residuals.

        Args:
            W: (neuroid, rank) y'U of the responses.
            rest: (neuroid, train) what lies outside the directions; None where they span all.
        """
        return namespace(W).stack([self.error(k, W, rest) for k in range(len(self.kept))], axis=1)

    def least_errors(self, W: Array, rest: Array | None) -> Array:
        """As `errors`, with infinity for what was ruled out: the least of each neuroid is there."""
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
        bounds[xp.arange(len(first)), first] = xp.inf  # computed
        for k in by_promise(bounds):
            neuroids = xp.flatnonzero(bounds[:, k] < errors.min(axis=1))
            if len(neuroids):
                errors[neuroids, k] = self.error(k, *chosen(neuroids, W, rest))
        return errors

    def least_total(self, W: Array, rest: Array | None) -> Array:
        """(1, alpha) errors summed over neuroids, with infinity for what was ruled out: all are one long response."""
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
        """(train, train) E with error = ||E y||^2 for alpha k.

        U: (train, rank) directions of the features. outside: (train, train) projects on what they do not span.
        """
        c = self._residual(k, U, outside).T
        return c * namespace(c).sqrt(self.weights[k])[:, None]

    def error(self, k: int, W: Array, rest: Array | None) -> Array:
        """(neuroid,) error of alpha k."""
        residual = self._residual(k, W, rest)
        residual *= residual
        return residual @ self.weights[k]

    def _bounds(self, k: int, c0_squared: Array, squares: Array) -> Array:
        """(neuroid, alpha) no error is less, given the squared residual of alpha k and the squares of W.

        Every difference of near equals is given the benefit of its rounding, so that a bound is never too high. No two
        sums of squares are multiplied, which float32 cannot hold for responses in tesla.
        """
        xp = namespace(squares)
        rounding = ROUNDING * float(xp.finfo(squares.dtype).eps)
        D = self._power(squares, root=True)
        n_alphas, least = len(D), self.weights.min(axis=1, keepdims=True)
        sums = squares @ xp.concatenate([D * D, D * D[k], (D - D[k]) ** 2, (D - D[k]) * D[k]]).T
        norm, along, gap, gap_along = (sums[:, i * n_alphas : (i + 1) * n_alphas] for i in range(4))
        sums = c0_squared @ xp.concatenate([self.weights - least, (self.weights - 1.0) ** 2]).T
        excess, spread = sums[:, :n_alphas], sums[:, n_alphas:]
        c0 = c0_squared.sum(axis=1)[:, None]
        safe = xp.where(c0 > 0, c0, 1.0)
        s = along / safe
        f = (gap - gap_along * (gap_along / safe)).clip(0.0) + rounding * gap
        mixed = excess - (1.0 - least.T) * c0
        g = (spread - mixed * (mixed / safe)).clip(0.0) + rounding * spread
        known = (s * s * excess - 2.0 * s * xp.sqrt(f) * xp.sqrt(g)).clip(0.0)
        return (least.T * norm + known) * (1.0 - rounding)

    def _power(self, squares: Array, root: bool = False) -> Array:
        """(alpha, columns of squares) what each square counts in a residual's squared norm, or its root."""
        kept = self.kept[:, : squares.shape[1]]
        return kept if root else kept * kept

    def _residual(self, k: int, W: Array, rest: Array | None) -> Array:
        """(neuroid, train) c of alpha k, scaled."""
        c = (W * self.kept[k, :-1]) @ self.U.T
        return c if rest is None else c + self.kept[k, -1] * rest


def single_rows(basis: Basis, alphas: Array, U: Array) -> SingleRows:
    """Prepare leaving out single rows, from a float64 basis, in the float type of U, the same directions.

    alphas: (alpha,) positive, or 0 alone for least squares.
    """
    xp, square = namespace(basis.U), basis.U**2
    kept = alphas[:, None] / (basis.lam + alphas[:, None])
    null = 0.0 if basis.spans else (1.0 - 1.0 / len(square) - square.sum(axis=1)).clip(0.0)
    if not float(alphas[0]):
        exactly = xp.zeros(len(square)) + null < FITTED_EXACTLY
        kept, null = float(basis.lam.max()) / basis.lam[None], xp.where(exactly, 0.0, null)
        U, square = U * exactly[:, None], square * exactly[:, None]
    weights = (kept @ square.T + null) ** -2.0
    mean = weights.mean(axis=1, keepdims=True)
    kept = xp.concatenate([kept, xp.ones_like(mean)], axis=1) * xp.sqrt(mean)
    return SingleRows(U, kept.astype(U.dtype), (weights / mean).astype(U.dtype))


def chosen(neuroids: Array, *arrays: Array | None) -> list[Array | None]:
    """The rows of some neuroids, of each array that there is."""
    return [None if array is None else array.take(neuroids, axis=0) for array in arrays]


def by_promise(guesses: Array) -> list[int]:
    """The alphas, those first that look best (have the least guess) for most neuroids."""
    votes = namespace(guesses).bincount(guesses.argmin(axis=1), minlength=guesses.shape[1])
    return sorted(range(guesses.shape[1]), key=lambda k: -int(votes[k]))
