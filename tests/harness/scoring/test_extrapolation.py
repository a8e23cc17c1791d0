"""Ceilings extrapolated to infinitely many subjects, from pools of subjects."""

from __future__ import annotations

import ast
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from harness.kernels import gram
from harness.protocol import BRAINSCORE_RIDGE, WIDE_RIDGE, FoldRule, Protocol, Regression
from harness.scoring import brain_scores, extrapolation, folds
from harness.scoring.extrapolation import PooledScores, collect, draw_pools, errors, extrapolate

OLS = Protocol("paper", "none", FoldRule("shuffled", n=4), Regression("ols"), "max", metric="brainscore_r")
GROUPS = [f"g{row // 5}" for row in range(60)]
SPLITS = folds.make(OLS.folds, GROUPS)


def recording(n_subjects=4, width=20, seed=0):
    """(row, neuroid) responses to three signals shared by all subjects, with noise; and the subjects."""
    rng = np.random.default_rng(seed)
    heard = rng.standard_normal((60, 3))
    mixed = heard @ rng.standard_normal((3, n_subjects * width))
    values = mixed + 1.5 * rng.standard_normal(mixed.shape)
    return values, np.repeat(list("abcdefghi")[:n_subjects], width)


# --- the recorded case of Brain-Score ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case(shared):
    with np.load(shared / "oracle" / "extrapolation_ceiling_lin_shuffle.npz", allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def recorded(case):
    """Brain-Score's scores, in the order in which it resampled them."""
    subsets = [ast.literal_eval(str(name)) for name in case["collected_subsets"]]
    sizes = case["collected_num_subjects"].tolist()
    scores = [case["collected"][sizes.index(len(subset)), place] for place, subset in enumerate(subsets)]
    return PooledScores(tuple(subset[1:] for subset in subsets), np.stack(scores)), subsets


def test_scores_are_those_of_brain_score(case, recorded):
    theirs, subsets = recorded
    rule = FoldRule("shuffled", n=10, train_fraction=0.9, test_fraction=None, seed=1)
    groups = [""] * len(case["Y"])
    ours = collect(case["Y"], case["subject_id"].tolist(), groups, folds.make(rule, groups), OLS)
    assert len(ours.pools) == 4 + 6 + 4
    compared = 0
    for subset, scores in zip(subsets, theirs.scores, strict=True):
        for subject in subset:
            own = case["subject_id"] == subject
            pool = ours.pools.index(tuple(sorted(set(subset) - {subject})))
            np.testing.assert_allclose(ours.scores[pool][:, own], scores[:, own], rtol=0, atol=1e-12)
            compared += own.sum()
    assert compared == np.isfinite(ours.scores).sum() / 10 == 28 * 4


def test_ceilings_are_those_of_brain_score(case, recorded):
    """Within SciPy's own reproducibility: the same version on another machine differs by up to 2.4e-6, in the median by
    1.1e-9, in the ceilings by 5.4e-7."""
    found = extrapolate(recorded[0])
    difference = np.abs(found - case["boot_params"])
    assert found.shape == (16, 100, 2)
    assert difference[..., 0].max() < 1e-5
    assert np.median(difference[..., 0]) < 1e-8
    ceilings = np.median(found[..., 0], axis=1)
    np.testing.assert_allclose(ceilings, case["neuroid_ceiling"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(np.median(ceilings), case["ceiling"], rtol=0, atol=1e-6)


# Lower and upper errors of the recorded case's 16 neuroids, from brainscore-language 2.3.0 on the recorded curves.
LOWER = (
    0.1520019166, 0.1528685982, 0.2379661578, 0.1806788644, 0.1850838225, 0.2123398511, 0.5953417941, 0.2952344950,
    0.3330298950, 0.5168549036, 0.4507391508, 0.1972664134, 0.8141607213, 0.0623163248, 0.1296585293, 0.2114021749,
)  # fmt: skip
UPPER = (
    0.2573371876, 0.2523135794, 0.2448561191, 0.1861677972, 0.3383702778, 0.4623208406, -0.0007601798, 0.3512686959,
    0.2659422467, 0.1588570071, 0.0511232706, 0.4337649832, -0.0006285811, 0.2017488481, 0.3563428784, 0.3766974509,
)  # fmt: skip


def test_errors_are_those_of_brain_score(case):
    lower, upper = errors(case["boot_params"])
    np.testing.assert_allclose(lower, LOWER, rtol=0, atol=1e-9)
    np.testing.assert_allclose(upper, UPPER, rtol=0, atol=1e-9)


def test_errors_are_nan_where_a_fit_did_not_converge_or_the_curve_is_nowhere_flat(case):
    curves = case["boot_params"][:3].copy()
    curves[0, 5] = np.nan
    curves[1] = 1.0, 1e3  # gains 0.001 per subject at first, 0.0004 at 1,000
    curves[2] = 1.0, 1e4 / 7
    curves[2, :, 0] = 3.0
    for error in errors(curves):
        assert np.isnan(error[[0, 2]]).all()
        assert np.isfinite(error[1])


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regression", [
    Regression("ols"), WIDE_RIDGE, BRAINSCORE_RIDGE, replace(BRAINSCORE_RIDGE, scale="zscore", inner="groups"),
])  # fmt: skip
@pytest.mark.parametrize("width", [3, 20])
def test_a_pool_predicts_like_its_concatenated_neuroids(regression, width):
    values, subjects = recording(width=width)
    protocol = replace(OLS, regression=regression)
    found = collect(values, subjects.tolist(), GROUPS, SPLITS, protocol)
    assert len(found.pools) == 4 + 6 + 4
    for pool, scores in zip(found.pools, found.scores, strict=True):
        for subject in "abcd":
            own = subjects == subject
            if subject in pool:
                assert np.isnan(scores[:, own]).all()
                continue
            alone = brain_scores.fit_layer(values[:, np.isin(subjects, pool)], values[:, own], GROUPS, SPLITS, protocol)
            np.testing.assert_allclose(scores[:, own], alone.r, rtol=0, atol=1e-9)


@pytest.mark.parametrize("regression", [Regression("ols"), BRAINSCORE_RIDGE])
def test_a_pool_is_decomposed_once_for_each_fold(regression, monkeypatch):
    calls, whole = [], gram._of_rows
    monkeypatch.setattr(gram, "_of_rows", lambda *arguments: calls.append(1) or whole(*arguments))
    values, subjects = recording(width=40)
    collect(values, subjects.tolist(), GROUPS, SPLITS, replace(OLS, regression=regression))
    assert len(calls) == (4 + 6 + 4) * len(SPLITS)


def test_the_gram_matrix_of_a_subject_is_computed_once(monkeypatch):
    calls, whole = [], gram._gram
    monkeypatch.setattr(gram, "_gram", lambda *arguments: calls.append(1) or whole(*arguments))
    values, subjects = recording(width=40)
    collect(values, subjects.tolist(), GROUPS, SPLITS, replace(OLS, regression=WIDE_RIDGE))
    assert len(calls) == 4 * len(SPLITS)  # z-scored by each fold's training rows


def test_incomplete_subjects_are_predicted_but_do_not_predict():
    values, subjects = recording()
    values[:30, subjects == "d"] = np.nan
    values[4, np.flatnonzero(subjects == "a")[0]] = np.nan
    found = collect(values, subjects.tolist(), GROUPS, SPLITS, OLS)
    assert {name for pool in found.pools for name in pool} == {"a", "b", "c"}
    assert len(found.pools) == 3 + 3
    assert np.isfinite(found.scores[:, :, subjects == "d"]).all()
    pool = found.pools.index(("a", "b"))
    predictors = np.isin(subjects, ["a", "b"])
    predictors[np.flatnonzero(subjects == "a")[0]] = False
    alone = brain_scores.fit_layer(values[:, predictors], values[:, subjects == "d"], GROUPS, SPLITS, OLS)
    np.testing.assert_allclose(found.scores[pool][:, subjects == "d"], alone.r, rtol=0, atol=1e-9)


def test_a_constant_or_absent_neuroid_does_not_affect_others():
    values, subjects = recording()
    broken = values.copy()
    broken[:, 0], broken[:, 25] = 1.0, np.nan
    protocol = replace(OLS, metric="pearson_r")
    found = collect(broken, subjects.tolist(), GROUPS, SPLITS, protocol)
    assert np.isnan(found.scores[:, :, [0, 25]]).all()
    without = collect(
        np.delete(values, [0, 25], axis=1), np.delete(subjects, [0, 25]).tolist(), GROUPS, SPLITS, protocol
    )
    np.testing.assert_allclose(np.delete(found.scores, [0, 25], axis=2), without.scores, rtol=0, atol=1e-9)
    curves = extrapolate(found, n_bootstraps=5)
    assert np.isnan(curves[[0, 25]]).all()
    left, alone = np.delete(curves, [0, 25], axis=0)[..., 0], extrapolate(without, n_bootstraps=5)[..., 0]
    np.testing.assert_allclose(np.median(left, axis=1), np.median(alone, axis=1), rtol=0, atol=1e-3)


def test_the_group_neither_predicts_nor_is_predicted():
    values, subjects = recording()
    subjects = np.array(["group"] * 20 + subjects[20:].tolist())
    found = collect(values, subjects.tolist(), GROUPS, SPLITS, OLS)
    assert found.pools == (("b",), ("c",), ("d",), ("b", "c"), ("b", "d"), ("c", "d"))
    assert np.isnan(found.scores[:, :, :20]).all()


def test_one_subject_has_no_pools_and_no_curve():
    values, _ = recording()
    found = collect(values, ["a"] * 80, GROUPS, SPLITS, OLS)
    assert found.pools == ()
    assert np.isnan(extrapolate(found)).all()


# --- pools ------------------------------------------------------------------------------------------------------------


def test_up_to_five_subjects_all_pools_are_taken():
    names = list("abcde")
    assert draw_pools(names, 10, 0) == [pool for size in range(1, 5) for pool in combinations(names, size)]


@pytest.mark.parametrize("n", [6, 9, 10])
@pytest.mark.parametrize("seed", range(5))
def test_ten_of_many_pools_are_drawn_and_every_subject_is_left_out(n, seed):
    names = [f"s{k:02}" for k in range(n)]
    pools = draw_pools(names, 10, seed)
    assert len(set(pools)) == len(pools)
    for size in range(1, n):
        those = [pool for pool in pools if len(pool) == size]
        assert len(those) == min(10, len(list(combinations(names, size))))
        assert all(any(name not in pool for pool in those) for name in names)
        assert all(pool == tuple(sorted(set(pool))) for pool in those)


def test_the_seed_determines_the_pools():
    names = list("abcdefghi")
    assert draw_pools(names, 10, 1) == draw_pools(names, 10, 1) != draw_pools(names, 10, 2)


def test_sampled_pools_give_nearly_the_ceilings_of_all_pools():
    values, subjects = recording(6, width=4)
    some, every = (
        np.median(extrapolate(collect(values, subjects.tolist(), GROUPS, SPLITS, OLS, n_pools=n))[..., 0], axis=1)
        for n in (10, 20)
    )
    assert not np.array_equal(some, every)
    assert abs(np.median(some) - np.median(every)) < 0.03


# --- curves -----------------------------------------------------------------------------------------------------------


def one_after_the_other(collected, n_bootstraps):
    """Brain-Score's loops over neuroids, bootstraps and numbers of subjects."""
    sizes = np.array([len(pool) for pool in collected.pools])
    found = np.full((collected.scores.shape[2], n_bootstraps, 2), np.nan)
    for neuroid, scores in enumerate(np.moveaxis(collected.scores, 2, 0)):
        random = np.random.RandomState(0)
        there = ~np.isnan(scores).any(axis=1)
        for bootstrap in range(n_bootstraps):
            x = np.unique(sizes[there])
            flat = [scores[there & (sizes == size)].flatten() for size in x]
            y = [random.choice(values, size=len(values), replace=True).mean() for values in flat]
            found[neuroid, bootstrap] = curve_fit(
                lambda x, v0, tau0: v0 * (1 - np.exp(-x / tau0)), x + 1, y, bounds=([0, -np.inf], [1, np.inf])
            )[0]
    return found


@pytest.fixture(scope="module")
def scores():
    """Scores of 30 neuroids of five subjects that rise with pool size; one is missing in two folds."""
    rng = np.random.default_rng(0)
    names = list("abcde")
    pools = draw_pools(names, 10, 0)
    own = np.repeat(names, 6)
    sizes = np.array([len(pool) for pool in pools])[:, None, None]
    values = rng.uniform(0.1, 0.7, 30) * (1 - np.exp(-(sizes + 1) / 2)) + 0.05 * rng.standard_normal((30, 4, 30))
    for pool, of_pool in zip(pools, values, strict=True):
        of_pool[:, np.isin(own, pool)] = np.nan
    values[-1, 1, 0] = values[3, 2, 0] = np.nan
    return PooledScores(tuple(pools), values)


def test_vectorised_fits_equal_fits_one_by_one(scores):
    ours, slow = extrapolate(scores, n_bootstraps=10), one_after_the_other(scores, 10)
    np.testing.assert_allclose(ours[..., 0], slow[..., 0], rtol=0, atol=1e-5)  # see test_saturation
    assert np.median(np.abs(ours - slow)[..., 0]) < 1e-8


def test_all_neuroids_use_the_same_bootstrap_draws(scores):
    """So a neuroid's ceiling does not depend on which other neuroids were measured."""
    ours = extrapolate(scores, n_bootstraps=10)
    for neuroid in (0, 1, 29):
        alone = extrapolate(PooledScores(scores.pools, scores.scores[..., [neuroid]]), n_bootstraps=10)
        np.testing.assert_allclose(alone[0, :, 0], ours[neuroid, :, 0], rtol=0, atol=1e-4)


def test_threads_and_blocks_change_nothing(scores, monkeypatch):
    ours = extrapolate(scores, n_bootstraps=10)
    np.testing.assert_array_equal(extrapolate(scores, n_bootstraps=10, threads=3), ours)
    monkeypatch.setattr(extrapolation, "_NEUROIDS", 4)
    in_blocks = extrapolate(scores, n_bootstraps=10)  # sums of another order: see test_saturation
    np.testing.assert_allclose(in_blocks[..., 0], ours[..., 0], rtol=0, atol=1e-4)


def test_one_pool_size_gives_no_curve(scores):
    of_two = np.array([len(pool) == 2 for pool in scores.pools])
    pairs = PooledScores(tuple(pool for pool in scores.pools if len(pool) == 2), scores.scores[of_two])
    assert np.isnan(extrapolate(pairs, n_bootstraps=3)).all()
