"""Alphas that were ruled out without computing their errors would not have been chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.gram import decompose, design
from kernels.search import Blocks, _inverse, leaving_out

ALPHAS = np.logspace(-4, 8, 13)


def _problem(n, p, v, noise, massive, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * np.exp(rng.standard_normal(p))
    X[:, : 1 + p // 50] *= massive
    Y = X @ rng.standard_normal((p, v)) * np.exp(rng.normal(0, 2, v)) / np.sqrt(p) + noise * rng.standard_normal((n, v))
    basis = decompose(design(X), np.arange(n - 5), np.arange(n - 5, n))
    y = Y[: n - 5] - Y[: n - 5].mean(axis=0)
    return basis, y, basis.U.T @ y


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.integers(12, 60),
    p=st.integers(1, 120),
    noise=st.sampled_from([0.0, 0.1, 1.0, 30.0]),
    massive=st.sampled_from([1.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_the_least_error_of_every_neuroid_is_computed(n, p, noise, massive, seed):
    basis, y, W = _problem(n, p, 40, noise, massive, seed)
    rows = leaving_out([np.array([i]) for i in range(n - 5)], basis, ALPHAS)
    every, few = rows.errors(y, W), rows.least_errors(y, W)
    np.testing.assert_array_equal(few.argmin(axis=0), every.argmin(axis=0))
    computed = np.isfinite(few)
    np.testing.assert_allclose(few[computed], every[computed], rtol=1e-9)


def test_most_alphas_are_ruled_out_where_rows_are_alike():
    """How many depends on how much the rows' leverages differ, and on how flat the error is in alpha."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((384, 768))
    Y = X @ rng.standard_normal((768, 500)) / 28 + 3 * rng.standard_normal((384, 500))
    basis = decompose(design(X), np.arange(344), np.arange(344, 384))
    y = Y[:344] - Y[:344].mean(axis=0)
    few = leaving_out([np.array([i]) for i in range(344)], basis, ALPHAS).least_errors(y, basis.U.T @ y)
    assert np.isfinite(few).sum(axis=0).mean() < len(ALPHAS) / 2


@pytest.mark.parametrize("p", [10, 90])
def test_blocks_of_single_rows_give_what_single_rows_give(p):
    basis, y, W = _problem(40, p, 10, 1.0, 1.0, 0)
    rows = [np.array([i]) for i in range(35)]
    inverses = [[_inverse(basis, kept, row) for row in rows] for kept in leaving_out(rows, basis, ALPHAS).kept]
    on_spanned = [
        np.vstack([inverse @ (basis.U[row] * kept) for inverse, row in zip(those, rows, strict=True)])
        for those, kept in zip(inverses, leaving_out(rows, basis, ALPHAS).kept, strict=True)
    ]
    as_blocks = Blocks(basis, rows, on_spanned, inverses)
    np.testing.assert_allclose(as_blocks.errors(y, W), leaving_out(rows, basis, ALPHAS).errors(y, W), rtol=1e-9)
