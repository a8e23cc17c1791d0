"""Pickled weights of a folder are recognised, refused, and counted in a separate process."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.checkpoints import checkpoints, headers, pickles
from harness.checkpoints.safetensors_file import header_of
from harness.cli.commands import main
from harness.models import tiny
from harness.watching import sources

TEXT = ["the old bee watched the hive"]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def safe(tmp_path):
    return tiny.build("gpt2", tmp_path / "safe", TEXT, 0)


@pytest.fixture
def folder(safe, tmp_path):
    """The same model with pickled weights."""
    made = shutil.copytree(safe, tmp_path / "pickled")
    torch.save(load_file(made / "model.safetensors"), made / "pytorch_model.bin")
    (made / "model.safetensors").unlink()
    return made


@pytest.mark.parametrize(("names", "expected"), [
    (["pytorch_model.bin", "config.json"], True), (["pytorch_model-00001-of-00002.bin"], True),
    (["adapter_model.bin"], True), (["pytorch_model.bin", "model.safetensors"], False),
    (["pytorch_model.bin", "model.fp16.safetensors"], False), (["training_args.bin", "optimizer.bin"], False),
    (["pytorch_model.bin", "value_head.safetensors"], True), (["pytorch_model.bin", "rng.safetensors"], True),
    (["rng_state.pth"], False), (["ggml-model.bin"], False), ([], False),
])  # fmt: skip
def test_pickled_weights_are_distinguished_from_trainer_states_and_other_libraries(names, expected):
    assert pickles.has_only_pickles(names) == expected


def test_pickles_and_safetensors_have_the_same_parameter_count(safe, folder):
    n_numbers = headers.count([header_of(safe / "model.safetensors", "m")], {})
    assert pickles.count(folder, "m", allow_pickle=True) == n_numbers
    checkpoint, plain = checkpoints.resolve(str(folder), allow_pickle=True), checkpoints.resolve(str(safe))
    assert (checkpoint.n_parameters, checkpoint.n_layers, checkpoint.name) == (
        plain.n_parameters,
        plain.n_layers,
        "pickled",
    )


def test_tied_tensors_count_once_and_masks_do_not_count(folder):
    shared = torch.ones(5, 4)
    tensors = {
        "wte.weight": shared,
        "lm_head.weight": shared,
        "part": shared[:2],
        "h.0.attn.bias": torch.ones(1, 1, 8, 8),
    }
    torch.save(tensors, folder / "pytorch_model.bin")
    assert pickles.count(folder, "m", allow_pickle=True) == 20 + 8


@pytest.mark.parametrize("zipped", [True, False])
def test_shards_and_files_from_before_2020_are_counted(folder, zipped):
    (folder / "pytorch_model.bin").unlink()  # would take precedence over shards, as in transformers
    whole = {"a": torch.ones(3, 2), "b": torch.ones(4)}
    for key, file in {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}.items():
        torch.save({key: whole[key]}, folder / file, _use_new_zipfile_serialization=zipped)
    index = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert pickles.count(folder, "m", allow_pickle=True) == 10
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin\.index\.json .*pytorch_model-00002-of-00002\.bin"):
        pickles.count(folder, "m", allow_pickle=True)


def test_shards_without_an_index_are_an_error_and_do_not_count_as_zero(folder):
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(
        FileNotFoundError, match=r"no pytorch_model\.bin and no pytorch_model\.bin\.index\.json in .*; copy"
    ):
        checkpoints.resolve(str(folder), allow_pickle=True)


def test_a_named_pipe_is_refused_without_blocking(folder):
    (folder / "pytorch_model.bin").unlink()
    os.mkfifo(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a named pipe \(FIFO\); expected a file of weights"):
        pickles.count(folder, "m", allow_pickle=True)


def test_a_pickle_index_without_weight_map_is_refused(folder):
    (folder / "pytorch_model.bin").unlink()
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(ValueError, match=r"m: pytorch_model\.bin\.index\.json has no weight_map of tensors to files"):
        pickles.count(folder, "m", allow_pickle=True)


def test_pickles_are_not_read_unless_allowed_and_the_error_names_alternatives(folder, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a pickle was read"))
    with pytest.raises(FileNotFoundError) as refused:
        checkpoints.resolve(str(folder))
    assert str(refused.value) == (
        f"pickled: its weights in {folder} are pickles only (*.bin), which can run code when they are read; convert "
        "them to safetensors, or pass --allow-pickle if you trust the publisher."
    )


def test_the_calling_process_opens_no_pickle(folder):
    script = (
        "import torch; from harness.checkpoints import checkpoints\n"
        "def opened(*_, **__): raise SystemExit('a pickle was opened')\n"
        "torch.load = opened\n"
        f"print(checkpoints.resolve({str(folder)!r}, allow_pickle=True).n_parameters)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) == pickles.count(folder, "m", allow_pickle=True)


class _Malice:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (self.file,))


@pytest.mark.parametrize("save", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content, 2))])
def test_a_pickle_with_more_than_tensors_is_refused_and_not_executed(folder, tmp_path, save):
    trace = tmp_path / "trace"
    save({"wte.weight": _Malice(str(trace))}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled: pytorch_model\.bin holds more than tensors, or is damaged"):
        checkpoints.resolve(str(folder), allow_pickle=True)
    assert not trace.exists()


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is damaged"), (b"not a pickle", "holds more than tensors, or is damaged"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "is a Git LFS pointer"),
])  # fmt: skip
def test_a_file_that_is_not_a_pickle_is_refused(folder, content, message):
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=rf"m: pytorch_model\.bin .*{message}"):
        pickles.count(folder, "m", allow_pickle=True)


def test_a_truncated_pickle_is_refused(folder):
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"m: pytorch_model\.bin .*copy it again"):
        pickles.count(folder, "m", allow_pickle=True)


def test_a_pickle_without_named_tensors_is_refused(folder):
    torch.save([torch.ones(2)], folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"m: pytorch_model\.bin holds no table of tensors; save it again"):
        pickles.count(folder, "m", allow_pickle=True)


def test_a_counting_process_that_fails_or_hangs_is_reported(folder, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ValueError, match="the process reading them ended with status 1"):
        pickles.count(folder, "m", allow_pickle=True)
    monkeypatch.undo()
    monkeypatch.setattr(pickles, "COUNT_TIMEOUT_S", 0.001)
    with pytest.raises(ValueError, match="took longer than"):
        pickles.count(folder, "m", allow_pickle=True)


def test_revision_depends_on_pickled_weights_but_not_on_pickles_beside_safetensors(safe, folder):
    before = checkpoints.resolve(str(folder), allow_pickle=True).revision
    torch.save({"wte.weight": torch.ones(3)}, folder / "pytorch_model.bin")
    assert checkpoints.resolve(str(folder), allow_pickle=True).revision != before
    plain = checkpoints.resolve(str(safe)).revision
    torch.save({"wte.weight": torch.ones(3)}, safe / "pytorch_model.bin")
    assert checkpoints.resolve(str(safe)).revision == plain


def test_surprisal_of_a_pickled_folder_equals_that_of_safetensors(safe, folder, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("the old bee watched the hive")
    assert main(["surprisal", str(tmp_path / "text.txt"), "--model", str(folder)]) == 2
    assert "pickled: its weights in" in capsys.readouterr().err
    bits = []
    for model in (safe, folder):
        assert main(["surprisal", str(tmp_path / "text.txt"), "--model", str(model), "--allow-pickle", "--json"]) == 0
        bits.append([row["surprisal_bits"] for row in json.loads(capsys.readouterr().out)])
    assert bits[0] == bits[1]
    assert len(bits[0]) == 6


def test_a_forecast_counts_a_pickled_folder_and_states_its_form(folder, capsys):
    place = ["plan", "scale", "--nodes", "1", "--gpus-per-node", "1", "--gpu-memory-gb", "80", "--model", str(folder)]
    assert main(place) == 2
    assert "pickled: its weights in" in capsys.readouterr().err
    assert main([*place, "--model", "t5-base", "--model", "t5-base@refs/pr/2", "--allow-pickle"]) == 0
    out = capsys.readouterr().out
    assert (
        "only pickled weights, by the table or the folder: pickled, t5-base; `harness run` needs --allow-pickle" in out
    )
    assert main([*place, "--model", "alpaca-7b", "--model", "llama-3-8b", "--allow-pickle", "--json"]) == 0
    forms = {one["model"]: one["weights_form"] for one in json.loads(capsys.readouterr().out)["assignments"]}
    assert forms == {"pickled": "pickle", "alpaca-7b": "delta+pickle", "llama-3-8b": "safetensors"}


def test_pickled_checkpoints_of_a_training_are_watched_if_allowed(folder):
    (seen,) = sources.list_checkpoints(str(folder.parent / "pickled"), quiet_s=0, allow_pickle=True)
    assert not seen.damage
    (seen,) = sources.list_checkpoints(str(folder.parent / "pickled"), quiet_s=0)
    assert "convert them to safetensors, or pass --allow-pickle" in seen.damage
