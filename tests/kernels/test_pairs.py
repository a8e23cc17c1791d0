"""Similarity over held-out pairs: equal to SciPy's distances and explicit centring, and 0 for unrelated matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import rankdata, spearmanr

from harness.kernels import pairs
from harness.kernels.pairs import SortedPairs, cross_products, gram, squared_products, standard_products, standard_ranks
from harness.kernels.similarity import about_mean, dissimilarities, linear_cka, rounding_of

N = 60
TEST, TRAIN = np.arange(12), np.arange(15, N)


def _related(seed=0, n=N, offset=0.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 12)) + offset
    return X, X[:, :4] @ rng.normal(size=(4, 7)) + rng.normal(size=(n, 7)) - 3 * offset


def _explicit_cka(X, Y):
    """Correlation of the inner products of centred test rows with centred training rows."""
    K, L = (((Z[TEST] - Z[TEST].mean(0)) @ (Z[TRAIN] - Z[TRAIN].mean(0)).T).ravel() for Z in (X, Y))
    return K @ L / np.sqrt(K @ K * (L @ L))


def _cka(X, Y, train=TRAIN, test=TEST):
    return (standard_products(gram(X)[np.ix_(test, train)]) * standard_products(gram(Y)[np.ix_(test, train)])).sum()


def _rsa(X, Y):
    x, y = (standard_ranks(dissimilarities(Z)[np.ix_(TEST, TRAIN)].ravel(), rounding_of(Z)) for Z in (X, Y))
    return x @ y


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_held_out_similarities_equal_their_definitions(offset):
    X, Y = _related(offset=offset)
    distances = (cdist(Z[TEST], Z[TRAIN], "correlation").ravel() for Z in (X, Y))
    assert _rsa(X, Y) == pytest.approx(spearmanr(*distances).statistic, abs=1e-9)
    assert _cka(X, Y) == pytest.approx(_explicit_cka(X, Y), abs=1e-9)


def test_a_matrix_is_similar_to_itself_and_to_its_rotations():
    X, _ = _related()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
    assert _cka(X, 3 * X @ rotation) == pytest.approx(1)
    assert _rsa(X, 3 * X) == pytest.approx(1)


def test_unrelated_matrices_with_many_columns_are_similar_only_over_all_pairs():
    rng = np.random.default_rng(0)
    pairs = [rng.normal(size=(2, 40, 400)) for _ in range(50)]
    held_out = [_cka(X, Y, np.arange(10, 40), np.arange(10)) for X, Y in pairs]
    assert np.mean([linear_cka(X, Y) for X, Y in pairs]) > 0.9
    assert abs(np.mean(held_out)) < 3 * np.std(held_out) / np.sqrt(50)
    assert np.std(held_out) < 0.1


@pytest.mark.parametrize("constant", [0, 1])
def test_what_does_not_vary_cannot_be_compared(constant):
    matrices = list(_related())
    matrices[constant] = np.ones_like(matrices[constant])
    assert np.isnan(_cka(*matrices))
    assert np.isnan(_rsa(*matrices))


def test_pairs_that_are_sorted_once_have_the_ranks_of_those_sorted_by_themselves():
    matrix = np.random.default_rng(4).integers(0, 20, (N, N)).astype(float)
    matrix += matrix.T  # many ties
    every = SortedPairs(matrix, 0.5)
    chosen = np.random.default_rng(5).random(len(every.first)) < 0.3
    values = matrix[every.first, every.second][chosen]
    ranks = rankdata(values) - (len(values) + 1) / 2
    np.testing.assert_allclose(every.standard_ranks(chosen), ranks / np.linalg.norm(ranks), rtol=0, atol=1e-12)


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
        assert ours.outer[k].sum() == pytest.approx((K * L).sum())
        separated = fold_of_row[train][:, None] != fold_of_row[train]
        K, L = (gram(Z[train])[separated] for Z in (X, Y))
        assert ours.inner[k].sum() == pytest.approx((K * L).sum())


@pytest.mark.parametrize("n_columns", [3, 600])
def test_squared_products_of_draws_are_those_of_their_rows_about_their_means(n_columns, monkeypatch):
    monkeypatch.setattr(pairs, "_NUMBERS", 4 * 4 * 250)  # 600 columns in three blocks
    rng = np.random.default_rng(3)
    X, Y = about_mean(rng.normal(size=(40, 4))), about_mean(rng.normal(size=(40, n_columns)) + 1.0)
    draws = [np.sort(rng.choice(40, 36, replace=False)) for _ in range(3)]
    expected = [((about_mean(X[rows]).T @ about_mean(Y[rows])) ** 2).sum(axis=0) for rows in draws]
    np.testing.assert_allclose(squared_products(X, Y, draws), expected, rtol=1e-12)


def test_columns_that_do_not_vary_in_a_draw_count_as_nothing():
    X, Y = np.zeros((20, 2)), np.random.default_rng(4).normal(size=(20, 3))
    X[0] = 1.0  # varies, but not without the first row
    X, Y = about_mean(X), about_mean(Y)
    without, whole = squared_products(X, Y, [np.arange(1, 20), np.arange(20)])
    assert not without.any()
    np.testing.assert_allclose(whole, ((X.T @ Y) ** 2).sum(axis=0), rtol=1e-12)
    assert not about_mean(np.full((4, 2), 0.1)).any()
