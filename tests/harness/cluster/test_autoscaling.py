"""A cluster that grows from a head without GPUs: Ray's autoscaler with its fake cloud provider."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray

from harness.models import tiny
from harness.storage import tables
from tests.harness.cluster.heads import free_port

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow]

KINDS = {
    "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
    "gpus": {
        "resources": {"CPU": 2, "GPU": 2, "object_store_memory": 2**27}, "labels": {"gpu-memory-gb": "24"},
        "node_config": {}, "min_workers": 0, "max_workers": 1,
    },
}  # fmt: skip
HEAD_ID = "f" * 51 + "00000"  # the id used by Ray's fake provider
STEPS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
)  # fmt: skip
CLOUD = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head with two cores; its autoscaler may start one node with two made-up GPUs: process, address, environment."""
    ray.shutdown()
    tmp_path = tmp_path_factory.mktemp("head")
    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    config = {
        "cluster_name": "grows", "max_workers": 1, "upscaling_speed": 1, "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "external", "module": CLOUD, "gcs_address": address, "launch_multiple": True,
            "head_node_id": HEAD_ID, "disable_node_updaters": True,
        },
        "available_node_types": KINDS, "head_node_type": "ray.head.default",
        "file_mounts": {}, "file_mounts_sync_continuously": False, **{step: [] for step in STEPS}, "auth": {},
    }  # fmt: skip
    (tmp_path / "cluster.yaml").write_text(json.dumps(config))
    (tmp_path / "token").write_text("a-token-of-this-test-and-of-nothing-else")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "HARNESS_MADE_UP_GPUS": "1",
        "RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }  # fmt: skip
    process = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--port={address.rpartition(':')[2]}",
         "--num-cpus=2", "--num-gpus=0", "--labels=largest-gpu-node=2x24", "--include-dashboard=false",
         "--object-store-memory=200000000", f"--autoscaling-config={tmp_path / 'cluster.yaml'}",
         "--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0", "--metrics-export-port=0"],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not nodes(process):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.5)
    yield process, address, env
    for child in (*psutil.Process(process.pid).children(recursive=True), process):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait(timeout=60)


def nodes(process):
    """Number of live nodes, counted by their raylets."""
    n = 0
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            is_fork = child.parent().name() == "raylet"  # it is about to become a worker
            n += child.name() == "raylet" and child.status() != psutil.STATUS_ZOMBIE and not is_fork
    return n


def test_a_model_waits_for_a_gpu_node_to_start_and_the_node_is_removed_afterwards(head, tmp_path):
    process = head[0]
    arguments = "run", "quickstart", "--model", "tiny-gpt2", "--protocol", "strict", "--no-untrained"
    out = on_the_node_that_is_added(head, tmp_path, *arguments)
    extractions = tables.read(out, "extractions")
    assert len(extractions)
    assert set(extractions.gpus) <= {"0", "1"}
    await_one_node(process)


def test_surprisal_waits_for_a_gpu_node_to_start(head, tmp_path):
    model = tiny.build("llama", tmp_path / "model", ["a word and another word"], 0)
    (tmp_path / "words.txt").write_text("a word and another word")
    out = on_the_node_that_is_added(head, tmp_path, "surprisal", str(tmp_path / "words.txt"), "--model", str(model))
    assert tables.read(out, "word_surprisals").word.tolist() == ["a", "word", "and", "another", "word"]
    await_one_node(head[0])


def on_the_node_that_is_added(head, folder, *arguments):
    """Run a command on the cluster and return its OUT; a second node was there at some time until its end."""
    process, address, env = head
    command = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *arguments, "--out", folder / "out", "--address", address],
        stdout=(folder / "log").open("w"), stderr=subprocess.STDOUT, env=env, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    most, deadline = 0, time.monotonic() + 300
    while command.poll() is None and time.monotonic() < deadline:
        most = max(most, nodes(process))
        time.sleep(0.5)
    command.kill()
    assert command.wait() == 0, (folder / "log").read_text()
    assert most == 2
    return str(folder / "out")


def await_one_node(process):
    deadline = time.monotonic() + 120
    while nodes(process) > 1 and time.monotonic() < deadline:
        time.sleep(1)
    assert nodes(process) == 1
