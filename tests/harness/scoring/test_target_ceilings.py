"""Ceilings of targets, their intervals, and the ratios that they allow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Ceiling, Responses
from harness.scoring import aggregate, ceilings, target_ceilings
from harness.scoring.aggregate import Target
from harness.scoring.target_ceilings import TargetCeiling

STRICT = Protocol(
    "strict", "none", FoldRule("grouped", n=5), Regression("ridge", (1.0, 10.0, 100.0, 1000.0), scale="zscore"),
    "nested", aggregate="by subject", ceiling_curve="reliability",
)  # fmt: skip
PAPER = replace(STRICT, name="paper", aggregate="pooled", ceiling_curve="exponential")


def recorded(n_subjects: int, reliability: float, seed: int, n_rows: int = 120, width: int = 3) -> Responses:
    """Subjects with three neuroids each: two signals shared by all, and independent noise."""
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((n_rows, 2)) @ rng.standard_normal((2, n_subjects * width))
    noise = rng.standard_normal(signal.shape)
    values = np.sqrt(reliability) * signal / signal.std(axis=0) + np.sqrt(1 - reliability) * noise
    rows, groups = tuple(f"r{k}" for k in range(n_rows)), tuple(f"g{k // 5}" for k in range(n_rows))
    subjects = tuple(f"s{k // width}" for k in range(n_subjects * width))
    names = tuple(f"n{k}" for k in range(n_subjects * width))
    return Responses(values.astype(np.float32), rows, groups, groups, names, subjects, ("",) * len(names), "z")


def of_recording(responses: Responses, protocol: Protocol) -> tuple[Ceiling, TargetCeiling]:
    values, low, high, kinds, n_subjects, n_sizes, growth = ceilings.of_responses(responses, protocol)
    columns = (low[None], high[None], n_subjects[None], n_sizes[None])
    ceiling = Ceiling(("",), values[None], tuple(kinds), *columns, (growth,))
    target = aggregate.targets(responses, protocol.aggregate)["all"]
    return ceiling, target_ceilings.of_target(ceiling, target, responses.subjects, protocol)


def test_the_ceiling_of_five_subjects_is_nearly_unbiased_under_strict_and_too_low_under_paper():
    """True ceiling: the square root of 0.5."""
    strict, paper = (
        [of_recording(recorded(5, 0.5, seed), protocol)[1] for seed in range(6)] for protocol in (STRICT, PAPER)
    )
    assert np.mean([ceiling.value for ceiling in strict]) == pytest.approx(0.707, abs=0.025)
    assert 0.62 < np.mean([ceiling.value for ceiling in paper]) < 0.69
    assert sum(ceiling.low < 0.707 < ceiling.high for ceiling in strict) >= 5
    assert {(ceiling.n_subjects, ceiling.n_sizes) for ceiling in strict} == {(5, 4)}
    assert all(np.isfinite(ceiling.divisor) for ceiling in (*strict, *paper))


@pytest.mark.parametrize("protocol", [STRICT, PAPER])
def test_noise_has_an_interval_that_reaches_0_and_no_ratio(protocol):
    found = [of_recording(recorded(5, 0.0, seed), protocol)[1] for seed in range(8)]
    assert sum(ceiling.low <= 0 for ceiling in found) >= 7
    assert sum(np.isfinite(ceiling.divisor) for ceiling in found) <= 1
    assert all(np.isfinite(ceiling.value) for ceiling in found)


def test_three_subjects_have_a_ceiling_but_no_ratio():
    ceiling, of_target = of_recording(recorded(3, 0.8, 0), STRICT)
    assert of_target.value > 0.5
    assert (of_target.kind, of_target.n_sizes) == (ceilings.EXTRAPOLATED, 2)
    assert np.isnan(of_target.divisor)
    divisors = target_ceilings.divisors(ceiling.values[0], ceiling.low[0], ceiling.n_sizes[0], ceiling.kinds)
    assert np.isnan(divisors).all()


@pytest.mark.parametrize(
    ("ceiling", "is_divisor"),
    [
        (TargetCeiling(0.5, 0.3, 0.7, ceilings.EXTRAPOLATED, 5, 4), True),
        (TargetCeiling(0.5, 0.3, 0.7, ceilings.EXTRAPOLATED, 4, 3), False),
        (TargetCeiling(0.5, -0.1, 1.1, ceilings.EXTRAPOLATED, 5, 4), False),
        (TargetCeiling(0.5, np.nan, np.nan, ceilings.EXTRAPOLATED, 5, 4), False),
        (TargetCeiling(0.5, 0.3, 0.7, ceilings.SPLIT_HALF, 5, 0), True),
        (TargetCeiling(0.5, -0.1, 1.1, ceilings.SPLIT_HALF, 5, 0), False),
        (TargetCeiling(0.5, np.nan, np.nan, ceilings.SPLIT_HALF, 3, 0), False),
        (TargetCeiling(0.5, 0.3, 0.7, "explainable variance of 3 repetitions", 0, 0), True),
        (TargetCeiling(0.36, np.nan, np.nan, "published", 0, 0), True),
        (TargetCeiling(0.001, np.nan, np.nan, "published", 0, 0), False),
    ],
)
def test_a_score_is_divided_only_by_a_ceiling_that_is_clear_of_0(ceiling, is_divisor):
    assert np.isfinite(ceiling.divisor) == is_divisor


def test_subjects_count_equally_in_the_ceiling_of_strict():
    """27 voxels of noise of one subject; four others with 3 good voxels each."""
    good, noise = recorded(4, 0.8, 0), recorded(1, 0.0, 1, width=27)
    values = np.hstack([good.values, noise.values])
    names = tuple(f"n{k}" for k in range(values.shape[1]))
    subjects = good.subjects + ("noisy",) * 27
    both = replace(good, values=values, neuroid_ids=names, subjects=subjects, rois=("",) * len(names))
    assert of_recording(both, PAPER)[1].value < 0.25
    assert of_recording(both, STRICT)[1].value > 0.45


def test_ceilings_of_experiments_are_averaged_after_aggregation():
    values = np.array([[0.2, 0.4, np.nan], [0.5, 0.6, 0.7]])
    ceiling = Ceiling(("first", "second"), values, ("published",) * 3, values - 0.1, values + 0.1)
    of_all = target_ceilings.of_target(ceiling, Target(np.arange(3)), ("a",) * 3, PAPER)
    assert of_all[:3] == pytest.approx(((0.3 + 0.6) / 2, 0.35, 0.55))
    of_second = target_ceilings.of_target(ceiling, Target(np.arange(3), "second"), ("a",) * 3, PAPER)
    assert of_second.value == pytest.approx(0.6)


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("factor", [1.0, 1e-6])
def test_offset_and_unit_of_the_responses_do_not_change_the_ceiling(offset, factor):
    responses = recorded(4, 0.5, 0)
    moved = replace(responses, values=factor * (responses.values.astype(np.float64) + offset))
    (first, _), (second, _) = (of_recording(each, STRICT) for each in (responses, moved))
    np.testing.assert_allclose(second.values, first.values, atol=1e-4)


def test_an_experiment_with_one_subject_has_no_ceiling_and_leaves_no_ratio_over_both():
    several = recorded(6, 0.8, 0)
    found = ceilings.of_responses(several, STRICT)
    unknown = np.full_like(found.values, np.nan)
    empty = found.growth._replace(scores=found.growth.scores[:0])  # no other subject predicts the only one
    values, kinds = np.stack([found.values, unknown]), tuple(found.kinds)
    ceiling = Ceiling(("first", "second"), values, kinds, growth=(found.growth, empty))
    first, both = (
        target_ceilings.of_target(ceiling, Target(np.arange(len(unknown)), part), several.subjects, STRICT)
        for part in ("first", None)
    )
    assert both.value == first.value > 0.5
    assert np.isfinite(first.low)
    assert np.isnan(both.divisor)
