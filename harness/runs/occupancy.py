"""Which GPUs and cores of a cluster are in use by models, and who may have those that are not. No Ray here."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from harness.cluster.machines import Cluster, Node
from harness.cluster.placement import Placement

# An idle GPU takes over what was planned elsewhere after so long; before, the plan is followed.
PATIENCE_S = 60.0
# A node and one of its GPUs, or its cores as a whole.
Spot = tuple[str, int]
_CORES = -1


class Occupancy:
    """Shares in use of each spot of a cluster."""

    def __init__(self, cluster: Cluster, placements: Iterable[Placement]) -> None:
        self.nodes: Mapping[str, Node] = {node.name: node for node in cluster.nodes}
        self.taken: defaultdict[Spot, float] = defaultdict(float)
        for placement in placements:
            self.take(placement)

    def take(self, placement: Placement) -> None:
        """It lives there now."""
        for spot in _spots(placement):
            self.taken[spot] += self._share(placement)

    def block(self, placement: Placement) -> None:
        """Its spots are not for those that come after it in the plan."""
        for spot in _spots(placement):
            self.taken[spot] += 1

    def fits(self, placement: Placement) -> bool:
        """Whether there is room for it where it is planned."""
        return all(self.taken[spot] + self._share(placement) <= 1 + 1e-9 for spot in _spots(placement))

    def _share(self, placement: Placement) -> float:
        """Of a GPU as planned. Of a node's cores half are for reading and half for scoring, so that neither waits."""
        if placement.n_gpus:
            return placement.gpu_share
        node = self.nodes.get(placement.node)
        return 1 / max(1, node.n_cpus // 2) if node else 1.0

    def idle(self, planned: Iterable[Placement], since: Mapping[Spot, float]) -> dict[Spot, float]:
        """Spots that nothing lives on and nothing is planned on -> since when; `since` is what was said before."""
        wanted = {spot for placement in planned for spot in _spots(placement)}
        every = [(node.name, gpu) for node in self.nodes.values() for gpu in (range(node.n_gpus) or [_CORES])]
        now = time.monotonic()
        return {spot: since.get(spot, now) for spot in every if not self.taken[spot] and spot not in wanted}

    def moved(self, placement: Placement, idle: Mapping[Spot, float]) -> Placement:
        """A placement of the same kind on a node that has idled for a while; the same one where there is none."""
        long_idle: defaultdict[str, list[int]] = defaultdict(list)
        for (name, gpu), since in idle.items():
            if time.monotonic() - since > PATIENCE_S and not self.taken[name, gpu]:
                long_idle[name].append(gpu)
        least = self.nodes[placement.node].gpu_bytes if placement.node in self.nodes else 0
        for name, gpus in long_idle.items():
            if len(gpus) >= max(1, placement.n_gpus) and self.nodes[name].gpu_bytes >= least:
                return replace(placement, node=name, gpus=tuple(gpus[: placement.n_gpus]))
        return placement


def _spots(placement: Placement) -> list[Spot]:
    return [(placement.node, gpu) for gpu in placement.gpus or (_CORES,)]
