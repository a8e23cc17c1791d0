"""The units of a run on Ray: who waits for whom, and what happens when one fails.

A score waits for its features and for its data set's ceiling. A model's actor lives from its first text to its last.
This is the one place that catches every exception: a failure is written down, and the other units go on.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import ray

from harness import actors
from harness.pipeline import Failure, Plan, Watcher
from harness.store import Store
from harness.units import FeatureUnit, ScoreUnit

if TYPE_CHECKING:
    from collections.abc import Iterable


class Schedule:
    """The pending score units of a plan, and the work that they wait for."""

    def __init__(self, plan: Plan, pending: Iterable[ScoreUnit], store: Store, device: str, watcher: Watcher) -> None:
        self.plan, self.store, self.watcher = plan, store, watcher
        self.device = device if device != "auto" else ("cuda" if actors.n_gpus() else "cpu")
        self.running: dict[Any, FeatureUnit | ScoreUnit] = {}
        self.models: dict[str, Any] = {}
        self.recordings = {name: ray.put(dataset) for name, dataset in plan.recordings.items()}
        self.ceilings: dict[tuple[str, str], Any] = {}
        self.waiting: defaultdict[str, list[ScoreUnit]] = defaultdict(list)
        self.reading: defaultdict[str, set[str]] = defaultdict(set)
        self._begin(list(pending))

    def work(self) -> None:
        """Until nothing runs: take what is finished, start what waited for it."""
        while self.running:
            (reference,), _ = ray.wait(list(self.running), num_returns=1)
            unit = self.running.pop(reference)
            try:
                seconds = ray.get(reference)
            except Exception as error:  # noqa: BLE001 - one failing unit must not stop the others
                self._failed(unit, error)
            else:
                self._finished(unit, seconds)

    def _begin(self, pending: list[ScoreUnit]) -> None:
        """Start every feature unit that is absent (once, however many scores wait for it), and every other score."""
        for unit in pending:
            features = unit.features
            if features is None or self.store.manifest("features", features.key):
                self._score(unit)
                continue
            if not self.waiting[features.key]:
                self._read(features)
            self.waiting[features.key].append(unit)

    def _read(self, unit: FeatureUnit) -> None:
        checkpoint = unit.source.checkpoint
        assert checkpoint is not None  # noqa: S101 - only models read
        name = checkpoint.name
        if name not in self.models:
            resources = {"num_gpus": 1} if self.device.startswith("cuda") else {"num_cpus": 1}
            self.models[name] = actors.ModelActor.options(**resources).remote(  # type: ignore[attr-defined]
                checkpoint, self.store.out, self.device
            )
        self.reading[name].add(unit.key)
        self.running[self.models[name].read.remote(unit)] = unit

    def _score(self, unit: ScoreUnit) -> None:
        ceiling = self._ceiling(unit) if self.plan.recordings[unit.dataset].responses else None
        self.running[actors.score.remote(unit, self.recordings[unit.dataset], ceiling, self.store.out)] = unit

    def _ceiling(self, unit: ScoreUnit) -> Any:
        key = (unit.dataset, unit.protocol.name)
        if key not in self.ceilings:
            self.ceilings[key] = actors.ceiling.remote(self.recordings[unit.dataset], unit.protocol, self.store.out)
        return self.ceilings[key]

    def _finished(self, unit: FeatureUnit | ScoreUnit, seconds: float) -> None:
        self.watcher.finished(unit, seconds)
        if isinstance(unit, FeatureUnit):
            for score in self.waiting.pop(unit.key):
                self._score(score)
            self._release(unit)

    def _failed(self, unit: FeatureUnit | ScoreUnit, error: Exception) -> None:
        scores = self.waiting.pop(unit.key) if isinstance(unit, FeatureUnit) else [unit]
        station = "extract" if isinstance(unit, FeatureUnit) else "score"
        for score in scores:
            failure = Failure.of(error, station, score.source.name, score.dataset, score.protocol.name)
            self.plan.failures.append(failure)
            self.watcher.failed(failure)
        if isinstance(unit, FeatureUnit):
            self._release(unit)

    def _release(self, unit: FeatureUnit) -> None:
        """Kill a model's actor after its last text, so that the next model gets its place."""
        checkpoint = unit.source.checkpoint
        assert checkpoint is not None  # noqa: S101 - only models read
        self.reading[checkpoint.name].discard(unit.key)
        if not self.reading[checkpoint.name]:
            ray.kill(self.models.pop(checkpoint.name))
