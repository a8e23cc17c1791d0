"""Score features against brain responses: one held-out score per layer, fold and neuroid.

Rows are joined by id, folds and inner blocks are made from the groups of the rows, and all layers use the same folds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.kernels.ridge import FoldFit
from harness.protocol import Protocol
from harness.records import Features, Floats, Fold, Integers, Layer, LayerFit, Responses, indices_of
from harness.scoring import fitting, folds
from harness.scoring.fitting import ByFold, FitRunner, Fitting, Layers, Matrices, run_locally

logger = logging.getLogger(__name__)


def score_layers(
    features: Features | ByFold, responses: Responses, protocol: Protocol, spread: FitRunner = run_locally
) -> dict[Layer, LayerFit]:
    """Score every layer on every neuroid.

    Args:
        features: rows in any order; rows without a response are not used. Or features that depend on the fold.
        responses: one row per stimulus or scan; each experiment is fitted on its own rows.
        protocol: folds and regression.
        spread: runs the fits, in this process or on a cluster.

    Returns:
        layer -> its fit; all NaN for a layer whose features are constant.

    Raises:
        ValueError: if a row of the responses has no features (naming it), a feature is not finite (naming the layer),
            or the folds cannot be made.
    """
    n_neuroids, by_part = len(responses.neuroid_ids), []
    for part in responses.parts:
        measured, neuroids = responses.of_part(part)
        fits = _score_part(features, measured, protocol, spread)
        by_part.append({layer: _widened(fit, part, neuroids, n_neuroids) for layer, fit in fits.items()})
    joined = {layer: _joined([fits[layer] for fits in by_part]) for layer in features.layers}
    logger.info("stage=scoring layers=%d parts=%d neuroids=%d", len(joined), len(by_part), n_neuroids)
    return joined


def _score_part(
    features: Features | ByFold, responses: Responses, protocol: Protocol, spread: FitRunner
) -> dict[Layer, LayerFit]:
    """Score all layers on one experiment."""
    splits = folds.of_responses(protocol.folds, responses)
    setup = fitting.prepare(responses.values, responses.row_groups, splits, protocol, responses.row_texts)
    if isinstance(features, Features):
        rows = indices_of(responses.row_ids, features.row_ids, "features for the rows of the responses")
        return _score(features.layers, Layers(features, rows), setup, responses.values, spread)
    features = features.on(responses.row_ids)
    by_fold = [
        _score(features.layers, features.of(split.train), replace(setup, splits=(split,)), responses.values, spread)
        for split in setup.splits
    ]
    by_layer = {layer: _joined([fold[layer] for fold in by_fold]) for layer in features.layers}
    n_rows, correlation = by_fold[0][features.layers[0]].n_rows, folds.correlation(setup.splits)
    return {layer: replace(fit, n_rows=n_rows, fold_correlation=correlation) for layer, fit in by_layer.items()}


def _score(
    names: Sequence[Layer], layers: Matrices, setup: Fitting, Y: Floats, spread: FitRunner
) -> dict[Layer, LayerFit]:
    """Fit all layers on the folds of `setup`."""
    fits, pieces = {}, spread(setup, layers, Y)
    for k, layer in enumerate(names):
        try:
            fits[layer] = _layer_fit(next(pieces), setup, Y, layers.width(k))
        except ValueError as error:
            raise ValueError(f"layer {layer}: {error}") from error
    return fits


def _widened(fit: LayerFit, part: str, neuroids: Integers, n_neuroids: int) -> LayerFit:
    """Expand the fit of one experiment to all neuroids; NaN for neuroids that it did not measure."""

    def widen(values: Floats) -> Floats:
        if len(neuroids) == n_neuroids:
            return values
        filled = np.full((len(values), n_neuroids), np.nan)
        filled[:, neuroids] = values
        return filled

    return replace(fit, r=widen(fit.r), alpha=widen(fit.alpha), inner=widen(fit.inner), parts=(part,) * len(fit.r))


def _joined(fits: Sequence[LayerFit]) -> LayerFit:
    """Concatenate fits of one layer that cover different folds, for instance of several experiments."""

    def mean(name: str) -> float:
        measured = [value for fit in fits if np.isfinite(value := getattr(fit, name))]
        return float(np.mean(measured)) if measured else float("nan")

    if len(fits) == 1:
        return fits[0]
    columns: dict[str, Any] = {name: mean(name) for name in ("at_low", "at_high", "fold_correlation")}
    columns |= {name: np.concatenate([getattr(fit, name) for fit in fits]) for name in ("r", "alpha", "inner", "rank")}
    parts = tuple(part for fit in fits for part in fit.parts)
    return replace(fits[0], n_rows=sum(fit.n_rows for fit in fits), parts=parts, **columns)


def fit_layer(X: Floats, Y: Floats, groups: Sequence[str], splits: Sequence[Fold], protocol: Protocol) -> LayerFit:
    """Score one matrix of features on every fold.

    Args:
        X: (row, feature), finite.
        Y: (row, neuroid), NaN where absent.
        groups: (row,) rows of a group are left out together when alpha is chosen with inner="groups"; with fewer than
            three groups see `folds.inner_labels`. If each group is one row, the kernel uses the cheaper leave-one-out.
        splits: row indices of each fold.
        protocol: regression and metric; its fold rule is not used.
    """
    setup = fitting.prepare(Y, groups, splits, protocol)
    return _layer_fit([setup.fit(X, Y)], setup, Y, X.shape[1])


def _layer_fit(blocks: Iterable[list[FoldFit]], setup: Fitting, Y: Floats, n_features: int) -> LayerFit:
    """Concatenate the fits of a layer's blocks of neuroids."""
    by_fold = list(zip(*blocks, strict=True))

    def joined(name: str) -> Floats:
        return np.stack([np.concatenate([getattr(block, name) for block in fold]) for fold in by_fold])

    at_low, at_high = _at_ends(joined("place"), len(setup.penalty.alphas))
    rank = np.array([max(block.rank for block in fold) for fold in by_fold])
    n_rows = int((~np.isnan(Y)).any(axis=1).sum())
    r = joined("r")
    if setup.metric == "brainscore_r":
        r = _zero_without_features(r, rank, setup, Y)
    correlation = folds.correlation(setup.splits)
    return LayerFit(
        r, joined("alpha"), joined("inner"), at_low, at_high, rank, n_features, n_rows, correlation,
        parts=("",) * len(by_fold),
    )  # fmt: skip


def _zero_without_features(r: Floats, rank: Integers, setup: Fitting, Y: Floats) -> Floats:
    """(fold, neuroid) r, 0 in folds in which no feature varies: Brain-Score predicts the mean and counts it as 0."""
    has_response = ~np.isnan(Y)
    for fold in np.flatnonzero(rank == 0):
        split = setup.splits[fold]
        r[fold, has_response[split.test].any(axis=0) & (has_response[split.train].sum(axis=0) > 1)] = 0.0
    return r


def _at_ends(places: Iterable[Floats], n_alphas: int) -> tuple[float, float]:
    """Fraction of neuroids whose alpha is the first and the last of the grid, averaged over folds with a measurement.

    NaN without a grid or without any measurement.
    """
    measured = [place[np.isfinite(place)] for place in places if np.isfinite(place).any()]
    if not measured or not n_alphas:
        return float("nan"), float("nan")
    low, high = (float(np.mean([np.mean(place == end) for place in measured])) for end in (0, n_alphas - 1))
    return low, high
