"""Runs submitted as jobs to a Ray cluster on this machine, with a token."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
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
from tests.harness.cluster.heads import free_port, started

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow]

SPEC = replace(quickstart_spec(), models=("tiny-gpt2",), protocols=("strict",), variants=())
OPTIONS = ("--model", "tiny-gpt2", "--protocol", "strict", "--no-untrained")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Dashboard address, and an environment with the cluster's token."""
    ray.shutdown()
    folder = tmp_path_factory.mktemp("head")
    (folder / "token").write_text("a-token-of-this-test-and-of-nothing-else")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_worker_niceness": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    address = f"http://127.0.0.1:{(dashboard := free_port())}"
    # A job's driver joins the newest cluster in the folder of its node: not one that another test has just started.
    ray_folder = tempfile.mkdtemp(prefix="ray-")  # short, for the sockets
    command = [
        Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--port={free_port()}", "--num-cpus=2",
        f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--object-store-memory=200000000",
        f"--temp-dir={ray_folder}", "--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0",
        "--metrics-export-port=0",
    ]  # fmt: skip
    head = started(
        lambda: subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ),
        lambda: harness("status", env=env, address=address).returncode == 0,
        90,
        lambda ended: ended.communicate()[0],
    )
    yield address, env
    for process in (*psutil.Process(head.pid).children(recursive=True), head):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.communicate(timeout=60)
    shutil.rmtree(ray_folder, ignore_errors=True)


def harness(*arguments, env, address):
    command = [sys.executable, "-m", "harness.cli", *arguments, "--address", address]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=Path(__file__).parents[3])


@pytest.fixture(scope="module")
def submitted(cluster, tmp_path_factory):
    """OUT and the completed command of one submitted run."""
    address, env = cluster
    out = str(tmp_path_factory.mktemp("submitted"))
    return out, harness("submit", "quickstart", *OPTIONS, "--out", out, "--json", env=env, address=address)


def test_a_job_gives_the_tables_of_a_local_run_under_the_same_name(submitted, tmp_path):
    out, command = submitted
    assert command.returncode == 0, command.stderr
    row = json.loads(command.stdout)
    assert (row["status"], row["exit_status"], row["submitted"]) == ("SUCCEEDED", 0, True)
    assert f"run {row['run']}: " in command.stderr  # the log was followed to its last line
    assert "WebSocket" not in command.stderr
    ray.shutdown()
    local = pipeline.run(SPEC, str(tmp_path))
    ray.shutdown()
    assert row["job"] == row["run"] == local.run
    for table in ("model_scores", "layer_scores", "neuroid_scores", "reading_scores", "word_surprisals", "folds"):
        of_local, of_job = (_in_order(tables.read(folder, table, local.run)) for folder in (str(tmp_path), out))
        assert len(of_local)
        assert of_local.equals(of_job), table


def _in_order(frame):
    frame = frame.drop(columns=[name for name in ("created", "code_version") if name in frame])
    return frame.sort_values(list(frame.columns), ignore_index=True)


def test_a_run_submitted_twice_is_computed_once(cluster, submitted):
    address, env = cluster
    out, first = submitted
    started = tables.read(out, "runs").started.tolist()
    second = harness("submit", "quickstart", *OPTIONS, "--out", out, "--json", env=env, address=address)
    assert second.returncode == 0
    assert "is already done" in second.stderr
    assert json.loads(second.stdout)["submitted"] is False
    assert tables.read(out, "runs").started.tolist() == started
    (listed,) = json.loads(harness("status", "--json", env=env, address=address).stdout)
    assert listed["job"] == json.loads(first.stdout)["job"]


@pytest.mark.parametrize("command", [("status",), ("cancel", "any"), ("submit", "quickstart", *OPTIONS)])
def test_a_wrong_token_is_refused_and_not_printed(cluster, submitted, command):
    address, env = cluster
    without_token = {name: value for name, value in env.items() if name != "RAY_AUTH_TOKEN_PATH"}
    wrong = {**without_token, "RAY_AUTH_TOKEN": "another-token-than-that"}
    options = ("--out", submitted[0]) if command[0] == "submit" else ()
    done = harness(*command, *options, env=wrong, address=address)
    assert done.returncode == 2
    assert "refused the token" in done.stderr
    assert "another-token-than-that" not in done.stdout + done.stderr


def test_a_failed_job_returns_its_exit_status_and_is_submitted_again(cluster, submitted, tmp_path):
    address, env = cluster
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    options = ("--model", str(tmp_path / "broken"), "--protocol", "paper", "--out", submitted[0])
    for _ in range(2):
        done = harness("submit", "quickstart", *options, "--json", env=env, address=address)
        row = json.loads(done.stdout)
        assert (done.returncode, row["status"], row["exit_status"], row["submitted"]) == (2, "FAILED", 2, True)
        assert "cannot be planned here" in done.stderr


def test_a_cancelled_job_drains_and_writes_its_tables(cluster, submitted):
    address, env = cluster
    out, _ = submitted
    options = ("--model", "tiny-llama", "--model", "tiny-t5", "--out", out, "--no-follow", "--json")
    job = json.loads(harness("submit", "quickstart", *options, env=env, address=address).stdout)["job"]
    deadline = time.monotonic() + 60
    while len(list(Path(out).glob("units/.claims/features/*"))) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    cancelled = harness("cancel", job, "--json", env=env, address=address)
    assert cancelled.returncode == 0
    assert json.loads(cancelled.stdout)["status"] == "STOPPED"
    assert tables.read(out, "runs", job).status.item() == "stopped"
    assert not list(Path(out).glob("units/.claims/*/*"))
    status = harness("status", job, env=env, address=address)
    assert "STOPPED" in status.stdout
    assert harness("cancel", "unheard-of", env=env, address=address).returncode == 2


@pytest.mark.parametrize(("given", "expected"), [
    (None, jobs.ADDRESS), ("127.0.0.1:8265", "http://127.0.0.1:8265"), ("https://h:1", "https://h:1"),
])  # fmt: skip
def test_addresses(given, expected, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert jobs.address_of(given) == expected
    with pytest.raises(ValueError, match="is not the dashboard"):
        jobs.address_of("ray://h:10001")


def test_secrets_are_refused_as_variables_of_a_job(cluster, submitted):
    address, env = cluster
    command = ("submit", "quickstart", *OPTIONS, "--out", submitted[0], "--env", "HF_TOKEN=hidden")
    done = harness(*command, env=env, address=address)
    assert done.returncode == 2
    assert "HF_TOKEN" in done.stderr
    assert "set it on the nodes" in done.stderr
    assert "hidden" not in done.stderr
