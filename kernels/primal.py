"""Ridge where rows outnumber features: everything from products of features with features and with responses.

The dual (kernels/fold.py) works with matrices of rows by rows, which a recording of hours makes large: memory grows
with the square of the rows, time with the cube. Here a fold is decomposed in feature space: the eigenvectors are those
of the centred Gram matrix (feature, feature) of the training rows, which is a sum over rows (kernels/streams.py).
Features may lie in a memory map: they are read in blocks of rows. Memory is a few matrices of features by features, one
of rows by neuroids for a block of neuroids, and a block of rows; time grows in proportion to the rows.

`pays` chooses between primal and dual by counted operations. Both give the same alphas and predictions: with
C = Z'Z, the eigenvalues are those of the dual Z Z', and U = Z V are its eigenvectors. Precision is float64 throughout.
Products of features square their condition; what that costs is measured in kernels/README.md.

Source: the normal equations of ridge regression (Hoerl & Kennard 1970); himalaya and scikit-learn decompose X itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from harness.kernels import ways
from harness.kernels.arrays import Array, namespace, products
from harness.kernels.fold import HeldOut, is_flat
from harness.kernels.gram import Bands, Design
from harness.kernels.penalty import Penalty, near_least
from harness.kernels.primal_search import (
    BlockParts,
    PrimalBasis,
    Responses,
    StreamedBlocks,
    StreamedRows,
    SummedBlocks,
    eigenvectors,
    streamed_rows,
)
from harness.kernels.responses import Block, Pattern, block
from harness.kernels.search import ROUNDING
from harness.kernels.split import Split
from harness.kernels.streams import Parts, Stream, Sums, added, is_far, parts, stream, take_rows
from harness.kernels.work import Work

# Memory for the sums of all parts of the rows, and for a block of neuroids, in bytes.
_SUMS_BYTES, _NEUROID_BYTES, _NEUROID_BYTES_GPU = 2**30, 3 * 2**28, 2**34
# Features with sd <= this fraction of |mean| are constant up to rounding, as in kernels/gram.py.
_VARIES = 1e-6

Search = StreamedRows | StreamedBlocks | SummedBlocks


class Products(NamedTuple):
    """Products of features and responses over the parts of the rows, for one block of neuroids.

    Attributes:
        products: per part the (feature, neuroid) X'y, about the shift of the features.
        sums: per part the (neuroid,) sum of y.
    """

    products: Sequence[Array]
    sums: Sequence[Array]

    def of(self, numbers: Sequence[int], sums: Sums, level: Array) -> tuple[Array, Array]:
        """Both over a union of parts, whose features have these sums, for y minus a (neuroid,) level."""
        product = sum(self.products[part] for part in numbers)
        return product - sums.total[:, None] * level, sum(self.sums[part] for part in numbers) - sums.n * level


@dataclass(frozen=True)
class Inner:
    """One outer fold without absent rows, and how its inner blocks are left out.

    Attributes:
        number: of the fold.
        split: the fold.
        blocks: of each inner block its rows, as indices into the training rows.
        gaps: of each inner block the other rows left out with it; None: none.
        by_sums: whether blocks are left out by fitting again from sums.
    """

    number: int
    split: Split
    blocks: list[Array]
    gaps: list[Array] | None
    by_sums: bool

    @property
    def left_out(self) -> list[Array]:
        """Rows left out with each block, its own first."""
        gaps = self.gaps or [()] * len(self.blocks)
        return [np.r_[own, gap].astype(np.int64) for own, gap in zip(self.blocks, gaps, strict=True)]

    @property
    def sets(self) -> list[Array]:
        """The sets of rows whose sums are needed: the training rows, then the rows of each block and of its rest."""
        train, sets = np.asarray(self.split.train), [np.asarray(self.split.train)]
        for own, out in zip(self.blocks, self.left_out, strict=True) if self.by_sums else ():
            sets += [train[own], np.delete(train, out)]
        return sets


@dataclass(frozen=True)
class PrimalFold:
    """A prepared fold.

    Attributes:
        stream: the features.
        train, test: row indices, on the host.
        basis: of the training rows.
        sums, parts: of the training rows; parts is None if their products with responses are computed afresh.
        penalty: the grid and the rule of choice.
        alphas: (alpha,) candidates; a single one if it was already chosen for all neuroids.
        first: index of the first candidate in the grid.
        search: leave-out errors.
    """

    stream: Stream
    train: Array
    test: Array
    basis: PrimalBasis
    sums: Sums
    parts: Sequence[int] | None
    penalty: Penalty
    alphas: Array
    first: int
    search: Search

    def predict(self, responses: Block, products_of: Products) -> HeldOut:
        """Choose alphas on the training rows and predict the test rows."""
        xp, basis, values = namespace(responses.values), self.basis, responses.values
        given, level = self.given(values, products_of)
        magnitude = abs(values[int(self.train[0])])
        flat = is_flat(given.y, given.total, magnitude, responses.rounding)
        given.W[xp.flatnonzero(flat)] = 0.0  # only rounding is left of them; predict their mean
        errors = self.search.least_errors(given)
        place = self._place(given, errors)
        error = xp.take_along_axis(errors, place[:, None], axis=1)[:, 0]
        W = given.W * (basis.lam / (basis.lam + self.alphas[:, None])).take(place, axis=0)
        predicted = self._predicted(basis.V @ W.T)
        return HeldOut(
            responses.neuroids, predicted, take_rows(values, self.test) - level,
            alpha=xp.where(flat, xp.nan, self.alphas[place]),
            inner=1.0 - error / xp.where(flat, xp.nan, given.total),
            place=xp.where(flat, xp.nan, self.first + place),
            rank=len(basis.lam),
        )  # fmt: skip

    def _place(self, given: Responses, errors: Array) -> Array:
        """(neuroid,) index of the smallest of (neuroid, alpha) errors; near ties in float32 are computed in float64."""
        xp, place = namespace(errors), self.penalty.choose(errors)
        if not isinstance(self.search, StreamedBlocks) or self.search.dtype is np.float64:
            return place
        rounding = ROUNDING * float(xp.finfo(self.search.dtype).eps)
        is_near = near_least(errors, rounding)
        ambiguous = xp.flatnonzero(is_near.sum(axis=1) > 1)
        if len(ambiguous):
            some = given._replace(y=given.y[:, ambiguous], W=given.W[ambiguous], total=given.total[ambiguous])
            place[ambiguous] = self.penalty.choose(self.search.in_float64().computed(some, is_near[ambiguous]))
        return place

    def given(self, values: Array, products_of: Products) -> tuple[Responses, Array]:
        """What the search needs of (row, neuroid) values, and the (neuroid,) mean of their training rows."""
        y = take_rows(values, self.train)
        level = y.mean(axis=0)
        y = y - level
        of = partial(products_of.of, level=level)
        product = self.stream.products(self.train, y) if self.parts is None else of(self.parts, self.sums)[0]
        return Responses(y, product.T @ self.basis.V, products(y, y, axis=0), of), level

    def _predicted(self, beta: Array) -> Array:
        """(test, neuroid) predictions; equal rows if the features of the test rows differ by rounding only."""
        xp = namespace(beta)
        used = abs(self.basis.V).max(axis=1) > 0
        predicted, low, high = xp.empty((len(self.test), beta.shape[1])), xp.inf, -xp.inf
        for place, X in self.stream.blocks(self.test):
            predicted[place] = (X - self.basis.mean) @ beta
            low, high = xp.minimum(low, X.min(axis=0)), xp.maximum(high, X.max(axis=0))
        rounding = 10.0 * float(xp.finfo(float).eps) * (xp.maximum(abs(low), abs(high)) + abs(self.stream.shift))
        if bool(((high - low <= rounding) | ~used).all()):
            predicted[:] = predicted[0]
        return predicted


class Summed(NamedTuple):
    """Rows divided into parts, and the sums over each of them.

    Attributes:
        stream: the features.
        division: the parts.
        sums: of the features, per part.
    """

    stream: Stream
    division: Parts
    sums: list[Sums]

    def products(self, values: Array) -> Products:
        """The products of features and (row, column) values."""
        products, sums = [], []
        for rows in self.division.rows:
            y = take_rows(values, rows)
            products.append(self.stream.products(rows, y))
            sums.append(y.sum(axis=0))
        return Products(products, sums)


def fits_of(
    work: Work, pattern: Pattern, splits: Sequence[Split], factor: Array | None, finish: Callable[[HeldOut], Any]
) -> Iterator[tuple[int, Array, Any]]:
    """Yield (fold, neuroids, result of `finish`) for the neuroids of one pattern, fold by fold and block by block.

    Args:
        work: what is fitted; its dtype is used where blocks are left out by inverses, all else is float64.
        pattern: neuroids with the same rows.
        splits: the folds.
        factor: (row, column) Z with Z Z' = Y Y' if one alpha is chosen for all neuroids; else None.
        finish: called with the predictions of a fold for a block of neuroids.
    """
    n, matrices = len(work.Y), tuple(band.X for band, _ in bands_of(work.features))
    p, source = sum(matrix.shape[1] for matrix in matrices), stream(matrices)
    cache = work.features.sums if isinstance(work.features, Bands) else {}
    inners = [_inner(number, split, pattern, work.penalty, p) for number, split in enumerate(splits)]
    for group, division in _groups([inner for inner in inners if inner], n, p):
        summed = Summed(source, division, [_sums(source, cache, rows) for rows in division.rows])
        sets, batches = iter(division.of_set), list(_batches(group))
        bytes_per_neuroid = 8 * (4 * n + (len(division.rows) + 8) * p)
        budget = work.budget_bytes or (_NEUROID_BYTES if source.xp is np else _NEUROID_BYTES_GPU)
        n_blocks = -(-len(pattern.neuroids) * bytes_per_neuroid // budget)
        blocks = np.array_split(pattern.neuroids, min(n_blocks, len(pattern.neuroids)))
        are_kept = len(batches) > 1 and 8 * p * len(pattern.neuroids) * len(division.rows) <= budget
        kept: dict[int, Products] | None = {} if are_kept else None
        products_of = partial(_products, summed, kept)
        for batch in batches:
            folds = [(inner, [next(sets) for _ in inner.sets]) for inner in batch]
            yield from _fits_of_batch(work, pattern, summed, folds, factor, blocks, products_of, finish)


def _fits_of_batch(
    work: Work, pattern: Pattern, summed: Summed, folds: Sequence[tuple[Inner, list[list[int]]]], factor: Array | None,
    blocks: Sequence[Array], products_of: Callable[[int, Array], Products], finish: Callable[[HeldOut], Any],
) -> Iterator[tuple[int, Array, Any]]:  # fmt: skip
    """`fits_of` for folds that are prepared together, each with its sets of parts."""
    prepared = [(inner.number, _prepare(work, summed, inner, sets, factor)) for inner, sets in folds]
    for k, neuroids in enumerate(blocks):
        responses = block(work.Y, pattern, neuroids, np.float64)
        with_responses = products_of(k, responses.values)
        for number, fold in prepared:
            if fold:
                yield number, neuroids, finish(fold.predict(responses, with_responses))


def _products(summed: Summed, kept: dict[int, Products] | None, number: int, values: Array) -> Products:
    """The products with the responses of a numbered block of neuroids, kept for the folds to come if there is room."""
    if kept is None:
        return summed.products(values)
    if number not in kept:
        kept[number] = summed.products(values)
    return kept[number]


def _sums(source: Stream, cache: dict[bytes, Sums], rows: Array) -> Sums:
    """The sums over a part of the rows, from the cache if they are there."""
    key = rows.tobytes()
    if key not in cache:
        cache[key] = source.sums(rows)
    return cache[key]


def _groups(folds: Sequence[Inner], n: int, p: int) -> Iterator[tuple[list[Inner], Parts]]:
    """Folds that share sums of parts of the rows: all of them, or each by itself where that takes too much memory."""
    every = parts(n, [rows for inner in folds for rows in inner.sets])
    if 8 * p * p * len(every.rows) <= _SUMS_BYTES:
        yield list(folds), every
        return
    for inner in folds:
        yield [inner], parts(n, inner.sets)


def _batches(folds: list[Inner]) -> Iterator[list[Inner]]:
    """Folds that are prepared together: all of them, or one by one if they keep factors of blocks."""
    if any(len(inner.blocks) < len(inner.split.train) and not inner.by_sums for inner in folds):
        yield from ([inner] for inner in folds)
    else:
        yield folds


def _inner(number: int, split: Split, pattern: Pattern, penalty: Penalty, p: int) -> Inner | None:
    """A fold without the pattern's absent rows; None if nothing can be measured."""
    present = pattern.without_absent(split)
    blocks = present.inner_blocks()
    if len(blocks) < 2 or not len(present.test):
        return None
    gaps = present.gaps(blocks) if present.gap else None
    if gaps and any(len(rows) + len(gap) == len(present.train) for rows, gap in zip(blocks, gaps, strict=True)):
        return None
    n_alphas, single = max(len(penalty.alphas), 1), len(blocks) == len(present.train) and gaps is None
    sizes = [(len(rows), len(rows) + (len(gaps[k]) if gaps else 0)) for k, rows in enumerate(blocks)]
    by_sums = not single and bool(penalty.alphas) and ways.sums_pay(sizes, p, n_alphas, len(pattern.neuroids))
    return Inner(number, present, blocks, gaps, by_sums)


def _prepare(
    work: Work, summed: Summed, inner: Inner, sets: Sequence[Sequence[int]], factor: Array | None
) -> PrimalFold | None:
    """Decompose a fold's training rows and prepare the choice of alpha; None if no feature varies."""
    stream, sums, penalty = summed.stream, summed.sums, work.penalty
    xp, train, own = stream.xp, np.asarray(inner.split.train), sets[0]
    total = added([sums[part] for part in own])
    is_near = not any(is_far(added([sums[part] for part in each])) for each in sets if each)
    if is_far(total):
        stream = replace(stream, shift=stream.shift + total.mean)
        total = stream.sums(train)
    scale = _scale(work.features, stream, total)
    basis = _basis(total, scale, 0.0 if penalty.alphas else penalty.cutoff)
    if not len(basis.lam):
        return None
    alphas = xp.asarray(penalty.alphas or (0.0,)) * (basis.mean_lam if penalty.relative else 1.0)

    def search(alphas: Array) -> Search:
        if len(inner.blocks) == len(train) and inner.gaps is None:
            return streamed_rows(stream, train, basis, alphas)
        n, n_blocks, by_row = len(train), len(inner.blocks), penalty.mean_over == "rows"
        weights = [1.0 if by_row else n / n_blocks / len(rows) for rows in inner.blocks]
        if not inner.by_sums or not is_near:
            n_own, roots = [len(rows) for rows in inner.blocks], [weight**0.5 for weight in weights]
            return StreamedBlocks(stream, train, basis, alphas, inner.left_out, n_own, roots, work.dtype)
        pairs = zip(sets[1::2], sets[2::2], inner.blocks, weights, strict=True)
        return SummedBlocks(sums, scale, alphas, [BlockParts(*pair) for pair in pairs])

    fold = PrimalFold(
        stream, train, np.asarray(inner.split.test), basis, total, own if is_near else None, penalty, alphas, 0,
        search(alphas),
    )  # fmt: skip
    if factor is None or len(alphas) == 1:
        return fold
    given = fold.given(factor, summed.products(factor))[0]
    first = int(penalty.choose(fold.search.least_total(given))[0])
    alphas = alphas[first : first + 1]
    return replace(fold, alphas=alphas, first=first, search=search(alphas))


def basis_of(features: Design, train: Array, cutoff: float) -> tuple[Stream, PrimalBasis]:
    """Decompose the features of some training rows (on the host), at least two.

    Returns:
        The features about the mean of these rows, and the decomposition; of rank 0 if no feature varies.
    """
    source = stream((features.X,))
    source = replace(source, shift=source.shift + source.sums(train).mean)
    sums = source.sums(train)
    return source, _basis(sums, _scale(features, source, sums), cutoff)


def _basis(sums: Sums, scale: Array, cutoff: float) -> PrimalBasis:
    """Decompose the features; directions under `cutoff` times the largest eigenvalue, or rounding, are dropped."""
    lam, V = eigenvectors(sums, sums.mean, scale, cutoff)
    return PrimalBasis(sums.n, sums.mean, V / namespace(V).sqrt(lam), lam, float(lam.sum()) / sums.n)


def _scale(features: Design | Bands, stream: Stream, sums: Sums) -> Array:
    """(feature,) factors of the features: of their bands' weights and, where z-scored, of 1 / sd on these rows.

    Features that vary by rounding only have factor 0.
    """
    xp, p = stream.xp, len(stream.shift)
    eps = float(xp.finfo(float).eps)
    largest = xp.maximum(abs(sums.low + stream.shift), abs(sums.high + stream.shift))
    scale = xp.where(sums.high - sums.low > sums.n * eps * largest, 1.0, 0.0)
    sd = xp.sqrt((sums.square.diagonal() - sums.total * sums.mean).clip(0.0) / sums.n)
    varies = sd > _VARIES * abs(sums.mean + stream.shift)
    zscored = scale * xp.where(varies, 1.0 / xp.where(varies, sd, 1.0), 0.0)
    factors, start = xp.empty(p), 0
    for band, weight in bands_of(features):
        some = slice(start, start + band.X.shape[1])
        factors[some] = weight**0.5 * (zscored if band.scale == "zscore" else scale)[some]
        start = some.stop
    return factors


def bands_of(features: Design | Bands) -> list[tuple[Design, float]]:
    """The matrices of features, each with its weight."""
    if isinstance(features, Design):
        return [(features, 1.0)]
    return list(zip(features.designs, features.weights, strict=True))


def pays(work: Work, pattern: Pattern, splits: Sequence[Split]) -> bool:
    """Whether the primal takes clearly fewer operations than the dual, or the dual too much memory, for one pattern."""
    p, saved = sum(band.X.shape[1] for band, _ in bands_of(work.features)), 0.0
    if all(len(split.train) <= p for split in splits):
        return False  # the dual is always cheaper
    n_alphas, per_neuroid = max(len(work.penalty.alphas), 1), work.penalty.per_neuroid
    if any(ways.is_too_long(len(split.train), n_alphas, per_neuroid=per_neuroid) for split in splits):
        return True
    for split in map(pattern.without_absent, splits):
        n, sizes = len(split.train), None
        if n <= p or (split.inner is None and not split.gap):
            blocks, gaps = [], None
        else:
            blocks = split.inner_blocks()
            gaps = split.gaps(blocks) if split.gap else None
        if gaps or 0 < len(blocks) < n:
            sizes = [
                (len(own), len(own) + len(gap)) for own, gap in zip(blocks, gaps or [()] * len(blocks), strict=True)
            ]
        sides = n, p, len(pattern.neuroids), n_alphas
        saved += ways.primal_saves(*sides, sizes, len(splits), work.features.is_thin) - ways.WORTH
    return saved > 0
