"""A spec from beginning to end: what is there already is skipped, the rest runs, the tables are put together.

Every unit that the store does not hold runs on Ray: a model's actor reads the texts, and as soon as one is read its
scores are computed. What fails is written down and the rest goes on. Last, Ray Data puts the tables together.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

from harness import folds, quickstart, tables
from harness.plan import Failure, Plan, Watcher, make_plan, require_files
from harness.score_units import ScoreUnit
from harness.spec import EvaluationSpec
from harness.store import Store
from harness.units import Source, code_version, now


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `n_computed` and `n_reused` count score units."""

    run: str
    n_units: int
    n_computed: int
    n_reused: int
    failures: tuple[Failure, ...]
    seconds: float


def run(
    spec: EvaluationSpec,
    out: str,
    data_root: str | None = None,
    *,
    address: str | None = None,
    device: str = "auto",
    pinned: bool = True,
    watcher: Watcher | None = None,
) -> Outcome:
    """Run a spec and write its tables.

    Args:
        spec: what to measure.
        out: folder or URL of units and tables.
        data_root: folder of the recordings.
        address: a Ray cluster; None starts a local Ray.
        device: "auto", "cpu" or "cuda", where models are read.
        pinned: whether recordings must be the published files, by checksum.
        watcher: is told what happens.

    Returns:
        How it ended; a failing model does not stop the others.

    Raises:
        FileNotFoundError: if a file that a control needs is named and not there.
    """
    started, watcher, store = time.monotonic(), watcher or Watcher(), Store(out)
    require_files(spec)
    store.require_writable()
    store.sweep()
    if any(name.startswith("synthetic") for name in spec.datasets):
        _prepare_quickstart(spec, out, address, watcher)
    plan = make_plan(spec, out, data_root, pinned=pinned)
    for failure in plan.failures:
        watcher.failed(failure)
    pending = [unit for unit in plan.scores if not store.has("scores", unit.key)]
    watcher.planned(plan, pending)
    done = _compute(plan, pending, store, address, device, watcher)
    n_computed = len(pending) - (len(plan.scores) - len(done))
    outcome = Outcome(
        plan.run, len(plan.scores), n_computed, len(done) - n_computed, tuple(plan.failures), time.monotonic() - started
    )
    if n_computed or plan.failures or not tables.holds(out, plan.run):
        from harness import actors, assemble

        watcher.busy("putting the tables together")
        actors.start(address)
        others = other_rows(plan, outcome, out) | {"units": _unit_rows(plan.run, done)}
        assemble.write(store, plan.run, done, others)
    return replace(outcome, seconds=time.monotonic() - started)


def _compute(
    plan: Plan, pending: list[ScoreUnit], store: Store, address: str | None, device: str, watcher: Watcher
) -> list[ScoreUnit]:
    """Compute what is pending, and give what is then done; what is neither done nor failed becomes a failure."""
    if pending:
        from harness import actors
        from harness.schedule import Schedule

        actors.start(address)
        Schedule(plan, pending, store, device, watcher).work()
    done = {unit.key: unit for unit in plan.scores if store.manifest("scores", unit.key)}
    known = {(failure.model, failure.dataset, failure.protocol) for failure in plan.failures}
    for unit in plan.scores:
        what = (unit.source.name, unit.dataset, unit.protocol.name)
        if unit.key not in done and what not in known:
            plan.failures.append(Failure("schedule", *what, "NeverRan", "the unit was planned and has no result"))
    return list(done.values())


def _prepare_quickstart(spec: EvaluationSpec, out: str, address: str | None, watcher: Watcher) -> None:
    folder = quickstart.folder_of(out)
    if not quickstart.is_built(folder):
        from harness import actors

        watcher.busy("building three tiny models and a recording with a known answer")
        actors.start(address)
        actors.prepare_quickstart(str(folder), spec.seed)


# --- rows that are not scores -----------------------------------------------------------------------------------------


def other_rows(plan: Plan, outcome: Outcome, out: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of `model_properties`, `folds`, `failures` and `runs`."""
    return {
        "model_properties": [_properties(source, plan.run) for source in plan.sources if source.kind == "model"],
        "folds": list(_fold_rows(plan)),
        "failures": [{"run": plan.run, "created": now(), **asdict(failure)} for failure in plan.failures],
        "runs": [_run_row(plan, outcome, out)],
    }


def _unit_rows(run: str, done: list[ScoreUnit]) -> list[dict[str, Any]]:
    """The scores, and the features that they were computed from."""
    rows = {}
    for unit in done:
        of = {"run": run, "model": unit.source.name, "dataset": unit.dataset, "protocol": unit.protocol.name}
        rows[unit.key] = {**of, "kind": "scores", "key": unit.key}
        if unit.features:
            rows[unit.features.key] = {**of, "kind": "features", "key": unit.features.key}
    return list(rows.values())


def _fold_rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """Which rows trained and which tested, for whoever wants to score the same folds elsewhere."""
    used = {(unit.dataset, unit.protocol) for unit in plan.scores if unit.protocol.reading != "correlation"}
    for name, protocol in sorted(used, key=lambda pair: (pair[0], pair[1].name)):
        dataset = plan.recordings[name]
        with contextlib.suppress(ValueError):  # no folds can be made, as the failures of its scores say
            for number, (part, fold) in enumerate(folds.of_recording(protocol.folds, dataset)):
                of = {
                    "run": plan.run, "dataset": name, "dataset_version": dataset.version, "protocol": protocol.name,
                    "protocol_hash": protocol.hash, "part": part, "fold": number,
                }  # fmt: skip
                ids = dataset.responses.row_ids if dataset.responses else dataset.stimuli.ids
                for side, rows in zip(("train", "test"), fold, strict=True):
                    yield from ({**of, "row_id": ids[row], "side": side} for row in rows)


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
    used = {unit.protocol.hash: asdict(unit.protocol) for unit in plan.scores}
    content: dict[str, Any] = {"spec": asdict(plan.spec), "protocols": list(used.values())}
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
