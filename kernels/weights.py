"""Regression weights on the features, which the dual solution never forms.

Source: the dual form of ridge, w = Z' (Z Z' + alpha I)^-1 y (Saunders, Gammerman & Vovk 1998).
"""

from __future__ import annotations

import numpy as np

from harness.kernels.arrays import Array
from harness.kernels.gram import Design, decompose
from harness.kernels.primal import basis_of

# Neuroids at a time, so that the float64 weights of a block stay small.
_NEUROIDS = 1024


def ridge_weights(features: Design, Y: Array, train: Array, alpha: Array, cutoff: float = 0.0) -> Array:
    """Weights on the features as given, for known penalties.

    Args:
        features: of all rows, NumPy.
        Y: (row, neuroid) responses; every neuroid has a response in all training rows.
        train: row indices.
        alpha: (neuroid,) penalty, 0 for least squares; NaN gives NaN weights.
        cutoff: least squares drops directions whose squared singular value is under this fraction of the largest.

    Returns:
        (feature, neuroid) float32 weights w: the prediction is x' w plus a constant, with x as given, whatever the
        scale of the design. 0 for features that are constant on the training rows.
    """
    if features.is_thin:
        return _in_feature_space(features, Y, train, alpha, cutoff)
    features = features.in_memory
    basis = decompose(features, train, train[:1], cutoff)
    n_features = features.X.shape[1]
    if not len(basis.lam):
        return np.full((n_features, Y.shape[1]), np.nan, dtype=np.float32)
    probes = np.concatenate([features.X, np.zeros((1, n_features)), np.ones((1, n_features))])
    scaled = features.scaled(probes, train)
    gain, Z = scaled[-1] - scaled[-2], scaled[train]
    Z -= Z.mean(axis=0)
    weights = np.empty((n_features, Y.shape[1]), dtype=np.float32)
    for start in range(0, Y.shape[1], _NEUROIDS):
        neuroids = slice(start, start + _NEUROIDS)
        y = Y[train, neuroids].astype(float)
        W = basis.U.T @ (y - y.mean(axis=0)) / (basis.lam[:, None] + alpha[neuroids])
        weights[:, neuroids] = gain[:, None] * (Z.T @ (basis.U @ W))
    return weights


def _in_feature_space(features: Design, Y: Array, train: Array, alpha: Array, cutoff: float) -> Array:
    """The same weights where rows outnumber features, which are read in blocks of rows."""
    stream, basis = basis_of(features, train, cutoff)
    weights = np.full((features.X.shape[1], Y.shape[1]), np.nan, dtype=np.float32)
    for start in range(0, Y.shape[1] if len(basis.lam) else 0, _NEUROIDS):
        neuroids = slice(start, start + _NEUROIDS)
        y = Y[train, neuroids].astype(float)
        W = basis.V.T @ stream.products(train, y - y.mean(axis=0))
        weights[:, neuroids] = basis.V @ (W * (basis.lam[:, None] / (basis.lam[:, None] + alpha[neuroids])))
    return weights
