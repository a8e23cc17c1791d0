"""Live nodes of a Ray cluster as input to placement, and reservations of GPUs or cores for one model.

A reservation is a Ray placement group with a single bundle, so that all GPUs of a model are on one node. Ray queues
reservations that do not fit yet; after a time limit the model fails with a message that says what is missing.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

# LABEL is of a node: the memory of one of its GPUs in GB; without it nvidia-smi is run on the node. LARGEST is of the
# head of an autoscaling cluster: the largest node that can be added, as GPUS x GB, such as 8x80.
from harness.cluster.machines import GPU_MEMORY as LABEL
from harness.cluster.machines import LARGEST, Cluster, Node
from harness.cluster.placement import Placement
from harness.runs.scoring_forecast import Machine

logger = logging.getLogger(__name__)

# Seconds a model waits for its resources; other jobs may hold the GPUs.
RESERVE_S = 900.0
_PROBE_S = 120.0


def cluster(device: str) -> Cluster:
    """Return the live nodes that can run models, without those about to be taken away.

    Args:
        device: "cuda" for the nodes with GPUs; "cpu" for all nodes with cores, ignoring their GPUs.

    Raises:
        ValueError: if the memory of a node's GPUs is unknown.
    """
    nodes, draining = [], _draining()
    for node in ray.nodes():
        totals = node["Resources"]
        n_cpus, n_gpus = int(totals.get("CPU", 0)), int(totals.get("GPU", 0)) if device == "cuda" else 0
        if node["Alive"] and node["NodeID"] not in draining and (n_gpus if device == "cuda" else n_cpus):
            gpu_bytes = _gpu_bytes(node) if n_gpus else 0
            nodes.append(Node(node["NodeID"], n_cpus, n_gpus, gpu_bytes, int(totals.get("memory", 0))))
    return Cluster(tuple(sorted(nodes, key=lambda node: (-node.n_gpus * node.gpu_bytes, node.name))))


def for_scoring(device: str) -> Machine:
    """What scores run on: the free memory of the largest live node at its start, and all cores and GPUs."""
    nodes = cluster("cpu").nodes
    n_gpus = int(ray.cluster_resources().get("GPU", 0)) if device_of(device) == "cuda" else 0
    return Machine(max((node.memory_bytes for node in nodes), default=0), sum(node.n_cpus for node in nodes), n_gpus)


def scoring_bytes() -> float:
    """Main memory of the live nodes that scores may take at the same time."""
    return sum(node.memory_bytes for node in cluster("cpu").nodes) or float("inf")


def _draining() -> set[str]:
    """Return the ids of nodes that Ray is draining, such as spot machines about to be taken away (preemption.py)."""
    with suppress(Exception):  # private API; not in every Ray version
        nodes = ray._private.worker.global_worker.gcs_client.get_draining_nodes()
        return {node if isinstance(node, str) else node.hex() for node in nodes}
    return set()


def living() -> set[str]:
    """Return Ray's ids of the live nodes; Ray notices a dead node only after some seconds."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def largest_addable_node() -> Node | None:
    """Return the largest node that the autoscaler can add, from the label LARGEST; None without that label."""
    label = next((node["Labels"][LARGEST] for node in ray.nodes() if node["Alive"] and LARGEST in node["Labels"]), "")
    n_gpus, _, gigabytes = label.partition("x")
    return Node("to come", 8 * int(n_gpus), int(n_gpus), int(float(gigabytes) * 1e9), 0) if gigabytes else None


def device_of(requested: str) -> str:
    """Resolve "auto" to "cuda" if live nodes have GPUs or nodes with GPUs can be added, else to "cpu"."""
    if requested != "auto":
        return requested
    return "cuda" if ray.cluster_resources().get("GPU", 0) or largest_addable_node() else "cpu"


def ask_for_gpus(bundles: Sequence[int], gpu_bytes: int = 0) -> None:
    """Request nodes from the autoscaler, replacing the previous request; ignored by clusters without an autoscaler.

    Args:
        bundles: numbers of GPUs, each needed on one node; empty to withdraw the request.
        gpu_bytes: memory per GPU; 0 for any.
    """
    from ray.autoscaler.sdk import request_resources

    selectors = [{LABEL: f"{gpu_bytes / 1e9:g}"}] * len(bundles) if gpu_bytes else None
    with suppress(Exception):  # raised by a cluster without an autoscaler
        request_resources(bundles=[{"GPU": n} for n in bundles], bundle_label_selectors=selectors)


_known_gpu_bytes: dict[str, int] = {}


def _gpu_bytes(node: dict[str, Any]) -> int:
    """Return the memory of one GPU of a node, from its label or from nvidia-smi (the smallest if they differ)."""
    node_id = node["NodeID"]
    if LABEL in node.get("Labels", {}):
        return int(float(node["Labels"][LABEL]) * 1e9)
    if node_id not in _known_gpu_bytes:
        try:
            probe = _smallest_gpu_bytes.options(**near(node_id, soft=False)).remote()
            _known_gpu_bytes[node_id] = ray.get(probe, timeout=_PROBE_S)
        except Exception as error:
            raise ValueError(
                f"the GPU memory of node {node_id[:12]} is unknown: nvidia-smi failed there ({type(error).__name__}). "
                f"Start the node with its memory per GPU in GB, such as `ray start --labels={LABEL}=80`."
            ) from error
    return _known_gpu_bytes[node_id]


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def _smallest_gpu_bytes() -> int:
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return min(int(float(line) * 2**20) for line in result.stdout.split())


@dataclass
class Reservation:
    """Resources reserved for one model.

    wanted: Ray resources, {"GPU": 2} or {"CPU": 1}. until: when waiting ends, by time.monotonic.
    """

    model: str
    wanted: dict[str, float]
    group: PlacementGroup
    until: float
    limit_s: float
    released: bool = field(default=False)

    @classmethod
    def of(cls, placement: Placement, limit_s: float = RESERVE_S) -> Reservation:
        """Reserve the resources of a placement, on its node if that is alive and not draining, else on any node."""
        n_gpus = placement.gpu_share if placement.n_gpus == 1 else placement.n_gpus
        wanted: dict[str, float] = {"GPU": n_gpus} if placement.n_gpus else {"CPU": 1}
        node = placement.node if placement.node in living() - _draining() else None
        group = placement_group([wanted], strategy="STRICT_PACK", _soft_target_node_id=node)
        return cls(placement.model, wanted, group, time.monotonic() + limit_s, limit_s)

    @property
    def options(self) -> dict[str, Any]:
        """Ray options that start an actor on the reserved resources."""
        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=0)
        n_gpus, n_cpus = self.wanted.get("GPU", 0), self.wanted.get("CPU", 0)
        return {"num_gpus": n_gpus, "num_cpus": n_cpus, "scheduling_strategy": strategy}

    @property
    def is_late(self) -> bool:
        """Whether the time limit has passed without the resources becoming available."""
        return time.monotonic() > self.until and placement_group_table(self.group)["state"] != "CREATED"

    @property
    def missing(self) -> str:
        """Error message: what is wanted, what the cluster has, and how much of it is free."""
        ((kind, amount),) = self.wanted.items()
        nodes = [node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]]
        free, largest = ray.available_resources().get(kind, 0), max(nodes, default=0)
        advice = (
            f"no node has so many (the largest has {largest:g}): start a larger one"
            if largest < amount
            else f"{free:g} are free: end the jobs that hold the others, or run the same command again later"
        )
        return (
            f"{self.model} got no resources in {self.limit_s:.0f} s: it needs {amount:g} {kind} on one node; the "
            f"cluster has {sum(nodes):g} on {sum(n > 0 for n in nodes)} nodes; {advice}."
        )

    def release(self) -> None:
        """Release the resources; a second call does nothing."""
        if not self.released:
            self.released = True
            with suppress(Exception):  # the cluster may be gone
                remove_placement_group(self.group)


def near(node: str, *, soft: bool = True) -> dict[str, Any]:
    """Ray options for a task that should preferably run on a given node, or only there."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=soft)}
