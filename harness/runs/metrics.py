"""Progress of a run as Ray metrics, shown on Ray's dashboard and exported to Prometheus.

In Prometheus they are called ray_harness_units_done, ray_harness_tokens_read, ray_harness_gpu_share and
ray_harness_queue; `rate(ray_harness_tokens_read[1m])` gives tokens per second. All have the label run; units_done also
has model, dataset and kind, and tokens_read has model.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from harness.cluster.machines import Cluster
from harness.cluster.placement import Placement


class RunMetrics:
    """The metrics of one run."""

    def __init__(self, run: str) -> None:
        unit_labels = ("run", "model", "dataset", "kind")
        self._done = Counter("harness_units_done", "Units stored.", unit_labels)
        self._tokens = Counter("harness_tokens_read", "Tokens processed by models.", ("run", "model"))
        self._gpu_fraction = Gauge("harness_gpu_share", "Fraction of the cluster's GPUs held by models.", ("run",))
        self._queue = Gauge("harness_queue", "Units waiting for resources or for their features.", ("run",))
        self.run = run

    def scored(self, model: str, dataset: str) -> None:
        """Count one score unit."""
        self._done.inc(1, self._labels(model=model, dataset=dataset, kind="scores"))

    def read(self, model: str, dataset: str, n_tokens: int) -> None:
        """Count one feature unit and its tokens."""
        self._done.inc(1, self._labels(model=model, dataset=dataset, kind="features"))
        if n_tokens > 0:
            self._tokens.inc(n_tokens, self._labels(model=model))

    def look(self, cluster: Cluster, held: list[Placement], n_waiting: int) -> None:
        """Update the gauges: fraction of GPUs held, and units waiting."""
        gpus_held = sum(placement.n_gpus * placement.gpu_share for placement in held)
        self._gpu_fraction.set(gpus_held / cluster.n_gpus if cluster.n_gpus else 0.0, self._labels())
        self._queue.set(n_waiting, self._labels())

    def _labels(self, **values: str) -> dict[str, str]:
        """Return the labels with non-ASCII characters escaped, since Ray accepts ASCII only."""
        return {
            name: value.encode("ascii", "backslashreplace").decode()
            for name, value in {"run": self.run, **values}.items()
        }
