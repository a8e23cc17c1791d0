"""Reading-time slopes: planted slopes are recovered, intervals cover, and statsmodels agrees."""

from dataclasses import replace

import numpy as np
import pytest

from harness import datasets
from harness.features import controls
from harness.records import Dataset, ReadingTimes, Stimuli
from harness.scoring import reader_slopes

VOCABULARY = ("a", "the", "fox", "meadow", "telescope", "runs", "quietly", "of", "orchard", "remembered", "snow", "is")
N_READERS, STORIES, SENTENCES, WORDS = 16, 6, 12, 9


def made(per_bit, seed, word_noise=0.0, n_stories=STORIES):
    """Log times from length, surprisal (slopes vary by a third over readers) and noise shared by all readers."""
    rng = np.random.default_rng(seed)
    places = [(s, k, w) for s in range(n_stories) for k in range(SENTENCES) for w in range(WORDS)]
    texts, n = tuple(rng.choice(VOCABULARY, len(places))), len(places)
    stimuli = Stimuli(
        tuple(".".join(map(str, place)) for place in places), texts, tuple(f"s{s}" for s, *_ in places),
        sentences=tuple(f"{s}.{k}" for s, k, _ in places),
    )  # fmt: skip
    bits = rng.gamma(2, 3, n)
    slope = per_bit * (1 + rng.standard_normal(N_READERS) / 3)
    shared = 0.02 * controls.characters(texts) + word_noise * rng.standard_normal(n)
    logs = 5.7 + shared[:, None] + bits[:, None] * slope + 0.2 * rng.standard_normal(N_READERS)
    times = np.exp(logs + 0.25 * rng.standard_normal((n, N_READERS))).astype(np.float32)
    times[rng.random(times.shape) < 0.3] = np.nan
    names = tuple(f"r{k}" for k in range(N_READERS))
    scored = np.array([w > 0 for *_, w in places])
    reading = ReadingTimes(stimuli.ids, np.nanmean(times, axis=1), scored, "made", names, times)
    return Dataset("made", "0", stimuli, reading=reading), bits, slope


def test_a_planted_slope_is_found_for_all_and_for_each_reader():
    dataset, bits, truth = made(0.02, seed=0)
    found = reader_slopes.fit(bits, dataset)
    every = {each.term: each for each in found if each.subject == reader_slopes.ALL}
    assert every["word"].low < truth.mean() < every["word"].high
    assert every["word"].low > 0
    assert every["word"].p < 1e-6
    assert every["word"].mixed_p < 1e-6
    assert all(abs(every[term].slope) < 3.5 * every[term].se for term in ("1 before", "2 before"))
    assert every["word"].sd_subjects == pytest.approx(truth.std(), rel=0.5)
    of_readers = [each for each in found if each.term == "word" and each.subject != reader_slopes.ALL]
    assert [each.subject for each in of_readers] == list(dataset.reading.subjects)
    assert np.corrcoef([each.slope for each in of_readers], truth)[0, 1] > 0.8
    assert sum(each.n_readings for each in of_readers) == every["word"].n_readings


def test_units_are_log_milliseconds_per_bit():
    dataset, bits, _ = made(0.02, seed=1)
    one, other = reader_slopes.fit(bits, dataset)[0], reader_slopes.fit(bits * 10, dataset)[0]
    assert other.slope == pytest.approx(one.slope / 10, rel=1e-6)
    assert other.p == pytest.approx(one.p, rel=1e-4)


@pytest.mark.slow
def test_with_shared_word_effects_the_clustered_interval_holds_and_the_mixed_models_does_not():
    """At 5 %, 4 or more of 12 data sets without a slope exclude 0 by chance once in 500 times."""
    wrong, naive = 0, 0
    for seed in range(12):
        dataset, bits, _ = made(0.0, seed, word_noise=0.2, n_stories=3)
        first = reader_slopes.fit(bits, dataset)[0]
        wrong += first.p < 0.05
        naive += first.mixed_p < 0.05
    assert wrong <= 3
    assert naive > wrong


def test_a_predictor_determined_by_the_controls_has_no_slope():
    dataset, _, _ = made(0.0, seed=0)
    assert reader_slopes.fit(controls.characters(dataset.stimuli.texts), dataset) == []
    assert reader_slopes.fit(np.ones(len(dataset.stimuli)), dataset) == []


def test_mean_reading_times_have_no_slopes_per_reader():
    dataset, bits, _ = made(0.0, seed=0)
    with pytest.raises(ValueError, match="no reading times of single readers"):
        reader_slopes.fit(bits, replace(dataset, reading=replace(dataset.reading, subjects=(), by_subject_ms=None)))


@pytest.mark.slow
def test_on_the_second_batch_of_natural_stories_length_slows_every_reader(shared):
    """A real fit of 88 readers; the predictor is squared length, since length itself is one of the controls."""
    dataset = datasets.load("futrell2018-batch2", shared / "data")
    squared = controls.characters(dataset.stimuli.texts) ** 2
    found = reader_slopes.fit(squared, dataset)
    every = [each for each in found if each.subject == reader_slopes.ALL]
    assert [each.n_subjects for each in every] == [88] * 3
    assert every[0].n_readings > 80_000
    assert all(each.converged for each in every)
    assert every[0].slope > 0
    assert len(found) == 3 * 89
