"""Which units a spec needs, in what order they run, and what is there already.

Models are resolved and recordings loaded first, so that what is wrong with them is known before any work. Then every
unit that the store does not hold runs on Ray: a model's actor reads the texts, and as soon as one is read its scores
are computed. What fails is written down and the rest goes on. Last, Ray Data puts the tables together.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from harness import controls, datasets, models, quickstart, tables
from harness.records import Dataset
from harness.spec import EvaluationSpec, content_hash
from harness.store import Store
from harness.units import FeatureUnit, ScoreUnit, Source, code_version, now


@dataclass(frozen=True)
class Failure:
    """What did not work: at which station, on what."""

    station: str
    model: str
    dataset: str
    protocol: str
    exception: str
    message: str

    @classmethod
    def of(cls, error: BaseException, station: str, model: str = "", dataset: str = "", protocol: str = "") -> Failure:
        """From an exception, a remote one told by its cause."""
        cause = getattr(error, "cause", None) or error
        return cls(station, model, dataset, protocol, type(cause).__name__, str(cause).strip())


@dataclass
class Plan:
    """What a run consists of, and what stood in the way of planning it."""

    spec: EvaluationSpec
    sources: list[Source] = field(default_factory=list)
    recordings: dict[str, Dataset] = field(default_factory=dict)
    scores: list[ScoreUnit] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    started: str = field(default_factory=now)

    @property
    def run(self) -> str:
        """Name of the run: the spec's name and a hash of the units that its tables are made of."""
        return f"{self.spec.name}-{content_hash(sorted(unit.key for unit in self.scores))[:8]}"


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `n_computed` and `n_reused` count score units."""

    run: str
    n_units: int
    n_computed: int
    n_reused: int
    failures: tuple[Failure, ...]
    seconds: float


class Watcher:
    """Hears what a run does; the base class hears and says nothing."""

    def planned(self, plan: Plan, pending: list[ScoreUnit]) -> None:
        """The plan is made; `pending` is what the store does not hold."""

    def busy(self, what: str) -> None:
        """Something that is not a unit is going on."""

    def finished(self, unit: FeatureUnit | ScoreUnit, seconds: float) -> None:
        """A unit is stored."""

    def failed(self, failure: Failure) -> None:
        """A unit, a model or a data set failed."""


def run(
    spec: EvaluationSpec,
    out: str,
    data_root: str | None = None,
    *,
    address: str | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
) -> Outcome:
    """Run a spec and write its tables.

    Args:
        spec: what to measure.
        out: folder or URL of units and tables.
        data_root: folder of the recordings.
        address: a Ray cluster; None starts a local Ray.
        device: "auto", "cpu" or "cuda", where models are read.
        watcher: is told what happens.

    Returns:
        How it ended; a failing model does not stop the others.
    """
    started, watcher, store = time.monotonic(), watcher or Watcher(), Store(out)
    store.sweep()
    if any(name.startswith("synthetic") for name in spec.datasets):
        _prepare_quickstart(spec, out, address, watcher)
    plan = make_plan(spec, out, data_root)
    for failure in plan.failures:
        watcher.failed(failure)
    pending = [unit for unit in plan.scores if store.manifest("scores", unit.key) is None]
    watcher.planned(plan, pending)
    n_pending = len(pending)
    if pending:
        from harness import actors
        from harness.schedule import Schedule

        actors.start(address)
        Schedule(plan, pending, store, device, watcher).work()
    done = [unit for unit in plan.scores if store.manifest("scores", unit.key) is not None]
    n_computed = n_pending - (len(plan.scores) - len(done))
    outcome = Outcome(
        plan.run, len(plan.scores), n_computed, len(done) - n_computed, tuple(plan.failures), time.monotonic() - started
    )
    if n_computed or plan.failures or not tables.holds(out, plan.run):
        from harness import actors, assemble

        watcher.busy("putting the tables together")
        actors.start(address)
        assemble.write(store, plan.run, done, other_rows(plan, outcome, out))
    return outcome


def _prepare_quickstart(spec: EvaluationSpec, out: str, address: str | None, watcher: Watcher) -> None:
    folder = quickstart.folder_of(out)
    if not quickstart.is_built(folder):
        from harness import actors

        watcher.busy("building three tiny models and a recording with a known answer")
        actors.start(address)
        actors.prepare_quickstart(str(folder), spec.seed)


# --- planning ---------------------------------------------------------------------------------------------------------


def make_plan(spec: EvaluationSpec, out: str, data_root: str | None) -> Plan:
    """Resolve the models, load the recordings and list the units; what cannot be had becomes a failure."""
    plan = Plan(spec)
    plan.sources = [*_models(plan, out), *(Source(name, "control", "", spec.seed) for name in spec.controls)]
    for name in dict.fromkeys(member for group in spec.datasets for member in datasets.expand(group)):
        root = quickstart.folder_of(out) if name.startswith("synthetic") else data_root or "."
        try:
            plan.recordings[name] = datasets.load(name, root)
        except (OSError, ValueError) as error:
            plan.failures.append(Failure.of(error, "datasets", dataset=name))
    plan.scores = list(_score_units(plan))
    return plan


def _models(plan: Plan, out: str) -> Iterator[Source]:
    found: dict[str, models.Checkpoint] = {}
    for name in dict.fromkeys(plan.spec.models):
        where = str(quickstart.folder_of(out) / name) if name in quickstart.MODELS else name
        try:
            checkpoint = models.resolve(where)
            _require_other_name(checkpoint, found)
        except (OSError, ValueError, KeyError) as error:
            plan.failures.append(Failure.of(error, "models", model=name))
        else:
            found[checkpoint.name] = checkpoint
    for checkpoint in models.pair(found.values()):
        yield Source(checkpoint.name, "model", checkpoint.revision, plan.spec.seed, checkpoint)
        if plan.spec.untrained:
            twin = f"{checkpoint.name}:untrained"
            yield Source(twin, "untrained", checkpoint.revision, plan.spec.seed, checkpoint)


def _require_other_name(checkpoint: models.Checkpoint, found: dict[str, models.Checkpoint]) -> None:
    """Two checkpoints of one name could not be told apart in the tables; the same one given twice is no harm."""
    other = found.get(checkpoint.name)
    if other and other.revision != checkpoint.revision:
        raise ValueError(
            f"{checkpoint.folder} and {other.folder} are both called {checkpoint.name!r}; rename a folder."
        )


def _score_units(plan: Plan) -> Iterator[ScoreUnit]:
    for name, dataset in plan.recordings.items():
        for protocol in (datasets.protocols(name)[p] for p in plan.spec.protocols):
            for source in plan.sources:
                if source.checkpoint is None and not controls.applies(source.name, dataset):
                    continue
                features = feature_unit(source, dataset, protocol.context) if source.checkpoint else None
                yield ScoreUnit(source, name, dataset.version, protocol, plan.spec.seed, features)


def feature_unit(source: Source, dataset: Dataset, context: str) -> FeatureUnit:
    """What a model must read for a data set: states for responses, surprisals for reading times.

    A decoder gives the surprisals of a recording's stimuli in the pass that gives its states; T5 would need a second.
    """
    assert source.checkpoint is not None  # noqa: S101 - controls read nothing
    brain = dataset.responses is not None
    return FeatureUnit(
        source, dataset.stimuli, context, states=brain, surprisals=not brain or source.checkpoint.family != "t5"
    )


# --- rows that are not scores -----------------------------------------------------------------------------------------


def other_rows(plan: Plan, outcome: Outcome, out: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of `model_properties`, `failures` and `runs`."""
    return {
        "model_properties": [_properties(source, plan.run) for source in plan.sources if source.kind == "model"],
        "failures": [{"run": plan.run, "created": now(), **asdict(failure)} for failure in plan.failures],
        "runs": [_run_row(plan, outcome, out)],
    }


def _properties(source: Source, run_id: str) -> dict[str, Any]:
    checkpoint = source.checkpoint
    assert checkpoint is not None  # noqa: S101 - a model has one
    names = (
        "family",
        "tuned_from",
        "pair_source",
        "n_parameters",
        "n_layers",
        "hidden_size",
        "context_size",
        "vocabulary",
    )
    return {
        "run": run_id, "model": source.name, "kind": source.kind, "revision": source.revision,
        "code_version": code_version(), "created": now(), **{name: getattr(checkpoint, name) for name in names},
    }  # fmt: skip


def _run_row(plan: Plan, outcome: Outcome, out: str) -> dict[str, Any]:
    libraries = ("numpy", "scipy", "scikit-learn", "torch", "transformers", "ray", "pyarrow", "pandas")
    content: dict[str, Any] = {"spec": asdict(plan.spec)}
    if any(name.startswith("synthetic") for name in plan.recordings):
        content["planted"] = json.loads((quickstart.folder_of(out) / "synthetic" / "planted.json").read_text())
    return {
        "run": plan.run, "spec": plan.spec.name, "status": "failed" if outcome.failures else "done",
        "started": plan.started, "seconds": outcome.seconds, "n_units": outcome.n_units,
        "n_computed": outcome.n_computed, "n_reused": outcome.n_reused, "n_failed": len(outcome.failures),
        "command": " ".join(["harness", *sys.argv[1:]]), "code_version": code_version(),
        "versions": json.dumps({"python": platform.python_version(), **{name: version(name) for name in libraries}}),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores", "content": json.dumps(content),
    }  # fmt: skip
