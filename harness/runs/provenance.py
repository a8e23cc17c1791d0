"""Provenance of a run as table rows: models, extraction settings, code version, folds, and units of the store."""

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

import numpy as np
import pyarrow.parquet as pq

from harness import names
from harness.checkpoints.training_records import TrainingRecord
from harness.features import controls
from harness.runs.outcome import Account, Outcome
from harness.runs.workload import Workload
from harness.scoring import folds
from harness.storage.origin import code_version, now
from harness.storage.store import Store
from harness.units import quickstart
from harness.units.feature_units import FeatureSource, FeatureUnit
from harness.units.localiser_units import stored_t
from harness.units.score_units import ScoreUnit


def rows(
    workload: Workload, outcome: Outcome, done: list[ScoreUnit], store: Store, account: Account
) -> dict[str, list[dict[str, Any]]]:
    """Rows of `model_properties`, `folds`, `units`, `extractions`, `localised_units`, `failures` and `runs`."""
    extractions = list(_extractions(workload.run, done, store, account))
    run_row = _run_row(workload, outcome, store.out)
    next_word = _next_word(workload, done, store)
    models = [source for source in workload.sources if source.kind == "model"]
    return {
        "model_properties": [_properties(source, workload.run) | next_word[source.name] for source in models],
        "folds": list(_fold_rows(workload)),
        "failures": [{"run": workload.run, "created": now(), **asdict(failure)} for failure in workload.failures],
        "units": _unit_rows(workload.run, done),
        "extractions": extractions,
        "localised_units": list(_localised(workload.run, done, store)),
        "runs": [run_row | _extraction_summary(extractions, account) | _cost(outcome, account)],
    }


def _unit_rows(run: str, done: list[ScoreUnit]) -> list[dict[str, Any]]:
    """Rows for the score units, and the feature units they were computed from."""
    rows = {}
    for unit in done:
        labels = {"run": run, "model": unit.source.name, "dataset": unit.dataset, "protocol": unit.protocol.name}
        rows[unit.key] = {**labels, "kind": "scores", "key": unit.key}
        for need in unit.needs:
            rows[need.key] = {**labels, "kind": need.stored_as, "key": need.key}
    return list(rows.values())


def _fold_rows(workload: Workload) -> Iterator[dict[str, Any]]:
    """Yield the training and test rows of each fold, so that other programs can use the same folds."""
    used = {
        (unit.dataset, unit.protocol) for unit in workload.scores
        if unit.protocol.reading != "correlation" and controls.kind_of(workload.recordings[unit.dataset]) != "text"
    }  # fmt: skip
    for name, protocol in sorted(used, key=lambda pair: (pair[0], pair[1].name)):
        dataset = workload.recordings[name]
        with contextlib.suppress(ValueError):  # no folds can be made; the failures of its scores give the reason
            for number, (part, fold) in enumerate(folds.of_recording(protocol.folds, dataset)):
                labels = {
                    "run": workload.run, "dataset": name, "dataset_version": dataset.version, "protocol": protocol.name,
                    "protocol_hash": protocol.hash, "part": part, "fold": number,
                }  # fmt: skip
                ids = dataset.responses.row_ids if dataset.responses else dataset.stimuli.ids
                times = dataset.repetitions.n_of_row if dataset.repetitions else [1] * len(ids)
                for subset, rows in zip(("train", "test"), fold, strict=True):
                    yield from (
                        {**labels, "row_id": ids[row], "n_repetitions": int(times[row]), "subset": subset}
                        for row in rows
                    )


def _next_word(workload: Workload, done: Iterable[ScoreUnit], store: Store) -> defaultdict[str, dict[str, Any]]:
    """Return model -> its next-word scores on the run's text; of several texts, the first by name."""
    columns = {"next_word_loss": "loss_nats", "next_word_perplexity": "perplexity", "next_word_accuracy": "accuracy"}
    next_word: defaultdict[str, dict[str, Any]] = defaultdict(lambda: {"next_word_text": "", **dict.fromkeys(columns)})
    texts = [name for name, dataset in workload.recordings.items() if not dataset.responses and not dataset.reading]
    for unit in done:
        if unit.source.kind == "model" and texts and unit.dataset == min(texts):
            with store.open("scores", unit.key) as folder:
                (row,) = pq.read_table(folder / "next_word_scores.parquet", partitioning=None).to_pylist()
            scores = {column: row[score] for column, score in columns.items()}
            next_word[unit.source.name] = {"next_word_text": unit.dataset} | scores
    return next_word


def _properties(source: FeatureSource, run_id: str) -> dict[str, Any]:
    checkpoint = source.checkpoint
    assert checkpoint is not None  # noqa: S101 - a model has one
    columns = (
        "family", "tuned_from", "trained_from", "stage", "pair_source",
        "n_parameters", "n_layers", "hidden_size", "context_size", "vocabulary",
    )  # fmt: skip
    return {
        "run": run_id, "model": source.name, "kind": source.kind, "revision": source.revision,
        "code_version": code_version(), "created": now(), **{name: getattr(checkpoint, name) for name in columns},
        **_training(checkpoint.training),
    }  # fmt: skip


def _training(record: TrainingRecord | None) -> dict[str, Any]:
    """Columns of a checkpoint of `harness tune`; empty for other models."""
    if record is None:
        return {"arm": "", "tuning_seed": None, "tuning_step": None, "tuning_tokens": None}
    return {
        "arm": record.arm, "tuning_seed": record.seed, "tuning_step": record.step, "tuning_tokens": record.tokens,
    }  # fmt: skip


def _run_row(workload: Workload, outcome: Outcome, out: str) -> dict[str, Any]:
    libraries = ("numpy", "scipy", "scikit-learn", "torch", "transformers", "ray", "pyarrow", "pandas")
    used = {unit.protocol.hash: asdict(unit.protocol) for unit in workload.scores}
    content: dict[str, Any] = {"spec": workload.spec.content, "protocols": list(used.values())}
    if any(name.startswith("synthetic") for name in workload.recordings):
        content["planted"] = json.loads((quickstart.folder_of(out) / "synthetic" / "planted.json").read_text())
    return {
        "run": workload.run, "spec": workload.spec.name, "status": outcome.status,
        "started": workload.started, "seconds": outcome.seconds, "n_units": outcome.n_units,
        "n_computed": outcome.n_computed, "n_reused": outcome.n_reused, "n_failed": len(outcome.failures),
        "command": names.printable(" ".join(["harness", *sys.argv[1:]])), "code_version": code_version(),
        "versions": json.dumps({"python": platform.python_version(), **{name: version(name) for name in libraries}}),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores", "content": json.dumps(content),
    }  # fmt: skip


# --- extraction -------------------------------------------------------------------------------------------------------

# Columns of `extractions` that are copied from a feature unit's manifest.
MEASURED = (
    "context", "backend", "dtype", "device", "host", "n_tokens", "n_windows", "n_reencoded", "n_oom", "batch_tokens",
    "seconds", "parity_states", "parity_nats", "notes", "libraries",
)  # fmt: skip


def _extractions(run: str, done: Iterable[ScoreUnit], store: Store, account: Account) -> Iterator[dict[str, Any]]:
    """Yield one row per feature unit from its manifest; values missing from the manifest are null."""
    features: dict[str, tuple[FeatureUnit, ScoreUnit]] = {}
    for score in done:
        if score.features:
            features.setdefault(score.features.key, (score.features, score))
    for key, (unit, score) in features.items():
        manifest = store.manifest("features", key) or {}
        node, gpus = account.landed.get(unit.source.checkpoint.name if unit.source.checkpoint else "", ("", ()))
        is_new = key in account.extracted
        yield {
            "run": run, "model": unit.source.name, "kind": unit.source.kind, "revision": unit.source.revision,
            "code_version": manifest.get("code_version"), "created": manifest.get("created"), "dataset": score.dataset,
            "key": key, "n_stimuli": len(unit.stimuli.ids), **{name: manifest.get(name) for name in MEASURED},
            "reused": not is_new, "recoveries": account.recoveries.get(key, 0),
            "node": node if is_new else None, "gpus": ",".join(map(str, gpus)) if is_new else None,
        }  # fmt: skip


def _localised(run: str, done: Iterable[ScoreUnit], store: Store) -> Iterator[dict[str, Any]]:
    """Yield how many units of each layer were chosen, once per source and localiser."""
    chosen_by = {(unit.source.name, unit.localiser.key): unit for unit in done if unit.localiser}
    for unit in chosen_by.values():
        source, localiser = unit.source, unit.localiser
        assert localiser and source.contrast  # noqa: S101 - chosen units have both
        chosen = unit.chosen_units(store)
        manifest = store.manifest(localiser.stored_as, localiser.key) or {}
        n_sentences = sum(source.contrast.is_sentence)
        for layer, t in stored_t(localiser, store).items():
            units = chosen.get(layer, np.zeros(0, dtype=np.int64))
            yield {
                "run": run, "model": source.name, "kind": source.kind, "revision": source.revision,
                "code_version": manifest.get("code_version"), "created": manifest.get("created"), "key": localiser.key,
                "contrast": source.contrast.name, "contrast_hash": source.contrast.hash, "n_sentences": n_sentences,
                "n_non_words": len(source.contrast.texts) - n_sentences, "seed": source.seed, "stack": layer.stack,
                "layer": layer.index, "n_layer_units": len(t), "n_chosen": len(units),
                "t_low": min(t[units], default=None), "t_high": max(t[units], default=None),
                "n_unmeasurable": int(np.isnan(t).sum()),
            }  # fmt: skip


def _cost(outcome: Outcome, account: Account) -> dict[str, Any]:
    """Return the GPU hours of the run and their cost, counting all GPUs of the cluster for the whole duration."""
    hours, price = account.n_gpus * outcome.seconds / 3600, account.usd_per_gpu_hour
    return {"gpu_hours": hours, "usd": None if price is None else price * hours}


def _extraction_summary(extractions: list[dict[str, Any]], account: Account) -> dict[str, Any]:
    """Return the columns of `runs` that summarise `extractions`; parity is the maximum over units."""

    def largest(name: str) -> float | None:
        return max((row[name] for row in extractions if row[name] is not None), default=None)

    def distinct(name: str) -> str:
        return ", ".join(sorted({row[name] for row in extractions if row[name]}))

    return {
        "backends": distinct("backend"), "dtypes": distinct("dtype"), "parity_states": largest("parity_states"),
        "parity_nats": largest("parity_nats"), "n_recoveries": sum(account.recoveries.values()),
        "n_nodes": account.n_nodes, "n_gpus": account.n_gpus, "forecast_s": account.forecast_s,
        "extraction_s": account.extraction_s,
    }  # fmt: skip
