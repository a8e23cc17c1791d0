"""Futrell2018 against the known answers of the corpus."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harness import datasets
from harness.datasets.futrell2018 import sentence_starts
from harness.records import Stimuli


@pytest.fixture(scope="module")
def data(shared):
    return shared / "data"


@pytest.fixture(scope="module")
def release_2016(data):
    return datasets.load("futrell2018-2016", data)


@pytest.fixture(scope="module")
def release_2021(data):
    return datasets.load("futrell2018-2021", data)


@pytest.fixture(scope="module")
def join(data):
    """The join that others derived from the same files."""
    path = data / "naturalstories" / "futrell2018_word_targets.tsv"
    return pd.read_csv(
        path, sep="\t", quoting=3, keep_default_na=False, na_values={"gpt3_davinci_surprisal_nats": "nan"}
    )


def r_scored(predictor, dataset):
    scored = dataset.reading.scored
    return np.corrcoef(np.asarray(predictor)[scored], dataset.reading.mean_ms[scored])[0, 1]


def test_ten_stories_of_10256_words_in_order_of_presentation(release_2016, join):
    stimuli = release_2016.stimuli
    assert stimuli.ids == tuple(f"{story}.{word}" for story, word in zip(join.story_id, join.word_id, strict=True))
    assert stimuli.ids[0] == "1.1"
    assert len(stimuli) == 10_256
    assert stimuli.texts == tuple(join.word)
    assert stimuli.passages == stimuli.groups
    assert len(set(stimuli.groups)) == 10


@pytest.mark.parametrize("release", ["2016", "2021"])
def test_the_means_equal_the_derived_join(release, join, request):
    reading = request.getfixturevalue(f"release_{release}").reading
    np.testing.assert_allclose(reading.mean_ms, join[f"mean_rt_{release}"], rtol=1e-12)
    assert reading.release == release


def test_sentences_from_punctuation_equal_the_derived_join(release_2016, join):
    reading = release_2016.reading
    assert reading.sentences == tuple(str(number) for number in join.sentence_id)
    assert len(set(reading.sentences)) == 481
    assert reading.scored.sum() == 9_775
    np.testing.assert_array_equal(reading.scored, join.word_within_sentence_id > 1)


def test_the_constant_of_brain_scores_own_test_comes_out_of_the_2016_release(release_2016, release_2021):
    noise = np.random.RandomState(0).random(10_256)
    assert r_scored(noise, release_2016) == pytest.approx(0.00853059, abs=5e-9)
    assert abs(r_scored(noise, release_2021) - 0.00853059) > 1e-3


def test_word_length_gives_a_third(release_2016):
    assert r_scored([len(text) for text in release_2016.stimuli.texts], release_2016) == pytest.approx(0.325, abs=5e-4)


def test_the_releases_differ_in_story_3_from_word_229_alone(release_2016, release_2021):
    differ = ~np.isclose(release_2016.reading.mean_ms, release_2021.reading.mean_ms, rtol=1e-12)
    changed = [word for word, moved in zip(release_2016.stimuli.ids, differ, strict=True) if moved]
    assert {word.split(".")[0] for word in changed} == {"3"}
    assert changed[0] == "3.229"
    assert len(changed) == 812
    assert release_2016.version != release_2021.version


def test_the_ceiling_says_on_which_release_it_was_computed(release_2016, release_2021):
    assert release_2016.published_ceiling == release_2021.published_ceiling == 0.858
    assert "METHODS" in release_2016.ceiling_source
    assert "2016 release" in release_2021.ceiling_source


def test_a_title_and_a_word_in_lower_case_do_not_begin_a_sentence():
    text = "'They are over!' he said. Mr. Sticky left. Was 'it'? Yes"
    words = tuple(text.split())
    stimuli = Stimuli(tuple(map(str, range(len(words)))), words, ("s",) * len(words))
    starts = sentence_starts(stimuli)
    assert [word for word, start in zip(words, starts, strict=True) if start] == ["'They", "Mr.", "Was", "Yes"]


def test_words_that_look_like_absent_values_stay_words(tmp_path):
    from harness.datasets.futrell2018 import _read_means, _read_words

    shown = ["NA", "null", '"quoted', "nan"]
    (tmp_path / "words").write_text("word\tzone\titem\n" + "".join(f"{w}\t{i}\t1\n" for i, w in enumerate(shown, 1)))
    means = "".join(f"{w}\t{i}\t1\t{i * 100}\n" for i, w in reversed(list(enumerate(shown, 1))))
    (tmp_path / "means").write_text("word\tzone\titem\tmeanItemRT\n" + means)
    stimuli = _read_words(tmp_path / "words")
    assert stimuli.texts == tuple(shown)
    np.testing.assert_array_equal(_read_means(tmp_path / "means", stimuli), [100, 200, 300, 400])
    (tmp_path / "means").write_text("word\tzone\titem\tmeanItemRT\n" + means.replace("null", "nil"))
    with pytest.raises(ValueError, match=r"word 1\.2 is 'nil'"):
        _read_means(tmp_path / "means", stimuli)
