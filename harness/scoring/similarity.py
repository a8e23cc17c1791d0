"""Similarity of features and responses without a fit, layer by layer: RSA and linear CKA.

Which pairs of rows are compared depends on how the protocol chooses the layer. "max" (PAPER): all pairs within 90 % of
the rows, ten random draws, as Brain-Score's metrics `rdm` and `cka`. "nested" (STRICT): in each fold the pairs of a
test and a training row, so that no pair is of one group, one text, or neighbours in time.

Method: harness/scoring/README.md#rsa-and-cka.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.kernels.pairs import (
    CrossProducts,
    SortedPairs,
    cross_products,
    gram,
    squared_products,
    standard_products,
    standard_ranks,
)
from harness.kernels.similarity import about_mean, dissimilarities, rounding_of
from harness.protocol import FoldRule, Protocol
from harness.records import Features, Floats, Fold, Integers, Responses, indices_of
from harness.scoring import folds
from harness.scoring.fitting import Layers

T = TypeVar("T")
Metric = Literal["rsa", "cka"]
METRICS: tuple[Metric, ...] = ("rsa", "cka")
POOLED = ""  # the neuroids of all subjects together
# Brain-Score's metrics `rdm` and `cka` compare the 90 % of the rows that ten random draws select.
N_DRAWS, DRAWN = 10, 0.9
DRAWS = FoldRule("shuffled", n=N_DRAWS, test_fraction=DRAWN, seed=1)
# Above this, pairs of rows are not held in memory: RSA is left out, and CKA is computed from cross-products of columns.
MOST_ROWS = 2_000
# Above MOST_ROWS rows CKA costs rows x neuroids x neuroids, and is left out for more neuroids than this.
MOST_NEUROIDS = 20_000
FEWEST_COLUMNS = 3  # the correlation of two rows over two columns is 1 or -1
_FIFTHS = 5
_MOST_BYTES = 256 * 2**20
# Vectors of responses are the same for all models: a process keeps those up to this size, of a few recordings.
_KEPT_BYTES, _N_KEPT = 64 * 2**20, 4


class Recorded(NamedTuple):
    """Responses that are compared as one matrix.

    Attributes:
        subject: one subject, or POOLED.
        rows: the rows of the experiment in which the subject has a response.
        columns: its neuroids; those that lack a response in one of these rows are left out.
        note: why nothing can be compared; "" otherwise.
    """

    subject: str
    rows: Integers
    columns: Integers
    note: str


class Similarities(NamedTuple):
    """Similarities of all layers with the responses of one target, for all folds of its experiments.

    Attributes:
        subjects: POOLED under "max", and the subjects.
        values: (layer, fold, subject); NaN where nothing can be compared.
        inner: (layer, fold, subject) over pairs of training rows, by which "nested" chooses the layer; NaN under "max".
        between: (fold, subject, subject) similarity of the responses of two subjects over the same pairs.
        parts: (fold,) the experiment of each fold.
        correlation: of two folds without any effect: the fraction of pairs that they share.
        n_rows, n_neuroids: (experiment, subject) rows and neuroids compared.
        notes: (experiment, subject) why nothing was compared; "" otherwise.
    """

    subjects: tuple[str, ...]
    values: Floats
    inner: Floats
    between: Floats
    parts: tuple[str, ...]
    correlation: float
    n_rows: Integers
    n_neuroids: Integers
    notes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Pairs:
    """The pairs of rows that are compared in each fold of an experiment.

    Attributes:
        folds: (training, test) rows; under "max" both are the rows of a draw, all of whose pairs count.
        separated: per fold, the other fold that tests each training row: pairs of training rows that other folds
            separate choose the layer. With two folds, a fifth of the training rows. () under "max".
    """

    folds: tuple[Fold, ...]
    separated: tuple[Integers, ...] = ()

    @property
    def are_held_out(self) -> bool:
        """Whether each pair has one test and one training row."""
        return bool(self.separated)

    def on(self, rows: Integers, n_rows: int) -> Pairs:
        """The pairs of these rows only, as indices into `rows`; `n_rows` is the number of all rows."""
        place = np.full(n_rows, -1)
        place[rows] = np.arange(len(rows))
        restricted = [Fold(*(place[side][place[side] >= 0] for side in fold)) for fold in self.folds]
        separated = zip(self.separated, self.folds, strict=False)
        return Pairs(tuple(restricted), tuple(blocks[place[fold.train] >= 0] for blocks, fold in separated))

    def of(self, chosen: Integers) -> Pairs:
        """The pairs of some folds."""
        separated = tuple(self.separated[k] for k in chosen) if self.are_held_out else ()
        return Pairs(tuple(self.folds[k] for k in chosen), separated)

    @property
    def correlation(self) -> float:
        """Mean over two folds of the fraction of pairs that they share."""
        if self.are_held_out:
            return folds.correlation(self.folds)
        shared = [
            math.comb(len(np.intersect1d(one.test, other.test)), 2) / math.comb(len(one.test), 2)
            for k, one in enumerate(self.folds) for other in self.folds[:k]
        ]  # fmt: skip
        return float(np.mean(shared))


def of_experiment(protocol: Protocol, responses: Responses) -> Pairs:
    """The pairs of one experiment; errors as in `folds.make`."""
    if protocol.layer_choice == "nested":
        splits, tested_in = folds.of_responses(protocol.folds, responses), np.zeros(len(responses.row_ids), np.int64)
        for k, fold in enumerate(splits):
            tested_in[fold.test] = k
        others = [tested_in[fold.train] for fold in splits]
        fifths = [folds.equal_blocks(len(other), _FIFTHS) for other in others]
        return Pairs(tuple(splits), tuple(others if len(splits) > 2 else fifths))
    draws = folds.of_responses(DRAWS, responses)
    return Pairs(tuple(Fold(np.sort(draw.test), np.sort(draw.test)) for draw in draws))


def compare(
    features: Features, responses: Responses, protocol: Protocol, neuroids: Integers, metric: Metric
) -> Similarities:
    """Compare every layer with the responses of each subject.

    Args:
        features: rows in any order; rows without a response are not used.
        responses: the recording; experiments are compared on their own rows.
        protocol: its folds and choice of the layer.
        neuroids: the target.
        metric: "rsa" or "cka".

    Raises:
        ValueError: if a row of the responses has no features (naming it), or the folds cannot be made.
    """
    is_pooled = protocol.layer_choice != "nested"
    names = tuple(dict.fromkeys(responses.subjects[neuroid] for neuroid in neuroids))
    subjects = (POOLED, *names) if is_pooled else names
    by_part, parts, correlations = [], [], []
    for part in responses.parts:
        measured, columns = responses.of_part(part)
        own = measured.of(np.arange(len(measured.row_ids)), np.flatnonzero(np.isin(columns, neuroids)))
        pairs = of_experiment(protocol, measured)
        by_part.append(_of_part(features, own, pairs, subjects, metric))
        parts += [part] * len(pairs.folds)
        correlations.append(pairs.correlation)
    values, inner = (np.concatenate([getattr(one, name) for one in by_part], axis=1) for name in ("values", "inner"))
    n_rows, n_neuroids = (np.concatenate([getattr(one, name) for one in by_part]) for name in ("n_rows", "n_neuroids"))
    between = np.concatenate([one.between for one in by_part])
    return Similarities(
        subjects, values, inner, between, tuple(parts), float(np.mean(correlations)), n_rows, n_neuroids,
        tuple(one.notes[0] for one in by_part),
    )  # fmt: skip


def _of_part(
    features: Features, responses: Responses, pairs: Pairs, subjects: Sequence[str], metric: Metric
) -> Similarities:
    """Compare on the rows of one experiment; subjects with the same rows are compared together."""
    n_folds, layers = len(pairs.folds), features.layers
    values, inner = np.full((2, len(layers), n_folds, len(subjects)), np.nan)
    between = np.full((n_folds, len(subjects), len(subjects)), np.nan)
    recorded = [_recorded(responses, subject, metric) for subject in subjects]
    rows_of_features = indices_of(responses.row_ids, features.row_ids, "features for the rows of the responses")
    for members in _with_equal_rows(recorded):
        rows = recorded[members[0]].rows
        alike = _of_rows(
            Layers(features, rows_of_features[rows]), responses.values[rows], [recorded[k].columns for k in members],
            pairs.on(rows, len(responses.row_ids)), metric,
        )  # fmt: skip
        values[:, :, members], inner[:, :, members] = alike.values, alike.inner
        between[np.ix_(np.arange(n_folds), np.array(members), np.array(members))] = alike.between
    n_rows, n_neuroids = (
        np.array([[0 if one.note else len(compared(one)) for one in recorded]])
        for compared in (attrgetter("rows"), attrgetter("columns"))
    )
    lacking = np.isnan(values).all(axis=(0, 1))
    notes = [one.note or (_note_on_features(features, metric) if lacking[k] else "") for k, one in enumerate(recorded)]
    return Similarities(tuple(subjects), values, inner, between, (), 0.0, n_rows, n_neuroids, (tuple(notes),))


def _note_on_features(features: Features, metric: Metric) -> str:
    """Why features without a value cannot be compared."""
    widest = max(shape[1] for shape in features.shapes.values())
    if metric == "rsa" and widest < FEWEST_COLUMNS:
        return f"{widest} features: dissimilarities are correlations over at least {FEWEST_COLUMNS}"
    return "no pairs of rows to compare, or features that do not vary over them"


def _recorded(responses: Responses, subject: str, metric: Metric) -> Recorded:
    """The responses of one subject, or of all."""
    own = np.flatnonzero([subject in (POOLED, name) for name in responses.subjects])
    values = responses.values[:, own]
    rows = np.flatnonzero(np.isfinite(values).any(axis=1))
    complete = np.isfinite(values[rows]).all(axis=0)
    columns = own[complete]
    if metric == "rsa" and len(columns) >= FEWEST_COLUMNS:  # the correlation with a constant row is not defined
        values = values[rows][:, complete].astype(float)
        rows = rows[values.max(axis=1) > values.min(axis=1)]
    return Recorded(subject, rows, columns, _note(len(rows), len(columns), bool(len(own)), metric))


def _note(n_rows: int, n_neuroids: int, is_measured: bool, metric: Metric) -> str:
    """Why a subject's responses cannot be compared; "" if they can."""
    if not is_measured:
        return "not measured in this experiment"
    if not n_neuroids:
        return "no neuroid has a response in every row of the subject"
    if metric == "rsa" and n_neuroids < FEWEST_COLUMNS:
        return f"{n_neuroids} neuroids: dissimilarities are correlations over at least {FEWEST_COLUMNS}"
    if metric == "rsa" and n_rows > MOST_ROWS:
        return f"{n_rows:,} rows: RSA holds all pairs of rows in memory and is left out above {MOST_ROWS:,} rows"
    if n_rows > MOST_ROWS and n_neuroids > MOST_NEUROIDS:
        return f"{n_neuroids:,} neuroids: CKA of over {MOST_ROWS:,} rows is left out above {MOST_NEUROIDS:,} neuroids"
    return ""


def _with_equal_rows(recorded: Sequence[Recorded]) -> list[list[int]]:
    """Indices of those that can be compared, grouped by their rows."""
    groups: dict[bytes, list[int]] = {}
    for k, one in enumerate(recorded):
        if not one.note:
            groups.setdefault(one.rows.tobytes(), []).append(k)
    return list(groups.values())


class _Alike(NamedTuple):
    """As in `Similarities`, for subjects with the same rows in one experiment."""

    values: Floats
    inner: Floats
    between: Floats


def _of_rows(layers: Layers, Y: Floats, subjects: Sequence[Integers], pairs: Pairs, metric: Metric) -> _Alike:
    """Compare every layer with (row, neuroid) Y of several subjects, given their columns."""
    n_rows, n_folds, n = len(layers.rows), len(pairs.folds), len(subjects)
    values, inner = np.full((2, len(layers), n_folds, n), np.nan)
    result = _Alike(values, inner, np.full((n_folds, n, n), np.nan))
    if n_rows > MOST_ROWS:
        _from_columns(layers, Y, subjects, pairs, result)
        return result
    recorded = [Y[:, columns].astype(float) for columns in subjects]
    for chosen in _in_memory(pairs, n):
        some = pairs.of(chosen)
        whole = theirs = _of_all_rows(recorded, some, metric)
        result.between[chosen] = [vectors @ vectors.T for vectors in whole.outer]
        usable_before = np.ones(n_rows, dtype=bool)
        for k in range(len(layers)):
            if metric == "rsa" and layers.width(k) < FEWEST_COLUMNS:
                continue
            matrix, rounding, usable = _of_pairs(np.asarray(layers[k]), metric)
            kept = np.flatnonzero(usable)
            own = some.on(kept, n_rows)
            if (usable != usable_before).any():  # the features of some rows may be constant, not the same in all layers
                theirs = whole if usable.all() else _of_responses(recorded, kept, own, metric)
                usable_before = usable
            ours = _standardised(matrix[np.ix_(kept, kept)], rounding, own, metric)
            values[k, chosen] = [vectors @ vector for vectors, vector in zip(theirs.outer, ours.outer, strict=True)]
            inner[k, chosen] = [vectors @ vector for vectors, vector in zip(theirs.inner, ours.inner, strict=True)]
    inner[np.isnan(values)] = np.nan
    return result


class _Vectors(NamedTuple):
    """Per fold, the standardised values of its pairs, and of the pairs of training rows that other folds separate.

    The product of two such vectors is the similarity of their matrices.
    """

    outer: list[Floats]
    inner: list[Floats]


_kept: OrderedDict[bytes, _Vectors] = OrderedDict()


def _of_all_rows(recorded: Sequence[Floats], pairs: Pairs, metric: Metric) -> _Vectors:
    """`_of_responses` of all rows, or what this process has kept of the same responses, pairs and metric."""
    key = _hash(recorded, pairs, metric)
    vectors = _kept.pop(key, None) or _of_responses(recorded, np.arange(len(recorded[0])), pairs, metric)
    if sum(values.nbytes for values in (*vectors.outer, *vectors.inner)) <= _KEPT_BYTES:
        _keep(_kept, key, vectors)
    return vectors


def _keep(kept: OrderedDict[bytes, T], key: bytes, value: T) -> None:
    """Keep a value as the newest, and drop the oldest of too many."""
    kept[key] = value
    if len(kept) > _N_KEPT:
        kept.popitem(last=False)


def _hash(recorded: Sequence[NDArray[Any]], pairs: Pairs, metric: Metric) -> bytes:
    """Hash of all that similarities of responses depend on."""
    hashed = hashlib.blake2b(metric.encode())
    for array in (*recorded, *(side for fold in pairs.folds for side in fold), *pairs.separated):
        hashed.update(repr((array.shape, array.dtype.str)).encode())
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.digest()


def _of_responses(recorded: Sequence[Floats], rows: Integers, pairs: Pairs, metric: Metric) -> _Vectors:
    """Per fold, (subject, pair) standardised values of the responses of some rows."""
    vectors = [_standardised(*_of_pairs(values[rows], metric)[:2], pairs, metric) for values in recorded]
    outer, inner = (
        [np.stack(of_fold) for of_fold in zip(*(getattr(one, name) for one in vectors), strict=True)]
        for name in _Vectors._fields
    )
    return _Vectors(outer, inner)


def _in_memory(pairs: Pairs, n_subjects: int) -> list[Integers]:
    """Divide the folds into parts whose pairs fit into memory for all subjects."""
    sizes = [len(fold.train) * len(fold.test) + len(fold.train) ** 2 // 2 for fold in pairs.folds]
    n_parts = math.ceil(8 * n_subjects * sum(sizes) / _MOST_BYTES)
    return np.array_split(np.arange(len(pairs.folds)), min(n_parts, len(pairs.folds)))


def _of_pairs(values: Floats, metric: Metric) -> tuple[Floats, float, NDArray[np.bool_]]:
    """(row, row) values of all pairs of rows, their rounding, and (row,) whether the row has any."""
    if metric == "cka":
        return gram(values), 0.0, np.ones(len(values), dtype=bool)
    matrix = dissimilarities(values)
    return matrix, rounding_of(values), ~np.isnan(matrix.diagonal())


def _standardised(matrix: Floats, rounding: float, pairs: Pairs, metric: Metric) -> _Vectors:
    """Select and standardise the compared pairs of a (row, row) matrix."""

    def within(selections: list[tuple[Integers, Integers | None]]) -> list[Floats]:
        if metric == "cka":
            return _within_products(matrix, selections)
        return _within_ranks(SortedPairs(matrix, rounding), len(matrix), selections)

    if not pairs.are_held_out:
        outer = within([(fold.test, None) for fold in pairs.folds])
        return _Vectors(outer, [np.full(1, np.nan)] * len(outer))
    outer = [_between(matrix[np.ix_(fold.test, fold.train)], rounding, metric) for fold in pairs.folds]
    training = zip(pairs.folds, pairs.separated, strict=True)
    return _Vectors(outer, within([(fold.train, blocks) for fold, blocks in training]))


def _between(block: Floats, rounding: float, metric: Metric) -> Floats:
    """Standardised values of (test, train) pairs; NaN without pairs."""
    if not block.size:
        return np.full(1, np.nan)
    values: Floats = standard_products(block).ravel() if metric == "cka" else standard_ranks(block.ravel(), rounding)
    return values


def _within_products(matrix: Floats, selections: list[tuple[Integers, Integers | None]]) -> list[Floats]:
    """Standardised inner products of the pairs of some rows.

    A selection is rows, and a block of each; only pairs of different blocks count, or all pairs if blocks are None,
    those of a row with itself included, as in CKA. NaN without pairs.
    """
    vectors = []
    for rows, blocks in selections:
        values = standard_products(matrix[np.ix_(rows, rows)])
        values = values.ravel() if blocks is None else values[np.triu(blocks[:, None] != blocks)]
        norm = np.linalg.norm(values)
        vectors.append(values / (norm if norm > 0 else np.nan) if len(values) else np.full(1, np.nan))
    return vectors


def _within_ranks(
    all_pairs: SortedPairs, n_rows: int, selections: list[tuple[Integers, Integers | None]]
) -> list[Floats]:
    """Standardised ranks of the dissimilarities of pairs of some rows; selections as in `_within_products`."""
    vectors = []
    for rows, blocks in selections:
        block_of_row = np.full(n_rows, -1)
        block_of_row[rows] = rows if blocks is None else blocks
        first, second = block_of_row[all_pairs.first], block_of_row[all_pairs.second]
        chosen = (first >= 0) & (second >= 0) & (first != second)
        vectors.append(all_pairs.standard_ranks(chosen) if chosen.any() else np.full(1, np.nan))
    return vectors


# --- long recordings: CKA from cross-products of columns --------------------------------------------------------------


_kept_products: OrderedDict[bytes, list[CrossProducts]] = OrderedDict()


def _from_columns(layers: Layers, Y: Floats, subjects: Sequence[Integers], pairs: Pairs, result: _Alike) -> None:
    """Fill in CKA without a matrix of all pairs of rows; similarities between subjects are not computed."""
    compared = np.unique(np.concatenate(subjects))
    Y, places = about_mean(Y[:, compared]), [np.searchsorted(compared, columns) for columns in subjects]
    key = _hash((Y, *places), pairs, "cka")
    own = _kept_products.pop(key, None) or [
        _of_subject(_products(block, block, pairs)) for place in places for block in [Y[:, place]]
    ]
    _keep(_kept_products, key, own)
    for k in range(len(layers)):
        X = about_mean(np.asarray(layers[k]))
        of_features, of_both = _of_subject(_products(X, X, pairs)), _products(X, Y, pairs)
        for subject, (place, of_responses) in enumerate(zip(places, own, strict=True)):
            ours = _of_subject(of_both, place)
            for filled, products, *norms in zip(
                (result.values, result.inner), ours, of_features, of_responses, strict=True
            ):
                filled[k, :, subject] = _ratio(products, norms[0] * norms[1])


def _products(X: Floats, Y: Floats, pairs: Pairs) -> CrossProducts:
    """Sums of products over the pairs of each fold; there are no inner ones under "max"."""
    if pairs.are_held_out:
        return cross_products(X, Y, pairs.folds)
    outer = squared_products(X, Y, [fold.test for fold in pairs.folds])
    return CrossProducts(outer, np.full_like(outer, np.nan))


def _of_subject(products: CrossProducts, columns: Integers | slice = slice(None)) -> CrossProducts:
    """(fold,) sums over the columns that are compared together."""
    return CrossProducts(*(of_column[:, columns].sum(axis=1) for of_column in products))


def _ratio(products: Floats, norms: Floats) -> Floats:
    """(fold,) products / sqrt(norms); NaN where a matrix does not vary."""
    ratio: Floats = products / np.sqrt(np.where(norms > 0, norms, np.nan))
    return ratio
