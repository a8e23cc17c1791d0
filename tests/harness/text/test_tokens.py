import jinja2
import numpy as np
import pytest

from harness.models import tiny
from harness.records import Stimuli
from harness.text import contexts, tokens

WORDS = ("It's", "the", "well-known", "caf\u00e9\u2014owner's", "\u201cna\u00efve\u201d", "\u4eba", "x" * 60, "end.")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny._tokenizer(["the cat sat on the mat and the owner's well known cat"] * 20)


def _context(words):
    ids = tuple(str(k) for k in range(len(words)))
    return contexts.build(Stimuli(ids, tuple(words), ("p",) * len(words)), "passage")[0]


def test_a_token_belongs_to_the_word_that_holds_its_last_character_or_to_the_word_after_a_lone_space(tokenizer):
    context = _context(WORDS)
    read = tokens.encode(context, tokenizer)
    offsets = tokenizer(context.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    for owner, (_, end) in zip(read.owners, offsets, strict=True):
        start, stop = context.spans[owner]
        assert start - 1 < end <= stop


def test_every_word_has_a_token_and_its_last_one_is_its_last(tokenizer):
    read = tokens.encode(_context(WORDS), tokenizer)
    for word, last in enumerate(read.last):
        owned = np.flatnonzero(read.owners == word)
        assert len(owned)
        assert last == owned[-1]


def test_the_tokens_of_a_word_say_the_word(tokenizer):
    read = tokens.encode(_context(WORDS), tokenizer)
    for word, text in enumerate(WORDS):
        assert tokenizer.decode(read.ids[read.owners == word]).strip() == text


def test_doubled_spaces_inside_a_stimulus_belong_to_it(tokenizer):
    read = tokens.encode(_context(("a  b", "c")), tokenizer)
    assert tokenizer.decode(read.ids[read.owners == 0]) == "a  b"


def test_a_tokenizer_that_does_not_know_the_text_is_refused(tokenizer):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.WordLevel({"<unk>": 0, "cat": 1}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    ignorant = PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>")
    tokens.encode(_context(("cat", "cat")), ignorant)
    with pytest.raises(ValueError, match="50% of the text"):
        tokens.encode(_context(("cat", "dog")), ignorant)


class _Chatty:
    """A tokenizer with a template, as far as one is needed."""

    chat_template, bos_token = "yes", "<s>"

    def __init__(self, around=("<s>[INST] ", " [/INST]")):
        self.around = around

    def apply_chat_template(self, turns, tokenize):
        ((role, text),) = [turn.values() for turn in turns]
        assert (role, tokenize) == ("user", False)
        return self.around[0] + text + self.around[1]


def test_in_a_chat_template_every_stimulus_lies_where_it_stands():
    context = _context(WORDS)
    found = tokens.in_chat(context, _Chatty())
    assert found.text == f"[INST] {context.text} [/INST]"  # one BOS stands before every window already
    assert [found.text[start:end] for start, end in found.spans] == list(WORDS)
    assert found.stimulus_ids == context.stimulus_ids


@pytest.mark.parametrize("word", ["river", "You", "user", "dog", "system", "near"])
def test_a_stimulus_that_stands_in_the_templates_own_words_is_found_in_the_users_turn(word):
    around = ("<s>system\nYou are a quiet dog near the river.\nuser\n", "\nassistant: You, dog?\n")
    found = tokens.in_chat(_context((word,)), _Chatty(around))
    ((start, end),) = found.spans
    assert found.text[start:end] == word
    assert start == len(around[0]) - len("<s>")


def test_a_template_that_strips_a_turn_leaves_the_stimuli_where_they_stand():
    stripping = _Chatty(("[", "]"))
    stripping.apply_chat_template = lambda turns, tokenize: f"[{turns[0]['content'].strip()}]"
    shown = Stimuli(("a", "b"), ("  the ", "cat"), ("p", "p"), separator="")
    (context,) = contexts.build(shown, "passage")
    found = tokens.in_chat(context, stripping)
    assert found.text == "[the cat]"
    assert [found.text[start:end] for start, end in found.spans] == ["the ", "cat"]


@pytest.mark.parametrize("template", [
    lambda text: f"{text} and again {text}", lambda text: text[::-1], lambda text: "always the same",
    lambda text: f"<{text[:3]}>",
])  # fmt: skip
def test_a_template_that_doubles_turns_or_drops_the_text_is_refused(template):
    chatty = _Chatty()
    chatty.apply_chat_template = lambda turns, tokenize: template(turns[0]["content"])
    with pytest.raises(ValueError, match="changes the text"):
        tokens.in_chat(_context(("the", "cat", "sat")), chatty)


def test_a_template_that_fails_at_a_turn_is_refused():
    def fail(turns, tokenize):
        raise jinja2.TemplateError("roles must alternate")

    chatty = _Chatty()
    chatty.apply_chat_template = fail
    with pytest.raises(ValueError, match=r"for a turn of a user .roles must alternate.; read this model"):
        tokens.in_chat(_context(("the", "cat")), chatty)


def test_tokens_of_the_template_belong_to_no_stimulus(tokenizer):
    read = tokens.encode(tokens.in_chat(_context(("the cat", "sat")), _Chatty()), tokenizer)
    assert (read.owners[:2] == -1).all()
    assert (read.owners[-2:] == -1).all()
    assert tokenizer.decode(read.ids[read.owners == 0]).strip() == "the cat"
    assert tokenizer.decode(read.ids[read.owners == 1]).strip() == "sat"


def test_a_template_that_changes_the_text_or_none_is_refused():
    with pytest.raises(ValueError, match="no chat template"):
        tokens.in_chat(_context(("a",)), object())
    shouting = _Chatty()
    shouting.apply_chat_template = lambda turns, tokenize: turns[0]["content"].upper()
    with pytest.raises(ValueError, match="changes the text"):
        tokens.in_chat(_context(("a",)), shouting)


def test_a_stimulus_in_which_nothing_was_said_has_the_state_after_what_came_before(tokenizer):
    shown = Stimuli(("a", "b", "c", "d"), ("the cat ", "", "sat on ", "the mat "), ("p",) * 4, separator="")
    (context,) = contexts.build(shown, "passage")
    read = tokens.encode(context, tokenizer)
    assert context.text == "the cat sat on the mat"
    assert read.last[1] == read.last[0] < read.last[2] < read.last[3] == len(read.ids) - 1
    assert 1 not in read.owners


@pytest.mark.parametrize(
    ("n", "size", "overlap"), [(1, 8, 0.5), (8, 8, 0.5), (9, 8, 0.5), (100, 8, 0.5), (100, 7, 0.9), (50, 8, 0.0)]
)
def test_windows_answer_for_every_token_once_and_never_exceed_the_limit(n, size, overlap):
    cuts = tokens.windows(n, size, overlap)
    assert [t for _, end, first in cuts for t in range(first, end)] == list(range(n))
    assert all(end - start <= size for start, end, _ in cuts)
    # A token that follows another has something before it in its window.
    assert all(first > start or first == 0 for start, _, first in cuts)


def test_windows_that_overlap_by_half_give_every_later_token_half_the_limit_as_context():
    assert all(first - start >= 4 for start, _, first in tokens.windows(100, 8, 0.5)[1:])


def test_a_window_of_one_token_is_refused():
    with pytest.raises(ValueError, match="a window holds 1 tokens"):
        tokens.windows(5, 1)
