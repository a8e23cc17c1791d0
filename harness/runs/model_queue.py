"""Queue of the models of a run: which model starts when and where, and how lost actors are replaced.

The placement (placement.py) assigns each model a node and a position in the queue; a model starts when the GPUs
assigned to it are free. Its actor loads the model once, processes one unit at a time, and is killed after the last, or
taken over by the next small model.
When an actor or a node is lost, a new actor repeats the unit in progress, at most three times. The units are the
features of a run (`harness run`), or the shards of large corpora (`harness surprisal --out`), for which a model has as
many workers as there are free GPUs or cores.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

from harness.checkpoints.checkpoints import Checkpoint
from harness.cluster.forecast import demand_of
from harness.cluster.machines import Cluster
from harness.cluster.placement import Demand, Placement, place
from harness.extraction import backends
from harness.loading.memory import InsufficientMemoryError
from harness.protocol import AskedBackend, Backend, Dtype
from harness.runs import actors, ray_session, reservations
from harness.runs.actors import ExtractionUnit
from harness.runs.model_worker import ExtractionResult, ModelWorker, UnitTimeoutError
from harness.runs.occupancy import Occupancy, Spot, worker_bytes
from harness.runs.stopping import Stop
from harness.runs.workload import ProgressListener
from harness.storage.claims import Claim
from harness.storage.store import Store

logger = logging.getLogger(__name__)

# Retries per unit while its node stays alive; after that the unit or the model is taken to be the cause. Actors lost
# together with their node count only towards the second, larger limit.
RECOVERIES = 3
RECOVERIES_IN_ALL = 20
# Seconds between checks of what Ray does not report: other drivers' units, resources, nodes.
LOOK_S = 1.0


class LostActorError(RuntimeError):
    """More actors died during one unit than the retry limit allows."""


@dataclass(frozen=True)
class WorkerRules:
    """How many workers a model may have.

    Attributes:
        n_claimed: units that a worker claims at a time. None: all of its model's, so that the model has one worker.
            Otherwise workers are added to a model while units, GPUs or cores and memory are left.
        cores: fraction of a node's cores for extraction; the others are for scoring.
        memory_bytes: limit on the memory of all workers on the CPU together; None for no limit.
    """

    n_claimed: int | None = None
    cores: float = 0.5
    memory_bytes: float | None = None


@dataclass
class ModelQueue:
    """The units to extract, and the model workers that extract them.

    Attributes:
        placements: placement of each model.
        pending: model -> key -> unit; not yet assigned to a worker.
        workers: the model workers.
        finished: workers without further units, whose process another model may take over.
        running: Ray reference -> the worker it belongs to.
        elsewhere: key -> unit that another driver is computing.
        recoveries: key of a unit -> number of times its extraction was restarted.
        landed: model -> node id and GPU indices where its actor ran.
    """

    store: Store
    device: str
    listener: ProgressListener
    reserve_s: float = reservations.RESERVE_S
    allow_pickle: bool = False
    backend: AskedBackend = "auto"
    rules: WorkerRules = WorkerRules()
    cluster: Cluster = field(default_factory=lambda: Cluster(()))
    placements: dict[Checkpoint, Placement] = field(default_factory=dict)
    pending: dict[Checkpoint, dict[str, ExtractionUnit]] = field(default_factory=dict)
    workers: list[ModelWorker] = field(default_factory=list)
    finished: list[ModelWorker] = field(default_factory=list)
    running: dict[Any, ModelWorker] = field(default_factory=dict)
    elsewhere: dict[str, ExtractionUnit] = field(default_factory=dict)
    recoveries: Counter[str] = field(default_factory=Counter)
    landed: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    _retry_after: dict[Checkpoint, float] = field(default_factory=dict)
    _idle_since: dict[Spot, float] = field(default_factory=dict)
    _no_nodes_since: float | None = None
    _waiting_for_larger_since: float | None = None
    _has_node_request: bool = False
    _lost_on: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, *units: ExtractionUnit) -> None:
        """Add units to the queue."""
        for unit in units:
            self.pending.setdefault(unit.checkpoint, {})[unit.key] = unit

    def drop(self, units: Iterable[ExtractionUnit]) -> None:
        """Take units that have not started out of the queue."""
        for unit in units:
            self.elsewhere.pop(unit.key, None)
            units_of_model = self.pending.get(unit.checkpoint, {})
            units_of_model.pop(unit.key, None)
            if not units_of_model:
                self.pending.pop(unit.checkpoint, None)

    @property
    def is_waiting(self) -> bool:
        """Whether a model waits for something that completes no Ray reference: resources, a retry, another driver."""
        return bool(self.pending or self.elsewhere or any(not worker.node for worker in self.workers))

    def results(self, stop: Stop) -> Iterator[ExtractionResult]:
        """Process all units and release all resources; after a stop only the units in progress are waited for."""
        try:
            while True:
                if stop.is_asked:
                    self.drain()
                else:
                    yield from self.admit()
                if stop.is_over or not (self.running or (self.is_waiting and not stop.is_asked)):
                    return
                if not self.running:
                    time.sleep(LOOK_S / 4)
                finished = ray.wait(list(self.running), timeout=LOOK_S)[0] if self.running else []
                for reference in finished:
                    yield from self.take(reference)
                yield from self.look_around()
        finally:
            self.close()

    # --- which model starts next --------------------------------------------------------------------------------------

    def admit(self) -> Iterator[ExtractionResult]:
        """Start the next models on free GPUs or cores; yields failures for models that fit nowhere."""
        yield from self._start_models()
        while self.finished:  # no model takes over its process
            self.finished.pop().close()

    def _start_models(self) -> Iterator[ExtractionResult]:
        if not self.pending:
            self._request_nodes([])  # now and not at the end: a driver that is killed cannot, and nodes would stay up
            return
        yield from self._update_placements()
        if not self.cluster.nodes:
            return
        occupancy = Occupancy(self.cluster, [worker.placement for worker in self.workers], self.rules.cores)
        placed = [checkpoint for checkpoint in self.pending if checkpoint in self.placements]
        placed.sort(key=lambda model: (self.placements[model].order, model.name))
        self._idle_since = occupancy.idle([self.placements[checkpoint] for checkpoint in placed], self._idle_since)
        for checkpoint in placed:
            self._start_first_worker(checkpoint, occupancy)
        if self.rules.n_claimed:
            for checkpoint in placed:
                self._add_workers(checkpoint, occupancy)

    def _start_first_worker(self, checkpoint: Checkpoint, occupancy: Occupancy) -> None:
        """Start a model that has no worker, or keep its GPUs or cores free for it."""
        placement, n_workers = self.placements[checkpoint], len(self._workers_of(checkpoint))
        if n_workers and self.rules.n_claimed:
            return
        if not occupancy.fits(placement):
            placement = occupancy.moved(placement, self._idle_since)
        if n_workers or not occupancy.fits(placement) or not self._may_start(checkpoint):
            occupancy.block(placement)
        elif self._start_worker(checkpoint, placement):
            occupancy.take(placement)

    def _add_workers(self, checkpoint: Checkpoint, occupancy: Occupancy) -> None:
        """Give a model further workers while it has units and GPUs or cores are free that no other model waits for."""
        while checkpoint in self.pending and self._workers_of(checkpoint) and self._may_start(checkpoint):
            placement = occupancy.another(self.placements[checkpoint])
            if not placement or not self._start_worker(checkpoint, placement):
                return
            occupancy.take(placement)

    def _workers_of(self, checkpoint: Checkpoint) -> list[ModelWorker]:
        return [worker for worker in self.workers if worker.checkpoint == checkpoint]

    def _may_start(self, checkpoint: Checkpoint) -> bool:
        """Whether the pause after a lost actor is over, and the memory suffices beside the other workers."""
        if time.monotonic() < self._retry_after.get(checkpoint, 0):
            return False
        limit, placements = self.rules.memory_bytes, [worker.placement for worker in self.workers]
        needed = sum(map(worker_bytes, [*placements, self.placements[checkpoint]]))
        return limit is None or self.device != "cpu" or needed <= limit

    def _update_placements(self) -> Iterator[ExtractionResult]:
        """Place the models that have no placement, or all pending models if the cluster has changed."""
        cluster = reservations.cluster(self.device)
        has_changed = cluster != self.cluster
        waiting = {model.name: model for model in self.pending if has_changed or model not in self.placements}
        self.cluster = cluster
        if cluster.nodes:
            self._no_nodes_since = None
        if waiting and not cluster.nodes:
            yield from self._await_nodes()
            return
        dtypes = {name: next(iter(self.pending[model].values())).dtype for name, model in waiting.items()}
        demands = [demand_of(model, self._backend(model, dtypes[name])) for name, model in waiting.items()]
        placements = {placement.model: placement for placement in place(demands, cluster, dtypes)}
        refused = [demand for demand in demands if placements[demand.model].refused]
        awaiting_larger = self._await_larger_node(refused, dtypes)
        for name, placement in placements.items():
            if name in awaiting_larger:
                self.placements.pop(waiting[name], None)
                continue
            self.placements[waiting[name]] = placement
            if reason := placement.refused or self._beyond_limit(placement):
                yield from self._refuse([waiting[name]], InsufficientMemoryError(f"{name}: {reason}"))

    def _beyond_limit(self, placement: Placement) -> str:
        """Why a model exceeds the memory limit even alone; "" if it does not."""
        needed, limit = worker_bytes(placement), self.rules.memory_bytes
        if self.device != "cpu" or limit is None or needed <= limit:
            return ""
        return (
            f"a worker needs about {needed / 1e9:.1f} GB, but only {limit / 1e9:.1f} GB are available; raise "
            "--memory-gb, or use bfloat16."
        )

    def _await_larger_node(self, refused: list[Demand], dtypes: dict[str, Dtype]) -> dict[str, Placement]:
        """Return the models that fit on no live node but on a larger one, which is requested from the autoscaler."""
        larger = reservations.largest_addable_node() if refused and self.device == "cuda" else None
        placements = place(refused, Cluster((larger,)), dtypes) if larger else []
        waiting = {placement.model: placement for placement in placements if not placement.refused}
        if not waiting:
            self._waiting_for_larger_since = None
        elif larger and self._waiting_for_larger_since is None:
            self._waiting_for_larger_since = time.monotonic()
            self.listener.busy(f"waiting for a larger node: {', '.join(waiting)}")
            self._request_nodes([placement.n_gpus for placement in waiting.values()], larger.gpu_bytes)
        since = self._waiting_for_larger_since
        is_late = since is not None and time.monotonic() - since > self.reserve_s
        return {} if is_late else waiting

    def _await_nodes(self) -> Iterator[ExtractionResult]:
        """Request nodes from the autoscaler; fail all pending models if none comes within `reserve_s`."""
        kind = "GPUs" if self.device == "cuda" else "cores"
        if self._no_nodes_since is None:
            self._no_nodes_since = time.monotonic()
            self.listener.busy(f"waiting for a node with {kind}")
            self._request_nodes([1] * len(self.pending))
        if time.monotonic() - self._no_nodes_since > self.reserve_s:
            error = InsufficientMemoryError(
                f"no node with {kind} joined the cluster in {self.reserve_s:.0f} s; start one, or check max_workers in "
                "the cluster file."
            )
            yield from self._refuse(list(self.pending), error)

    def _request_nodes(self, bundles: list[int], gpu_bytes: int = 0) -> None:
        """Request nodes from the autoscaler; an empty list withdraws the request, so that idle nodes may be removed."""
        if bundles or self._has_node_request:
            reservations.ask_for_gpus(bundles, gpu_bytes)
        self._has_node_request = bool(bundles)

    def _backend(self, checkpoint: Checkpoint, dtype: Dtype) -> Backend:
        """Choose the library that runs a model."""
        states = any(unit.states for unit in self.pending[checkpoint].values())
        backend, reason = backends.choose(checkpoint, self.backend, self.device, dtype, states=states)
        if backend != self.backend != "auto":
            self.listener.noted(checkpoint.name, f"using {backend}: {reason}")
        return backend

    def _refuse(self, checkpoints: list[Checkpoint], error: Exception) -> Iterator[ExtractionResult]:
        """Fail all pending units of some models."""
        for checkpoint in checkpoints:
            for unit in self.pending.pop(checkpoint).values():
                yield ExtractionResult(unit, error=error)

    def _start_worker(self, checkpoint: Checkpoint, placement: Placement) -> bool:
        """Claim units of a model and start a worker; False if other drivers hold or have finished all of them."""
        units, claims = self._claim_units(checkpoint)
        if not units:
            return False
        before = next((worker for worker in self.finished if worker.can_be_followed_by(placement)), None)
        if before:
            self.finished.remove(before)
            worker = before.followed_by(placement, units, claims)
        else:
            worker = ModelWorker.of(
                placement, units, claims, self.store, self.device, self.reserve_s, self.allow_pickle
            )
            self.listener.noted(checkpoint.name, "waiting for resources")
        self.workers.append(worker)
        self.running[worker.actor.where.remote()] = worker
        self._prefetch_next(placement)
        return True

    def _claim_units(self, checkpoint: Checkpoint) -> tuple[list[ExtractionUnit], dict[str, Claim]]:
        """Claim as many pending units of a model as a worker takes at a time; the units, and their claims by key."""
        queued = self.pending.get(checkpoint, {})
        units: list[ExtractionUnit] = []
        claims: dict[str, Claim] = {}
        while queued and len(units) != self.rules.n_claimed:
            key = next(iter(queued))
            unit = queued.pop(key)
            claim = self.store.take(unit.stored_as, key)
            if claim is None:  # finished, or being computed by another driver
                self.elsewhere[key] = unit
            else:
                units.append(unit)
                claims[key] = claim
        if not queued:
            self.pending.pop(checkpoint, None)
        return units, claims

    def _prefetch_next(self, placement: Placement) -> None:
        """Start fetching the weights of the next model on the same node."""
        queued = [
            model for model in self.pending
            if model in self.placements and self.placements[model].node == placement.node
        ]  # fmt: skip
        if queued:
            checkpoint = min(queued, key=lambda model: self.placements[model].order)
            if checkpoint.n_parameters * 2 >= actors.PREFETCH_BYTES:
                actors.prefetch.options(**reservations.near(placement.node)).remote(checkpoint, self.allow_pickle)
                self.listener.noted(checkpoint.name, "prefetching weights")

    # --- results and lost actors --------------------------------------------------------------------------------------

    def take(self, reference: Any) -> Iterator[ExtractionResult]:
        """Process a finished reference of `running`."""
        worker = self.running.pop(reference)
        try:
            result = ray.get(reference)
        except Exception as error:  # noqa: BLE001 - the other models go on whatever one raises
            yield from self._lost(worker, error) if ray_session.is_fault(error) else self._failed(worker, error)
            return
        if worker.current is None:
            worker.node = result[0]
            self.landed[worker.checkpoint.name] = result
        else:
            yield worker.finish_current(result)
        self._extract_next(worker)

    def _extract_next(self, worker: ModelWorker) -> None:
        """Submit the worker's next unit; without any left, one that is pending or that waits with another worker."""
        if not worker.queued:
            units, claims = self._claim_units(worker.checkpoint)
            waiting = [other for other in self._workers_of(worker.checkpoint) if not other.node]
            if not units and waiting:
                units, claims = list(waiting[0].queued), dict(waiting[0].claims)
                waiting[0].claims.clear()
                self._forget_references(waiting[0])
                self._remove(waiting[0])
            worker.queued.extend(units)
            worker.claims |= claims
        if worker.queued:
            self.running[worker.submit_next()] = worker
        else:
            self.workers = [other for other in self.workers if other is not worker]
            self.finished.append(worker)

    def _remove(self, worker: ModelWorker) -> None:
        worker.close()
        self.workers = [other for other in self.workers if other is not worker]

    def _failed(self, worker: ModelWorker, error: Exception) -> Iterator[ExtractionResult]:
        """Fail the worker's current unit and go on with the next; if its actor never started, fail all its units."""
        if worker.current is None:
            self._remove(worker)
            yield from (ExtractionResult(unit, error=error) for unit in worker.queued)
        else:
            yield worker.finish_current(error=error)
            self._extract_next(worker)

    def _lost(self, worker: ModelWorker, error: Exception) -> Iterator[ExtractionResult]:
        """Queue the units of a lost actor again for a new one, unless the current unit reached a retry limit."""
        checkpoint, remaining = worker.checkpoint, worker.remaining
        self._remove(worker)
        self.recoveries[remaining[0].key] += 1
        n_lost = self.recoveries[remaining[0].key]
        self._lost_on[remaining[0].key].append(worker.node or worker.placement.node)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("model=%s lost its actor (loss %d during this unit): %s", checkpoint.name, n_lost, reason)
        living = reservations.living()
        n_node_alive = sum(node in living for node in self._lost_on[remaining[0].key])
        self.listener.noted(checkpoint.name, f"lost its actor ({n_node_alive} of {RECOVERIES} on live nodes)")
        if self.store.has(remaining[0].stored_as, remaining[0].key):  # lost after the unit was stored
            yield ExtractionResult(remaining.pop(0))
        elif n_node_alive > RECOVERIES or n_lost > RECOVERIES_IN_ALL:
            yield ExtractionResult(remaining.pop(0), error=LostActorError(
                f"{checkpoint.name}: {n_lost} actors died while processing one text ({reason}); check that memory "
                "suffices (`harness plan`) and that the checkpoint is intact."
            ))  # fmt: skip
        self.add(*remaining)
        # Ray takes some seconds to notice that a node is dead.
        self._retry_after[checkpoint] = time.monotonic() + min(2.0 ** (n_lost - 1), 8)

    def look_around(self) -> Iterator[ExtractionResult]:
        """Check the units held by other drivers, workers without resources, and units that exceed the time limit."""
        for key, unit in list(self.elsewhere.items()):
            if self.store.has(unit.stored_as, key):
                del self.elsewhere[key]
                yield ExtractionResult(unit, is_ours=False)
            elif not self.store.claimed(unit.stored_as, key):
                self.add(self.elsewhere.pop(key))
        for worker in list(self.workers):
            if not worker.node and worker.reservation.is_late:
                self._forget_references(worker)
                if any(other.node for other in self._workers_of(worker.checkpoint)):  # these can do its units
                    self._return_units(worker)
                else:
                    yield from self._failed(worker, InsufficientMemoryError(worker.reservation.missing))
            elif worker.current and time.monotonic() - worker.started > worker.limit_s:
                self._forget_references(worker)
                yield from self._timed_out(worker)

    def _return_units(self, worker: ModelWorker) -> None:
        """Close a worker that got no resources; its units are pending again, and no worker is added for a while."""
        self._remove(worker)
        self.add(*worker.queued)
        self._retry_after[worker.checkpoint] = time.monotonic() + self.reserve_s

    def _forget_references(self, worker: ModelWorker) -> None:
        self.running = {reference: other for reference, other in self.running.items() if other is not worker}

    def _timed_out(self, worker: ModelWorker) -> Iterator[ExtractionResult]:
        """Fail the unit that exceeds the time limit; queue the model's other units for a new actor."""
        remaining = worker.remaining
        self._remove(worker)
        yield ExtractionResult(remaining.pop(0), error=UnitTimeoutError(
            f"{worker.checkpoint.name}: processing of one text took longer than {worker.limit_s:.0f} s and was "
            "cancelled; set HARNESS_UNIT_LIMIT_S to raise the limit, or try the model alone (`harness surprisal`)."
        ))  # fmt: skip
        self.add(*remaining)

    def drain(self) -> None:
        """Start nothing more; only the units in progress are still waited for."""
        self.pending.clear()
        self.elsewhere.clear()
        for worker in list(self.workers):
            worker.queued.clear()
            if worker.current is None:
                self._remove(worker)
        self.running = {reference: worker for reference, worker in self.running.items() if worker.current}

    def close(self) -> None:
        """Release all workers, claims and node requests."""
        for worker in [*self.workers, *self.finished]:
            self._remove(worker)
        self.finished.clear()
        self.running.clear()
        self._request_nodes([])
