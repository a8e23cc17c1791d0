"""A model that does not fit into memory is refused before its weights are loaded."""

import dataclasses
import json

import psutil
import pytest

from harness.checkpoints import checkpoints
from harness.loading import allocation, loaded_model, memory
from harness.models import tiny

GB = 10**9


@pytest.fixture
def checkpoint(tmp_path):
    return checkpoints.resolve(str(tiny.build("llama", tmp_path / "m", ["the old bee watched the hive"], seed=0)))


def test_a_model_that_does_not_fit_is_refused_with_figures_and_advice(checkpoint, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 20_000_000)
    message = r"m needs 0\.\d+ GB of main memory \(0\.00 GB of weights in float32, 0\.\d+ GB for a batch\), 0\.02 GB"
    with pytest.raises(
        memory.InsufficientMemoryError, match=message + r" are free\. Use a larger machine, or bfloat16"
    ):
        loaded_model.load(checkpoint)


def test_it_is_refused_before_weights_are_loaded(checkpoint, tmp_path):
    """The configuration has 400 billion parameters, the weight file is empty."""
    config = tmp_path / "m" / "config.json"
    large = {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128,
             "num_key_value_heads": 8, "head_dim": 128}  # fmt: skip
    config.write_text(json.dumps(json.loads(config.read_text()) | large))
    (tmp_path / "m" / "model.safetensors").write_bytes(b"")
    with pytest.raises(memory.InsufficientMemoryError, match=r"803\.\d+ GB of weights in bfloat16"):
        loaded_model.load(checkpoint, dtype="bfloat16")


def test_half_precision_needs_half_the_memory(checkpoint, tmp_path):
    config = tmp_path / "m" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 10**9}))
    gigabytes = []
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(memory.InsufficientMemoryError) as refused:
            loaded_model.load(checkpoint, dtype=dtype)
        gigabytes.append(float(str(refused.value).partition("(")[2].partition(" GB of weights")[0]))
    assert gigabytes == [pytest.approx(4 * 3 * 48 * n_bytes, rel=0.01) for n_bytes in (4, 2)]


def test_int8_counts_one_byte_per_weight_of_linear_layers_and_two_for_the_rest(checkpoint):
    from harness.loading import architectures, device_map

    meta_model = architectures.read(checkpoint.folder).meta_model("int8")
    parts = {
        part.name: part.n_bytes for part in device_map.parts_of(meta_model, allocation.bytes_of(meta_model, "int8"))
    }
    width, wide = tiny.WIDTH, 2 * tiny.WIDTH
    assert parts["model.layers.0"] == 4 * width * width + 3 * width * wide + 2 * 2 * width
    assert parts["lm_head"] == parts["model.embed_tokens"] == 2 * width * checkpoint.vocabulary


def test_the_smallest_control_group_limit_applies_and_page_cache_is_free(tmp_path):
    """Version 2: a scheduler's job inside a container."""
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    root = tmp_path / "fs"
    (root / "job" / "step").mkdir(parents=True)
    (root / "job" / "memory.max").write_text(f"{8 * GB}\n")
    (root / "job" / "memory.current").write_text(f"{5 * GB}\n")
    (root / "job" / "memory.stat").write_text(f"anon {2 * GB}\nfile {3 * GB}\ninactive_file {GB}\nactive_file {GB}\n")
    (root / "job" / "step" / "memory.max").write_text("max\n")
    (root / "job" / "step" / "memory.current").write_text(f"{GB}\n")
    assert memory._cgroup_free(root, own) == 5 * GB
    (root / "job" / "step" / "memory.max").write_text(f"{4 * GB}\n")
    assert memory._cgroup_free(root, own) == 3 * GB


def test_version_1_of_control_groups_is_supported(tmp_path):
    own = tmp_path / "own"
    own.write_text("4:memory:/docker/1\n3:cpuset:/\n0::/\n")
    group = tmp_path / "fs" / "memory"  # in a container the group's own path does not exist, and the root is the group
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{4 * GB}\n")
    (group / "memory.usage_in_bytes").write_text(f"{3 * GB}\n")
    (group / "memory.stat").write_text(f"inactive_file 5\ntotal_inactive_file {GB}\ntotal_active_file 0\n")
    assert memory._cgroup_free(tmp_path / "fs", own) == 2 * GB
    assert memory._cgroup_free(tmp_path / "none", own) == float("inf")


def test_free_main_memory_is_the_available_memory_or_what_a_control_group_leaves(monkeypatch):
    available = psutil.virtual_memory()._replace(available=3 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    for left, free in ((2 * GB, 2 * GB), (5 * GB, 3 * GB), (float("inf"), 3 * GB)):
        monkeypatch.setattr(memory, "_cgroup_free", lambda *_, left=left: left)
        assert memory.free_bytes("cpu") == free


def test_an_untrained_control_needs_main_memory(checkpoint, monkeypatch):
    monkeypatch.setattr(allocation, "devices", lambda *_: ["cuda:0"])
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000 if device == "cpu" else 10**12)
    with pytest.raises(memory.InsufficientMemoryError, match="of main memory"):
        loaded_model.load(checkpoint, "cuda", untrained_seed=1)


def test_each_of_several_gpus_must_hold_its_part_and_a_batch(checkpoint, monkeypatch):
    monkeypatch.setattr(allocation, "devices", lambda *_: ["cuda:0", "cuda:1"])
    monkeypatch.setattr(memory, "free_bytes", lambda device: GB if device == "cpu" else 20_000_000)
    with pytest.raises(memory.InsufficientMemoryError, match=r"m: 0\.0 GB of weights do not fit on 2 GPUs"):
        loaded_model.load(dataclasses.replace(checkpoint), "cuda", n_gpus=2)
