"""A revision covers every file that affects results, and only the planned checkpoint is loaded."""

import json
import os
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from harness.checkpoints import checkpoints, fingerprints
from harness.checkpoints.fingerprints import CheckpointChangedError, revision_of
from harness.extraction import backends
from harness.models import tiny

TEXT = ["the old bee watched the hive"]


@pytest.fixture
def folder(tmp_path):
    return tiny.build("llama", tmp_path / "m", TEXT, seed=0)


def change_weights(folder, factor=1.5):
    """Change the numbers but neither the names nor the file size."""
    file = folder / "model.safetensors"
    save_file({key: weight * factor for key, weight in load_file(file).items()}, file, {"format": "pt"})


def sharded_below(folder):
    """Move the weights into two shards in a subfolder."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "shards").mkdir()
    places = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        save_file({name: tensors[name] for name in names}, folder / f"shards/{number}.safetensors", {"format": "pt"})
        places |= dict.fromkeys(names, f"shards/{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.mark.parametrize("name", [
    "chat_template.jinja", "merges.txt", "vocab.txt", "tokenizer.model", "qwen.tiktoken", "source.spm", "bpe.codes",
    "prophetnet.tokenizer", "generation_config.json", "tokenizer_config.json", "adapter_config.json",
])  # fmt: skip
def test_revision_changes_with_every_file_that_affects_results(folder, name):
    (folder / name).write_text("{}")
    before = revision_of(folder)
    (folder / name).write_text('{"a": 1}')
    assert revision_of(folder) != before


@pytest.mark.parametrize("name", ["trainer_state.json", "all_results.json", "optimizer.pt", "README.md", "log.csv"])
def test_revision_ignores_trainer_records(folder, name):
    before = revision_of(folder)
    (folder / name).write_text("{}")
    assert revision_of(folder) == before


def test_revision_changes_with_a_shard_in_a_subfolder(folder):
    sharded_below(folder)
    before, fingerprint = revision_of(folder), fingerprints.files_fingerprint(folder)
    shard = folder / "shards/1.safetensors"
    save_file({key: weight + 1 for key, weight in load_file(shard).items()}, shard, {"format": "pt"})
    assert revision_of(folder) != before
    assert fingerprints.files_fingerprint(folder) != fingerprint


def test_a_checkpoint_with_new_timestamps_but_same_content_is_loaded(folder):
    planned = checkpoints.resolve(str(folder))
    os.utime(folder / "model.safetensors")
    assert fingerprints.files_fingerprint(folder) != planned.fingerprint
    checkpoints.require_unchanged(planned)
    backends.load("transformers", planned, "cpu")


@pytest.mark.parametrize("change", [
    change_weights, lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
    lambda folder: (folder / "config.json").write_text((folder / "config.json").read_text() + " "),
    shutil.rmtree,
], ids=["weights", "template", "config", "gone"])  # fmt: skip
def test_a_checkpoint_that_changed_after_planning_is_not_loaded(folder, change):
    planned = checkpoints.resolve(str(folder))
    change(folder)
    with pytest.raises(CheckpointChangedError, match=r"have changed since the run was planned|cannot be read any more"):
        backends.load("transformers", planned, "cpu")


def test_a_checkpoint_that_changes_during_loading_is_not_used(folder, monkeypatch):
    planned, load = checkpoints.resolve(str(folder)), backends.load_transformers

    def slow(*arguments, **options):
        made = load(*arguments, **options)
        change_weights(folder)
        return made

    monkeypatch.setattr(backends, "load_transformers", slow)
    with pytest.raises(CheckpointChangedError, match="have changed since the run was planned"):
        backends.load("transformers", planned, "cpu")


def test_a_changed_base_of_an_adapter_is_detected(folder, tmp_path):
    import peft
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(model, lora).save_pretrained(tmp_path / "adapter")
    planned = checkpoints.resolve(str(tmp_path / "adapter"))
    backends.load("transformers", planned, "cpu")
    change_weights(folder)
    with pytest.raises(CheckpointChangedError, match=f"the files in {folder} have changed"):
        backends.load("transformers", planned, "cpu")


def test_architecture_hash_depends_on_tokenizer_and_special_ids(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": None}))
    config = json.loads((other / "config.json").read_text())
    plain = checkpoints.resolve(str(folder))
    assert plain.architecture == checkpoints.resolve(str(shutil.copytree(folder, tmp_path / "same"))).architecture
    if config.get("bos_token_id") is not None:
        config["bos_token_id"] = None
        (other / "config.json").write_text(json.dumps(config))
    assert checkpoints.resolve(str(other)).architecture != plain.architecture
