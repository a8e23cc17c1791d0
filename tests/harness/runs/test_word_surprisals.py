"""Surprisal of corpora with Ray Data: the same values as in one process, also after a kill and a restart."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import harness.models.model_table
from harness.cli import commands as cli
from harness.models import tiny
from harness.protocol import surprisal_alone
from harness.runs import word_surprisals
from harness.storage import inventory, tables
from harness.storage.store import Store
from harness.units import word_units
from harness.units.word_units import WordOptions
from tests.harness import earlier_files

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HOW = WordOptions(surprisal_alone(), device="cpu")
TEXT = "The old bee watched the hive, and the bee in New York saw that it was old; nobody moved."
N_WORDS = 13_000  # three shards
MEASURED = ["word_id", "word", "surprisal_bits", "corrected_bits", "n_tokens", "entropy_bits", "rank"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: str(tiny.build(name, folder / name, [TEXT], seed=0)) for name in ("llama", "gpt2", "t5")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"word": rng.choice(TEXT.split(), N_WORDS)})
    frame["passage"] = [f"p{row // 90}" for row in range(N_WORDS)]
    file = tmp_path_factory.mktemp("corpus") / "many.csv"
    frame.to_csv(file, index=False)
    return str(file)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    file = tmp_path_factory.mktemp("short") / "short.txt"
    file.write_text(TEXT)
    return str(file)


def words_of(out, run, model):
    frame = tables.read(out, "word_surprisals", run)
    return frame[frame.model == model].reset_index(drop=True)


def test_a_killed_run_resumes_and_equals_a_single_process(models, corpus, tmp_path):
    out, names = str(tmp_path / "out"), [models["llama"], models["gpt2"]]
    given = [part for name in names for part in ("--model", name)]
    command = [sys.executable, "-m", "harness.cli", "surprisal", corpus, *given, "--out", out, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(Path(out).glob("units/surprisals/*/manifest.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # a worker that outlives its driver by a moment may store one more
    stored = {path: path.stat().st_mtime_ns for path in Path(out).glob("units/surprisals/*/manifest.json")}
    assert not list(Path(out).glob("tables/word_surprisals/*/*/model=gpt2"))
    ended = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (ended["failures"], ended["n_words"]) == ([], 2 * N_WORDS)
    assert 0 < ended["n_read"] < 2 * N_WORDS
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stored.items())
    alone = pd.concat(word_units.surprisals([corpus], names, HOW), ignore_index=True)
    for model in ("llama", "gpt2"):
        ours = words_of(out, ended["run"], model)
        theirs = alone[alone.model == model].reset_index(drop=True)
        pd.testing.assert_frame_equal(ours[MEASURED], theirs[MEASURED], check_dtype=False, atol=1e-4, rtol=1e-5)
        assert set(ours.context) == {"passage"}
        assert list(ours.passage[:2]) == ["p0", "p0"]
    again = word_surprisals.run([corpus], names, HOW, out)
    assert (again.failures, again.n_read, again.run) == ([], 0, ended["run"])
    store = Store(out)
    assert not inventory.unused_files(store, unused=True)
    assert {unit.kind for unit in inventory.ls(store)} == {"corpora", "surprisals"}


def test_two_drivers_of_one_run_share_its_shards(models, corpus, tmp_path):
    out, given = str(tmp_path / "out"), ["--model", models["llama"], "--model", models["gpt2"]]
    command = [sys.executable, "-m", "harness.cli", "surprisal", corpus, *given, "--out", out, "--json"]
    drivers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    one, two = (json.loads(driver.communicate(timeout=500)[0]) for driver in drivers)
    assert (one["failures"], two["failures"]) == ([], [])
    assert one["run"] == two["run"]
    assert one["n_words"] == two["n_words"] == 2 * N_WORDS
    assert one["n_read"] + two["n_read"] == 2 * N_WORDS
    assert min(one["n_read"], two["n_read"]) > 0
    for model in ("llama", "gpt2"):
        assert list(words_of(out, one["run"], model).word_id) == [str(k + 1) for k in range(N_WORDS)]


def test_both_modes_of_t5_are_in_the_table_and_missing_models_are_failures(models, short, tmp_path):
    out = str(tmp_path / "out")
    found = word_surprisals.run(
        [f"local:{short}"], [models["t5"], str(tmp_path / "nothing"), "org/none@refs/pr/2"],
        replace(HOW, t5_reads="both"), out,
        keep_going=True,
    )  # fmt: skip
    assert [(failure.stage, failure.model) for failure in found.failures] == [
        ("models", "nothing"), ("models", "org/none@refs/pr/2"),
    ]  # fmt: skip
    frame = tables.read(out, "word_surprisals", found.run)
    contexts = frame.groupby("model", observed=True).context.first().to_dict()
    assert contexts == {"t5": "passage, by the decoder alone", "t5:in-encoder": "passage, in the encoder"}
    assert frame.groupby("model", observed=True).size().to_dict() == {"t5": 19, "t5:in-encoder": 19}


def test_a_model_that_cannot_process_a_text_is_a_failure_and_the_others_go_on(models, tmp_path, capsys):
    file = tmp_path / "long.csv"
    pd.DataFrame({"word": ["a", "zq" * 300]}).to_csv(file, index=False)
    out = str(tmp_path / "out")
    given = ["--model", models["t5"], "--model", models["gpt2"], "--t5-reads", "context", "--device", "cpu"]
    assert cli.main(["surprisal", str(file), *given, "--out", out, "--json"]) == 1
    ended = json.loads(capsys.readouterr().out)
    (failure,) = ended["failures"]
    assert (failure["model"], failure["exception"]) == ("t5:in-encoder", "ValueError")
    assert "stimulus '2' has" in failure["message"]
    assert len(words_of(out, ended["run"], "gpt2")) == 2


def test_two_corpora_with_one_name_and_too_little_memory_are_reported(models, short, tmp_path):
    other = tmp_path / "short.txt"
    other.write_text("The bee.")
    with pytest.raises(ValueError, match="two corpora are called 'short'"):
        word_surprisals.run([short, str(other)], [models["llama"]], HOW, str(tmp_path / "out"))
    found = word_surprisals.run([short], [models["llama"]], HOW, str(tmp_path / "out"), memory_gb=0.5)
    assert "a worker needs about 1.2 GB, but only 0.5 GB are available" in found.failures[0].message


def test_the_name_of_a_hub_pull_request_is_unchanged_in_the_tables(models, short, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness.models.model_table, "MODELS", dict(harness.models.model_table.MODELS))
    name, file, out = "org/model@refs/pr/2", tmp_path / "mine.toml", str(tmp_path / "out")
    file.write_text(f'["{name}"]\nfolder = "{models["gpt2"]}"\n')
    command = ["surprisal", short, "--models", str(file), "--model", name, "--out", out, "--json"]
    assert cli.main(command) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert set(tables.read(out, "word_surprisals", run).model) == {name}
    assert list(words_of(out, run, name).word) == TEXT.split()
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["n_read"] == 0
    assert len(words_of(out, run, name)) == len(TEXT.split())


def test_shards_of_an_earlier_version_are_not_computed_again_and_their_passages_are_in_the_table(
    models, short, tmp_path
):
    out = str(tmp_path / "out")
    first = word_surprisals.run([short], [models["gpt2"]], HOW, out)
    before = tables.read(out, "word_surprisals", first.run)
    assert earlier_files.rewrite_units(out, "surprisals", "words.parquet")
    shutil.rmtree(Path(out) / "tables")
    again = word_surprisals.run([short], [models["gpt2"]], HOW, out)
    assert (again.run, again.n_read, again.failures) == (first.run, 0, [])
    pd.testing.assert_frame_equal(tables.read(out, "word_surprisals", again.run), before)
    assert before.passage.notna().all()


def test_extractions_holds_the_settings_of_each_model_and_notes_on_faulty_files(models, short, tmp_path):
    folder, out = tmp_path / "odd", str(tmp_path / "out")
    shutil.copytree(models["llama"], folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"bos_token_id": 10**6}))
    done = word_surprisals.run([short], [str(folder), models["gpt2"]], HOW, out)
    assert not done.failures
    rows = tables.read(out, "extractions", done.run).set_index("model")
    assert rows.loc["odd", "notes"].startswith("bos_token_id 1000000 of config.json is past the embeddings")
    assert rows.loc["gpt2", "notes"] == ""
    assert (rows.n_stimuli == len(TEXT.split())).all()
    assert (rows.parity_nats < 1e-3).all()
    assert (rows.n_windows == 1).all()
    assert not rows.reused.any()
    again = word_surprisals.run([short], [str(folder), models["gpt2"]], HOW, out)
    assert again.n_read == 0
    assert tables.read(out, "extractions", again.run).reused.all()


def test_each_unloadable_checkpoint_is_one_failure_and_the_others_go_on(models, short, tmp_path):
    """Headers are checked when the models are resolved, values in the workers; neither error ends the run."""
    import peft
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    base = Path(models["llama"])

    def broken(name, change):
        folder = shutil.copytree(base, tmp_path / name)
        change(folder / "model.safetensors")
        return str(folder)

    def pipe(file):
        file.unlink()
        os.mkfifo(file)

    def whole_numbers(file):
        save_file({key: w.to(torch.int8) if "up_proj" in key else w for key, w in load_file(file).items()}, file)

    wrapped = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    wrapped.save_pretrained(tmp_path / "adapter")  # one that changes nothing yet
    names = {
        "pipe": broken("pipe", pipe),
        "cut": broken("cut", lambda file: file.write_bytes(file.read_bytes()[:-9])),
        "pointer": broken("pointer", lambda file: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")),
        "numbers": broken("numbers", whole_numbers),
        "zeros": broken("zeros", lambda file: save_file({key: w * 0 for key, w in load_file(file).items()}, file)),
    }
    out = str(tmp_path / "out")
    given = [*names.values(), models["llama"], str(tmp_path / "adapter")]
    found = word_surprisals.run([f"local:{short}"], given, HOW, out)
    failures = {failure.model: (failure.stage, failure.message) for failure in found.failures}
    assert len(found.failures) == len(names)
    for name, stage, words in (
        ("pipe", "models", "model.safetensors is a named pipe (FIFO)"),
        ("cut", "models", "model.safetensors is damaged: its header promises"),
        ("pointer", "models", "model.safetensors is a Git LFS pointer"),
        ("numbers", "surprisal", "4 weights are not floating-point numbers"),
        ("zeros", "surprisal", "weights are all zero, the first is model.embed_tokens.weight"),
    ):
        assert failures[name][0] == stage
        assert words in failures[name][1]
        assert "\n" not in failures[name][1]
    bits = [words_of(out, found.run, name).surprisal_bits for name in ("llama", "adapter")]
    assert len(bits[0]) == 19
    np.testing.assert_allclose(bits[1], bits[0], atol=1e-4)
