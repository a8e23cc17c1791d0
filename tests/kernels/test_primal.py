"""The primal, for more rows than features, equals the dual and independent refits; memory does not grow with rows."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from harness.kernels import primal, primal_search, streams, ways
from harness.kernels.banded import fit_banded, unique_variance
from harness.kernels.gram import design
from harness.kernels.metrics import pearson_r
from harness.kernels.ridge import Penalty, Split, fit_folds, predict_held_out
from tests.kernels.planted import assert_same_fit, left_out_errors, planted, variation

ALPHAS = tuple(np.logspace(-3, 5, 9))
N, P = 300, 20
ROWS = np.arange(N)
FOLDS = [np.arange(0, 100), np.arange(100, 200), np.arange(200, 300)]
# Inner blocks of a fold with 200 training rows: single rows, few long blocks, many short ones of unequal size.
INNER = {
    "rows": None,
    "few": np.repeat([2, 0, 1], [70, 90, 40]),
    "many": np.sort(np.random.default_rng(0).integers(0, 40, 200)),
}


def splits(inner="rows", gap=0):
    return [Split(np.setdiff1d(ROWS, test), test, INNER[inner], gap) for test in FOLDS]


def both(X, Y, folds, penalty=Penalty(ALPHAS), scale="center", library=None, **how):  # noqa: B008
    """The fits of all folds by both ways; the primal optionally on an array library."""
    by_dual = fit_folds(design(X, scale), Y, folds, penalty, way="dual", **how)
    if library is not None:
        X, Y = library.put(X), library.put(Y)
    return by_dual, fit_folds(design(X, scale), Y, folds, penalty, way="primal", **how)


def assert_same(pair, atol=1e-9):
    for by_dual, by_primal in zip(*pair, strict=True):
        assert by_dual.rank == by_primal.rank
        assert_same_fit(by_primal, by_dual, atol)


@pytest.fixture(params=["sums", "inverses", "inverses at once"])
def leaving_blocks_out(request, monkeypatch):
    """Blocks are left out by each of the two ways, whatever they cost; by inverses alpha by alpha, or all at once."""
    monkeypatch.setattr(ways, "sums_pay", lambda *sizes: request.param == "sums")
    monkeypatch.setattr(primal_search, "_TINY", 0 if request.param == "inverses" else np.inf)
    return request.param


@pytest.mark.parametrize("inner", INNER)
def test_alphas_and_r_equal_scikit_learn(inner, library):
    X, Y = planted(N, P)
    (found,) = fit_folds(
        design(library.put(X)), library.put(Y), splits(inner)[:1], Penalty(ALPHAS, tie="smaller"), way="primal"
    )
    train, test = splits()[0][:2]
    if inner == "rows":
        theirs = RidgeCV(ALPHAS, alpha_per_target=True).fit(X[train], Y[train])
        np.testing.assert_array_equal(found.alpha, theirs.alpha_)
        expected = theirs.predict(X[test])
    else:
        models = [Ridge(alpha, solver="cholesky") for alpha in ALPHAS]
        errors = np.stack([left_out_errors(X[train], Y[train], INNER[inner], model) for model in models])
        np.testing.assert_array_equal(found.alpha, np.array(ALPHAS)[errors.argmin(axis=0)])
        np.testing.assert_allclose(found.inner, 1 - errors.min(axis=0) / variation(Y[train]), rtol=0, atol=1e-10)
        expected = Ridge(found.alpha, solver="cholesky").fit(X[train], Y[train]).predict(X[test])
    assert len(set(found.alpha)) > 2  # else equal alphas would prove little
    np.testing.assert_allclose(found.r, pearson_r(expected, Y[test]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("penalty", [
    Penalty(ALPHAS), Penalty(ALPHAS, relative=True, tie="smaller"), Penalty(ALPHAS, mean_over="blocks"),
    Penalty(ALPHAS, per_neuroid=False), Penalty((10.0,)), Penalty(tuple(np.logspace(-12, 18, 31))),
])  # fmt: skip
@pytest.mark.parametrize("gap", [0, 4])
@pytest.mark.parametrize("inner", ["few", "many"])
def test_both_ways_agree_on_blocks(inner, gap, penalty, leaving_blocks_out, library):
    X, Y = planted(N, P, 12)
    assert_same(both(X, Y, splits(inner, gap), penalty, library=library))


@pytest.mark.parametrize("penalty", [Penalty(), Penalty((10.0,)), Penalty(ALPHAS, per_neuroid=False)])
def test_few_features_of_many_rows_need_no_matrix_of_rows_by_rows(penalty, monkeypatch):
    """The operators of the dual, for neuroids that share an alpha, are rows by rows."""
    X, Y = planted(2_000, 2, 1)
    rows = np.arange(2_000)
    fold = [Split(rows[500:], rows[:500], rows[500:] // 300)]
    assert_same(both(X, Y, fold, penalty))
    monkeypatch.setattr(ways, "_OPERATOR_BYTES", 2**20)
    tracemalloc.start()
    fit_folds(design(X), Y, fold, penalty)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 1_500 * 1_500


@pytest.mark.parametrize(("budget", "n_reads"), [(None, 2), (1, 1 + len(splits("few")))], ids=["kept", "not kept"])
def test_folds_prepared_one_by_one_share_the_products_of_rows(budget, n_reads, monkeypatch):
    """The features are summed once, and multiplied with responses once if there is memory to keep the products."""
    monkeypatch.setattr(ways, "sums_pay", lambda *sizes: False)
    read, numbers = [], streams.Stream.blocks

    def counted(stream, rows):
        read.append(len(rows))
        return numbers(stream, rows)

    X, Y = planted(N, P, 1)
    expected = fit_folds(design(X), Y, splits("few"), Penalty(ALPHAS), way="primal")
    monkeypatch.setattr(streams.Stream, "blocks", counted)
    found = fit_folds(design(X), Y, splits("few"), Penalty(ALPHAS), way="primal", budget_bytes=budget)
    left_out = sum(len(train) for train, *_ in splits("few"))
    tested = sum(len(test) for _, test, *_ in splits("few"))
    assert sum(read) == n_reads * N + left_out + tested
    for one, other in zip(found, expected, strict=True):
        assert_same_fit(one, other, 0)


@pytest.mark.parametrize("penalty", [
    Penalty(ALPHAS), Penalty(ALPHAS, relative=True), Penalty(ALPHAS, per_neuroid=False), Penalty(),
    Penalty(tuple(np.logspace(-12, 18, 31)), tie="smaller"),
])  # fmt: skip
def test_both_ways_agree_on_single_rows(penalty, library):
    X, Y = planted(N, P, 12)
    assert_same(both(X, Y, splits(), penalty, library=library))


@pytest.mark.parametrize("grid", [ALPHAS, tuple(np.logspace(0, 25, 26)), tuple(np.logspace(-12, 18, 21))])
@pytest.mark.parametrize("gap", [0, 4])
@pytest.mark.parametrize("inner", ["few", "many"])
@pytest.mark.parametrize("tiny", [0, np.inf], ids=["alpha by alpha", "at once"])
def test_mixed_precision_chooses_the_alphas_of_double_precision(inner, gap, grid, tiny, monkeypatch, library):
    monkeypatch.setattr(ways, "sums_pay", lambda *sizes: False)
    monkeypatch.setattr(primal_search, "_TINY", tiny)
    X, Y = planted(N, P, 100)
    Y = np.hstack([Y, np.random.default_rng(3).standard_normal((N, 100)), 1e-13 * Y, 1e13 * Y])
    double, mixed = both(X, Y, splits(inner, gap), Penalty(grid), library=library, precision="mixed")
    for one, other in zip(double, mixed, strict=True):
        np.testing.assert_array_equal(one.alpha, other.alpha)
        np.testing.assert_allclose(one.r, other.r, rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.inner, other.inner, rtol=0, atol=1e-5)


@pytest.mark.parametrize("inner", INNER)
def test_features_are_standardised_by_the_training_rows(inner, library):
    X, Y = planted(N, P, 12)
    X[:, ::3] *= 1000
    X[FOLDS[0]] *= 5  # would change the scales if test rows were looked at
    assert_same(both(X, Y, splits(inner), scale="zscore", library=library))
    train, test = splits()[0][:2]
    scaler = StandardScaler().fit(X[train])
    theirs = RidgeCV(ALPHAS, alpha_per_target=True).fit(scaler.transform(X[train]), Y[train])
    ours = both(X, Y, splits()[:1], scale="zscore", library=library)[1][0]
    np.testing.assert_allclose(ours.r, pearson_r(theirs.predict(scaler.transform(X[test])), Y[test]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("scale", ["center", "zscore"])
def test_dependent_and_constant_features_change_nothing(scale, inner, leaving_blocks_out, library):
    X, Y = planted(N, P, 12)
    X[:, 3], X[:, 4], X[:, 5] = X[:, 6] + X[:, 7], 0.1, 0.0
    X[100:130, 5] = 1.0  # constant in two folds, and outside one block in the third
    X[7, 8] += 1e3  # a row apart
    assert_same(both(X, Y, splits(inner), scale=scale, library=library))


@pytest.mark.parametrize(("inner", "threads"), [("rows", 1), ("few", 1), ("many", 1), ("few", 2)])
def test_neuroids_that_miss_rows_are_fitted_without_them(inner, threads, library):
    X, Y = planted(N, P, 12)
    Y[20:60, [1, 4]] = Y[150, 2] = Y[100:300, 3] = Y[:100, 5] = np.nan
    Y[1:, 6] = np.nan
    Y[100:, 7] = 0.1  # constant on the training rows of the first fold
    assert_same(both(X, Y, splits(inner), library=library, threads=threads))


def test_least_squares_drops_directions_and_fits_single_rows_exactly(library):
    X, Y = planted(N, P, 12)
    X[:, 3], X[:, :3] = X[:, 6] + X[:, 7], 0.0
    X[[120, 121, 122], [0, 1, 2]] = 1.0  # rows that only a feature of their own describes
    pair = both(X, Y, splits(), Penalty(), library=library)
    assert_same(pair)
    train, test = splits()[0][:2]
    theirs = LinearRegression(tol=1e-9).fit(X[train], Y[train]).predict(X[test])
    np.testing.assert_allclose(pair[1][0].r, pearson_r(theirs, Y[test]), rtol=0, atol=1e-9)
    assert_same(both(X, Y, splits("few"), Penalty(), library=library))


def test_features_that_encode_the_training_rows_only_are_not_measurable(library):
    X, Y = planted(N, 5, 12)
    X[FOLDS[0]] = 0.3  # the same in all test rows
    assert np.isnan(both(X, Y, splits()[:1], library=library)[1][0].r).all()
    (found,) = both(np.full((N, 5), 0.1), Y, splits()[:1], library=library)[1]
    assert found.rank == 0
    assert np.isnan(found[:4]).all()


@pytest.mark.parametrize("inner", INNER)
def test_massive_activations_and_large_means_cost_few_digits(inner, leaving_blocks_out):
    """Language models have features a thousand times larger than the rest, here with means a thousand sd away."""
    X, Y = planted(N, P, 12)
    X[:, :3] = 1000 * (X[:, :3] + 1000)
    assert_same(both(X, Y, splits(inner)), 1e-7)


@pytest.mark.parametrize("inner", ["rows", "few"])
def test_training_rows_far_from_the_test_rows_are_summed_about_their_own_mean(inner, leaving_blocks_out, monkeypatch):
    X, Y = planted(N, P, 12)
    X[FOLDS[0]] += 1e8
    X = X - 1e8 / 3
    assert_same(both(X, Y, splits(inner)[:1]), 1e-7)
    monkeypatch.setattr(primal, "is_far", lambda sums: False)
    careless = both(X, Y, splits(inner)[:1])
    assert abs(careless[0][0].inner - careless[1][0].inner).max() > 1e-7


@pytest.mark.parametrize("inner", INNER)
def test_blocks_of_rows_and_of_neuroids_change_nothing(inner, monkeypatch, tmp_path):
    X, Y = planted(N, P, 12)
    Y[20:60, [1, 4]] = np.nan
    np.save(tmp_path / "X.npy", X)
    whole = fit_folds(design(X), Y, splits(inner), Penalty(ALPHAS), way="primal")
    monkeypatch.setattr(streams, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(streams, "_BLOCK_ROWS", 17)
    monkeypatch.setattr(primal_search, "_RESIDUAL_BYTES", 1)
    monkeypatch.setattr(primal, "_SUMS_BYTES", 1)  # fold by fold
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    blocks = fit_folds(design(mapped), Y, splits(inner), Penalty(ALPHAS), way="primal", budget_bytes=1)
    assert_same((whole, blocks), 1e-12)


@pytest.mark.parametrize("inner", INNER)
def test_predictions_are_those_of_the_dual(inner):
    X, Y = planted(N, P, 12)
    by_way = [
        next(predict_held_out(design(X), Y, splits(inner)[0], Penalty(ALPHAS), way=way)) for way in ("dual", "primal")
    ]
    np.testing.assert_allclose(by_way[0].predicted, by_way[1].predicted, rtol=0, atol=1e-9)
    np.testing.assert_allclose(by_way[0].observed, by_way[1].observed, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inner", ["rows", "few"])
def test_bands_are_weighted_as_in_the_dual(inner):
    X, Y = planted(N, P, 12)
    bands = [design(X[:, :12]), design(100 * X[:, 12:16], "zscore"), design(X[:, 16:])]
    penalty = Penalty(ALPHAS[::3])
    pair = [fit_banded(bands, Y, splits(inner), penalty, way=way) for way in ("dual", "primal")]
    assert_same([[banded.fit for banded in banded_fits] for banded_fits in pair])
    for by_dual, by_primal in zip(*pair, strict=True):
        np.testing.assert_array_equal(by_dual.weights, by_primal.weights)
    pair = [
        unique_variance(bands[0], bands[1:], Y, splits(inner), Penalty(ALPHAS), way=way) for way in ("dual", "primal")
    ]
    np.testing.assert_allclose(pair[0].unique, pair[1].unique, rtol=0, atol=1e-9)


def test_the_way_with_fewer_operations_is_taken(monkeypatch):
    X, Y = planted(N, P, 12)
    wide = planted(N, 400, 12)[0]
    taken = []
    monkeypatch.setattr(primal, "fits_of", lambda *arguments: taken.append(1) or iter(()))
    monkeypatch.setattr(ways, "WORTH", 0.0)
    fit_folds(design(X), Y, splits("few"), Penalty(ALPHAS))
    assert taken
    fit_folds(design(wide), Y, splits("few"), Penalty(ALPHAS))
    assert len(taken) == 1


@pytest.mark.parametrize("n_features", [20, 400])
def test_features_computed_on_access_are_computed_once_for_the_dual(n_features):
    """Once to be checked, and once for all patterns of missing rows."""

    class OnAccess:
        def __init__(self, matrix):
            self.matrix, self.shape, self.n_rows = matrix, matrix.shape, 0

        def __len__(self):
            return len(self.matrix)

        def __getitem__(self, rows):
            self.n_rows += len(self.matrix[rows])
            return self.matrix[rows]

    X, Y = planted(N, n_features, 12)
    Y[range(12), range(12)] = np.nan
    on_access = OnAccess(X)
    fits = fit_folds(design(on_access), Y, splits(), Penalty(ALPHAS), way="dual")
    assert on_access.n_rows == 2 * N
    assert_same((fits, fit_folds(design(X), Y, splits(), Penalty(ALPHAS), way="dual")), 1e-12)


def test_memory_does_not_grow_with_the_rows_of_the_features(tmp_path):
    """A memory map of 40,000 rows and 50 features: 16 MB; a matrix of rows by rows would take 13 GB."""
    n, p = 40_000, 50
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (n, p))
    X[:] = np.random.default_rng(0).standard_normal((n, p), dtype=np.float32)
    Y = X[:, :1] + np.random.default_rng(1).standard_normal((n, 2), dtype=np.float32)
    test, peaks = np.arange(8000), []
    for n_train in (8000, 32_000):
        fold = Split(np.arange(8000, 8000 + n_train), test, np.arange(n_train) // (n_train // 4))
        tracemalloc.start()
        (found,) = fit_folds(design(X), Y, [fold], Penalty(ALPHAS))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found.r[0] > 0.6
    assert max(peaks) < 60e6, peaks


def test_the_least_error_may_be_negative_by_rounding():
    """Without this, responses given back as features can get the largest alpha."""
    errors = np.array([[0.5, -1e-15, 1.0], [-2e-15, -1e-15, 1.0], [0.0, 0.0, 1.0]])
    assert Penalty((1.0, 2.0, 3.0)).choose(errors).tolist() == [1, 0, 1]
    assert Penalty((1.0, 2.0, 3.0), tie="smaller").choose(errors).tolist() == [1, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_responses_given_back_as_features_are_predicted(leaving_blocks_out, seed):
    X = np.random.default_rng(seed).standard_normal((N, 2)).astype(np.float32)
    penalty = Penalty(tuple(10.0**k for k in range(-8, 8)), relative=True)
    for found in fit_folds(design(X), X, splits("few"), penalty, way="primal"):
        assert found.r.min() > 0.999
        assert found.alpha.max() < 1
