"""Choose alpha by leaving out whole blocks of training rows: inner k-fold, passages, stories.

With c = P y the residual of the training rows (kernels/ridge.py), the residual of a left-out block B is exactly
(P_BB)^-1 c_B, intercept included, so one decomposition serves all blocks. Rows in a gap around a block are left out
with it, but only the block's own residuals count. The error is computed in one of two ways,
equal up to rounding:

- `Blocks`: compute c, then apply each block's inverse. For few neuroids, and for features of low rank.
- `Triangles`: the error is a square, || S W ||^2 with S = blockdiag(P_BB^-1) U D, so S can be replaced by the
  triangular factor L with L'L = S'S. A product with a triangle costs half. Its first rows involve few columns and give
  a lower bound that only grows. Directions are ordered by ascending eigenvalue; the smallest carry the noise that a
  weak penalty amplifies, so a weak alpha exceeds the smallest error so far after a few rows and is dropped. The chosen
  alpha is exactly the same, for a third of the work (5 blocks, 12 alphas: 3.8 instead of 12 products with U). The
  factor costs about 2 n^3 per alpha, which pays if neuroids are several times the rows, and not on a GPU.

Source: the residual follows from the inverse of a partitioned matrix, as in leave-one-out (kernels/search.py); equal to
himalaya's KernelRidgeCV (Dupre la Tour et al. 2022) with the same inner folds. The triangles are our own; we know no
library that has them. Tried and dropped: bounds by the smallest eigenvalue of (P_BB)^-2 (left 9.5 of 12 alphas for five
blocks), and by the smallest eigenvalue of S'S relative to its diagonal (10.4: that ratio is 0.04 for weak penalties,
although errors stay within 17 % of the diagonal's value).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.kernels.arrays import Array, namespace, products
from harness.kernels.gram import Basis
from harness.kernels.search import FITTED_EXACTLY, ROUNDING, by_promise

# A triangle is processed in at most this many steps of at least this many rows, so that steps are efficient products.
_STEPS, _STEP_ROWS = 8, 48
# Triangles are used if neuroids exceed this multiple of the training rows.
_MANY = 4
# A factor is rejected if its column norms are off by more than this relative error.
_FAITHFUL = 1e-9


@dataclass(frozen=True)
class Blocks:
    """Leave out the training rows of each block together.

    Attributes:
        U: (train, rank) directions of the features, in any float type; the others are float64.
        kept: (alpha, rank) D = alpha / (lam + alpha).
        rows: the rows of each block, whose residuals count.
        left_out: the rows that are left out with each block: its own first, then those in its gap, if there is one.
        inverses: per block (alpha, row, left-out row), the block's own rows of (P_BB)^-1 over all left-out rows, times
            the square root of the block's weight; NaN where least squares fits the block exactly.
    """

    U: Array
    kept: Array
    rows: Sequence[Array]
    left_out: Sequence[Array]
    inverses: Sequence[Array]

    def errors(self, W: Array, rest: Array | None) -> Array:
        """(neuroid, alpha) sums of squared leave-out residuals; arguments as in kernels/search.py."""
        return namespace(W).stack([self.error(k, W, rest) for k in range(len(self.kept))], axis=1)

    least_errors = errors

    def least_total(self, W: Array, rest: Array | None) -> Array:
        """(1, alpha) errors summed over neuroids."""
        return self.errors(W, rest).sum(axis=0, keepdims=True)

    def operator(self, k: int, U: Array, outside: Array | None) -> Array:
        """(train, train) E such that ||E y||^2 is the error of alpha k; arguments as in kernels/search.py."""
        c = (U * self.kept[k]) @ U.T
        c = c if outside is None else c + outside
        return self.residuals(k, c)

    def residuals(self, k: int, c: Array) -> Array:
        """(train, column) leave-out residuals from (train, column) residuals c = P y of alpha k."""
        out = namespace(c).empty_like(c)
        for rows, left_out, inverses in zip(self.rows, self.left_out, self.inverses, strict=True):
            out[rows] = inverses[k] @ c[left_out]
        return out

    def error(self, k: int, W: Array, rest: Array | None) -> Array:
        """(neuroid,) error of alpha k."""
        xp = namespace(W)
        c = (W * self.kept[k].astype(W.dtype)) @ self.U.astype(W.dtype, copy=False).T
        c = c if rest is None else c + rest
        total = xp.zeros(len(c), dtype=W.dtype)
        for left_out, inverses in zip(self.left_out, self.inverses, strict=True):
            residuals = c[:, left_out] @ inverses[k].astype(W.dtype, copy=False).T
            total += products(residuals, residuals, axis=1)
        return total


@dataclass(frozen=True)
class Triangles:
    """As `Blocks`, for directions of full rank, with a triangular factor in place of the blocks.

    Attributes:
        direct: the same search by blocks.
        diagonal: (alpha, rank) diagonal of L'L, the weight of each square of W if cross terms are ignored.
        steps: per alpha the rows of L in steps, each without its zero columns.
    """

    direct: Blocks
    diagonal: Array
    steps: Sequence[Sequence[Array]]

    def errors(self, W: Array, rest: Array | None) -> Array:
        """(neuroid, alpha) sums of squared leave-out residuals; `rest` must be None."""
        assert rest is None  # noqa: S101
        xp = namespace(W)
        never = xp.full(len(W), xp.inf, dtype=W.dtype)
        return xp.stack([self._error(k, W, never) for k in range(len(self.steps))], axis=1)

    def least_errors(self, W: Array, rest: Array | None) -> Array:
        """As `errors`, with infinity for dropped alphas; the smallest error of each neuroid is always computed."""
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
            error = self._error(k, W, xp.where(first == k, -1.0, least))  # -1 stops where it is already computed
            errors[:, k] = xp.minimum(errors[:, k], error)
            least = xp.minimum(least, error * (1.0 + ROUNDING * float(xp.finfo(W.dtype).eps)))
        return errors

    def _error(self, k: int, W: Array, least: Array) -> Array:
        """(neuroid,) error of alpha k; infinity for a neuroid once its error exceeds the smallest so far."""
        xp = namespace(W)
        total, active, n_neuroids = xp.zeros(len(W), dtype=W.dtype), None, len(W)
        for step in self.steps[k]:
            product = W[:, : step.shape[1]] @ step.T
            total += products(product, product, axis=1)
            remaining = xp.flatnonzero(total <= least)
            if len(remaining) < 0.8 * len(total):
                W, total, least = W[remaining], total[remaining], least[remaining]
                active = remaining if active is None else active[remaining]
            if not len(total):
                break
        total[total > least] = xp.inf
        if active is None:
            return total
        out = xp.full(n_neuroids, xp.inf, dtype=W.dtype)
        out[active] = total
        return out


def blocks(
    rows: Sequence[Array], basis: Basis, alphas: Array, U: Array, mean_over: str, many: int,
    gaps: Sequence[Array] | None = None,
) -> Blocks | Triangles:  # fmt: skip
    """Prepare to leave out blocks.

    Args:
        rows: of each block, on the host; every training row is in exactly one block.
        basis: of the training rows, float64.
        alphas: (alpha,) not negative; 0 is least squares.
        U: (train, rank) directions of the basis in the float type of the neuroid side.
        mean_over: "rows" (rows have equal weight) or "blocks" (blocks have equal weight, as in a mean over folds).
        many: number of neuroids to be fitted.
        gaps: per block the other rows that are left out with it, on the host; None: none. Their residuals do not count.
    """
    xp, n = namespace(basis.U), len(basis.U)
    kept = alphas[:, None] / (basis.lam + alphas[:, None])
    left_out = [xp.asarray(np.r_[block, gap]) for block, gap in zip(rows, gaps or [()] * len(rows), strict=True)]
    left_out = [block.astype(np.int64) for block in left_out]  # an empty gap makes floats of the rows
    rows = [xp.asarray(block) for block in rows]
    roots = [1.0 if mean_over == "rows" else (n / len(rows) / len(block)) ** 0.5 for block in rows]
    own = [
        inverses(basis.U[out], kept, n, spans=basis.spans)[:, : len(block)] * root
        for block, out, root in zip(rows, left_out, roots, strict=True)
    ]
    direct = Blocks(U, kept, rows, left_out, own)
    pays_off = xp is np and basis.spans and len(alphas) > 1 and many > _MANY * n
    return _triangles(direct, basis) if pays_off else direct


def _triangles(direct: Blocks, basis: Basis) -> Triangles:
    """Compute the triangular factor for each alpha."""
    xp, diagonal, steps = namespace(basis.U), [], []
    for k, D in enumerate(direct.kept):
        S = direct.residuals(k, basis.U * D)
        square = S.T @ S
        diagonal.append(square.diagonal())
        steps.append(_steps(S, square, direct.U.dtype))
    return Triangles(direct, xp.stack(diagonal).astype(direct.U.dtype), steps)


def _steps(S: Array, square: Array, dtype: Array) -> list[Array]:
    """The rows of L in steps; S itself if rounding prevents the Cholesky factorisation of `square`."""
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


def inverses(U: Array, kept: Array, n: int, *, spans: bool) -> Array:
    """(P_BB)^-1 of a block for every alpha.

    Args:
        U: (row, rank) directions at the block's rows.
        kept: (alpha, rank) D.
        n: number of training rows.
        spans: whether the directions span all training rows but the mean.

    Returns:
        (alpha, row, row); NaN if least squares fits the block exactly.
    """
    xp = namespace(U)
    roots = U * xp.sqrt(kept)[:, None, :]
    P = roots @ roots.transpose(0, 2, 1)
    if not spans:
        P += xp.eye(len(U)) - 1.0 / n - U @ U.T
    exact = not bool(kept.any()) and float(xp.linalg.eigvalsh(P[0])[0]) < FITTED_EXACTLY
    return xp.full_like(P, xp.nan) if exact else xp.linalg.inv(P)
