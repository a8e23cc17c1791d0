"""Leaving out blocks by triangles, by inverses and by refits gives the same errors."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from harness.kernels import blocks as module
from harness.kernels.blocks import Blocks, Triangles, blocks
from harness.kernels.gram import decompose, design
from harness.kernels.metrics import pearson_r
from harness.kernels.ridge import Penalty, Split
from harness.kernels.search import ROUNDING
from tests.kernels.planted import fit, left_out_errors, variation
from tests.kernels.test_search import ALPHAS, outside, problem, problems

SIZES = {"equal": [7] * 5, "unequal": [1, 12, 3, 9, 10]}


def rows_of(sizes, seed=0):
    """Rows of blocks with these sizes, in random order."""
    rows = np.random.default_rng(seed).permutation(sum(sizes))
    return [rows[start:stop] for start, stop in pairwise(np.cumsum([0, *sizes]))]


def labels_of(rows):
    labels = np.empty(sum(map(len, rows)), dtype=int)
    for label, block in enumerate(rows):
        labels[block] = label
    return labels


def both(rows, basis, mean_over="rows", dtype=np.float64):
    """Both searches, selected by the number of neuroids."""
    U = basis.U.astype(dtype)
    return tuple(blocks(rows, basis, ALPHAS, U, mean_over, many) for many in (1, 10_000))


class Refit:
    """Primal ridge with intercept as least squares with penalty rows, without the precision loss of squaring."""

    def __init__(self, alpha):
        self.alpha = alpha

    def fit(self, X, Y):
        self.means = X.mean(axis=0), Y.mean(axis=0)
        p, v = X.shape[1], Y.shape[1]
        held = np.vstack([X - self.means[0], np.sqrt(self.alpha) * np.eye(p)])
        self.weights = np.linalg.lstsq(held, np.vstack([Y - self.means[1], np.zeros((p, v))]), rcond=None)[0]
        return self

    def predict(self, X):
        return (X - self.means[0]) @ self.weights + self.means[1]


@pytest.mark.parametrize("massive", [1.0, 1e4])
@pytest.mark.parametrize("mean_over", ["rows", "blocks"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("p", [12, 90], ids=["p<n", "p>n"])
def test_blocks_and_triangles_give_the_errors_of_refits(p, sizes, mean_over, massive):
    rng, rows = np.random.default_rng(0), rows_of(SIZES[sizes])
    X = rng.standard_normal((40, p)) + 3.0
    X[:, :2] = X[:, :2] * massive + massive
    Y = X @ rng.standard_normal((p, 6)) / X.std() * np.linspace(0, 1, 6) + rng.standard_normal((40, 6))
    basis = decompose(design(X), np.arange(35), np.arange(35, 40))
    y, ways = Y[:35] - Y[:35].mean(axis=0), both(rows, basis, mean_over)
    assert [type(way) for way in ways] == [Blocks, Triangles if p == 90 else Blocks]
    again = np.stack([left_out_errors(X[:35], Y[:35], labels_of(rows), Refit(a), mean_over) for a in ALPHAS], axis=1)
    # Features 1e4 times larger cost 8 of 16 digits in the Gram matrix; the rest is the condition number.
    for way in ways:
        np.testing.assert_allclose(
            way.errors(y.T @ basis.U, outside(basis, y, y.T @ basis.U)), again, rtol=1e-9 if massive == 1 else 1e-5
        )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=6), **{k: v for k, v in problems.items() if k != "n"})
def test_a_dropped_alpha_would_not_have_been_chosen(sizes, p, noise, massive, seed):
    if sum(sizes) < 8:
        sizes = [*sizes, 8]
    basis, y, W = problem(sum(sizes) + 5, p, 40, noise, massive, seed)
    rows = rows_of(sizes, seed)
    by_inverses, way = both(rows, basis)
    every, few = way.errors(W, outside(basis, y, W)), way.least_errors(W, outside(basis, y, W))
    least = every.min(axis=1, keepdims=True)
    assert np.isfinite(few[every <= least * (1 + ROUNDING / 2 * np.finfo(float).eps)]).all()
    computed = np.isfinite(few)
    np.testing.assert_allclose(few[computed], every[computed], rtol=1e-9)
    # The condition of P_BB costs digits if a weak penalty fits a block almost exactly.
    np.testing.assert_allclose(every, by_inverses.errors(W, outside(basis, y, W)), rtol=1e-5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(scale=st.sampled_from([1e-14, 1e-8, 1.0, 1e8, 1e15]), seed=st.integers(0, 99), p=st.integers(60, 200))
def test_alphas_dropped_in_float32_are_worse_by_more_than_rounding(scale, seed, p):
    basis, y, W = problem(65, p, 60, 1.0, 1.0, seed)
    _, way = both(rows_of([9, 21, 12, 18], seed), basis, dtype=np.float32)
    assert isinstance(way, Triangles)
    W = (W * scale / y.std()).astype(np.float32)
    every, few = way.errors(W, outside(basis, y, W)), way.least_errors(W, outside(basis, y, W))
    near = every <= every.min(axis=1, keepdims=True) * (1 + ROUNDING / 2 * np.finfo(np.float32).eps)
    assert few.dtype == np.float32
    assert np.isfinite(every).all()
    assert np.isfinite(few[near]).all()


def signal_in_noise(n_train=240, v=300):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_train + 10, 600))
    Y = X @ rng.standard_normal((600, v)) / 25 + 3 * rng.standard_normal((n_train + 10, v))
    basis = decompose(design(X), np.arange(n_train), np.arange(n_train, n_train + 10))
    y = Y[:n_train] - Y[:n_train].mean(axis=0)
    return basis, y, y.T @ basis.U


def test_most_alphas_are_dropped():
    basis, y, W = signal_in_noise()
    _, way = both(rows_of([48] * 5), basis)
    assert np.isfinite(way.least_errors(W, outside(basis, y, W))).sum(axis=1).mean() < len(ALPHAS) / 3
    assert len(way.steps[0]) == 4  # else no neuroid could be given up halfway
    assert way.steps[0][0].shape[1] < 100  # the first step is a cheap one


@pytest.mark.parametrize("failure", ["an error, as NumPy", "NaN, as CuPy", "unfaithful"])
def test_errors_are_the_same_if_the_cholesky_factorisation_fails(failure, monkeypatch):
    basis, y, W = signal_in_noise(120, 30)
    rows = rows_of([40, 20, 60])
    expected = both(rows, basis)[0].errors(W, outside(basis, y, W))
    whole = np.linalg.cholesky
    calls = []

    def failing(square):
        calls.append(len(square))
        if failure == "an error, as NumPy":
            raise np.linalg.LinAlgError("Matrix is not positive definite")
        return whole(square) * (np.nan if failure == "NaN, as CuPy" else 1.001)

    monkeypatch.setattr(np.linalg, "cholesky", failing)
    _, way = both(rows, basis)
    assert len(calls) == len(ALPHAS)
    assert isinstance(way, Triangles)
    assert {len(steps) for steps in way.steps} == {1}
    np.testing.assert_allclose(way.errors(W, outside(basis, y, W)), expected, rtol=1e-9)
    few = way.least_errors(W, outside(basis, y, W))
    np.testing.assert_array_equal(few.argmin(axis=1), expected.argmin(axis=1))


def test_triangles_are_used_for_many_neuroids_only():
    basis, _, _ = signal_in_noise(60, 1)
    rows = rows_of([20, 40])
    kinds = [type(blocks(rows, basis, ALPHAS, basis.U, "rows", many)) for many in (60 * module._MANY, 1e6)]
    assert kinds == [Blocks, Triangles]
    assert type(blocks(rows, basis, ALPHAS[:1], basis.U, "rows", 1e6)) is Blocks  # nothing to choose


@pytest.mark.parametrize("p", [20, 150], ids=["p<n", "p>n"])
@pytest.mark.parametrize("v", [30, 500], ids=["blocks", "triangles"])
@pytest.mark.parametrize("precision", ["float64", "mixed"])
@pytest.mark.filterwarnings("ignore:Solving linear kernel ridge is slower")
def test_inner_k_fold_chooses_the_alphas_of_himalaya(p, v, precision):
    peer = pytest.importorskip("himalaya.kernel_ridge")
    pytest.importorskip("himalaya.backend").set_backend("numpy")
    rng = np.random.default_rng(1)
    X = rng.standard_normal((120, p)) + 2.0
    Y = X @ rng.standard_normal((p, v)) / np.sqrt(p) * np.linspace(0, 2, v) + rng.standard_normal((120, v)) + 5.0
    train, alphas = np.arange(103), np.logspace(-3, 5, 9)  # inner folds of 21, 21, 21, 20, 20 rows
    inner = np.repeat(np.arange(5), [21, 21, 21, 20, 20])
    theirs = peer.KernelRidgeCV(alphas=alphas, fit_intercept=True, cv=KFold(5)).fit(X[train], Y[train])
    split = Split(train, np.arange(103, 120), inner)
    ours = fit(X, Y, split, Penalty(tuple(alphas), mean_over="blocks"), precision=precision)
    assert len(set(theirs.best_alphas_)) > 3
    same = np.isclose(ours.alpha, theirs.best_alphas_, rtol=1e-6)
    error = (1 - ours.inner) * variation(Y[train]) / len(train)
    preference = 1e-10 * np.log(theirs.best_alphas_)  # they add this to a score, so that ties go to the larger alpha
    gap = abs(error + theirs.cv_scores_.reshape(-1) - preference)
    assert gap.max() < {"float64": 1e-9, "mixed": 1e-5}[precision]  # float32 has 7 digits
    assert same.mean() > 0.99  # else the gap is one between alphas that are all alike
    r = pearson_r(theirs.predict(X[split.test]), Y[split.test])
    # For p < n their kernel is singular, and a weak penalty costs them up to 6e-6 against a refit, ours 2e-16.
    np.testing.assert_allclose(ours.r[same], r[same], rtol=0, atol=1e-5)


@pytest.mark.parametrize("v", [3, 300], ids=["inverses", "triangles"])
@pytest.mark.parametrize("p", [12, 90], ids=["p<n", "p>n"])
def test_a_gap_around_a_block_is_left_out_with_it_as_in_refits(p, v):
    rng, gap, alphas = np.random.default_rng(3), 2, ALPHAS[2:6]
    X = rng.standard_normal((60, p))
    Y = X @ rng.standard_normal((p, v)) + 5 * rng.standard_normal((60, v))
    train, labels = np.r_[:22, 30:60], np.repeat([0, 1, 2, 3], [16, 6 + 8, 12, 10])  # block 1 lies on both sides
    found = fit(X, Y, Split(train, np.arange(24, 28), labels, gap), Penalty(tuple(alphas)))
    errors = np.zeros((len(alphas), v))
    for label in range(4):
        own = train[labels == label]
        kept = np.array([row for row in train if abs(row - own).min() > gap])
        for k, alpha in enumerate(alphas):
            errors[k] += ((Y[own] - Refit(alpha).fit(X[kept], Y[kept]).predict(X[own])) ** 2).sum(axis=0)
    np.testing.assert_array_equal(found.place, errors.argmin(axis=0))
    np.testing.assert_allclose(found.inner, 1 - errors.min(axis=0) / variation(Y[train]), atol=1e-9)
    without = fit(X, Y, Split(train, np.arange(24, 28), labels), Penalty(tuple(alphas)))
    assert abs(without.inner - found.inner).max() > 1e-3


@pytest.mark.parametrize(("gap", "measured"), [(6, True), (7, False)])
def test_nothing_is_measured_if_a_block_and_its_gap_are_all_training_rows(gap, measured):
    X, Y = np.random.default_rng(0).standard_normal((2, 20, 5))
    found = fit(X, Y, Split(np.arange(14), np.arange(14, 20), np.repeat([0, 1], 7), gap))
    assert np.isfinite(found.r).all() == measured
