"""A checkpoint is loaded completely or refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from harness.checkpoints import checkpoints
from harness.loading import allocation, loaded_model, trained
from harness.models import tiny

TEXT = ["the old bee watched the hive"]


@pytest.fixture
def folder(tmp_path):
    return tiny.build("llama", tmp_path / "m", ["the old bee watched the hive"], seed=0)


def _load(folder, **options):
    return loaded_model.load(checkpoints.resolve(str(folder)), **options)


def _rewrite(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def _reconfigure(folder, **entries):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_a_missing_block_is_refused_and_not_initialised_at_random(folder):
    _rewrite(folder, lambda tensors: {key: tensor for key, tensor in tensors.items() if ".layers.2." not in key})
    with pytest.raises(ValueError, match=r"weights are missing in the file, the first is model\.layers\.2"):
        _load(folder)


@pytest.mark.parametrize(("entries", "message"), [
    ({"num_hidden_layers": 6}, "are missing in the file"),
    ({"num_hidden_layers": 2}, "are of blocks that config.json does not have"),
    ({"intermediate_size": 10}, "have another shape"),
    ({"model_type": "nosuch"}, "has no model_type .nosuch."),
    ({"hidden_act": "nosuch"}, "config.json names 'nosuch', which transformers does not know"),
    ({"pad_token_id": 10**6}, "pad_token_id of config.json is past the embeddings"),
    ({"dtype": "auto"}, "dtype in config.json is 'auto', not a torch dtype"),
])  # fmt: skip
def test_a_configuration_that_does_not_fit_the_weights_is_refused(folder, entries, message):
    _reconfigure(folder, **entries)
    with pytest.raises(ValueError, match=message):
        _load(folder)


def test_output_settings_of_a_configuration_are_ignored(folder):
    wanted = _load(folder).model.state_dict()
    _reconfigure(folder, return_dict=False, output_hidden_states=True, output_attentions=True)
    assert _load(folder).model.state_dict().keys() == wanted.keys()


@pytest.mark.parametrize(("key", "table"), [
    ("rotary_emb.cos_cached", np.ones(4, np.float32)), ("causal_mask", np.ones(4, bool)),
    ("table", np.ones(4, np.int64)),
])  # fmt: skip
def test_masks_and_tables_stored_in_a_block_are_ignored(folder, key, table):
    _rewrite(folder, lambda tensors: tensors | {f"model.layers.0.self_attn.{key}": table})
    _load(folder)


def test_a_weight_that_its_block_does_not_have_is_refused(folder):
    _rewrite(folder, lambda tensors: tensors | {"model.layers.0.self_attn.q_proj.bias": np.ones(4, np.float32)})
    with pytest.raises(ValueError, match=r"of its blocks have no place in the model that config\.json describes"):
        _load(folder)


def test_multi_token_prediction_blocks_are_ignored_if_the_configuration_states_them(folder):
    _rewrite(folder, lambda tensors: tensors | {"model.layers.4.enorm.weight": np.ones(4, np.float32)})
    with pytest.raises(ValueError, match=r"of blocks that config\.json does not have"):
        _load(folder)
    _reconfigure(folder, num_nextn_predict_layers=1)
    _load(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    def spoil(tensors):
        key = sorted(tensors)[3]
        return tensors | {key: np.full_like(tensors[key], np.nan)}

    _rewrite(folder, spoil)
    with pytest.raises(ValueError, match="are not finite"):
        _load(folder)


@pytest.mark.parametrize("content", ['{"a": 1}', '{"version": "1.0", "mod', ""])
def test_the_error_for_a_damaged_tokenizer_names_the_model(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=f"{folder.name}: its tokenizer cannot be used"):
        _load(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_decoder_with_bidirectional_attention_is_refused(tmp_path, dtype):
    """Embedding models based on Gemma 3 have a decoder's class with bidirectional attention."""
    folder = tiny.build("gemma3_text", tmp_path / "m", ["the old bee watched the hive"], seed=0)
    _reconfigure(folder, use_bidirectional_attention=True)
    with pytest.raises(ValueError, match="'gemma3_text' should be a decoder, but its predictions depend on later"):
        _load(folder, dtype=dtype)


def test_bos_comes_from_the_configuration_if_the_tokenizer_names_none(folder):
    assert _load(folder).prefix == (0,)
    (folder / "tokenizer_config.json").unlink()
    assert _load(folder).prefix == (0,)
    _reconfigure(folder, bos_token_id=None)
    assert _load(folder).prefix == ()


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_encoders_are_loaded_without_their_head(tmp_path, family):
    """A checkpoint without head (sentence encoders) gives the same numbers as one with its head."""
    import torch
    from transformers import AutoModelForMaskedLM

    folder = tiny.build(family, tmp_path / "m", TEXT, seed=0)
    with_head = _load(folder)
    stack = AutoModelForMaskedLM.from_pretrained(folder).base_model
    (tmp_path / "m" / "model.safetensors").unlink()
    stack.save_pretrained(folder)
    alone = _load(folder)
    assert alone.stack == with_head.stack == "encoder"
    assert not any(name.startswith(("cls.", "lm_head.", "head.")) for name, _ in alone.model.named_parameters())
    ids = torch.tensor([[0, 7, 9, 1]])
    with torch.no_grad():
        states, states_alone = (loaded.model(ids).last_hidden_state for loaded in (with_head, alone))
    assert torch.equal(states, states_alone)


@pytest.mark.parametrize(("family", "old"), [
    ("gpt2", lambda t: {key.removeprefix("transformer."): w for key, w in t.items()}
     | {f"h.{k}.attn.bias": np.ones((1, 1, 9, 9), np.float32) for k in range(4)}),
    ("bert", lambda t: {key.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): w
                        for key, w in t.items()} | {"bert.pooler.dense.weight": np.ones((48, 48), np.float32)}),
    ("llama", lambda t: t | {f"model.layers.{k}.self_attn.rotary_emb.inv_freq": np.ones(6, np.float32)
                             for k in range(4)}),
    ("t5", lambda t: t | {f"{stack}.embed_tokens.weight": t["shared.weight"] for stack in ("encoder", "decoder")}),
])  # fmt: skip
def test_old_tensor_names_and_tables_give_the_same_model(tmp_path, family, old):
    folder = tiny.build(family, tmp_path / "m", TEXT, seed=0)
    new = _load(folder).model.state_dict()
    before = (folder / "model.safetensors").read_bytes()
    _rewrite(folder, old)
    assert (folder / "model.safetensors").read_bytes() != before
    state_dict = _load(folder).model.state_dict()
    assert state_dict.keys() == new.keys()
    assert all(state_dict[key].equal(new[key]) for key in new)


def test_a_missing_weight_of_an_encoder_is_refused_and_not_initialised_at_random(tmp_path):
    folder = tiny.build("bert", tmp_path / "m", TEXT, seed=0)
    _rewrite(folder, lambda tensors: {key: tensor for key, tensor in tensors.items() if ".layer.2." not in key})
    with pytest.raises(ValueError, match=r"weights are missing in the file, the first is bert\.encoder\.layer\.2"):
        _load(folder)


def test_a_bert_with_is_decoder_is_a_decoder(tmp_path):
    folder = tiny.build("bert", tmp_path / "m", TEXT, seed=0)
    _reconfigure(folder, is_decoder=True)
    loaded = _load(folder)
    assert (loaded.stack, loaded.suffix) == ("decoder", ())


def test_a_model_without_a_text_stack_is_refused(folder):
    _reconfigure(folder, model_type="vit")
    with pytest.raises(ValueError, match="'vit' is neither a decoder, nor an encoder, nor an encoder-decoder of text"):
        _load(folder)


@pytest.mark.parametrize(("options", "message"), [
    ({"dtype": "int8"}, "int8 runs only on CUDA"),
    ({"device": "cuda", "dtype": "int8"}, r"1 GPUs starting at cuda:0 are requested, torch sees 0"),
    ({"device": "cuda", "n_gpus": 4}, r"4 GPUs starting at cuda:0 are requested, torch sees 0"),
    ({"n_gpus": 2}, "2 GPUs are requested, but the device is 'cpu'"),
    ({"device": "cuda:1", "n_gpus": 2}, "device 'cuda:1' is not"),
    ({"device": "meta"}, "device 'meta' is not 'cpu', 'cuda' or 'cuda:N'"),
    ({"device": "disk"}, "device 'disk' is not"),
    ({"device": "cuda:"}, "device 'cuda:' is not"),
    ({"n_gpus": 0}, "n_gpus is 0"),
])  # fmt: skip
def test_an_unavailable_device_is_refused_before_weights_are_loaded(folder, monkeypatch, options, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    checkpoint = checkpoints.resolve(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=message):
        loaded_model.load(checkpoint, **options)


def test_the_error_for_int8_without_its_library_names_it(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr(allocation, "find_spec", lambda library: None if library == "bitsandbytes" else object())
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        _load(folder, device="cuda", dtype="int8")


@pytest.mark.parametrize("family", ["llama", "t5", "gpt2"])
def test_int8_takes_the_estimated_bytes_and_is_close_to_float32(tmp_path, family):
    """Uses the CPU kernels of bitsandbytes, which are too slow for users."""
    pytest.importorskip("bitsandbytes")
    import torch

    from harness.loading import architectures, device_map

    checkpoint = checkpoints.resolve(str(tiny.build(family, tmp_path / "m", TEXT, seed=0)))
    architecture = architectures.read(checkpoint.folder)
    meta_model = architecture.meta_model("int8")
    quantised = trained.load(architecture, meta_model, checkpoint, "int8", {"": "cpu"})
    counted = sum(part.n_bytes for part in device_map.parts_of(meta_model, allocation.bytes_of(meta_model, "int8")))
    held = [*quantised.parameters(), *quantised.buffers()]
    assert counted == sum(tensor.numel() * tensor.element_size() for tensor in held)
    ids = torch.arange(4, 14)[None]
    more = {"decoder_input_ids": ids} if architecture.stack == "encoder-decoder" else {}
    with torch.no_grad():
        ours, exact = (
            model(ids, **more).logits[0].float() for model in (quantised, loaded_model.load(checkpoint).model)
        )
    assert torch.cosine_similarity(ours, exact, dim=-1).min() > 0.97


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_in_half_precision(folder, dtype, value):
    def spoil(tensors):
        key = "model.layers.2.mlp.down_proj.weight"
        tensors[key][3, 5] = value
        return tensors

    _rewrite(folder, spoil)
    with pytest.raises(ValueError, match=r"1 weights are not finite, the first is model\.layers\.2\.mlp\.down_proj"):
        _load(folder, dtype=dtype)


def test_a_weight_that_overflows_float16_is_refused(folder):
    _rewrite(folder, lambda tensors: tensors | {"model.norm.weight": np.full(48, 1e6, np.float32)})
    assert _load(folder, dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"are not finite, the first is model\.norm"):
        _load(folder, dtype="float16")


def test_activations_that_overflow_float16_are_refused_on_loading(folder):
    _rewrite(folder, lambda tensors: tensors | {"lm_head.weight": 30_000 * np.sign(tensors["lm_head.weight"])})
    assert _load(folder, dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(ValueError, match="logits are not finite in float16; use bfloat16 or float32"):
        _load(folder, dtype="float16")


def test_an_untrained_control_depends_on_its_seed_alone(folder):
    first, again, other = (_load(folder, untrained_seed=seed, dtype="bfloat16") for seed in (1, 1, 2))
    weights = [loaded.model.get_input_embeddings().weight for loaded in (first, again, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])
    assert not first.model.training


def test_log_probabilities_are_float32_in_every_precision(folder):
    """They have the resolution of float32, and are close to those of float32 weights."""
    from harness.extraction import with_transformers
    from harness.records import Stimuli
    from harness.text import contexts

    (text,) = contexts.build(Stimuli(("a",), ("the old bee watched",), ("p",)), "passage")
    extractions = {}
    for dtype in ("float32", "bfloat16"):
        loaded = _load(folder, dtype=dtype)
        extractions[dtype] = with_transformers.extract(loaded, [loaded.encode(text)])
    logs = {dtype: extraction.log_probabilities[0] for dtype, extraction in extractions.items()}
    np.testing.assert_allclose(logs["bfloat16"], logs["float32"], atol=0.5)
    assert not np.array_equal(logs["bfloat16"].astype(np.float32), _bfloat16(logs["bfloat16"]))
    assert {matrix.dtype for matrix in extractions["bfloat16"].features.values.values()} == {np.dtype("float32")}


def _bfloat16(values):
    import torch

    return torch.from_numpy(values).bfloat16().float().numpy()
