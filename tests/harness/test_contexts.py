import pytest

from harness import contexts
from harness.records import Stimuli

STIMULI = Stimuli(("a", "b", "c"), ("The cat", "sat.", "Rain—fell"), ("p1", "p1", "p2"))


@pytest.mark.parametrize(("rule", "texts"), [
    ("none", ["The cat", "sat.", "Rain—fell"]),
    ("passage", ["The cat sat.", "Rain—fell"]),
    ("corpus", ["The cat sat. Rain—fell"]),
    ("window", ["The cat", "The cat sat.", "Rain—fell"]),
])  # fmt: skip
def test_a_rule_decides_what_is_read_together(rule, texts):
    assert [context.text for context in contexts.build(STIMULI, rule, 2)] == texts


@pytest.mark.parametrize("rule", ["none", "passage", "corpus", "window"])
def test_every_span_holds_its_own_stimulus_and_every_stimulus_stands_once(rule):
    found = {
        stimulus: context.text[start:end]
        for context in contexts.build(STIMULI, rule, context_words=1)
        for stimulus, (start, end) in zip(context.stimulus_ids, context.spans, strict=True)
    }
    assert found == dict(zip(STIMULI.ids, STIMULI.texts, strict=True))


def test_a_running_window_holds_so_many_stimuli_before_each():
    stimuli = Stimuli(tuple("abcde"), tuple("vwxyz"), ("p",) * 4 + ("q",))
    found = contexts.build(stimuli, "window", 2)
    assert [context.text for context in found] == ["v", "v w", "v w x", "w x y", "z"]
    assert [context.stimulus_ids for context in found] == [("a",), ("b",), ("c",), ("d",), ("e",)]


def test_an_empty_stimulus_is_named():
    with pytest.raises(ValueError, match="'b' has no text"):
        contexts.build(Stimuli(("a", "b"), ("x", " "), ("p", "p")), "none")


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'page' is unknown"):
        contexts.build(STIMULI, "page")
