"""Batched ridge regression: all neuroids and alphas of a fold from one eigendecomposition.

Rows (stimuli, scans) are few, features and neuroids many, so everything is computed in the dual and weights are never
formed. With C = U diag(lam) U' the centred Gram matrix of the training rows (kernels/gram.py) and W = U'Y, alpha gives

    residuals on the training rows       P Y,  P = U diag(alpha / (lam + alpha)) U' + N,
    residuals on a left-out block B      (P_BB)^-1 (P Y)_B,  exact, intercept included,
    prediction for a new row, t = U'k    t' diag(1 / (lam + alpha)) W,

where N projects on what the features do not span (0 at rank n - 1). Least squares is alpha = 0. Alpha is chosen in
kernels/search.py (single rows left out) and kernels/blocks.py (blocks left out). Each block of neuroids passes through
all folds, so that nothing of size (alpha, row, neuroid) is stored.

Precision: matrices with rows on both sides are always float64. "mixed" computes the neuroid side in float32 and repeats
near ties between alphas in float64. "float64" is float64 throughout, at half the speed.

Method and measured times: kernels/README.md. Source: leave-one-out, Golub, Heath & Wahba 1979; leave-block-out by the
same inverse of a partitioned matrix, equal to himalaya's KernelRidgeCV (Dupre la Tour et al. 2022) with the same inner
folds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from harness.kernels import primal
from harness.kernels.arrays import Array, array_library, namespace, to_host
from harness.kernels.fold import Fold, HeldOut, prepare
from harness.kernels.gram import Bands, Design, Scale, design
from harness.kernels.metrics import pearson_r
from harness.kernels.penalty import Penalty
from harness.kernels.responses import Pattern, block, patterns, response_factors
from harness.kernels.split import Split
from harness.kernels.work import Work

__all__ = [
    "FoldFit", "HeldOut", "Penalty", "Split", "fit_fold", "fit_folds", "fit_layers", "in_parallel", "predict_held_out",
    "response_factors",
]  # fmt: skip

T = TypeVar("T")
Metric = Callable[[Array, Array], Array]

# Default memory of the neuroid side in bytes: what fits the caches of a CPU, and what keeps a GPU busy.
_BUDGET_CPU, _BUDGET_GPU = 2**26, 2**31


class FoldFit(NamedTuple):
    """Scores of one fold, on the host.

    Attributes:
        r, alpha, inner: (neuroid,) held-out score, penalty, and inner score; NaN where not measurable.
        place: (neuroid,) index of alpha in the grid, NaN where not measurable.
        rank: of the training features; the largest one if neuroids have different rows.
    """

    r: Array
    alpha: Array
    inner: Array
    place: Array
    rank: int


def fit_layers(
    layers: Sequence[Array], Y: Array, splits: Sequence[Split], penalty: Penalty, *, scale: Scale = "center",
    threads: int = 1, **how: Any,
) -> Iterator[list[FoldFit]]:  # fmt: skip
    """Run `fit_folds` on every layer, in order; `threads` layers run in parallel with one BLAS thread each.

    Args:
        layers: (row, feature) matrices, each accessed only when its turn comes.
        Y: (row, neuroid) responses.
        splits: the folds.
        penalty: the grid and the rule of choice.
        scale: of the features, see `design`.
        threads: number of cores; a single layer is divided among them by folds and neuroids. Always 1 on a GPU.
        how: as in `fit_folds`.
    """
    if not penalty.per_neuroid and how.get("factors") is None:
        how["factors"] = response_factors(Y)

    def fit(layer: int, threads: int) -> list[FoldFit]:
        return fit_folds(design(layers[layer], scale), Y, splits, penalty, threads=threads, **how)

    return in_parallel(fit, len(layers), threads)


def in_parallel(call: Callable[[int, int], T], n: int, threads: int) -> Iterator[T]:
    """Yield `call(k, its_threads)` for k < n in order, running `threads` calls at once with one BLAS thread each.

    A single call gets all threads. At most `threads` calls are started ahead of the consumer.
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
    features: Design | Bands, Y: Array, splits: Sequence[Split], penalty: Penalty, *, metric: Metric = pearson_r,
    **how: Any,
) -> list[FoldFit]:  # fmt: skip
    """Fit every fold on its training rows, choosing alpha within them, and score the predictions of its test rows.

    Args:
        features: of all rows.
        Y: (row, neuroid) responses, NaN where absent; neuroids that miss the same rows are fitted together.
        splits: the folds.
        penalty: the grid and the rule of choice.
        metric: a function of kernels/metrics.py; its value is stored in `r`.
        how: `precision`, `threads`, `budget_bytes`, `factors`, `way`: see `Work` (kernels/work.py).

    Returns:
        One fit per fold. `inner` is 1 - error / variance over the training rows; NaN if least squares fits a left-out
        block of several rows exactly. All values of a neuroid are NaN if it is constant on the training rows, or has
        fewer than two training rows (or inner blocks, or none outside a block and its gap) or no test row; all neuroids
        are NaN if no feature varies over the training rows.

    Raises:
        ValueError: if rows, a fold, its inner blocks or a neuroid are invalid (names the first problem).
        TypeError: if features and responses belong to different array libraries.
    """

    def score(held_out: HeldOut) -> tuple[list[Array], int]:
        r = metric(held_out.predicted, held_out.observed)
        return [to_host(values) for values in (r, held_out.alpha, held_out.inner, held_out.place)], held_out.rank

    work = Work(features, Y, penalty, **how)
    results = _in_blocks(work, _patterns(features, Y, splits), splits, score)
    scores, ranks = np.full((len(splits), 4, Y.shape[1]), np.nan), [0] * len(splits)
    for fold, neuroids, (values, rank) in results:
        scores[fold][:, neuroids] = values
        ranks[fold] = max(ranks[fold], rank)
    return [FoldFit(r, alpha, inner, place, rank) for (r, alpha, inner, place), rank in zip(scores, ranks, strict=True)]


def fit_fold(features: Design | Bands, Y: Array, split: Split, penalty: Penalty, **how: Any) -> FoldFit:
    """`fit_folds` for a single fold."""
    return fit_folds(features, Y, [split], penalty, **how)[0]


def predict_held_out(
    features: Design | Bands, Y: Array, split: Split, penalty: Penalty, **how: Any
) -> Iterator[HeldOut]:
    """Predict the test rows of one fold, one block of neuroids after the other; arguments as in `fit_folds`.

    Neuroids that are not measurable for lack of rows, inner blocks or features are left out.
    """
    work = Work(features, Y, penalty, **how)
    results = _in_blocks(work, _patterns(features, Y, [split]), [split], lambda held_out: held_out)
    return (held_out for _, _, held_out in results)


# --- patterns, folds, blocks, threads ---------------------------------------------------------------------------------


def _in_blocks(
    work: Work, groups: Sequence[Pattern], splits: Sequence[Split], finish: Callable[[HeldOut], Any]
) -> Iterator[tuple[int, Array, Any]]:
    """Yield (fold, neuroids, result of `finish`) for all folds and blocks."""
    dtype, penalty = work.dtype, work.penalty
    budget = work.budget_bytes or (_BUDGET_CPU if namespace(work.Y) is np else _BUDGET_GPU)
    factors = work.factors
    if not penalty.per_neuroid and factors is None:
        factors = response_factors(work.Y, budget)
    with _workers(work.threads) as pool:
        for pattern in groups:
            factor = None if factors is None else _factor_of(pattern, factors)
            if _is_primal(work, pattern, splits):
                yield from _by_primal(work, pattern, splits, factor, finish)
                continue
            call = partial(_prepare, work.in_memory, pattern, penalty, dtype, factor)
            prepared = [pool.submit(call, split) for split in splits]
            n_blocks = _n_blocks(pattern, budget // work.threads, splits, len(penalty.alphas), dtype, work.threads)
            run = partial(_through_folds, work.Y, pattern, dtype, prepared, finish)
            for results in pool.map(run, np.array_split(pattern.neuroids, n_blocks)):
                yield from results


def _is_primal(work: Work, pattern: Pattern, splits: Sequence[Split]) -> bool:
    """Whether the neuroids of a pattern are fitted in the primal."""
    return work.way == "primal" or (work.way == "counted" and primal.pays(work, pattern, splits))


def _by_primal(
    work: Work, pattern: Pattern, splits: Sequence[Split], factor: Array | None, finish: Callable[[HeldOut], Any]
) -> Iterator[tuple[int, Array, Any]]:
    """As `_in_blocks`, in feature space: its matrices are large enough for BLAS to use all threads by itself."""
    with threadpool_limits(work.threads if work.threads > 1 else None, user_api="blas"):
        yield from primal.fits_of(work, pattern, splits, factor, finish)


def _factor_of(pattern: Pattern, factors: dict[bytes, Array]) -> Array:
    """The response factor of a pattern."""
    if pattern.key not in factors:
        raise ValueError(
            f"factors lack the rows of neuroid {pattern.neuroids[0]}; pass the response_factors of all neuroids."
        )
    return factors[pattern.key]


def _prepare(
    features: Design | Bands, pattern: Pattern, penalty: Penalty, dtype: type, factor: Array | None, split: Split
) -> Fold | None:
    """Prepare a fold without the pattern's absent rows."""
    return prepare(features, pattern.without_absent(split), penalty, dtype, len(pattern.neuroids), factor)


def _through_folds(
    Y: Array, pattern: Pattern, dtype: type, prepared: Sequence[Future[Fold | None]],
    finish: Callable[[HeldOut], Any], neuroids: Array,
) -> list[tuple[int, Array, Any]]:  # fmt: skip
    """Fit one block of neuroids in all folds; returns (fold, neuroids, result of `finish`)."""
    responses = block(Y, pattern, neuroids, dtype)
    folds = ((number, future.result()) for number, future in enumerate(prepared))
    return [(number, neuroids, finish(fold.predict(responses))) for number, fold in folds if fold]


def _n_blocks(pattern: Pattern, budget: int, splits: Sequence[Split], n_alphas: int, dtype: type, threads: int) -> int:
    """Number of blocks of neuroids, a multiple of `threads`; a block needs about 8 arrays the size of its responses."""
    n_train = max((len(split.train) for split in splits), default=0)
    n_rows = max((len(split.train) + len(split.test) for split in splits), default=0)
    bytes_per_neuroid = np.dtype(dtype).itemsize * (3 * n_rows + 8 * n_train + 8 * n_alphas)
    n_neuroids = len(pattern.neuroids)
    n_blocks = -(-n_neuroids * bytes_per_neuroid // max(budget, 1))
    return min(n_neuroids, n_blocks + -n_blocks % threads)


class _AtOnce:
    """Replaces the thread pool when there is one thread: runs each call at once."""

    map = staticmethod(map)

    @staticmethod
    def submit(call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Like Executor.submit."""
        future: Future[Any] = Future()
        future.set_result(call(*arguments))
        return future


@contextmanager
def _workers(threads: int) -> Iterator[Any]:
    """A pool of threads with one BLAS thread each; with `threads` = 1, this thread with all BLAS threads."""
    if threads == 1:
        yield _AtOnce
        return
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        yield pool


def _patterns(features: Design | Bands, Y: Array, splits: Sequence[Split]) -> list[Pattern]:
    """Check the arguments and group neuroids by their rows; raises on the first inconsistency."""
    if array_library(features.X) is not namespace(Y):
        namespace(features.X, Y)  # names both libraries
    n = len(features.X)
    if Y.ndim != 2 or len(Y) != n or not Y.size:
        raise ValueError(f"responses are {Y.shape}, features have {n} rows; wanted (row, neuroid) with the same rows.")
    for number, split in enumerate(splits):
        split.require(f"fold {number}", n)
    return patterns(Y)
