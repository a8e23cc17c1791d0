"""Noise ceilings: split halves and prediction between subjects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import curve_fit

from harness.kernels.gram import design
from harness.kernels.ridge import Penalty, Split, fit_fold
from harness.protocol import FoldRule, Protocol, Regression
from harness.records import ReadingTimes, Responses
from harness.scoring.ceilings import corrected_halves, of_reading, of_responses, split_half, split_half_with_interval

PROTOCOL = Protocol(
    "strict", "passage", FoldRule("grouped", n=5), Regression("ridge", (0.1, 1.0, 10.0, 100.0), inner="groups"), "max"
)


def recording(values, subjects, rois=None) -> Responses:
    n_rows, n_neuroids = values.shape
    passages = tuple(f"p{i // 4}" for i in range(n_rows))
    return Responses(
        values.astype(np.float32), tuple(f"r{i}" for i in range(n_rows)), passages, passages,
        tuple(f"n{i}" for i in range(n_neuroids)), tuple(subjects), tuple(rois or ["language"] * n_neuroids), "z",
    )  # fmt: skip


def listeners(noise=(0.5, 0.5, 0.5), n_rows=200):
    """Subjects with two neuroids each: two signals shared by all subjects plus independent noise."""
    rng = np.random.default_rng(0)
    heard = rng.standard_normal((n_rows, 2))
    values = np.hstack([heard + level * rng.standard_normal((n_rows, 2)) for level in noise])
    return values, [name for name in "abcdef"[: len(noise)] for _ in range(2)]


def ceilings_of(responses, protocol=PROTOCOL):
    found = of_responses(responses, protocol)
    return found.values, tuple(found.kinds)


def curve(x, v0, tau0):
    return v0 * (1 - np.exp(-x / tau0))


def test_split_halves_are_those_of_brain_score(shared):
    case = np.load(shared / "oracle" / "futrell_splithalf.npz", allow_pickle=False)
    corrected = corrected_halves(case["rt"], case["half1_member"])
    np.testing.assert_allclose(corrected, case["corrected"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.median(corrected), case["ceiling"], rtol=0, atol=1e-12)
    assert abs(split_half(case["rt"]) - case["ceiling"]) < 0.03  # other random halves of the same readers


def test_split_halves_recover_the_reliability_of_the_mean():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4000, 1)) + 2 * rng.standard_normal((4000, 16))
    # Signal variance 1, noise of a mean over 16: 4 / 16.
    assert abs(split_half(values) - 1 / 1.25) < 0.02


def test_independent_subjects_have_no_reliability():
    assert abs(split_half(np.random.default_rng(0).standard_normal((2000, 10)))) < 0.15


def test_split_halves_ignore_absent_values():
    values = np.random.default_rng(0).standard_normal((30, 1)) + 0.5 * np.random.default_rng(1).standard_normal((30, 4))
    values[3, :2] = np.nan  # absent from the first half
    values[7, 1] = np.nan  # present in it by one subject
    halves = np.array([[True, True, False, False]])
    present = values[np.arange(30) != 3]
    r = np.corrcoef(np.nanmean(present[:, :2], axis=1), present[:, 2:].mean(axis=1))[0, 1]
    np.testing.assert_allclose(corrected_halves(values, halves), 2 * r / (1 + r), rtol=1e-12)


def halves_of(n_subjects, noise, seed, n_rows=200):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n_rows, 1)) + noise * rng.standard_normal((n_rows, n_subjects))


def test_the_interval_of_split_halves_covers_the_reliability_of_the_mean():
    """12 subjects with noise 2: the mean has signal 1 and noise 4 / 12."""
    found = [split_half_with_interval(halves_of(12, 2.0, seed)) for seed in range(30)]
    assert sum(low < 0.75 < high for _, low, high in found) >= 27
    assert np.mean([high - low for _, low, high in found]) < 0.4


def test_the_interval_of_split_halves_of_noise_reaches_0():
    found = [split_half_with_interval(np.random.default_rng(seed).standard_normal((200, 12))) for seed in range(30)]
    assert sum(low <= 0 for _, low, _ in found) >= 28


def test_three_subjects_have_split_halves_without_an_interval():
    ceiling, low, high = split_half_with_interval(halves_of(3, 0.5, 0))
    assert ceiling > 0.5
    assert np.isnan([low, high]).all()


def test_one_subject_has_no_split_half():
    assert np.isnan(split_half(np.random.default_rng(0).standard_normal((50, 1))))


def test_the_seed_determines_the_split_halves():
    values = np.random.default_rng(0).standard_normal((100, 9)) + np.random.default_rng(1).standard_normal((100, 1))
    assert split_half(values, seed=3) == split_half(values, seed=3) != split_half(values, seed=4)


def test_many_subjects_are_extrapolated_to_the_known_asymptote():
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((400, 12)))[0] * 20  # nothing correlates by chance
    values = np.hstack([Q[:, :2] + Q[:, own : own + 2] for own in range(2, 12, 2)])
    ceiling, kinds = ceilings_of(
        recording(values, np.repeat(list("abcde"), 2)), replace(PROTOCOL, regression=Regression("ols"))
    )
    # A neuroid is signal 1 + noise 1; the mean of n others is signal 1 + noise 1 / n.
    r = 1 / np.sqrt(2 * (1 + 1 / np.arange(1, 5)))
    (v0, _), _ = curve_fit(curve, np.arange(2, 6), r, bounds=([0, -np.inf], [1, np.inf]))
    assert v0 < 1 / np.sqrt(2) - 0.05  # the curve rises faster than the truth, and so ends too low
    assert np.abs(ceiling - v0).max() < 0.03  # the fits' own errors take .015
    assert set(kinds) == {"extrapolated to infinitely many subjects"}


def test_with_two_subjects_each_is_predicted_from_the_other():
    values, subjects = listeners(noise=(0.5, 0.5))
    ceiling, kinds = ceilings_of(recording(values, subjects), PROTOCOL)
    # Each neuroid is signal 1 + noise 0.25.
    assert np.abs(ceiling - 1 / 1.25).max() < 0.05
    assert set(kinds) == {"r of other subjects"}


def test_a_noisy_subject_has_a_lower_ceiling():
    values, subjects = listeners(noise=(0.3, 0.3, 0.3, 3.0))
    ceiling, _ = ceilings_of(recording(values, subjects), PROTOCOL)
    assert ceiling[:6].min() > ceiling[6:].max() + 0.3


def test_a_subject_is_not_predicted_from_its_own_neuroids_nor_from_the_group():
    rng = np.random.default_rng(0)
    alone = rng.standard_normal((200, 2))
    values = np.hstack([alone, alone, alone, rng.standard_normal((200, 2))])
    rois = ["language"] * 4 + ["group elsewhere"] * 2 + ["language"] * 2
    ceiling, _ = ceilings_of(recording(values, ["a"] * 4 + ["group"] * 2 + ["b"] * 2, rois), PROTOCOL)
    assert np.abs(ceiling[[0, 1, 2, 3, 6, 7]]).max() < 0.25
    assert np.isnan(ceiling[4:6]).all()


def test_neuroids_that_are_incomplete_on_the_rows_of_a_subject_do_not_predict_it():
    values, subjects = listeners()
    values[:100, 4:] = np.nan  # c took part in the second half only
    ceiling, kinds = ceilings_of(recording(values, subjects), PROTOCOL)
    without, _ = ceilings_of(recording(values[:, :4], subjects[:4]), PROTOCOL)
    np.testing.assert_array_equal(ceiling[:4], without)
    assert kinds == (*["r of other subjects"] * 4, *["extrapolated to infinitely many subjects"] * 2)


def test_a_subject_is_predicted_on_its_own_rows_of_each_fold():
    values, subjects = listeners(noise=(0.5, 0.5))
    values[:100, 2:] = np.nan
    protocol = replace(PROTOCOL, folds=FoldRule("contiguous", n=5))  # tests rows 0-39, 40-79, 80-119, 120-159, 160-199
    ceiling, _ = ceilings_of(recording(values, subjects), protocol)
    own = np.arange(100)
    tests = own[:20], own[20:60], own[60:]
    features = design(values[100:, :2].astype(np.float32))
    r = []
    for test in tests:
        train = np.setdiff1d(own, test)
        Y = values[100:, 2:].astype(np.float32)
        inner = train // 20  # under contiguous folds, the other blocks of time
        r.append(fit_fold(features, Y, Split(train, test, inner), Penalty(PROTOCOL.regression.alphas)).r)
    np.testing.assert_allclose(ceiling[2:], np.mean(r, axis=0), rtol=0, atol=1e-12)
    assert np.isnan(ceiling[:2]).all()  # nobody else was there all the time


def test_subjects_of_different_experiments_do_not_predict_each_other():
    values, subjects = listeners(noise=(0.5,) * 4)
    values[:100, :6], values[100:, 6:] = np.nan, np.nan  # d was there when nobody else was
    ceiling, kinds = ceilings_of(recording(values, subjects), PROTOCOL)
    without, _ = ceilings_of(recording(values[:, :6], subjects[:6]), PROTOCOL)
    np.testing.assert_array_equal(ceiling[:6], without)
    assert np.isnan(ceiling[6:]).all()
    assert kinds == (*["extrapolated to infinitely many subjects"] * 6, "", "")


def test_a_single_subject_has_no_ceiling_and_no_kind():
    values, _ = listeners()
    ceiling, kinds = ceilings_of(recording(values, ["a"] * 6), PROTOCOL)
    assert np.isnan(ceiling).all()
    assert kinds == ("",) * 6


def test_a_group_mean_has_the_split_half_of_its_own_region():
    values, _ = listeners()
    rois = ["front", "back"] * 3 + ["group front", "group back", "group nowhere"]
    group = np.stack([values[:, ::2].mean(axis=1), values[:, 1::2].mean(axis=1), values[:, 0]], axis=1)
    louder = values.copy()
    louder[:, 2:4] *= 1000  # values are z-scored within each subject, so this says nothing
    for own in (values, louder):
        responses = recording(np.hstack([own, group]), [*"aabbcc", "group", "group", "group"], rois)
        ceiling, kinds = ceilings_of(responses, PROTOCOL)
        assert kinds == (
            *["extrapolated to infinitely many subjects"] * 6,
            "reliability by split half",
            "reliability by split half",
            "",
        )
        z = (values - values.mean(axis=0)) / values.std(axis=0)
        np.testing.assert_allclose(ceiling[6], split_half(z[:, ::2]), atol=1e-6)
        np.testing.assert_allclose(ceiling[7], split_half(z[:, 1::2]), atol=1e-6)
        assert np.isnan(ceiling[8])


def test_a_perfect_model_of_a_mean_reaches_the_ceiling_of_strict():
    """Six readers, noise with four times the variance of the signal: r is the root of the reliability, 0.77."""
    found, strict = [], replace(PROTOCOL, ceiling_curve="reliability")
    for seed in range(10):
        rng = np.random.default_rng(seed)
        signal = rng.standard_normal(200)
        readers = signal[:, None] + 2 * rng.standard_normal((200, 6))
        ids, mean = tuple(map(str, range(200))), readers.mean(axis=1)
        reading = ReadingTimes(ids, mean, np.ones(200, dtype=bool), "made", tuple("abcdef"), readers)
        root, reliability = (of_reading(reading, protocol) for protocol in (strict, PROTOCOL))
        assert root.kinds[0] == f"square root of the {reliability.kinds[0]}"
        assert root.high[0] == pytest.approx(np.sqrt(reliability.high[0]))
        found.append((np.corrcoef(signal, mean)[0, 1], root.values[0], reliability.values[0]))
    r, of_strict, of_paper = np.mean(found, axis=0)
    assert of_strict == pytest.approx(r, abs=0.03)
    assert of_paper < 0.85 * r


def test_a_mean_over_subjects_has_the_root_under_strict():
    values, subjects = listeners(noise=(0.5,) * 4)
    both = np.column_stack([values, values[:, ::2].mean(axis=1)])
    responses = recording(both, [*subjects, "group"], ["front", "back"] * 4 + ["group front"])
    (of_paper, kind), (of_strict, kind_of_strict) = (
        ceilings_of(responses, replace(PROTOCOL, ceiling_curve=curve)) for curve in ("exponential", "reliability")
    )
    assert of_strict[8] == pytest.approx(np.sqrt(of_paper[8]))
    assert (kind[8], kind_of_strict[8]) == ("reliability by split half", "square root of the reliability by split half")


@pytest.mark.parametrize("regression", [Regression("ols"), replace(PROTOCOL.regression, scale="zscore")])
@pytest.mark.parametrize("noise", [(0.5,) * 2, (0.5,) * 4])
def test_the_regression_is_that_of_the_protocol(regression, noise):
    values, subjects = listeners(noise)
    ceiling, _ = ceilings_of(recording(values, subjects), replace(PROTOCOL, regression=regression))
    other, _ = ceilings_of(recording(values, subjects), PROTOCOL)
    assert not np.array_equal(ceiling, other)
    np.testing.assert_allclose(ceiling, other, atol=0.02)
