"""The units of a run on Ray: who waits for whom, and what happens when one fails.

A score waits for its features and for its data set's ceiling. A model's actor lives from its first text to its last;
the largest models come first, and no more live at once than there is room for. This is the one place that catches
every exception: a failure is written down, and the other units go on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import ray

from harness import actors
from harness.checkpoints import Checkpoint
from harness.plan import Failure, Plan, Watcher
from harness.score_units import ScoreUnit
from harness.store import Store
from harness.units import FeatureUnit


class Schedule:
    """The pending score units of a plan, and the work that they wait for."""

    def __init__(self, plan: Plan, pending: Iterable[ScoreUnit], store: Store, device: str, watcher: Watcher) -> None:
        self.plan, self.store, self.watcher = plan, store, watcher
        n_cpus, n_gpus = actors.resources()
        self.device = device if device != "auto" else ("cuda" if n_gpus else "cpu")
        # On the CPU half of the cores read and half score, so that neither waits for the other at the end.
        # On a GPU one model each; with none yet Ray asks the autoscaler for the first.
        self.room = max(1, n_gpus if self.device == "cuda" else n_cpus // 2)
        self.running: dict[Any, FeatureUnit | ScoreUnit] = {}
        self.waiting: defaultdict[str, list[ScoreUnit]] = defaultdict(list)  # by the key of their features
        self.unread: dict[Checkpoint, dict[str, FeatureUnit]] = {}
        self.models: dict[Checkpoint, Any] = {}
        self.recordings = {name: ray.put(dataset) for name, dataset in plan.recordings.items()}
        self.ceilings: dict[tuple[str, str], Any] = {}
        for unit in pending:
            self._wait_or_score(unit)
        self._admit()

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
                self.watcher.finished(unit, seconds)
                if isinstance(unit, FeatureUnit):
                    for score in self.waiting.pop(unit.key):
                        self._score(score)
            if isinstance(unit, FeatureUnit):
                self._release(unit)

    def _wait_or_score(self, unit: ScoreUnit) -> None:
        """A unit whose features are absent waits for them; they are read once, however many scores wait."""
        features = unit.features
        if features is None or self.store.has("features", features.key):
            self._score(unit)
            return
        if features.key not in self.waiting:  # two names may stand for the same weights: they are read once
            assert features.source.checkpoint is not None  # noqa: S101 - only models have features
            self.unread.setdefault(features.source.checkpoint, {})[features.key] = features
        self.waiting[features.key].append(unit)

    def _admit(self) -> None:
        """Give free room to the largest models that have none; trained weights are read before untrained ones."""
        for checkpoint in sorted(self.unread, key=lambda waiting: -waiting.n_parameters):
            if checkpoint in self.models or len(self.models) >= self.room:
                continue
            need = {"num_gpus": 1} if self.device == "cuda" else {"num_cpus": 1}
            actor = actors.ModelActor.options(**need).remote(checkpoint, self.store.out, self.device)  # type: ignore[attr-defined]
            self.models[checkpoint] = actor
            for features in sorted(self.unread[checkpoint].values(), key=lambda features: features.source.kind):
                self.running[actor.read.remote(features)] = features

    def _release(self, unit: FeatureUnit) -> None:
        """Kill a model's actor after its last text, so that the next model gets its place."""
        checkpoint = unit.source.checkpoint
        assert checkpoint is not None  # noqa: S101 - only models have features
        del self.unread[checkpoint][unit.key]
        if not self.unread[checkpoint]:
            del self.unread[checkpoint]
            ray.kill(self.models.pop(checkpoint))
            self._admit()

    def _score(self, unit: ScoreUnit) -> None:
        ceiling, recording = self._ceiling(unit), self.recordings[unit.dataset]
        self.running[actors.score.remote(unit, recording, ceiling, self.store.out, self.device)] = unit

    def _ceiling(self, unit: ScoreUnit) -> Any:
        key = (unit.dataset, unit.protocol.name)
        if key not in self.ceilings:
            self.ceilings[key] = actors.ceiling.remote(self.recordings[unit.dataset], unit.protocol, self.store.out)
        return self.ceilings[key]

    def _failed(self, unit: FeatureUnit | ScoreUnit, error: Exception) -> None:
        is_reading = isinstance(unit, FeatureUnit)
        for score in self.waiting.pop(unit.key) if isinstance(unit, FeatureUnit) else [unit]:
            station = "extract" if is_reading else "score"
            failure = Failure.of(error, station, score.source.name, score.dataset, score.protocol.name)
            self.plan.failures.append(failure)
            self.watcher.failed(failure)
