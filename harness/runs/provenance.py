"""How a run was made, as rows: who was read and how, by which code, on which folds, of which units of the store."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import pyarrow.parquet as pq

from harness import names
from harness.features import controls
from harness.runs.outcome import Account, Outcome
from harness.runs.workload import Workload
from harness.scoring import folds
from harness.storage.origin import code_version, now
from harness.storage.store import Store
from harness.units import quickstart
from harness.units.feature_units import FeatureSource, FeatureUnit
from harness.units.score_units import ScoreUnit


def rows(
    plan: Workload, outcome: Outcome, done: list[ScoreUnit], store: Store, account: Account
) -> dict[str, list[dict[str, Any]]]:
    """Rows of `model_properties`, `folds`, `units`, `extractions`, `failures` and `runs`."""
    extractions = list(_extractions(plan.run, done, store, account))
    expected = _next_word(plan, done, store)
    return {
        "model_properties": [
            _properties(source, plan.run) | expected[source.name] for source in plan.sources if source.kind == "model"
        ],
        "folds": list(_fold_rows(plan)),
        "failures": [{"run": plan.run, "created": now(), **asdict(failure)} for failure in plan.failures],
        "units": _unit_rows(plan.run, done),
        "extractions": extractions,
        "runs": [_run_row(plan, outcome, store.out) | _of_reading(extractions, account) | _cost(outcome, account)],
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


def _fold_rows(plan: Workload) -> Iterator[dict[str, Any]]:
    """Which rows trained and which tested, for whoever wants to score the same folds elsewhere."""
    used = {
        (unit.dataset, unit.protocol) for unit in plan.scores
        if unit.protocol.reading != "correlation" and controls.kind_of(plan.recordings[unit.dataset]) != "text"
    }  # fmt: skip
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


def _next_word(plan: Workload, done: Iterable[ScoreUnit], store: Store) -> defaultdict[str, dict[str, Any]]:
    """Model -> how well it predicts the run's text; of several the first by name."""
    names = {"next_word_loss": "loss_nats", "next_word_perplexity": "perplexity", "next_word_accuracy": "accuracy"}
    found: defaultdict[str, dict[str, Any]] = defaultdict(lambda: {"next_word_text": "", **dict.fromkeys(names)})
    texts = [name for name, dataset in plan.recordings.items() if not dataset.responses and not dataset.reading]
    for unit in done:
        if unit.source.kind == "model" and texts and unit.dataset == min(texts):
            with store.open("scores", unit.key) as folder:
                (row,) = pq.read_table(folder / "next_word_scores.parquet", partitioning=None).to_pylist()
            found[unit.source.name] = {"next_word_text": unit.dataset} | {to: row[of] for to, of in names.items()}
    return found


def _properties(source: FeatureSource, run_id: str) -> dict[str, Any]:
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


def _run_row(plan: Workload, outcome: Outcome, out: str) -> dict[str, Any]:
    libraries = ("numpy", "scipy", "scikit-learn", "torch", "transformers", "ray", "pyarrow", "pandas")
    used = {unit.protocol.hash: asdict(unit.protocol) for unit in plan.scores}
    content: dict[str, Any] = {"spec": asdict(plan.spec), "protocols": list(used.values())}
    if any(name.startswith("synthetic") for name in plan.recordings):
        content["planted"] = json.loads((quickstart.folder_of(out) / "synthetic" / "planted.json").read_text())
    return {
        "run": plan.run, "spec": plan.spec.name, "status": outcome.status,
        "started": plan.started, "seconds": outcome.seconds, "n_units": outcome.n_units,
        "n_computed": outcome.n_computed, "n_reused": outcome.n_reused, "n_failed": len(outcome.failures),
        "command": names.printable(" ".join(["harness", *sys.argv[1:]])), "code_version": code_version(),
        "versions": json.dumps({"python": platform.python_version(), **{name: version(name) for name in libraries}}),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores", "content": json.dumps(content),
    }  # fmt: skip


# --- how texts were read ----------------------------------------------------------------------------------------------

# Columns of `extractions` that stand in a feature unit's manifest.
MEASURED = (
    "context", "backend", "dtype", "device", "host", "n_tokens", "n_windows", "n_reencoded", "n_oom", "batch_tokens",
    "seconds", "parity_states", "parity_nats", "notes", "libraries",
)  # fmt: skip


def _extractions(run: str, done: Iterable[ScoreUnit], store: Store, account: Account) -> Iterator[dict[str, Any]]:
    """One row per feature unit, from its manifest; what a manifest does not say is null."""
    features: dict[str, tuple[FeatureUnit, ScoreUnit]] = {}
    for score in done:
        if score.features:
            features.setdefault(score.features.key, (score.features, score))
    for key, (unit, score) in features.items():
        said = store.manifest("features", key) or {}
        node, gpus = account.landed.get(unit.source.checkpoint.name if unit.source.checkpoint else "", ("", ()))
        was_read = key in account.read
        yield {
            "run": run, "model": unit.source.name, "kind": unit.source.kind, "revision": unit.source.revision,
            "code_version": said.get("code_version"), "created": said.get("created"), "dataset": score.dataset,
            "key": key, "n_stimuli": len(unit.stimuli.ids), **{name: said.get(name) for name in MEASURED},
            "reused": not was_read, "recoveries": account.recoveries.get(key, 0),
            "node": node if was_read else None, "gpus": ",".join(map(str, gpus)) if was_read else None,
        }  # fmt: skip


def _cost(outcome: Outcome, account: Account) -> dict[str, Any]:
    """GPU hours of the whole cluster while the run lasted, and what they cost: a GPU is paid for while it waits too."""
    hours, price = account.n_gpus * outcome.seconds / 3600, account.usd_per_gpu_hour
    return {"gpu_hours": hours, "usd": None if price is None else price * hours}


def _of_reading(extractions: list[dict[str, Any]], account: Account) -> dict[str, Any]:
    """Columns of `runs` that sum up `extractions`; the parity is the largest."""

    def largest(name: str) -> float | None:
        return max((row[name] for row in extractions if row[name] is not None), default=None)

    def every(name: str) -> str:
        return ", ".join(sorted({row[name] for row in extractions if row[name]}))

    return {
        "backends": every("backend"), "dtypes": every("dtype"), "parity_states": largest("parity_states"),
        "parity_nats": largest("parity_nats"), "n_recoveries": sum(account.recoveries.values()),
        "n_nodes": account.n_nodes, "n_gpus": account.n_gpus, "predicted_s": account.predicted_s,
        "read_s": account.read_s,
    }  # fmt: skip
