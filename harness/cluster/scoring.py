"""Forecast of scoring after extraction: when each score of a placed run would end, and what fits in no node.

Fits and unique variance are divided over all GPUs that no model holds, or over the cores of a cluster without GPUs, as
a run does, and ceilings over cores. The predictions of a fold take one core. Rates are assumptions of `Cluster`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.cluster.machines import Cluster
from harness.cluster.placement import RESERVED


@dataclass(frozen=True)
class ScoringDemand:
    """One score, or the ceilings of a recording.

    Attributes:
        model: name; "" for ceilings, which are computed before the scores of their recording and protocol.
        recording, protocol: names.
        way: "dual" or "primal"; "" if mixed.
        divided: operations that are divided over GPUs or cores.
        alone: operations on one core, of folds beside each other those of one; of ceilings on a core per piece.
        n_pieces: number of pieces that the divided operations (of ceilings, those on cores) can have.
        n_bytes: main memory of the process.
        advice: what would need less memory, as a sentence.
        start_s, end_s: predicted times, from the start of the run.
        refused: why it fits in no node; "" if it does.
    """

    model: str
    recording: str
    protocol: str
    way: str
    divided: float
    alone: float
    n_pieces: int
    n_bytes: float
    advice: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    refused: str = ""


@dataclass(frozen=True)
class Held:
    """GPUs that a model holds from a time on to another."""

    model: str
    start_s: float
    end_s: float
    n_gpus: float


def schedule(demands: Sequence[ScoringDemand], held: Sequence[Held], cluster: Cluster) -> list[ScoringDemand]:
    """Order scores by the end of their model's extraction and predict when they are computed; refuse what cannot fit.

    Args:
        demands: scores and ceilings.
        held: placed models; scores of others, such as controls, need no extraction.
        cluster: the machines.
    """
    memory = max((node.memory_bytes for node in cluster.nodes), default=0)
    fitting = [demand for demand in demands if not memory or demand.n_bytes <= memory * (1 - RESERVED)]
    refused = [replace(demand, refused=reason(demand, memory)) for demand in demands if demand not in fitting]
    without_ceiling = {_ceiling_of(demand) for demand in refused if not demand.model}
    cores, ends, scheduled = _cores(fitting, cluster), {model.model: model.end_s for model in held}, []
    ceilings: dict[tuple[str, str], float] = {}
    for demand in (demand for demand in fitting if not demand.model):
        taken = [heapq.heappop(cores) for _ in range(min(demand.n_pieces, len(cores)))]
        start = max(taken)
        ceilings[_ceiling_of(demand)] = end = start + demand.alone / (cluster.core_flops * len(taken))
        for _ in taken:
            heapq.heappush(cores, end)
        scheduled.append(replace(demand, start_s=start, end_s=end))
    shared_s = 0.0
    scores = [demand for demand in fitting if demand.model and _ceiling_of(demand) not in without_ceiling]
    for demand in sorted(scores, key=lambda demand: ends.get(demand.model, 0.0)):
        ready = max(ends.get(demand.model, 0.0), ceilings.get(_ceiling_of(demand), 0.0))
        shared_s = _divided_until(demand, max(ready, shared_s), held, cluster)
        start = max(cores[0], shared_s)
        heapq.heapreplace(cores, start + demand.alone / cluster.core_flops)
        scheduled.append(replace(demand, start_s=ready, end_s=start + demand.alone / cluster.core_flops))
    refused += [
        replace(demand, refused="its ceiling is refused.")
        for demand in fitting if demand.model and _ceiling_of(demand) in without_ceiling
    ]  # fmt: skip
    return scheduled + refused


def reason(demand: ScoringDemand, memory_bytes: float) -> str:
    """Why a score does not fit, and what would."""
    what = "its scores need" if demand.model else "its ceilings need"
    return (
        f"{what} about {demand.n_bytes / 1e9:.1f} GB of main memory, and a node has {memory_bytes / 1e9:.1f} GB. "
        f"{demand.advice}"
    ).strip()


def _ceiling_of(demand: ScoringDemand) -> tuple[str, str]:
    return demand.recording, demand.protocol


def _cores(demands: Sequence[ScoringDemand], cluster: Cluster) -> list[float]:
    """When each core is free, for as many cores as memory allows at a time: a heap."""
    largest = max((demand.n_bytes for demand in demands), default=0.0)
    n_cores = 0
    for node in cluster.nodes:
        by_memory = int(node.memory_bytes * (1 - RESERVED) // largest) if largest and node.memory_bytes else node.n_cpus
        n_cores += min(node.n_cpus, by_memory)
    return [0.0] * max(1, n_cores)


def _divided_until(demand: ScoringDemand, start_s: float, held: Sequence[Held], cluster: Cluster) -> float:
    """When the divided operations end, on the GPUs that are free from a time on, or on the cores."""
    if not demand.divided:
        return start_s
    if not cluster.n_gpus:
        n_cores = min(demand.n_pieces, sum(node.n_cpus for node in cluster.nodes))
        return start_s + demand.divided / (cluster.core_flops * max(1, n_cores))
    now, left = start_s, demand.divided
    for change in [*sorted(time for model in held for time in (model.start_s, model.end_s) if time > start_s), None]:
        taken = sum(model.n_gpus for model in held if model.start_s <= now < model.end_s)
        rate = cluster.fit_flops * max(0.0, min(demand.n_pieces, cluster.n_gpus - taken))
        if change is None or left <= rate * (change - now):
            return now + left / rate if rate else now
        now, left = change, left - rate * (change - now)
    return now


def by_recording(demands: Sequence[ScoringDemand]) -> Mapping[tuple[str, str], list[ScoringDemand]]:
    """The scores of each recording and protocol, its ceilings first."""
    grouped: dict[tuple[str, str], list[ScoringDemand]] = {}
    for demand in sorted(demands, key=lambda demand: demand.model != ""):
        grouped.setdefault(_ceiling_of(demand), []).append(demand)
    return grouped
