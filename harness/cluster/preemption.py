"""Preemption notices of spot machines, passed on to Ray, which then schedules no more work on the node.

`harness preempt` runs on each worker (started by cluster.yaml) and polls the machine's own metadata service. Amazon
gives two minutes' notice with the exact time, Google 30 seconds without a time.

Sources: "Spot Instance interruption notices" (EC2 User Guide), "Preemptible VM instances" (Compute Engine).
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import requests

logger = logging.getLogger(__name__)

LOOK_S = 5.0
_TIMEOUT_S = 2.0
GOOGLE_S = 30.0


def seconds_left() -> float | None:
    """Seconds until this machine is taken away; None without a notice, or on an unsupported cloud."""
    return next((seconds for seconds in (_amazon(), _google()) if seconds is not None), None)


def _amazon() -> float | None:
    root = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
    try:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        token = requests.put(f"{root}/latest/api/token", headers=lifetime, timeout=_TIMEOUT_S)
        headers = {"X-aws-ec2-metadata-token": token.text} if token.ok else {}
        notice = requests.get(f"{root}/latest/meta-data/spot/instance-action", headers=headers, timeout=_TIMEOUT_S)
        if notice.status_code != 200:  # 404: no notice
            return None
        deadline = datetime.fromisoformat(notice.json()["time"])
    except (requests.RequestException, ValueError, KeyError):
        return None
    return max(0.0, (deadline - datetime.now(UTC)).total_seconds())


def _google() -> float | None:
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    path = f"http://{host}/computeMetadata/v1/instance/preempted"
    try:
        notice = requests.get(path, headers={"Metadata-Flavor": "Google"}, timeout=_TIMEOUT_S)
    except requests.RequestException:
        return None
    return GOOGLE_S if notice.status_code == 200 and notice.text.strip() == "TRUE" else None


def watch(address: str, node: str | None = None) -> None:
    """Wait for a preemption notice, then have Ray drain this node.

    Args:
        address: address of the cluster; "auto" on one of its nodes.
        node: Ray's node id; None for the node this runs on.

    Raises:
        RuntimeError: if Ray rejects the drain request.
    """
    while (left := seconds_left()) is None:
        time.sleep(LOOK_S)
    logger.warning("this machine will be taken away in %.0f s; draining its Ray node", left)
    command = [
        str(Path(sys.executable).parent / "ray"), "drain-node", f"--address={address}",
        "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot machine",
        f"--deadline-remaining-seconds={left:.0f}", *([f"--node-id={node}"] if node else []),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Ray could not drain this node: {(done.stderr or done.stdout).strip()}")
