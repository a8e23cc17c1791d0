import numpy as np
import pytest
from scipy import stats

from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Features, Layer, LayerFit, Responses
from harness.scoring import aggregate, folds, intervals
from harness.scoring.aggregate import Target
from harness.scoring.brain_scores import score_layers


def _responses(subjects, rois):
    n = len(subjects)
    names = tuple(f"v{k}" for k in range(n))
    return Responses(np.zeros((2, n), np.float32), ("a", "b"), ("g", "h"), ("g", "h"), names, subjects, rois, "z")


def _fit(r, inner=None, parts=None):
    r = np.asarray(r, dtype=float)
    inner = np.zeros_like(r) if inner is None else np.asarray(inner, dtype=float)
    return LayerFit(r, np.ones_like(r), inner, 0.0, 0.0, np.ones(len(r), int), 1, 2, 0.1, parts or ("",) * len(r))


ONE = _responses(("s1",) * 3, ("",) * 3)
ALL = Target(np.arange(3))


def test_a_layers_score_is_the_median_over_neuroids_then_the_mean_over_folds():
    assert aggregate.layer_score(_fit([[0.1, 0.2, 0.9], [0.0, 0.4, 0.5]]), ALL) == pytest.approx(0.3)


def test_a_neuroid_that_cannot_be_measured_is_left_out_and_counted():
    fits = {Layer("decoder", 1): _fit([[np.nan, 0.2, 0.4], [np.nan, 0.2, 0.4]])}
    chosen = aggregate.choose(fits, "max", ONE, ALL, 0)
    assert chosen.r == pytest.approx(0.3)
    assert (chosen.n_nan, chosen.n_neuroids) == (1, 3)


def test_nothing_measurable_gives_nan_and_no_interval():
    chosen = aggregate.choose({Layer("x", 0): _fit(np.full((2, 3), np.nan))}, "nested", ONE, ALL, 0)
    assert np.isnan([chosen.r, chosen.r_low, chosen.r_high]).all()
    assert chosen.n_nan == 3


def test_max_uses_held_out_scores_and_nested_uses_training_rows():
    fits = {
        Layer("decoder", 1): _fit([[0.5] * 3, [0.5] * 3], inner=[[0.1] * 3, [0.1] * 3]),
        Layer("decoder", 2): _fit([[0.3] * 3, [0.3] * 3], inner=[[0.2] * 3, [0.2] * 3]),
    }
    best = aggregate.choose(fits, "max", ONE, ALL, 0)
    nested = aggregate.choose(fits, "nested", ONE, ALL, 0)
    assert (best.layer.index, best.r) == (1, pytest.approx(0.5))
    assert (nested.layer.index, nested.r) == (2, pytest.approx(0.3))


def test_folds_can_choose_different_layers():
    fits = {
        Layer("decoder", 1): _fit([[0.5] * 3, [0.1] * 3, [0.5] * 3], inner=[[0.9] * 3, [0.0] * 3, [0.9] * 3]),
        Layer("decoder", 2): _fit([[0.2] * 3, [0.8] * 3, [0.2] * 3], inner=[[0.1] * 3, [0.5] * 3, [0.1] * 3]),
    }
    chosen = aggregate.choose(fits, "nested", ONE, ALL, 0)
    assert chosen.r == pytest.approx((0.5 + 0.8 + 0.5) / 3)
    assert chosen.layer == Layer("decoder", 1)


def test_nested_choice_among_layers_of_noise_is_unbiased():
    rng = np.random.default_rng(0)
    fits = {Layer("decoder", k): _fit(rng.normal(0, 0.1, (10, 3)), rng.normal(0, 0.1, (10, 3))) for k in range(60)}
    assert aggregate.choose(fits, "max", ONE, ALL, 0).r > 0.05
    assert abs(aggregate.choose(fits, "nested", ONE, ALL, 0).r) < 0.05


def test_group_means_are_a_separate_target_and_not_part_of_all():
    found = aggregate.targets(_responses(("s1", "s2", "group"), ("LATL", "LATL", "group LATL")))
    assert {name: list(target.neuroids) for name, target in found.items()} == {
        "all": [0, 1],
        "group": [2],
        "LATL": [0, 1],
        "group LATL": [2],
    }


def test_group_means_are_all_if_there_are_no_single_subjects():
    assert list(aggregate.targets(_responses(("group",) * 2, ("IFG", "MFG")))["all"].neuroids) == [0, 1]


TWO = ("first",) * 2 + ("second",) * 4


def test_the_score_of_several_experiments_is_the_mean_of_their_scores():
    """Six folds of two experiments of unequal size; the third voxel was measured in the second experiment only."""
    r = [[0.1, 0.3, np.nan]] * 2 + [[0.5, 0.7, 0.9]] * 4
    fits = {Layer("decoder", 1): _fit(r, parts=TWO)}
    chosen = aggregate.choose(fits, "max", ONE, ALL, 0)
    assert chosen.r == pytest.approx((0.2 + 0.7) / 2)
    second = aggregate.choose(fits, "max", ONE, Target(np.arange(3), "second"), 0)
    assert (second.r, second.n_nan) == (pytest.approx(0.7), 0)
    assert aggregate.fold_parts(fits[Layer("decoder", 1)], Target(np.arange(3), "second")) == ("second",) * 4


def test_each_experiment_is_a_target_with_its_own_neuroids():
    values = np.array([[1.0, 2.0, np.nan], [2.0, 3.0, np.nan], [3.0, np.nan, 1.0], [4.0, np.nan, 2.0]], np.float32)
    rows = ("a", "b", "c", "d")
    parts = ("one", "one", "two", "two")
    names = ("v1", "v2", "v3")
    responses = Responses(values, rows, rows, rows, names, ("s1", "s2", "s3"), ("",) * 3, "z", row_parts=parts)
    found = aggregate.targets(responses)
    assert {name: (list(target.neuroids), target.part) for name, target in found.items()} == {
        "all": ([0, 1, 2], None), "one": ([0, 1], "one"), "two": ([0, 2], "two"),
    }  # fmt: skip


def test_the_interval_of_two_experiments_does_not_count_their_difference():
    """Folds of one experiment agree within 0.01; the experiments differ by 0.5."""
    r = [[0.1] * 3, [0.11] * 3, [0.6] * 3, [0.61] * 3, [0.6] * 3, [0.61] * 3]
    chosen = aggregate.choose({Layer("decoder", 1): _fit(r, parts=TWO)}, "max", ONE, ALL, 0)
    assert 0 < chosen.r_high - chosen.r_low < 0.05
    assert "over 6 folds" in chosen.interval_kind


def test_the_interval_covers_folds_and_subjects_from_three_subjects_on():
    r = np.tile([0.1, 0.2, 0.3, 0.4], (5, 1)) + np.linspace(-0.05, 0.05, 5)[:, None]
    fits = {Layer("decoder", 1): _fit(r)}
    many = aggregate.choose(fits, "max", _responses(("a", "b", "c", "d"), ("",) * 4), Target(np.arange(4)), 0)
    few = aggregate.choose(fits, "max", _responses(("a", "a", "b", "b"), ("",) * 4), Target(np.arange(4)), 0)
    assert many.interval_kind == "t, corrected for shared training rows, over 5 folds, and bootstrap over 4 subjects"
    assert many.r_low < many.r < many.r_high
    assert few.interval_kind == "t, corrected for shared training rows, over 5 folds"


UNEQUAL = _responses(("a",) * 27 + ("b",) * 3, ("",) * 30)


def test_by_subject_a_subject_with_many_neuroids_counts_as_much_as_one_with_few():
    """27 voxels of noise and 3 that are predicted well: pooled, the noise alone decides."""
    r = np.r_[np.zeros(27), np.full(3, 0.6)][None] + np.array([[-0.1], [0.1]])
    for aggregation, expected in (("pooled", 0.0), ("by subject", 0.3)):
        target = aggregate.targets(UNEQUAL, aggregation)["all"]
        assert aggregate.choose({Layer("x", 0): _fit(r)}, "nested", UNEQUAL, target, 0).r == pytest.approx(expected)


def test_by_subject_the_layer_is_chosen_by_subject_too():
    good_for_a, good_for_b = (np.r_[np.full(27, a), np.full(3, b)][None].repeat(2, axis=0) for a, b in ((2, 0), (1, 9)))
    fits = {Layer("x", 1): _fit(good_for_a, good_for_a), Layer("x", 2): _fit(good_for_b, good_for_b)}
    for choice in ("nested", "max"):
        pooled, by_subject = (
            aggregate.choose(fits, choice, UNEQUAL, aggregate.targets(UNEQUAL, aggregation)["all"], 0)
            for aggregation in ("pooled", "by subject")
        )
        assert (pooled.layer.index, by_subject.layer.index) == (1, 2)


def test_by_subject_experiments_average_the_subjects_that_took_part():
    r = np.array([[0.1, np.nan, np.nan]] * 2 + [[0.4, 0.6, 0.8]] * 4)
    responses = _responses(("a", "b", "b"), ("",) * 3)
    chosen = aggregate.choose(
        {Layer("x", 1): _fit(r, parts=TWO)}, "max", responses, aggregate.targets(responses, "by subject")["all"], 0
    )
    assert chosen.r == pytest.approx((0.1 + (0.4 + 0.7) / 2) / 2)


def test_the_mean_over_regions_is_a_target_but_no_region_of_all():
    """As Tuckute2024's "LH network"; the voxels of a network are not a mean over it."""
    names = ("IFG", "MFG", "LH network")
    found = aggregate.targets(_responses(("group",) * 3, names))
    assert {name: list(target.neuroids) for name, target in found.items()} == {
        "all": [0, 1], "IFG": [0], "MFG": [1], "LH network": [2],
    }  # fmt: skip
    voxels = aggregate.targets(_responses(("a",) * 4, ("language network", "language network", "V1", "V2")))
    assert list(voxels["all"].neuroids) == [0, 1, 2, 3]
    alone = aggregate.targets(_responses(("a", "b"), ("network", "network")))
    assert list(alone["all"].neuroids) == [0, 1]


def test_the_best_layer_of_all_is_one_layer_for_the_mean_of_the_experiments():
    """PAPER's "all" on Pereira2018: not the mean of the best layer of each experiment."""
    r = {1: [0.9, 0.1], 2: [0.6, 0.6], 3: [0.1, 0.9]}
    fits = {Layer("x", k): _fit([[first] * 3] * 2 + [[second] * 3] * 4, parts=TWO) for k, (first, second) in r.items()}
    chosen = aggregate.choose(fits, "max", ONE, ALL, 0)
    assert (chosen.layer.index, chosen.layer_folds, chosen.r) == (2, 6, pytest.approx(0.6))
    assert aggregate.choose(fits, "max", ONE, Target(np.arange(3), "first"), 0).layer.index == 1


def _crossed(rng, n_folds, subject_sd, fold_sd, rho):
    """(fold, subject) scores of three subjects, with true mean 0; two folds are correlated by rho."""
    correlated = np.linalg.cholesky((1 - rho) * np.eye(n_folds) + rho)
    residuals = correlated @ rng.standard_normal((n_folds, 3))
    return subject_sd * rng.standard_normal(3) + fold_sd * correlated @ rng.standard_normal((n_folds, 1)) + residuals


@pytest.mark.parametrize(("subject_sd", "fold_sd"), [(0, 0), (0, 1), (0.5, 0.3), (3, 1)])
def test_the_interval_over_folds_and_three_subjects_covers_the_true_score(subject_sd, fold_sd):
    rng, rho = np.random.default_rng(0), 1 / 9
    target = aggregate.targets(_responses(("a", "b", "c"), ("",) * 3), "by subject")["all"]
    intervals_found = [
        aggregate.interval(
            _crossed(rng, 10, subject_sd, fold_sd, rho), ("",) * 10, rho, np.array(list("abc")), target, 0
        )
        for _ in range(600)
    ]
    assert intervals_found[0][2] == "t, corrected for shared training rows, over 10 folds and 3 subjects"
    missed = np.mean([low > 0 or high < 0 for low, high, _ in intervals_found])
    assert 0.01 < missed < 0.07


def test_two_folds_that_predict_each_other_have_no_interval():
    splits = folds.make(FoldRule("contiguous", n=2), ["a"] * 20)
    assert folds.correlation(splits) == pytest.approx(1.0)
    assert np.isnan(intervals.over_folds(np.array([0.1, 0.2]), ("", ""), folds.correlation(splits)).value)


def test_bootstrapped_subjects_equal_repeated_neuroids():
    """Weighted medians equal medians over neuroids repeated as often as their subject was drawn."""
    rng = np.random.default_rng(3)
    r, subject = rng.standard_normal((6, 40)), np.repeat([0, 1, 2, 3], [5, 9, 12, 14])
    r[rng.random(r.shape) < 0.2] = np.nan
    r[0], r[1, subject != 2] = np.nan, np.nan
    people = [np.flatnonzero(subject == k) for k in range(4)]
    draws = np.random.default_rng(7).integers(4, size=(intervals.N_BOOTSTRAP, 4))
    slow = [
        aggregate.mean_of_parts(aggregate.medians(r[:, np.concatenate([people[k] for k in draw])]), TWO)
        for draw in draws
    ]
    found = intervals.of_pooled_subjects(r, TWO, people, 7)
    assert found == pytest.approx((np.nanvar(slow) * 4 / 3, 3.0))


@pytest.mark.parametrize(
    ("rule", "at_most"),
    [(FoldRule("grouped", n=10), 0.09), (FoldRule("contiguous", n=5), 0.09), (FoldRule("shuffled", n=10), 0.09)],
)
def test_the_interval_of_pure_noise_rarely_excludes_zero(rule, at_most):
    """200 recordings of noise, nominal 5 %. Without the correction 10 random splits exclude 0 in 25 %."""
    rng = np.random.default_rng(0)
    layer, excluded = Layer("decoder", 1), 0
    names = tuple(f"row {i}" for i in range(80))
    protocol = Protocol("strict", "none", rule, Regression("ridge", (10.0,)), "max")
    for _ in range(200):
        values = rng.standard_normal((80, 1)).astype(np.float32)
        responses = Responses(values, names, names, names, ("v",), ("group",), ("",), "z")
        fits = score_layers(Features({layer: rng.standard_normal((80, 5))}, names), responses, protocol)
        chosen = aggregate.choose(fits, "max", responses, Target(np.arange(1)), 0)
        excluded += chosen.r_low > 0 or chosen.r_high < 0
    assert 1 <= excluded <= 200 * at_most


def test_the_papers_error_bars_are_the_median_absolute_deviation_over_single_subjects():
    responses = _responses(("s1", "s1", "s2", "s3", "group"), ("",) * 5)
    r = [[0.1, 0.3, 0.5, 0.9, 0.0], [0.2, 0.4, 0.5, 0.7, 0.0]]  # subjects' means over folds: 0.25, 0.5, 0.8
    chosen = aggregate.choose({Layer("decoder", 1): _fit(r)}, "max", responses, Target(np.arange(4)), 0)
    assert chosen.r_mad == pytest.approx(stats.median_abs_deviation([0.25, 0.5, 0.8]))
    one = aggregate.choose({Layer("decoder", 1): _fit(r)}, "max", responses, Target(np.arange(2)), 0)
    assert np.isnan(one.r_mad)
