"""A language model on a Ray cluster: its place, its actor, what it has still to read, and what was read."""

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
from harness.runs.reservations import Reservation
from harness.storage.claims import Claim
from harness.storage.store import Store
from harness.units.feature_units import FeatureUnit

# An environment variable of the driver: the GPUs of this cluster are made up, to see where models land.
MADE_UP = "HARNESS_MADE_UP_GPUS"


@dataclass(frozen=True)
class ExtractionResult:
    """A text that was read, or could not be. is_ours: whether it was by this driver."""

    unit: FeatureUnit
    seconds: float = 0.0
    error: Exception | None = None
    is_ours: bool = True


@dataclass
class ModelWorker:
    """A model that has a place, or waits for it.

    texts: what it has to read besides `now`. claims: on all of it. node: where it is; "" while it waits for its place.
    """

    checkpoint: Checkpoint
    placement: Placement
    reservation: Reservation
    actor: Any
    texts: deque[FeatureUnit]
    claims: dict[str, Claim]
    node: str = ""
    now: FeatureUnit | None = None
    since: float = 0.0  # when `now` was begun, by time.monotonic

    @property
    def limit_s(self) -> float:
        """Seconds that one text may take, including loading the model."""
        return time_limit_s(self.placement.load_s + self.placement.run_s)

    @classmethod
    def of(
        cls, placement: Placement, units: dict[str, FeatureUnit], claims: dict[str, Claim], store: Store, device: str,
        reserve_s: float, allow_pickle: bool,
    ) -> ModelWorker:  # fmt: skip
        """Ask for its place and send its actor there, which reads on the cores where GPUs are made up."""
        texts = deque(sorted(units.values(), key=lambda unit: unit.source.kind))  # the trained before the untrained
        checkpoint = texts[0].source.checkpoint
        assert checkpoint is not None  # noqa: S101 - only models read
        reservation = Reservation.of(placement, reserve_s)
        made = actors.ModelActor.options(**reservation.options)  # type: ignore[attr-defined]
        actor = made.remote(checkpoint, store.out, "cpu" if MADE_UP in os.environ else device, placement, allow_pickle)
        return cls(checkpoint, placement, reservation, actor, texts, claims)

    @property
    def left(self) -> list[FeatureUnit]:
        """All that is not read."""
        return [*([self.now] if self.now else []), *self.texts]

    def read_next(self) -> Any:
        """Send it its next text; what Ray refers to it by."""
        self.now, self.since = self.texts.popleft(), time.monotonic()
        return self.actor.read.remote(self.now)

    def done(self, seconds: float = 0.0, error: Exception | None = None) -> ExtractionResult:
        """Its present text is read, or cannot be."""
        assert self.now is not None  # noqa: S101 - it was sent one
        unit, self.now = self.now, None
        self.claims.pop(unit.key).release()
        return ExtractionResult(unit, seconds, error)

    def leave(self) -> None:
        """Give back place and claims; the actor is killed."""
        with suppress(Exception):  # the cluster may be gone
            ray.kill(self.actor)
        self.reservation.release()
        for claim in self.claims.values():
            claim.release()


# A unit is cancelled after this time, or after this multiple of its forecast, whichever is longer.
LEAST_LIMIT_S, FORECASTS = 3600.0, 50.0


class UnitTimeoutError(RuntimeError):
    """A unit exceeded its time limit."""


def time_limit_s(forecast_s: float = 0.0) -> float:
    """Time limit of a unit in seconds, from its forecast. HARNESS_UNIT_LIMIT_S overrides it; 0 means no limit.

    Raises:
        ValueError: if HARNESS_UNIT_LIMIT_S is not a number.
    """
    asked = os.environ.get("HARNESS_UNIT_LIMIT_S", "")
    try:
        given = float(asked) if asked else max(LEAST_LIMIT_S, FORECASTS * forecast_s)
    except ValueError:
        raise ValueError(f"HARNESS_UNIT_LIMIT_S is {asked!r}; a number of seconds is wanted.") from None
    return given or float("inf")
