"""Output of a forecast of scoring: table rows, or sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.cluster.scoring import ScoringDemand, by_recording
from harness.numbers import clock

# Smaller recordings are not listed by a run.
_LISTED_S, _LISTED_BYTES = 60.0, 2e9


def in_rows(scoring: Sequence[ScoringDemand]) -> list[dict[str, Any]]:
    """One table row per recording, protocol and model."""
    return [
        {
            "recording": demand.recording, "protocol": demand.protocol, "scored": demand.model or "(ceilings)",
            "way": demand.way, "GB": f"{demand.n_bytes / 1e9:.1f}", "begins": clock(demand.start_s),
            "ends": clock(demand.end_s), "pieces": demand.n_pieces if demand.divided else "",
            "operations": f"{demand.divided + demand.alone:.1e}",
        }
        for demands in by_recording(scoring).values() for demand in demands if not demand.refused
    ]  # fmt: skip


def refusals(scoring: Sequence[ScoringDemand]) -> list[str]:
    """One line per refused score or ceiling."""
    return [
        f"refused {demand.recording} {demand.protocol} {demand.model or '(ceilings)'}: {demand.refused}"
        for demand in scoring if demand.refused
    ]  # fmt: skip


def in_words(scoring: Sequence[ScoringDemand]) -> list[str]:
    """A line per recording and protocol that takes a minute or 2 GB: memory, and time by the forecast."""
    lines = []
    for (recording, protocol), demands in by_recording(scoring).items():
        fitting = [demand for demand in demands if not demand.refused]
        if not fitting:
            continue
        begin, end = min(demand.start_s for demand in fitting), max(demand.end_s for demand in fitting)
        n_bytes = max(demand.n_bytes for demand in fitting)
        if end - begin < _LISTED_S and n_bytes < _LISTED_BYTES:
            continue
        largest = max(fitting, key=lambda demand: demand.n_bytes)
        ceilings = sum(demand.end_s - demand.start_s for demand in fitting if not demand.model)
        lines.append(
            f"forecast {recording} {protocol}: about {_minutes(end - begin)} to score {len(fitting)} sources"
            + (f", of which ceilings {_minutes(ceilings)}" if ceilings >= 1 else "")
            + f"; at most {n_bytes / 1e9:.1f} GB of memory ({largest.model or 'ceilings'})"
        )
    return lines


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
