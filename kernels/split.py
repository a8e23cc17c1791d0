"""One outer fold: training rows, test rows, and the inner blocks for choosing alpha."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.kernels.arrays import Array


class Split(NamedTuple):
    """One outer fold, on the host.

    Attributes:
        train, test: row indices.
        inner: (train,) integer block of each training row; alpha is chosen by leaving out one block at a time. None
            leaves out one row at a time. Least squares uses the same blocks for its inner score.
        gap: training rows at most this many row indices from a left-out row are left out with it, as between the outer
            folds; their own residuals count only where their block is left out.
    """

    train: Array
    test: Array
    inner: Array | None = None
    gap: int = 0

    @property
    def labels(self) -> Array:
        """(train,) inner block of each training row."""
        return np.arange(len(self.train)) if self.inner is None else np.asarray(self.inner)

    def inner_blocks(self) -> list[Array]:
        """Indices into the training rows of each inner block, in order of the labels."""
        labels = self.labels
        order = np.argsort(labels, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else []

    def gaps(self, blocks: Sequence[Array]) -> list[Array]:
        """Indices into the training rows of each block's gap, the block itself excluded.

        Args:
            blocks: indices into the training rows of each block.
        """
        gaps, rows = [], np.asarray(self.train)
        for block in blocks:
            own, order = np.isin(np.arange(len(rows)), block), np.sort(rows[block])
            after = np.searchsorted(order, rows)
            far_before = rows - order[np.maximum(after - 1, 0)] > self.gap
            far_after = order[np.minimum(after, len(order) - 1)] - rows > self.gap
            near = ~((far_before | (after == 0)) & (far_after | (after == len(order))))
            gaps.append(np.flatnonzero(near & ~own))
        return gaps

    def require(self, name: str, n_rows: int) -> None:
        """Raise ValueError, with this name, if the split does not match features with `n_rows` rows."""
        train, test, inner, gap = self
        if not len(train) or not len(test):
            raise ValueError(f"{name} has {len(train)} training and {len(test)} test rows; both sides must have rows.")
        for rows in map(np.asarray, (train, test)):
            if rows.dtype.kind not in "iu":
                raise ValueError(f"{name} has row indices of type {rows.dtype}; wanted integers.")
            if rows.min() < 0 or rows.max() >= n_rows:
                row = rows.max() if rows.max() >= n_rows else rows.min()
                raise ValueError(f"{name} has row index {row}; wanted 0 to {n_rows - 1}.")
        if gap < 0:
            raise ValueError(f"{name} has a gap of {gap} rows between inner blocks; wanted 0 or more.")
        if inner is not None and len(inner) != len(train):
            raise ValueError(f"{name}: {len(inner)} inner labels for {len(train)} training rows; give one per row.")
        if inner is not None and len(train) > 1 and len(set(np.asarray(inner).tolist())) == 1:
            raise ValueError(f"{name}: inner has a single block; give at least two, or None for single rows.")
