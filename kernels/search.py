"""The choice of alpha: errors of training rows that were left out, exact, without a fit for each.

With c = P y the residual of the training rows (kernels/ridge.py), a block B that was left out is missed by
(P_BB)^-1 c_B. For single rows that is c_i / d_i, d the diagonal of P, and most alphas can be ruled out without their c,
which is what costs: its norm is almost free, since c = U D W + rest and U is orthonormal,

    ||c||^2 = (W o W)' D^2 + ||rest||^2.

Let w = 1 / d^2, m its least value, E = w - m, and c0 the residual of the alpha that generalised cross-validation
prefers. Then

    sum w c^2 >= m ||c||^2 + max(0, sum E c0^2 - 2 ||E c0|| ||c - c0||),     ||c - c0||^2 = (W o W)' (D - D0)^2,

and only where this is under the least error so far is the error computed. The alpha chosen is the same.

Source: the residuals, Golub, Heath & Wahba 1979; the bound, ours (found in no library). For blocks the same bound holds
with m the least eigenvalue of (P_BB)^-2, but it is loose: of 12 alphas it left 4.6 for blocks of 4 rows and 9.5 for
five blocks (November 2026), no gain over computing all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kernels.arrays import Array, namespace
from kernels.gram import Basis

# Under least squares P is a projector; a block with an eigenvalue under this is fitted exactly and says nothing.
_FITTED_EXACTLY = 1e-9
# A bound must exceed the least error by more than rounding before it rules an alpha out.
_SLACK = 1e-9


@dataclass(frozen=True)
class SingleRows:
    """Each training row left out by itself.

    Attributes:
        basis: of the training rows.
        kept: (alpha, rank) D = alpha / (lam + alpha).
        weights: (alpha, train) w = 1 / d^2; NaN where least squares fits a row exactly.
    """

    basis: Basis
    kept: Array
    weights: Array

    def errors(self, y: Array, W: Array) -> Array:
        """(alpha, neuroid) sums of squared held-out residuals of centred responses y (train, neuroid), W = U'y."""
        rest = _rest(self.basis, y, W)
        everyone = slice(None)
        return namespace(y).stack([self._error(k, W, rest, everyone) for k in range(len(self.kept))])

    def least_errors(self, y: Array, W: Array) -> Array:
        """As `errors`, with infinity for what was ruled out: the least of each neuroid is there."""
        if len(self.kept) == 1:
            return self.errors(y, W)
        xp = namespace(y)
        rest, squares = _rest(self.basis, y, W), W * W
        norms = self.kept**2 @ squares + (0.0 if rest is None else xp.einsum("ij,ij->j", rest, rest))
        first = (norms * self.weights.mean(axis=1)[:, None]).argmin(axis=0)
        errors, bounds = xp.full(norms.shape, xp.inf), self.weights.min(axis=1)[:, None] * norms
        for k in range(len(self.kept)):
            neuroids = xp.flatnonzero(first == k)
            if len(neuroids):
                c0 = self._residual(k, W, rest, neuroids)
                errors[k, neuroids] = self.weights[k] @ c0**2
                bounds[:, neuroids] += self._excess(k, c0, squares[:, neuroids])
        bounds[first, xp.arange(len(first))] = xp.inf  # computed
        for k in self._by_promise(bounds):
            neuroids = xp.flatnonzero(bounds[k] * (1.0 - _SLACK) < errors.min(axis=0))
            if len(neuroids):
                errors[k, neuroids] = self._error(k, W, rest, neuroids)
        return errors

    def _excess(self, k: int, c0: Array, squares: Array) -> Array:
        """(alpha, neuroid) by how much the error exceeds m ||c||^2 at least, given the residual c0 of alpha k."""
        xp = namespace(c0)
        beyond = self.weights - self.weights.min(axis=1, keepdims=True)
        distances = (self.kept - self.kept[k]) ** 2 @ squares
        return (beyond @ c0**2 - 2.0 * xp.sqrt(beyond**2 @ c0**2 * distances)).clip(0.0)

    def _by_promise(self, bounds: Array) -> list[int]:
        """The alphas, those first that look best to most neuroids."""
        votes = namespace(bounds).bincount(bounds.argmin(axis=0), minlength=len(bounds))
        return sorted(range(len(bounds)), key=lambda k: -int(votes[k]))

    def _error(self, k: int, W: Array, rest: Array | None, neuroids: Array | slice) -> Array:
        return self.weights[k] @ self._residual(k, W, rest, neuroids) ** 2

    def _residual(self, k: int, W: Array, rest: Array | None, neuroids: Array | slice) -> Array:
        """(train, neuroid) c of alpha k."""
        c = (self.basis.U * self.kept[k]) @ W[:, neuroids]
        return c if rest is None else c + rest[:, neuroids]


@dataclass(frozen=True)
class Blocks:
    """The training rows of each block left out together.

    Attributes:
        basis: of the training rows.
        rows: the rows of each block.
        on_spanned: per alpha (train, rank) (P_BB)^-1 U D, so that an alpha costs one product.
        inverses: per alpha and block (P_BB)^-1, for what the features do not span; NaN where fitted exactly.
    """

    basis: Basis
    rows: Sequence[Array]
    on_spanned: Sequence[Array]
    inverses: Sequence[Sequence[Array]]

    def errors(self, y: Array, W: Array) -> Array:
        """(alpha, neuroid) sums of squared held-out residuals of centred responses y (train, neuroid), W = U'y."""
        xp, rest = namespace(y), _rest(self.basis, y, W)
        errors = xp.empty((len(self.on_spanned), y.shape[1]))
        for k, on_spanned in enumerate(self.on_spanned):
            residual = on_spanned @ W
            if rest is not None:
                residual += _by_block(self.rows, self.inverses[k], rest)
            errors[k] = xp.einsum("ij,ij->j", residual, residual)
        return errors

    least_errors = errors


def leaving_out(blocks: Sequence[Array], basis: Basis, alphas: Array) -> SingleRows | Blocks:
    """How training rows are left out, prepared for a grid.

    Args:
        blocks: rows of each block; every training row is in one.
        basis: of the training rows.
        alphas: (alpha,) not negative; 0 is least squares.
    """
    xp = namespace(basis.U)
    kept = alphas[:, None] / (basis.lam + alphas[:, None])
    if len(blocks) == len(basis.U):
        return SingleRows(basis, kept, xp.stack([_diagonal(basis, each) ** -2.0 for each in kept]))
    inverses = [[_inverse(basis, each, rows) for rows in blocks] for each in kept]
    on_spanned = [_by_block(blocks, those, basis.U * each) for those, each in zip(inverses, kept, strict=True)]
    return Blocks(basis, blocks, on_spanned, inverses)


def _diagonal(basis: Basis, kept: Array) -> Array:
    """(train,) diagonal of P; NaN where least squares fits a row exactly."""
    xp, square = namespace(basis.U), basis.U**2
    null = 0.0 if basis.spans else (1.0 - 1.0 / len(square) - square.sum(axis=1)).clip(0.0)
    diagonal = square @ kept + null
    return diagonal if kept.any() else xp.where(diagonal < _FITTED_EXACTLY, xp.nan, diagonal)


def _inverse(basis: Basis, kept: Array, rows: Array) -> Array:
    """(row, row) (P_BB)^-1; NaN where least squares fits the block exactly."""
    xp, U = namespace(basis.U), basis.U[rows]
    P = (U * kept) @ U.T
    if not basis.spans:
        P += xp.eye(len(rows)) - 1.0 / len(basis.U) - U @ U.T
    exact = not kept.any() and float(xp.linalg.eigvalsh(P)[0]) < _FITTED_EXACTLY
    return xp.full_like(P, xp.nan) if exact else xp.linalg.inv(P)


def _by_block(blocks: Sequence[Array], matrices: Sequence[Array], V: Array) -> Array:
    """Each block's rows of V, multiplied by its matrix."""
    out = namespace(V).empty_like(V)
    for rows, matrix in zip(blocks, matrices, strict=True):
        out[rows] = matrix @ V[rows]
    return out


def _rest(basis: Basis, y: Array, W: Array) -> Array | None:
    """(train, neuroid) what the features do not span; None at full rank."""
    return None if basis.spans else y - basis.U @ W
