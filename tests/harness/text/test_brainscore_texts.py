"""Texts and tokens as Brain-Score language makes them."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from harness.datasets import blank2014
from harness.models import tiny
from harness.records import Stimuli
from harness.text import brainscore_texts

TEXTS = ("He had paid ", "10 pounds ", "", ", and left", "home .")


def _stimuli(**columns):
    return Stimuli(tuple("abcde"), TEXTS, ("p", "p", "p", "p", "q"), separator="", **columns)


@pytest.fixture(params=["stories260K", "babyllama-105"])
def tokenizer(request, shared):
    return PreTrainedTokenizerFast.from_pretrained(shared / "models" / request.param)


def test_stimuli_are_joined_by_a_space_more_and_punctuation_takes_the_spaces_before_it():
    texts = brainscore_texts.build(_stimuli(), "passage")
    assert [context.text for context in texts] == [
        "He had paid ", "He had paid  10 pounds ", "He had paid  10 pounds ", "He had paid  10 pounds, and left",
        "home.",
    ]  # fmt: skip
    assert [context.text[slice(*context.spans[0])] for context in texts] == [
        "He had paid", " 10 pounds", "", ", and left", "home.",
    ]  # fmt: skip


def test_contexts_follow_the_rows_of_the_file_and_the_labels():
    shown = _stimuli(labels=("x", "y", "x", "x", "x"), file_rows=np.array([4, 3, 2, 1, 0]))
    texts = brainscore_texts.build(shown, "label")
    assert [context.stimulus_ids for context in texts] == [("e",), ("d",), ("c",), ("b",), ("a",)]
    assert [context.text for context in texts] == [
        "home.", "home., and left", "home., and left", "10 pounds ", "home., and left He had paid ",
    ]  # fmt: skip


def test_a_rule_that_brain_score_does_not_have_is_refused():
    with pytest.raises(ValueError, match="Brain-Score has no context rule 'window'; use 'none'"):
        brainscore_texts.build(_stimuli(), "window")


def test_the_last_token_is_the_very_last_one_even_a_bare_space(tokenizer):
    (run, *_) = brainscore_texts.encode(brainscore_texts.build(_stimuli(), "passage"), tokenizer, 256)
    pieces = tokenizer.convert_ids_to_tokens(run.ids[run.last].tolist())
    assert set(pieces[:3]) == {"\u2581"}
    assert run.last[2] == run.last[1]  # a stimulus without text leaves the text as it is


@pytest.mark.parametrize("limit", [256, 24])
def test_each_stimulus_has_the_tokens_of_its_own_text_truncated_from_the_left(tokenizer, limit, shared):
    stimuli = blank2014.read(shared / "data" / "forms" / "assy_Blank2014_fROI.nc").stimuli
    texts = brainscore_texts.build(stimuli, "passage")
    encoded = brainscore_texts.encode(texts, tokenizer, limit)
    assert sum((run.stimulus_ids for run in encoded), ()) == tuple(text.stimulus_ids[0] for text in texts)
    tokenizer.truncation_side = "left"
    by_id = {text.stimulus_ids[0]: text.text for text in texts}
    for run in encoded:
        assert len(run.ids) <= limit
        for name, last in zip(run.stimulus_ids, run.last, strict=True):
            wanted = tokenizer(by_id[name], truncation=True, max_length=limit)["input_ids"]
            assert run.ids[: last + 1].tolist() == wanted
    if limit == 256:
        assert len(encoded) < len(texts)  # one pass serves texts that begin alike


def test_the_tokenizers_own_limit_counts_if_it_is_lower(tokenizer, shared):
    texts = brainscore_texts.build(_stimuli(), "passage")
    tokenizer.model_max_length = 10
    assert max(len(run.ids) for run in brainscore_texts.encode(texts, tokenizer, 256)) == 10


def test_tokens_belong_to_the_stimulus_that_they_are_new_in(tokenizer):
    texts = brainscore_texts.build(_stimuli(), "passage")
    for encoded in brainscore_texts.encode(texts, tokenizer, 256):
        assert encoded.owners[0] == -1  # BOS
        for stimulus, name in enumerate(encoded.stimulus_ids):
            own = tokenizer.decode(encoded.ids[encoded.owners == stimulus]).strip()
            assert own == {"a": "He had paid", "b": "10 pounds", "c": "", "d": ", and left", "e": "home."}[name]


def test_a_tokenizer_that_adds_no_bos_such_as_gpt2s_gets_none():
    tokenizer = tiny._tokenizer(["the cat sat on the mat"] * 20)
    shown = Stimuli(("a", "b"), ("the cat ", "sat"), ("p", "p"), separator="")
    (run,) = brainscore_texts.encode(brainscore_texts.build(shown, "passage"), tokenizer, 64)
    assert tokenizer.bos_token_id is not None
    assert run.ids.tolist() == tokenizer("the cat  sat", add_special_tokens=False)["input_ids"]
    assert run.owners.tolist() == [0] * (run.last[0] + 1) + [1] * (run.last[1] - run.last[0])


def test_special_tokens_that_fill_the_window_are_refused(tokenizer):
    with pytest.raises(ValueError, match="special tokens leave no room"):
        brainscore_texts.encode(brainscore_texts.build(_stimuli(), "passage"), tokenizer, 1)


def test_in_a_chat_the_last_token_is_that_of_the_stimulus(tokenizer):
    tokenizer.chat_template = "user: {{ messages[0]['content'] }}\nassistant:"
    texts = brainscore_texts.build(_stimuli(), "passage")
    encoded = brainscore_texts.encode(texts, tokenizer, 256, in_chat=True)
    assert len(encoded) == len(texts)
    for run, text in zip(encoded, ("He had paid", "10 pounds"), strict=False):
        assert tokenizer.decode(run.ids[: run.last[0] + 1]).endswith(text)
        assert tokenizer.decode(run.ids[run.last[0] + 1 :]).endswith("assistant:")
