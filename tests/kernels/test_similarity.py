"""Similarity of matrices: each measure equals a slow implementation and the conformance vectors."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.stats import spearmanr

from harness.kernels.similarity import SIMILARITIES, linear_cka, rsa, two_vs_two


def slow_two_vs_two(predicted, observed, distance="correlation"):
    """Pair by pair."""
    D = cdist(predicted, observed, distance)
    gains = [D[i, j] + D[j, i] - D[i, i] - D[j, j] for i, j in combinations(range(len(D)), 2)]
    return np.mean([0.5 if abs(gain) < 1e-12 else float(gain > 0) for gain in gains])


def slow_cka(X, Y):
    """Cosine of the Gram matrices, centred by the centring matrix."""
    H = np.eye(len(X)) - 1 / len(X)
    K, L = (H @ Z @ Z.T @ H for Z in (X, Y))
    return np.sum(K * L) / np.sqrt(np.sum(K * K) * np.sum(L * L))


def slow_rsa(X, Y):
    return spearmanr(pdist(X, "correlation"), pdist(Y, "correlation")).statistic


# name -> (slow independent implementation, columns of X, columns of Y).
TWINS = {
    "two_vs_two": (slow_two_vs_two, 7, 7),
    "linear_cka": (slow_cka, 12, 7),
    "rsa": (slow_rsa, 12, 7),
}


@pytest.fixture
def compare(library):
    """Compare host matrices on the library."""
    return lambda measure, *matrices, **options: measure(*map(library.put, matrices), **options)


@pytest.fixture
def matrices():
    """Two views of the same rows, by name of the measure."""
    rng = np.random.default_rng(0)

    def make(name="rsa", n=30):
        rows = rng.standard_normal((n, 7))
        X = np.hstack([rows + rng.standard_normal((n, 7)), rng.standard_normal((n, 7))])
        return X[:, : TWINS[name][1]] * 2 + 5, rows[:, : TWINS[name][2]] + 100

    return make


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_measure_equals_a_slow_implementation(name, dtype, matrices, compare):
    X, Y = (matrix.astype(dtype) for matrix in matrices(name))
    alike = compare(SIMILARITIES[name], X, Y)
    assert type(alike) is float
    assert alike == pytest.approx(TWINS[name][0](X.astype(float), Y.astype(float)), abs=1e-12)
    assert 0.05 < alike < 0.98


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_matrix_has_similarity_one_with_itself(name, matrices, compare):
    X, _ = matrices(name)
    assert compare(SIMILARITIES[name], X, X) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_order_of_rows_and_of_columns_changes_nothing(name, matrices, compare):
    X, Y = matrices(name)
    rows, columns = np.random.default_rng(1).permutation(30), np.arange(7)[::-1]
    before, after = compare(SIMILARITIES[name], X, Y), compare(SIMILARITIES[name], X[rows], Y[rows])
    assert after == pytest.approx(before, abs=1e-12)
    X = X[:, columns] if name == "two_vs_two" else X
    assert compare(SIMILARITIES[name], X, Y[:, columns]) == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize("name", ["linear_cka", "rsa"])
def test_values_equal_brain_score_in_each_split(name, shared, compare):
    case = np.load(shared / "oracle" / "cka_rdm.npz", allow_pickle=False)
    recorded = case["cka_per_split" if name == "linear_cka" else "rdm_per_split"]
    alike = [compare(SIMILARITIES[name], case["X"][rows], case["Y"][rows]) for rows in case["test"]]
    assert len(alike) == 10
    np.testing.assert_allclose(alike, recorded, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_rows_that_cannot_be_paired_are_refused(name, matrices, library):
    X, Y = map(library.put, matrices(name))
    with pytest.raises(ValueError, match=r"\(30, .*\(29, 7\)"):
        SIMILARITIES[name](X, Y[1:])
    with pytest.raises(ValueError, match="at least 2"):
        SIMILARITIES[name](X[:1], Y[:1])
    with pytest.raises(ValueError, match=r"\(30,\)"):
        SIMILARITIES[name](X[:, 0], Y[:, 0])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize(("name", "sides"), [("two_vs_two", ("predicted", "observed")),
                                             ("linear_cka", ("X", "Y")), ("rsa", ("X", "Y"))])  # fmt: skip
def test_a_row_that_is_not_finite_is_named(name, sides, broken, matrices, compare):
    for side, called in enumerate(sides):
        pair = matrices(name)
        pair[side][4, 2] = broken
        with pytest.raises(ValueError, match=f"{called}: row 4 of 30"):
            compare(SIMILARITIES[name], *pair)


@pytest.mark.parametrize("name", ["two_vs_two", "rsa"])
def test_a_row_without_variation_has_no_correlation(name, matrices, compare):
    X, Y = matrices(name)
    X[3] = 0.1
    assert np.isnan(compare(SIMILARITIES[name], X, Y))
    assert np.isnan(compare(SIMILARITIES[name], Y, X if name == "rsa" else X[:, :7]))


def test_a_constant_matrix_has_no_cka(matrices, compare):
    X, Y = matrices()
    flat = np.full_like(X, 0.1)  # its means over 30 rows are not exact
    assert np.isnan(compare(linear_cka, flat, Y))
    assert np.isnan(compare(linear_cka, Y, flat))


def test_two_vs_two_needs_the_same_columns(matrices, compare):
    X, Y = matrices("linear_cka")
    with pytest.raises(ValueError, match=r"\(30, 12\).*\(30, 7\)"):
        compare(two_vs_two, X, Y)
    with pytest.raises(ValueError, match="'cosine'"):
        compare(two_vs_two, X, X, distance="cosine")


def test_two_vs_two_by_euclidean_distance_equals_a_slow_implementation(matrices, compare):
    X, Y = matrices("two_vs_two")
    X = X / 2 + 97.5
    accuracy = compare(two_vs_two, X, Y, distance="euclidean")
    assert accuracy == slow_two_vs_two(X, Y, "euclidean")
    assert accuracy != compare(two_vs_two, X, Y)
    assert compare(two_vs_two, Y, Y, distance="euclidean") == 1.0


@pytest.mark.parametrize("distance", ["correlation", "euclidean"])
def test_a_tied_pair_counts_one_half(distance, matrices, compare):
    X, Y = matrices("two_vs_two")
    X, Y = X / 2 + 97.5, Y.copy()
    alike = np.tile(X[:1], (30, 1))
    assert compare(two_vs_two, alike, Y, distance=distance) == 0.5
    assert compare(two_vs_two, alike, alike, distance=distance) == 0.5
    Y[10:20] = Y[10]  # 45 of 435 pairs
    accuracy = compare(two_vs_two, X, Y, distance=distance)
    assert accuracy == slow_two_vs_two(X, Y, distance)
    assert round(accuracy * 870) % 2 == 1  # an odd number of halves


def test_two_sums_that_differ_by_rounding_are_equal(matrices, compare):
    X, Y = matrices("two_vs_two")
    scaled = Y[:1] * np.linspace(0.1, 3.7, 30)[:, None]  # one pattern, of 30 sizes
    assert compare(two_vs_two, X, scaled) == 0.5
    level = np.tile(np.linspace(-1, 3, 30)[:, None], 7)  # as far from a row as from the same values in another order
    shuffled = np.random.default_rng(0).permuted(np.tile(X[0], (30, 1)), axis=1)
    assert compare(two_vs_two, level, shuffled, distance="euclidean") == 0.5


def test_a_large_common_offset_makes_no_ties(matrices, compare):
    X, Y = matrices("two_vs_two")
    X, Y = X / 2 + 1e7, Y - 97.5 + 1e7
    assert compare(two_vs_two, X, Y, distance="euclidean") == slow_two_vs_two(X, Y, "euclidean")


def test_two_vs_two_of_exchanged_rows_is_zero(matrices, compare):
    Y = matrices("two_vs_two", n=2)[1]
    assert compare(two_vs_two, Y, Y) == 1.0
    assert compare(two_vs_two, Y[::-1], Y) == 0.0


def test_two_vs_two_of_noise_is_at_chance(compare):
    rng = np.random.default_rng(0)
    accuracies = [compare(two_vs_two, *rng.standard_normal((2, 40, 20))) for _ in range(50)]
    assert abs(np.mean(accuracies) - 0.5) < 4 * np.std(accuracies) / np.sqrt(50)


@pytest.mark.parametrize(("p", "q"), [(5, 80), (80, 5), (80, 80), (30, 30), (30, 31)])
def test_cka_by_features_and_by_rows_is_the_same(p, q, compare):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((30, p)) + 10, rng.standard_normal((30, q))
    alike = compare(linear_cka, X, Y)
    assert alike == pytest.approx(slow_cka(X, Y), abs=1e-12)
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    by_features = np.linalg.norm(Y.T @ X) ** 2 / np.linalg.norm(X.T @ X) / np.linalg.norm(Y.T @ Y)
    assert alike == pytest.approx(by_features, abs=1e-12)


def test_cka_ignores_shift_scale_and_rotation(matrices, compare):
    X, Y = matrices()
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 12)))[0]
    assert compare(linear_cka, X @ rotation * 3 + 7, Y) == pytest.approx(compare(linear_cka, X, Y), abs=1e-12)


def test_dissimilarities_that_are_equal_share_their_mean_rank(matrices, compare):
    X, Y = matrices()
    X[20:], Y[5:12] = X[20], Y[5]  # equal rows have equal dissimilarities, with SciPy too
    assert compare(rsa, X, Y) == pytest.approx(slow_rsa(X, Y), abs=1e-12)


def test_dissimilarities_that_differ_by_rounding_are_equal(compare):
    """Rows of scaled zeros and ones: many dissimilarities are equal, few of them in floating point."""
    rng = np.random.default_rng(0)
    X, Y = (rng.permuted(np.tile([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], (25, 1)), axis=1) for _ in "XY")
    X, Y = (Z * np.linspace(0.1, 3.7, 25)[:, None] for Z in (X, Y))
    x, y = (np.round(pdist(Z, "correlation"), 12) for Z in (X, Y))
    assert len(set(x)) == 4 < len(set(pdist(X, "correlation")))
    assert compare(rsa, X, Y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_rsa_depends_on_ranks_and_centres_each_row(matrices, compare):
    X, Y = matrices()
    scaled = X * np.linspace(1, 3, 30)[:, None] + np.arange(30.0)[:, None]
    assert compare(rsa, scaled, Y) == pytest.approx(compare(rsa, X, Y), abs=1e-12)


def test_two_rows_have_one_dissimilarity_and_no_rank(matrices, compare):
    assert np.isnan(compare(rsa, *matrices(n=2)))
