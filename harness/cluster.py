"""The machines that a run may use: nodes with GPUs, how fast weights come, and what an hour costs.

Facts about machines only; what runs where is decided in placement.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """One machine.

    name: Ray's node id, or node-0, node-1 ... of a made-up cluster. gpu_bytes: memory of one GPU; memory_bytes: of the
    machine. n_gpus 0: models are read on its cores.
    """

    name: str
    n_cpus: int
    n_gpus: int
    gpu_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class Cluster:
    """Nodes and their rates.

    storage_bytes_s: weights from storage to one node; gpu_flops: of one GPU at the precision of the weights, as reached
    in practice; usd_per_gpu_hour: None where not known.
    """

    nodes: tuple[Node, ...]
    storage_bytes_s: float = 1e9
    gpu_flops: float = 2e14
    usd_per_gpu_hour: float | None = None

    @property
    def n_gpus(self) -> int:
        """Of all nodes."""
        return sum(node.n_gpus for node in self.nodes)
