"""Event-by-event simulation of a placement, and a lower bound on the makespan.

The simulation is independent of the placement algorithm. It computes when each model starts and ends as the pipeline
would run it: in the order of the placement, each model as soon as its GPUs are free. A node's link loads one model at a
time; when it is idle, it fetches the weights of the next model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.cluster.machines import Cluster

# Index of a node's cores, treated as one GPU.
CORES = -1


@dataclass(frozen=True)
class ModelJob:
    """A placed model.

    Attributes:
        model, node: names.
        spots: indices of the GPUs used, or (CORES,).
        share: fraction used of each.
        n_bytes: size of the weights, loaded from storage.
        start_s: time to start its process.
        run_s: time for computation and copying to the GPUs.
    """

    model: str
    node: str
    spots: tuple[int, ...]
    share: float
    n_bytes: float
    start_s: float
    run_s: float


@dataclass(frozen=True)
class Replay:
    """Result of a simulation: model -> when it got its GPUs, and when it released them."""

    start_s: dict[str, float]
    end_s: dict[str, float]


@dataclass
class _Running:
    """A model on its GPUs. ready_s: when its process is started; done_s: when it ends."""

    job: ModelJob
    ready_s: float
    done_s: float | None = None


@dataclass
class _State:
    now: float = 0.0
    waiting: list[ModelJob] = field(default_factory=list)
    running: dict[str, _Running] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)  # model that has begun to load -> bytes still to load


def replay(jobs: Sequence[ModelJob], cluster: Cluster) -> Replay:
    """Simulate a placement.

    Args:
        jobs: in order of placement.
        cluster: the machines.

    Raises:
        ValueError: if a model can never start.
    """
    state = _State(waiting=list(jobs))
    start_s: dict[str, float] = {}
    end_s: dict[str, float] = {}
    while state.waiting or state.running:
        _admit(state, start_s)
        if not state.running:
            raise ValueError(f"{state.waiting[0].model} can never start on {state.waiting[0].node}.")
        _advance(state, cluster, _next_event(state, cluster), end_s)
    return Replay(start_s, end_s)


def _admit(state: _State, start_s: dict[str, float]) -> None:
    """Start waiting models whose GPUs are free, in order; a model that does not fit blocks its GPUs for later ones."""
    taken: dict[tuple[str, int], float] = {}
    for running in state.running.values():
        for spot in running.job.spots:
            taken[running.job.node, spot] = taken.get((running.job.node, spot), 0) + running.job.share
    still_waiting = []
    for job in state.waiting:
        node_spots = [(job.node, spot) for spot in job.spots]
        fits = all(taken.get(node_spot, 0) + job.share <= 1 + 1e-9 for node_spot in node_spots)
        for node_spot in node_spots:
            taken[node_spot] = taken.get(node_spot, 0) + (job.share if fits else 1)
        if fits:
            state.left.setdefault(job.model, job.n_bytes)
            state.running[job.model] = _Running(job, state.now + job.start_s)
            start_s[job.model] = state.now
        else:
            still_waiting.append(job)
    state.waiting = still_waiting
    _fetch_ahead(state)


def _fetch_ahead(state: _State) -> None:
    """Prefetch the next model of each node whose link is idle."""
    busy = set(_loads(state))
    for job in state.waiting:
        if job.node not in busy:
            state.left.setdefault(job.model, job.n_bytes)
            busy.add(job.node)  # only one at a time, so that it fits in main memory


def _loads(state: _State) -> dict[str, str]:
    """Node -> the model it is loading: one at a time, models that hold GPUs first."""
    loading: dict[str, str] = {}
    for job in [*(running.job for running in state.running.values()), *state.waiting]:
        if state.left.get(job.model, 0) > 0:
            loading.setdefault(job.node, job.model)
    return loading


def _next_event(state: _State, cluster: Cluster) -> float:
    """Seconds until a load or a model ends."""
    steps = [state.left[model] / cluster.storage_bytes_s for model in _loads(state).values()]
    steps += [_end_of(running, state.now) - state.now for running in _loaded(state)]
    return max(0.0, min(steps))


def _loaded(state: _State) -> list[_Running]:
    """The models on GPUs whose weights are loaded."""
    return [running for model, running in state.running.items() if state.left[model] <= 0]


def _end_of(running: _Running, now: float) -> float:
    """When a loaded model ends; set at the first call."""
    if running.done_s is None:
        running.done_s = max(now, running.ready_s) + running.job.run_s
    return running.done_s


def _advance(state: _State, cluster: Cluster, step: float, end_s: dict[str, float]) -> None:
    """Advance the simulation by `step` seconds: load bytes, and remove models that end."""
    n_bytes = step * cluster.storage_bytes_s
    for model in _loads(state).values():
        left = state.left[model] - n_bytes
        state.left[model] = left if left > 1e-3 else 0.0  # less than a thousandth of a byte counts as zero
    state.now += step
    for running in _loaded(state):
        if _end_of(running, state.now) <= state.now + 1e-9:
            end_s[running.job.model] = state.now
            del state.running[running.job.model]


def lower_bound(jobs: Sequence[ModelJob], cluster: Cluster) -> float:
    """Lower bound on the makespan of these jobs, in seconds.

    The maximum of three bounds: the time to load all weights over all links; the longest single job; and the total GPU
    time of all jobs, with weights already in main memory, divided by the number of GPUs (or nodes without GPUs).
    """
    if not jobs:
        return 0.0
    rate = cluster.storage_bytes_s
    links = sum(job.n_bytes for job in jobs) / (rate * len(cluster.nodes))
    longest = max(max(job.start_s, job.n_bytes / rate) + job.run_s for job in jobs)
    n_spots = sum(max(1, node.n_gpus) for node in cluster.nodes)
    held = sum(len(job.spots) * job.share * (job.start_s + job.run_s) for job in jobs) / n_spots
    return max(links, longest, held)
