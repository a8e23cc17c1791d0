"""Extracted features are compared with a plain forward of a few stimuli, and not stored if they differ."""

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


def extracted(model, protocol=PROTOCOL):
    encoded = [model.loaded.encode(context) for context in contexts.build(STIMULI, protocol.context)]
    logs = model.loaded.stack != "encoder" and protocol.decoder_reads != "nothing"
    return encoded, model.extract(encoded, protocol, states=True, log_probabilities=logs)


@pytest.mark.parametrize("how", [
    {}, {"pooling": "mean"}, {"pooling": "sum", "context": "corpus"}, {"window": 24, "context": "corpus"},
    {"decoder_reads": "text"}, {"decoder_reads": "nothing"}, {"context": "none"},
])  # fmt: skip
def test_correct_features_differ_by_rounding_only(model, how):
    protocol = replace(PROTOCOL, **how)
    encoded, extraction = extracted(model, protocol)
    facts = parity.check(model, encoded, extraction, protocol)
    assert 0 <= facts["parity_states"] < 1e-5
    assert (facts["parity_nats"] is None) == (extraction.predictions is None)
    assert (facts["parity_nats"] or 0) < 1e-4
    assert facts["parity_stimuli"] >= 4


@pytest.mark.parametrize("row", [0, 4])
def test_a_wrong_state_in_one_layer_is_detected(model, row):
    encoded, extraction = extracted(model)
    stack = "encoder" if model.loaded.stack == "encoder" else "decoder"
    values = {layer: matrix.copy() for layer, matrix in extraction.features.values.items()}
    values[Layer(stack, 2)][row, 7] += 0.01 * np.abs(values[Layer(stack, 2)]).max()
    wrong = Extraction(Features(values, extraction.features.row_ids), extraction.predictions)
    with pytest.raises(parity.ParityError, match="states extracted in batches differ"):
        parity.check(model, encoded, wrong, PROTOCOL)


def test_missing_states_are_detected(model):
    encoded, extraction = extracted(model)
    values = {layer: matrix * np.nan for layer, matrix in extraction.features.values.items()}
    with pytest.raises(parity.ParityError):
        parity.check(model, encoded, Extraction(Features(values, extraction.features.row_ids), None), PROTOCOL)


def test_a_wrong_log_probability_is_detected(model):
    if model.loaded.stack == "encoder":
        pytest.skip("an encoder gives no log-probabilities")
    encoded, extraction = extracted(model)
    for predictions in extraction.predictions:
        for part in (predictions, *predictions.retokenised.values()):
            part.log_probabilities[:] += 0.01
    with pytest.raises(parity.ParityError, match="log-probabilities"):
        parity.check(model, encoded, Extraction(None, extraction.predictions), PROTOCOL)


def test_a_text_too_long_for_a_plain_forward_is_skipped(model, monkeypatch):
    encoded, extraction = extracted(model)
    hidden = parity._hidden

    def small(loaded, stack, *ids):
        if max(len(part) for part in ids if part is not None) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return hidden(loaded, stack, *ids)

    monkeypatch.setattr(parity, "_hidden", small)
    facts = parity.check(model, encoded, extraction, PROTOCOL)
    assert 0 < facts["parity_stimuli"] < 4
    assert facts["parity_states"] < 1e-5


def test_nothing_is_stored_if_a_model_is_not_reproducible(tmp_path):
    checkpoint = checkpoints.resolve(str(tiny.build("llama", tmp_path / "m", TEXTS, 0)))
    model = backends.load("transformers", checkpoint, "cpu")
    model.loaded.model.train()  # enables dropout, which a Llama does not have by default
    model.loaded.model.config.attention_dropout = 0.5
    for block in model.loaded.model.model.layers:
        block.self_attn.attention_dropout = 0.5
    store = Store(str(tmp_path / "out"))
    unit = FeatureUnit(FeatureSource("m", "model", checkpoint.revision, 0, checkpoint), STIMULI, PROTOCOL, True, True)
    with pytest.raises(parity.ParityError, match="Nothing is stored"):
        unit.run(model, store)
    assert not store.has("features", unit.key)


# --- choice of the backend --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changed", "asked", "device", "dtype", "wanted", "why"), [
    ({}, "auto", "cuda", "bfloat16", "transformers", "under 30 billion"),
    ({"n_parameters": 70 * 10**9}, "auto", "cuda", "bfloat16", "vllm", "30 billion"),
    ({"n_parameters": 70 * 10**9}, "auto", "cpu", "bfloat16", "transformers", "only on GPUs"),
    ({"n_parameters": 70 * 10**9}, "auto", "cuda", "int8", "transformers", "int8"),
    ({"n_parameters": 70 * 10**9, "base_folder": "x"}, "auto", "cuda", "bfloat16", "transformers", "difference"),
    ({"n_parameters": 70 * 10**9, "family": "gpt2"}, "auto", "cuda", "bfloat16", "transformers", "states of gpt2"),
    ({"is_encoder_decoder": True}, "vllm", "cuda", "float32", "transformers", "does not support an encoder-decoder"),
    ({}, "vllm", "cpu", "float32", "vllm", "requested"),
    ({}, "transformers", "cuda", "float32", "transformers", "requested"),
])  # fmt: skip
def test_the_backend_is_chosen_with_a_reason(changed, asked, device, dtype, wanted, why, tmp_path, monkeypatch):
    checkpoint = replace(checkpoints.resolve(str(tiny.build("llama", tmp_path / "m", TEXTS, 0))), **changed)
    monkeypatch.setattr(backends, "find_spec", lambda _: object())
    backend, reason = backends.choose(checkpoint, asked, device, dtype, states=True)
    assert backend == wanted
    assert why in reason
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    assert backends.choose(checkpoint, asked, device, dtype, states=True)[0] == "transformers"


def test_requesting_a_backend_that_is_not_installed_is_an_error(monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="vLLM is not installed: pip install"):
        backends.require_installed("vllm")
    backends.require_installed("auto")
