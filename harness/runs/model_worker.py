"""A language model on a Ray cluster: its resources, its actor, and the units it still has to extract."""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from harness.checkpoints.checkpoints import Checkpoint
from harness.cluster.placement import Placement
from harness.runs import actors
from harness.runs.actors import ExtractionUnit
from harness.runs.reservations import Reservation
from harness.storage.claims import Claim
from harness.storage.store import Store

# Environment variable of the driver: the GPUs of this cluster are declared but not real, for tests of placement.
MADE_UP_GPUS = "HARNESS_MADE_UP_GPUS"


# Models with smaller weights take over the process of the one before: starting one takes longer than loading them.
SMALL_BYTES = 2**30


@dataclass(frozen=True)
class ExtractionResult:
    """Result of one unit: done, or failed with `error`; is_ours: whether this driver extracted it."""

    unit: ExtractionUnit
    seconds: float = 0.0
    error: Exception | None = None
    is_ours: bool = True


@dataclass
class ModelWorker:
    """A model whose actor is running or waiting for resources.

    Attributes:
        queued: claimed units to extract after `current`.
        claims: claims on `current` and all queued units.
        node: Ray's id of the actor's node; "" while the actor waits for resources.
        current: the unit in progress.
        started: when `current` was submitted, by time.monotonic.
        has_failed: whether a unit raised an exception.
    """

    checkpoint: Checkpoint
    placement: Placement
    reservation: Reservation
    actor: Any
    queued: deque[ExtractionUnit]
    claims: dict[str, Claim]
    node: str = ""
    current: ExtractionUnit | None = None
    started: float = 0.0
    has_failed: bool = False

    @property
    def limit_s(self) -> float:
        """Time limit of one unit in seconds, including loading the model."""
        return time_limit_s(self.placement.load_s + self.placement.run_s)

    @classmethod
    def of(
        cls, placement: Placement, units: list[ExtractionUnit], claims: dict[str, Claim], store: Store, device: str,
        reserve_s: float, allow_pickle: bool,
    ) -> ModelWorker:  # fmt: skip
        """Reserve resources and start an actor on them; with made-up GPUs the model runs on the CPU."""
        queued = _in_order(units)
        checkpoint = queued[0].checkpoint
        reservation = Reservation.of(placement, reserve_s)
        actor_class = actors.ModelActor.options(**reservation.options)  # type: ignore[attr-defined]
        actor = actor_class.remote(
            checkpoint, store.out, "cpu" if MADE_UP_GPUS in os.environ else device, placement, allow_pickle
        )
        return cls(checkpoint, placement, reservation, actor, queued, claims)

    def can_be_followed_by(self, placement: Placement) -> bool:
        """Whether another model may take over this worker's process and resources."""
        own = self.placement
        same_spot = (own.node, own.gpus, own.gpu_share) == (placement.node, placement.gpus, placement.gpu_share)
        is_small = max(own.need.weights, placement.need.weights) <= SMALL_BYTES
        return same_spot and is_small and own.backend == placement.backend == "transformers" and not self.has_failed

    def followed_by(
        self, placement: Placement, units: list[ExtractionUnit], claims: dict[str, Claim]
    ) -> ModelWorker:  # fmt: skip
        """Return the worker of another model, in this worker's process."""
        queued = _in_order(units)
        self.actor.become.remote(queued[0].checkpoint, placement)
        return ModelWorker(queued[0].checkpoint, placement, self.reservation, self.actor, queued, claims)

    @property
    def remaining(self) -> list[ExtractionUnit]:
        """All units not finished: the current one and those queued."""
        return [*([self.current] if self.current else []), *self.queued]

    def submit_next(self) -> Any:
        """Submit the next queued unit to the actor; return its Ray reference."""
        self.current, self.started = self.queued.popleft(), time.monotonic()
        return self.actor.extract.remote(self.current)

    def finish_current(self, seconds: float = 0.0, error: Exception | None = None) -> ExtractionResult:
        """Release the current unit's claim and return its result."""
        assert self.current is not None  # noqa: S101 - only called for a submitted unit
        unit, self.current = self.current, None
        self.has_failed |= error is not None
        self.claims.pop(unit.key).release()
        return ExtractionResult(unit, seconds, error)

    def close(self) -> None:
        """Kill the actor and release its resources and claims."""
        with suppress(Exception):  # the cluster may be gone
            ray.kill(self.actor)
        self.reservation.release()
        for claim in self.claims.values():
            claim.release()


def _in_order(units: list[ExtractionUnit]) -> deque[ExtractionUnit]:
    """Units with trained weights before those with untrained ones, so that each are loaded once."""
    return deque(sorted(units, key=lambda unit: unit.seed is not None))


# A unit is cancelled after this time, or after this multiple of its forecast, whichever is longer.
LEAST_LIMIT_S, FORECASTS = 3600.0, 50.0


class UnitTimeoutError(RuntimeError):
    """A unit exceeded its time limit."""


def time_limit_s(forecast_s: float = 0.0) -> float:
    """Time limit of a unit in seconds, from its forecast. HARNESS_UNIT_LIMIT_S overrides it; 0 means no limit.

    Raises:
        ValueError: if HARNESS_UNIT_LIMIT_S is not a number.
    """
    setting = os.environ.get("HARNESS_UNIT_LIMIT_S", "")
    try:
        limit_s = float(setting) if setting else max(LEAST_LIMIT_S, FORECASTS * forecast_s)
    except ValueError:
        raise ValueError(f"HARNESS_UNIT_LIMIT_S is {setting!r}; expected a number of seconds.") from None
    return limit_s or float("inf")
