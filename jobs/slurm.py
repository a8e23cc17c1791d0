"""A run inside a Slurm allocation: `python -m harness.jobs.slurm SPEC ...`, as the first node's batch script.

On one node the run starts its own Ray, on loopback. On several, one Slurm step starts Ray on each node, the run joins
it from the first node, and the step ends with the run. Ray then needs a token: the user's own, or else one made for
this job, which only the environment of its processes holds.

Shortly before the time limit Slurm sends SIGUSR1 (`harness.cluster.slurm`). The run then writes its tables, and the job
is queued again, to go on with the units that are left. A job whose node is taken away is queued again by Slurm.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.cli.commands import main

logger = logging.getLogger(__name__)

MOST_RESTARTS = 50  # of one job, so that a run that never gets anything done does not restart for ever
_START_S = 300.0  # time limit for all nodes to join
_END_S = 30.0  # time limit for the step to end
_TOKEN_NAMES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def run(arguments: Sequence[str]) -> int:
    """Run a spec on all nodes of the allocation; return the exit status of `harness run`."""
    with _requeued_before_the_time_limit(), _ray() as address:
        return main(["run", *arguments, *(("--address", address) if address else ())])


@contextlib.contextmanager
def _requeued_before_the_time_limit() -> Iterator[None]:
    """Stop the run on SIGUSR1 and queue the job again."""
    is_over = False

    def stop(*_: Any) -> None:
        nonlocal is_over
        is_over = True
        signal.raise_signal(signal.SIGTERM)  # the run writes its tables

    signal.signal(signal.SIGUSR1, stop)
    yield
    if not is_over:
        return
    job, restarts = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if restarts >= MOST_RESTARTS:
        logger.error("job %s was queued again %d times and is not finished; submit it again", job, restarts)
        return
    logger.warning("the time limit is near: job %s is queued again", job)
    subprocess.run(["scontrol", "requeue", job], check=True)


@contextlib.contextmanager
def _ray() -> Iterator[str]:
    """Start Ray on the nodes of the allocation; yields its address, "" on a single node."""
    n_nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if n_nodes == 1:
        yield ""
        return
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    if not any(name in os.environ for name in _TOKEN_NAMES) and not (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray.util  # which reads the variables

    address = f"{ray.util.get_node_ip_address()}:{20_000 + int(os.environ['SLURM_JOB_ID']) % 10_000}"
    command = ["srun", f"--nodes={n_nodes}", f"--ntasks={n_nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=0"]
    step = subprocess.Popen([*command, sys.executable, "-m", "harness.jobs.slurm_node", address])
    try:
        _wait_for_nodes(address, n_nodes, step)
        yield address
    finally:
        step.terminate()  # srun ends Ray on all nodes
        try:
            step.wait(_END_S)
        except subprocess.TimeoutExpired:
            step.kill()


def _wait_for_nodes(address: str, n_nodes: int, step: subprocess.Popen[bytes]) -> None:
    """Wait until all nodes have joined; RuntimeError if one does not, or the step has ended."""
    import ray

    deadline, n_joined = time.monotonic() + _START_S, 0
    while n_joined < n_nodes:
        if step.poll() is not None:
            raise RuntimeError(f"Ray ended on the nodes of the job (srun: exit status {step.returncode}); see above.")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{n_joined} of {n_nodes} nodes joined Ray at {address} within {_START_S:.0f} s.")
        time.sleep(1)
        with contextlib.suppress(ConnectionError, RuntimeError, ValueError):
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
            n_joined = sum(node["Alive"] for node in ray.nodes())
            ray.shutdown()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
