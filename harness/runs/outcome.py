"""How a run went and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.runs.workload import Failure


@dataclass(frozen=True)
class Account:
    """How the work of a run went; where nothing was read all but `n_scored` is empty.

    n_scored: scores that this driver computed. recoveries: key of a unit -> how often it was begun again. landed: model
    -> Ray's id of its node, and the GPUs there. read: keys of the units that were read. n_nodes, n_gpus: of the
    cluster. predicted_s, read_s: until the last text was read, by the plan and in fact. was_stopped: before its end.
    usd_per_gpu_hour: a price; None if not known.
    """

    n_scored: int = 0
    recoveries: dict[str, int] = field(default_factory=dict)
    landed: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    read: frozenset[str] = frozenset()
    n_nodes: int = 0
    n_gpus: int = 0
    predicted_s: float | None = None
    read_s: float | None = None
    was_stopped: bool = False
    usd_per_gpu_hour: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `n_computed` and `n_reused` count score units; what another driver computed is reused.

    was_stopped: whether it was asked to end before it was done.
    """

    run: str
    n_units: int
    n_computed: int
    n_reused: int
    failures: tuple[Failure, ...]
    seconds: float
    was_stopped: bool = False

    @property
    def status(self) -> str:
        """In a word, as in the table `runs`."""
        return "stopped" if self.was_stopped else "failed" if self.failures else "done"
