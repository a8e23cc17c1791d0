"""Machines available to a run: nodes with GPUs, loading and computing rates, and hourly cost.

Facts about machines only; placement.py decides what runs where.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Node:
    """One machine.

    Attributes:
        name: Ray's node id, or node-0, node-1 ... in a made-up cluster.
        n_cpus: cores.
        n_gpus: GPUs; with 0, models run on the cores.
        gpu_bytes: memory of one GPU.
        memory_bytes: main memory; 0 if unknown.
    """

    name: str
    n_cpus: int
    n_gpus: int
    gpu_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class Cluster:
    """Nodes and their rates. The rates are assumptions, which `harness plan` prints and its options change.

    Attributes:
        nodes: the machines.
        storage_bytes_s: bandwidth from storage to one node, shared by the models it loads at the same time.
        device_bytes_s: bandwidth from main memory to a GPU.
        gpu_flops: sustained rate of one GPU at the precision of the weights.
        cpu_flops: sustained rate of a node's cores.
        fit_flops: sustained rate of one GPU in the fits of scores, in float64.
        core_flops: sustained rate of one core in scoring, in float64.
        start_s: time to start an actor with its libraries.
        usd_per_gpu_hour: price; None if unknown.
    """

    nodes: tuple[Node, ...]
    storage_bytes_s: float = 1e9
    device_bytes_s: float = 1e10
    gpu_flops: float = 2e14
    cpu_flops: float = 1e11
    fit_flops: float = 5e12
    core_flops: float = 4e10
    start_s: float = 10.0
    usd_per_gpu_hour: float | None = None

    @property
    def n_gpus(self) -> int:
        """Number of GPUs of all nodes."""
        return sum(node.n_gpus for node in self.nodes)

    @classmethod
    def made_up(
        cls, n_nodes: int, gpus_per_node: int, gpu_memory_gb: float, memory_gb: float = 0, **rates: float
    ) -> Cluster:
        """A cluster of equal nodes named node-0, node-1 ...

        Raises:
            ValueError: if there is no node, or GPUs have no memory.
        """
        if n_nodes < 1 or gpus_per_node < 0 or (gpus_per_node and gpu_memory_gb <= 0):
            raise ValueError(
                f"{n_nodes} nodes of {gpus_per_node} GPUs of {gpu_memory_gb:g} GB are not a cluster; give at least one "
                "node, zero or more GPUs per node, and the memory of a GPU."
            )
        node = (max(1, 8 * gpus_per_node), gpus_per_node, int(gpu_memory_gb * 1e9), int(memory_gb * 1e9))
        return cls(tuple(Node(f"node-{k}", *node) for k in range(n_nodes)), **rates)


def cluster_file(given: str | None = None) -> Path:
    """Path of the cluster file: the given one, else cluster.yaml in the working directory, else the bundled one."""
    if given:
        return Path(given)
    here = Path("cluster.yaml")
    return here if here.is_file() else Path(__file__).with_name("cluster.yaml")


@contextmanager
def reading_cluster_file(file: str) -> Iterator[None]:
    """Context manager: errors of the body, which reads a cluster file, become a ValueError that names the file."""
    try:
        yield
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{file} is not a cluster file of Ray's launcher ({type(error).__name__}: {error})."
        ) from error


# Labels defined by this project in cluster.yaml: memory of one GPU in GB, of a node type; Ray keeps it as a node label.
GPU_MEMORY = "gpu-memory-gb"
# The largest node that may be started, of the head (read by runs/reservations.py).
LARGEST = "largest-gpu-node"
