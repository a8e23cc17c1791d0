"""Operations and memory of a ridge fit, forecast from counted sizes before anything is computed.

The operations are those of kernels/ways.py, by the way that `ridge.fit_folds` would choose; the memory is that of the
arrays of kernels/fold.py and kernels/primal.py that exist at the same time. Forecast against measurement:
kernels/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.kernels import ways
from harness.kernels.split import Split

# Of the alphas of a grid, bounds leave about this fraction to be computed where blocks are left out.
_COMPUTED = 0.5
# Memory of a block of neuroids and of a block of rows in bytes, as in kernels/ridge.py, primal.py and streams.py.
_DUAL_BUDGET, _PRIMAL_BUDGET, _ROWS_BYTES = 2**26, 3 * 2**28, 2**25
# Sums of the primal, and its directions and factors, are kept up to these sizes.
_SUMS_BYTES, _KEPT_BYTES = 2**30, 5 * 2**29
# LAPACK's syevd holds the matrix and twice its size as work space.
_EIGENVECTORS = 4


class Sizes(NamedTuple):
    """Sizes of a fit of one layer, by its largest fold.

    Attributes:
        n_train, n_test: rows of a fold.
        p: number of features.
        n_neuroids: number of neuroids.
        n_alphas: number of alphas; 1 for least squares.
        n_folds: number of folds.
        blocks: of each inner block the number of its rows, and of all rows left out with it; None for single rows.
        is_mixed: whether the neuroid side is in float32.
        n_grams: matrices of rows by rows that are held beside the folds: one, or one per band.
        is_banded: whether features are weighted bands, which are never decomposed in feature space by the dual.
        per_neuroid: whether each neuroid has its own alpha.
    """

    n_train: int
    n_test: int
    p: int
    n_neuroids: int
    n_alphas: int
    n_folds: int
    blocks: tuple[tuple[int, int], ...] | None
    is_mixed: bool = False
    n_grams: int = 1
    is_banded: bool = False
    per_neuroid: bool = True

    @property
    def is_thin(self) -> bool:
        """Whether the dual would decompose the features themselves."""
        return not self.is_banded and 2 * self.p < self.n_train + self.n_test


def blocks_of(split: Split) -> tuple[tuple[int, int], ...] | None:
    """`Sizes.blocks` of a fold."""
    if split.inner is None:
        return None
    blocks = split.inner_blocks()
    gaps = split.gaps(blocks) if split.gap else [()] * len(blocks)
    return tuple((len(rows), len(rows) + len(near)) for rows, near in zip(blocks, gaps, strict=True))


class Cost(NamedTuple):
    """Forecast of a computation.

    Attributes:
        operations: floating-point operations, in units of those of a matrix product.
        n_bytes: largest memory at one time, without the data themselves.
        way: "dual" or "primal"; "" for a sum of several.
    """

    operations: float
    n_bytes: float
    way: str = ""


def of_fit(sizes: Sizes) -> Cost:
    """Forecast all folds of a fit on one CPU."""
    n, p, v, blocks = sizes.n_train, sizes.p, sizes.n_neuroids, _searched(sizes)
    n_columns = v if sizes.per_neuroid else min(v, n)  # one alpha needs Y Y' only
    counted = n, p, n_columns, sizes.n_alphas, blocks
    saved = ways.primal_saves(*counted, sizes.n_folds, sizes.is_thin) - ways.WORTH
    if n > p and (saved > 0 or ways.is_too_long(n, sizes.n_alphas, per_neuroid=sizes.per_neuroid)):
        operations = ways.primal(n, p, n_columns, _computed(sizes), blocks)
        return Cost(sizes.n_folds * (operations + _one_alpha(sizes)), _primal_bytes(sizes), "primal")
    operations = ways.dual(n, p, n_columns, _computed(sizes), blocks, sizes.n_folds, sizes.is_thin)
    return Cost(sizes.n_folds * (operations + _one_alpha(sizes)), _dual_bytes(sizes), "dual")


def together(costs: Sequence[Cost]) -> Cost:
    """One computation after the other: operations are added, memory is that of the largest."""
    operations, n_bytes = sum(cost.operations for cost in costs), max((cost.n_bytes for cost in costs), default=0.0)
    of_ways = {cost.way for cost in costs}
    return Cost(operations, n_bytes, of_ways.pop() if len(of_ways) == 1 else "")


def _searched(sizes: Sizes) -> tuple[tuple[int, int], ...] | None:
    """Blocks of a single row each are left out row by row."""
    is_single = sizes.blocks is not None and all(block == (1, 1) for block in sizes.blocks)
    return None if is_single else sizes.blocks


def _computed(sizes: Sizes) -> int:
    """Number of alphas whose errors are computed for a neuroid."""
    return max(1, round(sizes.n_alphas * _COMPUTED)) if sizes.n_alphas > 1 else 1


def _one_alpha(sizes: Sizes) -> float:
    """Operations per fold for neuroids that share an alpha: two products with operators of rows by rows."""
    rows = sizes.n_train + sizes.n_test
    return 0.0 if sizes.per_neuroid else 2.0 * sizes.n_train * rows * sizes.n_neuroids


def _dual_bytes(sizes: Sizes) -> float:
    """The Gram matrices, all folds as prepared, and what the decomposition of the last of them takes."""
    n, rows, r = sizes.n_train, sizes.n_train + sizes.n_test, min(sizes.n_train - 1, sizes.p)
    narrow = 4 if sizes.is_mixed else 0
    if sizes.is_thin:
        held, decomposed = 0.0, 8.0 * (3 * rows + n) * sizes.p
    else:
        held, decomposed = 8.0 * rows**2 * sizes.n_grams, 8.0 * _EIGENVECTORS * n**2
    fold = (8 + narrow) * n * r + 8.0 * sizes.n_test * r + _search_bytes(sizes, r)
    roots = 8.0 * sizes.n_alphas * r * max((out for _, out in _searched(sizes) or ()), default=0)
    neuroids = min(_DUAL_BUDGET, 11.0 * 8 * rows * sizes.n_neuroids)
    return held + sizes.n_folds * fold + max(decomposed, roots) + neuroids


def _search_bytes(sizes: Sizes, r: int) -> float:
    """Memory of a prepared choice of alpha in the dual."""
    blocks, n, n_alphas = _searched(sizes), sizes.n_train, sizes.n_alphas
    if blocks is None:
        return 16.0 * n_alphas * n
    inverses = 8.0 * n_alphas * sum(own * out for own, out in blocks)
    has_triangles = n_alphas > 1 and sizes.n_neuroids > 4 * n and r == n - 1
    return inverses + (0.6 * (4 if sizes.is_mixed else 8) * n_alphas * r**2 if has_triangles else 0.0)


def _primal_bytes(sizes: Sizes) -> float:
    """The sums over parts of the rows, one decomposition, inverses or sums of a block, and a block of neuroids."""
    n, p, rows, blocks = sizes.n_train, sizes.p, sizes.n_train + sizes.n_test, _searched(sizes)
    matrix, n_parts, search = 8.0 * p * p, sizes.n_folds, 0.0
    if blocks is not None:
        per_inverse = 8.0 * sizes.n_alphas * sum(out * out for _, out in blocks)
        if ways.sums_pay(blocks, p, sizes.n_alphas, sizes.n_neuroids):
            n_parts, search = max(sizes.n_folds, len(blocks) + 1), 3 * matrix
        else:
            search = min(per_inverse + 8.0 * n * p, _KEPT_BYTES)
    sums = matrix * n_parts
    held = sizes.n_folds * matrix if sums <= _SUMS_BYTES else matrix
    neuroids = min(_PRIMAL_BUDGET, 8.0 * (4 * rows + (n_parts + 8) * p) * sizes.n_neuroids)
    products = 8.0 * n_parts * p * sizes.n_neuroids  # with the responses, of all folds; computed again if too large
    neuroids += products if products <= _PRIMAL_BUDGET else 0.0
    return sums + held + _EIGENVECTORS * matrix + search + neuroids + 3 * _ROWS_BYTES
