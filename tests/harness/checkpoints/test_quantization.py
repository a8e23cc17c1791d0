"""Quantised weights are dequantised, loaded by their library, or refused with installation advice."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.checkpoints import checkpoints, quantization
from harness.checkpoints.safetensors_file import StoredTensor
from harness.extraction import backends
from harness.loading import loaded_model
from harness.models import tiny

TEXT = ["The old bee watched the hive."]
BLOCK = 16


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return tiny.build("llama", tmp_path_factory.mktemp("models") / "dense", TEXT, seed=0)


def reconfigured(folder, settings, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings} | entries))
    return folder


def in_blocks(weight, block=BLOCK):
    """Quantise to FP8 in square blocks, scaled so that each block's largest number is 448, as DeepSeek does."""
    rows, columns = weight.shape
    parts = weight.reshape(rows // block, block, columns // block, block)
    scales = parts.abs().amax((1, 3)) / 448
    stored = (parts / scales[:, None, :, None]).to(torch.float8_e4m3fn)
    exact = (stored.float() * scales[:, None, :, None]).reshape(rows, columns)
    return stored.reshape(rows, columns).contiguous(), scales, exact


@pytest.fixture
def fp8(dense, tmp_path):
    """A checkpoint in FP8 and its dequantised tensors."""
    folder = shutil.copytree(dense, tmp_path / "fp8")
    tensors, exact = load_file(folder / "model.safetensors"), {}
    for key, weight in list(tensors.items()):
        exact[key] = weight
        if "_proj" in key:
            tensors[key], tensors[f"{key}_scale_inv"], exact[key] = in_blocks(weight)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
    return reconfigured(folder, settings), exact


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fp8_weights_are_dequantised_to_the_requested_precision(fp8, dtype):
    folder, exact = fp8
    loaded = loaded_model.load(checkpoints.resolve(str(folder)), dtype=dtype)
    state = loaded.model.state_dict()
    assert state.keys() == exact.keys()
    for key in exact:
        assert torch.equal(state[key], exact[key].to(getattr(torch, dtype))), key
    assert loaded.quantization == ""  # nothing remains quantised


def test_mxfp4_experts_are_dequantised_as_in_transformers(dense, tmp_path):
    """A tiny gpt-oss, with experts in blocks of 32 4-bit numbers and a scale, as published."""
    from transformers import GptOssConfig, GptOssForCausalLM

    folder = shutil.copytree(dense, tmp_path / "mxfp4")
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    GptOssForCausalLM(GptOssConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=256,
        sliding_window=32, initializer_range=0.1, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )).save_pretrained(folder)  # fmt: skip
    tensors = {}
    for key, weight in load_file(folder / "model.safetensors").items():
        if key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = weight.shape
            tensors[f"{key}_blocks"] = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            tensors[f"{key}_scales"] = torch.full((experts, outputs, inputs // 32), 122, dtype=torch.uint8)
        else:
            tensors[key] = weight
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    reconfigured(folder, {"quant_method": "mxfp4", "modules_to_not_convert": ["self_attn", "router", "embed_tokens"]})
    loaded = loaded_model.load(checkpoints.resolve(str(folder)))
    theirs = GptOssForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    state = loaded.model.state_dict()
    assert state.keys() == theirs.keys()
    assert all(torch.equal(state[key], theirs[key].float()) for key in theirs)
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    assert checkpoints.resolve(str(folder)).n_parameters == sum(weight.numel() for weight in theirs.values())


def test_rotary_frequencies_stay_in_float32_beside_dequantised_weights(fp8, dense):
    buffers = [
        dict(loaded_model.load(checkpoints.resolve(str(folder)), dtype="bfloat16").model.named_buffers())
        for folder in (fp8[0], dense)
    ]
    assert buffers[0]["model.rotary_emb.inv_freq"].dtype == torch.float32
    assert torch.equal(*(named["model.rotary_emb.inv_freq"] for named in buffers))


def test_scales_are_not_counted_as_parameters(fp8, dense):
    assert checkpoints.resolve(str(fp8[0])).n_parameters == checkpoints.resolve(str(dense)).n_parameters


def test_weights_that_do_not_divide_into_blocks_are_refused(fp8):
    """transformers would interpret two scales for 96 rows in blocks of 128 as blocks of 48."""
    folder, _ = fp8
    tensors = load_file(folder / "model.safetensors")
    key = "model.layers.0.mlp.gate_proj.weight_scale_inv"
    tensors[key] = tensors[key][:2].contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"gate_proj\.weight has the shape \(96, 48\), which is not a whole number of blocks"
    ):
        loaded_model.load(checkpoints.resolve(str(folder)))


def test_an_untrained_control_of_a_quantised_model_has_full_precision(fp8, dense):
    one, other = (
        loaded_model.load(checkpoints.resolve(str(folder)), untrained_seed=3).model.state_dict()
        for folder in (fp8[0], dense)
    )
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_an_adapter_is_merged_onto_dequantised_weights(fp8, tmp_path):
    import peft
    from transformers import AutoModelForCausalLM

    folder, exact = fp8
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config)
    torch.manual_seed(0)
    for weight in wrapped.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn(weight.shape)
    wrapped.save_pretrained(tmp_path / "lora")
    stored = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    key = "model.layers.2.self_attn.q_proj"
    a, b = (stored[f"base_model.model.{key}.lora_{part}.weight"] for part in "AB")
    state = loaded_model.load(checkpoints.resolve(str(tmp_path / "lora"))).model.state_dict()
    torch.testing.assert_close(state[f"{key}.weight"], exact[f"{key}.weight"] + 2 * (b @ a))


@pytest.mark.parametrize(("settings", "library", "install"), [
    ({"quant_method": "gptq", "bits": 4}, "gptqmodel", r"\[gptq\]"),
    ({"quant_method": "awq", "bits": 4}, "gptqmodel", r"\[gptq\]"),
    ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed_tensors", r"\[compressed\]"),
    ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, "bitsandbytes", r"\[int8\]"),
    ({"load_in_8bit": True}, "bitsandbytes", r"\[int8\]"),
    ({"quant_method": "torchao"}, "torchao", "torchao"),
    ({"quant_method": "quanto"}, r"optimum\.quanto", "optimum-quanto"),
    ({"quant_method": "hqq"}, "hqq", "hqq"),
    ({"quant_method": "aqlm"}, "aqlm", "aqlm"),
])  # fmt: skip
def test_error_for_a_missing_library_says_how_to_install_it(dense, tmp_path, monkeypatch, settings, library,
                                                                       install):  # fmt: skip
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    folder = reconfigured(shutil.copytree(dense, tmp_path / "m"), settings)
    with pytest.raises(ValueError, match=rf"needs .*{library}.*\(not installed\): pip install .*{install}") as error:
        loaded_model.load(checkpoints.resolve(str(folder)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{"quant_method": "magic"}, {"bits": 4}])
def test_error_for_an_unknown_method_lists_the_known_ones(dense, tmp_path, settings):
    folder = reconfigured(shutil.copytree(dense, tmp_path / "m"), settings)
    with pytest.raises(ValueError, match=r"which is none of fp8, .*gptq, awq"):
        loaded_model.load(checkpoints.resolve(str(folder)))


def test_ordinary_weights_under_a_quantised_configuration_are_refused(dense, tmp_path, monkeypatch):
    monkeypatch.setattr(quantization, "_is_there", lambda module: True)
    folder = reconfigured(shutil.copytree(dense, tmp_path / "m"), {"quant_method": "compressed-tensors"})
    with pytest.raises(ValueError, match="states that the weights are quantised by compressed-tensors, and none"):
        loaded_model.load(checkpoints.resolve(str(folder)))


def test_ordinary_weights_under_an_fp8_configuration_are_loaded_unchanged(dense, tmp_path):
    """As in transformers."""
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    folder = reconfigured(shutil.copytree(dense, tmp_path / "m"), settings)
    state = loaded_model.load(checkpoints.resolve(str(folder))).model.state_dict()
    wanted = load_file(dense / "model.safetensors")
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)


def test_quantised_weights_without_a_quantisation_configuration_are_refused(fp8):
    folder, _ = fp8
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"are parts of quantised weights, but config.json states no"):
        loaded_model.load(checkpoints.resolve(str(folder)))


def test_quantised_weights_are_not_quantised_again(fp8, monkeypatch):
    from harness.loading import trained

    with pytest.raises(ValueError, match="its weights are already quantised by fp8; use bfloat16"):
        trained._quantization_method(checkpoints.resolve(str(fp8[0])), "int8", {"quant_method": "fp8"})


def test_quantised_weights_are_loaded_by_transformers_instead_of_vllm(fp8):
    checkpoint = checkpoints.resolve(str(fp8[0]))
    assert checkpoint.quantization == "fp8"
    chosen, why = backends.choose(checkpoint, "vllm", "cuda", "bfloat16", states=False)
    assert chosen == "transformers"
    assert "fp8" in why


@pytest.mark.parametrize(("settings", "tensors", "n"), [
    ({"quant_method": "gptq", "bits": 4},
     {"q.qweight": ("I32", (6, 48)), "q.qzeros": ("I32", (1, 6)), "q.scales": ("F16", (1, 48)),
      "q.g_idx": ("I32", (48,)), "norm.weight": ("F16", (48,))}, 48 * 48 + 48),
    ({"quant_method": "gptq", "bits": 8}, {"q.qweight": ("I32", (12, 48))}, 48 * 48),
    ({"quant_method": "awq", "w_bit": 4}, {"q.qweight": ("I32", (48, 6)), "q.qzeros": ("I32", (1, 6))}, 48 * 48),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True},
     {"q.weight": ("U8", (1152, 1)), "q.weight.absmax": ("F32", (36,)), "q.weight.quant_map": ("F32", (16,)),
      "q.weight.quant_state.bitsandbytes__nf4": ("U8", (80,)), "norm.weight": ("F32", (48,))}, 48 * 48 + 48),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True},
     {"q.weight": ("I8", (48, 48)), "q.SCB": ("F32", (48,)), "q.weight_format": ("U8", ())}, 48 * 48),
    ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}},
     {"q.weight_packed": ("I32", (48, 6)), "q.weight_scale": ("BF16", (48, 1)), "q.weight_shape": ("I64", (2,))},
     48 * 48),
    ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}},
     {"q.weight": ("F8_E4M3", (48, 48)), "q.weight_scale": ("BF16", (48, 1)), "q.input_scale": ("BF16", (1,))},
     48 * 48),
    ({"quant_method": "mxfp4"},
     {"experts.gate_up_proj_blocks": ("U8", (4, 48, 1, 16)), "experts.gate_up_proj_scales": ("U8", (4, 48, 1)),
      "experts.gate_up_proj_bias": ("BF16", (4, 48))}, 4 * 48 * 32 + 4 * 48),
    ({"quant_method": "fp8"}, {"q.weight": ("F8_E4M3", (48, 48)), "q.weight_scale_inv": ("F32", (1, 1))}, 48 * 48),
    ({}, {"q.weight": ("F32", (48, 48)), "norm.scale": ("F32", (48,))}, 48 * 48 + 48),
])  # fmt: skip
def test_packed_weights_are_counted_unpacked(settings, tensors, n):
    assert quantization.n_parameters({key: StoredTensor(*stored) for key, stored in tensors.items()}, settings) == n


@pytest.mark.parametrize(("settings", "words"), [
    ({"quant_method": "gptq", "bits": 4}, "gptq 4-bit weights"), ({"quant_method": "torchao"}, "torchao weights"),
    ({"quant_method": "awq", "bits": 4}, "awq 4-bit weights"), ({"quant_method": "fp8"}, ""),
    ({"load_in_8bit": True}, ""), ({}, ""),
    ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}, ""),
    ({"quant_method": "compressed-tensors", "config_groups": {
        "group_0": {"weights": {"num_bits": 8}, "input_activations": {"num_bits": 8, "dynamic": True}},
    }}, "compressed-tensors 8-bit activations"),
])  # fmt: skip
def test_remaining_quantisation_is_described(settings, words):
    assert quantization.remaining_quantization(settings) == words


def test_quantisation_settings_of_a_nested_text_model_are_found():
    assert quantization.settings_of({"text_config": {"quantization_config": {"quant_method": "fp8"}}}) == {
        "quant_method": "fp8"
    }
    assert quantization.settings_of({"quantization_config": None}) == {}
    assert quantization.method_of({}) == ""


def test_column_dtype_states_remaining_quantisation(dense, tmp_path, monkeypatch):
    """The description is patched, since no library for weights that stay quantised is installed."""
    from harness.protocol import surprisal_alone
    from harness.units import word_units

    file = tmp_path / "text.txt"
    file.write_text(TEXT[0])

    def dtypes():
        frames = list(word_units.surprisals([f"local:{file}"], [str(dense)], word_units.WordOptions(surprisal_alone())))
        return {value for frame in frames for value in frame["dtype"]}

    assert dtypes() == {"float32"}
    monkeypatch.setattr(quantization, "remaining_quantization", lambda settings: "gptq 4-bit weights")
    assert dtypes() == {"float32, gptq 4-bit weights"}
