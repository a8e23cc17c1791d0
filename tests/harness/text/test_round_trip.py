"""Tokens that do not decode to their text are an error that names the word."""

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
def test_the_tokenizers_own_normalisation_is_ignored(normalizer):
    tokenizer = byte_level()
    if normalizer:
        tokenizer.backend_tokenizer.normalizer = normalizer
    assert len(tokens.encode(context(), tokenizer).ids) >= len(WORDS)


def test_wordpiece_splitting_at_spaces_and_punctuation_is_accepted():
    wordpiece = Tokenizer(
        models.WordPiece({"[UNK]": 0, "the": 1, "cat": 2, "##s": 3, "'": 4, "s": 5, ".": 6}, unk_token="[UNK]")
    )
    wordpiece.normalizer, wordpiece.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    wordpiece.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=wordpiece, unk_token="[UNK]")
    encoded = tokens.encode(context(("The", "cat's", "cats", "the", "cat.")), tokenizer)
    assert np.bincount(encoded.owners).tolist() == [1, 3, 2, 1, 2]


def test_a_tokenizer_that_drops_every_space_is_refused():
    """This happens to a byte-level vocabulary loaded as SentencePiece."""
    tokenizer = byte_level()
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Replace(" ", "")
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(ValueError, match="does not give the text back: of 3 words between spaces, 1 are left"):
        tokens.encode(context(("cat", "sat", "mat")), tokenizer)


def test_tokens_that_decode_to_another_word_are_refused_with_the_word():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("cat", "dog")
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    tokens.encode(context(("the", "mat")), tokenizer)

    class Mismatched:
        """Returns the tokens of another text with the offsets of this one."""

        is_fast, unk_token_id = True, None

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, text, **options):
            encoded = dict(tokenizer(text, **options))
            is_single = isinstance(text, str)
            batch = [encoded["input_ids"]] if is_single else encoded["input_ids"]
            rotated = [[*ids[1:], *ids[:1]] for ids in batch]
            return encoded | {"input_ids": rotated[0] if is_single else rotated}

    with pytest.raises(ValueError, match=r"does not give the text back: stimulus 'w0', 'the', becomes"):
        tokens.encode(context(("the", "mat", "sat")), Mismatched())


@pytest.mark.parametrize("word", ["\u200b", "\u00ad", "\u2060"])
def test_a_word_without_a_token_is_an_error(word):
    """NFKC and BERT's normaliser drop invisible characters."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(word, "")
    with pytest.raises(ValueError, match=r"stimulus 'w1' has no token: the tokenizer drops '.(u20|xad)"):
        tokens.encode(context(("the", word, "mat")), tokenizer)


def test_unknown_tokens_are_not_compared():
    word_level = Tokenizer(models.WordLevel({"<unk>": 0, "cat": 1, "sat": 2}, unk_token="<unk>"))
    word_level.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=word_level, unk_token="<unk>")
    encoded = tokens.encode(context(("cat", "sat", "cat", "sat", "mat", "cat", "sat")), tokenizer)
    assert (encoded.ids == 0).sum() == 1


def test_texts_joined_without_spaces_pass_the_check():
    encoded = tokens.encode(context(("他", "在", "河", "边", "睡觉", "。"), separator=""), byte_level())
    assert (np.bincount(encoded.owners) > 0).all()


def test_a_unigram_model_with_unknown_characters_is_accepted():
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=40, unk_token="<unk>", special_tokens=["<unk>"])
    unigram.train_from_iterator(["the cat sat on the mat"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>")
    words = ("the", "cat", "sat", "on", "the", "mat", "that", "the", "cat", "émat")
    assert len(tokens.encode(context(words), tokenizer).last) == len(words)
