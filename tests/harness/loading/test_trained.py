"""Names and parts of tensors in a model's files."""

import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM

from harness.loading import trained


def test_tensors_are_divided_as_in_the_models_files(tmp_path):
    """Against save_pretrained; transformers holds the experts of Mixtral in one tensor."""
    config = MixtralConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=3,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    model.save_pretrained(tmp_path)
    expected = load_file(tmp_path / "model.safetensors")
    tensors = trained.under_stored_names(model, {name: weight.detach() for name, weight in model.named_parameters()})
    save_file(tensors, tmp_path / "own.safetensors")
    stored = load_file(tmp_path / "own.safetensors")
    assert "model.layers.1.block_sparse_moe.experts.2.w1.weight" in stored
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], weight) for name, weight in expected.items())
