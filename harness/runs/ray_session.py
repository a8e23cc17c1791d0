"""Connect this process to Ray: join a cluster or start a local Ray, check the shared folder, disconnect."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from pathlib import Path

import ray

from harness.checkpoints import model_configs
from harness.runs import local_ray, stopping
from harness.runs.reservations import near
from harness.storage.store import Store


def start(address: str | None) -> None:
    """Join the Ray cluster at `address`, or start a local Ray without dashboard; does nothing if already connected.

    Raises:
        RuntimeError: if Ray cannot be joined or started.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # keep the user's CUDA_VISIBLE_DEVICES
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        imports = threading.Thread(target=model_configs.import_libraries)
        imports.start()
        try:
            local_ray.start()
        finally:
            imports.join()
        return
    try:
        _require_listening(address)
        with stopping.handlers_kept():  # Ray's handler exits at once
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        raise RuntimeError(
            f"could not join a Ray cluster at {address} ({type(error).__name__}: {message}); check that it is running "
            "the same version of Ray and that this machine is one of its nodes. From other machines use "
            "`harness submit`."
        ) from error
    model_configs.import_libraries()


def join(address: str | None, store: Store) -> None:
    """Join the cluster at `address`, whose nodes must all see the store, or start a local Ray; see `start`."""
    start(address)
    if address:
        require_shared(store)


_CONNECT_S = 10.0  # time limit for a TCP connection to the head


def _require_listening(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT; Ray itself would wait for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()


_SHARED_S = 60.0  # time limit for the nodes to check the shared folder


def require_shared(store: Store) -> None:
    """Check that all nodes of the cluster can see the store's folder.

    URLs are not checked, and nodes that do not answer in time are skipped.

    Raises:
        ValueError: if a node does not see the folder; names both.
    """
    if store.is_local:
        require_visible(Path(store.root), store.out)


def require_visible(folder: Path, out: str) -> None:
    """Check that all nodes of the cluster can see a folder; nodes that do not answer in time are skipped.

    Args:
        folder: an existing folder.
        out: the folder as the user gave it, for the message.

    Raises:
        ValueError: if a node does not see it; names both.
    """
    probe = folder / f".aside-{uuid.uuid4().hex}"
    probe.touch()
    try:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        on_nodes = [_path_exists.options(**near(node["NodeID"], soft=False)) for node in nodes]
        tasks = {
            task.remote(str(probe)): node["NodeManagerAddress"] for task, node in zip(on_nodes, nodes, strict=True)
        }
        finished, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=_SHARED_S) if tasks else ([], [])
        without_folder = [tasks[task] for task in finished if not ray.get(task)]
    finally:
        probe.unlink(missing_ok=True)
    if without_folder:
        raise ValueError(
            f"node {without_folder[0]} does not see {out}, the folder given by --out; use a folder on storage "
            "that every node mounts at the same path, or a URL."
        )


@ray.remote(num_cpus=0)
def _path_exists(path: str) -> bool:
    return Path(path).exists()


def leave() -> None:
    """Disconnect from a cluster that may have been lost; `start` connects again."""
    local_ray.end()


def is_fault(error: Exception) -> bool:
    """Whether an actor, worker or node was lost; False if the task itself raised an exception."""
    return isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError)


def resources() -> tuple[int, int]:
    """Return the number of CPU cores and of GPUs of the cluster."""
    totals = ray.cluster_resources()
    return int(totals.get("CPU", 1)), int(totals.get("GPU", 0))
