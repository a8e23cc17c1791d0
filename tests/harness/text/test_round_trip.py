"""Tokens that do not give the text back are an error that names the word."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness.models import tiny
from harness.records import Stimuli
from harness.text import contexts, tokens

WORDS = ("The", "naïve", "cat's", "ﬁsh", "ate", "12,345", "…", "Straße", "😀", "你好", "end.")


def context(words=WORDS, separator=" "):
    ids = tuple(f"w{k}" for k in range(len(words)))
    return contexts.build(Stimuli(ids, tuple(words), ("p",) * len(words), separator=separator), "passage")[0]


def byte_level():
    return tiny._tokenizer(["the cat sat on the mat"] * 20)


@pytest.mark.parametrize("normalizer", [
    None, normalizers.NFKC(), normalizers.NFD(),
    normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]),
])  # fmt: skip
def test_what_a_tokenizer_does_to_every_text_counts_as_the_same(normalizer):
    tokenizer = byte_level()
    if normalizer:
        tokenizer.backend_tokenizer.normalizer = normalizer
    assert len(tokens.encode(context(), tokenizer).ids) >= len(WORDS)


def test_wordpiece_that_cuts_at_spaces_and_punctuation_is_no_fault():
    made = Tokenizer(
        models.WordPiece({"[UNK]": 0, "the": 1, "cat": 2, "##s": 3, "'": 4, "s": 5, ".": 6}, unk_token="[UNK]")
    )
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")
    read = tokens.encode(context(("The", "cat's", "cats", "the", "cat.")), tokenizer)
    assert np.bincount(read.owners).tolist() == [1, 3, 2, 1, 2]


def test_a_tokenizer_that_drops_every_space_is_refused():
    """As a byte-level vocabulary is cut where it is taken for SentencePiece's."""
    tokenizer = byte_level()
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Replace(" ", "")
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(ValueError, match="does not give the text back: of 3 words between spaces, 1 are left"):
        tokens.encode(context(("cat", "sat", "mat")), tokenizer)


def test_tokens_that_read_as_another_word_are_refused_by_the_word():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("cat", "dog")
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    tokens.encode(context(("the", "mat")), tokenizer)

    class Lying:
        """Gives the tokens of another text with the places of this one."""

        is_fast, unk_token_id = True, None

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, text, **options):
            made = dict(tokenizer(text, **options))
            one = isinstance(text, str)
            ids = [made["input_ids"]] if one else made["input_ids"]
            turned = [[*part[1:], *part[:1]] for part in ids]
            return made | {"input_ids": turned[0] if one else turned}

    with pytest.raises(ValueError, match=r"does not give the text back: stimulus 'w0', 'the', becomes"):
        tokens.encode(context(("the", "mat", "sat")), Lying())


@pytest.mark.parametrize("word", ["\u200b", "\u00ad", "\u2060"])
def test_a_word_without_a_token_is_an_error_and_no_row(word):
    """NFKC and BERT's normaliser leave characters out that nobody sees."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(word, "")
    with pytest.raises(ValueError, match=r"stimulus 'w1' has no token: the tokenizer leaves '.(u20|xad)"):
        tokens.encode(context(("the", word, "mat")), tokenizer)


def test_unknown_tokens_are_not_compared():
    made = Tokenizer(models.WordLevel({"<unk>": 0, "cat": 1, "sat": 2}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    read = tokens.encode(context(("cat", "sat", "cat", "sat", "mat", "cat", "sat")), tokenizer)
    assert (read.ids == 0).sum() == 1


def test_texts_joined_without_spaces_give_their_text_back():
    read = tokens.encode(context(("他", "在", "河", "边", "睡觉", "。"), separator=""), byte_level())
    assert (np.bincount(read.owners) > 0).all()


def test_a_unigram_model_with_unknown_characters_is_read():
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=40, unk_token="<unk>", special_tokens=["<unk>"])
    made.train_from_iterator(["the cat sat on the mat"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    words = ("the", "cat", "sat", "on", "the", "mat", "that", "the", "cat", "émat")
    assert len(tokens.encode(context(words), tokenizer).last) == len(words)
