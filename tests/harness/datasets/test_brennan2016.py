"""Brennan2016: words, clock, and the known signal in the recording."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import gamma

from harness import datasets
from harness.datasets.brennan2016 import REGIONS, remove_drift


@pytest.fixture(scope="module")
def alice(shared):
    return datasets.load("brennan2016", shared / "data")


def word_rate(alice, shift_s=0.0):
    """Word onsets convolved with the canonical haemodynamic response (SPM's double gamma), at scan times + shift."""
    t = alice.responses.times_s[:, None] + shift_s - alice.stimuli.onsets_s[None, :]
    return np.where(t >= 0, gamma.pdf(t, 6) - gamma.pdf(t, 16) / 6, 0).sum(axis=1)


def group_means(alice):
    """(scan, region)"""
    columns = [i for i, subject in enumerate(alice.responses.subjects) if subject == "group"]
    return alice.responses.values[:, columns]


def by_subject(alice):
    """(scan, subject, region)"""
    columns = [i for i, subject in enumerate(alice.responses.subjects) if subject != "group"]
    return alice.responses.values[:, columns].reshape(len(alice.responses.row_ids), -1, len(REGIONS))


def correlations(a, b):
    return np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)])


def test_there_are_2127_words_with_increasing_times(alice):
    stimuli = alice.stimuli
    assert len(stimuli) == 2_127
    assert stimuli.texts[:5] == ("Alice", "was", "beginning", "to", "get")
    assert not {"sp", ""} & set(stimuli.texts)
    assert all(text == text.strip() for text in stimuli.texts)
    assert (np.diff(stimuli.onsets_s) > 0).all()
    assert (stimuli.ends_s > stimuli.onsets_s).all()
    assert stimuli.onsets_s[0] == pytest.approx(20.0589, abs=1e-4)


def test_there_are_27_subjects_and_their_mean_in_six_regions(alice):
    responses = alice.responses
    assert responses.values.shape == (362, 27 * 6 + 6)
    subjects = set(responses.subjects) - {"group"}
    assert len(subjects) == 27
    assert "s33" not in subjects
    assert responses.rois[-6:] == tuple(f"group {region}" for region in REGIONS)
    np.testing.assert_allclose(by_subject(alice).mean(axis=1), group_means(alice), atol=1e-6)


def test_scans_cover_the_story(alice):
    responses = alice.responses
    np.testing.assert_array_equal(responses.times_s[[0, -1]], [20.0, 742.0])
    assert responses.row_ids[0] == "scan.10"
    assert set(responses.row_blocks) == {"alice"}
    assert len(set(responses.row_groups)) == 12


def test_the_clock_matches_the_published_word_rate(alice, shared):
    folder = shared / "data" / "alice_brennan2016" / "alice_data_shared"
    published = np.loadtxt(folder / "s18-rate.txt")
    r = {shift: np.corrcoef(word_rate(alice, shift), published)[0, 1] for shift in (-2.0, -1.0, 0.0, 1.0, 2.0)}
    assert r[0.0] > 0.98
    assert max(r, key=r.get) == 0.0


def test_the_group_mean_correlates_with_the_word_rate(alice):
    """The published predictor gives 0.32-0.43 by region; ours gives 0.34-0.47."""
    rate = np.repeat(word_rate(alice)[:, None], 6, axis=1)
    r = correlations(rate, group_means(alice))
    assert r.min() > 0.3
    assert r.max() < 0.5


def test_the_split_half_reliability_has_the_known_values(alice):
    """0.64-0.88: split half of the group mean by region, Spearman-Brown corrected, median of 100 splits."""
    values, rng = by_subject(alice), np.random.default_rng(0)
    reliabilities = []
    for _ in range(100):
        order = rng.permutation(27)
        r = correlations(values[:, order[:13]].mean(axis=1), values[:, order[13:]].mean(axis=1))
        reliabilities.append(2 * r / (1 + r))
    reliability = np.median(reliabilities, axis=0)
    assert reliability.min() == pytest.approx(0.64, abs=0.03)
    assert reliability.max() == pytest.approx(0.88, abs=0.02)


def test_drift_is_removed_and_the_residual_has_unit_variance():
    time = np.linspace(-1, 1, 362)[:, None]
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((362, 2))
    cleaned = remove_drift(500 + 90 * time + 30 * time**3 + signal)
    np.testing.assert_allclose(cleaned.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(cleaned.std(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(cleaned, remove_drift(signal), atol=1e-5)


@pytest.mark.parametrize(
    ("courses", "message"), [(np.zeros((362, 6)), "constant"), (np.ones((361, 6)), r"\(361, 6\).*wanted \(362, 6\)")]
)
def test_a_constant_or_short_recording_is_rejected_with_its_name(tmp_path, courses, message):
    """s33 is all zeros in the 10 mm regions."""
    from harness.datasets.brennan2016 import _read_courses

    np.savetxt(tmp_path / "s33-timecourses.txt", courses)
    with pytest.raises(ValueError, match=f"s33-timecourses.txt.*{message}"):
        _read_courses(tmp_path / "s33-timecourses.txt")
