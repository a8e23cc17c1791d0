"""Features of rows, or of the words of scans -> their principal components.

The paper reduces a layer to ten components before Wehbe's scans; the protocol EQUAL gives all models as many features.
Components are fitted on the training rows alone, so that the features of a row depend on the fold; a fold's matrix is
made when it is asked for.

Source: Toneva & Wehbe 2019 (their code fits `PCA(10)` on the training words). There the word of a TR counts by the row
before the TR's own, and words of cut scans by rows of the neighbouring run; here a word trains where the scan that it
belongs to does, and no other word does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.features.hemodynamics import Scans
from harness.records import Features, Floats, Integers, Layer, indices_of


@dataclass(frozen=True)
class Reduction:
    """The features of words, to be reduced in each fold.

    Attributes:
        words: rows are stimuli.
        rows: (word,) the row of each word, in order of presentation.
        scans: how they are carried to the rows of the responses.
        components: how many are kept; a layer of no more columns than that is left as it is.
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
        """As it is: its rows are the scans."""
        if len(row_ids) != self.scans.own.shape[0]:
            raise ValueError(f"{len(row_ids)} rows of responses and {self.scans.own.shape[0]} scans; wanted the same.")
        return self

    def of(self, train: Integers) -> ReducedLayers:
        """The layers at the scans, reduced by the words of these rows."""
        return ReducedLayers(self, self.scans.words_of(train))


@dataclass(frozen=True)
class ReducedLayers:
    """All layers, reduced by the words given, on the rows of the responses; a matrix is made when it is asked for."""

    reduction: Reduction
    train_words: Integers

    def __len__(self) -> int:
        return len(self.reduction.layers)

    def width(self, index: int) -> int:
        """Columns of the layer's matrix."""
        hidden = int(self.reduction.words.shapes[self.reduction.layers[index]][1])
        return min(hidden, self.reduction.components) * len(self.reduction.scans.delayed)

    def __getitem__(self, index: int) -> Floats:
        words = self.reduction.words.values[self.reduction.layers[index]][self.reduction.rows]
        return self.reduction.scans.carry(components(words, self.train_words, self.reduction.components))


@dataclass(frozen=True)
class RowReduction:
    """Features whose rows are those of the responses, to be reduced in each fold.

    Attributes:
        features: rows in any order.
        components: how many are kept; a layer of no more columns than that is left as it is.
        rows: (row,) the features' row of each row of the responses; None until `on` says which those are.
    """

    features: Features
    components: int
    rows: Integers | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order in which they were stored."""
        return self.features.layers

    def on(self, row_ids: Sequence[str]) -> RowReduction:
        """On these rows; ValueError names one that has no features."""
        return replace(self, rows=indices_of(row_ids, self.features.row_ids, "features for the rows of the responses"))

    def of(self, train: Integers) -> ReducedRows:
        """The layers, reduced by these rows."""
        assert self.rows is not None  # noqa: S101 - `on` comes first
        return ReducedRows(self.features, self.rows, train, self.components)


@dataclass(frozen=True)
class ReducedRows:
    """All layers, reduced by the training rows, on the rows of the responses; a matrix is made when it is asked for."""

    features: Features
    rows: Integers
    train: Integers
    components: int

    def __len__(self) -> int:
        return len(self.features.layers)

    def width(self, index: int) -> int:
        """Columns of the layer's matrix."""
        return min(int(self.features.shapes[self.features.layers[index]][1]), self.components)

    def __getitem__(self, index: int) -> Floats:
        return components(self.features.values[self.features.layers[index]][self.rows], self.train, self.components)


def components(words: Floats, train: Integers, n: int) -> Floats:
    """Project every row, or word, on the first principal components of the training ones.

    Exact (Lanczos iterations to machine precision, from a seeded start), in float64: the largest directions of a
    language model's states are far larger than the rest.

    Args:
        words: (row, hidden), finite; rows are words where they are carried to scans afterwards.
        train: the rows that the components are fitted on.
        n: how many.

    Returns:
        (row, n) float64, or the rows as they are where they have no more than n columns: a rotation of so few would
        give ridge nothing, and centring would take what a sum over words counts.

    Raises:
        ValueError: if there are no more than n training rows, or a value is not finite.
    """
    if words.shape[1] <= n:
        return words
    if len(train) <= n:
        raise ValueError(f"{len(train)} training rows for {n} components; use larger folds or fewer components.")
    from sklearn.decomposition import PCA

    values = words.astype(float)
    projected: Floats = PCA(n, svd_solver="arpack", random_state=0).fit(values[train]).transform(values)
    return projected
