"""Impossible weights are refused (integers, wrong shapes, zeros), but not zeros that training can leave."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.checkpoints import checkpoints
from harness.loading import checks, loaded_model
from harness.models import tiny

TEXT = ["The old bee watched the hive."]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Returns a function that gives a folder of a family, built once."""
    folder, folders = tmp_path_factory.mktemp("families"), {}

    def model(family):
        if family not in folders:
            folders[family] = tiny.build(family, folder / family, TEXT, seed=0)
        return folders[family]

    return model


@pytest.fixture
def rewritten(models, tmp_path):
    def rewrite(family, change):
        folder = shutil.copytree(models(family), tmp_path / family)
        tensors = load_file(folder / "model.safetensors")
        save_file(
            {key: w.contiguous() for key, w in change(tensors).items()}, folder / "model.safetensors", {"format": "pt"}
        )
        return folder

    return rewrite


def load(folder):
    return loaded_model.load(checkpoints.resolve(str(folder)))


# --- all zero ---------------------------------------------------------------------------------------------------------


def zeroed(pattern):
    return lambda tensors: {k: w * 0 if re.search(pattern, k) else w for k, w in tensors.items()}


def ends_of(folder):
    """Names of embeddings and head, as in transformers."""
    loaded = load(folder).model
    ends = [loaded.get_input_embeddings(), getattr(loaded, "get_output_embeddings", lambda: None)()]
    wanted = {id(end.weight) for end in ends if end is not None}
    return {name for name, weight in loaded.named_parameters() if id(weight) in wanted}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_zero_embeddings_are_refused_in_every_family(models, rewritten, family):
    ends = ends_of(models(family))
    stored = load_file(models(family) / "model.safetensors")
    key = next(name for name in stored if any(name == end or name.endswith(f".{end}") for end in ends))
    with pytest.raises(ValueError, match="are all zero, the first is"):
        load(rewritten(family, lambda tensors: tensors | {key: tensors[key] * 0}))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_zero_biases_are_accepted_in_every_family(rewritten, family):
    """Biases are initialised with zeros."""

    def change(tensors):
        return {key: w * 0 if w.ndim == 1 and key.endswith("bias") else w for key, w in tensors.items()}

    load(rewritten(family, change))


def test_zero_norms_of_gemma_are_accepted(rewritten):
    """They are offsets to one."""
    load(rewritten("gemma2", zeroed("norm")))


@pytest.mark.parametrize("pattern", [
    r"layers\.2\..*(o_proj|down_proj)", r"layers\.[13]\..*o_proj", r"layers\.0\.self_attn\.q_proj", r"\d\.mlp\.up_proj",
])  # fmt: skip
def test_single_zero_matrices_are_accepted(rewritten, pattern):
    """They occur in blocks added to a model (LLaMA Pro), and after pruning."""
    load(rewritten("llama", zeroed(pattern)))


@pytest.mark.parametrize(("family", "pattern", "message"), [
    ("llama", r"layers\.2\.", r"7 weights are all zero, which are all those of a block, the first is model\.layers\.2"),
    ("llama", "_proj", r"are all zero, which are all those of a block"),
    ("llama", "lm_head", r"1 weights are all zero, the first is lm_head\.weight"),
    ("llama", r"self_attn|mlp\.(gate|up)", r"weights of 30 are all zero"),
    ("gpt2", r"h\.1\.", "all those of a block"),
    ("t5", r"encoder\.block\.3\.", "all those of a block"),
    ("bert", r"layer\.0\.", "all those of a block"),
    ("gpt_neox", r"layers\.3\.", "all those of a block"),
    ("gemma2", ".", "are all zero"),
])  # fmt: skip
def test_zero_blocks_and_mostly_zero_models_are_refused(rewritten, family, pattern, message):
    with pytest.raises(ValueError, match=message):
        load(rewritten(family, zeroed(pattern)))


# --- integers, wrong shapes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_weights_that_are_not_floats_are_refused_with_name_and_type(rewritten, dtype):
    key = "model.layers.1.mlp.up_proj.weight"
    names = {torch.int8: "I8", torch.int32: "I32", torch.int64: "I64", torch.uint8: "U8", torch.bool: "BOOL",
             torch.complex64: "C64"}  # fmt: skip
    folder = rewritten("llama", lambda tensors: tensors | {key: tensors[key].to(dtype)})
    with pytest.raises(
        ValueError, match=rf"1 weights are not floating-point numbers, the first is {key}, stored as {names[dtype]},"
    ):
        load(folder)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_floats_of_any_width_are_loaded(rewritten, dtype):
    key = "model.norm.weight"
    folder = rewritten("llama", lambda tensors: tensors | {key: tensors[key].to(dtype)})
    weight = load(folder).model.state_dict()[key]
    assert torch.equal(weight, load_file(folder / "model.safetensors")[key].float())


@pytest.mark.parametrize(("family", "extra"), [
    ("gpt2", {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
              "transformer.h.0.attn.masked_bias": torch.tensor(-10000)}),
    ("bert", {"bert.embeddings.position_ids": torch.arange(256)[None]}),
    ("distilbert", {"distilbert.embeddings.position_ids": torch.arange(256)[None]}),
])  # fmt: skip
def test_integer_masks_and_positions_are_accepted(rewritten, family, extra):
    load(rewritten(family, lambda tensors: tensors | extra))


def test_a_tensor_larger_than_the_model_is_refused_before_loading(rewritten):
    def change(tensors):
        return tensors | {"model.norm.weight": torch.zeros(300_000)}

    with pytest.raises(ValueError, match=r"model\.norm\.weight has the shape \(300000,\), more elements than"):
        load(rewritten("llama", change))


def test_the_error_for_missing_weights_names_those_in_the_file(rewritten):
    with pytest.raises(
        ValueError, match=r"39 weights are missing .* it holds 39 under other names, the first is policy\."
    ):
        load(rewritten("llama", lambda tensors: {f"policy.{key}": w for key, w in tensors.items()}))


def test_the_error_for_a_weight_that_is_not_finite_names_it():
    from transformers import LlamaConfig, LlamaForCausalLM

    small = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                         num_attention_heads=1))  # fmt: skip
    checks.require_sound_model(small)
    with torch.no_grad():
        small.model.layers[0].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"1 weights are not finite, the first is model\.layers\.0\.mlp\.up_proj"):
        checks.require_sound_model(small)
