"""One outer fold: which rows train, which test, and which are left out together when alpha is chosen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harness.kernels.arrays import Array


class Split(NamedTuple):
    """One outer fold, on the host.

    Attributes:
        train, test: row indices.
        inner: (train,) whole numbers; alpha is chosen by leaving out the rows of one number at a time, None for one row
            at a time. Least squares has nothing to choose, and its inner score leaves out the same rows.
    """

    train: Array
    test: Array
    inner: Array | None = None

    @property
    def labels(self) -> Array:
        """(train,) the inner block of each training row."""
        return np.arange(len(self.train)) if self.inner is None else np.asarray(self.inner)

    def require(self, name: str, n_rows: int) -> None:
        """Raise ValueError, under this name, where the split does not fit features of so many rows."""
        train, test, inner = self
        if not len(train) or not len(test):
            raise ValueError(f"{name} has {len(train)} training and {len(test)} test rows; both sides must have rows.")
        for rows in map(np.asarray, (train, test)):
            if rows.dtype.kind not in "iu":
                raise ValueError(f"{name} names rows by {rows.dtype}; wanted whole numbers.")
            if rows.min() < 0 or rows.max() >= n_rows:
                raise ValueError(f"{name} names row {rows.max() if rows.max() >= n_rows else rows.min()} of {n_rows}.")
        if inner is not None and len(inner) != len(train):
            raise ValueError(f"{name}: {len(inner)} inner numbers for {len(train)} training rows; give one each.")
        if inner is not None and len(train) > 1 and len(set(np.asarray(inner).tolist())) == 1:
            raise ValueError(f"{name}: inner has one number for all rows; give at least two, or None for single rows.")
