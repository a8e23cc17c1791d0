"""Runs as Slurm jobs: the script, and real daemons of Slurm with two nodes on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from harness.cluster import slurm
from harness.jobs import slurm_node
from harness.runs import local_ray
from harness.storage import tables
from tests.harness.cluster.heads import free_port

ROOT = Path(__file__).parents[3]
OPTIONS = ("--model", "tiny-gpt2", "--protocol", "strict", "--no-untrained")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
SlurmUser={user}
SlurmdUser={user}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=requeue_delay=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def test_the_script_names_the_run_its_nodes_and_its_command():
    options = ("--partition=gpu", "--gpus-per-node=4")
    script = slurm.script_of("run-1", ["real", "--out", "/a b"], Path("/code"), "/a b/%j.log", 3, options, {"A": "x y"})
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    wanted = {"--job-name=run-1", "--nodes=3", "--requeue", "--signal=B:USR1@180", '--output="/a b/%j.log"', *options}
    assert wanted <= {line.removeprefix("#SBATCH ") for line in lines}
    assert lines[-3:] == [
        "export A='x y'", "cd /code || exit",
        f"exec {sys.executable} -u -m harness.jobs.slurm real --out '/a b'",
    ]  # fmt: skip


@pytest.mark.parametrize(("option", "message"), [
    ("gpu", "wanted an option of sbatch"), ("--nodes=2", "sets --nodes itself"), ("-J name", "sets -J itself"),
    ("--time=1\nrm -r /", "wanted an option of sbatch"),
])  # fmt: skip
def test_options_that_sbatch_would_not_take_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        slurm.script_of("run-1", [], Path("/code"), "log", options=[option])


def test_secrets_do_not_enter_a_script():
    with pytest.raises(ValueError, match="HF_TOKEN"):
        slurm.script_of("run-1", [], Path("/code"), "log", env={"HF_TOKEN": "x"})


def test_without_slurm_the_user_is_told_where_to_submit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OSError, match="login node"):
        slurm.find("run-1")


def test_the_first_node_holds_the_head_and_each_gets_what_slurm_gave_it():
    given = {"SLURM_CPUS_ON_NODE": "16", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "7"}
    head = slurm_node.command("10.0.0.1:20007", given | {"SLURM_NODEID": "0"})
    other = slurm_node.command("10.0.0.1:20007", given | {"SLURM_NODEID": "1"})
    assert {"--head", "--port=20007", "--node-ip-address=10.0.0.1"} <= set(head)
    assert "--address=10.0.0.1:20007" in other
    assert all({"--num-cpus=16", "--num-gpus=4", "--block"} <= set(command) for command in (head, other))


@pytest.mark.parametrize(("then", "status", "n", "started_s"), [
    ("exit 0", 0, 1, 60), ("exit 7", 7, 3, 60), ("test $(wc -l < started) = 2", 0, 2, 60),
    ("kill -TERM $PPID; exit 1", 1, 1, 60), ("exit 1", 1, 1, 0),
], ids=["starts", "never starts", "starts at last", "is stopped", "had started"])  # fmt: skip
def test_ray_that_does_not_start_on_a_node_is_started_again(then, status, n, started_s, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm_node, "_STARTED_S", started_s)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert slurm_node.start(["sh", "-c", f"echo one >> started; {then}"]) == status
    finally:
        signal.signal(signal.SIGTERM, before)
    assert Path("started").read_text().count("one") == n


def test_a_run_on_one_node_takes_the_cores_that_slurm_gave_it(monkeypatch):
    options = {}
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "3")
    monkeypatch.setattr(local_ray.ray, "init", lambda **given: options.update(given))
    local_ray.start()
    assert options["num_cpus"] == 3


# --- real daemons -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def environment():
    """Environment in which the commands of Slurm reach daemons of this test, with two nodes of one core."""
    daemons = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in
               ("munged", "slurmctld", "slurmd")}  # fmt: skip
    if os.getuid() or not all(daemons.values()):
        pytest.skip("needs slurmctld, slurmd and munged, and root, who may start them")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path, for the socket
    ports, host = [free_port() for _ in range(3)], socket.gethostname().partition(".")[0]
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o400)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, ports=ports, host=host, user="root"))
    folder.chmod(0o755)
    named = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munge.pid", "log-file": "munge.log",
             "seed-file": "munge.seed"}  # fmt: skip
    munge = [f"--{option}={folder / file}" for option, file in named.items()]
    config = ["-D", "-f", folder / "slurm.conf"]
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "HARNESS_LOG": "", "RAY_AUTH_MODE": ""}
    running = []
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for command in (
            [daemons["munged"], "--foreground", "--force", *munge], [daemons["slurmctld"], *config],
            [daemons["slurmd"], "-N", "n1", *config], [daemons["slurmd"], "-N", "n2", *config],
        ):  # fmt: skip
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env))
            stack.callback(running[-1].wait)
            stack.callback(running[-1].terminate)
        _wait(lambda: _printed(["sinfo", "--noheader", "--states=idle", "--format=%D"], env).strip() == "2", 60)
        yield env
        _printed(["scancel", "--me"], env)
        _wait(lambda: not _printed(["squeue", "--noheader"], env), 60)


def _printed(command, env):
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False).stdout


def _wait(is_so, seconds):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _submit(env, out, *options):
    command = [sys.executable, "-m", "harness.cli", "submit", "quickstart", *OPTIONS, "--out", out, "--json", "--slurm"]
    nodes = ["--nodes", "2", "--sbatch=--time=20"]
    done = subprocess.run([*command, *nodes, *options], capture_output=True, text=True, env=env, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _details(job, env):
    details = _printed(["scontrol", "show", "job", job], env)
    return dict(item.partition("=")[::2] for item in details.split() if "=" in item)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.cluster
def test_a_job_on_two_nodes_goes_on_after_its_time_limit_and_is_not_repeated(environment, tmp_path):
    out = str(tmp_path / "out")
    first = _submit(environment, out, "--sbatch=--hold")
    assert first["state"] == "submitted"
    assert _submit(environment, out) == {**first, "state": "queued"}
    _printed(["scontrol", "release", first["job"]], environment)
    _wait(lambda: any((tmp_path / "out" / "units").glob("*/*/manifest.json")), 300)
    _printed(["scancel", "--batch", "--signal=USR1", first["job"]], environment)  # as before the time limit
    _wait(lambda: _details(first["job"], environment)["JobState"] in ("COMPLETED", "FAILED"), 480)
    log = Path(first["log"]).read_text()
    assert _details(first["job"], environment)["JobState"] == "COMPLETED", log
    assert _details(first["job"], environment)["Restarts"] == "1", log
    assert "is queued again" in log
    assert tables.holds(out, first["run"])
    scored = [line for line in log.splitlines() if "did='scored" in line]
    named = [line.partition(" seconds=")[0] for line in scored]
    assert len(set(named)) == len(named) > 0
    assert _submit(environment, out)["state"] == "done"
