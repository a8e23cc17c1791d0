"""A forecast as it is printed: rows, sentences, or one JSON document."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from harness.cluster import placement
from harness.cluster.forecast import Forecast, _gpu_hours
from harness.cluster.machines import Cluster
from harness.cluster.placement import Placement
from harness.numbers import clock, size


def as_json(planned: Forecast) -> dict[str, Any]:
    """One document: makespan_s, lower_bound_s, ratio, gpu_hours, usd, assignments, refused, cluster, assumptions."""
    bound = planned.lower_bound_s
    return {
        "makespan_s": planned.makespan_s, "lower_bound_s": bound,
        "ratio": planned.makespan_s / bound if bound else None, "gpu_hours": planned.gpu_hours, "usd": planned.usd,
        "assignments": [_row(one, planned) for one in planned.placed],
        "refused": [{"model": one.model, "dtype": one.dtype, "reason": one.refused}
                    for one in planned.placements if one.refused],
        "cluster": [asdict(node) for node in planned.cluster.nodes], "assumptions": _assumptions(planned.cluster),
    }  # fmt: skip


def _row(one: Placement, planned: Forecast) -> dict[str, Any]:
    price, held = planned.cluster.usd_per_gpu_hour, _gpu_hours(one)
    return {
        "model": one.model, "node": one.node, "gpus": list(one.gpus), "n_gpus": one.n_gpus,
        "gpu_share": one.gpu_share, "tensor_parallel": one.tensor_parallel, "dtype": one.dtype,
        "backend": one.backend, "order": one.order, "start_s": one.start_s, "end_s": one.end_s,
        "load_s": one.load_s, "compute_s": one.run_s, "weights_gb": one.need.weights / 1e9,
        "activations_gb": one.need.activations / 1e9, "buffers_gb": one.need.buffers / 1e9,
        "gpu_hours": held, "usd": None if price is None else held * price,
        "weights_form": planned.forms.get(one.model),
    }  # fmt: skip


def _assumptions(cluster: Cluster) -> dict[str, Any]:
    return {
        "storage_bytes_s": cluster.storage_bytes_s, "device_bytes_s": cluster.device_bytes_s,
        "gpu_flops": cluster.gpu_flops, "cpu_flops": cluster.cpu_flops, "start_s": cluster.start_s,
        "usd_per_gpu_hour": cluster.usd_per_gpu_hour, "tokens_per_model": placement.N_TOKENS,
        "reserved_gpu_share": placement.RESERVED,
        "said": [
            "weights come over each node's link one model at a time; the next of a node is fetched while its GPUs work",
            "computing is two operations a parameter and token; each model and its untrained twin read all data sets",
            "scoring runs on the cores and GPUs that are left, and is not in the makespan",
            "where a width is not known it is that of a model of this size whose parameters are its cube over nine",
        ],
    }  # fmt: skip


def in_rows(planned: Forecast) -> list[dict[str, Any]]:
    """A row a model, for a table."""
    rows, price = [], planned.cluster.usd_per_gpu_hour
    for one in planned.placed:
        gpus = ",".join(map(str, one.gpus)) + (f" (1/{round(1 / one.gpu_share)})" if one.gpu_share < 1 else "")
        rows.append({
            "": one.order + 1, "model": one.model, "dtype": one.dtype, "backend": one.backend, "node": one.node,
            "GPUs": gpus if one.gpus else "cores", "TP": one.tensor_parallel, "form": planned.forms.get(one.model, ""),
            "weights": size(one.need.weights),
            "batch": size(one.need.activations), "buffers": size(one.need.buffers), "begins": clock(one.start_s),
            "ends": clock(one.end_s),
            **({} if price is None else {"USD": f"{_gpu_hours(one) * price:.2f}"}),
        })  # fmt: skip
    return rows


def in_words(planned: Forecast) -> list[str]:
    """The refused with their reasons, what is pickled, and the sums."""
    said = [f"refused {one.model}: {one.refused}" for one in planned.placements if one.refused]
    said += _pickled(planned)
    cluster, bound = planned.cluster, planned.lower_bound_s
    kinds = sorted({f"{node.n_gpus} x {node.gpu_bytes / 1e9:.0f} GB" for node in cluster.nodes if node.n_gpus})
    said.append(
        f"{len(planned.placed)} models on {len(cluster.nodes)} nodes ({', '.join(kinds) or 'no GPU'}): "
        f"{clock(planned.makespan_s)}; no plan takes less than {clock(bound)}"
        + (f" (ratio {planned.makespan_s / bound:.3f})" if bound else "")
        + f"; {planned.gpu_hours:.1f} GPU hours"
        + (f"; ${planned.usd:.2f} for the cluster" if planned.usd is not None else "")
    )
    said.append(
        f"assumed: {cluster.storage_bytes_s / 1e9:g} GB/s from storage to a node, {cluster.gpu_flops / 1e12:g} TFLOP/s "
        f"a GPU, {placement.N_TOKENS:,} tokens a model; --json has all of it"
    )
    return said


def _pickled(planned: Forecast) -> list[str]:
    """One line about the models that a run would refuse without a word from the user."""
    names = [model for model, form in planned.forms.items() if "pickle" in form.split("+")]
    if not names:
        return []
    return [
        f"pickles only, by the table or the folder: {', '.join(names)}; `harness run` wants --allow-pickle, or a "
        "revision with safetensors (NAME@refs/pr/N, where somebody converted them)"
    ]
