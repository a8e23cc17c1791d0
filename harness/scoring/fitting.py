"""How features are fitted to responses: a protocol in the kernels' terms, and the pieces in which it is done.

Large work is cut into pieces, a layer and a block of neuroids each, for whoever can run them beside each other; the
scores do not depend on the cut, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol as Interface

import numpy as np
from threadpoolctl import threadpool_info

from harness.kernels.arrays import to_device
from harness.kernels.gram import Bands, Design, design, standardise
from harness.kernels.metrics import METRICS
from harness.kernels.ridge import FoldFit, Penalty, Split, beside, fit_folds, stand_ins
from harness.protocol import Protocol, Regression
from harness.records import Features, Floats, Fold, Integers, Layer
from harness.scoring import folds


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
        move = to_device if on_gpu else _stay
        if self.regression.scale == "zscore sides":
            each = [replace(self, splits=(split,)) for split in self.splits]
            designs = (design(move(sides_zscored(X, split))) for split in self.splits)
            fits = (
                one.fit_design(features, move(Y), on_gpu=on_gpu, threads=threads)
                for one, features in zip(each, designs, strict=True)
            )
            return [fit for (fit,) in fits]
        return self.fit_design(design(move(X), self.regression.scale), move(Y), on_gpu=on_gpu, threads=threads)

    def fit_design(
        self, features: Design | Bands, Y: Floats, *, on_gpu: bool = False, threads: int = 1
    ) -> list[FoldFit]:
        """`fit` to features that are prepared already, on the same device as Y."""
        standing_in = self.standing_in
        if on_gpu and standing_in:
            standing_in = {key: to_device(Z) for key, Z in standing_in.items()}
        return fit_folds(
            features,
            Y,
            self.splits,
            self.penalty,
            precision=self.regression.precision,
            threads=threads,
            metric=METRICS[self.metric],
            standing_in=standing_in,
        )


def _stay(array: Floats) -> Floats:
    return array


class Matrices(Interface):
    """A (row, feature) matrix for each layer, on the rows of the responses; made when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Floats: ...

    def width(self, index: int, /) -> int:
        """Columns of a matrix."""


class ByFold(Interface):
    """Features that depend on the fold."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in order."""

    def on(self, row_ids: Sequence[str], /) -> ByFold:
        """The same on these rows of the responses; training rows are then counted among them."""

    def of(self, train: Integers, /) -> Matrices:
        """The matrices of the fold with these training rows."""


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

    def width(self, index: int) -> int:
        """Columns of the layer's matrix."""
        return int(self.features.shapes[self.features.layers[index]][1])


# Fits every layer on every neuroid: for each layer in order, the fits of its blocks of neuroids in order.
Spread = Callable[[Fitting, Matrices, Floats], Iterator[list[list[FoldFit]]]]


def fit_locally(fitting: Fitting, layers: Matrices, Y: Floats) -> Iterator[list[list[FoldFit]]]:
    """All layers in this process, uncut, as many beside each other as BLAS has threads (one, in a worker of Ray).

    A product of a few hundred rows keeps two BLAS threads busy waiting for each other, the more where others compute.
    """
    threads = max((each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"), default=1)
    fits = beside(lambda k, threads: fitting.fit(layers[k], Y, threads=threads), len(layers), threads)
    return ([fit] for fit in fits)


def prepare(Y: Floats, groups: Sequence[str], splits: Sequence[Fold], protocol: Protocol) -> Fitting:
    """How a protocol fits (row, neuroid) Y on the folds; (row,) groups are left out together when alpha is chosen."""
    regression, penalty = protocol.regression, _penalty(protocol.regression)
    parts = tuple(Split(*fold, _inner(regression, groups, fold.train)) for fold in splits)
    standing_in = None if penalty.per_neuroid or not penalty.alphas else stand_ins(Y)
    return Fitting(parts, penalty, regression, protocol.metric, standing_in)


def _inner(regression: Regression, groups: Sequence[str], train: Integers) -> Integers | None:
    """(train,) what is left out together when alpha is chosen; None for single rows."""
    if regression.inner == "groups":
        return folds.inner_labels(groups, train)
    return folds.equal_blocks(len(train), regression.inner_folds) if regression.inner == "kfold" else None


def _penalty(regression: Regression) -> Penalty:
    """The protocol's regression in the kernel's terms."""
    if regression.kind == "ridge" and not regression.alphas:
        raise ValueError("ridge without a grid: give the protocol's regression alphas, or kind 'ols'.")
    alphas = regression.alphas if regression.kind == "ridge" else ()
    return Penalty(alphas, regression.relative, regression.per_neuroid, regression.tie, regression.cutoff)


def cut(n_neuroids: int, n_layers: int, n_workers: int) -> list[slice]:
    """Blocks of neuroids such that the pieces of all layers keep the workers busy to the end.

    A layer is decomposed anew for each of its blocks, so layers are cut only where there are fewer than twice as many
    as workers, and no block is smaller than a thousand neuroids.
    """
    n_blocks = max(1, min(-(-2 * n_workers // n_layers), n_neuroids // 1000))
    edges = np.linspace(0, n_neuroids, n_blocks + 1).astype(int)
    return [slice(int(start), int(stop)) for start, stop in pairwise(edges)]


def sides_zscored(X: Floats, split: Split) -> Floats:
    """(row, feature) float64 with training rows by their own mean and sd, test rows by theirs; 0 where constant."""
    out = X.astype(float)
    for side in (split.train, split.test):
        out[side] = standardise(out[side])
    return out


def flops(fitting: Fitting, layers: Matrices, n_neuroids: int) -> float:
    """Floating-point operations of a scoring, roughly: whether it is worth being sent somewhere."""
    n_features = max(layers.width(k) for k in range(len(layers)))
    n_rows = max(len(split.train) + len(split.test) for split in fitting.splits)
    n_train = [len(split.train) for split in fitting.splits]
    per_layer = n_rows**2 * n_features + sum(10 * n**3 + 8 * n**2 * n_neuroids for n in n_train)
    return float(len(layers) * per_layer)
