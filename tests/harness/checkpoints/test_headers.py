"""The weight files are those that transformers would load, and an index must agree with them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.checkpoints import checkpoints, headers, weights
from harness.models import tiny

TEXT = ["The old bee watched the hive."]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny.build("llama", tmp_path_factory.mktemp("models") / "whole", TEXT, seed=0)


def write_index(folder, weight_map, name=INDEX):
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def sharded(whole, tmp_path):
    """Return the same model in two shards."""
    folder = shutil.copytree(whole, tmp_path / "sharded")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, folder / file, {"format": "pt"})
    write_index(folder, {key: file for file, keys in parts.items() for key in keys})
    return folder


def changed_map(folder, change):
    write_index(folder, change(json.loads((folder / INDEX).read_text())["weight_map"]))


def loaded_by_transformers(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def assert_as_transformers(folder):
    theirs = loaded_by_transformers(folder)
    ours = {key: tensor[...] for key, tensor in weights.read(folder, "m").items()}
    assert ours
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    return ours


# --- which files ------------------------------------------------------------------------------------------------------


def test_shards_load_as_in_transformers(whole, sharded):
    assert assert_as_transformers(sharded).keys() == load_file(whole / "model.safetensors").keys()
    assert checkpoints.resolve(str(sharded)).n_parameters == checkpoints.resolve(str(whole)).n_parameters


def test_a_whole_file_takes_precedence_over_an_index_and_its_shards(whole, sharded):
    """As in transformers; here index and shards agree with each other but come from another save."""
    new = {key: tensor + 1 for key, tensor in load_file(whole / "model.safetensors").items()}
    save_file(new, sharded / "model.safetensors", {"format": "pt"})
    ours = assert_as_transformers(sharded)
    assert torch.equal(ours["model.norm.weight"], new["model.norm.weight"])


def test_revision_ignores_an_index_and_shards_that_are_not_loaded(whole, sharded, tmp_path):
    both = shutil.copytree(sharded, tmp_path / "both")
    shutil.copy(whole / "model.safetensors", both)
    assert checkpoints.resolve(str(both)).revision == checkpoints.resolve(str(whole)).revision
    assert checkpoints.resolve(str(sharded)).revision != checkpoints.resolve(str(whole)).revision


def test_shards_missing_from_the_index_are_not_loaded(sharded):
    save_file({"model.norm.weight": torch.zeros(48)}, sharded / "model-00003-of-00003.safetensors")
    assert not torch.equal(assert_as_transformers(sharded)["model.norm.weight"], torch.zeros(48))


def test_the_weights_file_named_in_config_is_loaded(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "other.safetensors"}))
    assert_as_transformers(folder)
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "../other.safetensors"}))
    with pytest.raises(ValueError, match=r"config\.json names '\.\./other\.safetensors', a path out of the folder"):
        headers.weight_files(folder, "m")


@pytest.mark.parametrize(("name", "message"), [
    ("model.fp16.safetensors", r"it holds model\.fp16\.safetensors\..*rename model\.fp16\.safetensors"),
    ("model-00001-of-00001.safetensors", "or copy the index"),
    ("consolidated.safetensors", "rename consolidated.safetensors"),
    ("pytorch_model.bin", r"Pickled weights .* convert them to safetensors"),
    ("consolidated.00.pth", r"Pickled weights .* convert them to safetensors"),
    ("model-Q4_K_M.gguf", "Save the model as safetensors"),
    ("tf_model.h5", "Save the model as safetensors"),
    ("notes.txt", "Save the model as safetensors"),
])  # fmt: skip
def test_error_names_weights_in_formats_that_transformers_does_not_load(whole, tmp_path, name, message):
    folder = shutil.copytree(whole, tmp_path / "m")
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(FileNotFoundError, match=message) as error:
        headers.weight_files(folder, "m")
    assert "no weights (neither model.safetensors nor model.safetensors.index.json)" in str(error.value)


def test_pickled_weights_are_chosen_as_in_transformers(whole, tmp_path):
    """One file takes precedence over an index; safetensors with other names do not count."""
    folder = shutil.copytree(whole, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    write_index(folder, {"a": "pytorch_model-1.bin"}, "pytorch_model.bin.index.json")
    loaded = weights.read(folder, "m", allow_pickle=True)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


# --- an index that disagrees ------------------------------------------------------------------------------------------


def test_error_for_an_index_with_missing_files_names_the_files_beside_it(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "m")
    write_index(folder, {"model.norm.weight": "model-00001-of-00004.safetensors"})
    with pytest.raises(FileNotFoundError) as error:
        headers.weight_files(folder, "m")
    for words in ("model.safetensors.index.json", "model-00001-of-00004.safetensors", "; model.safetensors, which it"):
        assert words in str(error.value)


def test_error_for_an_index_with_missing_shards_names_the_existing_shard(sharded):
    changed_map(sharded, lambda names: {key: file.replace("-of-00002", "-of-00003") for key, file in names.items()})
    with pytest.raises(FileNotFoundError, match=r"-of-00003.*model-00001-of-00002\.safetensors.*does not name"):
        headers.weight_files(sharded, "m")


def swapped(names):
    other = {"model-00001-of-00002.safetensors": "model-00002-of-00002.safetensors"}
    other |= {after: before for before, after in other.items()}
    return {key: other[file] if key == "model.norm.weight" else file for key, file in names.items()}


@pytest.mark.parametrize(("change", "message"), [
    (swapped, r"says that model\.norm\.weight is in model-0000\d-of.*, and it is not, which model-0000\d-of"),
    (lambda names: names | {"model.more.weight": "model-00001-of-00002.safetensors"}, "model.more.weight is in"),
    (lambda names: {key: file for key, file in names.items() if key != "model.norm.weight"},
     r"model-0000\d-of-00002\.safetensors holds model\.norm\.weight, which model\.safetensors\.index\.json does not"),
])  # fmt: skip
def test_error_for_an_index_that_disagrees_with_its_shards_names_both(sharded, change, message):
    changed_map(sharded, change)
    with pytest.raises(ValueError, match=message) as error:
        headers.weight_files(sharded, "m")
    assert "model.safetensors.index.json" in str(error.value)


def test_a_buffer_missing_from_the_index_is_accepted(sharded):
    file = sharded / "model-00001-of-00002.safetensors"
    save_file(load_file(file) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}, file)
    assert len(headers.weight_files(sharded, "m")) == 2


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": []}'])
def test_an_index_without_weight_map_is_refused(sharded, content):
    (sharded / INDEX).write_text(content)
    with pytest.raises(ValueError, match="has no weight_map of tensors to files"):
        headers.weight_files(sharded, "m")


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [
    "../model.safetensors", "a/../../model.safetensors", "/etc/passwd", "..\\model.safetensors", "", "..",
    "C:\\model.safetensors", "~/model.safetensors", "\\\\server\\share\\model.safetensors",
])  # fmt: skip
@pytest.mark.parametrize("index", [INDEX, "pytorch_model.bin.index.json"])
def test_a_path_in_an_index_must_stay_inside_the_folder(sharded, path, index):
    (sharded / INDEX).unlink()
    write_index(sharded, {"model.norm.weight": path}, index)
    with pytest.raises(ValueError, match="a path out of the folder"):
        weights.read(sharded, "m", allow_pickle=True)


def test_a_path_starting_with_a_dot_slash_is_accepted(sharded):
    changed_map(sharded, lambda names: {key: f"./{file}" for key, file in names.items()})
    assert_as_transformers(sharded)


def test_shards_in_a_subfolder_are_loaded(sharded):
    (sharded / "parts").mkdir()
    for file in sharded.glob("model-*.safetensors"):
        file.rename(sharded / "parts" / file.name)
    changed_map(sharded, lambda names: {key: f"parts/{file}" for key, file in names.items()})
    assert_as_transformers(sharded)


def test_a_symbolic_link_out_of_the_folder_is_refused(sharded, tmp_path):
    file = sharded / "model-00002-of-00002.safetensors"
    file.rename(tmp_path / "elsewhere.safetensors")
    file.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(ValueError, match=r"a symbolic link out of the folder, to .*elsewhere\.safetensors"):
        headers.weight_files(sharded, "m")


def test_links_of_the_hub_cache_are_followed(sharded, tmp_path):
    """Every file of a snapshot is a link to the repository's folder `blobs`."""
    repository = tmp_path / "models--org--name"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for k, file in enumerate(sorted(sharded.iterdir())):
        shutil.copy(file, blobs / f"{k:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{k:064x}")
    assert_as_transformers(snapshot)


def test_a_folder_of_links_to_another_folder_is_loaded(sharded, tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for file in sharded.iterdir():
        (mirror / file.name).symlink_to(file)
    assert_as_transformers(mirror)
    (tmp_path / "link").symlink_to(sharded)
    assert_as_transformers(tmp_path / "link")


# --- counting ---------------------------------------------------------------------------------------------------------


def test_a_tensor_in_two_shards_counts_once(sharded, whole):
    first, second = sorted(sharded.glob("model-*.safetensors"))
    (key, tensor), *_ = load_file(second).items()
    save_file(load_file(first) | {key: tensor}, first, {"format": "pt"})
    assert checkpoints.resolve(str(sharded)).n_parameters == checkpoints.resolve(str(whole)).n_parameters
