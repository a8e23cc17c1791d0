"""An adapter is merged onto its base: the same numbers as PEFT gives with the adapter beside the weights."""

import json
import shutil
from dataclasses import dataclass
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.checkpoints import adapter_config, checkpoints, pairs
from harness.extraction import backends
from harness.loading import loaded_model
from harness.models import model_table, tiny
from harness.models.model_table import Entry

TEXT = ["The old bee watched the hive.", "Nobody moved, slowly."]
IDS = torch.arange(5, 17)[None]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
GPT2 = {**LORA, "target_modules": ["c_attn"], "fan_in_fan_out": True}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A folder of each family, built once."""
    root, made = tmp_path_factory.mktemp("bases"), {}

    def base(family):
        if family not in made:
            made[family] = tiny.build(family, root / f"base-{family}", TEXT, seed=0)
        return made[family]

    return base


@dataclass
class Made:
    """An adapter that PEFT saved, and PEFT's model with the adapter beside the weights."""

    folder: Any
    wrapped: Any

    def logits(self):
        return logits_of(self.wrapped.get_base_model())


def logits_of(model):
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            return model(input_ids=IDS, decoder_input_ids=IDS.flip(1)).logits
        found = model(input_ids=IDS)
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


@pytest.fixture
def train(bases, tmp_path):
    """Make an adapter as PEFT saves it, all of its weights drawn; `tokens` are added to the base's tokenizer."""

    def make(config, family="llama", auto="AutoModelForCausalLM", tokens=(), name="adapter", **save):
        import transformers

        model = getattr(transformers, auto).from_pretrained(bases(family))
        tokenizer = transformers.AutoTokenizer.from_pretrained(bases(family))
        torch.manual_seed(3)
        if tokens:
            tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        wrapped = peft.get_peft_model(model, config)
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.data += 0.05 * torch.randn(weight.shape)
        folder = tmp_path / name
        wrapped.eval().save_pretrained(folder, **save)
        if tokens:
            tokenizer.save_pretrained(folder)
        return Made(folder, wrapped)

    return make


def lora(**settings):
    return peft.LoraConfig(**{**LORA, **settings})


def resolve(folder, **options):
    return checkpoints.resolve(str(folder), **options)


def load(folder, allow_pickle=False, **options):
    return loaded_model.load(resolve(folder, allow_pickle=allow_pickle), allow_pickle=allow_pickle, **options)


def restated(folder, **settings):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def rewritten(folder, change):
    file = folder / "adapter_model.safetensors"
    save_file({key: w.contiguous() for key, w in change(load_file(file)).items()}, file, {"format": "pt"})
    return folder


def assert_same(loaded, wanted):
    found = logits_of(loaded.model)
    assert float((found - wanted).abs().max()) < 2e-5 * float(wanted.abs().max())


# --- the numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "config"), [
    ("llama", lora()),
    ("llama", lora(target_modules="all-linear")),
    ("llama", lora(use_dora=True)),
    ("llama", lora(use_rslora=True)),
    ("llama", lora(rank_pattern={"q_proj": 8}, alpha_pattern={"v_proj": 32})),
    ("llama", lora(target_modules=["embed_tokens", "lm_head", "q_proj"])),
    ("llama", lora(modules_to_save=["lm_head", "embed_tokens"])),
    ("llama", lora(modules_to_save=["norm"])),
    ("llama", lora(trainable_token_indices=[4, 5, 6])),
    ("llama", lora(init_lora_weights="pissa")),
    ("gpt2", peft.LoraConfig(**GPT2)),
    ("gpt2", peft.LoraConfig(**GPT2, bias="all")),
    ("gpt2", peft.LoraConfig(**{**GPT2, "target_modules": ["wte", "c_attn"]})),
    ("gpt2", peft.LoraConfig(**GPT2, trainable_token_indices=[4, 5, 6])),
    ("gpt_neox", lora(target_modules=["query_key_value"])),
    ("gemma2", lora()),
    ("llama", peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"],
                             feedforward_modules=["down_proj"])),
    ("llama", peft.OSFConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], effective_rank=8)),
    ("llama", peft.LoKrConfig(task_type="CAUSAL_LM", r=4, alpha=8, target_modules=["q_proj"])),
    ("llama", peft.OFTConfig(task_type="CAUSAL_LM", oft_block_size=8, target_modules=["q_proj"])),
    ("llama", peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=["norm", "input_layernorm"])),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_a_merged_adapter_gives_what_peft_gives_beside_the_weights(bases, train, family, config):
    made = train(config, family)
    assert_same(load(made.folder), made.logits())
    plain = logits_of(load(bases(family)).model)
    assert float((plain - made.logits()).abs().max()) > 0.1


def test_adapters_of_seq2seq_models_are_merged(train):
    made = train(
        peft.LoraConfig(r=4, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM"), "t5", "AutoModelForSeq2SeqLM"
    )
    assert_same(load(made.folder), made.logits())


@pytest.mark.parametrize("auto", ["AutoModelForMaskedLM", "AutoModel"])
def test_adapters_of_encoders_are_merged_whether_they_were_trained_with_a_head_or_without(train, auto):
    made = train(peft.LoraConfig(r=4, target_modules=["query", "value"]), "bert", auto)
    assert_same(load(made.folder), logits_of(made.wrapped.get_base_model().base_model))


def test_adapters_in_experts_of_a_mixture_are_merged(bases, train, tmp_path, monkeypatch):
    from transformers import MixtralConfig, MixtralForCausalLM

    folder = shutil.copytree(bases("llama"), tmp_path / "mixtral")
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    MixtralForCausalLM(MixtralConfig(
        vocab_size=vocabulary, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=256, initializer_range=0.3,
    )).save_pretrained(folder)  # fmt: skip
    config = lora(target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, real=AutoModelForCausalLM.from_pretrained:
                        real(folder))  # fmt: skip
    made = train(config)
    monkeypatch.undo()
    assert_same(load(restated(made.folder, base_model_name_or_path=str(folder))), made.logits())


def test_an_adapter_is_merged_in_float32_and_rounded_once(bases, train):
    made = train(lora())
    found = load(made.folder, dtype="bfloat16").model.state_dict()["model.layers.0.self_attn.q_proj.weight"]
    base = load_file(bases("llama") / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    stored = load_file(made.folder / "adapter_model.safetensors")
    a, b = (stored[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight"] for part in "AB")
    exact = base.bfloat16().float() + 2 * (b @ a)  # alpha 8 over rank 4
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())


@pytest.mark.parametrize(("config", "save"), [
    (lora(modules_to_save=["lm_head", "embed_tokens"]), {}), (lora(), {"save_embedding_layers": True}),
])  # fmt: skip
def test_tokens_that_were_added_in_tuning_have_their_rows(bases, train, config, save):
    made = train(config, tokens=["<|user|>", "<|end|>"], **save)
    loaded = load(made.folder)
    assert_same(loaded, made.logits())
    assert loaded.model.get_input_embeddings().num_embeddings == resolve(bases("llama")).vocabulary + 2
    assert "<|user|>" in loaded.tokenizer.get_vocab()


def test_layers_that_the_file_leaves_out_are_as_peft_begins_them(bases, train):
    """B is zero, and the layer as in the base."""
    made = train(lora())
    rewritten(made.folder, lambda tensors: {key: w for key, w in tensors.items() if "v_proj" not in key})
    found = load(made.folder).model.state_dict()
    base = load_file(bases("llama") / "model.safetensors")
    for key, weight in base.items():
        assert torch.equal(found[key], weight) == ("q_proj" not in key), key


# --- what a run records -----------------------------------------------------------------------------------------------


def test_what_a_run_records_of_an_adapter_is_its_bases_and_both_revisions(bases, train):
    made = train(lora())
    found, base = resolve(made.folder), resolve(bases("llama"))
    assert (found.name, found.tuned_from, found.pair_source, found.adapter) == ("adapter", base.name, "adapter", "LORA")
    assert found.revision.endswith(f"+{base.revision}")
    assert found.revision.startswith("files-")
    for name in ("n_parameters", "n_layers", "hidden_size", "vocabulary", "family", "context_size", "n_heads"):
        assert getattr(found, name) == getattr(base, name), name
    assert found.architecture == base.architecture  # the untrained control is the base's
    assert [one.tuned_from for one in pairs.pair([base, found])] == ["", base.name]


def test_the_revision_changes_with_the_adapter_and_with_its_base(bases, train, tmp_path):
    made = train(lora())
    before = resolve(made.folder).revision
    rewritten(made.folder, lambda tensors: {key: 2 * w for key, w in tensors.items()})
    after = resolve(made.folder).revision
    assert before != after
    other = tiny.build("llama", tmp_path / "other", TEXT, seed=1)
    assert resolve(restated(made.folder, base_model_name_or_path=str(other))).revision != after


def test_the_untrained_control_of_an_adapter_is_that_of_its_base(bases, train):
    made = train(lora())
    one, other = (load(folder, untrained_seed=5).model.state_dict() for folder in (made.folder, bases("llama")))
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_the_tokenizer_is_the_adapters_own_where_it_brings_one(bases, train):
    made = train(lora())
    assert resolve(made.folder).tokenizer_folder == str(bases("llama"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bases("llama") / name, made.folder)
    (made.folder / "chat_template.jinja").write_text("{{ messages }}")
    found = resolve(made.folder)
    assert found.tokenizer_folder == str(made.folder)
    assert found.architecture == resolve(bases("llama")).architecture
    assert checkpoints.has_chat_template(found)
    assert_same(load(made.folder), made.logits())


def test_vllm_leaves_adapters_to_transformers(train):
    found = resolve(train(lora()).folder)
    chosen, why = backends.choose(found, "vllm", "cuda", "bfloat16", states=False)
    assert (chosen, why) == ("transformers", "its adapter is merged by transformers alone")
    with pytest.raises(ValueError, match=r"vLLM reads no .*adapter"):
        backends.load("vllm", found, "cuda")


# --- its base ---------------------------------------------------------------------------------------------------------


def test_a_relative_base_is_looked_for_in_the_adapters_folder_then_in_the_working_folder(bases, train, monkeypatch,
                                                                                         tmp_path):  # fmt: skip
    made = train(lora())
    shutil.copytree(bases("llama"), tmp_path / "the-base")
    restated(made.folder, base_model_name_or_path="../the-base")
    assert resolve(made.folder).tuned_from == "the-base"
    restated(made.folder, base_model_name_or_path="the-base")
    with pytest.raises(ValueError, match=r"its base 'the-base'.* is no folder.*delta_of = the base"):
        resolve(made.folder)
    monkeypatch.chdir(tmp_path)
    assert resolve(made.folder).tuned_from == "the-base"


def test_a_file_of_models_names_the_base_of_an_adapter(bases, train, tmp_path, monkeypatch):
    made = train(lora())
    restated(made.folder, base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"names no base_model_name_or_path.*delta_of = the base") as error:
        resolve(made.folder)
    assert str(made.folder) in str(error.value)
    monkeypatch.setattr(model_table, "MODELS", {"mine": Entry("mine", folder=str(bases("llama")))})
    file = tmp_path / "models.toml"
    file.write_text(f'["adapter"]\nfolder = "{made.folder}"\ndelta_of = "mine"\n')
    model_table.extend(str(file))
    found = resolve("adapter")
    assert (found.tuned_from, found.pair_source) == ("mine", "adapter")
    assert_same(loaded_model.load(found), made.logits())


@pytest.mark.parametrize(("base", "revision", "name"), [
    ("huggyllama/llama-7b", None, "llama-7b"), ("huggyllama/llama-7b", "abc123", "llama-7b@abc123"),
    ("huggyllama/llama-7b", "main", "llama-7b"), ("llama-7b", None, "llama-7b"),
    ("gpt2", None, "gpt2-small"), ("gpt2-xl", None, "gpt2-xl"), ("openai-community/gpt2", None, "gpt2-small"),
    # Names of the table that the Hub gives to other models: these T5s are not the table's v1.1.
    ("t5-base", None, "google-t5/t5-base"), ("t5-small", "abc", "google-t5/t5-small@abc"),
    ("gpt2-small", None, "gpt2-small"), ("t5-xl", None, "t5-xl"), ("bert-base", None, "bert-base"),
    ("gpt2-small-alpaca", None, "gpt2-small-alpaca"),
    ("bert-base-uncased", None, "bert-base"), ("distilgpt2", None, "distilbert/distilgpt2"),
    ("someone/some-model", None, "someone/some-model"), ("someone/some-model", "v1", "someone/some-model@v1"),
])  # fmt: skip
def test_a_base_is_named_as_the_hub_names_it(tmp_path, base, revision, name):
    listed = {entry.hub_id: entry.name for entry in model_table.MODELS.values()}
    wanted = listed.get(name, name)  # a row of the table that another change adds
    assert adapter_config.base_of(tmp_path, "m", adapter_config.AdapterConfig("LORA", base, revision or "")) == wanted


@pytest.mark.parametrize(("base", "message"), [
    ("/nowhere/llama", r"its base, the folder /nowhere/llama that adapter_config\.json names, is not here"),
    ("./llama", r"its base, the folder \./llama"),
    ("no such model", "its base 'no such model'"),
    ("a/b/c", "its base 'a/b/c'"),
])  # fmt: skip
def test_a_base_that_is_not_found_says_how_to_name_it(train, base, message):
    made = train(lora())
    with pytest.raises(ValueError, match=message) as error:
        resolve(restated(made.folder, base_model_name_or_path=base))
    assert "Name it in a file of models (--models FILE)" in str(error.value)


def test_an_adapter_of_an_adapter_is_refused(train):
    first, second = train(lora()), train(lora(), name="second")
    restated(second.folder, base_model_name_or_path=str(first.folder))
    with pytest.raises(ValueError, match="is itself an adapter; merge that one first"):
        resolve(second.folder)


# --- beside a model, and not merged -----------------------------------------------------------------------------------


def test_an_adapter_beside_a_whole_model_is_merged_onto_it(bases, train):
    """As transformers does, whatever base the adapter names."""
    made = train(lora())
    for file in bases("llama").iterdir():
        shutil.copy(file, made.folder)
    restated(made.folder, base_model_name_or_path="someone/base")
    found = resolve(made.folder)
    assert (found.tuned_from, found.pair_source, found.base_folder) == ("someone/base", "adapter", "")
    assert found.revision.split("+")[0] == found.revision.split("+")[1]
    assert_same(load(made.folder), made.logits())


def test_a_configuration_that_was_left_beside_a_merged_model_is_refused(bases, train):
    made = train(lora())
    (made.folder / "adapter_model.safetensors").unlink()
    for file in bases("llama").iterdir():
        shutil.copy(file, made.folder)
    with pytest.raises(ValueError, match=r"remove adapter_config\.json if the adapter is merged"):
        load(made.folder)


@pytest.fixture
def unmerged(bases, train, tmp_path):
    """A checkpoint that was saved while its adapter was apart: all names are PEFT's."""

    def make(config):
        made = train(config)
        folder = shutil.copytree(bases("llama"), tmp_path / "unmerged")
        tensors = {key: w.contiguous() for key, w in made.wrapped.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return made, folder

    return make


@pytest.mark.parametrize("config", [
    lora(), lora(use_dora=True), lora(modules_to_save=["lm_head"]), lora(target_modules=["embed_tokens", "q_proj"]),
], ids=["lora", "dora", "a head", "embeddings"])  # fmt: skip
def test_a_checkpoint_that_was_not_merged_is_merged_where_its_scaling_is_known(unmerged, config):
    made, folder = unmerged(config)
    with pytest.raises(ValueError, match=r"saved before its adapter was merged \(.*merge_and_unload\(\) and save"):
        load(folder)
    shutil.copy(made.folder / "adapter_config.json", folder)
    assert_same(load(folder), made.logits())


def test_a_base_that_was_saved_without_its_adapter_is_refused(unmerged):
    """The adapter's weights are not there, and the base alone is not the model."""
    _, folder = unmerged(lora())
    tensors = load_file(folder / "model.safetensors")
    save_file({key: w for key, w in tensors.items() if ".lora_" not in key}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"saved before its adapter was merged \(model\.layers\.0\.self_attn\.q_proj"):
        load(folder)


def test_two_adapters_that_were_not_merged_are_refused_by_their_names(bases, train, tmp_path):
    made = train(lora())
    made.wrapped.add_adapter("second", lora())
    folder = shutil.copytree(bases("llama"), tmp_path / "two")
    tensors = {key: w.contiguous() for key, w in made.wrapped.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"it holds 2 adapters \(default, second\) that are not merged"):
        load(folder)


def test_names_that_peft_left_without_an_adapter_are_read(bases, tmp_path):
    folder = shutil.copytree(bases("llama"), tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    save_file({f"base_model.model.{key}": w for key, w in tensors.items()}, folder / "model.safetensors")
    found = load(folder).model.state_dict()
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


# --- what cannot be merged --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [
    peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
], ids=lambda config: config.peft_type.value)  # fmt: skip
def test_adapters_that_change_no_weights_are_refused_by_their_kind(train, config):
    with pytest.raises(
        ValueError, match=rf"its adapter \({config.peft_type.value}\) puts learned vectors before the text"
    ):
        load(train(config).folder)


def without(part):
    return lambda tensors: {key: w for key, w in tensors.items() if part not in key}


@pytest.mark.parametrize(("settings", "change", "message"), [
    ({"new_magic": True}, None, "sets new_magic, which this version of PEFT does not know"),
    ({"peft_type": "SUPERLORA"}, None, "adapters of the kind 'SUPERLORA' are unknown"),
    ({"peft_type": None}, None, "names no peft_type"),
    ({"layer_replication": [[0, 2], [1, 4]]}, None, "sets layer_replication, which changes the model"),
    ({"megatron_config": {"a": 1}}, None, "sets megatron_config, which changes the model"),
    ({"init_lora_weights": "pissa_niter_4"}, None, "is computed from random numbers, and differs each time"),
    ({"lora_alpha": "8"}, None, "lora_alpha of adapter_config.json is '8'; a number is wanted"),
    ({"target_modules": "(q_proj"}, None, r"target_modules of adapter_config\.json is no regular expression"),
    ({"target_modules": ["nosuch"]}, None, r"does not fit the base: .*nosuch.*; give the base that it was trained on"),
    ({}, without("layers.0.self_attn.q_proj.lora_B"), r"1 tensors that .* asks for are not in .*q_proj\.lora_B"),
    ({}, without("lora_"), "the adapter's file holds no tensors"),
    ({}, lambda t: t | {"base_model.model.score.weight": torch.ones(2, 48)},
     r"1 of its tensors have no place in it, the first is score\.weight"),
    ({}, lambda t: {key: w[:, :40] if "lora_A" in key else w for key, w in t.items()},
     r"lora_A\.weight has the shape \(4, 40\), the base wants \(4, 48\)"),
    ({}, lambda t: {key: w * float("nan") for key, w in t.items()}, r"lora_A\.weight of its adapter is not finite"),
    ({}, lambda t: {key: w.to(torch.int8) for key, w in t.items()}, "of its adapter is stored as I8, no real numbers"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused_by_what_does_not(train, settings, change, message):
    made = train(lora())
    restated(made.folder, **settings)
    if change:
        rewritten(made.folder, change)
    with pytest.raises(ValueError, match=message) as error:
        load(made.folder)
    assert "\n" not in str(error.value)


def test_settings_that_old_versions_wrote_and_do_not_matter_are_let_be(train):
    made = train(lora())
    restated(made.folder, merge_weights=False, enable_lora=None)
    assert_same(load(made.folder), made.logits())


def test_an_adapters_weights_must_be_there_and_whole(train):
    made = train(lora())
    file = made.folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is damaged"):
        resolve(made.folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"neither adapter_model.safetensors nor adapter_model.bin"):
        resolve(made.folder)


def test_a_pickled_adapter_is_merged_where_pickles_are_allowed(train):
    made = train(lora())
    file = made.folder / "adapter_model.safetensors"
    torch.save(load_file(file), made.folder / "adapter_model.bin")
    file.unlink()
    assert_same(load(made.folder, allow_pickle=True), made.logits())
    with pytest.raises(FileNotFoundError, match=r"are pickles only \(\*\.bin\).*--allow-pickle"):
        load(made.folder)
    before = resolve(made.folder, allow_pickle=True).revision
    torch.save({}, made.folder / "adapter_model.bin")
    assert resolve(made.folder, allow_pickle=True).revision != before


def test_without_peft_the_sentence_says_so(train, monkeypatch):
    import sys

    made = train(lora())
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="adapters are merged by PEFT, which is not installed: pip install peft"):
        load(made.folder)
