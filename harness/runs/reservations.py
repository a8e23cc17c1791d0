"""A Ray cluster as placement sees it, and a place on it for one model, which is given back whatever happens.

A place is a placement group of one bundle: a node has all GPUs of a model or it has none. Ray queues what does not fit
yet; who waits too long is told what is missing.
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

from harness.cluster.machines import Cluster, Node
from harness.cluster.placement import Placement

logger = logging.getLogger(__name__)

# A node's label that says the memory of one of its GPUs; without it the node is asked.
LABEL = "gpu-memory-gb"
# A label of the head of a cluster that grows: the largest node that may come, such as 8x80.
LARGEST = "largest-gpu-node"
# How long a model waits for its place: other jobs may hold the GPUs.
RESERVE_S = 900.0
_PROBE_S = 120.0


def cluster(device: str) -> Cluster:
    """The living nodes that may read models; those that are about to be taken away are not among them.

    Args:
        device: "cuda": those with GPUs; "cpu": all that have cores, their GPUs left out.

    Raises:
        ValueError: if a node has GPUs whose memory is not known.
    """
    nodes, leaving = [], _leaving()
    for node in ray.nodes():
        has = node["Resources"]
        n_cpus, n_gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0)) if device == "cuda" else 0
        if node["Alive"] and node["NodeID"] not in leaving and (n_gpus if device == "cuda" else n_cpus):
            gpu_bytes = _gpu_bytes(node) if n_gpus else 0
            nodes.append(Node(node["NodeID"], n_cpus, n_gpus, gpu_bytes, int(has.get("memory", 0))))
    return Cluster(tuple(sorted(nodes, key=lambda node: (-node.n_gpus * node.gpu_bytes, node.name))))


def _leaving() -> set[str]:
    """Nodes that Ray drains, such as spot machines that are about to be taken away (preemption.py)."""
    with suppress(Exception):  # not in every version of Ray
        found = ray._private.worker.global_worker.gcs_client.get_draining_nodes()
        return {node if isinstance(node, str) else node.hex() for node in found}
    return set()


def living() -> set[str]:
    """Ray's ids of the nodes that live, as far as is known: a death is noticed after some seconds."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def to_come() -> Node | None:
    """The largest node that an autoscaler may start, as a label of a living node says it (8x80: 8 GPUs of 80 GB)."""
    said = next((node["Labels"][LARGEST] for node in ray.nodes() if node["Alive"] and LARGEST in node["Labels"]), "")
    n_gpus, _, gigabytes = said.partition("x")
    return Node("to come", 8 * int(n_gpus), int(n_gpus), int(float(gigabytes) * 1e9), 0) if gigabytes else None


def device_of(asked: str) -> str:
    """What was asked for; of "auto": "cuda" where living nodes have GPUs, or nodes with some may come, else "cpu"."""
    if asked != "auto":
        return asked
    return "cuda" if ray.cluster_resources().get("GPU", 0) or to_come() else "cpu"


def ask_for_gpus(bundles: Sequence[int], gpu_bytes: int = 0) -> None:
    """Let an autoscaler start nodes, as far as its limits go; with nothing it may end them again.

    Args:
        bundles: GPUs that are wanted together on one node.
        gpu_bytes: memory of one of them; 0: of any.
    """
    from ray.autoscaler.sdk import request_resources

    kind = [{LABEL: f"{gpu_bytes / 1e9:g}"}] * len(bundles) if gpu_bytes else None
    with suppress(Exception):  # a cluster without an autoscaler takes no requests
        request_resources(bundles=[{"GPU": n} for n in bundles], bundle_label_selectors=kind)


_known_gpu_bytes: dict[str, int] = {}


def _gpu_bytes(node: dict[str, Any]) -> int:
    """Memory of one GPU: by the node's label, or as its driver says; the least, where they differ."""
    name = node["NodeID"]
    if LABEL in node.get("Labels", {}):
        return int(float(node["Labels"][LABEL]) * 1e9)
    if name not in _known_gpu_bytes:
        there = NodeAffinitySchedulingStrategy(name, soft=False)
        try:
            _known_gpu_bytes[name] = ray.get(_asked.options(scheduling_strategy=there).remote(), timeout=_PROBE_S)
        except Exception as error:
            raise ValueError(
                f"node {name[:12]} has GPUs whose memory is not known ({type(error).__name__}); start it with "
                f"`ray start --labels={LABEL}=80` (or whatever one of its GPUs has)."
            ) from error
    return _known_gpu_bytes[name]


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def _asked() -> int:
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return min(int(float(line) * 2**20) for line in said.stdout.split())


@dataclass
class Reservation:
    """A place for one model.

    wanted: of Ray's resources, {"GPU": 2} or {"CPU": 1}. until: when waiting ends, by time.monotonic.
    """

    model: str
    wanted: dict[str, float]
    group: PlacementGroup
    until: float
    limit_s: float
    released: bool = field(default=False)

    @classmethod
    def of(cls, placement: Placement, limit_s: float = RESERVE_S) -> Reservation:
        """Ask for the place that the plan says: on its node while that lives, else wherever there is room."""
        share = placement.gpu_share if placement.n_gpus == 1 else placement.n_gpus
        wanted: dict[str, float] = {"GPU": share} if placement.n_gpus else {"CPU": 1}
        node = placement.node if placement.node in living() - _leaving() else None
        group = placement_group([wanted], strategy="STRICT_PACK", _soft_target_node_id=node)
        return cls(placement.model, wanted, group, time.monotonic() + limit_s, limit_s)

    @property
    def options(self) -> dict[str, Any]:
        """For an actor that lives there."""
        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=0)
        return {
            "num_gpus": self.wanted.get("GPU", 0), "num_cpus": self.wanted.get("CPU", 0),
            "scheduling_strategy": strategy,
        }  # fmt: skip

    @property
    def is_late(self) -> bool:
        """Whether the time is over and the place is not there."""
        return time.monotonic() > self.until and placement_group_table(self.group)["state"] != "CREATED"

    @property
    def missing(self) -> str:
        """What is wanted, what the cluster has, and what of it is free, in a sentence."""
        ((kind, amount),) = self.wanted.items()
        nodes = [node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]]
        free, most = ray.available_resources().get(kind, 0), max(nodes, default=0)
        why = (
            f"no node has so many (the largest has {most:g}): start a larger one"
            if most < amount
            else f"{free:g} are free: end what holds the others, or wait and give the same command again"
        )
        return (
            f"{self.model} got no place in {self.limit_s:.0f} s: it wants {amount:g} {kind} on one node; the cluster "
            f"has {sum(nodes):g} on {sum(n > 0 for n in nodes)} nodes; {why}."
        )

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        if not self.released:
            self.released = True
            with suppress(Exception):  # the cluster may be gone
                remove_placement_group(self.group)


def near(node: str) -> dict[str, Any]:
    """Options of a task that is best done on a node."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}
