"""Ray on one node of a Slurm job: `python -m harness.jobs.slurm_node HOST:PORT`, started on each node by srun.

The first node holds the head. CPU cores and GPUs are those that Slurm gave the job on this node. Ray gives a node 30 s
to start, which are too few on a busy one, and is started again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

_TRIES = 3
_STARTED_S = 120.0  # Ray that runs for so long has started


def command(address: str, environment: dict[str, str]) -> list[str]:
    """The `ray start` of this node.

    Args:
        address: HOST:PORT of the head.
        environment: variables that Slurm sets for a task.
    """
    cores = environment.get("SLURM_CPUS_ON_NODE", "1")
    gpus = environment.get("SLURM_GPUS_ON_NODE", "0")
    ray = str(Path(sys.executable).parent / "ray")
    start = [ray, "start", "--block", f"--num-cpus={cores}", f"--num-gpus={gpus}", "--disable-usage-stats"]
    if environment.get("SLURM_NODEID", "0") != "0":
        return [*start, f"--address={address}"]
    host, _, port = address.rpartition(":")
    # Jobs of several users can share a node, so that ports and folder belong to this job.
    folder = Path(tempfile.gettempdir()) / f"ray-{os.getuid()}-{environment.get('SLURM_JOB_ID', '0')}"
    return [
        *start, "--head", f"--node-ip-address={host}", f"--port={port}", "--include-dashboard=false",
        f"--ray-client-server-port={int(port) + 10_000}", f"--temp-dir={folder}",
    ]  # fmt: skip


def start(ray_start: list[str]) -> int:
    """Run `ray start --block`, again if it does not start; returns its exit status.

    SIGTERM, which Slurm sends to all processes of the step, ends Ray, and with it this process.

    Args:
        ray_start: result of `command`.
    """
    is_over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_over.set())
    for k in range(_TRIES):
        began = time.monotonic()
        status = subprocess.call(ray_start)
        if not status or is_over.is_set() or time.monotonic() - began > _STARTED_S:
            break
        message = f"Ray did not start on this node (exit status {status}; try {k + 1} of {_TRIES})."
        print(message, file=sys.stderr, flush=True)  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(start(command(sys.argv[1], dict(os.environ))))
