"""Special ids around a text, for the variants found in published files."""

import dataclasses

import pytest

from harness.checkpoints import special_ids
from harness.checkpoints.model_configs import ModelConfig
from harness.models import tiny

CORPUS = ["the cat sat on the mat and the dog slept near the river"] * 20
LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
BERT = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}


def config(stack="decoder", **ids):
    facts = {"bos": None, "decoder_start": None, "vocabulary": 800, "family": "llama", **ids}
    empty = {field.name: None for field in dataclasses.fields(ModelConfig)}
    return ModelConfig(**{**empty, "stack": stack, "n_blocks": {}, **facts})


def tokenizer(special, **template):
    """Build a tokenizer; with `template` it adds special tokens itself, as published ones do."""
    from tokenizers import processors

    custom = tiny._tokenizer(CORPUS, special)
    if template:
        ids = [(token, custom.convert_tokens_to_ids(token)) for token in custom.all_special_tokens]
        custom.backend_tokenizer.post_processor = processors.TemplateProcessing(special_tokens=ids, **template)
    return custom


def test_the_tokenizers_bos_takes_precedence_over_the_configurations():
    assert special_ids.around(config(bos=2), tokenizer(LLAMA)).prefix == (0,)
    without = {key: token for key, token in LLAMA.items() if key != "bos_token"}
    ids = special_ids.around(config(bos=1), tokenizer(without))
    assert (ids.prefix, ids.notes) == ((1,), ())


def test_a_family_without_bos_has_no_prefix_and_no_note():
    ids = special_ids.around(config(), tokenizer({"eos_token": "</s>"}))
    assert (ids.prefix, ids.notes) == ((), ())


@pytest.mark.parametrize("bos", [800, 50256, -1])
def test_a_bos_past_the_embeddings_is_not_used_and_gives_a_note(bos):
    ids = special_ids.around(config(bos=bos), tokenizer({"eos_token": "</s>"}))
    assert ids.prefix == ()
    past = f"bos_token_id {bos} of config.json is past the embeddings, of which there are 800"
    assert ids.notes == (f"{past}: it is not put before a text.",)


def test_a_bos_without_an_embedding_gives_no_prefix():
    ids = special_ids.around(config(bos=None, vocabulary=0), tokenizer(LLAMA))
    assert ids.prefix == ()
    assert "bos_token_id 0 of the tokenizer is past the embeddings" in ids.notes[0]


def test_a_bos_that_is_an_ordinary_word_is_not_used_and_the_note_names_the_word():
    custom = tokenizer({"eos_token": "</s>"})
    (dog,) = custom(" dog", add_special_tokens=False)["input_ids"]
    ids = special_ids.around(config(bos=dog), custom)
    assert ids.prefix == ()
    assert "is an ordinary token (' dog')" in ids.notes[0]


def test_the_configurations_bos_replaces_an_unusable_one_of_the_tokenizer():
    custom = tokenizer({"eos_token": "</s>"})
    custom.add_special_tokens({"bos_token": "<new>"})
    ids = special_ids.around(config(bos=0, vocabulary=len(custom) - 1), custom)
    assert ids.prefix == (0,)
    assert "of the tokenizer is past the embeddings" in ids.notes[0]


def test_a_decoder_gets_its_tokenizers_own_prefix_of_several_tokens():
    """GLM's tokenizer puts two tokens before every text."""
    custom = tokenizer({"eos_token": "</s>", "cls_token": "[gMASK]", "sep_token": "<sop>"}, single="[gMASK] <sop> $A")
    ids = special_ids.around(config(), custom)
    assert ids.prefix == (1, 2)
    assert "begins with [gMASK] <sop>" in ids.notes[0]


def test_a_decoder_gets_its_tokenizers_own_prefix_instead_of_bos():
    """XGLM's tokenizer puts EOS before every text."""
    ids = special_ids.around(config(bos=0), tokenizer(LLAMA, single="</s> $A"))
    assert ids.prefix == (1,)
    assert ids.notes == ("every text begins with </s>, as in its tokenizer.",)


def test_bos_is_not_doubled_if_the_tokenizer_adds_it_itself():
    ids = special_ids.around(config(), tokenizer(LLAMA, single="<s> $A </s>"))
    assert (ids.prefix, ids.suffix, ids.notes) == ((0,), (), ())


@pytest.mark.parametrize("template", [{}, {"single": "[CLS] $A [SEP]"}])
def test_an_encoder_gets_cls_before_and_sep_after_a_text(template):
    ids = special_ids.around(config("encoder"), tokenizer(BERT, **template))
    assert (ids.prefix, ids.suffix, ids.notes) == ((0,), (1,), ())


def test_an_encoder_gets_its_tokenizers_own_tokens_around_a_text():
    custom = tokenizer(BERT | {"bos_token": "<s>"}, single="<s> $A [SEP]")
    ids = special_ids.around(config("encoder"), custom)
    assert (ids.prefix, ids.suffix) == ((custom.bos_token_id,), (1,))
    assert "between <s> and [SEP]" in ids.notes[0]


def test_t5_gets_eos_after_the_encoders_text_and_a_start_token_before_the_decoders():
    custom = tokenizer({"eos_token": "</s>", "pad_token": "<pad>"})
    ids = special_ids.around(config("encoder-decoder", decoder_start=1), custom)
    assert (ids.prefix, ids.suffix, ids.source_prefix, ids.notes) == ((1,), (0,), (), ())


def test_bart_gets_bos_and_eos_in_the_encoder_and_start_and_bos_in_the_decoder():
    custom = tokenizer(LLAMA, single="<s> $A </s>")
    ids = special_ids.around(config("encoder-decoder", decoder_start=1), custom)
    assert (ids.prefix, ids.suffix, ids.source_prefix) == ((1, 0), (1,), (0,))


def test_the_decoder_of_mbart_starts_with_the_language_token():
    custom = tokenizer(LLAMA | {"cls_token": "en_XX"}, single="$A </s> en_XX")
    ids = special_ids.around(config("encoder-decoder", family="mbart"), custom)
    assert (ids.prefix, ids.suffix) == ((custom.cls_token_id,), (1, custom.cls_token_id))


@pytest.mark.parametrize(("special", "facts", "message"), [
    ({"pad_token": "<pad>"}, {"decoder_start": 0}, "names no end-of-sequence token"),
    ({"eos_token": "</s>"}, {}, "names no decoder_start_token_id"),
    ({"eos_token": "</s>"}, {"decoder_start": 900}, "the special id 900 is past the embeddings"),
])  # fmt: skip
def test_an_encoder_decoder_without_a_necessary_id_is_refused(special, facts, message):
    with pytest.raises(ValueError, match=message):
        special_ids.around(config("encoder-decoder", **facts), tokenizer(special))
