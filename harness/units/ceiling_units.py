"""Ceilings of a recording under a protocol: computed once and kept in the store. Does not use Ray."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import metrics
from harness.protocol import Protocol, content_hash
from harness.records import Ceiling, Dataset, Growth, NeuroidCeilings, Responses, indices_of
from harness.scoring import ceilings, explainable
from harness.scoring.extrapolation import Progress, unseen
from harness.scoring.fitting import CallRunner, in_order
from harness.storage.origin import SCORES_VERSION
from harness.storage.store import CorruptUnit, Store

# Stored columns: fields of `NeuroidCeilings` and their types.
_TYPES: dict[str, Any] = {
    "values": float, "low": float, "high": float, "kinds": object, "n_subjects": np.int64, "n_sizes": np.int64,
}  # fmt: skip
logger = logging.getLogger(__name__)


def compute_ceiling(
    dataset: Dataset, protocol: Protocol, store: Store, progress: Progress = unseen, run: CallRunner = in_order
) -> Ceiling:
    """Ceilings of a recording: from repeated presentations, else from its subjects or readers, else the published ones.

    Args:
        dataset: the recording.
        protocol: regression, folds and metric with which subjects are predicted from each other.
        store: where ceilings of brain recordings are kept.
        progress: called with the number of pools of subjects that have predicted the others, and of all pools.
        run: computes the pools, in this process or divided.
    """
    responses = dataset.responses
    if responses is None:
        return _reading_ceiling(dataset, protocol)
    by_part = [_of_part(dataset, part, protocol, store, progress, run) for part in responses.parts]
    values, low, high, _, n_subjects, n_sizes = (np.stack(columns) for columns in list(zip(*by_part, strict=True))[:6])
    kinds = by_part[0].kinds
    for ceilings_of_part in by_part[1:]:
        kinds = np.where(ceilings_of_part.kinds != "", ceilings_of_part.kinds, kinds)
    growth = tuple(ceilings_of_part.growth for ceilings_of_part in by_part)
    return Ceiling(responses.parts, values, tuple(kinds.tolist()), low, high, n_subjects, n_sizes, growth)


def _of_part(
    dataset: Dataset, part: str, protocol: Protocol, store: Store, progress: Progress, run: CallRunner
) -> NeuroidCeilings:  # fmt: skip
    """Ceilings of all neuroids in one experiment; unknown where a neuroid was not measured."""
    responses = dataset.responses
    assert responses is not None  # noqa: S101 - checked by the caller
    part_responses, neuroids = responses.of_part(part)
    all_neuroids = NeuroidCeilings.unknown(len(responses.neuroid_ids))
    if not dataset.is_planted:
        computed = _computed_ceiling((dataset, part, part_responses), protocol, store, progress, run)
        for column, known in zip(all_neuroids[:-1], computed[:-1], strict=True):
            column[neuroids] = known
        if computed.growth is not None:
            scores = np.full((*computed.growth.scores.shape[:2], len(all_neuroids.values)), np.nan, np.float32)
            scores[:, :, neuroids] = computed.growth.scores
            all_neuroids = all_neuroids._replace(growth=computed.growth._replace(scores=scores))
    if np.isnan(all_neuroids.values).all():
        published = dataset.known_ceilings(part)[neuroids]
        all_neuroids.values[neuroids] = published
        all_neuroids.kinds[neuroids] = [dataset.ceiling_source if known else "" for known in np.isfinite(published)]
    if dataset.repetitions is not None and len(responses.parts) == 1:
        *columns, kind = explainable.of_repetitions(dataset.repetitions, responses)
        measured = np.isfinite(columns[0])
        for column, known in zip(all_neuroids[:3], columns, strict=True):
            column[measured] = known[measured]
        all_neuroids.kinds[measured] = kind
        all_neuroids.n_subjects[measured] = all_neuroids.n_sizes[measured] = 0
    return all_neuroids


def _reading_ceiling(dataset: Dataset, protocol: Protocol) -> Ceiling:
    """Ceiling of reading times, as for a single neuroid: from the readers, or the published one without readers."""
    computed = NeuroidCeilings.unknown(1)
    if dataset.reading is not None:  # otherwise text only, no human responses
        computed = ceilings.of_reading(dataset.reading, protocol)
        if np.isnan(computed.values).all():
            computed.values[:], computed.kinds[:] = dataset.known_ceilings(), dataset.ceiling_source
    values, low, high, kinds, n_subjects, n_sizes, _ = computed
    return Ceiling(("",), values[None], tuple(kinds.tolist()), low[None], high[None], n_subjects[None], n_sizes[None])


def _computed_ceiling(
    experiment: tuple[Dataset, str, Responses], protocol: Protocol, store: Store, progress: Progress, run: CallRunner
) -> NeuroidCeilings:
    """Ceilings of one experiment from its subjects; unknown with too few subjects."""
    dataset, part, responses = experiment
    key = _key(dataset, part, protocol)
    table = _stored(store, key)
    while table is None:
        with store.claim("ceilings", key) as is_claimed:
            if is_claimed:
                computed = ceilings.of_responses(responses, protocol, progress, run)
                _keep(computed, responses, store, key, _facts(dataset, part, protocol))
            else:
                store.wait("ceilings", key, timeout_s=60)
        table = _stored(store, key)
    return _of_table(table, responses)


def are_stored(dataset: Dataset, protocol: Protocol, store: Store) -> bool:
    """Whether nothing of the ceilings of a brain recording remains to be computed."""
    parts = dataset.responses.parts if dataset.responses else ()
    return dataset.is_planted or all(store.has("ceilings", _key(dataset, part, protocol)) for part in parts)


def _key(dataset: Dataset, part: str, protocol: Protocol) -> str:
    """The key of the ceilings of one experiment."""
    made_of = {"schema": SCORES_VERSION, "version": dataset.version, "part": part, "protocol": protocol.hash}
    if version_of_metric := metrics.version_of(protocol.metric):
        made_of["metric"] = version_of_metric
    return content_hash(made_of)[:32]


def _of_table(table: pa.Table, responses: Responses) -> NeuroidCeilings:
    """Stored ceilings in the order of the neuroids."""
    rows = indices_of(responses.neuroid_ids, table["neuroid_id"].to_pylist(), "ceilings")
    columns = {name: np.array(table[name].to_pylist(), dtype=_TYPES[name])[rows] for name in _TYPES}
    shape = json.loads(table.schema.metadata[b"growth"])
    scores = np.stack(table["growth"].to_numpy()).reshape(len(rows), shape["sizes"], shape["folds"])[rows]
    return NeuroidCeilings(**columns, growth=Growth(np.moveaxis(scores, 0, 2), shape["fold_correlation"]))


def _stored(store: Store, key: str) -> pa.Table | None:
    """The stored ceilings; None if there are none, or if they were damaged and have been removed."""
    if not store.has("ceilings", key):
        return None
    try:
        with store.open("ceilings", key) as folder:
            return pq.read_table(folder / "ceilings.parquet")
    except CorruptUnit as error:
        logger.warning("%s It is computed again.", error)
        return None


def _facts(dataset: Dataset, part: str, protocol: Protocol) -> dict[str, Any]:
    return {"schema": SCORES_VERSION, "dataset": dataset.name, "part": part, "protocol": protocol.name}


def _keep(computed: NeuroidCeilings, responses: Responses, store: Store, key: str, facts: dict[str, Any]) -> None:
    """Store the ceilings of one experiment."""
    columns = {"neuroid_id": list(responses.neuroid_ids)}
    columns |= {name: getattr(computed, name).tolist() for name in _TYPES}
    assert computed.growth is not None  # noqa: S101 - of_responses sets it
    scores, correlation = computed.growth
    n_sizes, n_folds, n_neuroids = scores.shape
    flat = pa.array(np.moveaxis(scores, 2, 0).reshape(-1), pa.float32())
    columns["growth"] = pa.ListArray.from_arrays(np.arange(n_neuroids + 1, dtype=np.int32) * n_sizes * n_folds, flat)
    shape = {"sizes": n_sizes, "folds": n_folds, "fold_correlation": correlation}
    table = pa.table(columns).replace_schema_metadata({"growth": json.dumps(shape)})
    store.put("ceilings", key, lambda folder: pq.write_table(table, folder / "ceilings.parquet"), facts)
