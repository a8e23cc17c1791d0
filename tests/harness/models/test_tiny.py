"""Every tiny family is a real checkpoint that loads through the normal code."""

import itertools
import json

import pytest
import torch

from harness.checkpoints import checkpoints, safetensors_file
from harness.loading import loaded_model
from harness.models import precision, tiny

TEXT = ["The old bee watched the hive.", "Nobody moved, slowly."]
ENCODERS = {"bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2"}
T5 = {"t5", "t5-original"}


@pytest.fixture(scope="module", params=sorted(tiny.FAMILIES))
def family(request, tmp_path_factory):
    folder = tiny.build(request.param, tmp_path_factory.mktemp("models") / "m", TEXT, seed=0)
    return request.param, checkpoints.resolve(str(folder))


def _states(loaded, ids):
    ids = torch.tensor([[*loaded.prefix, *ids, *loaded.suffix]])
    more = {"decoder_input_ids": ids} if loaded.stack == "encoder-decoder" else {}
    with torch.inference_mode():
        out = loaded.model.base_model(input_ids=ids, output_hidden_states=True, **more)
    hidden_states = out.get("hidden_states") or (*out.encoder_hidden_states, *out.decoder_hidden_states)
    return [states[0].float() for states in hidden_states]


def test_a_family_loads_with_its_stack_and_gives_finite_hidden_states_that_differ_between_layers(family):
    name, checkpoint = family
    loaded = loaded_model.load(checkpoint)
    stack = "encoder" if name in ENCODERS else "encoder-decoder" if name in T5 else "decoder"
    assert (checkpoint.family, loaded.stack, loaded.dtype) == (
        name.removesuffix("-original").removesuffix("-alibi"),
        stack,
        "float32",
    )
    states = _states(loaded, range(4, 12))
    assert len(states) == (tiny.BLOCKS + 1) * (2 if name in T5 else 1)
    assert all(torch.isfinite(state).all() for state in states)
    assert all((one - other).abs().max() > 1e-3 for one, other in itertools.pairwise(states))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_hidden_states_in_half_precision_are_close_to_float32(family, dtype):
    """Large random weights amplify rounding more than trained ones; hidden states must stay finite and similar."""
    _, checkpoint = family
    if dtype == "float16" and checkpoint.family in precision.FLOAT16_OVERFLOWS:
        with pytest.raises(ValueError, match=r"does not run in float16: .*65504"):
            loaded_model.load(checkpoint, dtype=dtype)
        return
    exact, half = (loaded_model.load(checkpoint, dtype=wanted) for wanted in ("float32", dtype))
    assert half.dtype == dtype
    assert {weight.dtype for weight in half.model.parameters()} == {getattr(torch, dtype)}
    for one, other in zip(_states(exact, range(4, 12)), _states(half, range(4, 12)), strict=True):
        assert torch.isfinite(other).all()
        assert torch.cosine_similarity(one, other, dim=-1).min() > 0.99


def test_special_ids_around_a_text_match_the_stack(family):
    loaded = loaded_model.load(family[1])
    around = {"decoder": ((0,), ()), "encoder": ((0,), (1,)), "encoder-decoder": ((2,), (1,))}
    assert (loaded.prefix, loaded.suffix) == around[loaded.stack]
    encoded = loaded.tokenizer(TEXT[0], add_special_tokens=True)["input_ids"]
    assert encoded == loaded.tokenizer(TEXT[0], add_special_tokens=False)["input_ids"]


def test_a_model_accepts_as_many_tokens_as_its_limit_states(family):
    name, checkpoint = family
    loaded = loaded_model.load(checkpoint)
    assert loaded.limit == (512 if name in T5 else tiny.CONTEXT)
    n_inside = loaded.limit - len(loaded.prefix) - len(loaded.suffix)
    assert torch.isfinite(_states(loaded, [5] * n_inside)[-1]).all()


def test_roberta_has_no_positions_past_its_limit(tmp_path):
    """Its positions start after the padding token's id, so its configuration states more than it has."""
    checkpoint = checkpoints.resolve(str(tiny.build("roberta", tmp_path / "m", TEXT, seed=0)))
    loaded = loaded_model.load(checkpoint)
    assert loaded.limit < checkpoint.context_size
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        _states(loaded, [5] * (loaded.limit - 1))


def test_the_seed_determines_the_weights(tmp_path):
    bytes_of = [
        (tiny.build("qwen3", tmp_path / str(k), TEXT, seed) / "model.safetensors").read_bytes()
        for k, seed in enumerate((0, 0, 1))
    ]
    assert bytes_of[0] == bytes_of[1] != bytes_of[2]


def test_a_tied_head_is_stored_once(tmp_path):
    folder = tiny.build("t5-original", tmp_path / "m", TEXT, seed=0)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    assert not any("lm_head" in key for key in safetensors_file.header_of(folder / "model.safetensors", "m"))
