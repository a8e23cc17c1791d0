"""Which ids stand around a text, for what published files say of them."""

import dataclasses

import pytest

from harness.checkpoints import special_ids
from harness.checkpoints.model_configs import ModelConfig
from harness.models import tiny

CORPUS = ["the cat sat on the mat and the dog slept near the river"] * 20
LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
BERT = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}


def config(stack="decoder", **ids):
    facts = {"bos": None, "eos": None, "decoder_start": None, "vocabulary": 800, "family": "llama", **ids}
    empty = {field.name: None for field in dataclasses.fields(ModelConfig)}
    return ModelConfig(**{**empty, "stack": stack, "n_blocks": {}, **facts})


def tokenizer(special, **template):
    """With `template`, one that puts tokens around a text itself, as published ones do."""
    from tokenizers import processors

    made = tiny._tokenizer(CORPUS, special)
    if template:
        ids = [(token, made.convert_tokens_to_ids(token)) for token in made.all_special_tokens]
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(special_tokens=ids, **template)
    return made


def test_the_bos_of_the_tokenizer_comes_first_then_that_of_the_configuration():
    assert special_ids.around(config(bos=2), tokenizer(LLAMA)).prefix == (0,)
    without = {key: token for key, token in LLAMA.items() if key != "bos_token"}
    found = special_ids.around(config(bos=1), tokenizer(without))
    assert (found.prefix, found.notes) == ((1,), ())


def test_a_family_without_bos_has_no_prefix_and_nothing_to_say():
    found = special_ids.around(config(), tokenizer({"eos_token": "</s>"}))
    assert (found.prefix, found.notes) == ((), ())


@pytest.mark.parametrize("bos", [800, 50256, -1])
def test_a_bos_past_the_embeddings_is_not_used_and_that_is_said(bos):
    found = special_ids.around(config(bos=bos), tokenizer({"eos_token": "</s>"}))
    assert found.prefix == ()
    past = f"bos_token_id {bos} of config.json is past the embeddings, of which there are 800"
    assert found.notes == (f"{past}: it is not put before a text.",)


def test_a_tokenizer_whose_bos_was_added_without_a_row_of_its_own_gives_no_prefix():
    found = special_ids.around(config(bos=None, vocabulary=0), tokenizer(LLAMA))
    assert found.prefix == ()
    assert "bos_token_id 0 of the tokenizer is past the embeddings" in found.notes[0]


def test_a_bos_that_is_an_ordinary_word_is_not_used_and_the_word_is_named():
    made = tokenizer({"eos_token": "</s>"})
    (dog,) = made(" dog", add_special_tokens=False)["input_ids"]
    found = special_ids.around(config(bos=dog), made)
    assert found.prefix == ()
    assert "is an ordinary token (' dog')" in found.notes[0]


def test_a_usable_bos_of_the_configuration_stands_in_for_an_unusable_one_of_the_tokenizer():
    made = tokenizer({"eos_token": "</s>"})
    made.add_special_tokens({"bos_token": "<new>"})
    found = special_ids.around(config(bos=0, vocabulary=len(made) - 1), made)
    assert found.prefix == (0,)
    assert "of the tokenizer is past the embeddings" in found.notes[0]


def test_a_decoder_whose_tokenizer_puts_more_than_bos_before_a_text_reads_that():
    """GLM's begins every text with two tokens."""
    made = tokenizer({"eos_token": "</s>", "cls_token": "[gMASK]", "sep_token": "<sop>"}, single="[gMASK] <sop> $A")
    found = special_ids.around(config(), made)
    assert found.prefix == (1, 2)
    assert "begins with [gMASK] <sop>" in found.notes[0]


def test_a_decoder_whose_tokenizer_begins_a_text_with_another_token_than_bos_reads_that():
    """XGLM's begins every text with the end of the one before."""
    found = special_ids.around(config(bos=0), tokenizer(LLAMA, single="</s> $A"))
    assert found.prefix == (1,)
    assert found.notes == ("every text begins with </s>, as in its tokenizer.",)


def test_a_tokenizer_that_puts_bos_before_a_text_itself_has_one_bos():
    found = special_ids.around(config(), tokenizer(LLAMA, single="<s> $A </s>"))
    assert (found.prefix, found.suffix, found.notes) == ((0,), (), ())


@pytest.mark.parametrize("template", [{}, {"single": "[CLS] $A [SEP]"}])
def test_an_encoder_reads_a_text_between_cls_and_sep(template):
    found = special_ids.around(config("encoder"), tokenizer(BERT, **template))
    assert (found.prefix, found.suffix, found.notes) == ((0,), (1,), ())


def test_an_encoder_whose_tokenizer_puts_something_else_around_a_text_reads_that():
    made = tokenizer(BERT | {"bos_token": "<s>"}, single="<s> $A [SEP]")
    found = special_ids.around(config("encoder"), made)
    assert (found.prefix, found.suffix) == ((made.bos_token_id,), (1,))
    assert "between <s> and [SEP]" in found.notes[0]


def test_t5_ends_what_its_encoder_reads_and_begins_what_its_decoder_reads():
    made = tokenizer({"eos_token": "</s>", "pad_token": "<pad>"})
    found = special_ids.around(config("encoder-decoder", decoder_start=1), made)
    assert (found.prefix, found.suffix, found.source_prefix, found.notes) == ((1,), (0,), (), ())


def test_bart_reads_a_text_between_bos_and_eos_and_its_decoder_the_bos_after_its_start():
    made = tokenizer(LLAMA, single="<s> $A </s>")
    found = special_ids.around(config("encoder-decoder", decoder_start=1), made)
    assert (found.prefix, found.suffix, found.source_prefix) == ((1, 0), (1,), (0,))


def test_the_decoder_of_mbart_starts_with_the_language_after_the_text():
    made = tokenizer(LLAMA | {"cls_token": "en_XX"}, single="$A </s> en_XX")
    found = special_ids.around(config("encoder-decoder", family="mbart"), made)
    assert (found.prefix, found.suffix) == ((made.cls_token_id,), (1, made.cls_token_id))


@pytest.mark.parametrize(("special", "facts", "message"), [
    ({"pad_token": "<pad>"}, {"decoder_start": 0}, "names no end-of-sequence token"),
    ({"eos_token": "</s>"}, {}, "names no decoder_start_token_id"),
    ({"eos_token": "</s>"}, {"decoder_start": 900}, "the special id 900 is past the embeddings"),
])  # fmt: skip
def test_an_encoder_decoder_that_cannot_be_read_without_an_id_is_refused(special, facts, message):
    with pytest.raises(ValueError, match=message):
        special_ids.around(config("encoder-decoder", **facts), tokenizer(special))
