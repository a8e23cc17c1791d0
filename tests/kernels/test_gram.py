"""Gram matrices and their decomposition."""

from __future__ import annotations

import numpy as np
import pytest

from harness.kernels.gram import _of_features, _of_rows, decompose, design


@pytest.mark.parametrize("n_features", [5, 200])
def test_directions_and_held_out_rows_reproduce_the_centred_inner_products(n_features):
    X = np.random.default_rng(0).standard_normal((40, n_features)) + 7
    train, test = np.arange(5, 40), np.arange(5)
    basis = decompose(design(X), train, test)
    Z = X - X[train].mean(axis=0)
    assert len(basis.lam) == min(n_features, 34)
    assert basis.spans == (n_features == 200)
    np.testing.assert_allclose((basis.U * basis.lam) @ basis.U.T, Z[train] @ Z[train].T, atol=1e-9)
    np.testing.assert_allclose(basis.T @ basis.U.T, Z[test] @ Z[train].T, atol=1e-9)
    np.testing.assert_allclose(basis.U.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(basis.mean_lam, (Z[train] ** 2).sum() / 35)


@pytest.mark.parametrize("scale", ["center", "zscore"])
@pytest.mark.parametrize("n_features", [20, 300])
def test_features_in_float32_are_decomposed_in_float64(scale, n_features):
    X = np.random.default_rng(1).standard_normal((90, n_features))
    X[:, 3] = 3e3 * X[:, 3] + 2e4  # a massive dimension, as language models have, in any basis
    X = X @ np.linalg.qr(np.random.default_rng(2).standard_normal((n_features, n_features)))[0]
    X, train, test = X.astype(np.float32), np.arange(80), np.arange(80, 90)
    ours, exact = decompose(design(X, scale), train, test), decompose(design(X.astype(float), scale), train, test)
    assert {array.dtype for array in (ours.U, ours.lam, ours.T)} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(ours.lam, exact.lam)
    np.testing.assert_array_equal(ours.T, exact.T)
    Z = X.astype(float) - X[train].astype(float).mean(axis=0)
    if scale == "center":
        np.testing.assert_allclose(
            (ours.U * ours.lam) @ ours.U.T, Z[train] @ Z[train].T, rtol=0, atol=1e-8 * ours.lam[0]
        )
        np.testing.assert_allclose(ours.lam.sum(), (Z[train] ** 2).sum(), rtol=1e-12)


def test_blocks_of_columns_do_not_change_the_gram_matrix():
    X = np.random.default_rng(0).standard_normal((6, 5000))
    Z = X - X.mean(axis=0)
    np.testing.assert_allclose(design(X).gram(np.arange(6)), Z @ Z.T, rtol=1e-12)


def test_constant_features_have_rank_0():
    X = np.full((20, 30), 0.1) * np.arange(30)  # means over 20 rows are not exact
    assert len(decompose(design(X), np.arange(15), np.arange(15, 20)).lam) == 0


@pytest.mark.parametrize("n_train", [15, 50, 90])
def test_features_that_vary_only_in_test_rows_have_rank_0(n_train):
    rng = np.random.default_rng(0)
    X = np.tile(rng.standard_normal(30), (100, 1))
    X[n_train:] += rng.standard_normal((100 - n_train, 30))
    assert len(decompose(design(X), np.arange(n_train), np.arange(n_train, 100)).lam) == 0


@pytest.mark.parametrize("n_features", [1, 4])
def test_repeated_features_add_no_rank(n_features):
    X = np.random.default_rng(0).choice([-1.0, 1.0], (600, n_features))
    assert len(decompose(design(np.hstack([X, X, X])), np.arange(500), np.arange(500, 600)).lam) == n_features


def test_a_feature_that_is_not_finite_is_named():
    X = np.zeros((4, 6))
    X[2, 3] = np.inf
    with pytest.raises(ValueError, match="column 3 of 6"):
        design(X)


@pytest.mark.parametrize(("cutoff", "rank"), [(0, 10), (1e-12, 10), (5e-6, 6), (0.5, 1)])
def test_the_cutoff_drops_directions_by_their_squared_singular_value(cutoff, rank):
    X = np.random.default_rng(0).standard_normal((60, 10))
    X -= X[:50].mean(axis=0)
    s, directions = np.linalg.svd(X[:50], full_matrices=False)[1:]
    X = X @ directions.T / s * np.logspace(0, -4.5, 10)  # now the singular values of the training rows
    assert len(decompose(design(X), np.arange(50), np.arange(50, 60), cutoff).lam) == rank


@pytest.mark.parametrize("scale", ["center", "zscore"])
@pytest.mark.parametrize("massive", [1.0, 1e4])
def test_few_features_give_the_same_directions_as_their_inner_products(scale, massive):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 12)) + 5.0
    X[:, 3] *= massive
    train, test = np.arange(20, 80), np.arange(20)
    thin = design(X, scale)
    assert thin.is_thin
    by_features, by_rows = (way(thin, train, test, 0.0) for way in (_of_features, _of_rows))
    for a, b in (
        ((by_features.U * by_features.lam) @ by_features.U.T, (by_rows.U * by_rows.lam) @ by_rows.U.T),
        (by_features.T @ by_features.U.T, by_rows.T @ by_rows.U.T),
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * abs(b).max())
    assert by_features.mean_lam == pytest.approx(by_rows.mean_lam)
    np.testing.assert_allclose(by_features.U.sum(axis=0), 0, atol=1e-9)
