"""Futrell2018 against known values of the corpus."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from harness import datasets
from harness.datasets.formats import natural_stories
from harness.datasets.futrell2018 import PAPER, sentence_starts
from harness.records import Stimuli
from harness.scoring import ceilings
from tests.harness.datasets import published


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
    """A table derived independently from the same files."""
    path = data / "naturalstories" / "futrell2018_word_targets.tsv"
    return pd.read_csv(
        path, sep="\t", quoting=3, keep_default_na=False, na_values={"gpt3_davinci_surprisal_nats": "nan"}
    )


@pytest.fixture(scope="module")
def batch2(data):
    return datasets.load("futrell2018-batch2", data)


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
def test_the_means_equal_the_independent_table(release, join, request):
    reading = request.getfixturevalue(f"release_{release}").reading
    np.testing.assert_allclose(reading.mean_ms, join[f"mean_rt_{release}"], rtol=1e-12)
    assert reading.release == release


def test_sentences_from_punctuation_equal_the_independent_table(release_2016, join):
    reading, stimuli = release_2016.reading, release_2016.stimuli
    assert stimuli.sentences == tuple(str(number) for number in join.sentence_id)
    assert len(set(stimuli.sentences)) == 481
    assert reading.scored.sum() == 9_775
    np.testing.assert_array_equal(reading.scored, join.word_within_sentence_id > 1)


def test_the_2016_release_reproduces_the_constant_of_brain_scores_own_test(release_2016, release_2021):
    noise = np.random.RandomState(0).random(10_256)
    assert r_scored(noise, release_2016) == pytest.approx(0.00853059, abs=5e-9)
    assert abs(r_scored(noise, release_2021) - 0.00853059) > 1e-3


def test_word_length_correlates_at_0_325(release_2016):
    assert r_scored([len(text) for text in release_2016.stimuli.texts], release_2016) == pytest.approx(0.325, abs=5e-4)


def test_the_releases_differ_only_in_story_3_from_word_229(release_2016, release_2021):
    differ = ~np.isclose(release_2016.reading.mean_ms, release_2021.reading.mean_ms, rtol=1e-12)
    changed = [word_id for word_id, differs in zip(release_2016.stimuli.ids, differ, strict=True) if differs]
    assert {word_id.split(".")[0] for word_id in changed} == {"3"}
    assert changed[0] == "3.229"
    assert len(changed) == 812
    assert release_2016.version != release_2021.version


def test_surprisal_of_gpt3_from_its_published_tokens_correlates_at_0_202(release_2016, join, data):
    """A token belongs to the word that contains its last character."""
    tokens = pd.read_csv(data / "naturalstories" / "all_stories_gpt3.csv", keep_default_na=False)
    nats = []
    for story in range(10):
        texts = [word for word, story_id in zip(join.word, join.story_id, strict=True) if story_id == story + 1]
        ends = np.cumsum([len(text) + 1 for text in texts]) - 1
        story_tokens = tokens[tokens.story == story]
        last = (story_tokens.offset + story_tokens.token.str.len()).to_numpy()
        word = np.minimum(np.searchsorted(ends, last, side="left"), len(texts) - 1)
        values = -pd.to_numeric(story_tokens.logprob, errors="coerce").to_numpy()
        nats.extend(np.bincount(word, values, len(texts)))
    derived = join.gpt3_davinci_surprisal_nats.to_numpy()
    finite = np.isfinite(derived)
    assert np.isclose(np.array(nats)[finite], derived[finite], atol=1e-4).mean() > 0.99
    assert r_scored(np.where(np.isfinite(nats), nats, 0), release_2016) == pytest.approx(0.202, abs=1e-3)


def test_the_number_of_readers_per_word_equals_the_independent_table(data, join):
    table = pd.read_csv(data / "naturalstories" / "processed_wordinfo_2016_d5cbe5aa.tsv", sep="\t", quoting=3)
    counts = table.set_index(["item", "zone"]).nItem
    np.testing.assert_array_equal(counts.loc[list(zip(join.story_id, join.word_id, strict=True))], join.n_rt)


# --- readers ----------------------------------------------------------------------------------------------------------


def test_batch_2_has_88_readers_of_five_stories(batch2):
    reading = batch2.reading
    assert len(reading.subjects) == 88
    assert reading.by_subject_ms.shape == (5_055, 88)
    assert np.isfinite(reading.by_subject_ms).sum() == 86_953
    assert set(batch2.stimuli.passages) == {"6", "7", "8", "9", "10"}
    assert reading.scored.sum() == 4_814
    np.testing.assert_allclose(reading.mean_ms, np.nanmean(reading.by_subject_ms.astype(float), axis=1))


def test_batch_2_is_aligned_two_zones_late_as_its_word_ids_state(batch2, data):
    assert batch2.reading.alignment == "word = zone - 2 (r 0.830 with the published means, next best 0.586)"
    table = pd.read_csv(data / "naturalstories" / "batch2_rts_by_participant.tsv", sep="\t")
    kept = table[(table.RT > 100) & (table.RT < 3000) & (table.correct > 4) & (table.word_id >= 1)]
    assert (len(kept), kept.subject.nunique()) == (86_953, 88)
    means = kept.groupby(["story_id", "word_id"]).RT.mean()
    ids = [tuple(map(int, word_id.split("."))) for word_id in batch2.stimuli.ids]
    np.testing.assert_allclose(batch2.reading.mean_ms, means.loc[ids], rtol=1e-12)


def test_the_readers_of_batch_2_have_a_reliability_of_0_636(batch2):
    """Ten halves, seed 0: 0.636116 over all words, 0.642 over the scored ones; 200 halves: 0.638."""
    generator = np.random.default_rng(0)
    halves = np.zeros((10, 88), dtype=bool)
    for half in halves:
        half[generator.permutation(88)[:44]] = True
    values = batch2.reading.by_subject_ms
    assert np.median(ceilings.corrected_halves(values, halves)) == pytest.approx(0.636116, abs=1e-6)
    scored = ceilings.corrected_halves(values[batch2.reading.scored], halves)
    assert np.median(scored) == pytest.approx(0.641998, abs=1e-6)
    found = ceilings.of_reading(batch2.reading, PAPER)
    (ceiling,), (kind,) = found.values, found.kinds
    assert ceiling == pytest.approx(0.636, abs=0.004)
    assert kind.startswith("reliability by split half of 88 readers; word = zone - 2")
    assert batch2.published_ceiling is None


@pytest.fixture
def with_readers(data, tmp_path, release_2021):
    """A data root with two synthetic readers whose mean is the published one, at zone = word + shift."""

    def write(shift, noise_ms=0.0):
        folder = tmp_path / "naturalstories"
        shutil.copytree(data / "naturalstories", folder, dirs_exist_ok=True)
        stories, words = np.array([word.split(".") for word in release_2021.stimuli.ids], dtype=int).T
        mean = release_2021.reading.mean_ms + noise_ms * np.random.default_rng(0).standard_normal(len(words))
        frames = [
            pd.DataFrame({"WorkerId": name, "WorkTimeInSeconds": 1, "correct": 6, "item": stories,
                          "zone": words + shift, "RT": mean + sign, "word": release_2021.stimuli.texts})
            for name, sign in (("A2", 20), ("A1", -20))
        ]  # fmt: skip
        pd.concat(frames).to_csv(folder / "processed_RTs.tsv", sep="\t", index=False, quoting=3)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("shift", "alignment"), [(0, "word = zone ("), (1, "word = zone - 1"), (-1, "word = zone + 1")]
)
def test_the_file_of_all_readers_is_read_with_any_shift(with_readers, release_2021, shift, alignment):
    root = with_readers(shift)
    loaded = datasets.load("futrell2018-2021", root, pinned=False)
    assert loaded.reading.alignment.startswith(alignment)
    assert loaded.reading.subjects == ("A1", "A2")
    np.testing.assert_allclose(
        natural_stories.mean_of_readers(loaded.reading.by_subject_ms), loaded.reading.mean_ms, rtol=1e-6
    )
    assert loaded.published_ceiling is None
    assert loaded.version != release_2021.version
    assert datasets.load("futrell2018-2016", root).published_ceiling == 0.858


def test_readers_whose_mean_is_not_the_published_one_are_rejected_with_all_shifts(with_readers):
    with pytest.raises(ValueError, match=r"processed_RTs.tsv: no shift makes.*word = zone r 0\.9.*word = zone - 2 r"):
        datasets.load("futrell2018-2021", with_readers(0, noise_ms=5.0), pinned=False)


def test_the_error_for_two_times_of_a_reader_names_reader_and_word(with_readers):
    file = with_readers(0) / "naturalstories" / "processed_RTs.tsv"
    text = file.read_text().splitlines()
    duplicates = [line for line in text[1:] if line.split("\t")[3:5] == ["1", "1"]]
    assert len(duplicates) == 2
    file.write_text("\n".join([*text, *duplicates]) + "\n")
    with pytest.raises(ValueError, match=r"reader 'A1' has two times for word 1\.1"):
        datasets.load("futrell2018-2021", file.parent.parent, pinned=False)
    file.write_text("\n".join(line.rsplit("\t", 2)[0] for line in text))
    with pytest.raises(ValueError, match=r"processed_RTs.tsv has no column RT"):
        datasets.load("futrell2018-2021", file.parent.parent, pinned=False)


def test_another_release_of_the_readers_is_refused_unless_unpinned(with_readers):
    with pytest.raises(ValueError, match=r"processed_RTs\.tsv is damaged or another release.*sha256:208ee6c4.*fetch"):
        datasets.load("futrell2018-2021", with_readers(0))


@pytest.fixture
def with_assembly(data, tmp_path, release_2016):
    """A data root with Brain-Score's assembly of four synthetic readers, whose mean is the published one."""

    def write(noise_ms=0.0, **changes):
        folder = tmp_path / "naturalstories"
        shutil.copytree(data / "naturalstories", folder, dirs_exist_ok=True)
        mean = release_2016.reading.mean_ms
        values = mean[:, np.newaxis] + np.array([30.0, -30.0, 50.0, -50.0])
        values[: len(mean) // 2, 2:] = np.nan  # two readers have no time in the first stories
        values += noise_ms * np.random.default_rng(0).standard_normal((len(mean), 1))
        published.futrell(folder / "assy_Futrell2018.nc", release_2016.stimuli, values, **changes)
        return tmp_path

    return write


def test_brain_scores_assembly_gives_the_release_of_2016_its_readers(with_assembly, release_2016):
    loaded = datasets.load("futrell2018-2016", with_assembly(), pinned=False)
    assert loaded.reading.subjects == ("A0", "A1", "A2", "A3")
    assert loaded.published_ceiling is None
    np.testing.assert_array_equal(loaded.reading.mean_ms, release_2016.reading.mean_ms)
    np.testing.assert_array_equal(loaded.reading.scored, release_2016.reading.scored)
    np.testing.assert_allclose(loaded.reading.by_subject_ms[:, 0], loaded.reading.mean_ms - 30, rtol=1e-6)
    assert np.isnan(loaded.reading.by_subject_ms[:5, 2:]).all()
    (kind,) = ceilings.of_reading(loaded.reading, PAPER).kinds
    assert kind.startswith("reliability by split half of 4 readers")


def test_an_assembly_with_other_means_or_words_is_rejected(with_assembly):
    with pytest.raises(ValueError, match=r"assy_Futrell2018\.nc: the means over readers have r 0\.\d+.*release"):
        datasets.load("futrell2018-2016", with_assembly(noise_ms=5.0), pinned=False)
    with pytest.raises(ValueError, match=r"assy_Futrell2018\.nc: word 1\.1 is 'Twas', but 'If' was shown"):
        datasets.load("futrell2018-2016", with_assembly(first_word="Twas"), pinned=False)


def test_the_ceiling_source_names_the_release_it_was_computed_on(release_2016, release_2021):
    assert release_2016.published_ceiling == release_2021.published_ceiling == 0.858
    assert "split halves" in release_2016.ceiling_source
    assert "2016 release" in release_2021.ceiling_source


def test_no_sentence_starts_after_a_title_or_with_a_lower_case_word():
    text = "'They are over!' he said. Mr. Sticky left. Was 'it'? Yes"
    words = tuple(text.split())
    stimuli = Stimuli(tuple(map(str, range(len(words)))), words, ("s",) * len(words))
    starts = sentence_starts(stimuli)
    assert [word for word, start in zip(words, starts, strict=True) if start] == ["'They", "Mr.", "Was", "Yes"]


def test_words_that_look_like_missing_values_stay_words(tmp_path):
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
