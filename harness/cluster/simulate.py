"""A plan replayed, event by event: weights come over each node's link, models hold their GPUs, compute, and leave.

This knows nothing of how the plan was made, and says when each model begins and ends as the pipeline would run it: in
the plan's order, each as soon as its GPUs are free; a node's link loads one model at a time, and when it has none to
load, the weights of the one that comes next. Beside it stands what no plan could beat.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.cluster.machines import Cluster

# A node's cores, as if they were a GPU.
CORES = -1


@dataclass(frozen=True)
class ModelJob:
    """A model in a plan.

    spots: GPUs of its node, each by `share`. n_bytes: of weights, from storage. start_s: until its process is there.
    run_s: computing, and copying to the GPUs.
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
    """When each model got its GPUs and when it left them, and how long the links and the GPUs were in use.

    begun_again: models that were lost with a node and ran once more.
    """

    start_s: dict[str, float]
    end_s: dict[str, float]
    begun_again: tuple[str, ...] = ()

    @property
    def makespan_s(self) -> float:
        """Until the last has left."""
        return max(self.end_s.values(), default=0.0)


@dataclass
class _Running:
    """A model on its GPUs. left: bytes to come; ready_s: when its process is there; done_s: when it leaves."""

    job: ModelJob
    left: float
    ready_s: float
    done_s: float | None = None


@dataclass
class _State:
    now: float = 0.0
    waiting: list[ModelJob] = field(default_factory=list)
    running: dict[str, _Running] = field(default_factory=dict)
    fetched: dict[str, float] = field(default_factory=dict)  # model -> bytes still to come, of those sent for


def replay(jobs: Sequence[ModelJob], cluster: Cluster, dies: Iterable[tuple[float, str]] = ()) -> Replay:
    """Run a plan.

    Args:
        jobs: in the plan's order.
        cluster: where.
        dies: (seconds, node) of nodes that are lost: what runs or waits there goes to the largest other node.

    Raises:
        ValueError: if a model can never begin.
    """
    state, deaths = _State(waiting=list(jobs)), sorted(dies)
    start_s: dict[str, float] = {}
    end_s: dict[str, float] = {}
    again: list[str] = []
    while state.waiting or state.running:
        _admit(state, start_s)
        if not state.running:
            raise ValueError(f"{state.waiting[0].model} can never begin on {state.waiting[0].node}.")
        step = _next_event(state, cluster)
        if deaths and deaths[0][0] <= state.now + step:
            moment, name = deaths.pop(0)
            _advance(state, cluster, moment - state.now, end_s)
            again += _lose(state, name, cluster)
        else:
            _advance(state, cluster, step, end_s)
    return Replay(start_s, end_s, tuple(again))


def _admit(state: _State, start_s: dict[str, float]) -> None:
    """In order, whoever finds room; who finds none keeps its spots from those behind."""
    taken: dict[tuple[str, int], float] = {}
    for each in state.running.values():
        for spot in each.job.spots:
            taken[each.job.node, spot] = taken.get((each.job.node, spot), 0) + each.job.share
    still = []
    for job in state.waiting:
        places = [(job.node, spot) for spot in job.spots]
        fits = all(taken.get(place, 0) + job.share <= 1 + 1e-9 for place in places)
        for place in places:
            taken[place] = taken.get(place, 0) + (job.share if fits else 1)
        if fits:
            left = state.fetched.pop(job.model, job.n_bytes)
            state.running[job.model] = _Running(job, left, state.now + job.start_s)
            start_s[job.model] = state.now
        else:
            still.append(job)
    state.waiting = still
    _fetch_ahead(state)


def _fetch_ahead(state: _State) -> None:
    """The next of each node, once its link has nothing else to do."""
    busy = {each.job.node for each in state.running.values() if each.left > 0}
    busy |= {job.node for job in state.waiting if state.fetched.get(job.model, 0) > 0}
    for job in state.waiting:
        if job.node not in busy:
            if job.model not in state.fetched:
                state.fetched[job.model] = job.n_bytes
            busy.add(job.node)  # one at a time, so that main memory holds it


def _loads(state: _State) -> dict[str, str]:
    """Node -> the model whose bytes are on its link: one at a time, those that hold GPUs first."""
    found: dict[str, str] = {}
    for each in state.running.values():
        if each.left > 0:
            found.setdefault(each.job.node, each.job.model)
    for job in state.waiting:
        if state.fetched.get(job.model, 0) > 0:
            found.setdefault(job.node, job.model)
    return found


def _next_event(state: _State, cluster: Cluster) -> float:
    """Seconds until a load ends or a model leaves."""
    steps = []
    for model in _loads(state).values():
        left = state.running[model].left if model in state.running else state.fetched[model]
        steps.append(left / cluster.storage_bytes_s)
    steps += [_leaves(each, state.now) - state.now for each in state.running.values() if each.left <= 0]
    return max(0.0, min(steps))


def _leaves(each: _Running, now: float) -> float:
    if each.done_s is None:
        each.done_s = max(now, each.ready_s) + each.job.run_s
    return each.done_s


def _advance(state: _State, cluster: Cluster, step: float, end_s: dict[str, float]) -> None:
    moved = step * cluster.storage_bytes_s
    for model in _loads(state).values():
        if model in state.running:
            state.running[model].left = _less(state.running[model].left, moved)
        else:
            state.fetched[model] = _less(state.fetched[model], moved)
    state.now += step
    for model, each in list(state.running.items()):
        if each.left <= 0 and _leaves(each, state.now) <= state.now + 1e-9:
            end_s[model] = state.now
            del state.running[model]


def _less(left: float, moved: float) -> float:
    return left - moved if left - moved > 1e-3 else 0.0  # of a byte


def _lose(state: _State, name: str, cluster: Cluster) -> list[str]:
    """A node is gone: its models begin again on the largest node that is left."""
    other = max((node for node in cluster.nodes if node.name != name), key=lambda node: node.n_gpus * node.gpu_bytes)
    lost = [each.job for each in state.running.values() if each.job.node == name]
    for job in lost:
        del state.running[job.model]
    moved = []
    for job in [*lost, *state.waiting]:
        if job.node == name:
            state.fetched.pop(job.model, None)
            if len(job.spots) > max(1, other.n_gpus):
                raise ValueError(f"{job.model} can never begin: no node with {len(job.spots)} GPUs is left.")
            spots = tuple(range(len(job.spots))) if job.spots != (CORES,) else job.spots
            job = ModelJob(job.model, other.name, spots, job.share, job.n_bytes, job.start_s, job.run_s)
        moved.append(job)
    state.waiting = moved
    return [job.model for job in lost]


def lower_bound(jobs: Sequence[ModelJob], cluster: Cluster) -> float:
    """Seconds that no plan of these jobs beats: the largest of three.

    All bytes over all links; the longest job, alone; the GPU time of all jobs, had each its weights in main memory
    before it began, over all GPUs (or cores).
    """
    if not jobs:
        return 0.0
    rate = cluster.storage_bytes_s
    links = sum(job.n_bytes for job in jobs) / (rate * len(cluster.nodes))
    longest = max(max(job.start_s, job.n_bytes / rate) + job.run_s for job in jobs)
    n_spots = sum(max(1, node.n_gpus) for node in cluster.nodes)
    held = sum(len(job.spots) * job.share * (job.start_s + job.run_s) for job in jobs) / n_spots
    return max(links, longest, held)
