"""A difference is added as its authors do: the base's value at new tokens, and the checksum that they state."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.checkpoints import checkpoints, weights
from harness.loading import deltas, loaded_model
from harness.models import model_table, tiny
from harness.models.model_table import Entry

TEXT = ["The old bee watched the hive.", "Nobody moved, slowly."]
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
N_NEW = 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.build("llama", tmp_path_factory.mktemp("models") / "base", TEXT, seed=0)


@pytest.fixture
def alpaca(base, tmp_path):
    """The folder of a difference, and the weights of its tuned LLaMA with new tokens whose rows started as means.

    As `make_diff` of weight_diff.py (tatsu-lab/stanford_alpaca): the base is resized, its new rows are the means of the
    rows of embeddings and head, and the tuned model minus this base is saved.
    """
    folder = shutil.copytree(base, tmp_path / "delta")
    raw = load_file(base / "model.safetensors")
    for key in (EMBEDDINGS, HEAD):
        raw[key] = torch.cat([raw[key], raw[key].mean(dim=0, keepdim=True).expand(N_NEW, -1)])
    generator = torch.Generator().manual_seed(1)
    tuned = {key: weight + 0.1 * torch.randn(weight.shape, generator=generator) for key, weight in raw.items()}
    save_file({key: tuned[key] - raw[key] for key in tuned}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + N_NEW}))
    return folder, tuned


def load(folder, base, **fields):
    checkpoint = dataclasses.replace(checkpoints.resolve(str(folder)), base_folder=str(base), **fields)
    return loaded_model.load(checkpoint)


@pytest.mark.parametrize("fields", [{"new_rows": "mean"}, {"hub_id": "tatsu-lab/alpaca-7b-wdiff"}])
def test_new_rows_start_at_the_mean_of_the_bases_rows_in_alpaca(alpaca, base, monkeypatch, fields):
    folder, tuned = alpaca
    monkeypatch.setattr(deltas, "RECIPES", {"tatsu-lab/alpaca-7b-wdiff": deltas.Recipe("mean")})
    state_dict = load(folder, base, **fields).model.state_dict()
    assert state_dict.keys() == tuned.keys()
    for key in tuned:
        torch.testing.assert_close(state_dict[key], tuned[key], rtol=0, atol=1e-6)


def test_new_rows_of_other_differences_start_at_zero(alpaca, base):
    """As in FastChat (Vicuna v0) and CarperAI (StableVicuna)."""
    folder, tuned = alpaca
    raw = load_file(base / "model.safetensors")
    for fields in ({}, {"new_rows": "zero"}, {"hub_id": "CarperAI/stable-vicuna-13b-delta"}):
        state_dict = load(folder, base, **fields).model.state_dict()
        for key in (EMBEDDINGS, HEAD):
            mean = raw[key].mean(dim=0)
            torch.testing.assert_close(state_dict[key][-N_NEW:], tuned[key][-N_NEW:] - mean, rtol=0, atol=1e-6)
            torch.testing.assert_close(state_dict[key][:-N_NEW], tuned[key][:-N_NEW], rtol=0, atol=1e-6)


def test_the_differences_of_the_model_table_have_their_authors_recipes():
    recipes = {entry.name: deltas.recipe_of(entry.hub_id) for entry in model_table.MODELS.values() if entry.delta_of}
    assert recipes["alpaca-7b"] == deltas.Recipe("mean", 50637.1836)
    assert recipes["stable-vicuna-13b"] == deltas.Recipe("zero")
    assert deltas.recipe_of("tatsu-lab/alpaca-7b-wdiff", new_rows="zero") == deltas.Recipe("zero")
    assert deltas.recipe_of("me/mine", new_rows="mean") == deltas.Recipe("mean")
    assert deltas.recipe_of("", "alpaca-7b") == recipes["alpaca-7b"]  # a copy in a folder
    assert deltas.recipe_of("me/mine", "alpaca-7b") == deltas.recipe_of("", "mine") == deltas.Recipe()


def test_a_file_of_models_states_how_to_add_a_difference(alpaca, base, tmp_path, monkeypatch):
    folder, tuned = alpaca
    monkeypatch.setattr(model_table, "MODELS", {"base": Entry("base", folder=str(base))})
    file = tmp_path / "mine.toml"
    file.write_text(f'[mine]\nfolder = "{folder}"\ndelta_of = "base"\nnew_rows = "mean"\n')
    model_table.extend(str(file))
    state_dict = loaded_model.load(checkpoints.resolve("mine")).model.state_dict()
    torch.testing.assert_close(state_dict[EMBEDDINGS], tuned[EMBEDDINGS], rtol=0, atol=1e-6)
    file.write_text(f'[mine]\nfolder = "{folder}"\ndelta_of = "base"\nnew_rows = "median"\n')
    with pytest.raises(ValueError, match="new_rows 'median' is neither 'zero' nor 'mean'"):
        model_table.extend(str(file))


# --- the checksum -----------------------------------------------------------------------------------------------------


def sum_of(tuned, n_blocks, head_width):
    """The sum that `recover` of weight_diff.py computes over the state dict of transformers 4.28."""
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, head_width, 2).float() / head_width))
    order = [EMBEDDINGS]
    for k in range(n_blocks):
        attention = [f"model.layers.{k}.self_attn.{name}_proj.weight" for name in "qkvo"]
        mlp = [f"model.layers.{k}.mlp.{name}_proj.weight" for name in ("gate", "down", "up")]
        norms = [f"model.layers.{k}.{name}_layernorm.weight" for name in ("input", "post_attention")]
        order += [*attention, "frequencies", *mlp, *norms]
    order += ["model.norm.weight", HEAD]
    assert {key for key in order if key != "frequencies"} == set(tuned)
    return float(sum((frequencies if key == "frequencies" else tuned[key]).sum() for key in order))


def test_the_checksum_includes_rotary_frequencies_as_the_authors_do(alpaca, base):
    folder, tuned = alpaca
    sums = deltas.add(weights.read(base, "m"), weights.read(folder, "m"), "m", len(tuned[EMBEDDINGS]), "mean")
    head_width = tiny.WIDTH // tiny.HEADS
    assert deltas.total(sums, head_width) == pytest.approx(sum_of(tuned, tiny.BLOCKS, head_width), abs=1e-4)


@pytest.mark.parametrize(("off", "refused"), [(0.0, False), (0.005, False), (0.05, True), (-1.0, True)])
def test_a_model_with_another_checksum_than_stated_is_refused(alpaca, base, monkeypatch, off, refused):
    folder, tuned = alpaca
    stated = sum_of(tuned, tiny.BLOCKS, tiny.WIDTH // tiny.HEADS) + off
    monkeypatch.setattr(deltas, "RECIPES", {"tatsu-lab/alpaca-7b-wdiff": deltas.Recipe("mean", stated)})
    if not refused:
        load(folder, base, hub_id="tatsu-lab/alpaca-7b-wdiff")
        return
    with pytest.raises(ValueError, match=r"the sum over all its weights is [\d.-]+, its authors state .* within 0\.01"):
        load(folder, base, hub_id="tatsu-lab/alpaca-7b-wdiff")


def test_a_zero_difference_at_a_new_token_gives_the_mean(base, tmp_path):
    tensors = {key: torch.zeros_like(weight) for key, weight in load_file(base / "model.safetensors").items()}
    for key in (EMBEDDINGS, HEAD):
        tensors[key] = torch.zeros(len(tensors[key]) + 1, tiny.WIDTH)
    own = weights.read(base, "m")
    sums = deltas.add(own, tensors, "m", len(tensors[EMBEDDINGS]), "mean")
    torch.testing.assert_close(sums[HEAD][...][-1], own[HEAD][...].mean(dim=0), rtol=0, atol=1e-7)
    assert torch.equal(sums["model.norm.weight"][...], own["model.norm.weight"][...])
