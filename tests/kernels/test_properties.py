"""Invariances of a fit, in both precisions and for all shapes of the problem."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.kernels.metrics import pearson_r
from harness.kernels.ridge import FoldFit, Penalty, Split
from tests.kernels.planted import BLOCKS, SINGLE, TEST, TRAIN, assert_same_fit, planted
from tests.kernels.planted import fit as fit_with

ALPHAS = tuple(np.logspace(-1, 7, 9))
PRECISIONS = pytest.mark.parametrize("precision", ["float64", "mixed"])
# Tolerances of r and of inner errors. float32 has 7 digits; inner errors of blocks lose one more by dividing by P_BB.
# float64 has 16, of which inner products of massive activations cost 8, and more for an alpha far below their
# eigenvalues (1e11), hence a grid from 0.1.
TOLERANCE = {
    ("float64", False): (1e-10, 1e-10),
    ("float64", True): (1e-5, 1e-5),
    ("mixed", False): (1e-5, 1e-4),
    ("mixed", True): (1e-5, 1e-4),
}
few = settings(max_examples=8, deadline=None, derandomize=True)
anything = given(
    p=st.sampled_from([1, 12, 48, 90]),
    v=st.sampled_from([7, 210]),  # leaving out blocks by inverses, and by triangles
    split=st.sampled_from([SINGLE, BLOCKS]),
    massive=st.sampled_from([1.0, 1e4]),
    seed=st.integers(0, 99),
)


def fit(X, Y, split=SINGLE, penalty=Penalty(ALPHAS), **how):  # noqa: B008
    return fit_with(X, Y, split, penalty, **how)


def problem(p, v, massive, seed):
    X, Y = planted(60, p, v, seed)
    X[:, : 1 + p // 50] *= massive
    return X, Y


def assert_alike(before: FoldFit, after: FoldFit, precision: str, massive: float) -> None:
    """Assert the same scores, and the same alphas except for ties within 1e-10, which rounding decides."""
    tied = (before.place != after.place) & (abs(before.inner - after.inner) < 1e-10)
    assert tied.mean() < 0.02
    measured = ~tied & ~np.isnan(before.r)
    assert measured.any()
    keep = lambda found: found._replace(**{name: getattr(found, name)[~tied] for name in FoldFit._fields[:4]})  # noqa: E731
    assert_same_fit(keep(after), keep(before), *TOLERANCE[precision, massive > 1])


@PRECISIONS
@few
@anything
def test_mixed_precision_equals_double_precision_up_to_rounding(precision, p, v, split, massive, seed):
    X, Y = problem(p, v, massive, seed)
    assert_alike(fit(X, Y, split), fit(X, Y, split, precision=precision), precision, massive)


@PRECISIONS
@few
@anything
def test_rotating_centred_features_changes_nothing(precision, p, v, split, massive, seed):
    X, Y = problem(p, v, massive, seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((p, p)))[0]
    assert_alike(*(fit(Z, Y, split, precision=precision) for Z in (X, X @ rotation)), precision, massive)


def test_rotating_features_that_are_standardised_after_it_changes_the_fit():
    X, Y = problem(30, 25, 1.0, 0)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((30, 30)))[0]
    before, after = (fit(Z, Y, scale="zscore").r for Z in (X, X @ rotation))
    assert abs(before - after).max() > 1e-2


@PRECISIONS
@few
@anything
def test_the_order_and_the_number_of_neuroids_change_nothing(precision, p, v, split, massive, seed):
    X, Y = problem(p, v, massive, seed)
    order = np.random.default_rng(seed).permutation(np.tile(np.arange(v), 2))
    before, after = (fit(X, y, split, precision=precision) for y in (Y, Y[:, order]))
    assert_alike(
        before._replace(**{name: getattr(before, name)[order] for name in FoldFit._fields[:4]}),
        after,
        precision,
        massive,
    )


@PRECISIONS
@few
@anything
@pytest.mark.parametrize(("factor", "offset"), [(-2.5, 0.0), (1.0, 300.0), (1e-8, 0.0), (1e8, -1e10), (1e-13, 0.0)])
def test_scaling_and_shifting_responses_changes_nothing(precision, factor, offset, p, v, split, massive, seed):
    X, Y = problem(p, v, massive, seed)
    before, after = (fit(X, y, split, precision=precision) for y in (Y, factor * Y + offset))
    assert_alike(before, after, precision, massive)


@PRECISIONS
@few
@anything
def test_shifting_features_changes_nothing(precision, p, v, split, massive, seed):
    X, Y = problem(p, v, massive, seed)
    offset = np.random.default_rng(seed).normal(0, 30, p)
    assert_alike(*(fit(Z, Y, split, precision=precision) for Z in (X, X + offset)), precision, massive)


@PRECISIONS
@few
@anything
@pytest.mark.parametrize("penalty", [Penalty(ALPHAS), Penalty(ALPHAS, per_neuroid=False)], ids=["each", "all"])
def test_the_size_of_blocks_of_neuroids_and_threads_change_nothing(penalty, precision, p, v, split, massive, seed):
    X, Y = problem(p, v, massive, seed)
    Y[seed % 60, :: 1 + seed % 3] = np.nan
    whole = fit(X, Y, split, penalty, precision=precision, budget_bytes=2**30)
    small = 1 if v < 10 else 200_000  # neuroid by neuroid, or dozens
    for how in ({"budget_bytes": small}, {"threads": 2}, {"threads": 2, "budget_bytes": small}):
        assert_alike(whole, fit(X, Y, split, penalty, precision=precision, **how), precision, massive)


@PRECISIONS
@few
@anything
def test_a_repeated_stimulus_in_one_inner_block_counts_twice(precision, p, v, split, massive, seed):
    """Repeating every row in the same block equals halving the penalty."""
    X, Y = problem(p, v, massive, seed)
    inner = np.arange(48) if split.inner is None else split.inner
    train = np.concatenate([TRAIN, TRAIN])
    twice = fit(X, Y, Split(train, TEST, np.tile(inner, 2)), Penalty(tuple(2 * a for a in ALPHAS)), precision=precision)
    assert_alike(fit(X, Y, Split(TRAIN, TEST, inner)), twice._replace(alpha=twice.alpha / 2), precision, massive)


@PRECISIONS
@few
@anything
@pytest.mark.parametrize(("scale", "wobble"), [("center", 0.0), ("zscore", 0.0), ("zscore", 1e-4)])
def test_columns_that_are_constant_up_to_rounding_change_nothing(precision, scale, wobble, p, v, split, massive, seed):
    X, Y = problem(p, v, massive, seed)
    flat = np.array([0.1, 0.0, 1e4]) + wobble * np.random.default_rng(seed).standard_normal((60, 3)) * [0, 0, 1]
    before, after = (fit(Z, Y, split, scale=scale, precision=precision) for Z in (X, np.hstack([X, flat])))
    assert_alike(before, after, precision, massive)


@PRECISIONS
@few
@anything
@pytest.mark.parametrize("threads", [1, 2])
def test_neuroids_that_miss_rows_are_fitted_as_if_alone(precision, threads, p, v, split, massive, seed):
    X, Y = problem(p, v, massive, seed)
    Y[np.random.default_rng(seed).permutation(60)[:20], v // 2 :] = np.nan
    found = fit(X, Y, split, precision=precision, threads=threads)
    have = np.isfinite(Y[:, -1])
    inner = None if split.inner is None else split.inner[have[TRAIN]]
    rest = Split(TRAIN[have[TRAIN]], TEST[have[TEST]], inner)
    alone = [fit(X, Y[:, : v // 2], split), fit(X, Y[:, v // 2 :], rest)]
    together = FoldFit(*(np.concatenate(halves) for halves in list(zip(*alone, strict=True))[:4]), 0)
    assert_alike(together, found, precision, massive)


@PRECISIONS
def test_massive_activations_lose_no_precision(precision):
    from sklearn.linear_model import RidgeCV

    X, Y = planted(60, 300)
    X[:, :4] = X[:, :4] * 1e4 + 1e4
    X = X.astype(np.float32)
    ours = fit(X, Y, SINGLE, Penalty(ALPHAS, tie="smaller"), precision=precision)
    theirs = RidgeCV(ALPHAS, alpha_per_target=True, gcv_mode="svd").fit(X[TRAIN].astype(float), Y[TRAIN])
    np.testing.assert_array_equal(ours.alpha, theirs.alpha_)
    expected = pearson_r(theirs.predict(X[TEST].astype(float)), Y[TEST])
    np.testing.assert_allclose(ours.r, expected, rtol=0, atol=1e-6)
