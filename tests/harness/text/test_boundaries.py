"""Stimuli that a token reaches past: they are read by themselves, as the text so far, and counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness.checkpoints import checkpoints
from harness.extraction import with_transformers
from harness.loading import loaded_model
from harness.models import tiny
from harness.records import Layer, Stimuli
from harness.text import boundaries, contexts, tokens

TEXT = ("In New York the cat sat on the mat and the dog sat on the mat too. " * 12).split()
WORDS = Stimuli(tuple(map(str, range(len(TEXT)))), tuple(TEXT), ("p",) * len(TEXT))


def merging():
    """Byte-level BPE that knows no words, as some tokenizers do: "sat on the" is one token."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [" ".join(TEXT[:16])] * 3,
        trainers.BpeTrainer(vocab_size=310, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


@pytest.fixture(scope="module", params=["llama", "t5"])
def model(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiny, "_tokenizer", lambda *_: merging())
        folder = tiny.build(request.param, tmp_path_factory.mktemp("m") / request.param, [], seed=3)
    return loaded_model.load(checkpoints.resolve(str(folder)))


def encode(model, stimuli, rule="corpus"):
    return contexts.build(stimuli, rule), [model.encode(context) for context in contexts.build(stimuli, rule)]


def test_exactly_those_are_apart_whose_text_so_far_has_other_tokens(model):
    (context,), (read,) = encode(model, WORDS)
    offsets = model.tokenizer(context.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    n_apart = 0
    for k, (_, end) in enumerate(context.spans):
        alone = model.tokenizer(context.text[:end], add_special_tokens=False)["input_ids"]
        whole = [i for i, (_, stop) in zip(read.ids, offsets, strict=True) if stop <= end]
        straddles = any(start < end < stop for start, stop in offsets)
        assert (k in read.apart) == (alone != whole or straddles), k
        n_apart += k in read.apart
        ids, own = tokens.so_far(read, k)
        assert list(ids) == alone
        assert model.tokenizer.decode(ids[own]).strip().endswith(TEXT[k])
    assert len(TEXT) / 4 < n_apart < len(TEXT)


@pytest.mark.parametrize("pooling", ["last", "mean", "sum"])
def test_the_state_of_each_is_that_of_the_text_so_far_read_alone(model, pooling):
    if model.is_encoder_decoder:
        pytest.skip("its prefixes are read one by one in any case; see the test below")
    (context,), (read,) = encode(model, WORDS)
    found = with_transformers.extract(model, [read], model.limit, pooling=pooling, log_probabilities=False)
    assert found.facts["n_reencoded"] == len(read.apart) > 0
    assert found.facts["n_windows"] == len(read.apart) + 1 + (len(read.ids) > model.limit - 1)
    for k in range(0, 60, 3):
        ids = model.tokenizer(context.text[: context.spans[k, 1]], add_special_tokens=False)["input_ids"]
        n_before = len(tokens.so_far(read, k)[0]) - len(tokens.so_far(read, k)[1])
        assert len(model.tokenizer.decode(ids[: n_before + 1])) > (context.spans[k - 1, 1] if k else 0)
        with torch.no_grad():
            out = model.model.base_model(input_ids=torch.tensor([[*model.prefix, *ids]]), output_hidden_states=True)
        for index, states in enumerate(out.hidden_states[:-1]):
            own = states[0, 1 + n_before :]
            wanted = {"last": own[-1], "mean": own.mean(0), "sum": own.sum(0)}[pooling].numpy()
            ours, most = found.features.values[Layer("decoder", index)][k], float(states.abs().max())
            np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5 * most)


def test_t5_reads_the_text_so_far_as_it_is_tokenised_alone(model):
    if not model.is_encoder_decoder:
        pytest.skip("a causal stack; see the test above")
    (context,), (read,) = encode(model, WORDS)
    features = with_transformers.extract(model, [read], model.limit, log_probabilities=False).features
    for k in range(0, 60, 7):
        ids = model.tokenizer(context.text[: context.spans[k, 1]], add_special_tokens=False)["input_ids"]
        source = torch.tensor([[*ids, model.tokenizer.eos_token_id]])
        with torch.no_grad():
            out = model.model.encoder(input_ids=source, output_hidden_states=True)
        for index, states in enumerate(out.hidden_states[:-1]):
            ours = features.values[Layer("encoder", index)][k]
            np.testing.assert_allclose(ours, states[0, len(ids) - 1].numpy(), atol=2e-5)


def test_a_tokenizer_that_keeps_words_apart_reads_nothing_twice():
    plain = tiny._tokenizer([" ".join(TEXT)])
    for rule in ("corpus", "passage", "none"):
        assert not any(tokens.encode(context, plain).apart for context in contexts.build(WORDS, rule))


def test_a_token_across_a_boundary_is_found_by_a_short_tail_as_by_the_whole(model, monkeypatch):
    (context,), (read,) = encode(model, WORDS)
    monkeypatch.setattr(boundaries, "TAIL", 10**6)
    whole = model.encode(context)
    assert list(read.apart) == list(whole.apart)
    for k, each in read.apart.items():
        assert (each.n_kept, each.n_own, list(each.ids)) == (
            whole.apart[k].n_kept, whole.apart[k].n_own, list(whole.apart[k].ids),
        )  # fmt: skip


def test_texts_that_bring_their_own_spaces_and_say_nothing_have_the_state_before_them(tmp_path):
    model = loaded_model.load(checkpoints.resolve(str(tiny.build("llama", tmp_path / "m", [" ".join(TEXT)], seed=3))))
    texts = ("In New ", "York the cat ", "", "sat on the mat")
    stimuli = Stimuli(tuple("abcd"), texts, ("p",) * 4, separator="")
    (context,) = contexts.build(stimuli, "passage")
    read = model.encode(context)
    found = with_transformers.extract(model, [read])
    values = found.features.values[Layer("decoder", 2)]
    assert not read.apart
    np.testing.assert_array_equal(values[1], values[2])
    assert np.isfinite(values).all()
