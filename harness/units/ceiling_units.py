"""The third unit of work, without Ray: the ceilings of a recording under a protocol, computed once and kept."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.protocol import Protocol, content_hash
from harness.records import Ceiling, Dataset, Floats, Responses, indices_of
from harness.scoring import ceilings
from harness.storage.origin import SCORES_VERSION
from harness.storage.store import CorruptUnit, Store

logger = logging.getLogger(__name__)


def compute_ceiling(dataset: Dataset, protocol: Protocol, store: Store) -> Ceiling:
    """The ceilings of a recording: from its subjects, those of the brain kept in the store, or published ones."""
    responses = dataset.responses
    if responses is None:
        return _reading_ceiling(dataset)
    parts = responses.parts
    values = np.full((len(parts), len(responses.neuroid_ids)), np.nan)
    kinds = np.full(len(responses.neuroid_ids), "", dtype=object)
    for row, part in enumerate(parts):
        of_part, neuroids = responses.of_part(part)
        known = dataset.known_ceiling(part)
        if not dataset.is_planted:
            values[row, neuroids], kinds[neuroids] = _computed_ceiling(dataset, part, of_part, protocol, store)
        if np.isfinite(known) and np.isnan(values[row]).all():
            values[row, neuroids], kinds[neuroids] = known, dataset.ceiling_source
    return Ceiling(parts, values, tuple(kinds))


def _reading_ceiling(dataset: Dataset) -> Ceiling:
    """One ceiling, as if of one neuroid: from the readers, or the published one where they are not at hand."""
    if dataset.reading is None:  # a text, and nobody's data
        return Ceiling(("",), np.array([[np.nan]]), ("",))
    values, kinds = ceilings.of_reading(dataset.reading)
    if np.isnan(values).all():
        values, kinds = np.array([dataset.known_ceiling()]), (dataset.ceiling_source,)
    return Ceiling(("",), values[None], kinds)


def _computed_ceiling(
    dataset: Dataset, part: str, responses: Responses, protocol: Protocol, store: Store
) -> tuple[Floats, list[str]]:
    """(neuroid,) ceilings of one experiment from its subjects, and their kinds; NaN and "" where there are too few."""
    made_of = {"schema": SCORES_VERSION, "version": dataset.version, "part": part, "protocol": protocol.hash}
    key = content_hash(made_of)[:32]
    found = _stored(store, key)
    while found is None:
        with store.claim("ceilings", key) as ours:
            if ours:
                _compute(dataset, part, responses, protocol, store, key)
            else:
                store.wait("ceilings", key, timeout_s=60)
        found = _stored(store, key)
    at = indices_of(responses.neuroid_ids, found["neuroid_id"].to_pylist(), "ceilings")
    return found["ceiling"].to_numpy()[at], [found["kind"].to_pylist()[i] for i in at]


def _stored(store: Store, key: str) -> pa.Table | None:
    """What is in the store; None where it is not there, or is damaged and was removed."""
    if not store.has("ceilings", key):
        return None
    try:
        with store.open("ceilings", key) as folder:
            return pq.read_table(folder / "ceilings.parquet")
    except CorruptUnit as error:
        logger.warning("%s It is computed again.", error)
        return None


def _compute(dataset: Dataset, part: str, responses: Responses, protocol: Protocol, store: Store, key: str) -> None:
    values, kinds = ceilings.of_responses(responses, protocol)
    columns = {"neuroid_id": list(responses.neuroid_ids), "ceiling": values, "kind": list(kinds)}
    facts = {"schema": SCORES_VERSION, "dataset": dataset.name, "part": part, "protocol": protocol.name}
    store.put("ceilings", key, lambda folder: pq.write_table(pa.table(columns), folder / "ceilings.parquet"), facts)
