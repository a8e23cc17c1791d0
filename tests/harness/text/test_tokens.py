import jinja2
import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness.datasets import blank2014
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
    encoded = tokens.encode(context, tokenizer)
    offsets = tokenizer(context.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    for owner, (_, end) in zip(encoded.owners, offsets, strict=True):
        start, stop = context.spans[owner]
        assert start - 1 < end <= stop


def test_every_word_has_a_token_and_last_is_the_index_of_the_last_one(tokenizer):
    encoded = tokens.encode(_context(WORDS), tokenizer)
    for word, last in enumerate(encoded.last):
        owned = np.flatnonzero(encoded.owners == word)
        assert len(owned)
        assert last == owned[-1]


def test_the_tokens_of_a_word_decode_to_the_word(tokenizer):
    encoded = tokens.encode(_context(WORDS), tokenizer)
    for word, text in enumerate(WORDS):
        assert tokenizer.decode(encoded.ids[encoded.owners == word]).strip() == text


def test_double_spaces_inside_a_stimulus_belong_to_it(tokenizer):
    encoded = tokens.encode(_context(("a  b", "c")), tokenizer)
    assert tokenizer.decode(encoded.ids[encoded.owners == 0]) == "a  b"


def test_a_tokenizer_with_too_many_unknown_tokens_is_refused(tokenizer):
    word_level = Tokenizer(models.WordLevel({"<unk>": 0, "cat": 1}, unk_token="<unk>"))
    word_level.pre_tokenizer = pre_tokenizers.Whitespace()
    small = PreTrainedTokenizerFast(tokenizer_object=word_level, unk_token="<unk>")
    tokens.encode(_context(("cat", "cat")), small)
    with pytest.raises(ValueError, match="50% of the text"):
        tokens.encode(_context(("cat", "dog")), small)


class _ChatTokenizer:
    """A minimal tokenizer with a chat template."""

    chat_template, bos_token = "yes", "<s>"

    def __init__(self, around=("<s>[INST] ", " [/INST]")):
        self.around = around

    def apply_chat_template(self, turns, tokenize):
        ((role, text),) = [turn.values() for turn in turns]
        assert (role, tokenize) == ("user", False)
        return self.around[0] + text + self.around[1]


def test_in_a_chat_template_spans_move_with_their_stimuli():
    context = _context(WORDS)
    chat = tokens.in_chat(context, _ChatTokenizer())
    assert chat.text == f"[INST] {context.text} [/INST]"  # without BOS, since every window begins with one
    assert [chat.text[start:end] for start, end in chat.spans] == list(WORDS)
    assert chat.stimulus_ids == context.stimulus_ids


@pytest.mark.parametrize("word", ["river", "You", "user", "dog", "system", "near"])
def test_a_stimulus_that_also_occurs_in_the_template_is_found_in_the_user_turn(word):
    around = ("<s>system\nYou are a quiet dog near the river.\nuser\n", "\nassistant: You, dog?\n")
    chat = tokens.in_chat(_context((word,)), _ChatTokenizer(around))
    ((start, end),) = chat.spans
    assert chat.text[start:end] == word
    assert start == len(around[0]) - len("<s>")


def test_spans_are_right_if_the_template_strips_the_turn():
    stripping = _ChatTokenizer(("[", "]"))
    stripping.apply_chat_template = lambda turns, tokenize: f"[{turns[0]['content'].strip()}]"
    shown = Stimuli(("a", "b"), ("  the ", "cat"), ("p", "p"), separator="")
    (context,) = contexts.build(shown, "passage")
    chat = tokens.in_chat(context, stripping)
    assert chat.text == "[the cat]"
    assert [chat.text[start:end] for start, end in chat.spans] == ["the", "cat"]


@pytest.mark.parametrize("template", [
    lambda text: f"{text} and again {text}", lambda text: text[::-1], lambda text: "always the same",
    lambda text: f"<{text[:3]}>",
])  # fmt: skip
def test_a_template_that_repeats_or_drops_the_text_is_refused(template):
    chat_tokenizer = _ChatTokenizer()
    chat_tokenizer.apply_chat_template = lambda turns, tokenize: template(turns[0]["content"])
    with pytest.raises(ValueError, match="changes the text"):
        tokens.in_chat(_context(("the", "cat", "sat")), chat_tokenizer)


def test_a_template_that_cannot_render_a_user_turn_is_refused():
    def fail(turns, tokenize):
        raise jinja2.TemplateError("roles must alternate")

    chat_tokenizer = _ChatTokenizer()
    chat_tokenizer.apply_chat_template = fail
    with pytest.raises(ValueError, match=r"cannot render a user turn .roles must alternate.; run this model"):
        tokens.in_chat(_context(("the", "cat")), chat_tokenizer)


def test_tokens_of_the_template_belong_to_no_stimulus(tokenizer):
    encoded = tokens.encode(tokens.in_chat(_context(("the cat", "sat")), _ChatTokenizer()), tokenizer)
    assert (encoded.owners[:2] == -1).all()
    assert (encoded.owners[-2:] == -1).all()
    assert tokenizer.decode(encoded.ids[encoded.owners == 0]).strip() == "the cat"
    assert tokenizer.decode(encoded.ids[encoded.owners == 1]).strip() == "sat"


def test_a_missing_template_or_one_that_changes_the_text_is_refused():
    with pytest.raises(ValueError, match="no chat template"):
        tokens.in_chat(_context(("a",)), object())
    shouting = _ChatTokenizer()
    shouting.apply_chat_template = lambda turns, tokenize: turns[0]["content"].upper()
    with pytest.raises(ValueError, match="changes the text"):
        tokens.in_chat(_context(("a",)), shouting)


def test_an_empty_stimulus_uses_the_last_token_of_the_preceding_text(tokenizer):
    shown = Stimuli(("a", "b", "c", "d"), ("the cat ", "", "sat on ", "the mat "), ("p",) * 4, separator="")
    (context,) = contexts.build(shown, "passage")
    encoded = tokens.encode(context, tokenizer)
    assert context.text == "the cat sat on the mat"
    assert encoded.last[1] == encoded.last[0] < encoded.last[2] < encoded.last[3] == len(encoded.ids) - 1
    assert 1 not in encoded.owners


@pytest.mark.parametrize(
    ("n", "size", "overlap"), [(1, 8, 0.5), (8, 8, 0.5), (9, 8, 0.5), (100, 8, 0.5), (100, 7, 0.9), (50, 8, 0.0)]
)
def test_windows_cover_every_token_once_and_never_exceed_the_limit(n, size, overlap):
    cuts = tokens.windows(n, size, overlap)
    assert [t for _, end, first in cuts for t in range(first, end)] == list(range(n))
    assert all(end - start <= size for start, end, _ in cuts)
    # Every token except the first has a predecessor in its window.
    assert all(first > start or first == 0 for start, _, first in cuts)


def test_windows_that_overlap_by_half_give_every_later_token_half_the_limit_as_context():
    assert all(first - start >= 4 for start, _, first in tokens.windows(100, 8, 0.5)[1:])


def test_a_window_of_one_token_is_refused():
    with pytest.raises(ValueError, match="a window holds 1 tokens"):
        tokens.windows(5, 1)


@pytest.mark.parametrize("model", ["stories260K", "babyllama-105"])
def test_the_last_token_of_a_scan_holds_its_last_visible_character_whatever_follows(model, shared):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(shared / "models" / model)
    stimuli = blank2014.read(shared / "data" / "forms" / "assy_Blank2014_fROI.nc").stimuli
    assert all(text.endswith(" ") for text in stimuli.texts)
    for context in contexts.build(stimuli, "passage"):
        encoded = tokens.encode(context, tokenizer)
        for stimulus, (start, stop) in enumerate(context.spans):
            assert not context.text[stop - 1].isspace()
            ids, own = tokens.prefix_of(encoded, stimulus)
            alone = tokenizer(context.text[:stop], add_special_tokens=False)["input_ids"]
            assert ids[: own[-1] + 1].tolist() == alone
            assert tokenizer.decode(ids[own]).strip() == context.text[start:stop]


@pytest.fixture(scope="module")
def splits_numbers():
    """A byte-level tokenizer that splits numbers off, as current ones do: the space before one is a token by itself."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    made.train_from_iterator(["he had paid ten pounds and left"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize("following", ["10 pounds", "ten pounds", ". And left"])
def test_a_trailing_space_belongs_to_the_stimulus_that_follows(following, splits_numbers):
    shown = Stimuli(("a", "b"), ("he had paid ", following), ("p", "p"), separator="")
    (context,) = contexts.build(shown, "passage")
    assert context.spans[0].tolist() == [0, len("he had paid")]
    encoded = tokens.encode(context, splits_numbers)
    assert splits_numbers.decode(encoded.ids[: encoded.last[0] + 1]) == "he had paid"
    assert splits_numbers.decode(encoded.ids[encoded.owners == 1]) == f" {following}"
