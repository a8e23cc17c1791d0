"""Ray on one node of a Slurm job: `python -m harness.jobs.slurm_node HOST:PORT`, started on each node by srun.

The first node holds the head. CPU cores and GPUs are those that Slurm gave the job on this node.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


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


if __name__ == "__main__":
    ours = command(sys.argv[1], dict(os.environ))
    os.execv(ours[0], ours)  # noqa: S606 - Ray's own command, without a shell
