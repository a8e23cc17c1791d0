"""The Ray of this process: join a cluster or start a local one, see that all nodes share a folder, leave."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.runs import local_ray, stopping
from harness.storage.store import Store


def start(address: str | None) -> None:
    """Join the cluster at `address`, or start a local Ray without dashboard; does nothing when already connected.

    Raises:
        RuntimeError: in a sentence, if it cannot be joined or started.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # keep CUDA_VISIBLE_DEVICES as the user set it
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    if not address:
        local_ray.start()
        return
    try:
        _require_listening(address)
        with stopping.handlers_kept():  # Ray's own ends the process at once
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise RuntimeError(
            f"no Ray cluster could be joined at {address} ({type(error).__name__}: {said}); is it up, of the same "
            "version of Ray, and is this machine one of its nodes? From elsewhere use `harness submit`."
        ) from error


_CONNECT_S = 10.0  # for a head to take a connection


def _require_listening(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT, over which Ray itself would wait for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()


_SHARED_S = 60.0  # for a node to answer what it sees


def require_shared(store: Store) -> None:
    """Raise where a node of the cluster does not see the folder in which this driver reads and writes.

    Raises:
        ValueError: naming node and folder. Of a URL nothing is asked; nodes that do not answer are not held against it.
    """
    if not store.is_local:
        return
    probe = Path(store.root) / f".aside-{uuid.uuid4().hex}"
    probe.touch()
    try:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        asked = {
            _path_exists.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(probe)
            ): node["NodeManagerAddress"]
            for node in nodes
        }
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_SHARED_S) if asked else ([], [])
        blind = [asked[one] for one in answered if not ray.get(one)]
    finally:
        probe.unlink(missing_ok=True)
    if blind:
        raise ValueError(
            f"the node {blind[0]} does not see {store.out}, the folder of this machine that --out names; give a folder "
            "on storage that every node mounts at the same place, or a URL."
        )


@ray.remote(num_cpus=0)
def _path_exists(path: str) -> bool:
    return Path(path).exists()


def leave() -> None:
    """Leave a cluster that may be lost; `start` joins it anew."""
    local_ray.end()


def is_fault(error: Exception) -> bool:
    """Whether an actor, a worker or a node was lost; else the program of the task itself raised."""
    return isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError)


def resources() -> tuple[int, int]:
    """CPUs and GPUs of the cluster."""
    found = ray.cluster_resources()
    return int(found.get("CPU", 1)), int(found.get("GPU", 0))
