"""The models of a run that must read something: which is where, who comes next, and what happens when one is lost.

The plan (placement.py) says on which node each model lives and in which order they come; a model begins when the GPUs
it was given there are free. It reads one text at a time, loaded once for all of them, and its actor is killed after the
last. Where an actor or a node is lost, what it was reading is read again by a new one, three times at most.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
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
from harness.runs.model_worker import ExtractionResult, ModelWorker, UnitTimeoutError
from harness.runs.occupancy import Occupancy, Spot
from harness.runs.workload import ProgressListener
from harness.storage.store import Store
from harness.units.feature_units import FeatureUnit

logger = logging.getLogger(__name__)

# Actors that may be lost over one text on nodes that live on; then it is the text, or the model, that kills them. Those
# that are lost with their nodes are not its fault, unless there are very many.
RECOVERIES = 3
RECOVERIES_IN_ALL = 20


class LostActorError(RuntimeError):
    """Actors died over one text more often than is bearable."""


@dataclass
class ModelQueue:
    """What models have to read, and those that do it.

    plan: of each model. running: reference of Ray -> whose it is. elsewhere: units that another driver computes.
    recoveries: key of a unit -> how often its reading was begun again. landed: model -> node and GPUs where it was.
    """

    store: Store
    device: str
    listener: ProgressListener
    reserve_s: float = reservations.RESERVE_S
    allow_pickle: bool = False
    backend: AskedBackend = "auto"
    cluster: Cluster = field(default_factory=lambda: Cluster(()))
    plan: dict[Checkpoint, Placement] = field(default_factory=dict)
    unread: dict[Checkpoint, dict[str, FeatureUnit]] = field(default_factory=dict)
    residents: dict[Checkpoint, ModelWorker] = field(default_factory=dict)
    running: dict[Any, ModelWorker] = field(default_factory=dict)
    elsewhere: dict[str, FeatureUnit] = field(default_factory=dict)
    recoveries: Counter[str] = field(default_factory=Counter)
    landed: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    _not_before: dict[Checkpoint, float] = field(default_factory=dict)
    _idle: dict[Spot, float] = field(default_factory=dict)
    _asked_since: float | None = None
    _held_since: float | None = None
    _asks: bool = False
    _lost_on: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, unit: FeatureUnit) -> None:
        """A text to be read."""
        checkpoint = unit.source.checkpoint
        assert checkpoint is not None  # noqa: S101 - only models read
        self.unread.setdefault(checkpoint, {})[unit.key] = unit

    @property
    def is_waiting(self) -> bool:
        """Whether a model waits for something that Ray will not tell: a place, a pause, another driver."""
        return bool(self.unread or self.elsewhere or any(not one.node for one in self.residents.values()))

    # --- who comes next -----------------------------------------------------------------------------------------------

    def admit(self) -> Iterator[ExtractionResult]:
        """Give free places to those that come next; gives what can be read nowhere."""
        if not self.unread:
            self._ask([])  # early, for a driver that is killed cannot, and nodes would stay
            return
        yield from self._replan()
        if not self.cluster.nodes:
            return
        occupancy = Occupancy(self.cluster, [resident.placement for resident in self.residents.values()])
        planned = [one for one in self.unread if one in self.plan]
        self._idle = occupancy.idle([self.plan[one] for one in planned], self._idle)
        for checkpoint in sorted(planned, key=lambda one: (self.plan[one].order, one.name)):
            placement = self.plan[checkpoint]
            if not occupancy.fits(placement):
                placement = occupancy.moved(placement, self._idle)
            rested = time.monotonic() >= self._not_before.get(checkpoint, 0)
            if not occupancy.fits(placement) or not rested or checkpoint in self.residents:
                occupancy.block(placement)
            elif self._settle(checkpoint, placement):
                occupancy.take(placement)

    def _replan(self) -> Iterator[ExtractionResult]:
        """A plan for those that have none, or for all that wait where the cluster is no longer what it was."""
        now = reservations.cluster(self.device)
        waiting = {one.name: one for one in self.unread if now != self.cluster or one not in self.plan}
        self.cluster = now
        if now.nodes:
            self._asked_since = None
        if waiting and not now.nodes:
            yield from self._await_nodes()
            return
        dtypes = {name: next(iter(self.unread[one].values())).dtype for name, one in waiting.items()}
        demands = [demand_of(one, self._backend(one, dtypes[name])) for name, one in waiting.items()]
        placements = {placement.model: placement for placement in place(demands, now, dtypes)}
        held = self._held([one for one in demands if placements[one.model].refused], dtypes)
        for name, placement in placements.items():
            if name in held:
                self.plan.pop(waiting[name], None)
                continue
            self.plan[waiting[name]] = placement
            if placement.refused:
                error = InsufficientMemoryError(f"{name}: {placement.refused}")
                yield from self._refuse([waiting[name]], error)

    def _held(self, refused: list[Demand], dtypes: dict[str, Dtype]) -> dict[str, Placement]:
        """Of those that no living node can hold, those that wait for a larger one, which an autoscaler is asked for."""
        larger = reservations.to_come() if refused and self.device == "cuda" else None
        placed = place(refused, Cluster((larger,)), dtypes) if larger else []
        held = {one.model: one for one in placed if not one.refused}
        if not held:
            self._held_since = None
        elif larger and self._held_since is None:
            self._held_since = time.monotonic()
            self.listener.busy(f"waiting for a larger node: {', '.join(held)}")
            self._ask([one.n_gpus for one in held.values()], larger.gpu_bytes)
        is_late = self._held_since is not None and time.monotonic() - self._held_since > self.reserve_s
        return {} if is_late else held

    def _await_nodes(self) -> Iterator[ExtractionResult]:
        """An autoscaler is asked for nodes; who waits too long for the first is refused."""
        if self._asked_since is None:
            self._asked_since = time.monotonic()
            kind = "GPUs" if self.device == "cuda" else "cores"
            self.listener.busy(f"waiting for a node with {kind}")
            self._ask([1] * len(self.unread))
        if time.monotonic() - self._asked_since > self.reserve_s:
            said = f"no node with {'GPUs' if self.device == 'cuda' else 'cores'} came in {self.reserve_s:.0f} s"
            error = InsufficientMemoryError(f"{said}: start one, or look at max_workers of the cluster file.")
            yield from self._refuse(list(self.unread), error)

    def _ask(self, bundles: list[int], gpu_bytes: int = 0) -> None:
        """An autoscaler for nodes; with nothing, that those without work may go again."""
        if bundles or self._asks:
            reservations.ask_for_gpus(bundles, gpu_bytes)
        self._asks = bool(bundles)

    def _backend(self, checkpoint: Checkpoint, dtype: Dtype) -> Backend:
        """The library that reads a model."""
        states = any(unit.states for unit in self.unread[checkpoint].values())
        backend, why = backends.choose(checkpoint, self.backend, self.device, dtype, states=states)
        if backend != self.backend != "auto":
            self.listener.noted(checkpoint.name, f"is read by {backend}: {why}")
        return backend

    def _refuse(self, checkpoints: list[Checkpoint], error: Exception) -> Iterator[ExtractionResult]:
        for checkpoint in checkpoints:
            for unit in self.unread.pop(checkpoint).values():
                yield ExtractionResult(unit, error=error)

    def _settle(self, checkpoint: Checkpoint, placement: Placement) -> bool:
        """Claim what a model has to read, and send it to its place; whether any of it is ours to read."""
        units = self.unread.pop(checkpoint)
        claims = {key: self.store.take("features", key) for key in units}
        for key, claim in claims.items():
            if claim is None:  # finished, or being computed by another driver
                self.elsewhere[key] = units.pop(key)
        held = {key: claim for key, claim in claims.items() if claim}
        if not held:
            return False
        resident = ModelWorker.of(placement, units, held, self.store, self.device, self.reserve_s, self.allow_pickle)
        self.residents[checkpoint] = resident
        self.running[resident.actor.where.remote()] = resident
        self.listener.noted(checkpoint.name, "waits for its place")
        self._prefetch_behind(placement)
        return True

    def _prefetch_behind(self, placement: Placement) -> None:
        """Send for the weights of the model that comes next on a node."""
        behind = [one for one in self.unread if one in self.plan and self.plan[one].node == placement.node]
        if behind:
            checkpoint = min(behind, key=lambda one: self.plan[one].order)
            if checkpoint.n_parameters * 2 >= actors.PREFETCH_BYTES:
                actors.prefetch.options(**reservations.near(placement.node)).remote(checkpoint, self.allow_pickle)
                self.listener.noted(checkpoint.name, "its weights are on their way")

    # --- what comes back ----------------------------------------------------------------------------------------------

    def take(self, reference: Any) -> Iterator[ExtractionResult]:
        """What a finished reference of `running` brought."""
        resident = self.running.pop(reference)
        try:
            brought = ray.get(reference)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one model, the others go on
            yield from self._lost(resident, error) if ray_session.is_fault(error) else self._failed(resident, error)
            return
        if resident.now is None:
            resident.node = brought[0]
            self.landed[resident.checkpoint.name] = brought
        else:
            yield resident.done(brought)
        self._read_next(resident)

    def _read_next(self, resident: ModelWorker) -> None:
        if resident.texts:
            self.running[resident.read_next()] = resident
        else:
            self._leave(resident)

    def _leave(self, resident: ModelWorker) -> None:
        resident.leave()
        del self.residents[resident.checkpoint]

    def _failed(self, resident: ModelWorker, error: Exception) -> Iterator[ExtractionResult]:
        """A text that cannot be read; the model's other texts are tried. Without a place none can."""
        if resident.now is None:
            self._leave(resident)
            yield from (ExtractionResult(unit, error=error) for unit in resident.texts)
        else:
            yield resident.done(error=error)
            self._read_next(resident)

    def _lost(self, resident: ModelWorker, error: Exception) -> Iterator[ExtractionResult]:
        """An actor is gone, or its node is: what is not read is read by another, unless this happens too often."""
        checkpoint, left = resident.checkpoint, resident.left
        self._leave(resident)
        self.recoveries[left[0].key] += 1
        n = self.recoveries[left[0].key]
        self._lost_on[left[0].key].append(resident.node or resident.placement.node)
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("model=%s lost its actor, the %d. time over this text: %s", checkpoint.name, n, said)
        living = reservations.living()
        n_alone = sum(node in living for node in self._lost_on[left[0].key])
        self.listener.noted(checkpoint.name, f"lost its actor ({n_alone} of {RECOVERIES} on nodes that live)")
        if self.store.has("features", left[0].key):  # lost after its work was done
            yield ExtractionResult(left.pop(0))
        elif n_alone > RECOVERIES or n > RECOVERIES_IN_ALL:
            why = "is there memory enough (`harness plan`), is the checkpoint sound?"
            yield ExtractionResult(left.pop(0), error=LostActorError(
                f"{checkpoint.name}: {n} actors were lost over one text ({said}); {why}"))  # fmt: skip
        for unit in left:
            self.add(unit)
        self._not_before[checkpoint] = time.monotonic() + min(2.0 ** (n - 1), 8)  # until a dead node is known as dead

    def look_around(self) -> Iterator[ExtractionResult]:
        """Texts that another driver has read by now, or gave up; and models that waited too long for their place."""
        for key, unit in list(self.elsewhere.items()):
            if self.store.has("features", key):
                del self.elsewhere[key]
                yield ExtractionResult(unit, is_ours=False)
            elif not self.store.claimed("features", key):
                self.add(self.elsewhere.pop(key))
        for resident in list(self.residents.values()):
            if not resident.node and resident.reservation.is_late:
                self.running = {ref: other for ref, other in self.running.items() if other is not resident}
                yield from self._failed(resident, InsufficientMemoryError(resident.reservation.missing))
            elif resident.now and time.monotonic() - resident.since > resident.limit_s:
                self.running = {ref: other for ref, other in self.running.items() if other is not resident}
                yield from self._timed_out(resident)

    def _timed_out(self, resident: ModelWorker) -> Iterator[ExtractionResult]:
        """Fail the text that exceeds the time limit; a new actor reads the model's other texts."""
        left = resident.left
        self._leave(resident)
        yield ExtractionResult(left.pop(0), error=UnitTimeoutError(
            f"{resident.checkpoint.name}: extraction of one text took longer than {resident.limit_s:.0f} s and was "
            "cancelled; set HARNESS_UNIT_LIMIT_S to raise the limit, or try the model alone (`harness surprisal`)."
        ))  # fmt: skip
        for unit in left:
            self.add(unit)

    def drain(self) -> None:
        """Begin nothing more: only what is being read at this moment comes back."""
        self.unread.clear()
        self.elsewhere.clear()
        for resident in list(self.residents.values()):
            resident.texts.clear()
            if resident.now is None:
                self._leave(resident)
        self.running = {reference: one for reference, one in self.running.items() if one.now}

    def close(self) -> None:
        """Give everything back."""
        for resident in list(self.residents.values()):
            self._leave(resident)
        self.running.clear()
        self._ask([])
