import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.records import Stimuli
from harness.text import contexts

ROOT = Path(__file__).resolve().parents[3]
STIMULI = Stimuli(("a", "b", "c"), ("The cat", "sat.", "Rain—fell"), ("p1", "p1", "p2"))


@pytest.mark.parametrize(("rule", "texts"), [
    ("none", ["The cat", "sat.", "Rain—fell"]),
    ("passage", ["The cat sat.", "Rain—fell"]),
    ("corpus", ["The cat sat. Rain—fell"]),
    ("window", ["The cat", "The cat sat.", "Rain—fell"]),
])  # fmt: skip
def test_the_rule_decides_which_stimuli_share_a_context(rule, texts):
    assert [context.text for context in contexts.build(STIMULI, rule, 2)] == texts


@pytest.mark.parametrize("rule", ["none", "passage", "corpus", "window"])
def test_every_span_holds_its_own_stimulus_and_every_stimulus_occurs_once(rule):
    text_of = {
        stimulus: context.text[start:end]
        for context in contexts.build(STIMULI, rule, context_words=1)
        for stimulus, (start, end) in zip(context.stimulus_ids, context.spans, strict=True)
    }
    assert text_of == dict(zip(STIMULI.ids, STIMULI.texts, strict=True))


def test_a_window_holds_the_given_number_of_preceding_stimuli():
    stimuli = Stimuli(tuple("abcde"), tuple("vwxyz"), ("p",) * 4 + ("q",))
    built = contexts.build(stimuli, "window", 2)
    assert [context.text for context in built] == ["v", "v w", "v w x", "w x y", "z"]
    assert [context.stimulus_ids for context in built] == [("a",), ("b",), ("c",), ("d",), ("e",)]


def test_an_empty_stimulus_is_named():
    with pytest.raises(ValueError, match="'b' has no text"):
        contexts.build(Stimuli(("a", "b"), ("x", " "), ("p", "p")), "none")


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'page' is unknown"):
        contexts.build(STIMULI, "page")


SENTENCES = Stimuli(
    ("a", "b", "c"), ("The old cat, it said, sat on a mat.", "Alone.", "Rain fell (and snow)!"), ("p1", "p1", "p2")
)
WORDS = Stimuli(
    tuple(f"w{i}" for i in range(34)), tuple(f"word{i}." for i in range(34)), ("p",) * 25 + ("q",) * 9,
    onsets_s=np.arange(34.0), separator="",
)  # fmt: skip


def test_sentences_are_shuffled_within_themselves_and_words_keep_their_punctuation():
    shuffled = contexts.shuffled(SENTENCES, seed=0)
    assert (shuffled.ids, shuffled.passages) == (SENTENCES.ids, SENTENCES.passages)
    for before, after in zip(SENTENCES.texts, shuffled.texts, strict=True):
        assert sorted(before.split()) == sorted(after.split())
    assert shuffled.texts[0] != SENTENCES.texts[0]
    assert shuffled.texts[1] == "Alone."


def test_shuffling_keeps_the_spaces_that_join_texts():
    heard = Stimuli(("a", "b", "c"), ("Once there", " was an old  bee", ""), ("p",) * 3, separator="")
    shuffled = contexts.shuffled(heard, seed=3)
    assert shuffled.texts != heard.texts
    assert [re.sub(r"\S+", "x", text) for text in shuffled.texts] == ["x x", " x x x  x", ""]
    assert shuffled.separator == ""


def test_words_are_shuffled_with_their_ids_in_runs_of_ten_within_a_passage():
    shuffled = contexts.shuffled(WORDS, seed=0)
    assert shuffled.ids != WORDS.ids
    for start, stop in ((0, 10), (10, 20), (20, 25), (25, 34)):
        assert sorted(shuffled.ids[start:stop]) == sorted(WORDS.ids[start:stop])
    assert shuffled.passages == WORDS.passages
    row = {word: i for i, word in enumerate(WORDS.ids)}
    assert shuffled.texts == tuple(WORDS.texts[row[word]] for word in shuffled.ids)
    np.testing.assert_array_equal(shuffled.onsets_s, [row[word] for word in shuffled.ids])
    assert (shuffled.ends_s, shuffled.separator) == (None, "")


def test_only_the_seed_determines_the_order():
    assert contexts.shuffled(SENTENCES, 1).texts == contexts.shuffled(SENTENCES, 1).texts
    assert contexts.shuffled(SENTENCES, 1).texts != contexts.shuffled(SENTENCES, 2).texts
    script = (
        "from harness.text import contexts; from harness.records import Stimuli\n"
        f"print(contexts.shuffled(Stimuli({SENTENCES.ids}, {SENTENCES.texts}, {SENTENCES.passages}), 1).texts)"
    )
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
        )
        assert done.stdout.strip() == str(contexts.shuffled(SENTENCES, 1).texts)
