"""Features and responses -> held-out scores, one per layer, fold and neuroid.

The one place where a protocol meets the kernels: rows are joined by id, folds and inner blocks are made from the groups
of the rows, and every layer walks the same folds. Large work is cut into pieces, a layer and a block of neuroids each,
for whoever can run them beside each other; the scores do not depend on the cut, but for rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from harness import folds
from harness.records import Features, Floats, Fold, Integers, Layer, LayerFit, Responses, indices_of
from harness.spec import Protocol, Regression
from kernels.arrays import to_device
from kernels.gram import design
from kernels.metrics import METRICS
from kernels.ridge import FoldFit, Penalty, Split, fit_folds, stand_ins

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitting:
    """How a matrix of features is fitted to responses, without either: small, and the same for all pieces.

    Attributes:
        splits: the folds, with inner blocks.
        penalty, regression: the protocol's regression, in the kernel's terms and its own.
        metric: a name of kernels/metrics.py.
        standing_in: what one alpha for all is chosen by, from all neuroids; None where each has its own.
    """

    splits: tuple[Split, ...]
    penalty: Penalty
    regression: Regression
    metric: str
    standing_in: dict[bytes, Floats] | None

    def fit(self, X: Floats, Y: Floats, *, on_gpu: bool = False, threads: int = 1) -> list[FoldFit]:
        """Fit (row, feature) X to (row, neuroid) Y, all neuroids or some; one for each fold."""
        if on_gpu:
            X, Y = to_device(X), to_device(Y)
        standing_in = self.standing_in
        if on_gpu and standing_in:
            standing_in = {key: to_device(Z) for key, Z in standing_in.items()}
        return fit_folds(
            design(X, self.regression.scale),
            Y,
            self.splits,
            self.penalty,
            precision=self.regression.precision,
            threads=threads,
            metric=METRICS[self.metric],
            standing_in=standing_in,
        )


@dataclass(frozen=True)
class Layers:
    """The features of all layers on the rows of the responses; a matrix is made when it is asked for."""

    features: Features
    rows: Integers

    def __len__(self) -> int:
        return len(self.features.values)

    def __getitem__(self, index: int) -> Floats:
        matrix: Floats = self.features.values[self.features.layers[index]][self.rows]
        return matrix


# Fits every layer on every neuroid: for each layer in order, the fits of its blocks of neuroids in order.
Spread = Callable[[Fitting, Layers, Floats], Iterator[list[list[FoldFit]]]]


def here(fitting: Fitting, layers: Layers, Y: Floats) -> Iterator[list[list[FoldFit]]]:
    """One layer after the other, in this process, uncut."""
    return ([fitting.fit(layers[k], Y)] for k in range(len(layers)))


def score_layers(
    features: Features, responses: Responses, protocol: Protocol, spread: Spread = here
) -> dict[Layer, LayerFit]:
    """Score every layer on every neuroid.

    Args:
        features: rows in any order; rows without a response are not used.
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


def _score_part(features: Features, responses: Responses, protocol: Protocol, spread: Spread) -> dict[Layer, LayerFit]:
    """The layers on one experiment."""
    rows = indices_of(responses.row_ids, features.row_ids, "features for the rows of the responses")
    splits = folds.make(protocol.folds, responses.row_groups)
    fitting, layers = _fitting(responses.values, responses.row_groups, splits, protocol), Layers(features, rows)
    fits, pieces = {}, spread(fitting, layers, responses.values)
    for layer in features.layers:
        try:
            fits[layer] = _layer_fit(next(pieces), fitting, responses.values, features.values[layer].shape[1])
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


def _joined(fits: list[LayerFit]) -> LayerFit:
    """The fits of one layer on all experiments: the folds of the first, then those of the next."""
    if len(fits) == 1:
        return fits[0]
    return LayerFit(
        r=np.concatenate([fit.r for fit in fits]),
        alpha=np.concatenate([fit.alpha for fit in fits]),
        inner=np.concatenate([fit.inner for fit in fits]),
        at_low=float(np.mean([fit.at_low for fit in fits])),
        at_high=float(np.mean([fit.at_high for fit in fits])),
        rank=np.concatenate([fit.rank for fit in fits]),
        n_features=fits[0].n_features,
        n_rows=sum(fit.n_rows for fit in fits),
        test_share=float(np.mean([fit.test_share for fit in fits])),
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
    fitting = _fitting(Y, groups, splits, protocol)
    return _layer_fit([fitting.fit(X, Y)], fitting, Y, X.shape[1])


def cut(n_neuroids: int, n_layers: int, n_workers: int) -> list[slice]:
    """Blocks of neuroids such that the pieces of all layers keep the workers busy to the end.

    A layer is decomposed anew for each of its blocks, so layers are cut only where there are fewer than twice as many
    as workers, and no block is smaller than a thousand neuroids.
    """
    n_blocks = max(1, min(-(-2 * n_workers // n_layers), n_neuroids // 1000))
    edges = np.linspace(0, n_neuroids, n_blocks + 1).astype(int)
    return [slice(int(start), int(stop)) for start, stop in pairwise(edges)]


def flops(fitting: Fitting, layers: Layers, n_neuroids: int) -> float:
    """Floating-point operations of a scoring, roughly: whether it is worth being sent somewhere."""
    n_features = max(matrix.shape[1] for matrix in layers.features.values.values())
    n_rows, n_train = len(layers.rows), [len(split.train) for split in fitting.splits]
    per_layer = n_rows**2 * n_features + sum(10 * n**3 + 8 * n**2 * n_neuroids for n in n_train)
    return float(len(layers) * per_layer)


def _fitting(Y: Floats, groups: Sequence[str], splits: Sequence[Fold], protocol: Protocol) -> Fitting:
    regression, penalty = protocol.regression, _penalty(protocol.regression)
    by_groups = regression.inner == "groups"
    parts = tuple(Split(*fold, folds.inner_labels(groups, fold.train) if by_groups else None) for fold in splits)
    standing_in = None if penalty.per_neuroid or not penalty.alphas else stand_ins(Y)
    return Fitting(parts, penalty, regression, protocol.metric, standing_in)


def _layer_fit(blocks: Iterable[list[FoldFit]], fitting: Fitting, Y: Floats, n_features: int) -> LayerFit:
    """The fits of a layer's blocks of neuroids, side by side."""
    by_fold = list(zip(*blocks, strict=True))

    def joined(name: str) -> Floats:
        return np.stack([np.concatenate([getattr(block, name) for block in fold]) for fold in by_fold])

    at_low, at_high = _at_ends(joined("place"), len(fitting.penalty.alphas))
    return LayerFit(
        r=joined("r"),
        alpha=joined("alpha"),
        inner=joined("inner"),
        at_low=at_low,
        at_high=at_high,
        rank=np.array([max(block.rank for block in fold) for fold in by_fold]),
        n_features=n_features,
        n_rows=int((~np.isnan(Y)).any(axis=1).sum()),
        test_share=float(np.mean([len(split.test) / len(split.train) for split in fitting.splits])),
        parts=("",) * len(by_fold),
    )


def _penalty(regression: Regression) -> Penalty:
    """The protocol's regression in the kernel's terms."""
    if regression.kind == "ridge" and not regression.alphas:
        raise ValueError("ridge without a grid: give the protocol's regression alphas, or kind 'ols'.")
    alphas = regression.alphas if regression.kind == "ridge" else ()
    return Penalty(alphas, regression.relative, regression.per_neuroid, regression.tie, regression.cutoff)


def _at_ends(places: Iterable[Floats], n_alphas: int) -> tuple[float, float]:
    """Share of the neuroids whose alpha is the grid's first, and its last: mean over the folds where any was measured.

    NaN without a grid, and where nothing was measured.
    """
    measured = [place[np.isfinite(place)] for place in places if np.isfinite(place).any()]
    if not measured or not n_alphas:
        return float("nan"), float("nan")
    low, high = (float(np.mean([np.mean(place == end) for place in measured])) for end in (0, n_alphas - 1))
    return low, high
