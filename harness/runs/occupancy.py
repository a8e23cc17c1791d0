"""Which GPUs and cores of a cluster are in use by models, and which model may use the free ones. Independent of Ray."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from harness.cluster.machines import Cluster, Node
from harness.cluster.placement import Placement

# Seconds a GPU must be idle before it takes over a model placed elsewhere.
PATIENCE_S = 60.0
# Name of a node and index of one of its GPUs, or _CORES for all its cores.
Spot = tuple[str, int]
_CORES = -1
# Memory of a worker on the CPU besides the weights: Python with torch, and the texts and logits of a unit.
WORKER_BYTES = 1.2e9


class Occupancy:
    """Fraction in use of each GPU, or of each node's cores, in a cluster."""

    def __init__(self, cluster: Cluster, placements: Iterable[Placement], cores: float = 0.5) -> None:
        """Start from the placements in use; `cores` is the fraction of a node's cores that is for extraction."""
        self.cores = cores
        self.nodes: Mapping[str, Node] = {node.name: node for node in cluster.nodes}
        self.taken: defaultdict[Spot, float] = defaultdict(float)
        self.bytes_taken: defaultdict[str, float] = defaultdict(float)  # of each node's main memory
        for placement in placements:
            self.take(placement)

    def take(self, placement: Placement) -> None:
        """Mark the spots of a placement as in use by it."""
        for spot in _spots(placement):
            self.taken[spot] += self._fraction(placement)
        self.bytes_taken[placement.node] += worker_bytes(placement)

    def block(self, placement: Placement) -> None:
        """Reserve the spots of a placement, so that models later in the queue cannot take them."""
        for spot in _spots(placement):
            self.taken[spot] += 1

    def fits(self, placement: Placement) -> bool:
        """Whether the spots of a placement have enough free capacity."""
        return all(self.taken[spot] + self._fraction(placement) <= 1 + 1e-9 for spot in _spots(placement))

    def _fraction(self, placement: Placement) -> float:
        """Fraction of each spot that a placement uses."""
        if placement.n_gpus:
            return placement.gpu_share
        node = self.nodes.get(placement.node)
        return 1 / max(1, int(node.n_cpus * self.cores)) if node else 1.0

    def idle(self, planned: Iterable[Placement], since: Mapping[Spot, float]) -> dict[Spot, float]:
        """Return the spots that are neither in use nor planned for a model, and since when each has been idle.

        Args:
            planned: placements of the models still in the queue.
            since: the previous result of this function.
        """
        reserved = {spot for placement in planned for spot in _spots(placement)}
        all_spots = [(node.name, gpu) for node in self.nodes.values() for gpu in (range(node.n_gpus) or [_CORES])]
        now = time.monotonic()
        return {spot: since.get(spot, now) for spot in all_spots if not self.taken[spot] and spot not in reserved}

    def moved(self, placement: Placement, idle: Mapping[Spot, float]) -> Placement:
        """Move a placement to GPUs that have been idle for PATIENCE_S; returned unchanged if there are none.

        The new node's GPUs have at least as much memory as the planned node's.
        """
        long_idle: defaultdict[str, list[int]] = defaultdict(list)
        for (name, gpu), since in idle.items():
            if time.monotonic() - since > PATIENCE_S and not self.taken[name, gpu]:
                long_idle[name].append(gpu)
        min_gpu_bytes = self.nodes[placement.node].gpu_bytes if placement.node in self.nodes else 0
        for name, gpus in long_idle.items():
            if len(gpus) >= max(1, placement.n_gpus) and self.nodes[name].gpu_bytes >= min_gpu_bytes:
                return replace(placement, node=name, gpus=tuple(gpus[: placement.n_gpus]))
        return placement

    def another(self, placement: Placement) -> Placement | None:
        """The same model on other free GPUs, or on free cores of a node with enough memory; None if there are none."""
        min_gpu_bytes = self.nodes[placement.node].gpu_bytes if placement.node in self.nodes else 0
        for name, node in self.nodes.items():
            free = [gpu for gpu in range(node.n_gpus) if self.taken[name, gpu] + placement.gpu_share <= 1 + 1e-9]
            candidate = replace(placement, node=name, gpus=tuple(free[: placement.n_gpus]))
            needed = self.bytes_taken[name] + worker_bytes(placement)
            is_known = not placement.n_gpus and node.memory_bytes
            has_memory = needed <= node.memory_bytes if is_known else node.gpu_bytes >= min_gpu_bytes
            if len(free) >= placement.n_gpus and has_memory and self.fits(candidate):
                return candidate
        return None


def _spots(placement: Placement) -> list[Spot]:
    return [(placement.node, gpu) for gpu in placement.gpus or (_CORES,)]


def worker_bytes(placement: Placement) -> float:
    """Main memory of a worker on the CPU."""
    return WORKER_BYTES + placement.need.weights
