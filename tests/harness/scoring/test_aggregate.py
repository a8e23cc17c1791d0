import numpy as np
import pytest

from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Ceiling, Features, Layer, LayerFit, Responses
from harness.scoring import aggregate
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


def test_the_ceiling_of_several_experiments_is_the_mean_of_their_medians():
    ceiling = Ceiling(("first", "second"), np.array([[0.2, 0.4, np.nan], [0.5, 0.6, 0.7]]), ("",) * 3)
    assert aggregate.median_ceiling(ceiling, ALL) == pytest.approx((0.3 + 0.6) / 2)
    assert aggregate.median_ceiling(ceiling, Target(np.arange(3), "second")) == pytest.approx(0.6)


def test_the_interval_covers_folds_and_subjects_from_three_subjects_on():
    r = np.tile([0.1, 0.2, 0.3, 0.4], (5, 1)) + np.linspace(-0.05, 0.05, 5)[:, None]
    fits = {Layer("decoder", 1): _fit(r)}
    many = aggregate.choose(fits, "max", _responses(("a", "b", "c", "d"), ("",) * 4), Target(np.arange(4)), 0)
    few = aggregate.choose(fits, "max", _responses(("a", "a", "b", "b"), ("",) * 4), Target(np.arange(4)), 0)
    assert many.interval_kind == "t, corrected for shared training rows, over 5 folds, and bootstrap over 4 subjects"
    assert many.r_low < many.r < many.r_high
    assert few.interval_kind == "t, corrected for shared training rows, over 5 folds"


def test_bootstrapped_subjects_equal_repeated_neuroids():
    """Weighted medians equal medians over neuroids repeated as often as their subject was drawn."""
    rng = np.random.default_rng(3)
    r, subject = rng.standard_normal((6, 40)), np.repeat([0, 1, 2, 3], [5, 9, 12, 14])
    r[rng.random(r.shape) < 0.2] = np.nan
    r[0], r[1, subject != 2] = np.nan, np.nan
    people = [np.flatnonzero(subject == k) for k in range(4)]
    draws = np.random.default_rng(7).integers(4, size=(aggregate.N_BOOTSTRAP, 4))
    slow = [
        aggregate.mean_of_parts(aggregate.medians(r[:, np.concatenate([people[k] for k in draw])]), TWO)
        for draw in draws
    ]
    found = aggregate._variance_over_subjects(r, TWO, people, 7)
    assert found == pytest.approx(np.nanvar(slow), rel=1e-12)


@pytest.mark.parametrize(
    ("rule", "at_most"),
    [(FoldRule("kfold", n=10), 0.1), (FoldRule("kfold", n=5), 0.1), (FoldRule("shuffled", n=10), 0.15)],
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
