"""Controls on three small data sets: sentences, scans, words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.datasets.synthetic import STRICT
from harness.features import controls, ngram, word_vectors
from harness.features.controls import CONTROLS, OASM_WIDTHS
from harness.records import Dataset, Layer, ReadingTimes, Responses, Stimuli
from harness.scoring import brain_scores as scoring

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
    stimuli = replace(stimuli, sentences=stimuli.ids)
    reading = ReadingTimes(stimuli.ids, np.full(len(texts), 300.0), np.ones(len(texts), bool), "x")
    return Dataset("words", "0", stimuli, reading=reading)


@pytest.fixture
def files(tmp_path):
    """Files by the kind a control needs; "" for controls without a file."""
    vectors, corpus = tmp_path / "vectors.txt", tmp_path / "corpus.txt"
    vectors.write_text("bee 1 0\nsang 0 1\nfox 2 2\n")
    corpus.write_text("the bee sang\nit was old\na fox slept in the snow\n")
    return {"": "", "vectors": str(vectors), "corpus": str(corpus)}


@pytest.fixture
def short_scans():
    """As Blank2014: a stimulus is the words of one scan, a row is a stimulus, a block is a story."""
    texts = ("If you", " were to journey", " to", " the North of England,", "Once")
    stories = ("boar",) * 3 + ("elvis",) * 2
    stimuli = Stimuli(tuple("abcde"), texts, stories, separator="")
    return Dataset("short", "0", stimuli, responses_of(stimuli.ids, stories))


def test_applies_tells_which_controls_apply(sentences, scans, words):
    def fitting(dataset):
        return {name for name in CONTROLS if controls.applies(name, dataset)}

    brain = {"length", "word-rate", "position", "oasm", "drift", "random", "frequency", "static-vectors", "ngram"}
    assert fitting(sentences) == fitting(scans) == brain
    assert fitting(replace(sentences, rows_in_order=False)) == brain - {"drift"}
    assert fitting(replace(sentences, language="xx")) == brain - {"frequency"}  # no word list
    assert fitting(words) == {"length", "position", "random", "frequency", "ngram"}


@pytest.mark.parametrize("kind", ["sentences", "scans"])
@pytest.mark.parametrize("name", list(CONTROLS))
def test_every_control_that_applies_gives_features_and_the_rest_say_why(name, kind, files, request):
    dataset = request.getfixturevalue(kind)
    if not controls.applies(name, dataset):
        with pytest.raises(ValueError, match=f"{name!r} does not apply to {kind}; controls that do: length"):
            controls.features(name, dataset, seed=0)
        return
    features = controls.features(name, dataset, 0, files[CONTROLS[name].needs])
    rows = dataset.responses.row_ids if CONTROLS[name].row_level else dataset.stimuli.ids
    assert features.row_ids == rows
    assert features.layers
    for matrix in features.values.values():
        assert matrix.dtype == np.float32
        assert np.isfinite(matrix).all()


@pytest.mark.parametrize("name", list(CONTROLS))
def test_every_control_that_applies_predicts_each_word(name, words, files):
    if not controls.applies(name, words):
        with pytest.raises(ValueError, match="does not apply to words"):
            controls.reading_predictor(name, words, seed=0)
        return
    predictor = controls.reading_predictor(name, words, 0, files[CONTROLS[name].needs])
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


def test_scan_texts_have_length_rate_position_and_oasm(short_scans):
    def first(name):
        return controls.features(name, short_scans, 0).values[Layer(name, 0)]

    assert controls.kind_of(short_scans) == "sentences"
    np.testing.assert_array_equal(first("word-rate"), [[2], [3], [1], [4], [1]])
    np.testing.assert_array_equal(first("length"), [[6, 2], [15, 3], [2, 1], [21, 4], [4, 1]])
    np.testing.assert_allclose(first("position")[:, 0], [-1, 0, 1, -1, 1])
    wide = controls.features("oasm", short_scans, 0).values[Layer("width", 4)]
    assert (wide[:3, :3] > 0.9).all()
    assert (wide[:3, 3:] == 0).all()


def test_static_vectors_and_bits_are_those_of_the_files(sentences, scans, words, files):
    for dataset in (sentences, scans):
        found = controls.features("static-vectors", dataset, 0, files["vectors"])
        wanted = word_vectors.embed(dataset.stimuli.texts, files["vectors"])
        np.testing.assert_array_equal(found.values[Layer("static-vectors", 0)], wanted)
    bits = ngram.bits_of(sentences.stimuli, files["corpus"])
    found = controls.features("ngram", sentences, 0, files["corpus"]).values[Layer("ngram", 0)]
    np.testing.assert_allclose(found, bits, rtol=1e-6)
    of_words = controls.features("ngram", scans, 0, files["corpus"]).values[Layer("ngram", 0)]
    assert of_words.shape == (14, 1)  # the protocol pools them
    np.testing.assert_allclose(
        of_words[:, 0], controls.reading_predictor("ngram", words, 0, files["corpus"]), rtol=1e-6
    )


def test_a_control_without_its_file_says_what_it_needs(sentences, words):
    with pytest.raises(ValueError, match="'static-vectors' needs a file; set `vectors` in the spec"):
        controls.features("static-vectors", sentences, 0)
    with pytest.raises(ValueError, match="'ngram' needs a file; set `corpus` in the spec"):
        controls.reading_predictor("ngram", words, 0)


def test_responses_that_follow_word_vectors_are_found(tmp_path):
    rng = np.random.default_rng(0)
    vectors, names = rng.standard_normal((50, 8)), [f"w{i}" for i in range(50)]
    path = tmp_path / "v.txt"
    path.write_text("".join(f"{name} {' '.join(map(str, row))}\n" for name, row in zip(names, vectors, strict=True)))
    drawn = rng.integers(50, size=(200, 6))
    stimuli = Stimuli(
        tuple(f"s{i}" for i in range(200)),
        tuple(" ".join(names[i] for i in row).capitalize() + "." for row in drawn),
        tuple(f"p{i // 5}" for i in range(200)),
    )
    responses = responses_of(stimuli.ids, stimuli.passages)
    planted = vectors[drawn].mean(axis=1) @ rng.standard_normal((8, 2))
    responses.values[:] += 2 * planted
    dataset = Dataset("planted", "0", stimuli, responses)

    def r(name):
        found = controls.features(name, dataset, 0, str(path))
        return np.nanmean(scoring.score_layers(found, responses, STRICT)[Layer(name, 0)].r)

    assert r("static-vectors") > 0.7
    assert abs(r("random")) < 0.2


def test_position_runs_from_the_start_to_the_end_of_each_block(scans):
    terms = controls.features("position", scans, 0).values[Layer("position", 0)]
    np.testing.assert_allclose(terms[:, 0], [-1, 0, 1, -1, 1])
    np.testing.assert_allclose(terms[:, 1], terms[:, 0] ** 2)
    np.testing.assert_allclose(terms[:, 2], terms[:, 0] ** 3)


def test_position_does_not_apply_if_every_passage_is_one_sentence(sentences):
    alone = Dataset("alone", "0", sentences.stimuli, responses_of(sentences.stimuli.ids, sentences.stimuli.ids))
    assert not controls.applies("position", alone)
    np.testing.assert_array_equal(controls.position_terms(("a", "b")), np.zeros((2, 3)))


def test_oasm_encodes_time_within_a_block_only(scans):
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


def test_frequency_is_the_mean_and_sum_of_a_sentence_and_the_sum_of_a_scan(sentences, scans):
    layer = Layer("frequency", 0)
    zipf = controls.zipf_frequencies(["The", "bee", "sang."])
    found = controls.features("frequency", sentences, 0).values[layer]
    np.testing.assert_allclose(found[0], [zipf.mean(), zipf.sum()], rtol=1e-6)
    np.testing.assert_allclose(controls.features("frequency", scans, 0).values[layer][:3, 0], zipf, rtol=1e-6)
    assert CONTROLS["frequency"].pool == "sum"


def test_drift_spans_the_passages_of_an_experiment_and_not_two_experiments():
    blocks = ("p",) * 6 + ("q",) * 6 + ("r",) * 8
    heard = replace(responses_of(tuple(f"r{i}" for i in range(20)), blocks), row_parts=("one",) * 12 + ("two",) * 8)
    found = controls.drift(heard)
    assert [matrix.shape[1] for matrix in found.values.values()] == list(controls.DRIFT_TERMS)
    wide = found.values[Layer("cosines", 3)]
    np.testing.assert_allclose(wide[:12, 0], np.cos(np.pi * (np.arange(12) + 0.5) / 12), atol=1e-6)
    np.testing.assert_allclose(wide[12:, 0], np.cos(np.pi * (np.arange(8) + 0.5) / 8), atol=1e-6)
    within = wide[:12, :11]
    np.testing.assert_allclose(within.T @ within, 6 * np.eye(11), atol=1e-5)  # orthogonal, of one scale
    assert (wide[12:, 7:] == 0).all()  # eight rows have seven cosines


def test_the_seed_determines_random_vectors(sentences, words):
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
