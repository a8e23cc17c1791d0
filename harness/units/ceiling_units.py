"""Ceilings of a recording under a protocol: computed once and kept in the store. Does not use Ray."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.protocol import Protocol, content_hash
from harness.records import Ceiling, Dataset, Floats, Responses, indices_of
from harness.scoring import ceilings, explainable
from harness.storage.origin import SCORES_VERSION
from harness.storage.store import CorruptUnit, Store

logger = logging.getLogger(__name__)


def compute_ceiling(dataset: Dataset, protocol: Protocol, store: Store) -> Ceiling:
    """Ceilings of a recording: from repeated presentations, else from its subjects or readers, else the published ones.

    Args:
        dataset: the recording.
        protocol: regression, folds and metric with which subjects are predicted from each other.
        store: where ceilings of brain recordings are kept.
    """
    responses = dataset.responses
    if responses is None:
        return _reading_ceiling(dataset)
    experiments = responses.parts
    values = np.full((len(experiments), len(responses.neuroid_ids)), np.nan)
    kinds = np.full(len(responses.neuroid_ids), "", dtype=object)
    for row, part in enumerate(experiments):
        part_responses, neuroids = responses.of_part(part)
        published = dataset.known_ceiling(part)
        if not dataset.is_planted:
            values[row, neuroids], kinds[neuroids] = _computed_ceiling(dataset, part, part_responses, protocol, store)
        if np.isfinite(published) and np.isnan(values[row]).all():
            values[row, neuroids], kinds[neuroids] = published, dataset.ceiling_source
    if dataset.repetitions is not None and len(experiments) == 1:
        of_repetitions, kind = explainable.of_repetitions(dataset.repetitions, responses)
        measured = np.isfinite(of_repetitions)
        values[0, measured], kinds[measured] = of_repetitions[measured], kind
    return Ceiling(experiments, values, tuple(kinds))


def _reading_ceiling(dataset: Dataset) -> Ceiling:
    """Ceiling of reading times, as for a single neuroid: from the readers, or the published one without readers."""
    if dataset.reading is None:  # text only, no human responses
        return Ceiling(("",), np.array([[np.nan]]), ("",))
    values, kinds = ceilings.of_reading(dataset.reading)
    if np.isnan(values).all():
        values, kinds = np.array([dataset.known_ceiling()]), (dataset.ceiling_source,)
    return Ceiling(("",), values[None], kinds)


def _computed_ceiling(
    dataset: Dataset, part: str, responses: Responses, protocol: Protocol, store: Store
) -> tuple[Floats, list[str]]:
    """(neuroid,) ceilings of one experiment from its subjects, and their kinds; NaN and "" with too few subjects."""
    made_of = {"schema": SCORES_VERSION, "version": dataset.version, "part": part, "protocol": protocol.hash}
    key = content_hash(made_of)[:32]
    table = _stored(store, key)
    while table is None:
        with store.claim("ceilings", key) as is_claimed:
            if is_claimed:
                _compute(dataset, part, responses, protocol, store, key)
            else:
                store.wait("ceilings", key, timeout_s=60)
        table = _stored(store, key)
    rows = indices_of(responses.neuroid_ids, table["neuroid_id"].to_pylist(), "ceilings")
    return table["ceiling"].to_numpy()[rows], [table["kind"].to_pylist()[row] for row in rows]


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


def _compute(dataset: Dataset, part: str, responses: Responses, protocol: Protocol, store: Store, key: str) -> None:
    """Compute the ceilings of one experiment and store them."""
    values, kinds = ceilings.of_responses(responses, protocol)
    columns = {"neuroid_id": list(responses.neuroid_ids), "ceiling": values, "kind": list(kinds)}
    facts = {"schema": SCORES_VERSION, "dataset": dataset.name, "part": part, "protocol": protocol.name}
    store.put("ceilings", key, lambda folder: pq.write_table(pa.table(columns), folder / "ceilings.parquet"), facts)
