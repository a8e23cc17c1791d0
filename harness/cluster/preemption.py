"""Notices that a cloud is about to take a spot machine away, handed on to Ray, which then gives the node no more work.

Runs on each worker (cluster.yaml starts it) and asks the machine's own metadata service, which answers no one else:
Amazon's says two minutes before when the machine goes, Google's half a minute before that it goes.

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
    """Until this machine is taken away; None where no notice was given, or it is of no cloud that is known here."""
    return next((found for found in (_amazon(), _google()) if found is not None), None)


def _amazon() -> float | None:
    root = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
    try:
        life = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        token = requests.put(f"{root}/latest/api/token", headers=life, timeout=_TIMEOUT_S)
        known = {"X-aws-ec2-metadata-token": token.text} if token.ok else {}
        said = requests.get(f"{root}/latest/meta-data/spot/instance-action", headers=known, timeout=_TIMEOUT_S)
        if said.status_code != 200:  # 404: no notice
            return None
        at = datetime.fromisoformat(said.json()["time"])
    except (requests.RequestException, ValueError, KeyError):
        return None
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def _google() -> float | None:
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    path = f"http://{host}/computeMetadata/v1/instance/preempted"
    try:
        said = requests.get(path, headers={"Metadata-Flavor": "Google"}, timeout=_TIMEOUT_S)
    except requests.RequestException:
        return None
    return GOOGLE_S if said.status_code == 200 and said.text.strip() == "TRUE" else None


def watch(address: str, node: str | None = None) -> None:
    """Wait for a notice, and have Ray drain this node then.

    Args:
        address: of the cluster, "auto" on one of its nodes.
        node: Ray's id of the node; None is the one that this runs on.

    Raises:
        RuntimeError: if Ray does not take the word.
    """
    while (left := seconds_left()) is None:
        time.sleep(LOOK_S)
    logger.warning("this machine is taken away in %.0f s; Ray gives it no more work", left)
    command = [
        str(Path(sys.executable).parent / "ray"), "drain-node", f"--address={address}",
        "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot machine",
        f"--deadline-remaining-seconds={left:.0f}", *([f"--node-id={node}"] if node else []),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Ray did not take the notice: {(done.stderr or done.stdout).strip()}")
