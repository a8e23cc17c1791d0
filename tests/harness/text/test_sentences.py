"""Sentence boundaries between given words: Unicode's rules, in any script, and in texts of any length."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from harness.text import sentences


def split(text, joiner=" ", language=""):
    words = list(text) if joiner == "" else text.split()
    starts = sentences.starts(words, ["p"] * len(words), joiner, language)
    found = [[]]
    for word, begins in zip(words, starts, strict=True):
        found = [*found, [word]] if begins else [*found[:-1], [*found[-1], word]]
    return [joiner.join(sentence) for sentence in found[1:]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“Well,” she said, “it’s fine.” He left.", ["“Well,” she said, “it’s fine.”", "He left."]),
        ("“Stop the car!” She said.", ["“Stop the car!”", "She said."]),
        ("«Non.» Elle rit.", ["«Non.»", "Elle rit."]),
        ("Ärzte sind hier. Él corre.", ["Ärzte sind hier.", "Él corre."]),
        ("'They are over!' he said. Was it? Yes", ["'They are over!' he said.", "Was it?", "Yes"]),
        ("« Assez ! » dit-il. Émile rit.", ["« Assez ! » dit-il.", "Émile rit."]),
        ("Mr. Sticky and Dr. Smith left. So did I.", ["Mr. Sticky and Dr. Smith left.", "So did I."]),
        ("He saw No. 5 at 3.5 m. Then he left.", ["He saw No. 5 at 3.5 m.", "Then he left."]),
        ("वह गया। राम आया।", ["वह गया।", "राम आया।"]),
        ("هل أنت هنا؟ نعم. أنا هنا۔ حسنا", ["هل أنت هنا؟", "نعم.", "أنا هنا۔", "حسنا"]),
        ("ልጁ መጣ። ሄደ።", ["ልጁ መጣ።", "ሄደ።"]),
        ("It is fine . ” He left . ( See . ) Then .", ["It is fine . ”", "He left .", "( See . )", "Then ."]),
        ("It is fine . '' He left .", ["It is fine . ''", "He left ."]),
        ("Fine 😀! Yes 😀. No", ["Fine 😀!", "Yes 😀.", "No"]),
        ("etc., and so on, e.g. here", ["etc., and so on, e.g. here"]),
    ],
)
def test_a_text_is_split_into_its_sentences(text, expected):
    assert split(text) == expected


def test_languages_without_spaces_or_with_other_terminators():
    assert split("他在河边。」她走了！真的？好。", joiner="") == ["他在河边。」", "她走了！", "真的？", "好。"]
    assert split("他 在 河 边 。 她 走 了") == ["他 在 河 边 。", "她 走 了"]
    assert split("Τι κάνεις; Καλά.", language="el") == ["Τι κάνεις;", "Καλά."]
    assert split("Τι κάνεις; Καλά.") == ["Τι κάνεις; Καλά."]
    assert split("Er ging . » Nein .", language="de") == ["Er ging .", "» Nein ."]


def test_each_passage_begins_a_sentence():
    starts = sentences.starts(["He", "left", "she", "stayed"], ["a", "a", "b", "b"])
    assert list(starts) == [True, False, True, False]


@pytest.mark.parametrize("block", [70, 500, 20_000])
def test_a_long_text_gives_the_same_sentences_in_blocks_as_whole(monkeypatch, block):
    rng = np.random.default_rng(0)
    words = list(rng.choice(["Rain", "fell", "on.", "Mr.", "“Stop!”", "he", "...", "3.", "(No.)", "”"], 2_000))
    passages = [f"p{k // 700}" for k in range(len(words))]
    whole = sentences.starts(words, passages)
    monkeypatch.setattr(sentences, "_BLOCK", block)
    np.testing.assert_array_equal(sentences.starts(words, passages), whole)


def test_ascii_prose_keeps_the_sentences_of_the_first_versions(shared):
    lines = (shared / "data" / "naturalstories" / "all_stories.tok").read_text().splitlines()[1:]
    words, _, stories = zip(*(line.split("\t") for line in lines), strict=True)
    pairs = itertools.pairwise(zip(stories, words, strict=True))
    before = [True, *(a != b or sentences.ended_by_ascii(x, y) for (a, x), (b, y) in pairs)]
    assert sum(before) == 481
    np.testing.assert_array_equal(sentences.starts(words, stories, titles=("Mr.",)), before)
    (differs,) = np.flatnonzero(sentences.starts(words, stories) != before)
    assert words[differs - 1 : differs + 1] == ("Dr.", "Georges")
