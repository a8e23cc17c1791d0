"""`harness models` and `harness plan`: the table of models, and the forecast of a run."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.cli.printing import answer, document, show, shown
from harness.cli.run_commands import PROTOCOLS, own_models, require_spec
from harness.models import model_table
from harness.protocol import Backend


def models(arguments: argparse.Namespace) -> int:
    """List the models, show one, write a lock file of revisions, or list the checkpoints of a training run."""
    own_models(arguments)
    if arguments.what == "pin":
        return _pin(arguments)
    if arguments.what == "checkpoints":
        return _checkpoints(arguments)
    if arguments.what:
        return _show_model(arguments.what, arguments)
    rows = [model_table.described(entry) for entry in model_table.MODELS.values() if _is_selected(entry, arguments)]
    if arguments.json:
        document(rows)
        return 0
    names = (
        "name", "family", "stack", "stage", "n_parameters", "n_active_parameters", "parameters_source", "chain",
        "licence", "gated", "weights", "hub_id",
    )  # fmt: skip
    if rows:
        show([{_HEADINGS.get(name, name): _shown(name, row[name]) for name in names} for row in rows], as_json=False)
    print(
        f"\n{len(rows)} models; `harness models NAME` shows one in full. Sizes are nominal: from the paper, the name "
        "of the model or its publisher; a run counts the parameters of the checkpoint. Unknown values are empty. "
        "Before a run downloads weights, it asks the Hub for their format."
    )
    return 0


# Column of the table -> shorter heading in the listing.
_HEADINGS = {"n_active_parameters": "active", "parameters_source": "size by", "chain": "tuned from"}


def _is_selected(entry: Any, arguments: argparse.Namespace) -> bool:
    filters = (("family", arguments.family), ("group", arguments.group), ("stage", arguments.stage))
    return all(value is None or value.lower() == getattr(entry, key).lower() for key, value in filters) and (
        arguments.weights is None or arguments.weights in entry.weights.split("+")
    )


def _shown(name: str, value: Any, in_full: bool = False) -> Any:
    if name in {"n_parameters", "n_active_parameters"} and value and not in_full:
        return f"{value / 1e9:g}B" if value >= 1e9 else f"{value / 1e6:g}M"
    return " > ".join(value) if name == "chain" else shown(value)


def _entries(names: list[str]) -> list[Any]:
    from harness.checkpoints import checkpoints

    entries = []
    for name in names:
        entry = model_table.find(name)
        if entry is None:
            checkpoints.require_known(name)
            if Path(name).is_dir():
                raise ValueError(
                    f"{name} is a local folder; only models of the Hub have commits. Give a name or a Hub id."
                )
            hub_id, _, revision = name.partition("@")
            entry = model_table.Entry(name, hub_id, revision=revision or "main")
        # Keep "@REVISION" in the name: a lock file can hold a model and several of its checkpoints.
        entries.append(replace(entry, name=name))
    return entries


def _show_model(name: str, arguments: argparse.Namespace) -> int:
    from harness.checkpoints import hub

    (entry,) = _entries([name])
    row = model_table.described(entry) | {"pinned": hub.pinned().get(entry.name, {}).get("commit")}
    answer(arguments, row, "\n".join(f"{key:<19} {_shown(key, value, in_full=True)}" for key, value in row.items()))
    return 0


def _pin(arguments: argparse.Namespace) -> int:
    from harness.checkpoints import hub

    if not (arguments.names or arguments.all):
        raise ValueError("no models to pin: give their names, or --all.")
    names = arguments.names or [entry.name for entry in model_table.MODELS.values() if entry.hub_id]
    rows = hub.pin(_entries(names), arguments.lock)
    if arguments.json:
        document(rows)
    else:
        show(rows, as_json=False)
        path = hub.lock(arguments.lock)
        print(
            f"\nwritten to {path}; "
            + ("runs use it" if path == hub.lock() else f"set HARNESS_MODELS_LOCK={path} to use it in runs")
        )
    return 0


def _checkpoints(arguments: argparse.Namespace) -> int:
    from harness.checkpoints import hub

    if len(arguments.names) != 1:
        raise ValueError(f"`models checkpoints` needs exactly one model name, not {len(arguments.names)}.")
    (entry,) = _entries(arguments.names)
    revisions = model_table.steps(entry) if entry.group != "user" or entry.checkpoints else None
    if revisions is None:
        revisions = hub.refs(entry.hub_id)
    stem = entry.name.partition("@")[0]
    rows = [f"{stem}@{revision}" for revision in revisions[:: arguments.every]]
    answer(arguments, rows, "\n".join(rows))
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """Forecast where and when each model of a spec would run; exit status 1 if one fits on no node."""
    from harness.cluster import forecast, forecast_view

    names = [*require_spec(arguments.spec)().models, *own_models(arguments)]
    names = arguments.model or names
    if not names:
        raise ValueError(f"spec {arguments.spec!r} names no models: give --model NAME_OR_FOLDER, once per model.")
    backend: Backend = "vllm" if arguments.backend == "vllm" else "transformers"
    demands = forecast.demands_of(names, backend, arguments.allow_pickle)
    result = forecast.make_forecast(demands, _cluster(arguments), arguments.dtype)
    if arguments.dataset or arguments.recording:
        result = forecast.with_scoring(result, _scoring(arguments, demands, result.cluster))
    if arguments.json:
        document(forecast_view.as_json(result))
    else:
        _print_plan(result)
    refused = [placed.refused for placed in result.placements] + [score.refused for score in result.scoring]
    return int(any(refused))


def _print_plan(result: Any) -> None:
    from harness.cluster import forecast_view, scoring_view

    if result.placed:
        show(forecast_view.in_rows(result), as_json=False)
    if rows := scoring_view.in_rows(result.scoring):
        print()
        show(rows, as_json=False)
    print("", *forecast_view.in_words(result), sep="\n")


def _scoring(arguments: argparse.Namespace, demands: list[Any], cluster: Any) -> list[Any]:
    """The scores and ceilings of the given recordings, for all models and their untrained controls."""
    from harness import datasets
    from harness.cluster.placement import shape_of
    from harness.units import scoring_demands

    shapes = {demand.model: shape_of(demand) for demand in demands}
    wanted = PROTOCOLS[arguments.protocol]
    recordings = [scoring_demands.parsed(text, datasets.find, wanted) for text in arguments.recording or ()]
    names = [member for name in arguments.dataset or () for member in datasets.expand(name)]
    root = arguments.data_root or "."
    recordings += [scoring_demands.loaded(datasets.find(name), root, wanted) for name in names]
    return [demand for sized in recordings for demand in scoring_demands.of_sizes(sized, shapes, cluster)]


def _cluster(arguments: argparse.Namespace) -> Any:
    from harness.cluster import forecast, machines

    rates = {
        "storage_bytes_s": arguments.storage_gb_s * 1e9, "gpu_flops": arguments.gpu_tflops * 1e12,
        "usd_per_gpu_hour": arguments.usd_per_gpu_hour,
    }  # fmt: skip
    if any(not value > 0 for value in rates.values() if value is not None):
        raise ValueError("--storage-gb-s, --gpu-tflops and --usd-per-gpu-hour must be greater than 0.")
    if arguments.nodes is None and arguments.gpus_per_node is None:
        return forecast.cluster_of(str(machines.cluster_file(arguments.cluster)), arguments.gpu_memory_gb, **rates)
    if arguments.cluster:
        raise ValueError("give either --cluster, or --nodes with --gpus-per-node and --gpu-memory-gb, not both.")
    n_nodes = 1 if arguments.nodes is None else arguments.nodes
    n_gpus = 1 if arguments.gpus_per_node is None else arguments.gpus_per_node
    if n_gpus and arguments.gpu_memory_gb is None:
        raise ValueError("the memory of a GPU is unknown. Give --gpu-memory-gb.")
    return machines.Cluster.made_up(n_nodes, n_gpus, arguments.gpu_memory_gb or 0, arguments.node_memory_gb, **rates)
