"""Output of a forecast: table rows, summary sentences, or a JSON document."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from harness.cluster import placement, scoring_view
from harness.cluster.forecast import Forecast, gpu_hours_of
from harness.cluster.machines import Cluster
from harness.cluster.placement import Placement
from harness.numbers import clock, size


def as_json(planned: Forecast) -> dict[str, Any]:
    """JSON document: makespan_s, lower_bound_s, ratio, assignments, refused, scoring, cluster, assumptions ..."""
    bound = planned.lower_bound_s
    return {
        "makespan_s": planned.makespan_s, "lower_bound_s": bound,
        "extraction_s": planned.extraction_s, "ratio": planned.extraction_s / bound if bound else None,
        "gpu_hours": planned.gpu_hours, "usd": planned.usd,
        "assignments": [_row(placed, planned) for placed in planned.placed],
        "refused": [{"model": refused.model, "dtype": refused.dtype, "reason": refused.refused}
                    for refused in planned.placements if refused.refused],
        "scoring": [asdict(demand) for demand in planned.scoring],
        "cluster": [asdict(node) for node in planned.cluster.nodes], "assumptions": _assumptions(planned.cluster),
    }  # fmt: skip


def _row(placed: Placement, planned: Forecast) -> dict[str, Any]:
    price, gpu_hours = planned.cluster.usd_per_gpu_hour, gpu_hours_of(placed)
    return {
        "model": placed.model, "node": placed.node, "gpus": list(placed.gpus), "n_gpus": placed.n_gpus,
        "gpu_share": placed.gpu_share, "tensor_parallel": placed.tensor_parallel, "dtype": placed.dtype,
        "backend": placed.backend, "order": placed.order, "start_s": placed.start_s, "end_s": placed.end_s,
        "load_s": placed.load_s, "compute_s": placed.run_s, "weights_gb": placed.need.weights / 1e9,
        "activations_gb": placed.need.activations / 1e9, "buffers_gb": placed.need.buffers / 1e9,
        "gpu_hours": gpu_hours, "usd": None if price is None else gpu_hours * price,
        "weights_form": planned.forms.get(placed.model),
    }  # fmt: skip


def _assumptions(cluster: Cluster) -> dict[str, Any]:
    rates = {name: value for name, value in asdict(cluster).items() if name != "nodes"}
    return {
        **rates, "tokens_per_model": placement.N_TOKENS, "reserved_gpu_share": placement.RESERVED,
        "said": [
            "each node loads the weights of one model at a time, and of the next model while its GPUs compute",
            "two operations per parameter and token; each model and its untrained control process all data sets",
            "scoring runs on the remaining cores and GPUs; the makespan includes it if recordings are given",
            "an unknown hidden size is estimated from the number of parameters: its cube is nine times that number",
        ],
    }  # fmt: skip


def in_rows(planned: Forecast) -> list[dict[str, Any]]:
    """One table row per model."""
    rows, price = [], planned.cluster.usd_per_gpu_hour
    for placed in planned.placed:
        gpus = ",".join(map(str, placed.gpus)) + (f" (1/{round(1 / placed.gpu_share)})" if placed.gpu_share < 1 else "")
        rows.append({
            "": placed.order + 1, "model": placed.model, "dtype": placed.dtype, "backend": placed.backend,
            "node": placed.node, "GPUs": gpus if placed.gpus else "cores", "TP": placed.tensor_parallel,
            "form": planned.forms.get(placed.model, ""), "weights": size(placed.need.weights),
            "batch": size(placed.need.activations), "buffers": size(placed.need.buffers),
            "begins": clock(placed.start_s), "ends": clock(placed.end_s),
            **({} if price is None else {"USD": f"{gpu_hours_of(placed) * price:.2f}"}),
        })  # fmt: skip
    return rows


def in_words(planned: Forecast) -> list[str]:
    """Refused models with reasons, models with pickled weights, totals, and assumptions."""
    lines = [f"refused {refused.model}: {refused.refused}" for refused in planned.placements if refused.refused]
    lines += _pickled(planned)
    cluster, bound = planned.cluster, planned.lower_bound_s
    kinds = sorted({f"{node.n_gpus} x {node.gpu_bytes / 1e9:.0f} GB" for node in cluster.nodes if node.n_gpus})
    lines.append(
        f"{len(planned.placed)} models on {len(cluster.nodes)} nodes ({', '.join(kinds) or 'no GPU'}): "
        f"{clock(planned.extraction_s)}; lower bound {clock(bound)}"
        + (f" (ratio {planned.extraction_s / bound:.3f})" if bound else "")
        + f"; {planned.gpu_hours:.1f} GPU hours"
        + (f"; ${planned.usd:.2f} for the cluster" if planned.usd is not None else "")
    )
    lines += _scoring(planned)
    lines.append(
        f"assumed: {cluster.storage_bytes_s / 1e9:g} GB/s from storage to a node, {cluster.gpu_flops / 1e12:g} TFLOP/s "
        f"per GPU, {placement.N_TOKENS:,} tokens per model; --json lists all assumptions"
    )
    return lines


def _scoring(planned: Forecast) -> list[str]:
    """Refused scores, and the makespan with scoring; nothing without recordings."""
    if not planned.scoring:
        return []
    cluster, n_scores = planned.cluster, sum(not demand.refused and bool(demand.model) for demand in planned.scoring)
    return [
        *scoring_view.refusals(planned.scoring),
        f"with {n_scores} scores and their ceilings: {clock(planned.makespan_s)}; assumed for scoring: "
        f"{cluster.fit_flops / 1e12:g} TFLOP/s per GPU in divided fits, {cluster.core_flops / 1e9:g} GFLOP/s per core",
    ]


def _pickled(planned: Forecast) -> list[str]:
    """One line naming the models that a run refuses without --allow-pickle."""
    names = [model for model, form in planned.forms.items() if "pickle" in form.split("+")]
    if not names:
        return []
    return [
        f"only pickled weights, by the table or the folder: {', '.join(names)}; `harness run` needs --allow-pickle, or "
        "a revision with safetensors (NAME@refs/pr/N, if a converted copy exists)"
    ]
