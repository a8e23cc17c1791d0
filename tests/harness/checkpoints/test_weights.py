"""Weights are read tensor by tensor, pickles only as data, and a delta is added to its base."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.checkpoints import checkpoints, weights
from harness.loading import loaded_model
from harness.models import tiny

TEXT = ["The old bee watched the hive.", "Nobody moved, slowly."]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.build("llama", tmp_path_factory.mktemp("models") / "base", TEXT, seed=0)


def _read(folder, **options):
    return {key: tensor[...] for key, tensor in weights.read(folder, "m", **options).items()}


# --- pickles ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pickled(base, tmp_path):
    """A checkpoint of the base with its weights in two pickled shards."""
    folder, checkpoint = shutil.copytree(base, tmp_path / "pickled"), checkpoints.resolve(str(base))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for file, keys in shards.items():
        torch.save({key: tensors[key] for key in keys}, folder / file)
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return dataclasses.replace(checkpoint, folder=str(folder))


def test_allowed_pickled_weights_equal_the_safetensors(base, pickled):
    plain, other = loaded_model.load(checkpoints.resolve(str(base))), loaded_model.load(pickled, allow_pickle=True)
    pairs = zip(plain.model.state_dict().items(), other.model.state_dict().items(), strict=True)
    assert all(one[0] == two[0] and torch.equal(one[1], two[1]) for one, two in pairs)


def test_pickled_weights_are_refused_unless_allowed(pickled):
    with pytest.raises(ValueError, match=r"Pickled weights .* convert them to safetensors"):
        loaded_model.load(pickled)


class _Malice:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (self.file,))


@pytest.mark.parametrize("save", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content, 2))])
def test_a_pickle_with_more_than_tensors_is_refused_and_not_executed(pickled, tmp_path, save):
    trace, file = tmp_path / "trace", tmp_path / "pickled" / "pytorch_model-1.bin"
    save({"model.norm.weight": _Malice(str(trace))}, file)
    with pytest.raises(ValueError, match=r"pytorch_model-1\.bin holds more than tensors"):
        loaded_model.load(pickled, allow_pickle=True)
    assert not trace.exists()
    torch.load(file, weights_only=False) if save is torch.save else pickle.loads(file.read_bytes())  # noqa: S301
    assert trace.exists()  # plain unpickling executes it


@pytest.mark.parametrize("content", [{"model": {"norm": torch.ones(2)}}, [torch.ones(2)]])
def test_a_pickle_without_named_tensors_is_refused(pickled, tmp_path, content):
    torch.save(content, tmp_path / "pickled" / "pytorch_model-1.bin")
    with pytest.raises(ValueError, match="holds no table of tensors"):
        loaded_model.load(pickled, allow_pickle=True)


def test_a_truncated_pickle_is_refused(pickled, tmp_path):
    file = tmp_path / "pickled" / "pytorch_model-2.bin"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"pytorch_model-2\.bin .*copy it again"):
        loaded_model.load(pickled, allow_pickle=True)


def test_safetensors_are_preferred_to_pickles(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "both")
    (folder / "pytorch_model.bin").write_bytes(b"not weights")
    assert _read(folder, allow_pickle=True).keys() == load_file(folder / "model.safetensors").keys()


# --- deltas ----------------------------------------------------------------------------------------------------------


def _write_delta(base, folder, dtype=torch.float32, seed=1):
    """Write a folder whose weights are noise; return base + noise, added in float64."""
    shutil.copytree(base, folder)
    ours = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    noise = {key: (0.1 * torch.randn(w.shape, generator=generator)).to(dtype) for key, w in ours.items()}
    save_file(noise, folder / "model.safetensors", {"format": "pt"})
    return {key: (ours[key].double() + noise[key].double()).float() for key in ours}


def _load_delta(base, folder, **options):
    return loaded_model.load(dataclasses.replace(checkpoints.resolve(str(folder)), base_folder=str(base)), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_delta_loads_as_base_plus_delta_exactly(base, tmp_path, dtype):
    tuned = _write_delta(base, tmp_path / "delta", dtype)
    state = _load_delta(base, tmp_path / "delta").model.state_dict()
    assert tuned.keys() == state.keys()
    assert all(torch.equal(state[key], tuned[key]) for key in tuned)


def test_a_delta_is_added_in_float32_and_rounded_once(base, tmp_path):
    tuned = _write_delta(base, tmp_path / "delta")
    state = _load_delta(base, tmp_path / "delta", dtype="bfloat16").model.state_dict()
    assert all(torch.equal(state[key], tuned[key].bfloat16()) for key in tuned)


def test_the_base_is_zero_at_tokens_added_by_tuning(base, tmp_path):
    """StableVicuna has one row more than LLaMA, for a padding token."""
    tuned = _write_delta(base, tmp_path / "delta")
    file, config = tmp_path / "delta" / "model.safetensors", tmp_path / "delta" / "config.json"
    noise, row = load_file(file), torch.full((1, tiny.WIDTH), 0.5)
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        noise[key], tuned[key] = torch.cat([noise[key], row]), torch.cat([tuned[key], row])
    save_file(noise, file, {"format": "pt"})
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"vocab_size": settings["vocab_size"] + 1}))
    state = _load_delta(base, tmp_path / "delta").model.state_dict()
    assert all(torch.equal(state[key], tuned[key]) for key in tuned)


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t | {"model.norm.weight": torch.ones(47)}, r"model\.norm\.weight has the shape \(47,\) .* \(48,\)"),
    (lambda t: t | {"lm_head.weight": t["lm_head.weight"][1:]}, r"lm_head\.weight has the shape"),
    (lambda t: t | {"model.layers.0.mlp.up_proj.weight": torch.ones(97, 48)}, r"up_proj\.weight has the shape"),
    (lambda t: {k: w for k, w in t.items() if k != "model.norm.weight"}, r"model\.norm\.weight is in the base, but"),
    (lambda t: t | {"more": torch.ones(2)}, "more is in the difference, but not in the base"),
])  # fmt: skip
def test_error_for_a_delta_to_another_base_names_the_tensor(base, tmp_path, change, message):
    _write_delta(base, tmp_path / "delta")
    file = tmp_path / "delta" / "model.safetensors"
    save_file({key: w.contiguous() for key, w in change(load_file(file)).items()}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=message):
        _load_delta(base, tmp_path / "delta")


def test_buffers_stored_in_old_checkpoints_are_not_added(base, tmp_path):
    """LLaMA-1's files hold the rotary frequencies of each block; adding them would double them."""
    tuned = _write_delta(base, tmp_path / "delta")
    file = tmp_path / "delta" / "model.safetensors"
    save_file(load_file(file) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}, file, {"format": "pt"})
    state = _load_delta(base, tmp_path / "delta").model.state_dict()
    assert all(torch.equal(state[key], tuned[key]) for key in tuned)


# --- memory -----------------------------------------------------------------------------------------------------------

_LOAD = """
import gc, json, re, sys
from dataclasses import replace
from harness.checkpoints import checkpoints
from harness.loading import loaded_model
def memory(field): return 1024 * int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
ratios, (tiny, *cases) = [], json.loads(sys.argv[1])
loaded_model.load(checkpoints.resolve(tiny))  # so that memory of the libraries is not counted
for folder, dtype, base_folder in cases:
    checkpoint = replace(checkpoints.resolve(folder), base_folder=base_folder)
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")  # resets the peak
    before = memory("VmRSS")
    model = loaded_model.load(checkpoint, dtype=dtype).model
    ratios.append((memory("VmHWM") - before) / sum(w.numel() * w.element_size() for w in model.parameters()))
    del model
print(json.dumps(ratios))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory, base):
    """A random Llama of 100 M parameters in both precisions; no tensor has more than a tenth of them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models")
    settings = json.loads((base / "config.json").read_text())
    shape = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 8}
    config = LlamaConfig(vocab_size=settings["vocab_size"], **shape)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    tensors = {key: torch.full(w.shape, 0.01) for key, w in model.state_dict().items()}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        shutil.copytree(base, folder / name)
        config.save_pretrained(folder / name)
        save_file({key: w.to(dtype) for key, w in tensors.items()}, folder / name / "model.safetensors",
                  {"format": "pt"})  # fmt: skip
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_loading_needs_little_more_memory_than_the_weights(large, base):
    """Peak main memory for weights on the CPU. Loading threads hold a few of the largest tensors in addition.

    The allocator is set to give each tensor its own pages, as it always does from 32 MB on. With its default it leaves
    holes between small tensors (1.5 times the weights of this model for a delta).
    """
    cases = [("float32", "float32", ""), ("bfloat16", "float32", ""), ("bfloat16", "float32", str(large / "bfloat16"))]
    asked = [str(base), *((str(large / stored), dtype, base_of) for stored, dtype, base_of in cases)]
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, json.dumps(asked)], capture_output=True, text=True, check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    ratios = json.loads(done.stdout)
    assert len(ratios) == len(cases)
    assert all(0.9 < ratio < 1.3 for ratio in ratios), ratios


def test_a_tensor_is_read_only_when_indexed(base, tmp_path):
    """The file is truncated after its header was read: shapes are known, numbers are not."""
    folder = shutil.copytree(base, tmp_path / "m")
    tensors = weights.read(folder, "m")
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.truncate(8)
    assert weights.shape_of(tensors["model.norm.weight"]) == (tiny.WIDTH,)
    with pytest.raises(Exception, match=r"(?i)fill|end|read|eof"):
        tensors["model.norm.weight"][...]


def test_loaded_tensors_equal_the_file(base):
    ours, theirs = _read(base), load_file(base / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


# --- names ------------------------------------------------------------------------------------------------------------


def _renamed(base, folder, name_of):
    """Copy the base with other tensor names."""
    shutil.copytree(base, folder)
    tensors = load_file(base / "model.safetensors")
    save_file({name_of(key): w for key, w in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("name_of", [
    lambda key: f"module.{key}",
    lambda key: f"_orig_mod.{key}",
    lambda key: f"module._orig_mod.{key}",
    lambda key: f"_orig_mod.module.{key}",
    lambda key: f"module.module.{key}",
    lambda key: f"_forward_module.{key}",
    lambda key: f"_fsdp_wrapped_module.{key}".replace(".self_attn.", "._fsdp_wrapped_module.self_attn."),
    lambda key: key.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
    lambda key: key.replace("layers.2.", "layers.2._orig_mod."),
    lambda key: f"model.{key}",
    lambda key: f"_forward_module.model.{key}",
    lambda key: f"model.module.{key}",
    lambda key: f"base_model.model.module.{key}",
])  # fmt: skip
def test_name_parts_added_by_training_wrappers_are_removed(base, tmp_path, name_of):
    folder = _renamed(base, tmp_path / "m", name_of)
    checkpoint, wanted = (
        loaded_model.load(checkpoints.resolve(str(path))).model.state_dict() for path in (folder, base)
    )
    assert all(torch.equal(checkpoint[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("family", ["gpt2", "t5", "bert", "gpt_neox"])
@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod."])
def test_name_prefixes_are_removed_in_other_families_too(tmp_path, family, prefix):
    base = tiny.build(family, tmp_path / "base", TEXT, seed=0)
    folder = _renamed(base, tmp_path / "m", lambda key: prefix + key)
    checkpoint, wanted = (
        loaded_model.load(checkpoints.resolve(str(path))).model.state_dict() for path in (folder, base)
    )
    assert checkpoint.keys() == wanted.keys()
    assert all(torch.equal(checkpoint[key], wanted[key]) for key in wanted)


def test_error_for_a_weight_under_two_names_states_both(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    doubled = tensors | {"_orig_mod.model.norm.weight": tensors["model.norm.weight"] + 1}
    save_file(doubled, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"model\.norm\.weight and .*model\.norm\.weight are one weight under two names"
    ):
        weights.read(folder, "m")


def test_a_prefix_shared_by_only_some_names_is_kept(base, tmp_path):
    """Only a prefix of all names is taken for a wrapper."""
    tensors = {"module.a": torch.ones(2), "b": torch.ones(2)}
    assert weights.strip_wrappers(tensors, "m").keys() == tensors.keys()


# --- shards that repeat a tensor --------------------------------------------------------------------------------------


def _in_two(base, folder, change):
    """Write the base in two shards; the second repeats a tensor of the first, changed."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    first, second = names[::2], names[1::2]
    save_file({key: tensors[key] for key in first}, folder / "a.safetensors")
    save_file({**{key: tensors[key] for key in second}, first[0]: change(tensors[first[0]])}, folder / "b.safetensors")
    index = {key: "a.safetensors" if key in first else "b.safetensors" for key in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder, first[0]


def test_a_tensor_that_is_identical_in_two_shards_is_loaded(base, tmp_path):
    folder, _ = _in_two(base, tmp_path / "m", torch.clone)
    loaded, wanted = _read(folder), load_file(base / "model.safetensors")
    assert loaded.keys() == wanted.keys()
    assert all(torch.equal(loaded[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("change", [
    lambda tensor: tensor + 1, lambda tensor: tensor.bfloat16(), lambda tensor: tensor[:1].clone(),
])  # fmt: skip
def test_error_for_a_tensor_that_differs_between_shards_names_tensor_and_files(base, tmp_path, change):
    folder, key = _in_two(base, tmp_path / "m", change)
    with pytest.raises(ValueError, match=rf"a\.safetensors and b\.safetensors hold different tensors called {key}"):
        weights.read(folder, "m")


# --- pickles, in all forms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [
    {}, {"_use_new_zipfile_serialization": False},
], ids=["zip", "before 2020"])  # fmt: skip
def test_pickles_of_both_formats_equal_the_safetensors(base, tmp_path, form):
    folder = shutil.copytree(base, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", **form)
    loaded = _read(folder, allow_pickle=True)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)
    with pytest.raises(FileNotFoundError, match=r"Pickled weights .* --allow-pickle"):
        weights.read(folder, "m")


@pytest.mark.parametrize(("content", "message"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
    (b"", "pytorch_model.bin is damaged"), (b"hello", r"pytorch_model\.bin .*copy it again"),
    (b"PK\x03\x04" + bytes(100), r"pytorch_model\.bin .*copy it again"),
])  # fmt: skip
def test_a_file_that_is_not_a_pickle_is_refused(base, tmp_path, content, message):
    folder = shutil.copytree(base, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        weights.read(folder, "m", allow_pickle=True)


def test_a_named_pipe_is_refused_without_blocking(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a named pipe"):
        weights.read(folder, "m", allow_pickle=True)
