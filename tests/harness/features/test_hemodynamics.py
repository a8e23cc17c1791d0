"""Assignment of words to scans, against hand-computed examples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.features import hemodynamics
from harness.features.hemodynamics import at_scans
from harness.protocol import Sampling
from harness.records import Features, Layer, Responses, Stimuli

LAYER = Layer("decoder", 0)
# Six words of one story. With a TR of 2 s they end in scans at 2, 2, 4, (none at 6), 8, 10 and 10.
ENDS_S = [0.5, 2.0, 2.1, 7.9, 9.0, 10.0]
VALUES = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]
TIMES_S = [2.0, 4.0, 6.0, 8.0, 10.0]


def words(ends_s, passages=None) -> Stimuli:
    n = len(ends_s)
    ids = tuple(f"w{i}" for i in range(n))
    return Stimuli(ids, ids, tuple(passages or ["story"] * n), ends_s=np.array(ends_s))


def scans(times_s, blocks=None) -> Responses:
    n = len(times_s)
    blocks = tuple(blocks or ["story"] * n)
    ids = tuple(f"tr{i}" for i in range(n))
    return Responses(np.zeros((n, 1)), ids, blocks, blocks, ("v",), ("s",), ("roi",), "z", np.array(times_s))


def pooled(sampling, ends_s=ENDS_S, values=VALUES, times_s=TIMES_S, passages=None, blocks=None):
    stimuli = words(ends_s, passages)
    features = Features({LAYER: np.array(values, dtype=np.float32)[:, None]}, stimuli.ids)
    return np.asarray(at_scans(features, stimuli, scans(times_s, blocks), sampling).values[LAYER])


@pytest.mark.parametrize(
    ("pool", "expected"), [("mean", [2, 5, 0, 7, 10]), ("sum", [4, 5, 0, 7, 20]), ("last", [3, 5, 5, 7, 11])]
)
def test_a_word_belongs_to_the_scan_in_whose_tr_it_ended(pool, expected):
    assert pooled(Sampling(pool))[:, 0].tolist() == expected


def test_the_last_word_before_the_first_is_zero():
    assert pooled(Sampling("last"), ends_s=[5.0], values=[7.0])[:, 0].tolist() == [0, 0, 7, 7, 7]


def test_the_shift_moves_words_to_later_scans():
    assert pooled(Sampling("sum", shift_s=4.0))[:, 0].tolist() == [0, 0, 4, 5, 0]
    assert pooled(Sampling("last", shift_s=4.0))[:, 0].tolist() == [0, 0, 3, 5, 5]


def test_delays_are_concatenated_and_start_with_zeros():
    delayed = pooled(Sampling("mean", delays=(0, 1, 3)))
    assert delayed.tolist() == [[2, 0, 0], [5, 2, 0], [0, 5, 0], [7, 0, 2], [10, 7, 5]]


@pytest.mark.parametrize("zscore", ["", "run"])
def test_scans_are_computed_as_they_are_read(zscore):
    stimuli, order = words(ENDS_S), np.array([4, 0, 2])
    features = Features({LAYER: np.arange(12, dtype=np.float32).reshape(6, 2)}, stimuli.ids)
    matrix = at_scans(features, stimuli, scans(TIMES_S), Sampling("sum", delays=(1, 2), zscore=zscore)).values[LAYER]
    whole = np.asarray(matrix)
    assert matrix.shape == whole.shape == (5, 4)
    np.testing.assert_array_equal(matrix[order], whole[order])
    np.testing.assert_array_equal(matrix[1:3], whole[1:3])
    np.testing.assert_array_equal(matrix[-1], whole[-1])
    np.testing.assert_array_equal(matrix.at(order)[:], whole[order])
    assert whole.std(axis=0) == pytest.approx(np.ones(4), abs=1e-6) or not zscore


class OnlyRows:
    """Features of words of which only chosen rows can be had; remembers them."""

    def __init__(self, values):
        self.values, self.shape, self.read = values, values.shape, []

    def __getitem__(self, rows):
        self.read.append(rows.tolist())
        return self.values[rows]


def test_only_the_words_of_the_scans_are_read():
    """In float64 all words of a long recording, for every block of scans, would take longer than everything else."""
    stimuli = words(ENDS_S)
    features = Features({LAYER: np.arange(12, dtype=np.float32).reshape(6, 2)}, stimuli.ids)
    matrix = at_scans(features, stimuli, scans(TIMES_S), Sampling("sum", delays=(0, 1))).values[LAYER]
    only_rows = OnlyRows(matrix.words)
    chosen = np.array([4, 1])
    np.testing.assert_array_equal(replace(matrix, words=only_rows)[chosen], matrix[:][chosen])
    assert only_rows.read == [[0, 1, 2, 3, 4, 5]]
    only_rows.read.clear()
    replace(matrix, words=only_rows).raw(slice(0, 1))
    assert only_rows.read == [[0, 1]]


def test_the_hidden_columns_of_a_delay_stay_together():
    stimuli = words([1.0, 3.0])
    features = Features({LAYER: np.array([[1, 2], [3, 4]], dtype=np.float32)}, stimuli.ids)
    found = at_scans(features, stimuli, scans([2.0, 4.0]), Sampling(delays=(0, 1)))
    assert found.values[LAYER][:].tolist() == [[1, 2, 0, 0], [3, 4, 1, 2]]
    assert found.row_ids == ("tr0", "tr1")
    assert found.values[LAYER].dtype == np.float32


def test_a_delay_does_not_reach_into_the_block_before():
    delayed = pooled(Sampling("mean", delays=(1,)), blocks=["run 1", "run 1", "run 2", "run 2", "run 2"])
    assert delayed[:, 0].tolist() == [0, 2, 0, 0, 7]


def test_delays_count_time_and_not_kept_scans():
    """Scans at 2 and 4 were removed; the delayed features of the scan at 6 still include their words."""
    delayed = pooled(Sampling("mean", delays=(1, 2)), times_s=[6.0, 8.0, 10.0])
    assert delayed.tolist() == [[5, 2], [0, 5], [7, 0]]


def test_with_onset_clock_a_word_belongs_to_the_last_scan_before_it():
    """An onset at a scan's own time belongs to the scan before; onsets in the TR after a run belong to the run."""
    onsets = [0.5, 2.0, 2.1, 4.0, 6.5, 8.0]
    stimuli = replace(words([onset + 9 for onset in onsets]), onsets_s=np.array(onsets))
    features = Features({LAYER: np.array([[1], [2], [4], [8], [16], [32]], dtype=np.float32)}, stimuli.ids)

    def carried(delays, blocks=None, skip=0):
        how = Sampling("sum", clock="onset", delays=delays, skip_words=skip)
        return at_scans(features, stimuli, scans([0.0, 2.0, 4.0, 6.0], blocks), how).values[LAYER][:].T.tolist()

    assert carried((0,)) == [[3, 12, 0, 48]]
    assert carried((1, 2)) == [[0, 3, 12, 0], [0, 0, 3, 12]]
    assert carried((1,), blocks=["1", "1", "2", "2"]) == [[0, 3, 0, 0]]
    assert carried((0,), skip=1) == [[2, 12, 0, 48]]


def test_columns_are_z_scored_within_each_run_and_zero_where_constant():
    stimuli = words([1.0, 3.0, 5.0, 7.0, 9.0, 11.0])
    values = np.array([[1, 5], [2, 5], [6, 5], [0, 1], [2, 2], [1, 3]], dtype=np.float32)
    found = at_scans(
        Features({LAYER: values}, stimuli.ids), stimuli,
        scans([2.0, 4.0, 6.0, 8.0, 10.0, 12.0], ["1"] * 3 + ["2"] * 3), Sampling(zscore="run"),
    ).values[LAYER][:]  # fmt: skip
    for run in (slice(0, 3), slice(3, 6)):
        np.testing.assert_allclose(found[run].mean(axis=0), 0, atol=1e-7)
    np.testing.assert_allclose([found[:3, 0].std(), *found[3:].std(axis=0)], 1, atol=1e-6)
    assert found[:3, 1].tolist() == [0, 0, 0]


def test_each_story_has_its_own_clock_where_blocks_are_passages():
    found = pooled(
        Sampling("last", delays=(0, 1)), ends_s=[1.0, 3.0, 1.5], values=[1.0, 2.0, 3.0], passages=["a", "a", "b"],
        times_s=[2.0, 4.0, 0.0, 2.0], blocks=["a", "a", "b", "b"],
    )  # fmt: skip
    assert found.tolist() == [[1, 0], [2, 1], [0, 0], [3, 0]]


def test_words_before_the_first_tr_and_after_the_last_scan_are_not_assigned():
    assert pooled(Sampling("sum"), ends_s=[0.0, 0.1, 10.0, 10.1], values=[1.0, 2.0, 4.0, 8.0]).sum() == 6


def test_words_in_a_break_between_scans_are_not_assigned():
    found = pooled(Sampling("sum"), ends_s=[3.0, 5.0, 9.5], values=[1, 2, 4], times_s=[2.0, 4.0, 10.0, 12.0])
    assert found[:, 0].tolist() == [0, 1, 4, 0]


def test_rounding_of_times_moves_no_word():
    assert 0.1 + 0.2 > 0.3
    found = pooled(Sampling("sum", shift_s=0.2), ends_s=[0.1], values=[1.0], times_s=[0.3, 0.6, 0.9])
    assert found[:, 0].tolist() == [1, 0, 0]


def test_features_are_joined_to_words_by_id():
    stimuli = words(ENDS_S)
    backwards = Features({LAYER: np.array(VALUES[::-1], dtype=np.float32)[:, None]}, stimuli.ids[::-1])
    found = at_scans(backwards, stimuli, scans(TIMES_S), Sampling("sum")).values[LAYER]
    np.testing.assert_array_equal(found, pooled(Sampling("sum")))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"times_s": [2.0, 6.0, 4.0, 8.0, 10.0]}, "'tr2' is not later"),
        ({"times_s": [2.0, 4.0, 2.0, 4.0, 6.0], "blocks": ["1", "1", "2", "2", "2"]}, "'tr2' is not later"),
        ({"blocks": ["story", "story", "other", "other", "other"]}, "'other'"),
        ({"blocks": ["1", "2", "3", "4", "5"]}, "TR is not known"),
        ({"ends_s": [0.5, np.nan, 2.1, 7.9, 9.0, 10.0]}, "'w1' has no end"),
    ],
)
def test_invalid_times_are_errors(wrong, message):
    with pytest.raises(ValueError, match=message):
        pooled(Sampling(), **wrong)


def test_words_without_ends_and_odd_delays_are_errors():
    ids = ("w0", "w1")
    features = Features({LAYER: np.zeros((2, 1))}, ids)
    with pytest.raises(ValueError, match="ends_s"):
        at_scans(features, Stimuli(ids, ids, ("a", "a")), scans([2.0, 4.0]), Sampling())
    with pytest.raises(ValueError, match="delays"):
        at_scans(features, words([1.0, 2.0]), scans([2.0, 4.0]), Sampling(delays=(-1,)))


# --- filters ----------------------------------------------------------------------------------------------------------


def test_lanczos_is_that_of_the_story_laboratories():
    """The weights of Huth et al.'s `lanczosinterp2D` (window 3, cut-off at the scans), written out word by word."""
    rng = np.random.default_rng(0)
    ends_s, times_s = np.sort(rng.uniform(0, 60, 90)), np.arange(1, 31) * 2.0
    values = rng.normal(size=90)
    found = pooled(Sampling("lanczos", delays=(0, 2)), ends_s=ends_s, values=values, times_s=times_s)
    for scan, time_s in enumerate(times_s):
        for column, centre_s in enumerate((time_s, time_s - 4.0)):
            total = 0.0
            for end_s, value in zip(ends_s, values, strict=True):
                t = (centre_s - end_s) / 2.0
                if abs(t) < 3:
                    total += value * 3 * np.sin(np.pi * t) * np.sin(np.pi * t / 3) / (np.pi * t) ** 2
            assert found[scan, column] == pytest.approx(total, abs=1e-5)


def test_hrf_is_a_convolution_with_the_canonical_response(monkeypatch):
    """A time course of words at 100 Hz, convolved and read at the time of each scan."""
    from scipy.stats import gamma

    monkeypatch.setattr(hemodynamics, "_CHUNK", 7)
    rng = np.random.default_rng(1)
    ends_s, times_s = rng.integers(0, 6000, 80) / 100, np.arange(1, 41) * 2.0
    course = np.zeros(9000)
    values = rng.normal(size=80)
    np.add.at(course, np.rint(ends_s * 100).astype(int), values)
    seconds = np.arange(0, 32, 0.01)
    response = gamma.pdf(seconds, 6) - gamma.pdf(seconds, 16) / 6
    response /= response.sum()  # a steady rate of one word a TR is 1
    expected = 2 * 100 * np.convolve(course, response)[np.rint(times_s * 100).astype(int)]
    found = pooled(Sampling("hrf"), ends_s=ends_s, values=values, times_s=times_s)[:, 0]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_canonical_response_peaks_after_five_seconds_and_then_undershoots():
    course = pooled(Sampling("hrf"), ends_s=[0.0], values=[1.0], times_s=np.arange(1, 41) * 1.0)[:, 0]
    assert course.argmax() == 4  # the scan at 5 s
    assert course[:5].min() >= 0
    assert course[12:20].max() < 0
    assert not course[31:].any()


@pytest.mark.parametrize("pool", ["lanczos", "hrf"])
def test_filters_stay_within_a_block_and_words_of_a_scan_are_those_of_its_tr(pool):
    stimuli, responses = words([1.0, 3.0, 5.0, 7.0]), scans(np.arange(1, 9) * 2.0, ["run 1"] * 2 + ["run 2"] * 6)
    how = Sampling(pool)
    assignment = hemodynamics.scans(stimuli, responses, how)
    weights = assignment.delayed[0].toarray()
    assert not weights[:2, 2:].any()
    assert not weights[2:, :2].any()
    assert weights[2:, 2:].any(axis=0).all()
    assert assignment.words_of(np.array([1, 2])).tolist() == [1, 2]


def test_the_canonical_response_takes_no_delays():
    with pytest.raises(ValueError, match=r"delays \[1, 2\]; leave out the delays"):
        Sampling("hrf", delays=(1, 2))
