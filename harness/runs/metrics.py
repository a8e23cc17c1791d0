"""What a run does, as metrics of Ray: for its dashboard, or whatever reads its Prometheus endpoints.

In Prometheus they are ray_harness_units_done, ray_harness_tokens_read, ray_harness_gpu_share and ray_harness_queue;
`rate(ray_harness_tokens_read[1m])` is tokens a second. Labels: run, and of what is counted model, dataset and kind.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from harness.cluster.machines import Cluster
from harness.cluster.placement import Placement


class RunMetrics:
    """The metrics of one run."""

    def __init__(self, run: str) -> None:
        of_unit = ("run", "model", "dataset", "kind")
        self._done = Counter("harness_units_done", "Units that are stored.", of_unit)
        self._tokens = Counter("harness_tokens_read", "Tokens that models have read.", ("run", "model"))
        self._share = Gauge("harness_gpu_share", "Share of the cluster's GPUs that models hold.", ("run",))
        self._queue = Gauge("harness_queue", "Units that wait for a place or for their features.", ("run",))
        self.run = run

    def scored(self, model: str, dataset: str) -> None:
        """One more score."""
        self._done.inc(1, self._labels(model=model, dataset=dataset, kind="scores"))

    def read(self, model: str, dataset: str, n_tokens: int) -> None:
        """One more text, of so many tokens."""
        self._done.inc(1, self._labels(model=model, dataset=dataset, kind="features"))
        if n_tokens > 0:
            self._tokens.inc(n_tokens, self._labels(model=model))

    def look(self, cluster: Cluster, held: list[Placement], n_waiting: int) -> None:
        """How things are at this moment."""
        share = sum(one.n_gpus * one.gpu_share for one in held)
        self._share.set(share / cluster.n_gpus if cluster.n_gpus else 0.0, self._labels())
        self._queue.set(n_waiting, self._labels())

    def _labels(self, **values: str) -> dict[str, str]:
        """Ray takes labels of ASCII alone: other letters are escaped."""
        return {
            name: value.encode("ascii", "backslashreplace").decode()
            for name, value in {"run": self.run, **values}.items()
        }
