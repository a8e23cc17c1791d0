"""Translate a protocol into kernel arguments, and fit features to responses in one process or in pieces.

Large fits are divided into pieces of one layer and one block of neuroids, which can run in parallel. The division
changes scores by rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple
from typing import Protocol as Interface

import numpy as np
from threadpoolctl import threadpool_info

from harness import metrics
from harness.features.hemodynamics import ScanRows
from harness.kernels.arrays import to_device
from harness.kernels.gram import Bands, Design, Scale, design, standardise
from harness.kernels.ridge import (
    FoldFit,
    HeldOut,
    Penalty,
    Split,
    fit_folds,
    in_parallel,
    predict_held_out,
    response_factors,
)
from harness.protocol import Protocol, Regression
from harness.records import Features, Floats, Fold, Integers, Layer, Responses
from harness.scoring import folds


@dataclass(frozen=True)
class Fitting:
    """Settings of a fit, without features or responses: small, and the same for all pieces.

    Attributes:
        splits: the folds, with inner blocks.
        penalty: the regression as the kernels' penalty.
        regression: the regression as in the protocol.
        metric: a name of kernels/metrics.py.
        response_factors: of all neuroids, to choose one alpha for all; None if each neuroid has its own.
    """

    splits: tuple[Split, ...]
    penalty: Penalty
    regression: Regression
    metric: str
    response_factors: dict[bytes, Floats] | None

    def fit(self, X: Floats, Y: Floats, *, on_gpu: bool = False, threads: int = 1) -> list[FoldFit]:
        """Fit (row, feature) X to (row, neuroid) Y, all neuroids or some of them; returns one fit per fold."""
        place: Callable[[Floats], Floats] = (
            (lambda array: to_device(np.asarray(array))) if on_gpu else lambda array: array
        )
        if self.regression.scale != "zscore sides":
            return self.fit_design(design(place(X), self.regression.scale), place(Y), on_gpu=on_gpu, threads=threads)
        fits = []
        for split in self.splits:
            features = design(place(sides_zscored(X, split)))
            of_fold = replace(self, splits=(split,))
            fits += of_fold.fit_design(features, place(Y), on_gpu=on_gpu, threads=threads)
        return fits

    def held_out(self, X: Floats, Y: Floats, number: int) -> Iterator[HeldOut]:
        """Predict the test rows of one fold, one block of neuroids after the other; all neuroids of Y are needed."""
        split = self.splits[number]
        X = sides_zscored(X, split) if self.regression.scale == "zscore sides" else X
        features = design(X, self.scale_of_design)
        return predict_held_out(features, Y, split, self.penalty, precision=self.regression.precision)

    @property
    def scale_of_design(self) -> Scale:
        """How the kernels scale the features."""
        return "center" if self.regression.scale == "zscore sides" else self.regression.scale

    def fit_design(
        self, features: Design | Bands, Y: Floats, *, on_gpu: bool = False, threads: int = 1
    ) -> list[FoldFit]:
        """`fit` for prepared features on the same device as Y."""
        factors = self.response_factors
        if on_gpu and factors:
            factors = {key: to_device(Z) for key, Z in factors.items()}
        return fit_folds(
            features, Y, self.splits, self.penalty, precision=self.regression.precision, threads=threads,
            metric=metrics.find(self.metric), factors=factors,
        )  # fmt: skip


class Matrices(Interface):
    """A (row, feature) matrix per layer, on the rows of the responses; computed on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Floats: ...

    def width(self, index: int, /) -> int:
        """Number of columns of a matrix."""


class ByFold(Interface):
    """Features that depend on the fold."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in order."""

    def on(self, row_ids: Sequence[str], /) -> ByFold:
        """Align to these rows of the responses; the training rows given to `of` are indices into them."""

    def of(self, train: Integers, /) -> Matrices:
        """The feature matrices for the fold with these training rows."""


@dataclass(frozen=True)
class Layers:
    """The features of all layers on the rows of the responses; matrices are loaded on access."""

    features: Features
    rows: Integers

    def __len__(self) -> int:
        return len(self.features.values)

    def __getitem__(self, index: int) -> Floats:
        matrix: Floats = on_rows(self.features.values[self.features.layers[index]], self.rows)
        return matrix

    def width(self, index: int) -> int:
        """Number of columns of the layer's matrix."""
        return int(self.features.shapes[self.features.layers[index]][1])


def on_rows(matrix: Any, rows: Integers) -> Any:
    """The given rows of a matrix, in this order; still computed when they are read, if the matrix is."""
    return matrix.at(rows) if isinstance(matrix, ScanRows) else matrix[rows]


# Fits every layer to every neuroid; yields, per layer in order, the fits of its blocks of neuroids in order.
FitRunner = Callable[[Fitting, Matrices, Floats], Iterator[list[list[FoldFit]]]]


def run_locally(fitting: Fitting, layers: Matrices, Y: Floats) -> Iterator[list[list[FoldFit]]]:
    """Fit all layers in this process, undivided, in as many parallel threads as BLAS has (one in a Ray worker).

    With matrix products of only a few hundred rows, two BLAS threads mostly wait for each other, more so under load.
    """
    threads = max((info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"), default=1)
    fits = in_parallel(lambda k, threads: fitting.fit(layers[k], Y, threads=threads), len(layers), threads)
    return ([fit] for fit in fits)


# Runs a task for all folds and all neuroids of (row, neuroid) Y, or for parts of them, given its number of operations;
# the results are joined.
BlockRunner = Callable[["BlockTask", Floats, float], Floats]


class BlockTask(Interface):
    """A computation in which neither folds nor neuroids depend on each other; it can be sent to another process."""

    @property
    def n_folds(self) -> int:
        """Number of folds."""

    def of_folds(self, which: slice, /) -> BlockTask:
        """The computation for some folds."""

    def n_bytes(self, n_neuroids: int, /) -> float:
        """Memory that it takes for this number of neuroids, beside the data."""

    def __call__(self, Y: Floats, /, *, on_gpu: bool = False) -> Floats:
        """(..., fold, neuroid) result for (row, neuroid) Y."""


def at_once(task: BlockTask, Y: Floats, _: float) -> Floats:
    """Run a task for all folds and neuroids, in this process."""
    return task(Y)


# Yields `call(k)` for k < n in order, given the number of operations of all calls.
CallRunner = Callable[[Callable[[int], Any], int, float], Iterator[Any]]


def in_order(call: Callable[[int], Any], n: int, _: float) -> Iterator[Any]:
    """Make the calls one after the other, in this process."""
    return map(call, range(n))


# Computations of fewer operations are not divided: starting the pieces would take longer.
LEAST_DIVIDED = 3e11


class Spread(NamedTuple):
    """How the fits of a score are executed: of all layers, of unique variance, and of the predictions of each fold."""

    layers: FitRunner = run_locally
    blocks: BlockRunner = at_once
    calls: CallRunner = in_order


HERE = Spread()


def of_experiment(responses: Responses, protocol: Protocol) -> Fitting:
    """The protocol's fit of one experiment: its folds, inner blocks and penalty; errors as in `folds.make`."""
    splits = folds.of_responses(protocol.folds, responses)
    return prepare(responses.values, responses.row_groups, splits, protocol, responses.row_texts)


def prepare(
    Y: Floats, groups: Sequence[str], splits: Sequence[Fold], protocol: Protocol, texts: Sequence[str] = ()
) -> Fitting:
    """Prepare the protocol's fit of (row, neuroid) Y.

    (row,) groups are left out together when alpha is chosen; (row,) texts are labels as in `folds.make`.
    """
    regression, penalty = protocol.regression, _penalty(protocol.regression)
    folds_with_inner = tuple(Split(*fold, *inner_of(protocol, groups, fold.train, texts)) for fold in splits)
    factors = None if penalty.per_neuroid or not penalty.alphas else response_factors(Y)
    return Fitting(folds_with_inner, penalty, regression, protocol.metric, factors)


def inner_of(
    protocol: Protocol, groups: Sequence[str], train: Integers, texts: Sequence[str]
) -> tuple[Integers | None, int]:
    """(train,) inner block of each training row, left out together when alpha is chosen, and the gap around it.

    Blocks are None for single rows.
    """
    regression = protocol.regression
    if regression.inner == "groups":
        return folds.inner_blocks(protocol.folds, groups, train, texts)
    return (folds.equal_blocks(len(train), regression.inner_folds) if regression.inner == "kfold" else None), 0


def _penalty(regression: Regression) -> Penalty:
    """The protocol's regression as the kernels' penalty."""
    if regression.kind == "ridge" and not regression.alphas:
        raise ValueError("ridge without a grid of alphas: set the regression's alphas, or its kind to 'ols'.")
    alphas = regression.alphas if regression.kind == "ridge" else ()
    return Penalty(alphas, regression.relative, regression.per_neuroid, regression.tie, regression.cutoff)


_FEWEST_NEUROIDS = 1_000  # in a block


def cut(n_neuroids: int, n_layers: int, n_workers: int) -> list[slice]:
    """Divide neuroids into blocks, so that the pieces of all layers keep all workers busy.

    Each block repeats the decomposition of its layer, so neuroids are divided only if there are fewer than two layers
    per worker, and into blocks of at least _FEWEST_NEUROIDS.
    """
    return _even(n_neuroids, min(-(-2 * n_workers // n_layers), n_neuroids // _FEWEST_NEUROIDS))


def cut_folds(n_folds: int, n_neuroids: int, n_workers: int) -> tuple[list[slice], list[slice]]:
    """Divide folds among workers, and neuroids if there are more workers than folds.

    Most of the work on the features belongs to one fold, and each block of neuroids repeats it.
    """
    n_parts = min(n_folds, n_workers)
    return _even(n_folds, n_parts), _even(n_neuroids, min(n_workers // n_parts, n_neuroids // _FEWEST_NEUROIDS))


def _even(n: int, n_slices: int) -> list[slice]:
    """Divide n things into this number of slices, at least one."""
    edges = np.linspace(0, n, max(1, n_slices) + 1).astype(int)
    return [slice(int(start), int(stop)) for start, stop in pairwise(edges)]


def sides_zscored(X: Floats, split: Split) -> Floats:
    """(row, feature) float64, training and test rows each z-scored by their own mean and sd; 0 where constant."""
    out = np.asarray(X, dtype=float).copy()
    for side in (split.train, split.test):
        out[side] = standardise(out[side])
    return out


def flops(fitting: Fitting, layers: Matrices, n_neuroids: int) -> float:
    """Rough number of floating-point operations, to decide whether a fit is worth distributing."""
    n_features = max(layers.width(k) for k in range(len(layers)))
    return len(layers) * flops_of_layer(fitting.splits, n_features, n_neuroids)


def flops_of_layer(splits: Sequence[Split | Fold], n_features: int, n_neuroids: int) -> float:
    """`flops` of one layer."""
    n_rows = max(len(split.train) + len(split.test) for split in splits)
    total = float(n_rows * min(n_rows, n_features) * n_features)
    for split in splits:
        side = min(len(split.train), n_features)  # of the matrix that is decomposed
        total += 10 * side**3 + 8 * len(split.train) * side * n_neuroids
    return total
