"""Result of a run, and the statistics of its execution."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.runs.workload import Failure


@dataclass(frozen=True)
class Account:
    """Statistics of the work of a run; if no features were extracted, only `n_scored` and `was_stopped` are set.

    Attributes:
        n_scored: number of score units computed by this driver.
        recoveries: key of a feature unit -> number of times its extraction was restarted.
        landed: model -> Ray's id of its node, and indices of its GPUs there.
        extracted: keys of the feature units extracted by this driver.
        n_nodes: number of nodes of the cluster.
        n_gpus: number of GPUs of the cluster.
        forecast_s: forecast of the seconds until the last feature unit was extracted.
        extraction_s: measured seconds until the last feature unit was extracted.
        was_stopped: whether the run was stopped before it was done.
        usd_per_gpu_hour: price of a GPU hour in US dollars; None if unknown.
    """

    n_scored: int = 0
    recoveries: dict[str, int] = field(default_factory=dict)
    landed: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    extracted: frozenset[str] = frozenset()
    n_nodes: int = 0
    n_gpus: int = 0
    forecast_s: float | None = None
    extraction_s: float | None = None
    was_stopped: bool = False
    usd_per_gpu_hour: float | None = None


@dataclass(frozen=True)
class Outcome:
    """Result of a run. Score units computed by another driver count as reused.

    Attributes:
        run: name of the run.
        n_units: number of score units.
        n_computed: score units computed by this driver.
        n_reused: score units found in the store.
        failures: what failed, with the reason.
        seconds: duration of the run.
        was_stopped: whether the run was stopped before it was done.
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
        """The column `status` of the table `runs`: "done", "failed" or "stopped"."""
        return "stopped" if self.was_stopped else "failed" if self.failures else "done"
