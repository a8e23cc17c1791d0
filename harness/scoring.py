"""Features and responses -> held-out scores, one per layer, fold and neuroid.

The one place where a protocol meets the kernels: rows are joined by id, folds and inner blocks are made from the groups
of the rows, and every layer walks the same folds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from harness import folds
from harness.records import Features, Floats, Fold, Layer, LayerFit, Responses, indices_of
from harness.spec import Protocol, Regression
from kernels import ridge
from kernels.gram import design

logger = logging.getLogger(__name__)


def score_layers(features: Features, responses: Responses, protocol: Protocol) -> dict[Layer, LayerFit]:
    """Score every layer on every neuroid.

    Args:
        features: rows in any order; rows without a response are not used.
        responses: one row per stimulus or scan.
        protocol: folds, regression.

    Returns:
        layer -> its fit; all NaN for a layer whose features are constant.

    Raises:
        ValueError: if a row of the responses has no features (naming it), a feature is not finite (naming the layer),
            or the folds cannot be made.
    """
    rows = indices_of(responses.row_ids, features.row_ids, "features for the rows of the responses")
    splits = folds.make(protocol.folds, responses.row_groups)
    fits = {}
    for layer, matrix in features.values.items():
        try:
            fits[layer] = fit_layer(matrix[rows], responses.values, responses.row_groups, splits, protocol.regression)
        except ValueError as error:
            raise ValueError(f"layer {layer}: {error}") from error
    logger.info("station=scoring layers=%d folds=%d neuroids=%d", len(fits), len(splits), responses.values.shape[1])
    return fits


def fit_layer(X: Floats, Y: Floats, groups: Sequence[str], splits: Sequence[Fold], regression: Regression) -> LayerFit:
    """Score one matrix of features on every fold.

    Args:
        X: (row, feature), finite.
        Y: (row, neuroid), NaN where absent.
        groups: (row,) left out together when alpha is chosen with inner="groups"; see `folds.inner_labels` for rows of
            fewer than three groups. Where each group is one row the kernel takes the cheaper path of single rows.
        splits: row indices of each fold.
        regression: how features are mapped to responses.
    """
    features, penalty = design(X, regression.scale), _penalty(regression)
    fits = []
    for train, test in splits:
        inner = folds.inner_labels(groups, train) if regression.inner == "groups" else None
        fits.append(ridge.fit_fold(features, Y, train, test, penalty, inner))
    return LayerFit(
        r=np.stack([fit.r for fit in fits]),
        alpha=np.stack([fit.alpha for fit in fits]),
        inner=np.stack([fit.inner for fit in fits]),
        at_low=_mean([fit.at_low for fit in fits]),
        at_high=_mean([fit.at_high for fit in fits]),
        rank=np.array([fit.rank for fit in fits]),
        n_features=X.shape[1],
        n_rows=int((~np.isnan(Y)).any(axis=1).sum()),
        test_share=float(np.mean([len(test) / len(train) for train, test in splits])),
    )


def _penalty(regression: Regression) -> ridge.Penalty:
    """The protocol's regression in the kernel's terms."""
    if regression.kind == "ridge" and not regression.alphas:
        raise ValueError("ridge without a grid: give the protocol's regression alphas, or kind 'ols'.")
    alphas = regression.alphas if regression.kind == "ridge" else ()
    return ridge.Penalty(alphas, regression.relative, regression.per_neuroid, cutoff=regression.cutoff)


def _mean(shares: list[float]) -> float:
    """Mean over the folds where anything was measured; NaN where nothing was in any."""
    measured = [share for share in shares if np.isfinite(share)]
    return float(np.mean(measured)) if measured else float("nan")
