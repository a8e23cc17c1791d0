"""vLLM on the CPU equals transformers in float32: every layer's states and every log-probability."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from harness.checkpoints import checkpoints
from harness.extraction import backends, with_transformers, with_vllm
from harness.models import tiny
from harness.protocol import FoldRule, Protocol, Regression
from harness.records import ExtractionSettings, Stimuli
from harness.storage.store import Store
from harness.text import contexts
from harness.units.feature_units import FeatureSource, FeatureUnit, stored_features

WORDS = (
    "the old bee watched the hive and nobody moved while a king and a fox hid the golden snow slowly " * 140
).split()
STIMULI = Stimuli(
    tuple(map(str, range(len(WORDS)))), tuple(WORDS), tuple(f"p{k // 90}" for k in range(len(WORDS)))
)  # fmt: skip
CONTEXT = 4096
SHAPE = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 32,
    "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "initializer_range": 0.2, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """A checkpoint, loaded with transformers and with vLLM, whose CPU kernels need heads of width 32."""
    folder = tiny.build("llama", tmp_path_factory.mktemp("m") / request.param, [" ".join(WORDS)], 0)
    config, model = KINDS[request.param]
    torch.manual_seed(0)
    random_model = model(config(vocab_size=len(AutoTokenizer.from_pretrained(folder)), **SHAPE))
    random_model.eval().save_pretrained(folder, safe_serialization=True)
    checkpoint = checkpoints.resolve(str(folder))
    served = backends.load("vllm", checkpoint, "cpu")
    yield checkpoint, backends.load("transformers", checkpoint, "cpu"), served
    served.close()


@pytest.mark.parametrize(("rule", "pooling", "window"), [
    ("passage", "last", 2048), ("passage", "sum", 2048),  # several in one batch
    ("corpus", "mean", 300),  # overlapping windows
    ("corpus", "last", CONTEXT),  # longer than a batch: processed in chunks
])  # fmt: skip
def test_states_and_log_probabilities_equal_those_of_transformers(both, rule, pooling, window):
    _, ours, served = both
    encoded = [ours.loaded.encode(context) for context in contexts.build(STIMULI, rule)]
    if window == CONTEXT:
        assert len(encoded[0].ids) > with_vllm.BATCH_TOKENS
    theirs = with_transformers.extract(ours.loaded, encoded, ExtractionSettings(window, pooling=pooling))
    extraction = with_vllm.extract(served.loaded, encoded, ExtractionSettings(window, pooling=pooling))
    assert extraction.features.layers == theirs.features.layers
    for layer, states in theirs.features.values.items():
        largest = np.abs(states).max()
        np.testing.assert_allclose(extraction.features.values[layer] / largest, states / largest, rtol=0, atol=1e-4)
    for logs, expected in zip(extraction.log_probabilities, theirs.log_probabilities, strict=True):
        np.testing.assert_allclose(logs, expected, rtol=0, atol=1e-4)
    assert extraction.facts["n_windows"] == theirs.facts["n_windows"]


def test_a_feature_unit_records_its_backend_and_leaves_no_file_behind(both, tmp_path):
    from pathlib import Path

    checkpoint, _, served = both
    protocol = Protocol("strict", "passage", FoldRule("grouped", n=5), Regression("ols"), "max")
    source = FeatureSource("m", "model", checkpoint.revision, 0, checkpoint)
    unit, store = FeatureUnit(source, STIMULI, protocol, states=True, surprisals=True), Store(str(tmp_path))
    unit.run(served, store)
    features, words = stored_features(unit, store)
    assert store.manifest("features", unit.key)["backend"] == "vllm"
    assert all(np.isfinite(features.values[layer]).all() for layer in features.layers)
    assert np.isfinite(words.bits).all()
    assert not list(Path(served.loaded.model.folder.name).iterdir())


def test_states_and_probabilities_can_be_requested_separately(both):
    _, ours, served = both
    encoded = [ours.loaded.encode(context) for context in contexts.build(STIMULI, "passage")][:2]
    assert with_vllm.extract(served.loaded, encoded, states=False).features is None
    assert with_vllm.extract(served.loaded, encoded, log_probabilities=False).log_probabilities is None


def test_vllm_returns_the_states_of_the_listed_families():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from vllm.model_executor.models.interfaces import supports_eagle3
    from vllm.model_executor.models.registry import ModelRegistry

    for family in backends.STATES_BY_VLLM:
        loaded = ModelRegistry._try_load_model_cls(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family])
        assert supports_eagle3(loaded), family
    gpt2 = ModelRegistry._try_load_model_cls(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["gpt2"])
    assert not supports_eagle3(gpt2)


def test_models_that_vllm_does_not_support_are_refused(both):
    checkpoint, _, _ = both
    with pytest.raises(ValueError, match="no untrained control"):
        backends.load("vllm", checkpoint, "cpu", untrained_seed=0)
