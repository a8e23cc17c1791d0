"""The neuroid side: which neuroids have the same rows, their responses block by block, and what stands in for all.

Neuroids that miss the same rows are fitted together, each such pattern without the rows that it misses. What is wrong
with a response is found here, before anything is computed, and named.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harness.kernels.arrays import Array, namespace, to_host


class Pattern(NamedTuple):
    """Neuroids that have the same rows: (neuroid,) their columns; (row,) whether a row is present, on the host."""

    neuroids: Array
    present: Array

    @property
    def key(self) -> bytes:
        """Tells patterns apart, whatever other neuroids there are."""
        return bytes(np.packbits(self.present))


class Block(NamedTuple):
    """Some neuroids' responses.

    Attributes:
        neuroids: (neuroid,) their columns.
        values: (row, neuroid) responses less their mean over the rows present, in the neuroid side's float type.
        exact: (row, neuroid) the responses as given.
        rounding: (neuroid,) differences up to this are rounding.
    """

    neuroids: Array
    values: Array
    exact: Array
    rounding: Array


def patterns(Y: Array) -> list[Pattern]:
    """The patterns of rows present among the neuroids of (row, neuroid) Y.

    Raises:
        ValueError: naming the first neuroid that is infinite somewhere, or absent everywhere.
    """
    xp = namespace(Y)
    if bool(xp.isfinite(Y.sum(axis=0)).all()):  # no NaN, and no copy of Y to see it
        return [Pattern(np.arange(Y.shape[1]), np.ones(len(Y), dtype=bool))]
    missing = xp.isnan(Y)
    for what, bad in (("infinite responses", xp.isinf(Y).any(axis=0)), ("no response", missing.all(axis=0))):
        if bool(bad.any()):
            raise ValueError(f"neuroid {int(bad.argmax())} of {Y.shape[1]} (counted from 0) has {what}; leave it out.")
    missing = to_host(missing)
    of = np.unique(np.packbits(missing, axis=0), axis=1, return_inverse=True)[1].reshape(-1)
    alike = [np.flatnonzero(of == one) for one in range(of.max() + 1)]
    return [Pattern(neuroids, ~missing[:, neuroids[0]]) for neuroids in alike]


def block(Y: Array, pattern: Pattern, neuroids: Array, dtype: type) -> Block:
    """The responses of some neuroids of a pattern, in ascending order."""
    xp, first, last = namespace(Y), int(neuroids[0]), int(neuroids[-1])
    exact = Y[:, first : last + 1] if last - first + 1 == len(neuroids) else Y[:, xp.asarray(neuroids)]
    there = exact if pattern.present.all() else exact[xp.asarray(np.flatnonzero(pattern.present))]
    rounding = len(there) * float(xp.finfo(float).eps) * xp.maximum(abs(there.max(axis=0)), abs(there.min(axis=0)))
    values = (exact - there.mean(axis=0, dtype=float)).astype(dtype, copy=False)
    return Block(neuroids, values, exact, rounding.astype(dtype))


def stand_ins(Y: Array, budget_bytes: int | None = None) -> dict[bytes, Array]:
    """What the choice of one alpha for all needs to know of the responses: once for all layers, folds and cuts of Y.

    Args:
        Y: (row, neuroid) responses, NaN where absent.
        budget_bytes: memory for the pass over Y.

    Returns:
        By key of the pattern (row, at most row) float64 Z, 0 in absent rows, with Z Z' = Y Y' about the mean of the
        rows present: errors summed over neuroids depend on nothing else.
    """
    size = max(1, (budget_bytes or 2**26) // (24 * len(Y)))
    return {pattern.key: _stand_in(Y, pattern, size) for pattern in patterns(Y)}


def _stand_in(Y: Array, pattern: Pattern, size: int) -> Array:
    """Of one pattern; the responses themselves where they are few."""
    xp, rows = namespace(Y), np.flatnonzero(pattern.present)
    if len(pattern.neuroids) <= len(rows):
        found = block(Y, pattern, pattern.neuroids, np.float64).values[xp.asarray(rows)]
    else:
        square = xp.zeros((len(rows), len(rows)))
        for neuroids in np.array_split(pattern.neuroids, -(-len(pattern.neuroids) // size)):
            y = block(Y, pattern, neuroids, np.float64).values[xp.asarray(rows)]
            square += y @ y.T
        value, vectors = xp.linalg.eigh(square)
        found = vectors * xp.sqrt(value.clip(0.0))
    Z = xp.zeros((len(Y), found.shape[1]))
    Z[xp.asarray(rows)] = found
    return Z
