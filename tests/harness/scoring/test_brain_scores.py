"""Scores of features on responses: rows, folds, layers, experiments."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from harness.conformance import crossvalidation, vectors
from harness.datasets.synthetic import BRAINSCORE2026
from harness.kernels.gram import design
from harness.kernels.ridge import Penalty, Split, fit_fold
from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Features, Layer, Responses
from harness.scoring import aggregate
from harness.scoring.brain_scores import score_layers
from harness.scoring.fitting import run_locally

LAYER = Layer("decoder", 1)
RIDGE = Regression("ridge", tuple(np.logspace(-2, 6, 9)))
GROUPED = Protocol("strict", "passage", FoldRule("grouped", n=5), replace(RIDGE, inner="groups"), "nested")
SHUFFLED = Protocol("paper", "passage", FoldRule("shuffled", n=5), RIDGE, "max")


def recording(values, passage_length=4) -> Responses:
    n_rows, n_neuroids = values.shape
    passages = tuple(f"passage {i // passage_length}" for i in range(n_rows))
    return Responses(
        values.astype(np.float32), tuple(f"row {i}" for i in range(n_rows)), passages, passages,
        tuple(f"neuroid {i}" for i in range(n_neuroids)), ("s1",) * n_neuroids, ("language",) * n_neuroids, "z",
    )  # fmt: skip


def features(matrix, layer=LAYER) -> Features:
    return Features({layer: matrix.astype(np.float32)}, tuple(f"row {i}" for i in range(len(matrix))))


def planted(n_rows=200, n_neuroids=20, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, 30))
    return X, X @ rng.standard_normal((30, n_neuroids)) / 5 + noise * rng.standard_normal((n_rows, n_neuroids))


@pytest.mark.parametrize("protocol", [GROUPED, SHUFFLED])
def test_a_planted_signal_is_recovered_and_unrelated_features_score_zero(protocol):
    X, Y = planted()
    other = np.random.default_rng(9).standard_normal(X.shape)
    fits = score_layers(Features({LAYER: X, Layer("decoder", 2): other}, features(X).row_ids), recording(Y), protocol)
    assert np.median(fits[LAYER].r) > 0.6
    assert abs(np.nanmedian(fits[Layer("decoder", 2)].r)) < 0.1
    assert fits[LAYER].r.shape == fits[LAYER].alpha.shape == fits[LAYER].inner.shape == (5, 20)
    assert (fits[LAYER].n_features, fits[LAYER].n_rows, fits[LAYER].rank.tolist()) == (30, 200, [30] * 5)


def test_rows_are_joined_by_id_and_not_by_position():
    X, Y = planted()
    order = np.random.default_rng(1).permutation(len(X))
    straight = features(X)
    extra = Features(
        {LAYER: np.vstack([X[order], np.full((1, 30), 1e6)])}, (*(straight.row_ids[i] for i in order), "unheard")
    )
    before, after = (score_layers(given, recording(Y), GROUPED)[LAYER].r for given in (straight, extra))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)  # float32 against float64 features


def test_each_experiment_is_fitted_on_its_own_rows():
    """Scores equal those of two separate recordings; a neuroid has none where it was not measured."""
    X, Y = planted()
    whole = recording(Y)
    first, second = np.arange(80), np.arange(80, 200)
    values = whole.values.copy()
    values[:80, 15:] = np.nan
    values[80:, :5] = np.nan
    both = replace(whole, values=values, row_parts=("one",) * 80 + ("two",) * 120)
    for protocol in (GROUPED, SHUFFLED, replace(SHUFFLED, regression=replace(RIDGE, per_neuroid=False))):
        fit = score_layers(features(X), both, protocol)[LAYER]
        alone = [
            score_layers(features(X), whole.of(rows, neuroids), protocol)[LAYER]
            for rows, neuroids in ((first, np.arange(15)), (second, np.arange(5, 20)))
        ]
        assert fit.parts == ("one",) * 5 + ("two",) * 5
        np.testing.assert_array_equal(fit.r[:5, :15], alone[0].r)
        np.testing.assert_array_equal(fit.r[5:, 5:], alone[1].r)
        np.testing.assert_array_equal(fit.alpha[5:, 5:], alone[1].alpha)
        assert np.isnan(fit.r[:5, 15:]).all()
        assert np.isnan(fit.r[5:, :5]).all()
        assert fit.n_rows == 200


def test_a_row_without_features_is_named():
    X, Y = planted()
    short = Features({LAYER: X[1:]}, features(X).row_ids[1:])
    with pytest.raises(ValueError, match=r"1 of 200 .* 'row 0'"):
        score_layers(short, recording(Y), GROUPED)


def test_a_layer_that_is_not_finite_is_named_with_its_column():
    X, Y = planted()
    X[3, 7] = np.nan
    with pytest.raises(ValueError, match=r"layer decoder\.1: .*column 7"):
        score_layers(features(X), recording(Y), GROUPED)


def test_a_constant_layer_is_nan_and_does_not_affect_other_layers():
    X, Y = planted()
    flat = Layer("decoder", 0)
    fits = score_layers(Features({flat: np.full((200, 3), 0.1), LAYER: X}, features(X).row_ids), recording(Y), GROUPED)
    assert np.isnan([fits[flat].r, fits[flat].alpha, fits[flat].inner]).all()
    assert np.isnan([fits[flat].at_low, fits[flat].at_high]).all()
    assert (fits[flat].rank == 0).all()
    assert np.isfinite(fits[LAYER].r).all()


def drifting():
    """Features that encode only the time of a row, and responses with noise shared within a passage."""
    rng = np.random.default_rng(0)
    passage = np.repeat(np.arange(50), 4)
    return np.eye(50)[passage] + 0.01 * rng.standard_normal((200, 50)), (
        rng.standard_normal((50, 30))[passage] + 0.5 * rng.standard_normal((200, 30))
    )


def test_noise_shared_within_passages_looks_like_alignment_only_under_shuffled_folds():
    X, Y = drifting()
    shuffled, grouped = (np.nanmean(score_layers(features(X), recording(Y), p)[LAYER].r) for p in (SHUFFLED, GROUPED))
    assert shuffled > 0.5
    assert abs(grouped) < 0.05


def test_leaving_out_passages_rejects_noise_that_leaving_out_rows_fits():
    X, Y = drifting()
    by_row = replace(GROUPED, regression=replace(GROUPED.regression, inner="loo"))
    rows, passages = (score_layers(features(X), recording(Y), p)[LAYER] for p in (by_row, GROUPED))
    assert np.log10(passages.alpha).mean() > np.log10(rows.alpha).mean() + 2
    assert np.median(rows.inner) > 0.3
    assert np.median(passages.inner) < 0.05
    assert passages.at_high > 0.3
    assert rows.at_high == 0


def test_groups_of_one_row_equal_leave_one_out():
    X, Y = planted(n_rows=60)
    rule = FoldRule("kfold", n=3)
    by_group = replace(GROUPED, folds=rule)
    by_row = replace(by_group, regression=RIDGE)
    single, rows = (score_layers(features(X), recording(Y, 1), p)[LAYER] for p in (by_group, by_row))
    np.testing.assert_array_equal(single.inner, rows.inner)


def test_one_long_story_is_divided_into_blocks_of_time_to_choose_alpha():
    X, Y = planted(n_rows=60)
    protocol = replace(GROUPED, folds=FoldRule("contiguous", n=3, gap=2))
    fit = score_layers(features(X), recording(Y, passage_length=60), protocol)[LAYER]
    train = np.arange(22, 60)
    blocks = np.repeat(np.arange(5), [8, 8, 8, 7, 7])
    alone = fit_fold(
        design(X.astype(np.float32)), Y.astype(np.float32), Split(train, np.arange(20), blocks), Penalty(RIDGE.alphas)
    )
    np.testing.assert_allclose(fit.inner[0], alone.inner, rtol=0, atol=1e-12)


def test_the_seed_of_the_protocol_draws_the_folds():
    X, Y = planted()
    later = replace(SHUFFLED, folds=replace(SHUFFLED.folds, seed=SHUFFLED.folds.seed + 1))
    at = [score_layers(features(X), recording(Y), protocol)[LAYER].r for protocol in (SHUFFLED, SHUFFLED, later)]
    np.testing.assert_array_equal(at[0], at[1])
    assert not np.array_equal(at[0], at[2])


@pytest.mark.parametrize("scale", ["center", "zscore"])
def test_oasm_is_not_measurable_on_passages_without_training_rows(scale):
    """OASM predicts a constant for a new passage, so its score is NaN and not a score of rounding errors."""
    passages = np.repeat(np.arange(12), 5)
    place = np.arange(60)
    smooth = np.exp(-((place[:, None] - place) ** 2) / 8) * (passages[:, None] == passages)
    Y = np.random.default_rng(0).standard_normal((60, 30)).astype(np.float32)
    grouped = replace(GROUPED, regression=replace(GROUPED.regression, scale=scale))
    heard = recording(Y, passage_length=5)
    assert np.isnan(score_layers(features(smooth), heard, grouped)[LAYER].r).all()
    shuffled = score_layers(features(smooth), heard, SHUFFLED)[LAYER]
    assert np.isfinite(shuffled.r).all()


def test_least_squares_has_no_grid_and_ridge_needs_one():
    X, Y = planted()
    fit = score_layers(features(X), recording(Y), replace(SHUFFLED, regression=Regression("ols", (1.0,))))[LAYER]
    assert (fit.alpha == 0).all()
    assert np.isnan([fit.at_low, fit.at_high]).all()
    with pytest.raises(ValueError, match="ridge without a grid"):
        score_layers(features(X), recording(Y), replace(SHUFFLED, regression=Regression("ridge")))


def test_a_fold_without_scores_is_excluded_from_the_fractions_at_the_grid_ends():
    X, Y = planted(n_neuroids=2)
    Y[40:] = 0  # constant on the training rows of the first fold
    fit = score_layers(features(X), recording(Y), replace(SHUFFLED, folds=FoldRule("contiguous", n=5)))[LAYER]
    assert np.isnan([fit.r[0], fit.alpha[0]]).all()
    assert fit.at_high == np.mean(fit.alpha[1:] == RIDGE.alphas[-1])


@pytest.mark.parametrize(
    "change", [{"relative": True}, {"per_neuroid": False}, {"scale": "zscore"}, {"kind": "ols"}, {"inner": "groups"}]
)
def test_every_part_of_the_regression_reaches_the_kernel(change):
    X, Y = planted()
    X *= np.logspace(-1, 1, 30)
    protocol = replace(SHUFFLED, regression=replace(RIDGE, **change))
    plain, changed = (score_layers(features(X), recording(Y), p)[LAYER] for p in (SHUFFLED, protocol))
    assert not np.array_equal(plain.alpha, changed.alpha)


def test_layers_are_fitted_in_parallel_on_the_available_cores():
    X, Y = planted()
    layers = {Layer("decoder", k): X * np.logspace(0, k, 30) for k in range(5)}
    several = Features({layer: X.astype(np.float32) for layer, X in layers.items()}, features(X).row_ids)
    seen = {1: set(), 2: set()}

    def watched(how, matrices, Y):
        class Watched(type(matrices)):
            def __getitem__(self, index):
                seen[threads].add(threading.get_ident())
                return super().__getitem__(index)

        return run_locally(how, Watched(matrices.features, matrices.rows), Y)

    found = {}
    for threads in seen:
        with threadpool_limits(threads, user_api="blas"):
            found[threads] = score_layers(several, recording(Y), GROUPED, watched)
    assert seen[1] == {threading.get_ident()}
    assert threading.get_ident() not in seen[2]
    for layer in layers:
        np.testing.assert_allclose(found[2][layer].r, found[1][layer].r, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(found[2][layer].alpha, found[1][layer].alpha)


def test_the_cutoff_of_least_squares_reaches_the_kernel():
    X, Y = planted()
    for cutoff, rank in ((1e-12, 30), (1e-3, 15)):  # squared singular values over 6 decades
        protocol = replace(SHUFFLED, regression=Regression("ols", cutoff=cutoff))
        fit = score_layers(features(X * np.logspace(0, 3, 30)), recording(Y), protocol)[LAYER]
        assert (np.abs(fit.rank - rank) <= 1).all()


def test_neuroids_with_missing_rows_are_scored_on_the_rows_they_have():
    X, Y = planted(noise=0.2)
    Y[:120, 4] = np.nan
    Y[5] = np.nan
    fit = score_layers(features(X), recording(Y), SHUFFLED)[LAYER]
    assert fit.n_rows == 199
    assert np.isfinite(fit.r).all()
    assert fit.r[:, 4].mean() > 0.7


@pytest.mark.parametrize("case", [
    "ridge_blank_like", "ridge_degenerate_targets", "ridge_group_n120_p900_v50", "ridge_group_n243_p64_v300",
    "ridge_group_n384_p768_v400", "ridge_tuckute_like_v1",
])  # fmt: skip
def test_brainscore2026_gives_the_score_of_brain_score(case, shared):
    recorded = vectors.read(shared / "oracle" / f"{case}.npz")
    n_neuroids = recorded["Y"].shape[1]
    ids = tuple(recorded["stimulus_id"].tolist())
    groups = tuple(recorded.arrays.get("group", recorded["stimulus_id"]).tolist())
    responses = Responses(
        recorded["Y"], ids, groups, ids, tuple(recorded["neuroid_id"].tolist()), tuple(recorded["subject"].tolist()),
        ("language",) * n_neuroids, "z",
    )  # fmt: skip
    rule = crossvalidation.rule_of(recorded.meta["crossvalidation_kwargs"] or {})
    fit = score_layers(Features({LAYER: recorded["X"]}, ids), responses, replace(BRAINSCORE2026, folds=rule))[LAYER]
    np.testing.assert_allclose(fit.r, recorded["r"], rtol=0, atol=1e-9)  # constant targets are 0, and counted
    target = aggregate.targets(responses)["all"]
    assert len(target.neuroids) == n_neuroids
    np.testing.assert_allclose(aggregate.fold_scores(fit, target), recorded["per_split_score"], rtol=0, atol=1e-10)
    assert abs(aggregate.layer_score(fit, target) - recorded["score"]) < 1e-10


def test_constant_features_are_nan_under_pearson_r_and_zero_under_brainscore_r():
    X, Y = planted()
    Y[:, 3], X = np.nan, np.ones_like(X)
    Y[:2, 3] = 1.0, 2.0  # too few responses in most folds
    exact = {
        metric: replace(BRAINSCORE2026, folds=SHUFFLED.folds, metric=metric) for metric in ("pearson_r", "brainscore_r")
    }
    fits = {metric: score_layers(features(X), recording(Y), exact[metric])[LAYER] for metric in exact}
    assert np.isnan(fits["pearson_r"].r).all()
    r = fits["brainscore_r"].r
    assert (np.delete(r, 3, axis=1) == 0).all()
    assert np.isnan(r[:, 3]).all()
    assert (fits["brainscore_r"].rank == 0).all()
    assert np.isnan(fits["brainscore_r"].alpha).all()


def test_a_constant_neuroid_is_nan_under_pearson_r_and_zero_under_brainscore_r():
    X, Y = planted()
    Y[:, 3] = 0.1
    exact = {metric: replace(SHUFFLED, metric=metric) for metric in ("pearson_r", "brainscore_r")}
    r = {metric: score_layers(features(X), recording(Y), exact[metric])[LAYER].r for metric in exact}
    assert np.isnan(r["pearson_r"][:, 3]).all()
    assert (abs(r["brainscore_r"][:, 3]) < 1e-6).all()
    np.testing.assert_allclose(np.delete(r["brainscore_r"], 3, 1), np.delete(r["pearson_r"], 3, 1), rtol=0, atol=1e-7)
