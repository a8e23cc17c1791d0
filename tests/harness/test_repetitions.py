"""Texts that were presented more than once: which texts are the same, and which groups are merged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness import repetitions
from harness.datasets import blank2014, pereira2018, tuckute2024
from harness.recordings import Dataset, ReadingTimes, Responses, Stimuli


@pytest.mark.parametrize("other", [
    "He left the house", "  HE left\tthe  house. ", '"He left the house."', "“He left the house”.",
    "«He left the house»", "He left the\u00a0house", "He le\u200bft the house", "Ｈｅ left the house",
    "He left the house。",
])  # fmt: skip
def test_trivial_differences_do_not_make_another_text(other):
    assert repetitions.text_of(other) == repetitions.text_of("He left the house.")
    assert repetitions.words_of(other) == "he left the house"


@pytest.mark.parametrize("other", ["He left the house?", "He left, the house.", "He left—the house."])
def test_punctuation_makes_another_text_of_the_same_words(other):
    assert repetitions.text_of(other) != repetitions.text_of("He left the house.")
    assert repetitions.words_of(other) == "he left the house"


@pytest.mark.parametrize(
    "other", ["He left the houses.", "He left house the.", "He left the house 2.", "कि", "की", "..."]
)
def test_other_words_are_another_text(other):
    rest = {"He left the house.", "He left the houses.", "He left house the.", "कि", "की", "...", "?!"} - {other}
    assert repetitions.words_of(other) not in {repetitions.words_of(text) for text in rest}
    assert repetitions.words_of(other)


@pytest.mark.parametrize("other", ["It's “here”", "It’s 'here'", "it's here"])
def test_typographic_quotation_marks_are_plain_ones(other):
    assert repetitions.words_of(other) == repetitions.words_of("It's here")


def test_short_phrases_in_a_passage_are_not_repetitions():
    texts = ("He smiled.", "She left the old house.", "He smiled.", "She left the old house.", "It rained.")
    labels = repetitions.of_stimuli(texts, ("p", "p", "q", "q", "q"))
    assert [bool(label) for label in labels] == [False, True, False, True, False]
    assert len(set(repetitions.of_stimuli(texts[::2], ("p", "q", "r")))) == 2
    japanese = ("猫は古い家で寝ていた。", "はい。", "猫は古い家で寝ていた。", "はい。", "いいえ。")
    labels = repetitions.of_stimuli(japanese, ("p", "p", "q", "q", "q"))
    assert [bool(label) for label in labels] == [True, False, True, False, False]


def test_a_passage_of_short_phrases_that_is_told_twice_is_a_repetition_phrase_by_phrase():
    phrases = ("He smiled.", "She left.", "Rain fell.", "He smiled.")
    labels = repetitions.of_stimuli((*phrases, *phrases, "Snow fell."), ("p",) * 4 + ("q",) * 4 + ("r",))
    assert labels[:4] == labels[4:8]
    assert len(set(labels)) == 5  # and none for the last


def test_words_of_a_list_that_is_presented_in_every_run_are_repetitions():
    words = [f"word{k}" for k in range(30)]
    runs = [word for run in range(3) for word in np.random.default_rng(run).permutation(words)]
    passages = [f"run {k // 30}" for k in range(90)]
    labels = repetitions.of_stimuli(runs, passages)
    assert all(labels)
    assert len(set(labels)) == 30
    # Running text has words that occur once; and a story told twice is not a list, though all words recur.
    story = [*runs[:30], *(f"other{k}" for k in range(10)), *runs[30:60]]
    assert not any(repetitions.of_stimuli(story, ["a"] * 40 + ["b"] * 30))
    labels = repetitions.of_stimuli(story + story, [*"a" * 40, *"b" * 30, *"c" * 40, *"d" * 30])
    assert labels[:70] == labels[70:]
    assert len(set(labels)) == 70


@pytest.mark.parametrize("other", [
    "The U.S. dog´s ice-cream costs 1,000", "the us dogs icecream costs 1000.", "The US dog`s ice cream costs 1 000",
])  # fmt: skip
def test_spelling_with_or_without_a_space_is_the_same_text(other):
    labels = repetitions.of_stimuli(("The US dog's ice cream costs 1000.", other, "The cat slept all day."), "pqr")
    assert labels[0] == labels[1] != ""
    assert not labels[2]


def test_groups_that_share_a_text_are_merged_through_chains():
    labels = ["", "x", "x", "y", "y", ""]
    assert repetitions.merged(list("aabbcd"), labels) == tuple("aaaaad")
    assert repetitions.merged(list("cabbca"), labels) == tuple("caaaca".replace("a", "c"))
    assert repetitions.merged(list("aabbcd"), [""] * 6) == tuple("aabbcd")


def recording(texts, passages, groups=(), separator=" ", parts=()):
    """One neuroid; rows are the stimuli."""
    ids = tuple(f"s{k}" for k in range(len(texts)))
    stimuli = Stimuli(ids, tuple(texts), tuple(passages), tuple(groups), separator=separator)
    values = np.arange(len(ids), dtype=np.float32)[:, None]
    responses = Responses(values, ids, stimuli.groups, stimuli.passages, ("v",), ("a",), ("",), "z", row_parts=parts)
    return Dataset("made", "0", stimuli, responses)


def test_a_sentence_in_two_passages_merges_their_groups():
    texts = ("It rained all day.", "The dog slept.", "It rained all day", "The cat slept.", "The cow slept.")
    responses = recording(texts, "ppqqr", ("one", "one", "two", "two", "three")).responses
    assert responses.row_groups == ("one",) * 4 + ("three",)
    assert [bool(text) for text in responses.row_texts] == [True, False, True, False, False]


def test_experiments_are_merged_by_themselves():
    texts = ("It rained all day.", "It rained all night.") * 2
    responses = recording(texts, "pqrs", parts=("e1", "e1", "e2", "e2")).responses
    assert responses.row_groups == tuple("pqrs")


def test_fragments_of_a_text_are_repetitions_only_as_whole_passages():
    told = ("once upon a time there ", "was an old bee", "")
    other = ("once upon a time there ", "was a young bee", "")
    assert recording((*told, *other), "pppqqq", separator="").responses.row_groups == tuple("pppqqq")
    assert recording((*told, *told), "pppqqq", separator="").responses.row_groups == tuple("pppppp")


def scans(other="the", block=("one", "two")):
    """Two stories of eight words and ten scans, each on its own clock or both on one."""
    words = ("so", "the", "old", "bee", "left", "the", "quiet", "hive")
    texts = (*words, *words[:1], other, *words[2:])
    n = len(words)
    onsets = np.tile(np.arange(n) * 2.0, 2) + np.repeat([0.0, 0.0 if block[0] != block[1] else 40.0], n)
    stimuli = Stimuli(
        tuple(f"w{k}" for k in range(2 * n)), texts, ("one",) * n + ("two",) * n, onsets_s=onsets, ends_s=onsets + 1
    )
    times = np.tile(np.arange(10) * 2.0, 2) + np.repeat([0.0, onsets[n]], 10)
    ids, blocks = tuple(f"t{k}" for k in range(20)), (block[0],) * 10 + (block[1],) * 10
    groups = ("one",) * 10 + ("two",) * 10
    values = np.zeros((20, 1), dtype=np.float32)
    responses = Responses(values, ids, groups, blocks, ("v",), ("a",), ("",), "z", times)
    return Dataset("made", "0", stimuli, responses).responses


@pytest.mark.parametrize("block", [("one", "two"), ("all", "all")])
def test_a_story_told_twice_is_one_group_and_its_scans_are_aligned(block):
    responses = scans(block=block)
    assert responses.row_groups == ("one",) * 20
    assert responses.row_texts[:10] == responses.row_texts[10:]
    assert len(set(responses.row_texts)) == 10
    assert scans("a", block).row_groups == ("one",) * 10 + ("two",) * 10


def test_a_story_read_twice_is_one_group():
    words = ("so", "the", "old", "bee", "left") * 2
    ids = tuple(map(str, range(10)))
    stimuli = Stimuli(ids, words, ("p",) * 5 + ("q",) * 5, sentences=("1",) * 5 + ("2",) * 5)
    times = ReadingTimes(ids, np.full(10, 300.0), np.ones(10, dtype=bool), "made")
    assert Dataset("made", "0", stimuli, reading=times).stimuli.groups == ("p",) * 10
    other = replace(stimuli, texts=(*words[:9], "stayed"))
    assert Dataset("made", "0", other, reading=times).stimuli.groups == stimuli.groups


def test_the_published_recordings_have_no_repeated_texts(shared):
    published = [
        pereira2018.read(shared / "data" / "forms" / "assy_Pereira2018_language.nc"),
        blank2014.read(shared / "data" / "forms" / "assy_Blank2014_fROI.nc"), tuckute2024.load(shared / "data"),
    ]  # fmt: skip
    for dataset in published:
        assert set(dataset.responses.row_texts) == {""}
        assert dataset.responses.row_groups == dataset.stimuli.groups
