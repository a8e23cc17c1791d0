"""Gram matrices of features, and the eigendecomposition of a fold's training rows.

Rows are few and features many, so the features are reduced once to a Gram matrix; a fold is an index slice of it,
centred again. Always in float64: a float32 Gram matrix changed r by 0.24 under massive activations (a few features a
thousand times larger than the rest, as language models have).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np

from harness.kernels.arrays import Array, array_library, namespace, to_host

Scale = Literal["center", "zscore"]

# Features are read in blocks of this many columns, so that their float64 copy stays small.
_COLUMNS = 2048
# Whether all numbers are finite is checked in blocks of rows of this many numbers.
_NUMBERS = 2**22


@dataclass(frozen=True)
class Design:
    """The features of one layer, ready for any fold.

    Attributes:
        X: (row, feature) as stored; with fewer features than rows also a memory map, or anything else with `shape` that
            gives an array for a slice or an array of rows.
        scale: "center" or "zscore", with the mean and sd of each fold's training rows.
        shared: holds the (row, row) Gram matrix once it is computed, if all folds share one.
        lock: held while it is computed.
    """

    X: Array
    scale: Scale
    shared: list[Array] = field(default_factory=list)
    lock: AbstractContextManager[Any] = field(default_factory=Lock)

    @property
    def is_thin(self) -> bool:
        """Whether features are few enough that a decomposition in feature space is cheaper."""
        return bool(2 * self.X.shape[1] < len(self.X))

    @property
    def in_memory(self) -> Design:
        """The same with all features in one array, for matrices of rows by rows."""
        is_array = type(self.X) is np.ndarray or array_library(self.X) is not np
        return self if is_array else replace(self, X=self.X[: len(self.X)])

    def scaled(self, X: Array, train: Array) -> Array:
        """(row, feature) float64 whatever the type of X, centred and scaled by the training rows."""
        X = X.astype(float)
        return standardise(X, train) if self.scale == "zscore" else X - X[train].mean(axis=0)

    def gram(self, train: Array) -> Array:
        """(row, row) float64 inner products of all rows, about any centre, scaled by the training rows."""
        if self.scale == "zscore":
            return _gram(self.X, partial(standardise, train=train))
        with self.lock:
            if not self.shared:
                self.shared.append(_gram(self.X, _centre))
        return self.shared[0]


@dataclass(frozen=True)
class Bands:
    """Groups of features whose weighted Gram matrices are added; used like a `Design`.

    Attributes:
        designs: one per group, with the same rows.
        weights: one per group, not negative.
        grams: cache of Gram matrices by group and fold, shared between weights.
        bases: cache of decompositions by fold and cutoff, shared between responses.
        sums: cache of sums over sets of rows (kernels/streams.py) by their rows, shared between weights.
    """

    designs: tuple[Design, ...]
    weights: tuple[float, ...]
    grams: dict[tuple[int, bytes], Array]
    bases: dict[tuple[bytes, bytes, float], Basis] = field(default_factory=dict)
    sums: dict[bytes, Any] = field(default_factory=dict)

    is_thin = False

    @property
    def in_memory(self) -> Bands:
        """The same with all features in arrays, for matrices of rows by rows."""
        return replace(self, designs=tuple(design.in_memory for design in self.designs))

    @property
    def X(self) -> Array:  # noqa: N802
        """(row, feature) of the first group; gives the number of rows and the array library."""
        return self.designs[0].X

    def gram(self, train: Array) -> Array:
        """(row, row) float64 weighted sum of the groups' inner products."""
        return sum(w * self._gram(band, train) for band, w in enumerate(self.weights) if w)

    def _gram(self, band: int, train: Array) -> Array:
        group = self.designs[band]
        key = band, to_host(train).tobytes() if group.scale == "zscore" else b""
        if key not in self.grams:
            self.grams[key] = group.gram(train)
        return self.grams[key]


class Basis(NamedTuple):
    """Eigendecomposition of the training rows, and the test rows in its directions.

    Attributes:
        U: (train, rank) eigenvectors of the centred Gram matrix C, orthogonal to the ones vector.
        lam: (rank,) eigenvalues of C.
        T: (test, rank) inner products of the test rows (minus the training mean) with the training rows, times U; a
            single row if the test rows differ by rounding only, so that rounding is never scored.
        mean_lam: tr(C) / n, the scale of a relative alpha.
    """

    U: Array
    lam: Array
    T: Array
    mean_lam: float

    @property
    def spans(self) -> bool:
        """Whether the directions span all centred responses: rank = n - 1."""
        return len(self.lam) == len(self.U) - 1


def design(X: Array, scale: Scale = "center") -> Design:
    """Prepare one layer's features.

    Args:
        X: (row, feature) of any float type; the rows of all folds.
        scale: "center", or "zscore" with the mean and sd of each fold's training rows. A feature with sd <= 1e-6 |mean|
            is constant up to rounding and gets weight 0.

    Raises:
        ValueError: if a column is not finite (names the first one).
    """
    xp, n_features = array_library(X), X.shape[1]
    finite, size = xp.ones(n_features, dtype=bool), max(_NUMBERS // n_features, 1)
    for start in range(0, len(X), size):
        finite &= xp.isfinite(X[start : start + size]).all(axis=0)
    if not bool(finite.all()):
        column = int(np.argmin(to_host(finite)))
        raise ValueError(f"features: column {column} of {n_features} holds NaN or infinity; compute this layer again.")
    return Design(X, scale)


def decompose(features: Design | Bands, train: Array, test: Array, cutoff: float = 0.0) -> Basis:
    """Decompose the training rows and project the test rows.

    Directions are dropped if their eigenvalue is under `cutoff` times the largest, or within rounding of 0.

    Args:
        features: of all rows.
        train: row indices, at least two.
        test: row indices.
        cutoff: relative to the largest eigenvalue.
    """
    xp = namespace(features.X)
    train, test = xp.asarray(train), xp.asarray(test)
    if isinstance(features, Bands):
        key = to_host(train).tobytes(), to_host(test).tobytes(), cutoff
        if key not in features.bases:
            features.bases[key] = _of_rows(features, train, test, cutoff)
        return features.bases[key]
    return (_of_features if features.is_thin else _of_rows)(features, train, test, cutoff)


def _of_rows(features: Design | Bands, train: Array, test: Array, cutoff: float) -> Basis:
    """Decompose via the eigenvectors of the Gram matrix.

    The ones vector is an eigenvector with eigenvalue 0. Its eigenvalue is raised above all others, so that it comes
    last and can be dropped; the remaining directions are orthogonal to it, which takes care of intercepts.
    """
    xp, n = namespace(features.X), len(train)
    gram = features.gram(train)
    C = gram.take(train, axis=0).take(train, axis=1)
    means, size = C.mean(axis=0), float(C.diagonal().max())
    C -= means
    C -= (means - means.mean())[:, None]
    mean_lam, lift = float(C.trace()) / n, 2 * float(xp.linalg.norm(C))
    C += lift / n
    lam, U = xp.linalg.eigh(C)
    lam, U = lam[:-1], U[:, :-1]
    largest = float(lam[-1])
    rounding = n * xp.finfo(float).eps * max(largest, size)
    above = xp.flatnonzero(lam > max(cutoff * largest, rounding))
    U = U.take(above, axis=1)
    K = gram.take(test, axis=0).take(train, axis=1)
    scale = float(abs(K).max()) * max(n, features.X.shape[1])
    T = (K - means) @ U
    return Basis(U, lam[above], T[:1] if _alike(T, 10 * xp.finfo(float).eps * scale) else T, mean_lam)


def _of_features(features: Design, train: Array, test: Array, cutoff: float) -> Basis:
    """Decompose via singular vectors, for few features: n p^2 instead of n^3, without the precision loss of squaring.

    Features are centred twice, so that U is orthogonal to the ones vector even if a mean is large and a direction
    small.
    """
    xp, n = namespace(features.X), len(train)
    Z = features.scaled(features.X, train)
    Z = Z - Z[train].mean(axis=0)
    Q, R = xp.linalg.qr(Z[train])
    turned, s, directions = xp.linalg.svd(R, full_matrices=False)
    size = xp.sqrt(float((features.X[train].astype(float) ** 2).sum())) if features.scale == "center" else 0.0
    rounding = n * xp.finfo(float).eps * max(float(s[0]), float(size))
    above = s > max(cutoff**0.5 * float(s[0]), rounding)
    T = (Z[test] @ directions[above].T) * s[above]
    scale = float(abs(Z).max()) * float(s[0]) * n
    T = T[:1] if _alike(T, 10 * xp.finfo(float).eps * scale) else T
    return Basis(xp.ascontiguousarray(Q @ turned[:, above]), s[above] ** 2, T, float((s * s).sum()) / n)


def _alike(T: Array, rounding: float) -> bool:
    """Whether all rows are equal up to rounding, as OASM's are in a passage without training rows."""
    return bool((T.max(axis=0) - T.min(axis=0) <= rounding).all())


def _gram(X: Array, scaled: Callable[[Array], Array]) -> Array:
    """(row, row) float64 inner products of the rows of X; columns are scaled and added in blocks."""
    xp = namespace(X)
    gram = xp.zeros((len(X), len(X)))
    for start in range(0, X.shape[1], _COLUMNS):
        Z = scaled(X[:, start : start + _COLUMNS].astype(float))
        gram += Z @ Z.T
    return gram


def _centre(X: Array) -> Array:
    """Subtract column means, which limits rounding when a fold is centred again."""
    return X - X.mean(axis=0)


def standardise(X: Array, train: Array | None = None) -> Array:
    """Z-score columns by mean and sd of the training rows, or of all rows; constant columns become 0."""
    mean, factor = z_factors(X if train is None else X[train])
    return (X - mean) * factor


def z_factors(X: Array) -> tuple[Array, Array]:
    """(column,) means, and factors by which z-scores multiply: 1 / sd, 0 where a column is constant up to rounding."""
    xp = namespace(X)
    mean, sd = X.mean(axis=0), X.std(axis=0)
    varies = sd > 1e-6 * abs(mean)
    return mean, xp.where(varies, 1.0 / xp.where(varies, sd, 1.0), 0.0)
