"""Features and responses -> held-out scores, one per layer, fold and neuroid.

The one place where a protocol meets the kernels: rows are joined by id, folds and inner blocks are made from the groups
of the rows, and every layer walks the same folds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from harness.kernels.ridge import FoldFit
from harness.protocol import Protocol
from harness.records import Features, Floats, Fold, Integers, Layer, LayerFit, Responses, indices_of
from harness.scoring import fitting, folds
from harness.scoring.fitting import ByFold, Fitting, Layers, Matrices, Spread, fit_locally

logger = logging.getLogger(__name__)


def score_layers(
    features: Features | ByFold, responses: Responses, protocol: Protocol, spread: Spread = fit_locally
) -> dict[Layer, LayerFit]:
    """Score every layer on every neuroid.

    Args:
        features: rows in any order; rows without a response are not used. Or features that depend on the fold.
        responses: one row per stimulus or scan; of several experiments each is fitted on its own rows.
        protocol: folds, regression.
        spread: who fits the pieces.

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
    logger.info("station=scoring layers=%d parts=%d neuroids=%d", len(joined), len(by_part), n_neuroids)
    return joined


def _score_part(
    features: Features | ByFold, responses: Responses, protocol: Protocol, spread: Spread
) -> dict[Layer, LayerFit]:
    """The layers on one experiment."""
    splits = folds.make(protocol.folds, responses.row_groups)
    how = fitting.prepare(responses.values, responses.row_groups, splits, protocol)
    if isinstance(features, Features):
        rows = indices_of(responses.row_ids, features.row_ids, "features for the rows of the responses")
        return _score(features.layers, Layers(features, rows), how, responses.values, spread)
    features = features.on(responses.row_ids)
    by_fold = [
        _score(features.layers, features.of(split.train), replace(how, splits=(split,)), responses.values, spread)
        for split in how.splits
    ]
    joined = {layer: _joined([fold[layer] for fold in by_fold]) for layer in features.layers}
    return {layer: replace(fit, n_rows=by_fold[0][layer].n_rows) for layer, fit in joined.items()}


def _score(names: Sequence[Layer], layers: Matrices, how: Fitting, Y: Floats, spread: Spread) -> dict[Layer, LayerFit]:
    """The fits of all layers on the folds of `how`."""
    fits, pieces = {}, spread(how, layers, Y)
    for k, layer in enumerate(names):
        try:
            fits[layer] = _layer_fit(next(pieces), how, Y, layers.width(k))
        except ValueError as error:
            raise ValueError(f"layer {layer}: {error}") from error
    return fits


def _widened(fit: LayerFit, part: str, neuroids: Integers, n_neuroids: int) -> LayerFit:
    """The fit of an experiment with a column for every neuroid, NaN where it was not measured in it."""

    def wide(values: Floats) -> Floats:
        if len(neuroids) == n_neuroids:
            return values
        filled = np.full((len(values), n_neuroids), np.nan)
        filled[:, neuroids] = values
        return filled

    return replace(fit, r=wide(fit.r), alpha=wide(fit.alpha), inner=wide(fit.inner), parts=(part,) * len(fit.r))


def _joined(fits: Sequence[LayerFit]) -> LayerFit:
    """The fits of one layer on other folds each (of several experiments, say), one after the other."""

    def joined(name: str) -> Floats:
        return np.concatenate([getattr(fit, name) for fit in fits])

    def mean(name: str) -> float:
        measured = [value for fit in fits if np.isfinite(value := getattr(fit, name))]
        return float(np.mean(measured)) if measured else float("nan")

    if len(fits) == 1:
        return fits[0]
    return replace(
        fits[0],
        r=joined("r"),
        alpha=joined("alpha"),
        inner=joined("inner"),
        rank=np.concatenate([fit.rank for fit in fits]),
        at_low=mean("at_low"),
        at_high=mean("at_high"),
        test_share=mean("test_share"),
        n_rows=sum(fit.n_rows for fit in fits),
        parts=tuple(part for fit in fits for part in fit.parts),
    )


def fit_layer(X: Floats, Y: Floats, groups: Sequence[str], splits: Sequence[Fold], protocol: Protocol) -> LayerFit:
    """Score one matrix of features on every fold.

    Args:
        X: (row, feature), finite.
        Y: (row, neuroid), NaN where absent.
        groups: (row,) left out together when alpha is chosen with inner="groups"; see `folds.inner_labels` for rows of
            fewer than three groups. Where each group is one row the kernel takes the cheaper path of single rows.
        splits: row indices of each fold.
        protocol: how features are mapped to responses, and how a prediction is scored; its rule of folds is not read.
    """
    how = fitting.prepare(Y, groups, splits, protocol)
    return _layer_fit([how.fit(X, Y)], how, Y, X.shape[1])


def _layer_fit(blocks: Iterable[list[FoldFit]], how: Fitting, Y: Floats, n_features: int) -> LayerFit:
    """The fits of a layer's blocks of neuroids, side by side."""
    by_fold = list(zip(*blocks, strict=True))

    def joined(name: str) -> Floats:
        return np.stack([np.concatenate([getattr(block, name) for block in fold]) for fold in by_fold])

    at_low, at_high = _at_ends(joined("place"), len(how.penalty.alphas))
    return LayerFit(
        r=joined("r"),
        alpha=joined("alpha"),
        inner=joined("inner"),
        at_low=at_low,
        at_high=at_high,
        rank=np.array([max(block.rank for block in fold) for fold in by_fold]),
        n_features=n_features,
        n_rows=int((~np.isnan(Y)).any(axis=1).sum()),
        test_share=float(np.mean([len(split.test) / len(split.train) for split in how.splits])),
        parts=("",) * len(by_fold),
    )


def _at_ends(places: Iterable[Floats], n_alphas: int) -> tuple[float, float]:
    """Share of the neuroids whose alpha is the grid's first, and its last: mean over the folds where any was measured.

    NaN without a grid, and where nothing was measured.
    """
    measured = [place[np.isfinite(place)] for place in places if np.isfinite(place).any()]
    if not measured or not n_alphas:
        return float("nan"), float("nan")
    low, high = (float(np.mean([np.mean(place == end) for place in measured])) for end in (0, n_alphas - 1))
    return low, high
