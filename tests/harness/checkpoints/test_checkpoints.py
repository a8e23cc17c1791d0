"""Checkpoints are resolved from names and folders, named in tables, and paired."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.checkpoints import checkpoints, headers, pairs
from harness.checkpoints.safetensors_file import header_of
from harness.models import tiny

TEXT = ("The old bee watched the hive.",)


@pytest.fixture
def folder(tmp_path):
    return tiny.build("gpt2", tmp_path / "tiny", TEXT, seed=0)


def test_size_and_shape_are_read_from_the_checkpoint(folder):
    from transformers import AutoModelForCausalLM

    checkpoint = checkpoints.resolve(str(folder))
    # Tied weights are stored once.
    assert checkpoint.n_parameters == AutoModelForCausalLM.from_pretrained(folder).num_parameters()
    assert (checkpoint.family, checkpoint.n_layers, checkpoint.hidden_size, checkpoint.context_size) == (
        "gpt2",
        4,
        48,
        256,
    )


def test_revision_depends_on_the_weights_but_not_on_the_folder_name(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    one, other = checkpoints.resolve(str(folder)), checkpoints.resolve(str(copy))
    assert one.revision == other.revision
    weights = copy / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    assert checkpoints.resolve(str(copy)).revision != one.revision


def test_error_for_an_unknown_name_lists_similar_names():
    with pytest.raises(ValueError, match="flan-t5-small"):
        checkpoints.resolve("flan-t5-smal")


@pytest.mark.parametrize(("broken", "message"), [
    (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    (lambda f: (f / "config.json").unlink(), r"no config\.json"),
    (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
    (lambda f: (f / "config.json").write_text("{"), "not JSON"),
    (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-10]), "damaged"),
    (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:100]), "damaged"),
    (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged"),
])  # fmt: skip
def test_a_broken_folder_is_refused_before_loading(folder, broken, message):
    broken(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        checkpoints.resolve(str(folder))


@pytest.mark.parametrize(("file", "message"), [
    ("model-Q4_K_M.gguf", "GGUF"), ("params.json", "publisher's own form"), ("__0_0.distcp", "distributed checkpoint"),
    ("notes.txt", "save_pretrained wrote"),
])  # fmt: skip
def test_error_for_a_folder_in_another_format_names_the_format(tmp_path, file, message):
    (tmp_path / file).write_bytes(b"0")
    with pytest.raises(FileNotFoundError, match=f"no config.json in .*{message}"):
        checkpoints.resolve(str(tmp_path))


def test_error_for_a_folder_of_a_training_names_its_checkpoints(folder, tmp_path):
    for step in ("step-50", "step-200"):
        shutil.copytree(folder, tmp_path / "training" / step)
    with pytest.raises(FileNotFoundError, match=r"the checkpoints step-200, step-50: pass one of them, or .* watch"):
        checkpoints.resolve(str(tmp_path / "training"))


@pytest.mark.parametrize("family", [["llama"], {"a": 1}, 3])
def test_a_model_type_that_is_not_a_string_is_refused(folder, family):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": family}))
    with pytest.raises(ValueError, match="has no model_type"):
        checkpoints.resolve(str(folder))


def test_an_adapter_that_names_itself_as_its_base_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "."}')
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="is itself an adapter"):
        checkpoints.resolve(str(tmp_path))


def test_pickled_weights_are_refused_with_advice(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="convert them to safetensors"):
        checkpoints.resolve(str(folder))


def test_a_missing_shard_is_named(folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match="model-00001-of-00002"):
        checkpoints.resolve(str(folder))


def test_a_training_step_folder_is_named_after_its_parent(tmp_path):
    assert checkpoints.resolve(str(tiny.build("gpt2", tmp_path / "m" / "step-0600", TEXT, 0))).name == "m@step-0600"


def test_pairing_by_name_requires_a_base_of_the_same_shape(tmp_path):
    base, tuned, other = (
        checkpoints.resolve(str(tiny.build(family, tmp_path / name, TEXT, 0)))
        for family, name in (("llama", "m"), ("llama", "m-instruct"), ("gpt2", "m-chat"))
    )
    paired = {checkpoint.name: checkpoint for checkpoint in pairs.pair([base, tuned, other])}
    assert (paired["m-instruct"].tuned_from, paired["m-instruct"].pair_source) == ("m", "name")
    assert paired["m-chat"].tuned_from == paired["m"].tuned_from == ""
    assert pairs.pair([tuned])[0].tuned_from == ""


def test_the_base_is_read_from_the_model_card(folder):
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: org/base\n---\n# A model\n")
    checkpoint = checkpoints.resolve(str(folder))
    assert (checkpoint.tuned_from, checkpoint.pair_source) == ("org/base", "model card")
    (folder / "README.md").write_text("---\nbase_model:\n- org/base\n- org/other\n---\n# base_model: wrong\n")
    assert checkpoints.resolve(str(folder)).tuned_from == "org/base"
    (folder / "README.md").write_text("---\nlicense: mit\n---\nbase_model: wrong\n")
    assert checkpoints.resolve(str(folder)).tuned_from == ""


def _named(name, tuned_from="", source=""):
    return checkpoints.Checkpoint(name, "", "", "llama", 1, 2, 8, 9, 16, False, "", tuned_from, source)


@pytest.mark.parametrize(("base", "tuned"), [
    ("Llama-2-7b-hf", "Llama-2-7b-chat-hf"), ("Mistral-7B-v0.2", "Mistral-7B-Instruct-v0.2"),
    ("gemma-3-1b-pt", "gemma-3-1b-it"), ("Qwen3-8B-Base", "Qwen3-8B-Instruct"), ("m", "m-instruct@step-0600"),
])  # fmt: skip
def test_tuned_versions_are_recognised_by_name(base, tuned):
    paired = {checkpoint.name: checkpoint for checkpoint in pairs.pair([_named(base), _named(tuned)])}
    assert (paired[tuned].tuned_from, paired[tuned].pair_source) == (base, "name")
    assert paired[base].tuned_from == ""


def test_a_base_named_by_hub_id_in_a_model_card_is_found_among_folders_and_table_names():
    for base, card in (("base", "org/base"), ("gpt2-small", "openai-community/gpt2"), ("org/base", "org/base")):
        paired = pairs.pair([_named(base), _named("other", card, "model card")])[1]
        assert (paired.tuned_from, paired.pair_source) == (base, "model card")


def test_pairing_falls_back_to_the_name_if_the_stated_base_is_not_in_the_run():
    assert pairs.pair([_named("m"), _named("m-chat", "org/elsewhere", "model card")])[1].tuned_from == "m"


def test_a_model_is_paired_with_the_nearest_earlier_stage_in_the_run():
    instruct = _named("olmo-2-7b-instruct", "olmo-2-7b-dpo", "table")
    base, sft = _named("olmo-2-7b"), _named("olmo-2-7b-sft", "olmo-2-7b", "table")
    paired = {model.name: (model.tuned_from, model.pair_source) for model in pairs.pair([base, instruct])}
    assert paired["olmo-2-7b-instruct"] == ("olmo-2-7b", "table")
    paired = {model.name: (model.tuned_from, model.pair_source) for model in pairs.pair([base, sft, instruct])}
    assert paired["olmo-2-7b-instruct"] == ("olmo-2-7b-sft", "table")
    assert paired["olmo-2-7b-sft"] == ("olmo-2-7b", "table")
    assert paired["olmo-2-7b"] == ("", "")


def test_the_checkpoint_from_which_a_training_started_is_found_in_the_run_also_by_its_hub_id():
    flan, parent = _named("flan-t5-xl", "t5-xl", "table"), _named("t5-xl")
    for adapted in (_named("t5-xl-lm-adapt"), _named("google/t5-xl-lm-adapt")):
        found, _, start = pairs.pair([flan, parent, adapted])
        assert (found.tuned_from, found.trained_from, found.stage) == ("t5-xl", adapted.name, "SFT")
        assert (start.tuned_from, start.trained_from, start.stage) == ("", "t5-xl", "LM-adapted")
    (alone,) = pairs.pair([_named("mine")])
    assert (alone.trained_from, alone.stage) == ("", "")


def test_a_model_card_that_names_a_table_stage_pairs_with_its_earlier_stages():
    mine = _named("mine", "allenai/OLMo-2-1124-7B-DPO", "model card")
    assert pairs.pair([_named("allenai/OLMo-2-1124-7B"), mine])[1].tuned_from == "allenai/OLMo-2-1124-7B"


def test_flan_t5_is_paired_with_the_papers_base_or_else_with_the_lm_adapted_t5():
    flan = _named("flan-t5-base", "t5-base", "table")
    adapted = _named("t5-base-lm-adapt")
    assert pairs.pair([_named("t5-base"), adapted, flan])[2].tuned_from == "t5-base"
    assert pairs.pair([adapted, flan])[1].tuned_from == "t5-base-lm-adapt"
    assert pairs.pair([_named("t5-base"), adapted])[1].tuned_from == ""  # LM adaptation is not tuning


def test_a_pull_request_counts_as_the_model_but_a_training_step_does_not():
    flan = _named("flan-t5-base", "t5-base", "table")
    assert pairs.pair([_named("t5-base@refs/pr/2"), flan])[1].tuned_from == "t5-base@refs/pr/2"
    vicuna = _named("vicuna-7b@refs/pr/9", "llama-7b", "table")
    assert pairs.pair([_named("llama-7b"), vicuna])[1].tuned_from == "llama-7b"
    assert pairs.pair([_named("t5-base@step1000"), flan])[1].tuned_from == "t5-base"  # the named base is not in the run
    sft, mid = _named("smollm3-3b-sft"), _named("smollm3-3b-mid", "smollm3-3b-base", "table")  # same repository
    final = _named("smollm3-3b", "smollm3-3b-apo", "table")
    assert pairs.pair([mid, final])[1].tuned_from == "smollm3-3b-mid"
    assert pairs.pair([mid, sft, final])[2].tuned_from == "smollm3-3b-sft"


def test_masks_in_old_checkpoints_are_not_counted_as_parameters(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    tensors = {
        "h.0.attn.bias": np.ones((1, 1, 8, 8)),
        "h.0.attn.c_attn.bias": np.ones(4),
        "wte.weight": np.ones((5, 2)),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert headers.count([header_of(tmp_path / "model.safetensors", "m")], {}) == 14


def test_error_for_an_unreachable_model_says_what_to_do(monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(FileNotFoundError, match="copy the model's folder here"):
        checkpoints.resolve("gpt2-small")


def test_a_table_model_is_found_in_the_hub_cache_by_its_commit(folder, monkeypatch):
    import huggingface_hub

    snapshot = folder.rename(folder.parent / "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    checkpoint = checkpoints.resolve("gpt2-small-alpaca")
    assert (checkpoint.name, checkpoint.revision) == ("gpt2-small-alpaca", snapshot.name)
    assert (checkpoint.tuned_from, checkpoint.pair_source) == ("gpt2-small", "table")


@pytest.mark.parametrize(("given", "names"), [
    (("exp1/final", "exp2/final"), ("exp1-final", "exp2-final")),
    (("exp1/final", "exp1/best"), ("final", "best")),
    (("a/run/final", "b/run/final"), ("a-run-final", "b-run-final")),
    (("exp1/step-100", "exp1/step-200"), ("exp1@step-100", "exp1@step-200")),
    (("a/m/step-1", "b/m/step-1"), ("a-m@step-1", "b-m@step-1")),
    (("exp1/final", "exp1/../exp1/final"), ("final", "final")),
    (("mine/gpt2-xl", "gpt2-xl"), ("mine-gpt2-xl", "gpt2-xl")),
    (("exp1/final", "exp2/final", "exp1-final"), (None, "exp2-final", None)),
])  # fmt: skip
def test_folders_of_the_same_name_are_distinguished_by_their_parents(given, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in given:
        if "/" in name or name.startswith("exp"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
    table_names = checkpoints.names_of(given)
    for name, expected in zip(given, names, strict=True):
        assert table_names[name] == (expected or table_names[name])
    folders = {str((tmp_path / name).resolve()) for name in given}
    assert len(set(table_names.values())) == len(folders)


def test_a_possible_hub_id_close_to_an_existing_folder_is_a_mistyped_folder(tmp_path, monkeypatch):
    tiny.build("gpt2", tmp_path / "runs" / "final-7b", ["the cat sat"], 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        checkpoints.UnknownModelError, match=r"'runs/finl-7b' is neither .* nearest names are runs/final"
    ):
        checkpoints.require_known("runs/finl-7b")
    checkpoints.require_known("google/gemma-3-1b-pt")
    assert Path(checkpoints.resolve("runs/final-7b").folder).is_absolute()


@pytest.mark.parametrize(("given", "name"), [
    ("gpt2", "gpt2-small"), ("gpt2@refs/pr/2", "gpt2-small@refs/pr/2"), ("bert-base-uncased", "bert-base"),
    ("albert-base-v2", "albert/albert-base-v2"), ("gpt2-xl", "gpt2-xl"),
    ("bert-base-chinese", "google-bert/bert-base-chinese"), ("xlm-roberta-base", "FacebookAI/xlm-roberta-base"),
    ("t5-small", "t5-small"),
    ("openai-community/gpt2", "openai-community/gpt2"),
])  # fmt: skip
def test_ids_without_owner_are_the_hub_models_that_they_were(given, name):
    checkpoints.require_known(given)
    assert checkpoints.names_of([given]) == {given: name}


@pytest.mark.parametrize("given", ["gpt2-smal", "bert-base-uncasd", "gpt3"])
def test_mistyped_ids_without_owner_are_refused(given):
    with pytest.raises(checkpoints.UnknownModelError, match="nearest names"):
        checkpoints.require_known(given)
