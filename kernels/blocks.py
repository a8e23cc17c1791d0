"""The choice of alpha, whole blocks of training rows left out at a time: inner k-fold, passages, stories.

With c = P y the residual of the training rows (kernels/ridge.py), a block B that was left out is missed by
(P_BB)^-1 c_B, exactly, intercept included: one decomposition serves all blocks. Two ways to the error, equal but for
rounding:

- `Blocks`: c, then each block's inverse. For few neuroids, and where features span little.
- `Triangles`: the error is a square, || S W ||^2 with S = blockdiag(P_BB^-1) U D, so S may be replaced by the triangle
  L with L'L = S'S. A product with a triangle costs half; better, its first rows are cheap, for they touch few columns,
  and what they give is a lower bound that only grows. Directions stand in the order of their eigenvalue, least first:
  there lies the noise that a weak penalty blows up, so such an alpha exceeds the least error so far after a few rows
  and is given up. Exact: the alpha chosen is the same, for a third of the work (5 blocks, 12 alphas: 3.8 products with
  U for 12). Worth its factor (about 2 n^3 for each alpha) where neuroids are several times the rows, and not on a GPU.

Source: the residual, by the inverse of a partitioned matrix, as in leave-one-out (kernels/search.py); equal to
himalaya's KernelRidgeCV (Dupre la Tour et al. 2022) with the same inner folds. The triangles are ours, found in no
library. Also tried: bounds by the least eigenvalue of (P_BB)^-2 (left 9.5 of 12 alphas for five blocks), by the least
eigenvalue of S'S relative to its diagonal (10.4: that ratio is .04 for weak penalties, though errors stay within 17 %
of what the diagonal says).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.kernels.arrays import Array, namespace, products
from harness.kernels.gram import Basis
from harness.kernels.search import FITTED_EXACTLY, ROUNDING, by_promise

# A triangle is gone through in this many steps, of at least so many rows that a step is a proper matrix product.
_STEPS, _STEP_ROWS = 8, 48
# Triangles where neuroids are at least this many times the training rows.
_MANY = 4
# A factor whose columns have not the lengths that they should have to this relative accuracy is not used.
_FAITHFUL = 1e-9


@dataclass(frozen=True)
class Blocks:
    """The training rows of each block left out together.

    Attributes:
        U: (train, rank) directions of the features, in any float type; the others are float64.
        kept: (alpha, rank) D.
        rows: the rows of each block.
        inverses: per block (alpha, row, row) (P_BB)^-1 times the root of the block's weight; NaN where least squares
            fits the block exactly.
    """

    U: Array
    kept: Array
    rows: Sequence[Array]
    inverses: Sequence[Array]

    def errors(self, W: Array, rest: Array | None) -> Array:
        """(neuroid, alpha) sums of squared held-out residuals; arguments as in kernels/search.py."""
        return namespace(W).stack([self.error(k, W, rest) for k in range(len(self.kept))], axis=1)

    least_errors = errors

    def least_total(self, W: Array, rest: Array | None) -> Array:
        """(1, alpha) errors summed over neuroids."""
        return self.errors(W, rest).sum(axis=0, keepdims=True)

    def operator(self, k: int, U: Array, outside: Array | None) -> Array:
        """(train, train) E with error = ||E y||^2 for alpha k; arguments as in kernels/search.py."""
        c = (U * self.kept[k]) @ U.T
        c = c if outside is None else c + outside
        for rows, inverses in zip(self.rows, self.inverses, strict=True):
            c[rows] = inverses[k] @ c[rows]
        return c

    def error(self, k: int, W: Array, rest: Array | None) -> Array:
        """(neuroid,) error of alpha k."""
        xp = namespace(W)
        c = (W * self.kept[k].astype(W.dtype)) @ self.U.astype(W.dtype, copy=False).T
        c = c if rest is None else c + rest
        total = xp.zeros(len(c), dtype=W.dtype)
        for rows, inverses in zip(self.rows, self.inverses, strict=True):
            missed = c[:, rows] @ inverses[k].astype(W.dtype, copy=False)
            total += products(missed, missed, axis=1)
        return total


@dataclass(frozen=True)
class Triangles:
    """As `Blocks`, for directions that span all, with the square's factor in place of the blocks.

    Attributes:
        direct: the blocks.
        diagonal: (alpha, rank) of L'L: what each square of W counts for, other directions apart.
        steps: per alpha the rows of L, in steps, each without the columns that are zero.
    """

    direct: Blocks
    diagonal: Array
    steps: Sequence[Sequence[Array]]

    def errors(self, W: Array, rest: Array | None) -> Array:
        """(neuroid, alpha) sums of squared held-out residuals; nothing lies outside the directions."""
        assert rest is None  # noqa: S101
        xp = namespace(W)
        never = xp.full(len(W), xp.inf, dtype=W.dtype)
        return xp.stack([self._error(k, W, never) for k in range(len(self.steps))], axis=1)

    def least_errors(self, W: Array, rest: Array | None) -> Array:
        """As `errors`, with infinity for what was given up: the least of each neuroid is there."""
        assert rest is None  # noqa: S101
        xp = namespace(W)
        guesses = (W * W) @ self.diagonal.T
        first = guesses.argmin(axis=1)
        errors = xp.full(guesses.shape, xp.inf, dtype=W.dtype)
        for k in range(len(self.steps)):
            neuroids = xp.flatnonzero(first == k)
            if len(neuroids):
                errors[neuroids, k] = self._error(k, W[neuroids], errors[neuroids, k])
        guesses[xp.arange(len(W)), first] = xp.inf
        least = errors.min(axis=1) * (1.0 + ROUNDING * float(xp.finfo(W.dtype).eps))
        for k in by_promise(guesses):
            found = self._error(k, W, xp.where(first == k, -1.0, least))  # those that have it give up at once
            errors[:, k] = xp.minimum(errors[:, k], found)
            least = xp.minimum(least, found * (1.0 + ROUNDING * float(xp.finfo(W.dtype).eps)))
        return errors

    def _error(self, k: int, W: Array, least: Array) -> Array:
        """(neuroid,) error of alpha k; infinity for a neuroid once it exceeds the least so far."""
        xp = namespace(W)
        total, alive, n_neuroids = xp.zeros(len(W), dtype=W.dtype), None, len(W)
        for step in self.steps[k]:
            part = W[:, : step.shape[1]] @ step.T
            total += products(part, part, axis=1)
            going = xp.flatnonzero(total <= least)
            if len(going) < 0.8 * len(total):
                W, total, least = W[going], total[going], least[going]
                alive = going if alive is None else alive[going]
            if not len(total):
                break
        total[total > least] = xp.inf
        if alive is None:
            return total
        out = xp.full(n_neuroids, xp.inf, dtype=W.dtype)
        out[alive] = total
        return out


def blocks(
    rows: Sequence[Array], basis: Basis, alphas: Array, U: Array, mean_over: str, many: int
) -> Blocks | Triangles:
    """Prepare leaving out blocks.

    Args:
        rows: of each block, on the host; every training row is in one.
        basis: of the training rows, float64.
        alphas: (alpha,) not negative; 0 is least squares.
        U: (train, rank) the basis' directions in the float type of the neuroid side.
        mean_over: "rows" (each row counts the same) or "blocks" (each block does, as in a mean of scores over folds).
        many: number of neuroids that this is prepared for.
    """
    xp, n = namespace(basis.U), len(basis.U)
    kept = alphas[:, None] / (basis.lam + alphas[:, None])
    rows = [xp.asarray(block) for block in rows]
    roots = [1.0 if mean_over == "rows" else (n / len(rows) / len(block)) ** 0.5 for block in rows]
    inverses = [_inverses(basis, kept, block) * root for block, root in zip(rows, roots, strict=True)]
    direct = Blocks(U, kept, rows, inverses)
    is_worth_it = xp is np and basis.spans and len(alphas) > 1 and many > _MANY * n
    return _triangles(direct, basis) if is_worth_it else direct


def _triangles(direct: Blocks, basis: Basis) -> Triangles:
    """The factor of each alpha's square."""
    xp, diagonal, steps = namespace(basis.U), [], []
    for k, D in enumerate(direct.kept):
        S = basis.U * D
        for block, inverses in zip(direct.rows, direct.inverses, strict=True):
            S[block] = inverses[k] @ S[block]
        square = S.T @ S
        diagonal.append(square.diagonal())
        steps.append(_steps(S, square, direct.U.dtype))
    return Triangles(direct, xp.stack(diagonal).astype(direct.U.dtype), steps)


def _steps(S: Array, square: Array, dtype: Array) -> list[Array]:
    """The rows of L in steps; those of S itself where rounding leaves the square without a factor."""
    xp, n = namespace(S), len(square)
    edges = np.linspace(0, n, max(1, min(_STEPS, n // _STEP_ROWS)) + 1).astype(int).tolist()
    try:
        L = xp.linalg.cholesky(xp.ascontiguousarray(square[::-1, ::-1])).T[::-1, ::-1]
    except np.linalg.LinAlgError:
        return [S.astype(dtype)]
    if not bool((abs((L * L).sum(axis=0) / square.diagonal() - 1.0) < _FAITHFUL).all()):  # CuPy gives NaN, no error
        return [S.astype(dtype)]
    L = L.astype(dtype)
    return [xp.ascontiguousarray(L[start:stop, :stop]) for start, stop in pairwise(edges)]


def _inverses(basis: Basis, kept: Array, rows: Array) -> Array:
    """(alpha, row, row) (P_BB)^-1 for (alpha, rank) D; NaN where least squares fits the block exactly."""
    xp, U = namespace(basis.U), basis.U[rows]
    roots = U * xp.sqrt(kept)[:, None, :]
    P = roots @ roots.transpose(0, 2, 1)
    if not basis.spans:
        P += xp.eye(len(rows)) - 1.0 / len(basis.U) - U @ U.T
    exact = not bool(kept.any()) and float(xp.linalg.eigvalsh(P[0])[0]) < FITTED_EXACTLY
    return xp.full_like(P, xp.nan) if exact else xp.linalg.inv(P)
