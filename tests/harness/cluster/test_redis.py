"""A head that is killed and started again, with Ray's cluster state in a real Redis."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.harness.cluster.heads import free_port, started

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow]

COMMAND = ("run", "quickstart", "--model", "tiny-gpt2", "--protocol", "strict", "--no-untrained", "--json")
NODES = """
import json, time, ray
ray.init(log_to_driver=False, logging_level="ERROR")
while not (alive := [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]):
    time.sleep(0.1)
print(json.dumps(alive))
"""


def wait(condition, process):
    """Wait until the condition holds; `process` must be running meanwhile."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill(process):
    """Kill a process and all that it has started, as a machine that is switched off."""
    processes = [psutil.Process(process.pid)] if process.poll() is None else []
    processes += [child for parent in processes for child in parent.children(recursive=True)]
    for running in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            running.kill()
    process.wait(60)


@pytest.fixture
def redis(tmp_path):
    """Address and password of a Redis server on loopback, which keeps nothing on disk."""
    if not (server := shutil.which("redis-server")):
        pytest.skip("needs redis-server")
    port, password = free_port(), secrets.token_hex(16)
    settings = f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\ndir {tmp_path}\n'
    process = subprocess.Popen([server, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    process.stdin.write(settings)
    process.stdin.close()
    yield f"127.0.0.1:{port}", password
    kill(process)


class Cluster:
    """Nodes started by `ray start`, each with a folder of its own, and runs whose driver is on the head."""

    def __init__(self, folder, redis, stack):
        self.folder, self.redis, self.stack, self.port = folder, redis, stack, free_port()
        (folder / "token").write_text(secrets.token_hex(16))
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_ADDRESS": f"127.0.0.1:{self.port}",
        }  # fmt: skip

    def start_head(self, name):
        """Start a head without cores, and wait until it says that it runs: it listens long before."""
        address, password = self.redis
        options = ("--head", f"--port={self.port}", f"--redis-password={password}", "--num-cpus=0")
        env = {"RAY_REDIS_ADDRESS": address, "RAY_external_storage_namespace": "of-this-test"}
        return started(
            lambda: self.start_node(name, *options, "--include-dashboard=false", **env),
            lambda: "Ray runtime started" in self.printed(name),
            240,
            lambda _: self.printed(name, "stderr"),
        )

    def start_node(self, name, *options, **env):
        ports = ("--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0", "--metrics-export-port=0")
        common = ("--block", "--object-store-memory=200000000", f"--temp-dir={self.folder / name}", *ports)
        return self._start(name, [Path(sys.executable).parent / "ray", "start", *common, *options], env)

    def start_run(self, name, out):
        options = ("--address", self.env["RAY_ADDRESS"], "--out", str(out))
        return self._start(name, [sys.executable, "-m", "harness.cli", *COMMAND, *options], {})

    def printed(self, name, on="stdout"):
        """What a node or a run has printed on stdout or stderr."""
        return (self.folder / f"{name}.{on}").read_text()

    def living_nodes(self):
        """Ids of the living nodes with cores; waits for the first."""
        printed = subprocess.check_output([sys.executable, "-c", NODES], env=self.env, timeout=240, text=True)
        return json.loads(printed.splitlines()[0])  # Ray prints there too, that the first head was lost

    def _start(self, name, command, env):
        with (self.folder / f"{name}.stdout").open("w") as out, (self.folder / f"{name}.stderr").open("w") as err:
            process = subprocess.Popen(command, env=self.env | env, stdout=out, stderr=err, text=True,
                                       start_new_session=True, cwd=Path(__file__).parents[3])  # fmt: skip
        self.stack.callback(kill, process)
        return process


@pytest.fixture
def cluster(redis):
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="ray-"))  # a short path, for Ray's sockets
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Cluster(folder, redis, stack)


def test_nodes_outlive_the_head_and_a_run_goes_on_where_it_ended(cluster, tmp_path):
    def stored():
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("units/scores/*/manifest.json")}

    head = cluster.start_head("head")
    node = cluster.start_node("node", f"--address={cluster.env['RAY_ADDRESS']}", "--num-cpus=2",
                              RAY_gcs_rpc_server_reconnect_timeout_s="240")  # fmt: skip
    run = cluster.start_run("run", tmp_path)
    (node_id,) = cluster.living_nodes()
    wait(stored, run)
    kill(head)
    kill(run)  # it was on the same machine
    before = stored()

    cluster.start_head("restarted")
    again = cluster.start_run("again", tmp_path)
    assert cluster.living_nodes() == [node_id]
    assert again.wait(240) == 0, cluster.printed("again", "stderr")
    outcome = json.loads(cluster.printed("again"))
    assert outcome["failures"] == []
    assert outcome["n_computed"] > 0
    assert outcome["n_reused"] >= len(before) > 0
    after = stored()
    assert len(after) == outcome["n_units"]
    assert before.items() <= after.items()  # nothing was written again
    assert node.poll() is None
