"""Actors, nodes and drivers killed during a run: it finishes, or resumes, with the tables of an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from harness.runs import pipeline
from harness.runs.pipeline import RunOptions
from harness.runs.progress import Display
from harness.spec import quickstart as quickstart_spec
from harness.storage import tables
from harness.storage.store import Store
from harness.units import quickstart

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow]

SPEC = replace(quickstart_spec(), models=("tiny-llama", "tiny-gpt2"), protocols=("strict",), variants=())
# Columns that differ between two runs of the same units.
OF_A_RUN = {"created", "code_version", "run"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """OUT of a run without faults, and its name."""
    ray.shutdown()
    out = str(tmp_path_factory.mktemp("undisturbed"))
    outcome = pipeline.run(SPEC, out)
    assert not outcome.failures
    ray.shutdown()
    return out, outcome.run


@pytest.fixture
def out(undisturbed, tmp_path):
    """A new OUT with the same models and recording."""
    shutil.copytree(quickstart.folder_of(undisturbed[0]), quickstart.folder_of(str(tmp_path)))
    return str(tmp_path)


@pytest.fixture
def cluster(undisturbed):
    """A head without cores, and two worker nodes."""
    ray.shutdown()
    memory = {"object_store_memory": 2**27}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    made.workers = [made.add_node(num_cpus=2, **memory) for _ in range(2)]
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def assert_same_tables(one, other, run):
    for table in ("neuroid_scores", "layer_scores", "model_scores", "reading_scores", "word_surprisals", "folds"):
        ours, theirs = (_in_order(tables.read(out, table, run)) for out in (one, other))
        assert len(ours)
        assert ours.equals(theirs), table


def _in_order(frame):
    frame = frame.drop(columns=[name for name in OF_A_RUN if name in frame])
    return frame.sort_values(list(frame.columns), ignore_index=True)


def during_extraction(do):
    """Start a thread that waits for an actor to load a model or extract features, and calls `do` on its process."""

    def watch():
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for process in psutil.Process().children(recursive=True):  # other sessions on this machine live on
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "ray::ModelActor.extract" in " ".join(process.cmdline()):
                        do(process)
                        return
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_an_actor_killed_during_extraction(undisturbed, out, cluster):
    during_extraction(lambda process: process.kill())
    outcome = pipeline.run(SPEC, out)
    assert not outcome.failures
    assert_same_tables(out, undisturbed[0], outcome.run)
    read = tables.read(out, "extractions", outcome.run)
    assert read.recoveries.sum() == tables.read(out, "runs", outcome.run).n_recoveries.item() == 1


def test_a_node_killed_during_extraction(undisturbed, out, cluster):
    def kill_its_node(process):
        raylet = next(parent for parent in process.parents() if "raylet" in parent.name())
        (node,) = [n for n in cluster.workers if n.all_processes["raylet"][0].process.pid == raylet.pid]
        cluster.remove_node(node, allow_graceful=False)

    thread = during_extraction(kill_its_node)
    outcome = pipeline.run(SPEC, out)
    assert not thread.is_alive()
    assert not outcome.failures
    assert_same_tables(out, undisturbed[0], outcome.run)
    assert tables.read(out, "extractions", outcome.run).recoveries.sum() >= 1


def test_on_made_up_gpus_models_run_where_they_are_placed_and_give_the_same_tables(undisturbed, out, monkeypatch):
    ray.shutdown()
    monkeypatch.setenv("HARNESS_MADE_UP_GPUS", "1")
    memory = {"object_store_memory": 2**27}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    nodes = [made.add_node(num_cpus=1, num_gpus=n, labels={"gpu-memory-gb": "24"}, **memory) for n in (2, 1)]
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    try:
        outcome = pipeline.run(SPEC, out, RunOptions(device="cuda"))
        assert not outcome.failures
        assert_same_tables(out, undisturbed[0], outcome.run)
        read, about = tables.read(out, "extractions", outcome.run), tables.read(out, "runs", outcome.run)
        assert set(read.node) <= {node.node_id for node in nodes}
        assert set(read.gpus) <= {"0", "1"}
        assert (about.n_nodes.item(), about.n_gpus.item()) == (2, 3)
        assert 0 < about.extraction_s.item() < outcome.seconds
        assert about.parity_states.item() < 1e-5
    finally:
        ray.shutdown()
        made.shutdown()


def command(out):
    models = [part for name in SPEC.models for part in ("--model", name)]
    how = ["--protocol", "strict", "--no-untrained", "--out", out]
    return [sys.executable, "-m", "harness.cli", "run", "quickstart", *models, *how]


def wait_for(found, process, seconds=90):
    until = time.monotonic() + seconds
    while not found():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)


def send_to_all(process, how):
    """Send a signal to every process of a job, as Slurm, systemd and `timeout` do."""
    for member in [*psutil.Process(process.pid).children(recursive=True), process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(how)


def stored(out):
    """The manifests of units, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in Path(out).glob("units/[!.]*/*/manifest.json")}


def session_of(process):
    """The folder of a driver's Ray."""
    marks = Path("/tmp/ray").glob("session_2*/of-harness")
    (session,) = [mark.parent for mark in marks if f" {process.pid}@" in mark.read_text()]
    return session


def test_a_driver_that_was_stopped_and_then_killed_resumes(undisturbed, out):
    """Stored units are not computed again, and the tables are the same."""
    ray.shutdown()
    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(stored(out)) >= 4, process)
    session = session_of(process)
    send_to_all(process, signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "stopped; run the same command again" in said
    assert "nothing to do" not in said
    assert not session.exists()
    assert not list(Path(out).glob("units/.claims/*/*"))
    assert not list(Path(out).glob("units/.aside-*"))
    (about,) = tables.read(out, "runs", undisturbed[1]).to_dict("records")  # finished units are in the tables
    after_stop = stored(out)
    n_scores = sum(path.parts[-3] == "scores" for path in after_stop)
    assert (about["status"], about["n_failed"], about["n_computed"]) == ("stopped", 0, n_scores)

    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(stored(out)) > len(after_stop), process)
    process.kill()
    process.wait(60)
    before = stored(out)
    assert after_stop.items() <= before.items()
    n_scores = sum(path.parts[-3] == "scores" for path in before)
    done = subprocess.run([*command(out), "--json"], capture_output=True, text=True, check=True)
    ended = json.loads(done.stdout)
    assert not ended["failures"]
    assert ended["n_reused"] >= n_scores  # a worker that outlives its driver by a moment may store one more
    assert ended["n_reused"] + ended["n_computed"] == ended["n_units"]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert_same_tables(out, undisturbed[0], undisturbed[1])


def test_two_drivers_on_one_store_compute_each_unit_once(undisturbed, out):
    ray.shutdown()
    both = [subprocess.Popen([*command(out), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)]  # fmt: skip
    said = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    ended = [json.loads(stdout) for stdout, _ in said]
    assert sum(one["n_computed"] for one in ended) == ended[0]["n_units"] == ended[1]["n_units"]
    n_extracted = sum(stderr.count("did='extracted") for _, stderr in said)
    assert n_extracted == len(list(Path(out).glob("units/features/*/manifest.json")))
    assert_same_tables(out, undisturbed[0], undisturbed[1])
    store = Store(out)
    for manifest in Path(out).glob("units/[!.]*/*/manifest.json"):
        store.verify(manifest.parts[-3], manifest.parts[-2])


def test_corrupt_features_are_named_and_extracted_again(undisturbed, out, caplog):
    """Features corrupted between extraction and scoring: the score unit detects it by the checksum."""
    ray.shutdown()  # a process verifies each checksum once
    shutil.copytree(Path(undisturbed[0]) / "units" / "features", Path(out) / "units" / "features")
    damaged = min(Path(out).glob("units/features/*/features.safetensors"))
    stamp = damaged.stat()
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    os.utime(
        damaged, ns=(stamp.st_atime_ns, stamp.st_mtime_ns)
    )  # so that the modification time does not reveal the change

    with caplog.at_level("INFO"), Display(Console(quiet=True)) as display:
        again = pipeline.run(SPEC, out, listener=display)
    assert not again.failures
    assert f"features unit {damaged.parent.name}: features.safetensors is corrupt" in caplog.text
    assert "It is computed again" in caplog.text
    read = tables.read(out, "extractions", again.run)
    assert list(read[~read.reused].key) == [damaged.parent.name]
    assert again.run == undisturbed[1]
    assert_same_tables(out, undisturbed[0], again.run)


def test_units_over_the_time_limit_are_failures_and_nothing_hangs(out, monkeypatch):
    """The limit is shorter than loading any model, but long enough for the scores of some controls."""
    ray.shutdown()
    monkeypatch.setenv("HARNESS_UNIT_LIMIT_S", "1.5")
    outcome = pipeline.run(SPEC, out)
    late = {failure.model for failure in outcome.failures if failure.exception == "UnitTimeoutError"}
    assert {"tiny-llama", "tiny-gpt2"} <= late
    assert not list(Path(out).glob("units/.claims/*/*"))
    monkeypatch.setenv("HARNESS_UNIT_LIMIT_S", "soon")
    with pytest.raises(ValueError, match="HARNESS_UNIT_LIMIT_S is 'soon'; expected a number of seconds"):
        pipeline.run(SPEC, out)
    monkeypatch.delenv("HARNESS_UNIT_LIMIT_S")
    assert not pipeline.run(SPEC, out).failures
