"""Reduce features of rows, or of the words of scans, to principal components.

The paper reduces layers to 10 components for Wehbe2014; the protocol EQUAL gives all models the same number of
features. Components are fitted on the training rows only, so features depend on the fold; a fold's matrix is computed
on access.

Source: Toneva & Wehbe 2019, whose code fits `PCA(10)` on the training words. Their code assigns the words of a TR to
the row before, and words of cut scans to rows of the neighbouring run. Here a word is a training word if and only if
its scan is a training row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.features.hemodynamics import Scans
from harness.records import Features, Floats, Integers, Layer, indices_of


@dataclass(frozen=True)
class Reduction:
    """Features of words, to be reduced in each fold and converted to scans.

    Attributes:
        words: rows are stimuli.
        rows: (word,) feature row of each word, in order of presentation.
        scans: assignment of words to the rows of the responses.
        components: number of components; a layer with no more columns than that is not reduced.
    """

    words: Features
    rows: Integers
    scans: Scans
    components: int

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order in which they were stored."""
        return self.words.layers

    def on(self, row_ids: Sequence[str]) -> Reduction:
        """Return self, since the rows are the scans already; ValueError if their number differs."""
        if len(row_ids) != self.scans.own.shape[0]:
            raise ValueError(f"{len(row_ids)} rows of responses and {self.scans.own.shape[0]} scans; wanted the same.")
        return self

    def of(self, train: Integers) -> ReducedLayers:
        """The layers at the scans, with components fitted on the words of these rows."""
        return ReducedLayers(self.words, self.rows, self.scans.words_of(train), self.components, self.scans)


@dataclass(frozen=True)
class RowReduction:
    """Features whose rows are those of the responses, to be reduced in each fold.

    Attributes:
        features: rows in any order.
        components: number of components; a layer with no more columns than that is not reduced.
        rows: (row,) feature row of each row of the responses; None before `on` was called.
    """

    features: Features
    components: int
    rows: Integers | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order in which they were stored."""
        return self.features.layers

    def on(self, row_ids: Sequence[str]) -> RowReduction:
        """Align to these rows; ValueError names a row without features."""
        return replace(self, rows=indices_of(row_ids, self.features.row_ids, "features for the rows of the responses"))

    def of(self, train: Integers) -> ReducedLayers:
        """The layers, with components fitted on these rows."""
        assert self.rows is not None  # noqa: S101 - `on` must be called first
        return ReducedLayers(self.features, self.rows, train, self.components)


@dataclass(frozen=True)
class ReducedLayers:
    """All layers on the rows of the responses, with components fitted on some rows; matrices are computed on access.

    Attributes:
        features: rows in any order; of words if there are scans.
        rows: feature row of each row (or word).
        train: rows (or words) on which the components are fitted.
        components: number of components.
        scans: converts words to scans; None if the rows are those of the responses.
    """

    features: Features
    rows: Integers
    train: Integers
    components: int
    scans: Scans | None = None

    def __len__(self) -> int:
        return len(self.features.layers)

    def width(self, index: int) -> int:
        """Columns of the layer's matrix."""
        width = min(int(self.features.shapes[self.features.layers[index]][1]), self.components)
        return width * len(self.scans.delayed) if self.scans else width

    def __getitem__(self, index: int) -> Floats:
        rows = self.features.values[self.features.layers[index]][self.rows]
        reduced = components(rows, self.train, self.components)
        return self.scans.carry(reduced) if self.scans else reduced


def feasible(wanted: int, training: Sequence[Integers]) -> int:
    """Number of components for every source of a recording: `wanted`, or one less than the rows of the smallest fold.

    Args:
        wanted: the protocol's number.
        training: the rows (or words) on which the components of each fold are fitted.

    Raises:
        ValueError: if a fold has fewer than two.
    """
    fewest = min(len(rows) for rows in training)
    if fewest < 2:
        raise ValueError(f"principal components of {fewest} training rows; wanted at least two: use fewer folds.")
    return min(wanted, fewest - 1)


def components(words: Floats, train: Integers, n: int) -> Floats:
    """Project all rows on the first principal components of the training rows.

    Exact (Lanczos iterations to machine precision, with a seeded start) and in float64, since the largest directions of
    a language model's hidden states are far larger than the rest.

    Args:
        words: (row, hidden), finite; rows are words if they are converted to scans afterwards.
        train: rows on which the components are fitted.
        n: number of components.

    Returns:
        (row, n) float64, or `words` unchanged if it has no more than n columns: a rotation does not change ridge, and
        centring would remove the number of words from sums over words. Zeros if all training rows are the same, as are
        the embeddings of a last token that is always a full stop.

    Raises:
        ValueError: if there are no more than n training rows, or a value is not finite.
    """
    if words.shape[1] <= n:
        return words
    if len(train) <= n:
        raise ValueError(f"{len(train)} training rows for {n} components; use larger folds or fewer components.")
    from sklearn.decomposition import PCA

    values = words.astype(float)
    if (values[train] == values[train[0]]).all():
        return np.zeros((len(values), n))
    projected: Floats = PCA(n, svd_solver="arpack", random_state=0).fit(values[train]).transform(values)
    return projected
