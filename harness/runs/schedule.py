"""The units of a run on Ray: who waits for whom, and what happens when one fails.

A score waits for its features and for its data set's ceiling; models read as readings.py says, and scoring fills the
cores and GPUs that they leave. A unit is claimed before it is begun, so that of several drivers on one store each does
what the others do not. This is the one place that catches every exception: a failure is written down, and the other
units go on.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

import ray

from harness.runs import actors, ray_session, reservations
from harness.runs.metrics import RunMetrics
from harness.runs.model_queue import ModelQueue
from harness.runs.model_worker import ExtractionResult, UnitTimeoutError, time_limit_s
from harness.runs.outcome import Account
from harness.runs.stopping import Stop
from harness.runs.workload import Failure, ProgressListener, Workload
from harness.storage.claims import Claim
from harness.storage.store import CorruptUnit, Store
from harness.units.score_units import ScoreUnit

# How often is looked for what Ray does not tell: other drivers' units, places, nodes.
LOOK_S = 1.0
SCORE_S = 15 * 60.0  # nominal forecast of a score, which may wait for a core and a ceiling: a limit of 12.5 hours


class Schedule:
    """The pending score units of a plan, and the work that they wait for."""

    def __init__(
        self,
        plan: Workload,
        pending: Iterable[ScoreUnit],
        store: Store,
        device: str,
        listener: ProgressListener,
        allow_pickle: bool = False,
    ) -> None:
        self.plan, self.store, self.listener = plan, store, listener
        self.n_cpus, _ = ray_session.resources()
        self.device = reservations.device_of(device)
        self.readings = ModelQueue(store, self.device, listener, allow_pickle=allow_pickle, backend=plan.spec.backend)
        self.waiting: defaultdict[str, list[ScoreUnit]] = defaultdict(list)  # by the key of their features
        self.ready: deque[ScoreUnit] = deque()
        self.scoring: dict[Any, tuple[ScoreUnit, Claim, float]] = {}  # with time.monotonic() at submission
        time_limit_s()  # raises here if it is set wrongly, before anything is computed
        self.elsewhere: dict[str, ScoreUnit] = {}
        self.retried: set[str] = set()
        self.read: set[str] = set()
        self.n_scored = 0
        self.recordings = {name: ray.put(dataset) for name, dataset in plan.recordings.items()}
        self.ceilings: dict[tuple[str, str], Any] = {}
        self.looked = 0.0
        self.meters = RunMetrics(plan.run)
        for unit in pending:
            self._wait_or_score(unit)

    def work(self, stop: Stop | None = None) -> Account:
        """Until nothing is left: start what can begin, take what is finished. Whatever happens, all is given back.

        Args:
            stop: where it asks for the end nothing more begins, and what runs is waited for as long as it says.
        """
        stop = stop or Stop()
        began = last_read = time.monotonic()
        try:
            while self._drain(stop) if stop.is_asked else self._start():
                for reference in self._finished():
                    if reference in self.scoring:
                        self._scored(reference)
                    elif reference in self.readings.running:
                        self._read(self.readings.take(reference))
                        last_read = time.monotonic()
                self._look_around()
        finally:
            self._close()
        if not self.readings.plan:
            return Account(self.n_scored, was_stopped=stop.is_asked)
        of, cluster = self.readings, self.readings.cluster
        return Account(
            self.n_scored, of.recoveries, of.landed, frozenset(self.read), len(cluster.nodes), cluster.n_gpus,
            max(placement.end_s for placement in of.plan.values()), last_read - began, stop.is_asked,
        )  # fmt: skip

    def _start(self) -> bool:
        """Begin what there is room for; whether anything is left to wait for."""
        self._read(self.readings.admit())
        while self.ready and len(self.scoring) < self._room():
            self._score(self.ready.popleft())
        left = self.scoring or self.ready or self.elsewhere
        return bool(left or self.readings.running or self.readings.is_waiting)

    def _drain(self, stop: Stop) -> bool:
        """Begin nothing more; whether anything that runs is still waited for."""
        self.readings.drain()
        self.ready.clear()
        self.elsewhere.clear()
        return bool(self.scoring or self.readings.running) and not stop.is_over

    def _room(self) -> int:
        """Scores that may be on their way: no more than keep the cores busy, and on the CPU none in a model's place."""
        reading = len(self.readings.residents) if self.device == "cpu" else 0
        return self.n_cpus - reading if reading else 2 * self.n_cpus

    def _finished(self) -> list[Any]:
        """References that have come; none where it is time to look around."""
        running = [*self.scoring, *self.readings.running]
        if not running:
            time.sleep(LOOK_S / 4)
            return []
        found, _ = ray.wait(running, num_returns=1, timeout=LOOK_S)
        more, _ = ray.wait(running, num_returns=len(running), timeout=0) if found else ([], [])
        return list(more or found)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _wait_or_score(self, unit: ScoreUnit) -> None:
        """A unit whose features are absent waits for them; they are read once, however many scores wait."""
        features = unit.features
        if features is None or self.store.has("features", features.key):
            self.ready.append(unit)
            return
        if features.key not in self.waiting:
            self.readings.add(features)
        self.waiting[features.key].append(unit)

    def _read(self, reads: Iterable[ExtractionResult]) -> None:
        for read in reads:
            scores = self.waiting.pop(read.unit.key, [])
            if read.error:
                for score in scores:
                    self._failed(score, "extract", read.error)
            else:
                if read.is_ours:
                    self.read.add(read.unit.key)
                    self._count(read, scores)
                    self.listener.finished(read.unit, read.seconds)
                self.ready.extend(scores)

    def _count(self, read: ExtractionResult, scores: list[ScoreUnit]) -> None:
        said = self.store.manifest("features", read.unit.key) or {}
        self.meters.read(read.unit.source.name, scores[0].dataset if scores else "", said.get("n_tokens", 0))

    # --- scoring ------------------------------------------------------------------------------------------------------

    def _score(self, unit: ScoreUnit) -> None:
        claim = self.store.take("scores", unit.key)
        if claim is None:
            self.elsewhere[unit.key] = unit
            return
        ceiling, recording = self._ceiling(unit), self.recordings[unit.dataset]
        reference = actors.score.remote(unit, recording, ceiling, self.store.out, self.device)
        self.scoring[reference] = (unit, claim, time.monotonic())

    def _ceiling(self, unit: ScoreUnit) -> Any:
        key = (unit.dataset, unit.protocol.name)
        if key not in self.ceilings:
            self.ceilings[key] = actors.ceiling.remote(self.recordings[unit.dataset], unit.protocol, self.store.out)
        return self.ceilings[key]

    def _scored(self, reference: Any) -> None:
        unit, claim, _ = self.scoring.pop(reference)
        try:
            seconds = ray.get(reference)
        except Exception as error:  # noqa: BLE001 - one failing unit must not stop the others
            claim.release()
            if not self._read_again(unit, error):
                self._failed(unit, "score", error)
        else:
            claim.release()
            self.n_scored += 1
            self.meters.scored(unit.source.name, unit.dataset)
            self.listener.finished(unit, seconds)

    def _read_again(self, unit: ScoreUnit, error: Exception) -> bool:
        """Whether a score failed because its features are damaged, and gone since; they are then read again, once."""
        cause = getattr(error, "cause", None) or error
        if not unit.features or unit.key in self.retried or not isinstance(cause, CorruptUnit | FileNotFoundError):
            return False
        self.retried.add(unit.key)
        self.listener.noted(unit.source.name, f"{cause} It is computed again.")
        self._wait_or_score(unit)
        return True

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """At most once in a while: what other drivers did, and who waits too long."""
        if time.monotonic() - self.looked < LOOK_S:
            return
        self.looked = time.monotonic()
        self.n_cpus, _ = ray_session.resources()  # nodes come and go
        self._read(self.readings.look_around())
        self._cancel_timed_out_scores()
        held = [resident.placement for resident in self.readings.residents.values()]
        waiting = sum(map(len, self.waiting.values())) + len(self.ready) + len(self.elsewhere)
        self.meters.look(self.readings.cluster, held, waiting)
        for key in list(self.elsewhere):
            if self.store.has("scores", key):
                self.listener.found(self.elsewhere.pop(key))
            elif not self.store.claimed("scores", key):  # its driver gave up, or died
                self.ready.append(self.elsewhere.pop(key))

    def _cancel_timed_out_scores(self) -> None:
        """Cancel scores that exceed the time limit, with their worker processes; each is a failure."""
        now, limit_s = time.monotonic(), time_limit_s(SCORE_S)
        late = [reference for reference, (_, _, started) in self.scoring.items() if now - started > limit_s]
        _, running = ray.wait(late, num_returns=len(late), timeout=0) if late else ([], [])
        for reference in running:  # cancelling a task that has just ended can crash Ray (see `_close`)
            unit, claim, started = self.scoring.pop(reference)
            ray.cancel(reference, force=True)
            claim.release()
            self._failed(unit, "score", UnitTimeoutError(
                f"{unit.source.name}: one score took longer than {now - started:.0f} s and was cancelled; set "
                "HARNESS_UNIT_LIMIT_S to raise the limit."
            ))  # fmt: skip

    def _failed(self, unit: ScoreUnit, station: str, error: Exception) -> None:
        failure = Failure.of(error, station, unit.source.name, unit.dataset, unit.protocol.name)
        self.plan.failures.append(failure)
        self.listener.failed(failure)

    def _close(self) -> None:
        """Give back what is held. Scores that are under way end with the driver, or by themselves.

        To cancel one at the moment at which it ends brings Ray down ("Tried to complete task that was not pending").
        """
        for _, claim, _ in self.scoring.values():
            claim.release()
        self.readings.close()
