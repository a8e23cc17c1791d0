"""Compute the units of a run in this process, one after the other, without Ray: for notebooks and models in memory.

The units, their keys and their tables are those of a run on Ray. A model is loaded once for its texts, its untrained
control after it; then the scores are computed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from harness.extraction import backends, with_transformers
from harness.extraction.backends import Model
from harness.loading import memory
from harness.loading.in_memory import InMemory
from harness.records import Dataset
from harness.runs.outcome import Account
from harness.runs.stopping import Stop
from harness.runs.workload import Failure, ProgressListener, Workload
from harness.storage.store import Store
from harness.units.ceiling_units import compute_ceiling
from harness.units.feature_units import FeatureUnit
from harness.units.localiser_units import LocaliserUnit
from harness.units.score_units import ScoreUnit

Need = FeatureUnit | LocaliserUnit
WAIT_S = 3600.0  # for a unit that another process computes


class InProcess:
    """The pending score units of a workload."""

    def __init__(
        self, workload: Workload, store: Store, device: str, listener: ProgressListener,
        models: Mapping[str, InMemory], allow_pickle: bool = False,
    ) -> None:  # fmt: skip
        """`models` are those in memory, by their names; others are loaded."""
        self.workload, self.store, self.listener, self.models = workload, store, listener, models
        self.device = memory.best_device() if device == "auto" else device
        self.allow_pickle = allow_pickle
        self.extracted: set[str] = set()
        self.errors: dict[str, Exception] = {}  # by key of what could not be extracted
        self.scored: dict[str, ScoreUnit] = {}  # by their content

    def work(self, pending: Iterable[ScoreUnit], stop: Stop) -> Account:
        """Compute all pending units; failures of one do not stop the others."""
        pending, n_scored = list(pending), 0
        for needs in self._by_model(pending):
            self._extract(needs, stop)
        for unit in pending:
            if stop.is_asked:
                break
            n_scored += self._score(unit)
        return Account(n_scored, extracted=frozenset(self.extracted), was_stopped=stop.is_asked)

    def _by_model(self, pending: Iterable[ScoreUnit]) -> list[list[Need]]:
        """What is to be extracted, by model; a model's trained weights apart from its untrained ones."""
        groups: defaultdict[tuple[str, int | None], dict[str, Need]] = defaultdict(dict)
        for unit in pending:
            for need in unit.needs:
                if not self.store.has(need.stored_as, need.key):
                    groups[need.checkpoint.name, need.seed][need.key] = need
        return [list(needs.values()) for needs in groups.values()]

    def _extract(self, needs: list[Need], stop: Stop) -> None:
        """Load a model and extract what is needed of it."""
        if stop.is_asked:
            return
        try:
            with self._loaded(needs[0]) as model:
                for need in needs:
                    if not stop.is_asked:
                        self._extract_one(need, model)
        except Exception as error:  # noqa: BLE001 - the other models go on
            self.errors |= {need.key: error for need in needs if need.key not in self.extracted}

    def _extract_one(self, need: Need, model: Model) -> None:
        started = time.monotonic()
        try:
            with self.store.claim(need.stored_as, need.key) as is_claimed:
                if is_claimed:
                    need.run(model, self.store)
                    self.extracted.add(need.key)
                    self.listener.finished(need, time.monotonic() - started)
                else:
                    self.store.wait(need.stored_as, need.key, WAIT_S)
        except Exception as error:  # noqa: BLE001 - the other texts go on
            self.errors[need.key] = error

    @contextmanager
    def _loaded(self, need: Need) -> Iterator[Model]:
        """The model of a unit: the one in memory, or loaded for the duration of the context."""
        checkpoint, spec = need.checkpoint, self.workload.spec
        self.listener.noted(checkpoint.name, "loading")
        if need.seed is None and (own := self.models.get(checkpoint.name)):
            with own.loaded() as loaded:
                yield Model("transformers", loaded, with_transformers.extract)
            return
        states = getattr(need, "states", True)
        backend, _ = backends.choose(checkpoint, spec.backend, self.device, need.dtype, states=states)
        model = backends.load(
            backend if need.seed is None else "transformers", checkpoint, self.device, need.dtype, need.seed,
            allow_pickle=self.allow_pickle,
        )  # fmt: skip
        try:
            yield model
        finally:
            model.close()

    def _score(self, unit: ScoreUnit) -> bool:
        """Compute one score; return whether it was computed here."""
        started, dataset = time.monotonic(), self.workload.recordings[unit.dataset]
        lacking = next((need for need in unit.needs if need.key in self.errors), None)
        if lacking:
            self._failed(unit, "extract", self.errors[lacking.key])
            return False
        try:
            with self.store.claim("scores", unit.key) as is_claimed:
                if is_claimed:
                    self._score_or_take(unit, dataset)
        except Exception as error:  # noqa: BLE001 - the other scores go on
            self._failed(unit, "score", error)
            return False
        if is_claimed:
            self.listener.finished(unit, time.monotonic() - started)
        elif self.store.wait("scores", unit.key, WAIT_S):
            self.listener.found(unit)
        return is_claimed

    def _score_or_take(self, unit: ScoreUnit, dataset: Dataset) -> None:
        """Compute and store one score unit, or take its rows from one of the same content."""
        scored = self.scored.get(unit.content)
        if scored is None or not unit.take_from(scored, self.store):
            progress = partial(self.listener.ceiling, unit.dataset, unit.protocol.name)
            unit.run(dataset, compute_ceiling(dataset, unit.protocol, self.store, progress), self.store)
        self.scored[unit.content] = unit

    def _failed(self, unit: ScoreUnit, stage: str, error: Exception) -> None:
        failure = Failure.of(error, stage, unit.source.name, unit.dataset, unit.protocol.name)
        self.workload.failures.append(failure)
        self.listener.failed(failure)
