"""Seconds of the ceilings at infinitely many subjects, beside the slow way: `python tests/benchmarks/ceilings.py`.

Two made-up recordings of the sizes of Pereira et al. 2018 (experiments of 384 and 243 sentences), ten random splits
into 90 and 10 %, least squares and Brain-Score's ridge. The slow way fits each of its draws (ten subsets for each
number of subjects, five subjects of each, with replacement) by scikit-learn, and a curve for each neuroid and bootstrap
by SciPy. Of it a sample is timed and scaled: one split for three sizes of pool, two neuroids. Before a time is printed,
both ways must give the same r and the same ceilings where the sample lets them be compared.

Seconds are of processors, all cores together and one BLAS thread each, so that other load on the machine counts little;
what passed by the clock is the last column, of ours alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import curve_fit
from sklearn.linear_model import LinearRegression, RidgeCV
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.kernels.metrics import brainscore_r
from harness.protocol import BRAINSCORE_RIDGE, FoldRule, Protocol, Regression
from harness.scoring import folds
from harness.scoring.extrapolation import PooledScores, collect, extrapolate

RULE = FoldRule("shuffled", n=10, train_fraction=0.9, test_fraction=None, seed=1)
REGRESSIONS = {"least squares": Regression("ols"), "ridge": BRAINSCORE_RIDGE}
SUBSETS, HELD_OUT = 10, 5  # Brain-Score's draws
HEADINGS = (
    "recording", "regression", "pools", "pairs", "their draws", "scores cpu s", "curves cpu s", "theirs: scores",
    "curves", "ratio", "clock s",
)  # fmt: skip


class Size(NamedTuple):
    """Of a recording."""

    rows: int
    subjects: int
    neuroids: int


PEREIRA = Size(384, 9, 12155), Size(243, 6, 8031)
MINIATURE = (Size(60, 4, 240),)


def main() -> None:
    """Print one line for each recording and regression."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a miniature: does it run at all?")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    report(MINIATURE if arguments.quick else PEREIRA, arguments.threads)


def report(sizes: Sequence[Size], threads: int) -> None:
    """Print the table of these recordings."""
    lines = [HEADINGS]
    for size in sizes:
        for name in REGRESSIONS:
            lines.append(compare(size, name, threads))
            print("  ".join(lines[-1]), file=sys.stderr)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def compare(size: Size, name: str, threads: int) -> tuple[str, ...]:
    """Both ways on one recording; a line of the table."""
    values, subjects = make(size)
    groups = [str(row) for row in range(size.rows)]
    splits = folds.make(RULE, groups)
    protocol = Protocol("brainscore2026", "none", RULE, REGRESSIONS[name], "max", metric="brainscore_r")
    started = time.perf_counter()

    def in_threads(call: Callable[[int], Any], n: int, _: float) -> Iterator[Any]:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(call, range(n))

    scoring, collected = seconds(collect, values, subjects.tolist(), groups, splits, protocol, run=in_threads)
    fitting, curves = seconds(extrapolate, collected, threads=threads)
    clock = time.perf_counter() - started
    n_pairs = sum(size.subjects - len(pool) for pool in collected.pools)
    n_draws = SUBSETS * HELD_OUT * (size.subjects - 1)
    their_scoring = n_draws * RULE.n * seconds_of_a_fit(values, subjects, splits, collected, name)
    their_fitting = size.neuroids * seconds_of_a_neuroid(collected, curves)
    ratio = (their_scoring + their_fitting) / (scoring + fitting)
    recording = f"{size.rows} x {size.neuroids}, {size.subjects} subjects"
    counts = map(str, (len(collected.pools), n_pairs, n_draws))
    numbers = [f"{each:.1f}" for each in (scoring, fitting, their_scoring, their_fitting)]
    return (recording, name, *counts, *numbers, f"{ratio:.0f}", f"{clock:.1f}")


def make(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """(row, neuroid) float32 responses to 40 things that all subjects hear, in noise of their own; the subjects."""
    rng = np.random.default_rng(0)
    heard = rng.standard_normal((size.rows, 40))
    values = heard @ rng.standard_normal((40, size.neuroids)) * rng.uniform(0.0, 0.15, size.neuroids)
    values += rng.standard_normal(values.shape)
    return values.astype(np.float32), np.sort(np.arange(size.neuroids) % size.subjects).astype(str)


def seconds_of_a_fit(
    values: np.ndarray, subjects: np.ndarray, splits: list[Any], collected: PooledScores, name: str
) -> float:
    """Mean over three sizes of pool of one split by scikit-learn, in float64 as Brain-Score."""
    spent, (train, test) = [], splits[0]
    n_subjects = len(np.unique(subjects))
    for n_others in (1, n_subjects // 2, n_subjects - 1):
        place = next(k for k, pool in enumerate(collected.pools) if len(pool) == n_others)
        pool = collected.pools[place]
        predicted = next(name for name in np.unique(subjects) if name not in pool)
        X = values[:, np.isin(subjects, pool)].astype(float)
        Y = values[:, subjects == predicted].astype(float)
        model = LinearRegression() if name == "least squares" else RidgeCV(BRAINSCORE_RIDGE.alphas)
        took, predictions = seconds(fit_and_predict, model, X[train], Y[train], X[test])
        r = brainscore_r(predictions, Y[test])
        np.testing.assert_allclose(collected.scores[place, 0, subjects == predicted], r, rtol=0, atol=1e-6)
        spent.append(took)
    return float(np.mean(spent))


def fit_and_predict(model: Any, X: np.ndarray, Y: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(row, neuroid) predictions of the test rows."""
    return model.fit(X, Y).predict(test)


def seconds_of_a_neuroid(collected: PooledScores, curves: np.ndarray) -> float:
    """Mean over two neuroids of 100 bootstraps and fits, one after the other."""
    sizes = np.array([len(pool) for pool in collected.pools])
    spent = []
    for neuroid in (0, len(curves) // 2):
        took, v0 = seconds(one_after_the_other, collected.scores[..., neuroid], sizes)
        assert np.quantile(np.abs(v0 - curves[neuroid, :, 0]), 0.9) < 1e-4, "other curves"
        spent.append(took)
    return float(np.mean(spent))


def one_after_the_other(scores: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(bootstrap,) v0 of one neuroid, as Brain-Score computes it but for its labelled arrays, which take longer."""
    random, there, found = np.random.RandomState(0), ~np.isnan(scores).any(axis=1), []
    x = np.unique(sizes[there])
    for _ in range(100):
        flat = [scores[there & (sizes == size)].flatten() for size in x]
        means = [random.choice(each, size=len(each), replace=True).mean() for each in flat]
        try:
            found.append(curve_fit(curve, x + 1, means, bounds=([0, -np.inf], [1, np.inf]))[0][0])
        except RuntimeError:
            found.append(np.nan)
    return np.array(found)


def curve(x: np.ndarray, v0: float, tau0: float) -> np.ndarray:
    """v(x)."""
    return v0 * (1 - np.exp(-x / tau0))


def seconds(call: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[float, Any]:
    """Processor seconds it took, and what it gave."""
    started = time.process_time()
    with threadpool_limits(1, user_api="blas"):
        found = call(*arguments, **named)
    return time.process_time() - started, found


if __name__ == "__main__":
    main()
