"""Responses: group neuroids by missing rows, divide them into blocks, and factor them for a shared alpha.

Neuroids that miss the same rows are fitted together, without these rows. Invalid responses are rejected here, before
anything is computed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harness.kernels.arrays import Array, namespace, to_host
from harness.kernels.split import Split


class Pattern(NamedTuple):
    """Neuroids that have the same rows: (neuroid,) their columns, and (row,) whether a row is present; on the host."""

    neuroids: Array
    present: Array

    @property
    def key(self) -> bytes:
        """Identifies the pattern, independent of the other neuroids."""
        return bytes(np.packbits(self.present))

    def without_absent(self, split: Split) -> Split:
        """The fold without absent rows."""
        train, test = np.asarray(split.train), np.asarray(split.test)
        has = self.present[train]
        inner = None if split.inner is None else split.labels[has]
        return Split(train[has], test[self.present[test]], inner, split.gap)


class Block(NamedTuple):
    """Responses of a block of neuroids.

    Attributes:
        neuroids: (neuroid,) their columns.
        values: (row, neuroid) responses minus their mean over the present rows, in the float type of the neuroid side.
        exact: (row, neuroid) responses as given.
        rounding: (neuroid,) differences up to this size are rounding errors.
    """

    neuroids: Array
    values: Array
    exact: Array
    rounding: Array


def patterns(Y: Array) -> list[Pattern]:
    """Group the neuroids of (row, neuroid) Y by their missing rows.

    Raises:
        ValueError: if a neuroid has an infinite response or none at all (names the first one).
    """
    xp = namespace(Y)
    if bool(xp.isfinite(Y.sum(axis=0)).all()):  # detects NaN without a copy of Y
        return [Pattern(np.arange(Y.shape[1]), np.ones(len(Y), dtype=bool))]
    missing = xp.isnan(Y)
    for problem, affected in (("infinite responses", xp.isinf(Y).any(axis=0)), ("no response", missing.all(axis=0))):
        if bool(affected.any()):
            raise ValueError(
                f"neuroid {int(affected.argmax())} of {Y.shape[1]} (counted from 0) has {problem}; leave it out."
            )
    missing = to_host(missing)
    pattern_of = np.unique(np.packbits(missing, axis=0), axis=1, return_inverse=True)[1].reshape(-1)
    groups = [np.flatnonzero(pattern_of == pattern) for pattern in range(pattern_of.max() + 1)]
    return [Pattern(neuroids, ~missing[:, neuroids[0]]) for neuroids in groups]


def block(Y: Array, pattern: Pattern, neuroids: Array, dtype: type) -> Block:
    """Prepare the responses of some neuroids of a pattern; neuroids: ascending columns."""
    xp, first, last = namespace(Y), int(neuroids[0]), int(neuroids[-1])
    exact = Y[:, first : last + 1] if last - first + 1 == len(neuroids) else Y[:, xp.asarray(neuroids)]
    present = exact if pattern.present.all() else exact[xp.asarray(np.flatnonzero(pattern.present))]
    largest = xp.maximum(abs(present.max(axis=0)), abs(present.min(axis=0)))
    rounding = len(present) * float(xp.finfo(float).eps) * largest
    values = (exact - present.mean(axis=0, dtype=float)).astype(dtype, copy=False)
    return Block(neuroids, values, exact, rounding.astype(dtype))


def response_factors(Y: Array, budget_bytes: int | None = None) -> dict[bytes, Array]:
    """Factor Y Y', which is all that the choice of one alpha for all neuroids needs; once for all layers and folds.

    Args:
        Y: (row, neuroid) responses, NaN where absent.
        budget_bytes: memory for the pass over Y.

    Returns:
        For each pattern's key a (row, at most row) float64 Z, 0 in absent rows, with Z Z' = Y Y' for responses centred
        over the present rows. Errors summed over neuroids depend on Z Z' alone.
    """
    size = max(1, (budget_bytes or 2**26) // (24 * len(Y)))
    return {pattern.key: _factor(Y, pattern, size) for pattern in patterns(Y)}


def _factor(Y: Array, pattern: Pattern, size: int) -> Array:
    """The factor of one pattern; the responses themselves if there are no more neuroids than rows."""
    xp, rows = namespace(Y), np.flatnonzero(pattern.present)
    if len(pattern.neuroids) <= len(rows):
        factor = block(Y, pattern, pattern.neuroids, np.float64).values[xp.asarray(rows)]
    else:
        square = xp.zeros((len(rows), len(rows)))
        for neuroids in np.array_split(pattern.neuroids, -(-len(pattern.neuroids) // size)):
            y = block(Y, pattern, neuroids, np.float64).values[xp.asarray(rows)]
            square += y @ y.T
        value, vectors = xp.linalg.eigh(square)
        factor = vectors * xp.sqrt(value.clip(0.0))
    Z = xp.zeros((len(Y), factor.shape[1]))
    Z[xp.asarray(rows)] = factor
    return Z
