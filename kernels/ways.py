"""Primal or dual, and how blocks are left out: the way with the fewest floating-point operations, counted.

The dual works with matrices of rows by rows (kernels/fold.py), the primal with matrices of features by features
(kernels/primal.py). With n training rows, r = min(n - 1, p) directions, v neuroids, a alphas, and blocks of m rows (l
with their gap), a fold costs, in products of the size of a matrix product:

    decomposition      dual, p >= n / 2     n^2 p / folds + 8 n^3       eigenvectors, as measured with LAPACK
                       dual, p < n / 2      4 n p^2 + 20 p^3            QR and singular vectors
                       primal               n p^2 + 8 p^3
    U'Y, predictions   dual 4 n r v; primal 4 n p v + 2 p^2 v
    single rows        3.6 n r v            1.8 of the alphas are computed; the primal adds 2 n p^2 for the leverages
    blocks, inverses   a sum(l^2 r + l^3) + a (2 n r + 2 sum(m l)) v
    blocks, sums       blocks (12 p^3 + (4 + 2 a) p^2 v)
"""

from __future__ import annotations

from collections.abc import Sequence

# The primal is chosen if it saves at least this many operations per fold, some 2 ms on one core: where little is to be
# saved, the decomposition of the features themselves is more precise than that of their products.
WORTH = 1e8
# The dual's operators from training rows to training rows take at most so many bytes: 11,585 rows.
_OPERATOR_BYTES = 2**30


def sums_pay(sizes: Sequence[tuple[int, int]], p: int, n_alphas: int, n_neuroids: int) -> bool:
    """Whether leaving out blocks by sums takes fewer operations than by inverses.

    Args:
        sizes: of each block the number of its rows, and of all rows left out with it.
        p: number of features.
        n_alphas: number of alphas.
        n_neuroids: number of neuroids.
    """
    return by_sums(len(sizes), p, n_alphas, n_neuroids) < by_inverses(sizes, p, n_alphas, n_neuroids)


def is_too_long(n: int, n_alphas: int, *, per_neuroid: bool) -> bool:
    """Whether the dual has no memory for the (row, row) operators of neuroids that share an alpha; n: training rows."""
    return (n_alphas == 1 or not per_neuroid) and 8 * n * n > _OPERATOR_BYTES


def by_inverses(sizes: Sequence[tuple[int, int]], r: int, n_alphas: int, n_neuroids: int) -> float:
    """Operations for leaving out blocks by the inverses of P_BB; r: number of directions."""
    prepared = sum(left_out**2 * r + left_out**3 for _, left_out in sizes)
    per_neuroid = sum(2 * left_out * (r + own) for own, left_out in sizes)
    return float(n_alphas * (prepared + per_neuroid * n_neuroids))


def by_sums(n_blocks: int, p: int, n_alphas: int, n_neuroids: int) -> float:
    """Operations for leaving out blocks by fitting again from sums."""
    return float(n_blocks * (12 * p**3 + (4 + 2 * n_alphas) * p**2 * n_neuroids))


def dual(
    n: int, p: int, n_neuroids: int, n_alphas: int, sizes: Sequence[tuple[int, int]] | None, n_folds: int, is_thin: bool
) -> float:  # fmt: skip
    """Operations of a fold with matrices of rows by rows; arguments as in `primal_saves`."""
    r = min(n - 1, p)
    decomposed = 4.0 * n * p**2 + 20.0 * p**3 if is_thin else n**2 * p / n_folds + 8.0 * n**3
    chosen = _single_rows(n, r, n_neuroids) if sizes is None else by_inverses(sizes, r, n_alphas, n_neuroids)
    return decomposed + 4.0 * n * r * n_neuroids + chosen


def primal(n: int, p: int, n_neuroids: int, n_alphas: int, sizes: Sequence[tuple[int, int]] | None) -> float:
    """Operations of a fold with matrices of features by features; arguments as in `primal_saves`."""
    r = min(n - 1, p)
    shared = n * p**2 + 8.0 * p**3 + (4.0 * n * p + 2.0 * p**2) * n_neuroids
    if sizes is None:
        return shared + 2.0 * n * p**2 + _single_rows(n, r, n_neuroids)
    inverses = by_inverses(sizes, r, n_alphas, n_neuroids)
    return shared + min(inverses + 2.0 * n * p**2, by_sums(len(sizes), p, n_alphas, n_neuroids))


def _single_rows(n: int, r: int, n_neuroids: int) -> float:
    return 3.6 * n * r * n_neuroids


def primal_saves(
    n: int, p: int, n_neuroids: int, n_alphas: int, sizes: Sequence[tuple[int, int]] | None, n_folds: int,
    is_thin: bool,
) -> float:  # fmt: skip
    """Operations of a fold that the primal saves; negative if it costs more.

    Args:
        n: number of training rows.
        p: number of features.
        n_neuroids: number of neuroids.
        n_alphas: number of alphas.
        sizes: as in `sums_pay`; None if single rows are left out.
        n_folds: number of folds that share a Gram matrix of the rows.
        is_thin: whether the dual decomposes the features instead.
    """
    of_dual = dual(n, p, n_neuroids, n_alphas, sizes, n_folds, is_thin)
    return of_dual - primal(n, p, n_neuroids, n_alphas, sizes)
