"""What was read is held against a plain forward of a few stimuli, and is not stored where it differs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.checkpoints import checkpoints
from harness.extraction import backends, parity
from harness.models import tiny
from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Extraction, Features, Layer, Stimuli
from harness.storage.store import Store
from harness.text import contexts
from harness.units.feature_units import FeatureSource, FeatureUnit

TEXTS = tuple(f"The {word} bee watched the hive, and {word} it was." for word in ("old", "red", "lame", "tall", "slow"))
STIMULI = Stimuli(tuple("abcde"), TEXTS, tuple("ppppp"))
PROTOCOL = Protocol("strict", "passage", FoldRule("grouped", n=5), Regression("ols"), "max")


@pytest.fixture(scope="module", params=["llama", "t5", "bert"])
def model(request, tmp_path_factory):
    folder = tiny.build(request.param, tmp_path_factory.mktemp("m") / request.param, TEXTS, 0)
    return backends.load("transformers", checkpoints.resolve(str(folder)), "cpu")


def read(model, protocol=PROTOCOL):
    encoded = [model.reader.encode(context) for context in contexts.build(STIMULI, protocol.context)]
    logs = model.reader.stack != "encoder" and protocol.decoder_reads != "nothing"
    return encoded, model.extract(encoded, protocol, states=True, log_probabilities=logs)


@pytest.mark.parametrize("how", [
    {}, {"pooling": "mean"}, {"pooling": "sum", "context": "corpus"}, {"window": 24, "context": "corpus"},
    {"decoder_reads": "text"}, {"decoder_reads": "nothing"}, {"context": "none"},
])  # fmt: skip
def test_what_is_right_differs_by_rounding_alone(model, how):
    protocol = replace(PROTOCOL, **how)
    encoded, found = read(model, protocol)
    said = parity.check(model, encoded, found, protocol)
    assert 0 <= said["parity_states"] < 1e-5
    assert (said["parity_nats"] is None) == (found.predictions is None)
    assert (said["parity_nats"] or 0) < 1e-4
    assert said["parity_stimuli"] >= 4


@pytest.mark.parametrize("row", [0, 4])
def test_a_state_that_is_wrong_in_one_layer_is_found(model, row):
    encoded, found = read(model)
    stack = "encoder" if model.reader.stack == "encoder" else "decoder"
    values = {layer: matrix.copy() for layer, matrix in found.features.values.items()}
    values[Layer(stack, 2)][row, 7] += 0.01 * np.abs(values[Layer(stack, 2)]).max()
    wrong = Extraction(Features(values, found.features.row_ids), found.predictions)
    with pytest.raises(parity.ParityError, match="states read in batches differ"):
        parity.check(model, encoded, wrong, PROTOCOL)


def test_states_that_are_not_there_are_found(model):
    encoded, found = read(model)
    values = {layer: matrix * np.nan for layer, matrix in found.features.values.items()}
    with pytest.raises(parity.ParityError):
        parity.check(model, encoded, Extraction(Features(values, found.features.row_ids), None), PROTOCOL)


def test_a_log_probability_that_is_wrong_is_found(model):
    if model.reader.stack == "encoder":
        pytest.skip("an encoder has none")
    encoded, found = read(model)
    for part in found.predictions:
        for each in (part, *part.apart.values()):
            each.log_probabilities[:] += 0.01
    with pytest.raises(parity.ParityError, match="log-probabilities"):
        parity.check(model, encoded, Extraction(None, found.predictions), PROTOCOL)


def test_a_text_too_long_to_be_read_plainly_is_left_out_and_the_others_are_compared(model, monkeypatch):
    encoded, found = read(model)
    plain = parity._hidden

    def small(reader, stack, *ids):
        if max(len(part) for part in ids if part is not None) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(reader, stack, *ids)

    monkeypatch.setattr(parity, "_hidden", small)
    said = parity.check(model, encoded, found, PROTOCOL)
    assert 0 < said["parity_stimuli"] < 4
    assert said["parity_states"] < 1e-5


def test_nothing_is_stored_of_a_model_that_does_not_compute_the_same_thing_twice(tmp_path):
    checkpoint = checkpoints.resolve(str(tiny.build("llama", tmp_path / "m", TEXTS, 0)))
    model = backends.load("transformers", checkpoint, "cpu")
    model.reader.model.train()  # dropout, of which a Llama has none by default
    model.reader.model.config.attention_dropout = 0.5
    for block in model.reader.model.model.layers:
        block.self_attn.attention_dropout = 0.5
    store = Store(str(tmp_path / "out"))
    unit = FeatureUnit(FeatureSource("m", "model", checkpoint.revision, 0, checkpoint), STIMULI, PROTOCOL, True, True)
    with pytest.raises(parity.ParityError, match="Nothing is stored"):
        unit.run(model, store)
    assert not store.has("features", unit.key)


# --- who reads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changed", "asked", "device", "dtype", "wanted", "why"), [
    ({}, "auto", "cuda", "bfloat16", "transformers", "under 30 billion"),
    ({"n_parameters": 70 * 10**9}, "auto", "cuda", "bfloat16", "vllm", "30 billion"),
    ({"n_parameters": 70 * 10**9}, "auto", "cpu", "bfloat16", "transformers", "for GPUs"),
    ({"n_parameters": 70 * 10**9}, "auto", "cuda", "int8", "transformers", "int8"),
    ({"n_parameters": 70 * 10**9, "base_folder": "x"}, "auto", "cuda", "bfloat16", "transformers", "difference"),
    ({"n_parameters": 70 * 10**9, "family": "gpt2"}, "auto", "cuda", "bfloat16", "transformers", "no states of gpt2"),
    ({"is_encoder_decoder": True}, "vllm", "cuda", "float32", "transformers", "reads no encoder-decoder"),
    ({}, "vllm", "cpu", "float32", "vllm", "asked for"),
    ({}, "transformers", "cuda", "float32", "transformers", "asked for"),
])  # fmt: skip
def test_the_library_is_chosen_by_what_a_model_is_and_says_why(
    changed, asked, device, dtype, wanted, why, tmp_path, monkeypatch
):
    checkpoint = replace(checkpoints.resolve(str(tiny.build("llama", tmp_path / "m", TEXTS, 0))), **changed)
    monkeypatch.setattr(backends, "find_spec", lambda _: object())
    found, reason = backends.choose(checkpoint, asked, device, dtype, states=True)
    assert found == wanted
    assert why in reason
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    assert backends.choose(checkpoint, asked, device, dtype, states=True)[0] == "transformers"


def test_asking_for_a_library_that_is_not_here_is_wrong_use(monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="vLLM is not installed: pip install"):
        backends.require_installed("vllm")
    backends.require_installed("auto")
