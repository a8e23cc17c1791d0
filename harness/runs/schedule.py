"""Schedule the units of a run on Ray: dependencies between units, and what happens when one fails.

A score unit waits for its features and for its data set's ceiling. The model queue (model_queue.py) extracts features;
scoring uses the cores and GPUs that are left. A unit is claimed before it starts, so that several drivers on one store
share the work. Every exception of a unit is caught here: it is recorded as a failure, and the other units go on.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

import ray

from harness.runs import actors, ray_session, reservations
from harness.runs.metrics import RunMetrics
from harness.runs.model_queue import LOOK_S, ModelQueue
from harness.runs.model_worker import ExtractionResult, UnitTimeoutError, time_limit_s
from harness.runs.outcome import Account
from harness.runs.stopping import Stop
from harness.runs.workload import Failure, ProgressListener, Workload
from harness.storage.claims import Claim
from harness.storage.store import CorruptUnit, Store
from harness.units.feature_units import FeatureUnit
from harness.units.localiser_units import LocaliserUnit
from harness.units.score_units import ScoreUnit

_PROGRESS = "harness-ceiling-"  # prefix of the keys under which ceilings keep their progress
SCORE_S = 15 * 60.0  # nominal forecast of a score, which may wait for a core and a ceiling: a limit of 12.5 hours


class Schedule:
    """The pending score units of a workload, and the features and ceilings that they need."""

    def __init__(
        self,
        workload: Workload,
        pending: Iterable[ScoreUnit],
        store: Store,
        device: str,
        listener: ProgressListener,
        allow_pickle: bool = False,
    ) -> None:
        time_limit_s()  # raises for an invalid setting before anything is computed
        self.workload, self.store, self.listener = workload, store, listener
        self.n_cpus, _ = ray_session.resources()
        self.device = reservations.device_of(device)
        self.queue = ModelQueue(store, self.device, listener, allow_pickle=allow_pickle, backend=workload.spec.backend)
        self.waiting: defaultdict[str, list[ScoreUnit]] = defaultdict(list)  # by the key of their features
        self.ready: deque[ScoreUnit] = deque()
        self.scoring: dict[Any, tuple[ScoreUnit, Claim, float]] = {}  # with time.monotonic() at submission
        self.elsewhere: dict[str, ScoreUnit] = {}  # held by other drivers
        self.scored: dict[str, ScoreUnit] = {}  # by their content
        self.following: dict[str, list[ScoreUnit]] = {}  # by the content of a unit in work, for whose rows they wait
        self.retried: set[str] = set()
        self.extracted: set[str] = set()
        self.n_scored = 0
        self.recordings = {name: ray.put(dataset) for name, dataset in workload.recordings.items()}
        self.ceilings: dict[tuple[str, str], Any] = {}
        self.progress: dict[tuple[str, str], tuple[str, tuple[int, int] | None]] = {}  # key, and what was shown last
        self.free_bytes = reservations.scoring_bytes()
        self.checked_at = 0.0
        self.metrics = RunMetrics(workload.run)
        pending = list(pending)
        keys = {unit.key for unit in pending}
        self.scored |= {unit.content: unit for unit in workload.scores if unit.key not in keys}
        for unit in pending:
            self._wait_or_score(unit)

    def work(self, stop: Stop | None = None) -> Account:
        """Compute all pending units. Claims and resources are released even if an exception ends the loop.

        Args:
            stop: flag; once set, no unit starts any more, and those in progress are waited for until its deadline.
        """
        stop = stop or Stop()
        started = last_extracted = time.monotonic()
        try:
            while self._drain(stop) if stop.is_asked else self._start():
                for reference in self._finished():
                    if reference in self.scoring:
                        self._scored(reference)
                    elif reference in self.queue.running:
                        self._extracted(self.queue.take(reference))
                        last_extracted = time.monotonic()
                self._look_around()
        finally:
            self._close()
        if not self.queue.placements:
            return Account(self.n_scored, was_stopped=stop.is_asked)
        queue, cluster = self.queue, self.queue.cluster
        return Account(
            self.n_scored, queue.recoveries, queue.landed, frozenset(self.extracted), len(cluster.nodes),
            cluster.n_gpus, max(placement.end_s for placement in queue.placements.values()), last_extracted - started,
            stop.is_asked,
        )  # fmt: skip

    def _start(self) -> bool:
        """Start the units that can run now; return whether any work is left."""
        self._extracted(self.queue.admit())
        while self.ready and len(self.scoring) < self._max_scoring() and self._has_memory(self.ready[0]):
            self._score(self.ready.popleft())
        has_scores = self.scoring or self.ready or self.elsewhere
        return bool(has_scores or self.queue.running or self.queue.is_waiting)

    def _drain(self, stop: Stop) -> bool:
        """Start no more units; return whether any unit in progress is still waited for."""
        self.queue.drain()
        self.ready.clear()
        self.elsewhere.clear()
        return bool(self.scoring or self.queue.running) and not stop.is_over

    def _max_scoring(self) -> int:
        """Maximum number of scores in flight: enough to keep the cores busy, without those that run models on CPU."""
        n_extracting = len(self.queue.workers) if self.device == "cpu" else 0
        return self.n_cpus - n_extracting if n_extracting else 2 * self.n_cpus

    def _has_memory(self, unit: ScoreUnit) -> bool:
        """Whether a score fits beside those in flight, by the forecasts; a score always fits alone."""
        in_flight = [self._n_bytes(scored) for scored, _, _ in self.scoring.values()]
        return not in_flight or sum(in_flight) + self._n_bytes(unit) <= self.free_bytes

    def _n_bytes(self, unit: ScoreUnit) -> float:
        forecast = self.workload.forecasts.get(unit.key)
        return forecast.n_bytes if forecast else 0.0

    def _finished(self) -> list[Any]:
        """Return the finished references; none after LOOK_S without any."""
        running = [*self.scoring, *self.queue.running]
        if not running:
            time.sleep(LOOK_S / 4)
            return []
        first, _ = ray.wait(running, num_returns=1, timeout=LOOK_S)
        finished, _ = ray.wait(running, num_returns=len(running), timeout=0) if first else ([], [])
        return list(finished or first)

    # --- extraction ---------------------------------------------------------------------------------------------------

    def _wait_or_score(self, unit: ScoreUnit) -> None:
        """Queue a score unit for scoring, or what it needs for extraction (once, however many scores need it)."""
        missing = [need for need in unit.needs if not self.store.has(need.stored_as, need.key)]
        if not missing:
            self.ready.append(unit)
            return
        for need in missing:
            if need.key not in self.waiting:
                self.queue.add(need)
                self.waiting[need.key] = []
        self.waiting[missing[0].key].append(unit)  # the others are looked for once the first is stored

    def _extracted(self, results: Iterable[ExtractionResult]) -> None:
        """Process results of extraction: make the scores that need them ready, or fail them."""
        for result in results:
            assert isinstance(result.unit, FeatureUnit | LocaliserUnit)  # noqa: S101 - a run's queue holds no others
            scores = self.waiting.pop(result.unit.key, [])
            if result.error:
                for score in scores:
                    self._failed(score, "extract", result.error)
            else:
                if result.is_ours:
                    self.extracted.add(result.unit.key)
                    manifest = self.store.manifest(result.unit.stored_as, result.unit.key) or {}
                    dataset = scores[0].dataset if scores else ""
                    self.metrics.read(result.unit.source.name, dataset, manifest.get("n_tokens", 0))
                    self.listener.finished(result.unit, result.seconds)
                for score in scores:
                    if score.localiser:
                        self._wait_or_score(score)
                    else:
                        self.ready.append(score)

    # --- scoring ------------------------------------------------------------------------------------------------------

    def _score(self, unit: ScoreUnit) -> None:
        if unit.content in self.following:
            self.following[unit.content].append(unit)
            return
        claim = self.store.take("scores", unit.key)
        if claim is None:
            self.elsewhere[unit.key] = unit
            return
        scored = self.scored.get(unit.content)
        if scored is None:
            self.following[unit.content] = []
        ceiling, recording = self._ceiling(unit), self.recordings[unit.dataset]
        reference = actors.score.remote(unit, recording, ceiling, self.store.out, self.device, scored)
        self.scoring[reference] = (unit, claim, time.monotonic())

    def _ended(self, unit: ScoreUnit, claim: Claim) -> None:
        """Release a unit that was in work; those that waited for its rows are ready."""
        claim.release()
        self.ready.extend(self.following.pop(unit.content, []))

    def _ceiling(self, unit: ScoreUnit) -> Any:
        key = (unit.dataset, unit.protocol.name)
        if key not in self.ceilings:
            progress = f"{_PROGRESS}{uuid.uuid4().hex}"
            self.progress[key] = (progress, None)
            self.ceilings[key] = actors.ceiling.remote(
                self.recordings[unit.dataset], unit.protocol, self.store.out, progress
            )
        return self.ceilings[key]

    def _follow_ceilings(self) -> None:
        """Show the progress of ceilings if it has changed."""
        for (dataset, protocol), (key, shown) in self.progress.items():
            if (now := actors.progress_of(key)) and now != shown:
                self.progress[dataset, protocol] = (key, now)
                self.listener.ceiling(dataset, protocol, *now)

    def _scored(self, reference: Any) -> None:
        unit, claim, _ = self.scoring.pop(reference)
        try:
            seconds = ray.get(reference)
        except Exception as error:  # noqa: BLE001 - one failing unit must not stop the others
            self._ended(unit, claim)
            if not self._retry_extraction(unit, error):
                self._failed(unit, "score", error)
        else:
            self.scored[unit.content] = unit
            self._ended(unit, claim)
            self.n_scored += 1
            self.metrics.scored(unit.source.name, unit.dataset)
            self.listener.finished(unit, seconds)

    def _retry_extraction(self, unit: ScoreUnit, error: Exception) -> bool:
        """If a score failed because its features were corrupt (and thus removed), extract them again, once."""
        cause = getattr(error, "cause", None) or error
        if not unit.features or unit.key in self.retried or not isinstance(cause, CorruptUnit | FileNotFoundError):
            return False
        self.retried.add(unit.key)
        self.listener.noted(unit.source.name, f"{cause} It is computed again.")
        self._wait_or_score(unit)
        return True

    # --- other drivers, limits, failures ------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Check other drivers' units, time limits and the size of the cluster, at most every LOOK_S seconds."""
        if time.monotonic() - self.checked_at < LOOK_S:
            return
        self.checked_at = time.monotonic()
        self.n_cpus, _ = ray_session.resources()  # nodes join and leave
        self._extracted(self.queue.look_around())
        self._cancel_timed_out_scores()
        self._follow_ceilings()
        held = [worker.placement for worker in self.queue.workers]
        n_waiting = sum(map(len, self.waiting.values())) + len(self.ready) + len(self.elsewhere)
        self.metrics.look(self.queue.cluster, held, n_waiting)
        for key in list(self.elsewhere):
            if self.store.has("scores", key):
                self.listener.found(self.elsewhere.pop(key))
            elif not self.store.claimed("scores", key):  # the other driver failed or died
                self.ready.append(self.elsewhere.pop(key))

    def _cancel_timed_out_scores(self) -> None:
        """Cancel scores that exceed the time limit, with their worker processes; each is a failure."""
        now = time.monotonic()
        late = [
            reference for reference, (unit, _, started) in self.scoring.items() if now - started > self._limit_s(unit)
        ]
        _, running = ray.wait(late, num_returns=len(late), timeout=0) if late else ([], [])
        for reference in running:  # cancelling a task that has just ended can crash Ray (see `_close`)
            unit, claim, started = self.scoring.pop(reference)
            ray.cancel(reference, force=True)
            self._ended(unit, claim)
            self._failed(unit, "score", UnitTimeoutError(
                f"{unit.source.name}: one score took longer than {now - started:.0f} s and was cancelled; set "
                "HARNESS_UNIT_LIMIT_S to raise the limit."
            ))  # fmt: skip

    def _limit_s(self, unit: ScoreUnit) -> float:
        """Time limit of a score, from its forecast and that of its ceiling."""
        keys = (unit.key, f"{unit.dataset} {unit.protocol.name}")
        forecasts = (self.workload.forecasts[key] for key in keys if key in self.workload.forecasts)
        return time_limit_s(SCORE_S + sum(forecast.end_s - forecast.start_s for forecast in forecasts))

    def _failed(self, unit: ScoreUnit, stage: str, error: Exception) -> None:
        failure = Failure.of(error, stage, unit.source.name, unit.dataset, unit.protocol.name)
        self.workload.failures.append(failure)
        self.listener.failed(failure)

    def _close(self) -> None:
        """Release all claims and resources. Scores in progress end with the driver, or by themselves.

        They are not cancelled: cancelling a task just as it ends crashes Ray ("Tried to complete task that was not
        pending").
        """
        for _, claim, _ in self.scoring.values():
            claim.release()
        self.queue.close()
