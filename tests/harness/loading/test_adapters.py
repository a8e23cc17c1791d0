"""Merging an adapter into its base gives the numbers of PEFT with the unmerged adapter."""

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
    """Returns a function that gives a folder of a family, built once."""
    root, folders = tmp_path_factory.mktemp("bases"), {}

    def base(family):
        if family not in folders:
            folders[family] = tiny.build(family, root / f"base-{family}", TEXT, seed=0)
        return folders[family]

    return base


@dataclass
class SavedAdapter:
    """An adapter that PEFT saved, and PEFT's model with the unmerged adapter."""

    folder: Any
    wrapped: Any

    def logits(self):
        return logits_of(self.wrapped.get_base_model())


def logits_of(model):
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            return model(input_ids=IDS, decoder_input_ids=IDS.flip(1)).logits
        output = model(input_ids=IDS)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


@pytest.fixture
def train(bases, tmp_path):
    """Returns a function that saves an adapter with random weights; `tokens` are added to the base's tokenizer."""

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
        return SavedAdapter(folder, wrapped)

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


def assert_same(loaded, expected):
    logits = logits_of(loaded.model)
    assert float((logits - expected).abs().max()) < 2e-5 * float(expected.abs().max())


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
def test_a_merged_adapter_equals_the_unmerged_one_in_peft(bases, train, family, config):
    adapter = train(config, family)
    assert_same(load(adapter.folder), adapter.logits())
    plain = logits_of(load(bases(family)).model)
    assert float((plain - adapter.logits()).abs().max()) > 0.1


def test_adapters_of_seq2seq_models_are_merged(train):
    adapter = train(
        peft.LoraConfig(r=4, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM"), "t5", "AutoModelForSeq2SeqLM"
    )
    assert_same(load(adapter.folder), adapter.logits())


@pytest.mark.parametrize("auto", ["AutoModelForMaskedLM", "AutoModel"])
def test_adapters_of_encoders_are_merged_whether_trained_with_or_without_a_head(train, auto):
    adapter = train(peft.LoraConfig(r=4, target_modules=["query", "value"]), "bert", auto)
    assert_same(load(adapter.folder), logits_of(adapter.wrapped.get_base_model().base_model))


def test_adapters_in_the_experts_of_a_mixture_are_merged(bases, train, tmp_path, monkeypatch):
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
    adapter = train(config)
    monkeypatch.undo()
    assert_same(load(restated(adapter.folder, base_model_name_or_path=str(folder))), adapter.logits())


def test_an_adapter_is_merged_in_float32_and_rounded_once(bases, train):
    adapter = train(lora())
    weight = load(adapter.folder, dtype="bfloat16").model.state_dict()["model.layers.0.self_attn.q_proj.weight"]
    base = load_file(bases("llama") / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    stored = load_file(adapter.folder / "adapter_model.safetensors")
    a, b = (stored[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight"] for part in "AB")
    exact = base.bfloat16().float() + 2 * (b @ a)  # alpha 8 over rank 4
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, exact.bfloat16())


@pytest.mark.parametrize(("config", "save"), [
    (lora(modules_to_save=["lm_head", "embed_tokens"]), {}), (lora(), {"save_embedding_layers": True}),
])  # fmt: skip
def test_tokens_added_in_tuning_keep_their_embeddings(bases, train, config, save):
    adapter = train(config, tokens=["<|user|>", "<|end|>"], **save)
    loaded = load(adapter.folder)
    assert_same(loaded, adapter.logits())
    assert loaded.model.get_input_embeddings().num_embeddings == resolve(bases("llama")).vocabulary + 2
    assert "<|user|>" in loaded.tokenizer.get_vocab()


def test_layers_missing_from_the_file_keep_the_weights_of_the_base(bases, train):
    """PEFT initialises B with zeros."""
    adapter = train(lora())
    rewritten(adapter.folder, lambda tensors: {key: w for key, w in tensors.items() if "v_proj" not in key})
    state_dict = load(adapter.folder).model.state_dict()
    base = load_file(bases("llama") / "model.safetensors")
    for key, weight in base.items():
        assert torch.equal(state_dict[key], weight) == ("q_proj" not in key), key


# --- what a run records -----------------------------------------------------------------------------------------------


def test_an_adapter_is_recorded_with_the_properties_of_its_base_and_both_revisions(bases, train):
    adapter = train(lora())
    checkpoint, base = resolve(adapter.folder), resolve(bases("llama"))
    assert (checkpoint.name, checkpoint.tuned_from, checkpoint.pair_source, checkpoint.adapter) == (
        "adapter",
        base.name,
        "adapter",
        "LORA",
    )
    assert checkpoint.revision.endswith(f"+{base.revision}")
    assert checkpoint.revision.startswith("files-")
    for name in ("n_parameters", "n_layers", "hidden_size", "vocabulary", "family", "context_size", "n_heads"):
        assert getattr(checkpoint, name) == getattr(base, name), name
    assert checkpoint.architecture == base.architecture  # the untrained control is the base's
    assert [checkpoint.tuned_from for checkpoint in pairs.pair([base, checkpoint])] == ["", base.name]


def test_the_revision_changes_with_the_adapter_and_with_its_base(bases, train, tmp_path):
    adapter = train(lora())
    before = resolve(adapter.folder).revision
    rewritten(adapter.folder, lambda tensors: {key: 2 * w for key, w in tensors.items()})
    after = resolve(adapter.folder).revision
    assert before != after
    other = tiny.build("llama", tmp_path / "other", TEXT, seed=1)
    assert resolve(restated(adapter.folder, base_model_name_or_path=str(other))).revision != after


def test_an_adapter_has_the_untrained_control_of_its_base(bases, train):
    adapter = train(lora())
    weights, base_weights = (
        load(folder, untrained_seed=5).model.state_dict() for folder in (adapter.folder, bases("llama"))
    )
    assert all(torch.equal(weights[key], base_weights[key]) for key in base_weights)


def test_an_adapters_own_tokenizer_is_used_if_there_is_one(bases, train):
    adapter = train(lora())
    assert resolve(adapter.folder).tokenizer_folder == str(bases("llama"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bases("llama") / name, adapter.folder)
    (adapter.folder / "chat_template.jinja").write_text("{{ messages }}")
    checkpoint = resolve(adapter.folder)
    assert checkpoint.tokenizer_folder == str(adapter.folder)
    assert checkpoint.architecture == resolve(bases("llama")).architecture
    assert checkpoints.has_chat_template(checkpoint)
    assert_same(load(adapter.folder), adapter.logits())


def test_adapters_are_loaded_with_transformers_even_if_vllm_is_requested(train):
    checkpoint = resolve(train(lora()).folder)
    chosen, why = backends.choose(checkpoint, "vllm", "cuda", "bfloat16", states=False)
    assert (chosen, why) == ("transformers", "only transformers merges its adapter")
    with pytest.raises(ValueError, match=r"vLLM loads no .*adapter"):
        backends.load("vllm", checkpoint, "cuda")


# --- the base --------------------------------------------------------------------------------------------------------


def test_a_relative_base_is_searched_in_the_adapters_folder_then_in_the_working_folder(bases, train, monkeypatch,
                                                                                         tmp_path):  # fmt: skip
    adapter = train(lora())
    shutil.copytree(bases("llama"), tmp_path / "the-base")
    restated(adapter.folder, base_model_name_or_path="../the-base")
    assert resolve(adapter.folder).tuned_from == "the-base"
    restated(adapter.folder, base_model_name_or_path="the-base")
    with pytest.raises(ValueError, match=r"the base 'the-base'.* is not a folder.*delta_of = a name"):
        resolve(adapter.folder)
    monkeypatch.chdir(tmp_path)
    assert resolve(adapter.folder).tuned_from == "the-base"


def test_a_file_of_models_names_the_base_of_an_adapter(bases, train, tmp_path, monkeypatch):
    adapter = train(lora())
    restated(adapter.folder, base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"has no base_model_name_or_path.*delta_of = a name") as error:
        resolve(adapter.folder)
    assert str(adapter.folder) in str(error.value)
    monkeypatch.setattr(model_table, "MODELS", {"mine": Entry("mine", folder=str(bases("llama")))})
    file = tmp_path / "models.toml"
    file.write_text(f'["adapter"]\nfolder = "{adapter.folder}"\ndelta_of = "mine"\n')
    model_table.extend(str(file))
    checkpoint = resolve("adapter")
    assert (checkpoint.tuned_from, checkpoint.pair_source) == ("mine", "adapter")
    assert_same(loaded_model.load(checkpoint), adapter.logits())


@pytest.mark.parametrize(("base", "revision", "name"), [
    ("huggyllama/llama-7b", None, "llama-7b"), ("huggyllama/llama-7b", "abc123", "llama-7b@abc123"),
    ("huggyllama/llama-7b", "main", "llama-7b"), ("llama-7b", None, "llama-7b"),
    ("gpt2", None, "gpt2-small"), ("gpt2-xl", None, "gpt2-xl"), ("openai-community/gpt2", None, "gpt2-small"),
    # Names that mean other models on the Hub than in the table: these T5s are not the table's v1.1.
    ("t5-base", None, "google-t5/t5-base"), ("t5-small", "abc", "google-t5/t5-small@abc"),
    ("gpt2-small", None, "gpt2-small"), ("t5-xl", None, "t5-xl"), ("bert-base", None, "bert-base"),
    ("gpt2-small-alpaca", None, "gpt2-small-alpaca"),
    ("bert-base-uncased", None, "bert-base"), ("distilgpt2", None, "distilbert/distilgpt2"),
    ("someone/some-model", None, "someone/some-model"), ("someone/some-model", "v1", "someone/some-model@v1"),
])  # fmt: skip
def test_a_base_is_identified_by_its_hub_id(tmp_path, base, revision, name):
    listed = {entry.hub_id: entry.name for entry in model_table.MODELS.values()}
    wanted = listed.get(name, name)  # in case the table has a row for it
    assert adapter_config.base_of(tmp_path, "m", adapter_config.AdapterConfig("LORA", base, revision or "")) == wanted


@pytest.mark.parametrize(("base", "message"), [
    ("/nowhere/llama", r"the base folder /nowhere/llama named in adapter_config\.json does not exist"),
    ("./llama", r"the base folder \./llama"),
    ("no such model", "the base 'no such model'"),
    ("a/b/c", "the base 'a/b/c'"),
])  # fmt: skip
def test_the_error_for_a_missing_base_states_how_to_name_it(train, base, message):
    adapter = train(lora())
    with pytest.raises(ValueError, match=message) as error:
        resolve(restated(adapter.folder, base_model_name_or_path=base))
    assert "Name the base in a file of models (--models FILE)" in str(error.value)


def test_an_adapter_of_an_adapter_is_refused(train):
    first, second = train(lora()), train(lora(), name="second")
    restated(second.folder, base_model_name_or_path=str(first.folder))
    with pytest.raises(ValueError, match="is itself an adapter; merge that one first"):
        resolve(second.folder)


# --- adapters beside a whole model, and unmerged checkpoints ----------------------------------------------------------


def test_an_adapter_beside_a_whole_model_is_merged_into_it(bases, train):
    """As in transformers, whichever base the adapter names."""
    adapter = train(lora())
    for file in bases("llama").iterdir():
        shutil.copy(file, adapter.folder)
    restated(adapter.folder, base_model_name_or_path="someone/base")
    checkpoint = resolve(adapter.folder)
    assert (checkpoint.tuned_from, checkpoint.pair_source, checkpoint.base_folder) == ("someone/base", "adapter", "")
    assert checkpoint.revision.split("+")[0] == checkpoint.revision.split("+")[1]
    assert_same(load(adapter.folder), adapter.logits())


def test_an_adapter_configuration_beside_a_merged_model_is_refused(bases, train):
    adapter = train(lora())
    (adapter.folder / "adapter_model.safetensors").unlink()
    for file in bases("llama").iterdir():
        shutil.copy(file, adapter.folder)
    with pytest.raises(ValueError, match=r"delete adapter_config\.json if the adapter is already merged"):
        load(adapter.folder)


@pytest.fixture
def unmerged(bases, train, tmp_path):
    """Returns a function that saves a checkpoint with its unmerged adapter, under PEFT's names."""

    def make(config):
        adapter = train(config)
        folder = shutil.copytree(bases("llama"), tmp_path / "unmerged")
        tensors = {key: w.contiguous() for key, w in adapter.wrapped.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return adapter, folder

    return make


@pytest.mark.parametrize("config", [
    lora(), lora(use_dora=True), lora(modules_to_save=["lm_head"]), lora(target_modules=["embed_tokens", "q_proj"]),
], ids=["lora", "dora", "a head", "embeddings"])  # fmt: skip
def test_an_unmerged_checkpoint_is_merged_if_its_scaling_is_known(unmerged, config):
    adapter, folder = unmerged(config)
    with pytest.raises(ValueError, match=r"saved before its adapter was merged \(.*merge_and_unload\(\) and save"):
        load(folder)
    shutil.copy(adapter.folder / "adapter_config.json", folder)
    assert_same(load(folder), adapter.logits())


def test_an_unmerged_checkpoint_without_its_adapter_is_refused(unmerged):
    """The base alone is not the model."""
    _, folder = unmerged(lora())
    tensors = load_file(folder / "model.safetensors")
    save_file({key: w for key, w in tensors.items() if ".lora_" not in key}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"saved before its adapter was merged \(model\.layers\.0\.self_attn\.q_proj"):
        load(folder)


def test_two_unmerged_adapters_are_refused_with_their_names(bases, train, tmp_path):
    adapter = train(lora())
    adapter.wrapped.add_adapter("second", lora())
    folder = shutil.copytree(bases("llama"), tmp_path / "two")
    tensors = {key: w.contiguous() for key, w in adapter.wrapped.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"holds 2 unmerged adapters \(default, second\)"):
        load(folder)


def test_names_that_peft_left_without_an_adapter_are_read(bases, tmp_path):
    folder = shutil.copytree(bases("llama"), tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    save_file({f"base_model.model.{key}": w for key, w in tensors.items()}, folder / "model.safetensors")
    state_dict = load(folder).model.state_dict()
    assert all(torch.equal(state_dict[key], tensors[key]) for key in tensors)


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
    ({"peft_type": "SUPERLORA"}, None, "does not know adapters of the kind 'SUPERLORA'"),
    ({"peft_type": None}, None, "has no peft_type"),
    ({"layer_replication": [[0, 2], [1, 4]]}, None, "sets layer_replication, which changes the model"),
    ({"megatron_config": {"a": 1}}, None, "sets megatron_config, which changes the model"),
    ({"init_lora_weights": "pissa_niter_4"}, None, "by a randomised computation that differs each time"),
    ({"lora_alpha": "8"}, None, "lora_alpha of adapter_config.json is '8'; it must be a number"),
    ({"target_modules": "(q_proj"}, None, r"target_modules of adapter_config\.json is not a valid regular expression"),
    ({"target_modules": ["nosuch"]}, None, r"does not fit the base: .*nosuch.*; give the base that it was trained on"),
    ({}, without("layers.0.self_attn.q_proj.lora_B"), r"1 tensors that .* requires are missing in .*q_proj\.lora_B"),
    ({}, without("lora_"), "the adapter's file holds no tensors"),
    ({}, lambda t: t | {"base_model.model.score.weight": torch.ones(2, 48)},
     r"1 of its tensors have no place in it, the first is score\.weight"),
    ({}, lambda t: {key: w[:, :40] if "lora_A" in key else w for key, w in t.items()},
     r"lora_A\.weight has the shape \(4, 40\), the base needs \(4, 48\)"),
    ({}, lambda t: {key: w * float("nan") for key, w in t.items()}, r"lora_A\.weight of its adapter is not finite"),
    ({}, lambda t: {key: w.to(torch.int8) for key, w in t.items()}, "is stored as I8, not as floating-point numbers"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused_by_what_does_not(train, settings, change, message):
    adapter = train(lora())
    restated(adapter.folder, **settings)
    if change:
        rewritten(adapter.folder, change)
    with pytest.raises(ValueError, match=message) as error:
        load(adapter.folder)
    assert "\n" not in str(error.value)


def test_settings_that_old_versions_wrote_and_do_not_matter_are_let_be(train):
    adapter = train(lora())
    restated(adapter.folder, merge_weights=False, enable_lora=None)
    assert_same(load(adapter.folder), adapter.logits())


def test_an_adapters_weights_must_be_there_and_whole(train):
    adapter = train(lora())
    file = adapter.folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is damaged"):
        resolve(adapter.folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"neither adapter_model.safetensors nor adapter_model.bin"):
        resolve(adapter.folder)


def test_a_pickled_adapter_is_merged_where_pickles_are_allowed(train):
    adapter = train(lora())
    file = adapter.folder / "adapter_model.safetensors"
    torch.save(load_file(file), adapter.folder / "adapter_model.bin")
    file.unlink()
    assert_same(load(adapter.folder, allow_pickle=True), adapter.logits())
    with pytest.raises(FileNotFoundError, match=r"are pickles only \(\*\.bin\).*--allow-pickle"):
        load(adapter.folder)
    before = resolve(adapter.folder, allow_pickle=True).revision
    torch.save({}, adapter.folder / "adapter_model.bin")
    assert resolve(adapter.folder, allow_pickle=True).revision != before


def test_without_peft_the_sentence_says_so(train, monkeypatch):
    import sys

    adapter = train(lora())
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="merging adapters needs PEFT, which is not installed: pip install peft"):
        load(adapter.folder)
