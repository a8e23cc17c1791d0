"""Alphas pruned by the bound would not have been chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.kernels.blocks import Blocks, blocks
from harness.kernels.gram import decompose, design
from harness.kernels.search import ROUNDING, single_rows

ALPHAS = np.logspace(-4, 8, 13)


def outside(basis, y, W, U=None):
    """The part of the responses outside the directions."""
    return None if basis.spans else y.T - W @ (basis.U if U is None else U).T


def problem(n, p, v, noise, massive, seed):
    """Basis of n - 5 training rows, centred (row, neuroid) responses of varying signal strength, (neuroid, rank) W."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * np.exp(rng.standard_normal(p))
    X[:, : 1 + p // 50] *= massive
    Y = X @ rng.standard_normal((p, v)) * np.exp(rng.normal(0, 2, v)) / np.sqrt(p) + noise * rng.standard_normal((n, v))
    basis = decompose(design(X), np.arange(n - 5), np.arange(n - 5, n))
    y = Y[: n - 5] - Y[: n - 5].mean(axis=0)
    return basis, y, y.T @ basis.U


problems = {
    "n": st.integers(12, 60),
    "p": st.integers(1, 120),
    "noise": st.sampled_from([0.0, 0.1, 1.0, 30.0]),
    "massive": st.sampled_from([1.0, 1e4]),
    "seed": st.integers(0, 99),
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(**problems)
def test_the_smallest_error_of_every_neuroid_is_computed(n, p, noise, massive, seed):
    basis, y, W = problem(n, p, 40, noise, massive, seed)
    rows = single_rows(basis, ALPHAS, basis.U)
    every, few = rows.errors(W, outside(basis, y, W)), rows.least_errors(W, outside(basis, y, W))
    np.testing.assert_array_equal(few.argmin(axis=1), every.argmin(axis=1))
    computed = np.isfinite(few)
    np.testing.assert_allclose(few[computed], every[computed], rtol=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(scale=st.sampled_from([1e-14, 1e-8, 1.0, 1e8, 1e15]), **problems)
def test_alphas_pruned_in_float32_are_worse_by_more_than_rounding(n, p, noise, massive, seed, scale):
    """For responses in any unit: fourth powers of 1e-13 (tesla) underflow in float32."""
    basis, y, W = problem(n, p, 40, noise, massive, seed)
    scale = np.float32(scale / y.std())
    y, W, U = (scale * a.astype(np.float32) for a in (y, W, basis.U / scale))
    rest = outside(basis, y, W, U)
    rows = single_rows(basis, ALPHAS, U)
    every, few = rows.errors(W, rest), rows.least_errors(W, rest)
    assert few.dtype == np.float32
    least = every.min(axis=1, keepdims=True)
    near = every <= least * (1 + ROUNDING / 2 * np.finfo(np.float32).eps)
    near &= least > 1e-32  # of what is fitted exactly, rounding itself is too small to be a float32
    assert near.any() or scale < 1e-8
    assert np.isfinite(few[near]).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_most_alphas_are_pruned_if_rows_have_similar_leverage(dtype):
    """The number depends on how much leverage varies over rows and how flat the error is in alpha."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((384, 768))
    Y = X @ rng.standard_normal((768, 500)) / 28 + 3 * rng.standard_normal((384, 500))
    basis = decompose(design(X), np.arange(344), np.arange(344, 384))
    y, U = (Y[:344] - Y[:344].mean(axis=0)).astype(dtype), basis.U.astype(dtype)
    few = single_rows(basis, ALPHAS, U).least_errors(y.T @ U, None)
    assert np.isfinite(few).sum(axis=1).mean() < len(ALPHAS) / 4


@pytest.mark.parametrize("p", [10, 90])
def test_blocks_of_single_rows_equal_single_rows(p):
    basis, y, W = problem(40, p, 10, 1.0, 1.0, 0)
    as_blocks = blocks([np.array([i]) for i in range(35)], basis, ALPHAS, basis.U, "rows", 10)
    assert isinstance(as_blocks, Blocks)
    np.testing.assert_allclose(
        as_blocks.errors(W, outside(basis, y, W)),
        single_rows(basis, ALPHAS, basis.U).errors(W, outside(basis, y, W)),
        rtol=1e-9,
    )


@pytest.mark.parametrize("p", [10, 90])
def test_the_bound_of_an_alpha_is_never_above_its_error(p):
    basis, y, W = problem(40, p, 30, 1.0, 1.0, 0)
    rows = single_rows(basis, ALPHAS, basis.U)
    rest = outside(basis, y, W)
    errors = rows.errors(W, rest)
    squares = W * W if rest is None else np.hstack([W * W, (rest**2).sum(axis=1)[:, None]])
    for k in range(len(ALPHAS)):
        bounds = rows._bounds(k, rows._residual(k, W, rest) ** 2, squares)
        assert (bounds <= errors).all()
        np.testing.assert_allclose(bounds[:, k], errors[:, k], rtol=1e-6)  # tight where it starts
    assert ROUNDING * np.finfo(float).eps < 1e-6
