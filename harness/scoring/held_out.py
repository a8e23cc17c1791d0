"""Held-out predictions and weights of the chosen layer, for tests of single neuroids and to keep on request.

The fits of all layers store scores only. Here the layer chosen in each fold is fitted once more, so the cost is that of
one more layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.kernels.gram import design
from harness.kernels.ridge import HeldOut
from harness.kernels.weights import ridge_weights
from harness.protocol import Protocol
from harness.records import Features, Floats, Integers, Responses, indices_of
from harness.scoring import fitting
from harness.scoring.fitting import ByFold, CallRunner, Fitting, Layers, in_order


class HeldOutFold(NamedTuple):
    """Predictions of one fold's test rows.

    Attributes:
        part: the experiment of the fold.
        rows: (test,) rows of the responses, counted over all experiments.
        predicted: (test, neuroid) float32, minus `level`, since predictions under a strong penalty vary less than the
            rounding of their mean; NaN where nothing can be predicted.
        level: (neuroid,) mean response of the training rows; NaN where nothing can be predicted.
    """

    part: str
    rows: Integers
    predicted: Floats
    level: Floats


def predict(
    features: Features | ByFold, responses: Responses, protocol: Protocol, chosen: Integers, run: CallRunner = in_order
) -> list[HeldOutFold]:
    """Fit the layers chosen in each fold and predict its test rows.

    Args:
        features: as given to `brain_scores.score_layers`.
        responses: the recording.
        protocol: folds and regression.
        chosen: (fold, neuroid) index of the layer in `features.layers`; folds of all experiments, in order.
        run: computes the folds, in this process or divided.

    Returns:
        One record per fold, with the predictions behind the scores of `brain_scores.score_layers`.
    """
    by_fold = []
    for fold, (predicted, level) in _predictions(features, responses, protocol, chosen, run):
        wide = np.full((len(predicted), len(responses.neuroid_ids)), np.nan, dtype=np.float32)
        means = np.full(len(responses.neuroid_ids), np.nan)
        wide[:, fold.neuroids], means[fold.neuroids] = predicted, level
        by_fold.append(HeldOutFold(fold.part, fold.rows, wide, means))
    return by_fold


def _predictions(
    features: Features | ByFold, responses: Responses, protocol: Protocol, chosen: Integers, run: CallRunner
) -> Iterator[tuple[_Fold, tuple[Floats, Floats]]]:
    """Each fold with its predictions and their level."""
    found = _folds(features, responses, protocol)
    if isinstance(features, Features):
        folds = _with_matrices(list(found), chosen)
        width = max(shape[1] for shape in features.shapes.values())
        operations = sum(fold.operations(width) for fold in folds)
        yield from zip(folds, run(_Predict(folds, chosen), len(folds), operations), strict=True)
        return
    for fold, layers in zip(found, chosen, strict=True):  # principal components of one fold at a time
        yield fold, fold.predicted(layers)


@dataclass(frozen=True)
class _Predict:
    """Predicts the test rows of one fold after the other; can be sent to another process."""

    folds: Sequence[_Fold]
    chosen: Integers

    def __call__(self, k: int) -> tuple[Floats, Floats]:
        """Predictions and level of fold k."""
        return self.folds[k].predicted(self.chosen[k])


def _with_matrices(found: Sequence[_Fold], chosen: Integers) -> list[_Fold]:
    """The folds with the matrices of their chosen layers only, so that they can be sent."""
    matrices: dict[tuple[str, int], Floats] = {}
    for fold, layers in zip(found, chosen, strict=True):
        for layer in np.unique(layers[fold.neuroids]).tolist():
            if (fold.part, layer) not in matrices:
                matrices[fold.part, layer] = fold.matrix(layer)
    by_part = {fold.part: {layer: X for (part, layer), X in matrices.items() if part == fold.part} for fold in found}
    return [replace(fold, matrix=by_part[fold.part].__getitem__) for fold in found]


def as_arrays(by_fold: Sequence[HeldOutFold], responses: Responses) -> dict[str, NDArray[Any]]:
    """Predictions as arrays of one file.

    Returns:
        predicted, observed: (test row, neuroid) float32, both minus the mean of the training rows; the rows of all
        folds after another, so a row that several folds test appears once for each. level: (fold, neuroid) that mean,
        in the unit of the responses. fold, part, row_id: (test row,). neuroid_id, subject: (neuroid,).
    """
    rows = np.concatenate([fold.rows for fold in by_fold])
    sizes, level = [len(fold.rows) for fold in by_fold], np.stack([fold.level for fold in by_fold])
    return {
        "predicted": np.concatenate([fold.predicted for fold in by_fold]),
        "observed": (responses.values[rows] - np.repeat(level, sizes, axis=0)).astype(np.float32),
        "level": level,
        "fold": np.repeat(np.arange(len(by_fold)), sizes),
        "part": np.repeat([fold.part for fold in by_fold], sizes),
        "row_id": np.array(responses.row_ids)[rows],
        "neuroid_id": np.array(responses.neuroid_ids), "subject": np.array(responses.subjects),
    }  # fmt: skip


def mean_weights(features: Features | ByFold, responses: Responses, protocol: Protocol, layer: int) -> Floats:
    """Weights of one layer, mean over folds.

    Args:
        features: rows in any order.
        responses: the recording.
        protocol: folds and regression; features must not depend on the fold.
        layer: index in `features.layers`.

    Returns:
        (feature, neuroid) float32, for features as extracted: prediction = features @ weights + constant. NaN where a
        neuroid was not fitted.

    Raises:
        ValueError: if the protocol makes its features anew in each fold.
    """
    features = require_fixed_features(features, protocol)
    n_neuroids = len(responses.neuroid_ids)
    total = np.zeros((features.shapes[features.layers[layer]][1], n_neuroids), dtype=np.float32)
    n_folds = np.zeros(n_neuroids)
    for fold in _folds(features, responses, protocol):
        weights = fold.weights(layer)
        n_folds[fold.neuroids] += np.isfinite(weights[0])
        total[:, fold.neuroids] += np.nan_to_num(weights)
    mean: Floats = (total / np.where(n_folds > 0, n_folds, np.nan)).astype(np.float32)
    return mean


def require_fixed_features(features: Features | ByFold, protocol: Protocol) -> Features:
    """The features, if all folds regress on the same ones; else ValueError, since weights then have no one basis."""
    if not isinstance(features, Features) or protocol.regression.scale == "zscore sides":
        raise ValueError(
            f"weights: protocol {protocol.name!r} makes its features anew in each fold (principal components, or "
            "z-scores of the test rows); keep predictions only, or use a protocol without these."
        )
    return features


@dataclass(frozen=True)
class _Fold:
    """One fold of one experiment.

    Attributes:
        part: the experiment.
        rows: (test,) rows of the responses, counted over all experiments.
        neuroids: (neuroid,) columns that the experiment measured.
        number: of the fold in the experiment.
        setup: the fit of the experiment.
        matrix: index of a layer -> (row, feature) on the experiment's rows.
        Y: (row, neuroid) responses of the experiment.
    """

    part: str
    rows: Integers
    neuroids: Integers
    number: int
    setup: Fitting
    matrix: Callable[[int], Floats]
    Y: Floats

    def operations(self, width: int) -> float:
        """Rough number of floating-point operations for one layer of this width."""
        return fitting.flops_of_layer([self.setup.splits[self.number]], width, self.Y.shape[1])

    def predicted(self, chosen: Integers) -> tuple[Floats, Floats]:
        """Predictions of the test rows.

        Args:
            chosen: layer of each neuroid, of all experiments.

        Returns:
            (test, neuroid) float32 predictions minus the mean of the training rows, and (neuroid,) that mean.
        """
        split, chosen = self.setup.splits[self.number], chosen[self.neuroids]
        predicted = np.full((len(split.test), self.Y.shape[1]), np.nan, dtype=np.float32)
        level = np.full(self.Y.shape[1], np.nan)
        for layer in np.unique(chosen):
            for block, columns in self._blocks(self.matrix(layer), chosen == layer):
                columns &= np.isfinite(block.alpha)
                neuroids = block.neuroids[columns]
                if len(neuroids):
                    train, test = (np.isfinite(self.Y[rows, neuroids[0]]) for rows in (split.train, split.test))
                    predicted[np.ix_(test, neuroids)] = block.predicted[:, columns]
                    level[neuroids] = self.Y[np.ix_(split.train[train], neuroids)].mean(axis=0, dtype=float)
        return predicted, level

    def weights(self, layer: int) -> Floats:
        """(feature, neuroid) float32 weights."""
        X, penalty = self.matrix(layer), self.setup.penalty
        features = design(X, self.setup.scale_of_design)
        weights = np.full((X.shape[1], self.Y.shape[1]), np.nan, dtype=np.float32)
        for block, columns in self._blocks(X, np.ones(self.Y.shape[1], dtype=bool)):
            neuroids, train = block.neuroids[columns], self.setup.splits[self.number].train
            train = train[np.isfinite(self.Y[train, neuroids[0]])]
            cutoff = 0.0 if penalty.alphas else penalty.cutoff
            weights[:, neuroids] = ridge_weights(features, self.Y[:, neuroids], train, block.alpha[columns], cutoff)
        return weights

    def _blocks(self, X: Floats, wanted: NDArray[np.bool_]) -> Iterator[tuple[HeldOut, NDArray[np.bool_]]]:
        """The fits of this fold, each with its wanted neuroids; all are fitted, since they may share one alpha."""
        for block in self.setup.held_out(X, self.Y, self.number):
            columns = wanted[block.neuroids]
            if columns.any():
                yield block, columns


def _folds(features: Features | ByFold, responses: Responses, protocol: Protocol) -> Iterator[_Fold]:
    """The folds of all experiments, in the order of `LayerFit.parts`."""
    for part in responses.parts:
        measured, neuroids = responses.of_part(part)
        setup = fitting.of_experiment(measured, protocol)
        rows = np.flatnonzero(np.array(responses.row_parts) == part)
        for number, split in enumerate(setup.splits):
            matrix = _matrices(features, measured, split.train)
            yield _Fold(part, rows[split.test], neuroids, number, setup, matrix, measured.values)


def _matrices(features: Features | ByFold, responses: Responses, train: Integers) -> Callable[[int], Floats]:
    """A function from the index of a layer to its (row, feature) matrix on the rows of the responses."""
    if isinstance(features, Features):
        rows = indices_of(responses.row_ids, features.row_ids, "features for the rows of the responses")
        return Layers(features, rows).__getitem__
    return features.on(responses.row_ids).of(train).__getitem__
