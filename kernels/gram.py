"""The features of one layer as inner products of rows, and a fold's training rows in the directions they span.

Rows are few and features many, so features are read once, into a Gram matrix; a fold is an index slice of it, centred
again. Always in float64: a float32 Gram matrix changed r by .24 under massive activations (a few features a thousand
times larger than the rest, as language models have).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from kernels.arrays import Array, namespace, to_host

Scale = Literal["center", "zscore"]

# Features are read in blocks of this many columns, so that their float64 copy stays small.
_COLUMNS = 2048


@dataclass(frozen=True)
class Design:
    """The features of one layer, ready for any fold.

    X: (row, feature) as stored. shared: (row, row) their Gram matrix where all folds share one, else None.
    """

    X: Array
    shared: Array | None

    def gram(self, train: Array) -> Array:
        """(row, row) float64 inner products of all rows, about any centre, on the scale of the training rows."""
        return _gram(self.X, partial(_standardise, train=train)) if self.shared is None else self.shared


class Basis(NamedTuple):
    """The training rows in the directions of their features.

    Attributes:
        U: (train, rank) eigenvectors of the centred Gram matrix C, orthogonal to the ones vector.
        lam: (rank,) its eigenvalues, ascending.
        T: (test, rank) inner products of the test rows, less the training mean, with the training rows, times U; a
            single row where the test rows do not differ but for rounding, so that no score is made of rounding.
        mean_lam: tr(C) / n, the scale of a relative alpha.
    """

    U: Array
    lam: Array
    T: Array
    mean_lam: float

    @property
    def spans(self) -> bool:
        """Whether the directions are all there are: rank = n - 1."""
        return len(self.lam) == len(self.U) - 1


def design(X: Array, scale: Scale = "center") -> Design:
    """Prepare one layer's features.

    Args:
        X: (row, feature) of any float type; the rows of all folds.
        scale: "center", or "zscore" with the mean and sd of each fold's training rows, where a feature with
            sd <= 1e-6 |mean| gets weight 0: it is constant but for rounding, and would be blown up.

    Raises:
        ValueError: naming the first column that is not finite.
    """
    xp = namespace(X)
    finite = to_host(xp.isfinite(X).all(axis=0))
    if not finite.all():
        column = int(np.argmin(finite))
        raise ValueError(f"features: column {column} of {X.shape[1]} holds NaN or infinity; compute this layer again.")
    return Design(X, _gram(X, _centre) if scale == "center" else None)


def decompose(features: Design, train: Array, test: Array, cutoff: float = 0.0) -> Basis:
    """Directions of the training rows, strongest last, and the test rows in them.

    Directions are left out where the eigenvalue is under `cutoff` times the largest, or is rounding. The ones vector is
    an eigenvector of C at 0; lifted above all others it can be dropped by its place, and what stays is orthogonal to
    it, so that intercepts need no further thought.

    Args:
        features: of all rows.
        train: row indices, at least two.
        test: row indices.
        cutoff: relative to the largest eigenvalue.
    """
    xp = namespace(features.X)
    train, test, n = xp.asarray(train), xp.asarray(test), len(train)
    gram = features.gram(train)
    K = gram[train][:, train]
    means = K.mean(axis=0)
    C = K - means - means[:, None] + means.mean()
    lift = 2 * float(xp.linalg.norm(C))
    lam, U = xp.linalg.eigh(C + lift / n)
    lam, U = lam[:-1], U[:, :-1]
    largest = float(lam[-1])
    rounding = n * xp.finfo(float).eps * max(largest, float(K.diagonal().max()))
    above = lam > max(cutoff * largest, rounding)
    U = xp.ascontiguousarray(U[:, above])
    T = (gram[test][:, train] - means) @ U
    scale = float(abs(gram[test][:, train]).max()) * max(n, features.X.shape[1])
    return Basis(U, lam[above], T[:1] if _alike(T, 10 * xp.finfo(float).eps * scale) else T, float(C.trace()) / n)


def _alike(T: Array, rounding: float) -> bool:
    """Whether all rows are equal but for rounding, as OASM's are in a passage that was not trained on."""
    return bool((T.max(axis=0) - T.min(axis=0) <= rounding).all())


def _gram(X: Array, scaled: Callable[[Array], Array]) -> Array:
    """(row, row) float64 inner products of the rows of X, scaled block by block of columns."""
    xp = namespace(X)
    gram = xp.zeros((len(X), len(X)))
    for start in range(0, X.shape[1], _COLUMNS):
        Z = scaled(X[:, start : start + _COLUMNS].astype(float))
        gram += Z @ Z.T
    return gram


def _centre(X: Array) -> Array:
    """Less the mean of each column, so that little is lost to rounding when a fold is centred again."""
    return X - X.mean(axis=0)


def _standardise(X: Array, train: Array) -> Array:
    """By mean and sd of the training rows; what is constant there gets weight 0."""
    xp = namespace(X)
    mean, sd = X[train].mean(axis=0), X[train].std(axis=0)
    varies = sd > 1e-6 * abs(mean)
    return (X - mean) * xp.where(varies, 1.0 / xp.where(varies, sd, 1.0), 0.0)
