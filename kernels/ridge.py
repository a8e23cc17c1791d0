"""Batched ridge regression: every neuroid, fold and alpha from one eigendecomposition a fold.

Rows (stimuli, scans) are few, features and neuroids many; so all happens in the dual and weights are never formed.
With C = U diag(lam) U' the centred Gram matrix of the training rows (kernels/gram.py) and W = U'Y, a penalty alpha

    leaves on the training rows the residual  P Y,  P = U diag(alpha / (lam + alpha)) U' + N,
    leaves on a block B it never saw          (P_BB)^-1 (P Y)_B,  exactly, intercept included,
    predicts for a new row, t = U'k           t' diag(1 / (lam + alpha)) W,

N being the projector on what features do not span (0 at rank n - 1). Least squares is alpha = 0. Alpha is chosen in
kernels/search.py (single rows left out) and kernels/blocks.py (blocks). Neuroids go in blocks through all folds, so
that nothing of size (alpha, row, neuroid) exists.

Precision: what has rows on both sides is float64, always. "mixed" computes the neuroid side in float32 and, where two
alphas come near each other, once more in float64: float64 decides. "float64" is float64 throughout, half as fast.

Source: leave-one-out, Golub, Heath & Wahba 1979; leave-block-out by the same inverse of a partitioned matrix, equal to
himalaya's KernelRidgeCV (Dupre la Tour et al. 2022) with the same inner folds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from harness.kernels.arrays import Array, namespace, to_host
from harness.kernels.fold import Fold, HeldOut, prepare
from harness.kernels.gram import Bands, Design, Scale, design
from harness.kernels.metrics import pearson_r
from harness.kernels.penalty import Penalty
from harness.kernels.responses import Pattern, block, patterns, stand_ins
from harness.kernels.split import Split

__all__ = [
    "FoldFit", "HeldOut", "Penalty", "Split", "beside", "fit_fold", "fit_folds", "fit_layers", "predict_held_out",
    "stand_ins",
]  # fmt: skip

T = TypeVar("T")
Precision = Literal["float64", "mixed"]
Metric = Callable[[Array, Array], Array]

_DTYPES = {"float64": np.float64, "mixed": np.float32}
# Memory of the neuroid side where none is given: on a CPU what caches hold, on a GPU what keeps it busy.
_BUDGET_CPU, _BUDGET_GPU = 2**26, 2**31


class FoldFit(NamedTuple):
    """Scores of one fold, on the host.

    Attributes:
        r, alpha, inner: (neuroid,) NaN where not measurable.
        place: (neuroid,) place of alpha in the grid, NaN where not measurable.
        rank: of the training features; the largest where neuroids have different rows.
    """

    r: Array
    alpha: Array
    inner: Array
    place: Array
    rank: int


def fit_layers(
    layers: Sequence[Array],
    Y: Array,
    splits: Sequence[Split],
    penalty: Penalty,
    *,
    scale: Scale = "center",
    threads: int = 1,
    **how: Any,
) -> Iterator[list[FoldFit]]:
    """`fit_folds` of every layer, in order, `threads` layers beside each other with one BLAS thread each.

    Args:
        layers: (row, feature) each, one matrix or many; read when its turn comes, and no earlier.
        Y: (row, neuroid) responses.
        splits: the folds.
        penalty: the grid, and how to choose from it.
        scale: of the features, see `design`.
        threads: on how many cores; a single layer is divided among them by folds and neuroids. On a GPU always 1.
        how: as in `fit_folds`.
    """
    if not penalty.per_neuroid and how.get("standing_in") is None:
        how["standing_in"] = stand_ins(Y)

    def fit(layer: int, threads: int) -> list[FoldFit]:
        return fit_folds(design(layers[layer], scale), Y, splits, penalty, threads=threads, **how)

    return beside(fit, len(layers), threads)


def beside(call: Callable[[int, int], T], n: int, threads: int) -> Iterator[T]:
    """`call(k, threads of it)` for k < n, in order: `threads` beside each other with one BLAS thread each.

    A single call has all threads for itself. None is begun much before its result is asked for.
    """
    if threads == 1 or n == 1:
        yield from (call(k, threads) for k in range(n))
        return
    with _workers(threads) as pool:
        running: deque[Future[T]] = deque()
        for k in range(n):
            running.append(pool.submit(call, k, 1))
            if len(running) > threads:
                yield running.popleft().result()
        yield from (future.result() for future in running)


def fit_folds(
    features: Design | Bands,
    Y: Array,
    splits: Sequence[Split],
    penalty: Penalty,
    *,
    precision: Precision = "float64",
    budget_bytes: int | None = None,
    threads: int = 1,
    metric: Metric = pearson_r,
    standing_in: dict[bytes, Array] | None = None,
) -> list[FoldFit]:
    """Fit every fold on its training rows, choosing alpha among them, and score the predictions of its test rows.

    Args:
        features: of all rows.
        Y: (row, neuroid) responses, NaN where absent; neuroids that miss the same rows are fitted together.
        splits: the folds.
        penalty: the grid, and how to choose from it.
        precision: of the neuroid side, "float64" or "mixed"; see above.
        budget_bytes: memory for the neuroid side, which goes in blocks; it changes nothing but rounding.
        threads: on how many cores folds and blocks run beside each other, with one BLAS thread each; 1 leaves the
            cores to BLAS.
        metric: of kernels/metrics.py; stands in `r`.
        standing_in: where all neuroids share one alpha and Y holds some of them, what `stand_ins` gave for all.

    Returns:
        One for each fold. `inner` is 1 - error / variance over the training rows; NaN where least squares fits a
        left-out block of several rows exactly. A neuroid that is constant on the training rows is NaN throughout,
        as are those with fewer than two training rows (or inner blocks) or no test row, and all neuroids where no
        feature varies over the training rows.

    Raises:
        ValueError: naming what is wrong with rows, a fold, its inner blocks or a neuroid.
        TypeError: if features and responses lie in different libraries.
    """
    alike = _patterns(features, Y, splits, precision)
    found, ranks = np.full((len(splits), 4, Y.shape[1]), np.nan), [0] * len(splits)

    def score(part: HeldOut) -> tuple[list[Array], int]:
        r = metric(part.predicted, part.observed)
        return [to_host(each) for each in (r, part.alpha, part.inner, part.place)], part.rank

    parts = _parts(features, Y, alike, splits, penalty, precision, budget_bytes, threads, standing_in, score)
    for fold, neuroids, (arrays, rank) in parts:
        found[fold][:, neuroids] = arrays
        ranks[fold] = max(ranks[fold], rank)
    return [FoldFit(r, alpha, inner, place, rank) for (r, alpha, inner, place), rank in zip(found, ranks, strict=True)]


def fit_fold(features: Design | Bands, Y: Array, split: Split, penalty: Penalty, **how: Any) -> FoldFit:
    """`fit_folds` for a single fold."""
    return fit_folds(features, Y, [split], penalty, **how)[0]


def predict_held_out(
    features: Design | Bands,
    Y: Array,
    split: Split,
    penalty: Penalty,
    *,
    precision: Precision = "float64",
    budget_bytes: int | None = None,
) -> Iterator[HeldOut]:
    """Predict the test rows of one fold, one block of neuroids after the other; arguments as in `fit_folds`.

    What is not measurable for want of rows, inner blocks or features is left out.
    """
    alike = _patterns(features, Y, [split], precision)
    parts = _parts(features, Y, alike, [split], penalty, precision, budget_bytes, 1, None, lambda part: part)
    return (part for _, _, part in parts)


# --- patterns, folds, blocks, threads ---------------------------------------------------------------------------------


def _parts(
    features: Design | Bands,
    Y: Array,
    alike: Sequence[Pattern],
    splits: Sequence[Split],
    penalty: Penalty,
    precision: Precision,
    budget_bytes: int | None,
    threads: int,
    standing_in: dict[bytes, Array] | None,
    finish: Callable[[HeldOut], Any],
) -> Iterator[tuple[int, Array, Any]]:
    """(fold, neuroids, what `finish` made of them), for all folds and blocks of neuroids."""
    dtype = _DTYPES[precision]
    budget = budget_bytes or (_BUDGET_CPU if namespace(Y) is np else _BUDGET_GPU)
    if not penalty.per_neuroid and standing_in is None:
        standing_in = stand_ins(Y, budget)
    with _workers(threads) as pool:
        for pattern in alike:
            stand_in = None if standing_in is None else _of(pattern, standing_in)
            prepared = [pool.submit(_prepare, features, split, pattern, penalty, dtype, stand_in) for split in splits]
            n_blocks = _n_blocks(pattern, budget // threads, splits, len(penalty.alphas), dtype, threads)
            work = partial(_through_folds, Y, pattern, dtype, prepared, finish)
            for found in pool.map(work, np.array_split(pattern.neuroids, n_blocks)):
                yield from found


def _of(pattern: Pattern, standing_in: dict[bytes, Array]) -> Array:
    """What stands in for the neuroids of a pattern."""
    if pattern.key not in standing_in:
        raise ValueError(
            f"standing_in lacks the rows of neuroid {pattern.neuroids[0]}; give what stand_ins gave for all neuroids."
        )
    return standing_in[pattern.key]


def _prepare(
    features: Design | Bands, split: Split, pattern: Pattern, penalty: Penalty, dtype: type, stand_in: Array | None
) -> Fold | None:
    """A fold without the rows that are absent."""
    train, test = np.asarray(split.train), np.asarray(split.test)
    has = pattern.present[train]
    there = Split(train[has], test[pattern.present[test]], split.labels[has])
    return prepare(features, there, penalty, dtype, len(pattern.neuroids), stand_in)


def _through_folds(
    Y: Array,
    pattern: Pattern,
    dtype: type,
    prepared: Sequence[Future[Fold | None]],
    finish: Callable[[HeldOut], Any],
    neuroids: Array,
) -> list[tuple[int, Array, Any]]:
    """One block of neuroids through all folds."""
    responses = block(Y, pattern, neuroids, dtype)
    folds = ((number, future.result()) for number, future in enumerate(prepared))
    return [(number, neuroids, finish(fold.predict(responses))) for number, fold in folds if fold]


def _n_blocks(pattern: Pattern, budget: int, splits: Sequence[Split], n_alphas: int, dtype: type, threads: int) -> int:
    """How many blocks neuroids go in, as many for each thread: responses, and about eight arrays of training rows."""
    n_train = max((len(split.train) for split in splits), default=0)
    n_rows = max((len(split.train) + len(split.test) for split in splits), default=0)
    of_each = np.dtype(dtype).itemsize * (3 * n_rows + 8 * n_train + 8 * n_alphas)
    n_neuroids = len(pattern.neuroids)
    n_blocks = -(-n_neuroids * of_each // max(budget, 1))
    return min(n_neuroids, n_blocks + -n_blocks % threads)


class _AtOnce:
    """Stands where a pool does when there is one thread: calls when asked to, and keeps what was raised for later."""

    map = staticmethod(map)

    @staticmethod
    def submit(call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Like Executor.submit."""
        future: Future[Any] = Future()
        future.set_result(call(*arguments))
        return future


@contextmanager
def _workers(threads: int) -> Iterator[Any]:
    """A pool of threads with one BLAS thread each, or this thread with all that BLAS takes."""
    if threads == 1:
        yield _AtOnce
        return
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        yield pool


def _patterns(features: Design | Bands, Y: Array, splits: Sequence[Split], precision: str) -> list[Pattern]:
    """Which neuroids have the same rows; raises naming the first thing that does not fit together."""
    namespace(features.X, Y)
    if precision not in _DTYPES:
        raise ValueError(f"there is no precision {precision!r}; choose from {', '.join(_DTYPES)}.")
    n = len(features.X)
    if Y.ndim != 2 or len(Y) != n or not Y.size:
        raise ValueError(f"responses are {Y.shape}, features have {n} rows; wanted (row, neuroid) with the same rows.")
    for number, split in enumerate(splits):
        split.require(f"fold {number}", n)
    return patterns(Y)
