"""Similarity over held-out pairs: equal to SciPy's distances and explicit centring, and 0 for unrelated matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from harness.kernels.pairs import about_mean, cross_products, gram, held_out_cka, held_out_rsa, shared_products
from harness.kernels.similarity import linear_cka

N = 60
TEST, TRAIN = np.arange(12), np.arange(15, N)


def _related(seed=0, n=N, offset=0.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 12)) + offset
    return X, X[:, :4] @ rng.normal(size=(4, 7)) + rng.normal(size=(n, 7)) - 3 * offset


def _explicit_cka(X, Y, train, test):
    """Correlation of the inner products of centred test rows with centred training rows."""
    K, L = (((Z[test] - Z[test].mean(0)) @ (Z[train] - Z[train].mean(0)).T).ravel() for Z in (X, Y))
    return K @ L / np.sqrt(K @ K * (L @ L))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_held_out_similarities_equal_their_definitions(offset):
    X, Y = _related(offset=offset)
    distances = (cdist(Z[TEST], Z[TRAIN], "correlation").ravel() for Z in (X, Y))
    assert held_out_rsa(X, Y, TRAIN, TEST) == pytest.approx(spearmanr(*distances).statistic, abs=1e-9)
    assert held_out_cka(X, Y, TRAIN, TEST) == pytest.approx(_explicit_cka(X, Y, TRAIN, TEST), abs=1e-9)


def test_a_matrix_is_similar_to_itself_and_to_its_rotations():
    X, _ = _related()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
    assert held_out_cka(X, 3 * X @ rotation, TRAIN, TEST) == pytest.approx(1)
    assert held_out_rsa(X, 3 * X, TRAIN, TEST) == pytest.approx(1)


def test_unrelated_matrices_with_many_columns_are_similar_only_over_all_pairs():
    rng = np.random.default_rng(0)
    pairs = [rng.normal(size=(2, 40, 400)) for _ in range(50)]
    held_out = [held_out_cka(X, Y, np.arange(10, 40), np.arange(10)) for X, Y in pairs]
    assert np.mean([linear_cka(X, Y) for X, Y in pairs]) > 0.9
    assert abs(np.mean(held_out)) < 3 * np.std(held_out) / np.sqrt(50)
    assert np.std(held_out) < 0.1


@pytest.mark.parametrize("constant", [0, 1])
def test_what_does_not_vary_cannot_be_compared(constant):
    matrices = list(_related())
    matrices[constant] = np.ones_like(matrices[constant])
    assert np.isnan(held_out_cka(*matrices, TRAIN, TEST))
    assert np.isnan(held_out_rsa(*matrices, TRAIN, TEST))


def test_broken_input_is_refused():
    X, Y = _related()
    Y[3, 2] = np.nan
    with pytest.raises(ValueError, match="row 3"):
        held_out_cka(X, Y, TRAIN, TEST)
    with pytest.raises(ValueError, match="same number of rows"):
        held_out_rsa(X, Y[:-1], TRAIN, TEST)


@pytest.mark.parametrize("gap", [0, 2])
@pytest.mark.parametrize("numbers", [2**24, 12 * 5 * 16])
def test_cross_products_equal_sums_over_pairs_of_rows(gap, numbers, monkeypatch):
    monkeypatch.setattr("harness.kernels.pairs._NUMBERS", numbers)  # all columns at once, or 16 at a time
    X, _ = _related()
    Y = np.random.default_rng(2).normal(size=(N, 35)) + X[:, :1]
    blocks = np.array_split(np.arange(N), 5)
    folds = [(np.setdiff1d(np.arange(N), np.arange(block[0] - gap, block[-1] + gap + 1)), block) for block in blocks]
    ours, fold_of_row = cross_products(X, Y, folds), np.repeat(np.arange(5), 12)
    for k, (train, test) in enumerate(folds):
        K, L = ((Z[test] - Z[test].mean(0)) @ (Z[train] - Z[train].mean(0)).T for Z in (X, Y))
        assert ours.outer[k] == pytest.approx((K * L).sum())
        separated = fold_of_row[train][:, None] != fold_of_row[train]
        K, L = (gram(Z[train])[separated] for Z in (X, Y))
        assert ours.inner[k] == pytest.approx((K * L).sum())


def test_shared_products_are_summed_over_blocks_of_columns():
    rng = np.random.default_rng(3)
    A, B, C, D = (rng.normal(size=shape) for shape in ((9, 4), (9, 600), (8, 4), (8, 600)))
    assert shared_products(A, B, C, D) == pytest.approx(((A.T @ B) * (C.T @ D)).sum())
    assert not about_mean(np.full((4, 2), 0.1)).any()
