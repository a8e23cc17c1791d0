"""`harness.plan`: where and when each model of a run would run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.names import unknown
from harness.protocol import AskedDtype
from harness.spec import SPECS, EvaluationSpec

if TYPE_CHECKING:
    import pandas as pd


def plan(
    models: str | EvaluationSpec | Sequence[str],
    *,
    nodes: int = 1,
    gpus_per_node: int = 1,
    gpu_memory_gb: float = 80.0,
    dtype: AskedDtype = "auto",
    **rates: float,
) -> pd.DataFrame:
    """Forecast a run, as `harness plan`, without network access.

    Args:
        models: a spec, its name ("scale"), or models: names in the table or folders.
        nodes: number of equal nodes.
        gpus_per_node: GPUs of a node; 0 runs the models on cores.
        gpu_memory_gb: memory of a GPU in gigabytes.
        dtype: precision of the weights.
        rates: storage_bytes_s, gpu_flops, usd_per_gpu_hour.

    Returns:
        One row per model: node, GPUs, start_s and end_s, weights_gb, gpu_hours, usd, and `reason` if it fits nowhere.
        `frame.attrs` has makespan_s, gpu_hours and usd of the whole.

    Raises:
        ValueError: if a model is unknown, or the nodes are not a cluster.
    """
    import pandas as pd

    from harness.cluster import forecast, forecast_view
    from harness.cluster.machines import Cluster

    cluster = Cluster.made_up(nodes, gpus_per_node, gpu_memory_gb, **_checked(rates))
    made = forecast.make_forecast(forecast.demands_of(_names(models)), cluster, dtype)
    document = forecast_view.as_json(made)
    frame = pd.DataFrame([*document["assignments"], *document["refused"]])
    frame["reason"] = frame["reason"].fillna("") if "reason" in frame else ""
    frame.attrs = {name: document[name] for name in ("makespan_s", "lower_bound_s", "gpu_hours", "usd")}
    return frame


_RATES = ("storage_bytes_s", "gpu_flops", "usd_per_gpu_hour")


def _checked(rates: dict[str, Any]) -> dict[str, Any]:
    for name, value in rates.items():
        if name not in _RATES:
            raise unknown("rate", name, _RATES)
        if not value > 0:
            raise ValueError(f"{name} is {value}; give a number greater than 0.")
    return rates


def _names(models: str | EvaluationSpec | Sequence[str]) -> tuple[str, ...]:
    if isinstance(models, str) and models in SPECS:
        models = SPECS[models]()
    if isinstance(models, EvaluationSpec):
        if not models.models:
            raise ValueError(f"spec {models.name!r} names no models; give names of models.")
        return models.models
    return (models,) if isinstance(models, str) else tuple(map(str, models))
