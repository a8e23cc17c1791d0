"""Retokenised stimuli get a forward pass over their own prefix, and are counted."""

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
from harness.records import ExtractionSettings, Layer, Stimuli
from harness.text import boundaries, contexts, tokens

TEXT = ("In New York the cat sat on the mat and the dog sat on the mat too. " * 12).split()
WORDS = Stimuli(tuple(map(str, range(len(TEXT)))), tuple(TEXT), ("p",) * len(TEXT))


def merging():
    """Byte-level BPE that merges across spaces, as some tokenizers do: "sat on the" is one token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [" ".join(TEXT[:16])] * 3,
        trainers.BpeTrainer(vocab_size=310, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names)


@pytest.fixture(scope="module", params=["llama", "t5"])
def model(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiny, "_tokenizer", lambda *_: merging())
        folder = tiny.build(request.param, tmp_path_factory.mktemp("m") / request.param, [], seed=3)
    return loaded_model.load(checkpoints.resolve(str(folder)))


def encode(model, stimuli, rule="corpus"):
    return contexts.build(stimuli, rule), [model.encode(context) for context in contexts.build(stimuli, rule)]


def test_exactly_the_stimuli_whose_prefix_has_other_tokens_are_retokenised(model):
    (context,), (encoded,) = encode(model, WORDS)
    offsets = model.tokenizer(context.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    n_retokenised = 0
    for k, (_, end) in enumerate(context.spans):
        prefix_ids = model.tokenizer(context.text[:end], add_special_tokens=False)["input_ids"]
        context_ids = [i for i, (_, stop) in zip(encoded.ids, offsets, strict=True) if stop <= end]
        spans_end = any(start < end < stop for start, stop in offsets)
        assert (k in encoded.retokenised) == (prefix_ids != context_ids or spans_end), k
        n_retokenised += k in encoded.retokenised
        ids, own = tokens.prefix_of(encoded, k)
        assert list(ids) == prefix_ids
        assert model.tokenizer.decode(ids[own]).strip().endswith(TEXT[k])
    assert len(TEXT) / 4 < n_retokenised < len(TEXT)


@pytest.mark.parametrize("pooling", ["last", "mean", "sum"])
def test_hidden_states_of_each_stimulus_equal_those_of_its_prefix_alone(model, pooling):
    if model.is_encoder_decoder:
        pytest.skip("an encoder processes each prefix separately in any case; see the test below")
    (context,), (encoded,) = encode(model, WORDS)
    extraction = with_transformers.extract(
        model, [encoded], ExtractionSettings(model.limit, pooling=pooling), log_probabilities=False
    )
    assert extraction.facts["n_reencoded"] == len(encoded.retokenised) > 0
    assert extraction.facts["n_windows"] == len(encoded.retokenised) + 1 + (len(encoded.ids) > model.limit - 1)
    for k in range(0, 60, 3):
        ids = model.tokenizer(context.text[: context.spans[k, 1]], add_special_tokens=False)["input_ids"]
        n_before = len(tokens.prefix_of(encoded, k)[0]) - len(tokens.prefix_of(encoded, k)[1])
        assert len(model.tokenizer.decode(ids[: n_before + 1])) > (context.spans[k - 1, 1] if k else 0)
        with torch.no_grad():
            out = model.model.base_model(input_ids=torch.tensor([[*model.prefix, *ids]]), output_hidden_states=True)
        for index, states in enumerate(out.hidden_states[:-1]):
            own = states[0, 1 + n_before :]
            expected = {"last": own[-1], "mean": own.mean(0), "sum": own.sum(0)}[pooling].numpy()
            actual, largest = extraction.features.values[Layer("decoder", index)][k], float(states.abs().max())
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * largest)


def test_t5_encodes_each_prefix_as_tokenised_alone(model):
    if not model.is_encoder_decoder:
        pytest.skip("a causal stack; see the test above")
    (context,), (encoded,) = encode(model, WORDS)
    features = with_transformers.extract(
        model, [encoded], ExtractionSettings(model.limit), log_probabilities=False
    ).features
    for k in range(0, 60, 7):
        ids = model.tokenizer(context.text[: context.spans[k, 1]], add_special_tokens=False)["input_ids"]
        source = torch.tensor([[*ids, model.tokenizer.eos_token_id]])
        with torch.no_grad():
            out = model.model.encoder(input_ids=source, output_hidden_states=True)
        for index, states in enumerate(out.hidden_states[:-1]):
            actual = features.values[Layer("encoder", index)][k]
            np.testing.assert_allclose(actual, states[0, len(ids) - 1].numpy(), atol=2e-5)


def test_a_tokenizer_that_splits_at_words_needs_no_second_pass():
    plain = tiny._tokenizer([" ".join(TEXT)])
    for rule in ("corpus", "passage", "none"):
        assert not any(tokens.encode(context, plain).retokenised for context in contexts.build(WORDS, rule))


def test_short_tails_detect_the_same_retokenised_stimuli_as_whole_prefixes(model, monkeypatch):
    (context,), (encoded,) = encode(model, WORDS)
    monkeypatch.setattr(boundaries, "TAIL", 10**6)
    by_prefixes = model.encode(context)
    assert list(encoded.retokenised) == list(by_prefixes.retokenised)
    for k, retokenised in encoded.retokenised.items():
        assert (retokenised.n_kept, retokenised.n_own, list(retokenised.ids)) == (
            by_prefixes.retokenised[k].n_kept, by_prefixes.retokenised[k].n_own, list(by_prefixes.retokenised[k].ids),
        )  # fmt: skip


def test_an_empty_stimulus_gets_the_hidden_state_of_the_preceding_text(tmp_path):
    model = loaded_model.load(checkpoints.resolve(str(tiny.build("llama", tmp_path / "m", [" ".join(TEXT)], seed=3))))
    texts = ("In New ", "York the cat ", "", "sat on the mat")
    stimuli = Stimuli(tuple("abcd"), texts, ("p",) * 4, separator="")
    (context,) = contexts.build(stimuli, "passage")
    encoded = model.encode(context)
    extraction = with_transformers.extract(model, [encoded])
    values = extraction.features.values[Layer("decoder", 2)]
    assert not encoded.retokenised
    np.testing.assert_array_equal(values[1], values[2])
    assert np.isfinite(values).all()
