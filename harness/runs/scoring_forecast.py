"""Forecast of the scores and ceilings of a run, and refusal of those that do not fit into memory.

Made before anything is computed, from counted sizes. What a machine takes for a counted operation is measured on one
matrix product. How far the forecast is off: harness/scoring/README.md#forecast.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from harness.cluster import scoring
from harness.cluster.machines import Cluster, Node
from harness.cluster.placement import RESERVED
from harness.runs.workload import Failure, ProgressListener, Workload
from harness.storage.store import Store
from harness.units import scoring_demands
from harness.units.score_units import ScoreUnit

_SIDE, _PRODUCTS = 600, 5  # of the matrix product that is timed: 50 ms


class DoesNotFitError(MemoryError):
    """A score or a ceiling needs more main memory than there is."""


@dataclass(frozen=True)
class Machine:
    """What scores run on: free main memory of the largest node in bytes, and the number of cores and GPUs in all."""

    free_bytes: float
    n_cores: int
    n_gpus: int = 0


def admit(
    workload: Workload, pending: Sequence[ScoreUnit], store: Store, machine: Machine, listener: ProgressListener
) -> list[ScoreUnit]:  # fmt: skip
    """Forecast the pending scores, keep the forecasts in the workload, and return the scores that fit into memory.

    The others, and those whose ceiling does not fit, become failures that say what would make them fit.
    """
    usable = machine.free_bytes * (1 - RESERVED)
    n_workers = machine.n_gpus or machine.n_cores
    demands = scoring_demands.of_units(pending, workload.recordings, store, n_workers, usable)
    if not demands:
        return list(pending)
    node = Node("largest", machine.n_cores, machine.n_gpus, 0, int(machine.free_bytes))
    cluster = Cluster((node,), core_flops=core_flops())
    timed = {_labels(demand): demand for demand in scoring.schedule(list(demands.values()), [], cluster)}
    workload.forecasts = {key: timed[_labels(demand)] for key, demand in demands.items()}
    listener.forecast(list(workload.forecasts.values()))
    admitted = []
    for unit in pending:
        if reason := _refused(unit, workload):
            failure = Failure.of(
                DoesNotFitError(reason), "forecast", unit.source.name, unit.dataset, unit.protocol.name
            )
            workload.failures.append(failure)
            listener.failed(failure)
        else:
            admitted.append(unit)
    return admitted


def _labels(demand: scoring.ScoringDemand) -> tuple[str, str, str]:
    return demand.model, demand.recording, demand.protocol


def _refused(unit: ScoreUnit, workload: Workload) -> str:
    """Why a unit cannot be scored here; "" if it can."""
    ceiling = workload.forecasts.get(f"{unit.dataset} {unit.protocol.name}")
    if ceiling and ceiling.refused:
        return f"{unit.dataset}: {ceiling.refused}"
    own = workload.forecasts.get(unit.key)
    return f"{unit.dataset}: {own.refused}" if own and own.refused else ""


def core_flops() -> float:
    """Floating-point operations per second of one core in a float64 matrix product."""
    square = np.ones((_SIDE, _SIDE))
    with threadpool_limits(1, user_api="blas"):
        square @ square
        started = time.process_time()
        for _ in range(_PRODUCTS):
            square @ square
    return 2.0 * _SIDE**3 * _PRODUCTS / max(time.process_time() - started, 1e-6)
