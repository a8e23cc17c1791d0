"""Reading-time scores: planted surprisal is recovered, noise gains nothing, and the corpus gives known values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from harness import datasets
from harness.features import controls
from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Dataset, Fold, ReadingTimes, Stimuli
from harness.scoring import folds, reading_times

PAPER = Protocol("paper", "corpus", FoldRule("grouped"), Regression("ols"), "max", reading="correlation")
STRICT = Protocol("strict", "passage", FoldRule("grouped"), Regression("ols"), "nested", reading="regression")
VOCABULARY = ("a", "the", "fox", "meadow", "telescope", "runs", "quietly", "of", "orchard", "remembered", "snow", "is")
STORIES, SENTENCES, WORDS = 8, 25, 10


def made(per_bit: float, seed: int = 0) -> tuple[Dataset, np.ndarray]:
    """Reading times with 9 ms per character and `per_bit` ms per bit of synthetic surprisal, plus noise."""
    rng = np.random.default_rng(seed)
    places = [(story, sentence, k) for story in range(STORIES) for sentence in range(SENTENCES) for k in range(WORDS)]
    texts = tuple(rng.choice(VOCABULARY, size=len(places)))
    stimuli = Stimuli(tuple(".".join(map(str, place)) for place in places), texts, tuple(f"s{s}" for s, *_ in places))
    bits = rng.gamma(2, 3, size=len(places))
    mean_ms = 300 + 9 * controls.characters(texts) + per_bit * bits + 25 * rng.standard_normal(len(places))
    sentences = tuple(f"{story}.{sentence}" for story, sentence, _ in places)
    stimuli = replace(stimuli, sentences=sentences)
    times = ReadingTimes(stimuli.ids, mean_ms, np.array([k > 0 for *_, k in places]), "made")
    return Dataset("made", "0", stimuli, reading=times), bits


def leave_one_story_out(dataset: Dataset) -> list[Fold]:
    groups = np.array(dataset.stimuli.groups)
    return [Fold(np.flatnonzero(groups != story), np.flatnonzero(groups == story)) for story in dict.fromkeys(groups)]


def test_a_planted_surprisal_is_found_beyond_the_controls():
    dataset, bits = made(per_bit=3.0)
    score = reading_times.score(bits, dataset, STRICT, leave_one_story_out(dataset))
    assert score.delta_ll_low > 0
    assert score.delta_ll_low < score.delta_ll < score.delta_ll_high
    # Surprisal has a variance of 18: 3 ms per bit against 25 ms of noise.
    assert score.partial_r == pytest.approx(np.sqrt(9 * 18 / (9 * 18 + 625)), abs=0.04)
    assert score.r_low < score.r < score.r_high


@pytest.mark.parametrize("seed", range(5))
def test_a_surprisal_without_effect_gains_nothing(seed):
    """Three useless terms cost about 3 / 2n nats per word, so the gain is just below 0."""
    dataset, bits = made(per_bit=0.0, seed=seed)
    score = reading_times.score(bits, dataset, STRICT, leave_one_story_out(dataset))
    assert score.delta_ll_low <= 0
    assert abs(score.delta_ll) < 0.005
    assert abs(score.partial_r) < 0.08


def test_length_is_found_by_r_but_adds_nothing_to_the_controls():
    dataset, _ = made(per_bit=0.0)
    length = controls.reading_predictor("length", dataset, seed=0)
    score = reading_times.score(length, dataset, STRICT, leave_one_story_out(dataset))
    assert score.r > 0.5
    assert score.delta_ll == pytest.approx(0, abs=1e-9)
    assert np.isnan(score.partial_r)


def test_reading_times_as_predictor_score_1_and_inverted_score_minus_1():
    dataset, _ = made(per_bit=1.0)
    assert reading_times.score(dataset.reading.mean_ms, dataset, PAPER).r == pytest.approx(1)
    turned = reading_times.score(-dataset.reading.mean_ms, dataset, PAPER)
    assert turned.r == pytest.approx(-1)
    assert turned.abs_r == pytest.approx(1)


def test_the_first_word_of_a_sentence_and_words_without_a_value_are_left_out_and_counted():
    dataset, bits = made(per_bit=3.0)
    bits[[1, 2, 10]] = np.nan  # 10 begins a sentence: not scored, but it is before 11 and 12
    score = reading_times.score(bits, dataset, STRICT, leave_one_story_out(dataset))
    n_scored = STORIES * SENTENCES * (WORDS - 1)
    assert score.n_missing == 2
    assert score.n_words == n_scored - 2
    # The second word of a story has only one word before it; in the first story, 3 and 4 follow the missing 1 and 2.
    assert score.n_regression == n_scored - STORIES - len({2, 3, 4, 11, 12})


def test_r_and_its_interval_equal_the_plain_computation():
    dataset, bits = made(per_bit=3.0)
    score = reading_times.score(bits, dataset, PAPER, seed=7)
    scored = dataset.reading.scored
    x, y, sentence = bits[scored], dataset.reading.mean_ms[scored], np.array(dataset.stimuli.sentences)[scored]
    assert score.r == pytest.approx(np.corrcoef(x, y)[0, 1])
    labels = np.unique(sentence)
    rows = {label: np.flatnonzero(sentence == label) for label in labels}
    rng = np.random.default_rng(1)
    drawn = [np.concatenate([rows[label] for label in rng.choice(labels, len(labels))]) for _ in range(300)]
    plain = np.quantile([np.corrcoef(x[take], y[take])[0, 1] for take in drawn], [0.025, 0.975])
    # The ends of bootstraps with 1000 and 300 resamples differ by about 0.005.
    np.testing.assert_allclose([score.r_low, score.r_high], plain, atol=0.012)


def test_correlation_protocol_runs_no_regression():
    dataset, bits = made(per_bit=3.0)
    score = reading_times.score(bits, dataset, PAPER)
    assert score.n_regression == 0
    assert np.isnan([score.partial_r, score.delta_ll, score.delta_ll_low, score.delta_ll_high]).all()


def test_a_constant_predictor_is_not_measurable():
    dataset, bits = made(per_bit=3.0)
    score = reading_times.score(np.ones_like(bits), dataset, PAPER)
    assert np.isnan([score.r, score.abs_r, score.r_low]).all()


def test_spill_over_does_not_cross_stories():
    dataset, _ = made(per_bit=0.0)
    terms = reading_times.control_terms(dataset)
    first = SENTENCES * WORDS  # the first word of the second story
    lengths = controls.characters(dataset.stimuli.texts)
    assert np.isnan(terms[first, 1:3]).all()
    np.testing.assert_array_equal(terms[first + 2, :3], lengths[[first + 2, first + 1, first]])


def test_invalid_input_is_refused():
    dataset, bits = made(per_bit=0.0)
    with pytest.raises(ValueError, match="folds are missing"):
        reading_times.score(bits, dataset, STRICT)
    with pytest.raises(ValueError, match=r"shape \(3,\) for 2000 words"):
        reading_times.score(bits[:3], dataset, PAPER)
    with pytest.raises(ValueError, match="no reading times"):
        reading_times.score(bits, Dataset("brain", "0", dataset.stimuli), PAPER)
    with pytest.raises(ValueError, match="is not for reading times"):
        reading_times.score(bits, dataset, Protocol("paper", "none", FoldRule("grouped"), Regression("ols"), "max"))


def test_the_corpus_gives_its_known_answers(shared):
    dataset = datasets.load("futrell2018-2016", shared / "data")
    both = datasets.protocols("futrell2018-2016")
    path = shared / "data" / "naturalstories" / "futrell2018_word_targets.tsv"
    surprisal = pd.read_csv(path, sep="\t", quoting=3, usecols=["gpt3_davinci_surprisal_nats"]).to_numpy()[:, 0]
    paper = reading_times.score(surprisal, dataset, both["paper"])
    assert paper.r == pytest.approx(0.202, abs=5e-4)
    assert paper.n_words == 9_775
    length = reading_times.score(controls.reading_predictor("length", dataset, 0), dataset, both["paper"])
    assert length.r == pytest.approx(0.325, abs=5e-4)
    strict = reading_times.score(surprisal, dataset, both["strict"], leave_one_story_out(dataset))
    assert strict.r == paper.r
    assert strict.partial_r == pytest.approx(0.125, abs=0.005)
    assert strict.delta_ll_low > 0


# --- calibration: false positives and sensitivity ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def stories(shared):
    """Natural Stories with GPT-3's surprisal, which correlates with length and frequency as in any text."""
    words = pd.read_csv(shared / "data/naturalstories/futrell2018_word_targets.tsv", sep="\t", quoting=3)
    return datasets.load("futrell2018-2016", shared / "data"), words.gpt3_davinci_surprisal_nats.to_numpy() / np.log(2)


def planted(dataset, rng, bits=None, per_bit=0.0):
    """Reading times from length (12 ms per character), previous words, sentence, story, and surprisal."""
    shown = dataset.stimuli
    length = controls.characters(shown.texts)
    times = 300 + 12 * length + 6 * np.concatenate([[0], length[:-1]])
    for labels, deviation in ((shown.passages, 15), (shown.sentences, 12)):
        number = np.unique(labels, return_inverse=True)[1]
        times = times + deviation * rng.standard_normal(number.max() + 1)[number]
    times = times + 45 * rng.standard_normal(len(times))
    if bits is not None:
        times = times + per_bit * np.nan_to_num(bits - np.nanmean(bits))
    return replace(dataset, reading=replace(dataset.reading, mean_ms=times))


def scores_of(dataset, predictor, seeds, **more):
    protocol = datasets.protocols("futrell2018-2016")["strict"]
    splits = folds.make(protocol.folds, dataset.stimuli.groups)
    made = (planted(dataset, np.random.default_rng(seed), **more) for seed in seeds)
    return [
        reading_times.score(predictor, each, protocol, splits, seed=seed)
        for seed, each in zip(seeds, made, strict=True)
    ]


@pytest.mark.slow
def test_times_that_follow_length_alone_give_no_gain_though_r_is_large(stories):
    """Over 40 data sets without an effect: intervals of gain and partial r exclude 0 only as often as expected."""
    scores = scores_of(*stories, range(40))
    assert min(score.r for score in scores) > 0.08
    assert sum(score.delta_ll_low > 0 for score in scores) <= 3
    assert np.mean([score.delta_ll for score in scores]) == pytest.approx(0, abs=1e-3)
    assert sum(score.partial_low > 0 or score.partial_high < 0 for score in scores) <= 5


def test_a_surprisal_of_four_ms_a_bit_is_found_beyond_length_in_every_data_set(stories):
    dataset, bits = stories
    scores = scores_of(dataset, bits, range(10), bits=bits, per_bit=4.0)
    assert min(score.delta_ll_low for score in scores) > 0
    assert min(score.partial_low for score in scores) > 0
