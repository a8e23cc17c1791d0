"""The machines that a run may use: nodes with GPUs, how fast weights come, and what an hour costs.

Facts about machines only; what runs where is decided in placement.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Node:
    """One machine.

    name: Ray's node id, or node-0, node-1 ... of a made-up cluster. gpu_bytes: memory of one GPU; memory_bytes: of the
    machine, 0 where it is not known. n_gpus 0: models are read on its cores.
    """

    name: str
    n_cpus: int
    n_gpus: int
    gpu_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class Cluster:
    """Nodes and their rates; the rates are assumptions, which `harness plan` takes and prints.

    storage_bytes_s: weights from storage to one node, shared by the models that it loads at once. device_bytes_s: from
    main memory to a GPU. gpu_flops: of one GPU at the precision of the weights, as reached in practice; cpu_flops: of a
    node's cores. start_s: until an actor with its libraries is there. usd_per_gpu_hour: None where not known.
    """

    nodes: tuple[Node, ...]
    storage_bytes_s: float = 1e9
    device_bytes_s: float = 1e10
    gpu_flops: float = 2e14
    cpu_flops: float = 1e11
    start_s: float = 10.0
    usd_per_gpu_hour: float | None = None

    @property
    def n_gpus(self) -> int:
        """Of all nodes."""
        return sum(node.n_gpus for node in self.nodes)

    @classmethod
    def made_up(
        cls, n_nodes: int, gpus_per_node: int, gpu_memory_gb: float, memory_gb: float = 0, **rates: float
    ) -> Cluster:
        """Equal nodes, node-0 and on.

        Raises:
            ValueError: if there is no node, or a node has GPUs without memory.
        """
        if n_nodes < 1 or gpus_per_node < 0 or (gpus_per_node and gpu_memory_gb <= 0):
            raise ValueError(
                f"{n_nodes} nodes of {gpus_per_node} GPUs of {gpu_memory_gb:g} GB are no cluster; give one node or "
                "more, no GPU or more, and the memory of a GPU."
            )
        node = (max(1, 8 * gpus_per_node), gpus_per_node, int(gpu_memory_gb * 1e9), int(memory_gb * 1e9))
        return cls(tuple(Node(f"node-{k}", *node) for k in range(n_nodes)), **rates)


def cluster_file(given: str | None = None) -> Path:
    """The file of machines: as given, else cluster.yaml of the working directory, else the one that is shipped."""
    if given:
        return Path(given)
    here = Path("cluster.yaml")
    return here if here.is_file() else Path(__file__).with_name("cluster.yaml")


# A field of our own in a node type of cluster.yaml, beside Ray's: memory of one GPU in GB. As a label, Ray keeps it.
GPU_MEMORY = "gpu-memory-gb"
# The same of the head: the largest node that may come (reservations.py reads it).
LARGEST = "largest-gpu-node"
