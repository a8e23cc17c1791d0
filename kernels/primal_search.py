"""Choose alpha where rows outnumber features: leave-out errors from streamed rows, or from sums over blocks of rows.

The formulas are those of the dual (kernels/search.py, kernels/blocks.py), with the directions U = (X - mean) V of the
training rows never stored: V is (feature, rank), and rows are read in blocks. Three ways:

- `StreamedRows`: single rows. The leverages take one pass over the rows, the residuals of one alpha per neuroid another
  one, and the same bound as in the dual spares most of the other alphas.
- `StreamedBlocks`: blocks of rows, by a factor of P_BB. n_B^3 / 3 per block and alpha, for blocks of few rows.
- `SummedBlocks`: blocks of rows, by fitting again without each block, from sums alone. With G, C the products of the
  rest about its own means, G = V^-T diag(lam) V^-1, and G_B, C_B, y_B of the block about the means of the rest,

      error = y_B'y_B - 2 w'C_B + w'G_B w,   w = V (lam + alpha)^-1 V'C,

  which costs p^3 per block whatever its number of rows, and p^2 per neuroid and alpha. For blocks of many rows.

Source: kernels/search.py; the sums are the normal equations of ridge regression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from harness.kernels import blocks
from harness.kernels.arrays import Array, namespace, products
from harness.kernels.block_floors import BlockFloors
from harness.kernels.search import FITTED_EXACTLY, ROUNDING, bounds, weight_sums
from harness.kernels.streams import Stream, Sums, added, take_rows

# Residuals of at most this many bytes are computed at once.
_RESIDUAL_BYTES, _RESIDUAL_BYTES_GPU = 2**26, 2**30
# Directions of a fold, and then as many factors of P_BB as fit, are kept in at most this many bytes.
_KEPT_BYTES, _KEPT_BYTES_GPU = 5 * 2**29, 2**34
# Relative error of ||c||^2 by the eigenvalues, since products of features square their condition: with a few features a
# thousand times larger, directions are orthonormal to about 1e-9.
_ORTHONORMAL = 1e-6
# A bound that takes two products with U is computed if more than this fraction of the errors would have to be.
_WORTH_A_BOUND = 0.3
# Blocks are computed for all alphas at once if a block and alpha takes at most this many multiplications.
# The quickstart took 34 s in one process with 2^19 and 2^20, 37 s with 2^21.
_TINY = 2**20


class PrimalBasis(NamedTuple):
    """Eigendecomposition of the features on the training rows.

    Attributes:
        n: number of training rows.
        mean: (feature,) of the training rows, about the shift of the stream.
        V: (feature, rank) such that U = (X - mean) V is orthonormal on the training rows; scales are included.
        lam: (rank,) eigenvalues of the centred and scaled Gram matrix.
        mean_lam: their sum / n, the scale of a relative alpha.
    """

    n: int
    mean: Array
    V: Array
    lam: Array
    mean_lam: float


class Responses(NamedTuple):
    """What a search is given of a block of neuroids.

    Attributes:
        y: (train, neuroid) responses minus their mean.
        W: (neuroid, rank) y'U.
        total: (neuroid,) sums of squares of y.
        products: from parts of the rows and their sums, the (feature, neuroid) products X'y about the shift, and the
            (neuroid,) sums of y.
    """

    y: Array
    W: Array
    total: Array
    products: Callable[[Sequence[int], Sums], tuple[Array, Array]]


@dataclass(frozen=True)
class StreamedRows:
    """Leave out each training row by itself; residuals are scaled as in `search.SingleRows`.

    Attributes:
        stream: the features.
        rows: (train,) row indices, on the host.
        basis: of the training rows.
        kept: (alpha, rank + 1) scaled D; the last column is for the part outside the directions.
        weights: (alpha, train) weights of squared residuals, divided by their mean.
        exact: (train,) rows that least squares fits exactly; None if there are none.
    """

    stream: Stream
    rows: Array
    basis: PrimalBasis
    kept: Array
    weights: Array
    exact: Array | None

    def errors(self, given: Responses) -> Array:
        """(neuroid, alpha) sums of squared leave-out residuals."""
        xp = namespace(given.W)
        every = xp.arange(len(given.W))
        return xp.stack([self._error(given, every, every * 0 + k) for k in range(len(self.kept))], axis=1)

    def least_errors(self, given: Responses) -> Array:
        """As `errors`, with infinity for pruned alphas; the smallest error of each neuroid is always computed."""
        xp = namespace(given.W)
        if len(self.kept) == 1 or xp is not np:
            return self.errors(given)
        squares = self._squares(given)
        first, every = (squares @ (self.kept**2).T).argmin(axis=1), np.arange(len(given.W))
        sums, errors = self._sums(given, every, first), np.full((len(given.W), len(self.kept)), np.inf)
        errors[every, first] = self._error_of(sums, first)
        floor = np.full_like(errors, np.inf)
        for k in np.unique(first):
            own = np.flatnonzero(first == k)
            floor[own] = bounds(int(k), self.kept, self.weights, sums[own], squares[own])
        floor[every, first] = np.inf
        undecided = np.flatnonzero((floor < errors.min(axis=1, keepdims=True)).any(axis=1))
        self._compute(given, errors, floor, undecided, floor[undecided].argmin(axis=1))
        self._compute(given, errors, floor, *np.nonzero(floor < errors.min(axis=1, keepdims=True)))
        return errors

    def least_total(self, given: Responses) -> Array:
        """(1, alpha) errors summed over neuroids, treated as one long response; infinity for pruned alphas."""
        xp = namespace(given.W)
        squares, every = self._squares(given).sum(axis=0, keepdims=True), xp.arange(len(given.W))
        errors = xp.full((1, len(self.kept)), xp.inf)
        first = int((squares @ (self.kept**2).T).argmin())
        sums = self._sums(given, every, every * 0 + first).sum(axis=0, keepdims=True)
        errors[0, first] = self._error_of(sums, every[:1] * 0 + first)[0]
        floor = bounds(first, self.kept, self.weights, sums, squares)[0]
        for k in [int(k) for k in floor.argsort()]:
            if k != first and float(floor[k]) < float(errors.min()):
                errors[0, k] = self._error(given, every, every * 0 + k).sum()
        return errors

    def _squares(self, given: Responses) -> Array:
        """(neuroid, rank + 1) squares of W, and of the part of the responses outside the directions."""
        xp, squares = namespace(given.W), given.W * given.W
        return xp.concatenate([squares, (given.total - squares.sum(axis=1)).clip(0.0)[:, None]], axis=1)

    def _compute(self, given: Responses, errors: Array, floor: Array, neuroids: Array, alphas: Array) -> None:
        """Compute the errors of pairs of neuroid and alpha, which then have no bound any more."""
        for start in range(0, len(neuroids), max(len(errors), 1)):
            pairs = neuroids[start : start + len(errors)], alphas[start : start + len(errors)]
            errors[pairs] = self._error(given, *pairs)
            floor[pairs] = np.inf

    def _error(self, given: Responses, neuroids: Array, alphas: Array) -> Array:
        """(pair,) errors of pairs of neuroid and index of an alpha."""
        return self._error_of(self._sums(given, neuroids, alphas), alphas)

    def _error_of(self, sums: Array, alphas: Array) -> Array:
        """(pair,) errors from the sums of squared residuals."""
        xp = namespace(sums)
        excess = xp.take_along_axis(sums, alphas[:, None], axis=1)[:, 0]
        return excess + self.weights.min(axis=1)[alphas] * sums[:, -1]

    def _sums(self, given: Responses, neuroids: Array, alphas: Array) -> Array:
        """(pair, 2 alpha + 1) sums over rows of squared residuals with `search.weight_sums`, in one pass."""
        xp, basis = namespace(given.W), self.basis
        W, scale = given.W[neuroids], self.kept[alphas, -1]
        shrunk = W - W * self.kept[alphas, :-1] / scale[:, None] if self.exact is None else W
        beta = basis.V @ shrunk.T
        if self.exact is not None:
            exact = basis.V @ (W * (float(basis.lam.max()) / basis.lam)).T
        weights, sums = weight_sums(self.weights), xp.zeros((len(neuroids), 2 * len(self.kept) + 1))
        width = max((_RESIDUAL_BYTES if xp is np else _RESIDUAL_BYTES_GPU) // (8 * len(neuroids)), 64)
        for place, block in self.stream.blocks(self.rows):
            for start in range(0, len(block), width):
                Z = block[start : start + width] - basis.mean
                some = slice(place.start + start, place.start + start + len(Z))
                residual = given.y[some][:, neuroids] - Z @ beta
                if self.exact is not None:
                    residual = xp.where(self.exact[some, None], Z @ exact, residual)
                residual *= scale
                residual *= residual
                sums += residual.T @ weights[:, some].T
        return sums


def streamed_rows(stream: Stream, rows: Array, basis: PrimalBasis, alphas: Array) -> StreamedRows:
    """Prepare to leave out single rows, in one pass over them.

    Args:
        stream: the features.
        rows: (train,) row indices, on the host.
        basis: of the training rows.
        alphas: (alpha,) positive, or a single 0 for least squares.
    """
    xp, lam = stream.xp, basis.lam
    kept = alphas[:, None] / (lam + alphas[:, None])
    if not float(alphas[0]):
        kept = float(lam.max()) / lam[None]
    factors = xp.concatenate([kept, xp.ones_like(lam)[None]]).T
    diagonal = xp.empty((len(rows), len(kept) + 1))
    for place, block in stream.blocks(rows):
        U = (block - basis.mean) @ basis.V
        U *= U
        diagonal[place] = U @ factors
    null, diagonal = (1.0 - 1.0 / len(rows) - diagonal[:, -1]).clip(0.0), diagonal[:, :-1]
    exact = null < FITTED_EXACTLY
    if float(alphas[0]):
        diagonal, exact = diagonal + null[:, None], None
    else:
        diagonal, kept = xp.where(exact[:, None], diagonal, null[:, None]), xp.zeros_like(kept)
        exact = exact if bool(exact.any()) else None
    weights = diagonal.T**-2.0
    mean = weights.mean(axis=1, keepdims=True)
    kept = xp.concatenate([kept, xp.ones_like(mean)], axis=1) * xp.sqrt(mean)
    return StreamedRows(stream, rows, basis, kept, weights / mean, exact)


@dataclass(frozen=True)
class StreamedBlocks:
    """Leave out the training rows of each block together, by solving with P_BB.

    Attributes:
        stream, rows, basis: as in `StreamedRows`.
        alphas: (alpha,) not negative.
        left_out: per block, as indices into the training rows: its own rows first, then those in its gap.
        n_own: per block the number of its own rows.
        roots: per block the square root of its weight.
        dtype: of the neuroid side.
        solvers: those computed so far, by block and index of alpha, as many as fit in memory.
        inverses: of P_BB for all alphas, by block; of tiny blocks, if all fit.
        directions: those computed so far, by block, if they fit.
    """

    stream: Stream
    rows: Array
    basis: PrimalBasis
    alphas: Array
    left_out: Sequence[Array]
    n_own: Sequence[int]
    roots: Sequence[float]
    dtype: type = np.float64
    solvers: dict[tuple[int, int], _Solver] = field(default_factory=dict)
    inverses: dict[int, Array] = field(default_factory=dict)
    directions: dict[int, Array] = field(default_factory=dict)

    def errors(self, given: Responses) -> Array:
        """(neuroid, alpha) sums of squared leave-out residuals."""
        if self._is_tiny(len(given.W)):
            return self._at_once(given)
        xp = namespace(given.W)
        return self.computed(given, xp.ones((len(given.W), len(self.alphas)), dtype=bool))

    def least_errors(self, given: Responses) -> Array:
        """As `errors`, with infinity for pruned alphas; the smallest error of each neuroid is always computed.

        An alpha is dropped once its error on some blocks, and a lower bound for the other ones, exceed the error of the
        alpha that generalised cross-validation prefers.
        """
        xp = namespace(given.W)
        if len(self.alphas) == 1 or xp is not np or self._is_tiny(len(given.W)):
            return self.errors(given)
        kept, squares = self._kept(np.arange(len(self.alphas))), given.W * given.W
        norms = squares @ (kept * kept).T + (given.total - squares.sum(axis=1)).clip(0.0)[:, None]
        first = (norms / (kept.sum(axis=1) + len(self.rows) - 1.0 - kept.shape[1]) ** 2).argmin(axis=1)
        is_first = first[:, None] == np.arange(len(self.alphas))
        errors = self.computed(given, is_first)
        floors = self._floors(given, norms)
        least = errors.min(axis=1) * (1.0 + floors.rounding)
        wanted = ~is_first & (floors.rest() <= least[:, None])
        if floors.lightest and wanted.mean() > _WORTH_A_BOUND:
            floors = self._tightened(floors, given, squares)
            wanted &= floors.rest() <= least[:, None]
        return np.where(is_first, errors, self.computed(given, wanted, least, floors))

    def _floors(self, given: Responses, norms: Array) -> BlockFloors:
        """Lower bounds from (neuroid, alpha) ||c||^2 alone."""
        has_gap = any(len(rows) > n for rows, n in zip(self.left_out, self.n_own, strict=True))
        lightest = 0.0 if has_gap else min(self.roots) ** 2  # the rows of a gap could be those that P_BB^-1 lengthens
        rounding = ROUNDING * float(np.finfo(self.dtype).eps)
        return BlockFloors(norms.copy(), lightest, rounding, max(rounding, _ORTHONORMAL) * given.total[:, None])

    def _tightened(self, floors: BlockFloors, given: Responses, squares: Array) -> BlockFloors:
        """The same with U_B'c of the smallest alpha; squares: (neuroid, rank) of W."""
        shrunk = 1.0 - self._kept(np.arange(len(self.alphas)))
        W, along = (given.W * shrunk[0]).astype(self.dtype), []
        largest, are_few = 0.0, max(map(len, self.left_out)) < len(W) / 2
        for number, left_out in enumerate(self.left_out):
            U = self._directions(number)
            largest = max(largest, float(np.linalg.eigvalsh(U @ U.T)[-1])) if are_few else 1.0
            U = U.astype(self.dtype, copy=False)
            c = take_rows(given.y, left_out).astype(self.dtype, copy=False).T - W @ U.T
            along.append((c @ U) ** 2 @ shrunk.T)
        apart = np.sqrt(largest * (squares @ ((shrunk - shrunk[0]) ** 2).T))
        return replace(floors, along=np.stack(along), left=sum(along), apart=apart + np.sqrt(floors.slack))

    def least_total(self, given: Responses) -> Array:
        """(1, alpha) errors summed over neuroids."""
        return self.errors(given).sum(axis=0, keepdims=True)

    def in_float64(self) -> StreamedBlocks:
        """The same search in float64."""
        return replace(self, dtype=np.float64)

    def computed(
        self, given: Responses, wanted: Array, least: Array | None = None, floors: BlockFloors | None = None
    ) -> Array:
        """(neuroid, alpha) errors of the wanted pairs, infinity for the others and for those that are dropped.

        Args:
            given: the responses.
            wanted: (neuroid, alpha) pairs to compute; overwritten.
            least: (neuroid,) errors above which a pair is dropped, with `floors`; None: none is.
            floors: lower bounds of the errors; overwritten.
        """
        xp, errors = namespace(given.W), namespace(given.W).zeros(wanted.shape)
        W = given.W.astype(self.dtype, copy=False)
        for number, left_out in enumerate(self.left_out):
            U, y = self._directions(number), take_rows(given.y, left_out).astype(self.dtype, copy=False)
            narrow = U.astype(self.dtype, copy=False)
            for k in range(len(self.alphas)):
                neuroids = xp.flatnonzero(wanted[:, k])
                if not len(neuroids):
                    continue
                neuroids = slice(None) if len(neuroids) == len(wanted) else neuroids
                c = W[neuroids] @ (narrow * (1.0 - self._kept(k)).astype(self.dtype)).T
                xp.subtract(y.T[neuroids], c, out=c)
                norm = products(c, c, axis=1)
                errors[neuroids, k] += self._solver_of(number, k, U).error(c, self.n_own[number])
                if floors is not None and least is not None:
                    rest = floors.without(number, k, neuroids, norm)
                    wanted[neuroids, k] = errors[neuroids, k] + rest <= least[neuroids]
        return xp.where(wanted, errors, xp.inf)

    def _is_tiny(self, n_neuroids: int) -> bool:
        """Whether calls would take longer than what they compute, if each were for one alpha."""
        longest = max(map(len, self.left_out))
        return self._is_small and longest * (longest + self._rank) * (longest + n_neuroids) <= _TINY

    def _at_once(self, given: Responses) -> Array:
        """`errors`, block by block for all alphas."""
        xp = namespace(given.W)
        kept = self._kept(xp.arange(len(self.alphas)))
        shrunk = (given.W * (1.0 - kept)[:, None]).astype(self.dtype).transpose(0, 2, 1)
        errors = xp.zeros((len(given.W), len(kept)))
        for number, left_out in enumerate(self.left_out):
            U = self._directions(number)
            if number not in self.inverses:
                own = blocks.inverses(U, kept, self.basis.n, spans=False)[:, : self.n_own[number]]
                self.inverses[number] = own * self.roots[number]
            c = take_rows(given.y, left_out).astype(self.dtype) - U.astype(self.dtype, copy=False) @ shrunk
            missed = self.inverses[number].astype(self.dtype, copy=False) @ c
            errors += (missed * missed).sum(axis=1).T
        return errors

    def _kept(self, k: Any) -> Array:
        """D of one or several alphas."""
        alphas = self.alphas[k, None]
        return alphas / (self.basis.lam + alphas)

    def _solver_of(self, number: int, k: int, U: Array) -> _Solver:
        """P_BB of a block and an alpha, factorised."""
        if (number, k) in self.solvers:
            return self.solvers[number, k]
        fitted = U * namespace(U).sqrt(1.0 - self._kept(k))
        solver = _solver(fitted, self.basis.n, self.roots[number], exact=not float(self.alphas[k]))
        n_kept = sum(each.matrix.size for each in self.solvers.values())
        if self._can_keep(self._n_directions + n_kept + solver.matrix.size):
            self.solvers[number, k] = solver
        return solver

    @property
    def _is_small(self) -> bool:
        """Whether the factors and directions of all blocks can be kept."""
        return self._can_keep(
            sum(len(rows) * (self._rank + (len(self.alphas) + 1) * len(rows)) for rows in self.left_out)
        )

    @property
    def _rank(self) -> int:
        return int(self.basis.V.shape[1])

    @property
    def _n_directions(self) -> int:
        return sum(map(len, self.left_out)) * self._rank

    def _can_keep(self, n_numbers: int) -> bool:
        return 8 * n_numbers <= (_KEPT_BYTES if self.stream.xp is np else _KEPT_BYTES_GPU)

    def _directions(self, number: int) -> Array:
        """(left-out row, rank) U of the rows left out with a block."""
        if number in self.directions:
            return self.directions[number]
        xp, left_out = self.stream.xp, self.left_out[number]
        U = xp.empty((len(left_out), self._rank))
        for place, block in self.stream.blocks(self.rows[left_out]):
            U[place] = (block - self.basis.mean) @ self.basis.V
        if self._can_keep(self._n_directions):
            self.directions[number] = U
        return U


class _Solver(NamedTuple):
    """A symmetric positive definite matrix P, factorised or inverted, float64.

    Attributes:
        matrix: (row, row) Cholesky factor, below the diagonal, or the inverse of P.
        is_factor: which of the two.
        root: square root of the block's weight.
    """

    matrix: Array
    is_factor: bool
    root: float

    def error(self, c: Array, n_own: int) -> Array:
        """(neuroid,) weighted sums of squares of the first rows of P^-1 c'; (neuroid, row) c is overwritten."""
        matrix = self.matrix.astype(c.dtype, copy=False)
        if self.is_factor:
            from scipy.linalg import blas

            solve = blas.get_blas_funcs("trsm", dtype=c.dtype)
            # BLAS reads arrays column by column, so c.T is c to it.
            missed = solve(1.0, matrix, c.T, lower=1, overwrite_b=1)
            missed = solve(1.0, matrix, missed, lower=1, trans_a=1, overwrite_b=1).T[:, :n_own]
        else:
            missed = c @ matrix[:, :n_own]
        return products(missed, missed, axis=1) * self.root**2


def _solver(fitted: Array, n: int, root: float, *, exact: bool) -> _Solver:
    """Factorise P = I - 1 / n - fitted fitted'; NaN if least squares (`exact`) fits the block exactly."""
    xp = namespace(fitted)
    P = xp.eye(len(fitted)) - 1.0 / n
    if xp is np and not exact:
        from scipy.linalg import blas, lapack

        lower = blas.dsyrk(-1.0, fitted.T, 1.0, P, trans=1, lower=1)
        factor, failed = lapack.dpotrf(lower, lower=1, overwrite_a=1)
        if not failed:
            return _Solver(factor, True, root)
    P -= fitted @ fitted.T
    if exact and float(xp.linalg.eigvalsh(P)[0]) < FITTED_EXACTLY:
        return _Solver(xp.full_like(P, xp.nan), False, root)
    return _Solver(xp.linalg.inv(P), False, root)


class BlockParts(NamedTuple):
    """A left-out block, and the training rows outside the block and its gap ("rest").

    Attributes:
        own, rest: the parts of the rows that they consist of.
        rows: of the block, as indices into the training rows, on the host.
        weight: of the block's error.
    """

    own: Sequence[int]
    rest: Sequence[int]
    rows: Array
    weight: float


@dataclass(frozen=True)
class SummedBlocks:
    """Leave out the training rows of each block together, by fitting again without it.

    Attributes:
        sums: of the features, by part of the rows.
        scale: (feature,) of the features on the training rows.
        alphas: (alpha,) positive.
        blocks: what is left out.
    """

    sums: Sequence[Sums]
    scale: Array
    alphas: Array
    blocks: Sequence[BlockParts]

    def errors(self, given: Responses) -> Array:
        """(neuroid, alpha) sums of squared leave-out residuals."""
        owns = [added([self.sums[part] for part in block.own]) for block in self.blocks]
        errors = namespace(given.W).zeros((len(given.W), len(self.alphas)))
        for k, block in enumerate(self.blocks):
            others = [own for j, own in enumerate(owns) if j != k]
            has_no_gap = sum(other.n for other in others) == sum(self.sums[part].n for part in block.rest)
            rest = added(others if has_no_gap else [self.sums[part] for part in block.rest])
            errors += block.weight * self._errors(block, owns[k], rest, given)
        return errors

    least_errors = errors

    def least_total(self, given: Responses) -> Array:
        """(1, alpha) errors summed over neuroids."""
        return self.errors(given).sum(axis=0, keepdims=True)

    def _errors(self, block: BlockParts, own: Sums, rest: Sums, given: Responses) -> Array:
        """(neuroid, alpha) errors of one block."""
        xp, centre = namespace(given.W), rest.mean
        lam, V = eigenvectors(rest, centre, self.scale)
        (of_rest, sum_rest), (of_own, sum_own) = given.products(block.rest, rest), given.products(block.own, own)
        level = sum_rest / rest.n
        W = V.T @ (of_rest - centre[:, None] * sum_rest)
        C = V.T @ (of_own - centre[:, None] * sum_own - (own.total - own.n * centre)[:, None] * level)
        G = V.T @ own.about(centre) @ V
        y = take_rows(given.y, block.rows) - level
        squares, errors = products(y, y, axis=0), []
        for alpha in self.alphas:
            w = W / (lam + alpha)[:, None]
            errors.append(squares + products(w, G @ w - 2.0 * C, axis=0))
        return xp.stack(errors, axis=1)


def eigenvectors(sums: Sums, centre: Array, scale: Array, cutoff: float = 0.0) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of the products of scaled features about a centre.

    Args:
        sums: of the features.
        centre: (feature,) about the shift.
        scale: (feature,) factors; features with factor 0 are left out.
        cutoff: eigenvalues up to this fraction of the largest, or up to rounding, are dropped.

    Returns:
        (rank,) eigenvalues, ascending, and (feature, rank) V = scale * eigenvectors, for features without the factors.
    """
    xp = namespace(scale)
    used = xp.flatnonzero(scale)
    square, factors = sums.about(centre), scale[used]
    if len(used) < len(scale):
        square = square.take(used, axis=0).take(used, axis=1)
    lam, U = xp.linalg.eigh(square * factors[:, None] * factors)
    largest = max(float(lam[-1]), 0.0) if len(lam) else 0.0
    above = xp.flatnonzero(lam > largest * max(cutoff, len(lam) * float(xp.finfo(float).eps)))
    V = xp.zeros((len(scale), len(above)))
    V[used] = factors[:, None] * U.take(above, axis=1)
    return lam[above], V
