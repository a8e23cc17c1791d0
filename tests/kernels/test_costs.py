"""The forecast of a fit: counted by hand, and against what a fit allocates."""

import tracemalloc

import numpy as np
import pytest

from harness.kernels import costs, ways
from harness.kernels.costs import Cost, Sizes
from harness.kernels.gram import design
from harness.kernels.primal import pays
from harness.kernels.responses import patterns
from harness.kernels.ridge import Penalty, Split, fit_folds
from harness.kernels.work import Work


def problem(n, p, v, n_blocks, n_folds=4, n_alphas=6):
    random = np.random.default_rng(0)
    X, fold, block = random.normal(size=(n, p)), np.arange(n) * n_folds // n, np.arange(n) * n_blocks // n
    Y = X[:, :3] @ random.normal(size=(3, v)) + random.normal(size=(n, v))
    splits = [
        Split(np.flatnonzero(fold != k), np.flatnonzero(fold == k), block[fold != k] if n_blocks else None)
        for k in range(n_folds)
    ]
    inner = tuple((len(rows), len(rows)) for rows in splits[0].inner_blocks()) if n_blocks else None
    return X, Y, splits, Sizes(len(splits[0].train), len(splits[0].test), p, v, n_alphas, n_folds, inner)


def test_operations_of_the_dual_without_blocks_are_those_counted_by_hand():
    n, p, v = 300, 1000, 50
    cost = costs.of_fit(Sizes(n, 75, p, v, 12, 5, None))
    by_hand = 5 * (n**2 * p / 5 + 8 * n**3 + 4 * n * (n - 1) * v + 3.6 * n * (n - 1) * v)
    assert cost.way == "dual"
    assert cost.operations == pytest.approx(by_hand)


def test_operations_of_the_primal_are_those_counted_by_hand():
    n, p, v = 30_000, 200, 50
    cost = costs.of_fit(Sizes(n, 7_500, p, v, 12, 5, None))
    by_hand = 5 * (3 * n * p**2 + 8 * p**3 + (4 * n * p + 2 * p**2) * v + 3.6 * n * p * v)
    assert cost.way == "primal"
    assert cost.operations == pytest.approx(by_hand)


@pytest.mark.parametrize("n_blocks", [0, 8])
def test_the_difference_of_the_two_ways_decides(n_blocks):
    blocks = tuple((500, 520) for _ in range(n_blocks)) or None
    sizes = 4_000, 300, 200, 12
    both = ways.dual(*sizes, blocks, 5, True), ways.primal(*sizes, blocks)
    assert ways.primal_saves(*sizes, blocks, 5, True) == both[0] - both[1]


@pytest.mark.parametrize(("sizes", "way"), [
    ((500, 900, 1500, 0), "dual"), ((800, 900, 400, 5), "dual"), ((4000, 150, 100, 0), "primal"),
    ((4000, 200, 300, 5), "primal"),
])  # fmt: skip
def test_the_memory_of_a_fit_is_at_most_the_forecast_and_not_a_small_part_of_it(sizes, way):
    X, Y, splits, counted = problem(*sizes)
    tracemalloc.start()
    fit_folds(design(X), Y, splits, Penalty(tuple(10.0**k for k in range(6))))
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    cost = costs.of_fit(counted)
    work = Work(design(X), Y, Penalty(tuple(10.0**k for k in range(6))))
    assert cost.way == way == ("primal" if pays(work, patterns(Y)[0], splits) else "dual")
    assert 0.2 * cost.n_bytes < taken < 1.1 * cost.n_bytes


def test_computations_after_another_add_operations_and_share_memory():
    assert costs.together([Cost(2.0, 30.0, "dual"), Cost(3.0, 20.0, "primal")]) == Cost(5.0, 30.0, "")
    assert costs.together([Cost(2.0, 30.0, "dual")]) == Cost(2.0, 30.0, "dual")
