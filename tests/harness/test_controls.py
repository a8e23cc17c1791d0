"""Controls on three small data sets: sentences, scans, words."""

from __future__ import annotations

import numpy as np
import pytest

from harness import controls
from harness.controls import CONTROLS, OASM_WIDTHS
from harness.records import Dataset, Layer, ReadingTimes, Responses, Stimuli

TEXTS = ("The bee sang.", "It was old.", "A fox slept in the snow.", "Rain fell.")


def responses_of(row_ids, blocks, times_s=None):
    values = np.random.default_rng(0).standard_normal((len(row_ids), 2)).astype(np.float32)
    return Responses(values, row_ids, blocks, blocks, ("v1", "v2"), ("s1", "s1"), ("x", "x"), "z", times_s)


@pytest.fixture
def sentences():
    stimuli = Stimuli(("a", "b", "c", "d"), TEXTS, ("p", "p", "q", "q"))
    return Dataset("sentences", "0", stimuli, responses_of(stimuli.ids, stimuli.passages))


@pytest.fixture
def scans():
    words = " ".join(TEXTS).split()
    n = len(words)
    stimuli = Stimuli(
        tuple(f"w{i}" for i in range(n)),
        tuple(words),
        ("p",) * n,
        onsets_s=np.arange(n) * 0.5,
        ends_s=np.arange(1, n + 1) * 0.5,
    )
    rows = tuple(f"t{i}" for i in range(5))
    return Dataset("scans", "0", stimuli, responses_of(rows, ("run1",) * 3 + ("run2",) * 2, np.arange(5) * 2.0))


@pytest.fixture
def words():
    texts = tuple(" ".join(TEXTS).split())
    stimuli = Stimuli(tuple(f"w{i}" for i in range(len(texts))), texts, ("s",) * len(texts))
    reading = ReadingTimes(stimuli.ids, np.full(len(texts), 300.0), stimuli.ids, np.ones(len(texts), bool), "x")
    return Dataset("words", "0", stimuli, reading=reading)


def test_which_controls_apply_is_known_beforehand(sentences, scans, words):
    def fitting(dataset):
        return {name for name in CONTROLS if controls.applies(name, dataset)}

    assert fitting(sentences) == fitting(scans) == {"length", "word-rate", "position", "oasm", "random"}
    assert fitting(words) == {"length", "position", "random", "frequency"}


@pytest.mark.parametrize("kind", ["sentences", "scans"])
@pytest.mark.parametrize("name", list(CONTROLS))
def test_every_control_that_applies_gives_features_and_the_rest_say_why(name, kind, request):
    dataset = request.getfixturevalue(kind)
    if not controls.applies(name, dataset):
        with pytest.raises(ValueError, match=f"{name!r} does not apply to {kind}; those that do: length"):
            controls.features(name, dataset, seed=0)
        return
    features = controls.features(name, dataset, seed=0)
    rows = dataset.responses.row_ids if CONTROLS[name].row_level else dataset.stimuli.ids
    assert features.row_ids == rows
    assert features.layers
    for matrix in features.values.values():
        assert matrix.dtype == np.float32
        assert np.isfinite(matrix).all()


@pytest.mark.parametrize("name", list(CONTROLS))
def test_every_control_that_applies_predicts_each_word(name, words):
    if not controls.applies(name, words):
        with pytest.raises(ValueError, match="does not apply to words"):
            controls.reading_predictor(name, words, seed=0)
        return
    predictor = controls.reading_predictor(name, words, seed=0)
    assert predictor.shape == (len(words.stimuli),)
    assert predictor.dtype == np.float64
    assert np.isfinite(predictor).all()


def test_length_counts_characters_and_words(sentences, scans):
    np.testing.assert_array_equal(
        controls.features("length", sentences, 0).values[Layer("length", 0)], [[13, 3], [11, 3], [24, 6], [10, 2]]
    )
    of_words = controls.features("length", scans, 0).values[Layer("length", 0)]
    np.testing.assert_array_equal(of_words[:3, 0], [3, 3, 5])


def test_word_rate_counts_words_and_is_summed_over_a_scan(sentences, scans):
    np.testing.assert_array_equal(
        controls.features("word-rate", sentences, 0).values[Layer("word-rate", 0)][:, 0], [3, 3, 6, 2]
    )
    assert CONTROLS["word-rate"].pool == "sum"
    np.testing.assert_array_equal(
        controls.features("word-rate", scans, 0).values[Layer("word-rate", 0)], np.ones((14, 1))
    )


def test_position_runs_from_the_start_to_the_end_of_each_block(scans):
    terms = controls.features("position", scans, 0).values[Layer("position", 0)]
    np.testing.assert_allclose(terms[:, 0], [-1, 0, 1, -1, 1])
    np.testing.assert_allclose(terms[:, 1], terms[:, 0] ** 2)
    np.testing.assert_allclose(terms[:, 2], terms[:, 0] ** 3)


def test_position_means_nothing_where_every_passage_is_one_sentence(sentences):
    alone = Dataset("alone", "0", sentences.stimuli, responses_of(sentences.stimuli.ids, sentences.stimuli.ids))
    assert not controls.applies("position", alone)
    np.testing.assert_array_equal(controls.position_terms(("a", "b")), np.zeros((2, 3)))


def test_oasm_knows_time_within_a_block_and_nothing_between(scans):
    features = controls.features("oasm", scans, 0)
    assert features.layers == tuple(Layer("width", i) for i in range(len(OASM_WIDTHS)))
    for layer, width in zip(features.layers, OASM_WIDTHS, strict=True):
        matrix = features.values[layer]
        assert matrix[0, 2] == pytest.approx(np.exp(-4 / (2 * width**2)))
        np.testing.assert_array_equal(np.diag(matrix), 1)
        assert (matrix[:3, 3:] == 0).all()


def test_oasm_is_the_identity_where_every_block_is_one_row(sentences):
    alone = responses_of(sentences.stimuli.ids, sentences.stimuli.ids)
    for matrix in controls.oasm(alone).values.values():
        np.testing.assert_array_equal(matrix, np.eye(4))


def test_random_vectors_follow_the_seed(sentences, words):
    layer = Layer("random", 0)
    first = controls.features("random", sentences, 0).values[layer]
    np.testing.assert_array_equal(first, controls.features("random", sentences, 0).values[layer])
    assert not np.allclose(first, controls.features("random", sentences, 1).values[layer])
    assert first.shape == (4, 64)
    assert not np.allclose(
        controls.reading_predictor("random", words, 0), controls.reading_predictor("random", words, 1)
    )


def test_frequent_words_have_a_higher_zipf_value_whatever_their_case_and_punctuation():
    the, snow, shouted, unknown = controls.zipf_frequencies(["the", "snow.", "SNOW", "zzxqjv"])
    assert the > 7
    assert the > snow == shouted > unknown == 0


def test_an_unknown_control_lists_the_nearest(sentences):
    with pytest.raises(ValueError, match="'lenght' is unknown; the nearest are length"):
        controls.features("lenght", sentences, 0)
    with pytest.raises(ValueError, match="unknown"):
        controls.applies("osam", sentences)
