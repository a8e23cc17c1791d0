"""Features of a long recording, read in blocks of rows, and the sums over sets of rows that a primal fit needs.

Where rows outnumber features, everything that a fit needs of the rows are sums: per set of rows the number of rows, the
sum of the features and their products. Rows are divided once into parts, so that every set (training rows of a fold, an
inner block, the rest) is a union of parts; the sums of a set are those of its parts, added. Nothing is subtracted, so
that a part with large values costs the others no digits.

All sums are about one shift, the mean of all rows, in float64: about 0 a large mean would cost digits. Where the mean
of a set lies far from the shift (`is_far`), the caller sums again about the set's own mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import numpy as np

from harness.kernels.arrays import Array, array_library, namespace

# A block of rows in float64 takes at most this many bytes (what fits the caches of a CPU, and what keeps a GPU busy),
# but has at least this many rows.
_BLOCK_BYTES, _BLOCK_BYTES_GPU, _BLOCK_ROWS = 2**25, 2**29, 64
# A set is far from the shift if a feature's squares about it exceed those about its mean by this factor.
_FAR = 1e6


class Sums(NamedTuple):
    """Sums over a set of rows, about the shift; float64.

    Attributes:
        n: number of rows.
        total: (feature,) sum.
        square: (feature, feature) sum of products.
        low, high: (feature,) smallest and largest value.
    """

    n: int
    total: Array
    square: Array
    low: Array
    high: Array

    @property
    def mean(self) -> Array:
        """(feature,) mean about the shift."""
        return self.total / self.n

    def about(self, centre: Array) -> Array:
        """(feature, feature) sum of products about a centre; 0 for features that do not vary and lie at the centre."""
        offset = self.mean - centre
        square = self.square - self.total[:, None] * self.mean
        still = self.high <= self.low
        square = namespace(square).where(still[:, None] | still, 0.0, square)
        return square + self.n * offset[:, None] * offset


@dataclass(frozen=True)
class Stream:
    """Matrices side by side, as one matrix of features that is read in blocks of rows.

    Attributes:
        matrices: (row, feature) each, as stored: arrays, memory maps, or anything with `shape` that gives an array for
            a slice or an array of rows.
        shift: (feature,) float64, subtracted from every row.
    """

    matrices: tuple[Array, ...]
    shift: Array

    @property
    def xp(self) -> ModuleType:
        """The array library."""
        return namespace(self.shift)

    def blocks(self, rows: Array) -> Iterator[tuple[slice, Array]]:
        """Yield (places in `rows`, (row, feature) float64 minus the shift); rows: indices on the host."""
        yield from ((place, block - self.shift) for place, block in raw_blocks(self.matrices, rows))

    def sums(self, rows: Array) -> Sums:
        """The sums over rows, at least one."""
        xp, p = self.xp, len(self.shift)
        total, square = xp.zeros(p), xp.zeros((p, p))
        low, high = xp.full(p, xp.inf), xp.full(p, -xp.inf)
        for _, block in self.blocks(rows):
            total += block.sum(axis=0)
            square += block.T @ block
            low, high = xp.minimum(low, block.min(axis=0)), xp.maximum(high, block.max(axis=0))
        return Sums(len(rows), total, square, low, high)

    def products(self, rows: Array, y: Array) -> Array:
        """(feature, column) X'y over rows; y: (row, column) float64 of these rows."""
        products = self.xp.zeros((len(self.shift), y.shape[1]))
        for place, block in self.blocks(rows):
            products += block.T @ y[place]
        return products


class Parts(NamedTuple):
    """Rows divided into parts, such that each given set is a union of parts.

    Attributes:
        rows: the rows of each part, ascending, on the host.
        of_set: for each set the parts that it consists of.
    """

    rows: list[Array]
    of_set: list[list[int]]


def stream(matrices: Sequence[Array]) -> Stream:
    """Read matrices from now on about the mean of all their rows."""
    n, total = len(matrices[0]), 0.0
    for _, block in raw_blocks(tuple(matrices), np.arange(n)):
        total = total + block.sum(axis=0)
    return Stream(tuple(matrices), total / n)


def variances(matrix: Array) -> Array:
    """(feature,) float64 variances of the columns, about their means, in two passes over blocks of rows."""
    source, squares = stream((matrix,)), 0.0
    for _, block in source.blocks(np.arange(len(matrix))):
        squares = squares + (block * block).sum(axis=0)
    return squares / len(matrix)


def raw_blocks(matrices: tuple[Array, ...], rows: Array) -> Iterator[tuple[slice, Array]]:
    """Yield (places in `rows`, (row, feature) float64 as stored) of matrices side by side."""
    n_features = sum(matrix.shape[1] for matrix in matrices)
    block_bytes = _BLOCK_BYTES if array_library(matrices[0]) is np else _BLOCK_BYTES_GPU
    size = max(block_bytes // (8 * n_features), _BLOCK_ROWS)
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        blocks = [take_rows(matrix, some).astype(float) for matrix in matrices]
        yield slice(start, start + len(some)), blocks[0] if len(blocks) == 1 else namespace(*blocks).hstack(blocks)


def take_rows(matrix: Array, rows: Array) -> Array:
    """The given rows (indices on the host); consecutive rows without a copy."""
    if int(rows[-1]) - int(rows[0]) + 1 == len(rows) and (len(rows) == 1 or (np.diff(rows) == 1).all()):
        return matrix[int(rows[0]) : int(rows[-1]) + 1]
    return matrix[array_library(matrix).asarray(rows)]


def parts(n: int, sets: Sequence[Array]) -> Parts:
    """Divide n rows into parts by the sets that they belong to; rows in no set are left out."""
    member = np.zeros((len(sets), n), dtype=bool)
    for inside, rows in zip(member, sets, strict=True):
        inside[rows] = True
    used = np.flatnonzero(member.any(axis=0))
    _, first, part_of = np.unique(np.packbits(member[:, used], axis=0), axis=1, return_index=True, return_inverse=True)
    part_of = part_of.reshape(-1)
    rows = [used[part_of == part] for part in range(len(first))]
    of_set = [np.flatnonzero(inside[used[first]]).tolist() for inside in member]
    return Parts(rows, of_set)


def added(sums: Sequence[Sums]) -> Sums:
    """The sums over the union of disjoint sets."""
    xp, (first, *others) = namespace(sums[0].total), sums
    n, total, square, low, high = first
    if others:
        total, square = total.copy(), square.copy()
    for part in others:
        n += part.n
        total += part.total
        square += part.square
        low, high = xp.minimum(low, part.low), xp.maximum(high, part.high)
    return Sums(n, total, square, low, high)


def is_far(sums: Sums) -> bool:
    """Whether the mean lies so far from the shift that a feature that varies would lose digits."""
    squares = sums.square.diagonal()
    about_mean = squares - sums.total * sums.total / sums.n
    return bool(((squares > _FAR * about_mean) & (sums.high > sums.low)).any())
