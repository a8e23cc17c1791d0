"""Runs as jobs of a Ray cluster on this machine, with a token, as a user submits them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray

from harness.cluster import jobs
from harness.runs import pipeline
from harness.spec import quickstart as quickstart_spec
from harness.storage import tables

SPEC = replace(quickstart_spec(), models=("tiny-gpt2",), protocols=("strict",), variants=())
ASKED = ("--model", "tiny-gpt2", "--protocol", "strict", "--no-untrained")


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Address, and the environment of somebody who has its token."""
    ray.shutdown()
    folder = tmp_path_factory.mktemp("head")
    (folder / "token").write_text("a-token-of-this-test-and-of-nothing-else")
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env = {
        **known,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    address = f"http://127.0.0.1:{(dashboard := free_port())}"
    head = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--port={free_port()}", "--num-cpus=2",
         f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--object-store-memory=200000000",
         "--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0", "--metrics-export-port=0"],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 90
    while harness("status", env=env, address=address).returncode:
        assert head.poll() is None
        assert time.monotonic() < until
        time.sleep(1)
    yield address, env
    for process in (*psutil.Process(head.pid).children(recursive=True), head):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.communicate(timeout=60)


def harness(*arguments, env, address):
    command = [sys.executable, "-m", "harness.cli", *arguments, "--address", address]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=Path(__file__).parents[3])


@pytest.fixture(scope="module")
def submitted(cluster, tmp_path_factory):
    """OUT, and what the command said, of one run that was submitted."""
    address, env = cluster
    out = str(tmp_path_factory.mktemp("submitted"))
    return out, harness("submit", "quickstart", *ASKED, "--out", out, "--json", env=env, address=address)


def test_a_job_gives_the_tables_of_a_local_run_under_the_same_name(submitted, tmp_path):
    out, said = submitted
    assert said.returncode == 0, said.stderr
    row = json.loads(said.stdout)
    assert (row["status"], row["exit_status"], row["submitted"]) == ("SUCCEEDED", 0, True)
    assert f"run {row['run']}: " in said.stderr  # the log was followed to its last line
    assert "WebSocket" not in said.stderr
    ray.shutdown()
    here = pipeline.run(SPEC, str(tmp_path))
    ray.shutdown()
    assert row["job"] == row["run"] == here.run
    for table in ("model_scores", "layer_scores", "neuroid_scores", "reading_scores", "word_surprisals", "folds"):
        ours, theirs = (_in_order(tables.read(each, table, here.run)) for each in (str(tmp_path), out))
        assert len(ours)
        assert ours.equals(theirs), table


def _in_order(frame):
    frame = frame.drop(columns=[name for name in ("created", "code_version") if name in frame])
    return frame.sort_values(list(frame.columns), ignore_index=True)


def test_submitted_twice_it_is_done_once(cluster, submitted):
    address, env = cluster
    out, first = submitted
    began = tables.read(out, "runs").started.tolist()
    said = harness("submit", "quickstart", *ASKED, "--out", out, "--json", env=env, address=address)
    assert said.returncode == 0
    assert "is done already" in said.stderr
    assert json.loads(said.stdout)["submitted"] is False
    assert tables.read(out, "runs").started.tolist() == began
    (listed,) = json.loads(harness("status", "--json", env=env, address=address).stdout)
    assert listed["job"] == json.loads(first.stdout)["job"]


@pytest.mark.parametrize("command", [("status",), ("cancel", "any"), ("submit", "quickstart", *ASKED)])
def test_a_wrong_token_is_refused_and_told_nowhere(cluster, submitted, command):
    address, env = cluster
    wrong = {name: value for name, value in env.items() if name != "RAY_AUTH_TOKEN_PATH"}
    options = ("--out", submitted[0]) if command[0] == "submit" else ()
    said = harness(*command, *options, env={**wrong, "RAY_AUTH_TOKEN": "another-token-than-that"}, address=address)
    assert said.returncode == 2
    assert "refused the token" in said.stderr
    assert "another-token-than-that" not in said.stdout + said.stderr


def test_a_job_that_fails_gives_its_exit_status_and_is_submitted_again(cluster, submitted, tmp_path):
    address, env = cluster
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    asked = ("--model", str(tmp_path / "broken"), "--protocol", "paper", "--out", submitted[0])
    for _ in range(2):
        said = harness("submit", "quickstart", *asked, "--json", env=env, address=address)
        row = json.loads(said.stdout)
        assert (said.returncode, row["status"], row["exit_status"], row["submitted"]) == (2, "FAILED", 2, True)
        assert "cannot be planned here" in said.stderr


def test_a_cancelled_job_drains_and_writes(cluster, submitted):
    address, env = cluster
    out, _ = submitted
    asked = ("--model", "tiny-llama", "--model", "tiny-t5", "--out", out, "--no-follow", "--json")
    job = json.loads(harness("submit", "quickstart", *asked, env=env, address=address).stdout)["job"]
    until = time.monotonic() + 60
    while len(list(Path(out).glob("units/.claims/features/*"))) == 0:
        assert time.monotonic() < until
        time.sleep(0.05)
    said = harness("cancel", job, "--json", env=env, address=address)
    assert said.returncode == 0
    assert json.loads(said.stdout)["status"] == "STOPPED"
    assert tables.read(out, "runs", job).status.item() == "stopped"
    assert not list(Path(out).glob("units/.claims/*/*"))
    shown = harness("status", job, env=env, address=address)
    assert "STOPPED" in shown.stdout
    assert harness("cancel", "unheard-of", env=env, address=address).returncode == 2


@pytest.mark.parametrize(("given", "found"), [
    (None, jobs.ADDRESS), ("127.0.0.1:8265", "http://127.0.0.1:8265"), ("https://h:1", "https://h:1"),
])  # fmt: skip
def test_addresses(given, found, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert jobs.address_of(given) == found
    with pytest.raises(ValueError, match="no dashboard"):
        jobs.address_of("ray://h:10001")


def test_secrets_are_not_made_variables_of_a_job(cluster, submitted):
    address, env = cluster
    asked = ("submit", "quickstart", *ASKED, "--out", submitted[0], "--env", "HF_TOKEN=hidden")
    said = harness(*asked, env=env, address=address)
    assert said.returncode == 2
    assert "HF_TOKEN" in said.stderr
    assert "set it on the nodes" in said.stderr
    assert "hidden" not in said.stderr
