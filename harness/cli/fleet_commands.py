"""The bodies of the commands about models and machines: `harness models` and `harness plan`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.cli.printing import document, show
from harness.protocol import Backend
from harness.spec import SPECS


def models(arguments: argparse.Namespace) -> int:
    """The table of models; one of them in full; a lock of revisions; the checkpoints of a training run."""
    from harness.models import model_table as models

    if arguments.models:
        models.extend(arguments.models)
    what = arguments.what
    if what == "pin":
        return _pin(arguments)
    if what == "checkpoints":
        return _checkpoints(arguments)
    if what:
        return _one(what, arguments)
    rows = [models.described(entry) for entry in models.MODELS.values() if _is_wanted(entry, arguments)]
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
        f"\n{len(rows)} models; `harness models NAME` shows one in full. Sizes are nominal, as the paper prints them, "
        "as the name or the publisher says; a run counts them in the checkpoint. What was not looked up is empty; the "
        "form of the weights is asked of the Hub before anything is fetched."
    )
    return 0


# Columns of the listing under other names than in the table.
_HEADINGS = {"n_active_parameters": "active", "parameters_source": "size by", "chain": "tuned from"}


def _is_wanted(entry: Any, arguments: argparse.Namespace) -> bool:
    one_of = (("family", arguments.family), ("group", arguments.group), ("stage", arguments.stage))
    return all(asked is None or asked.lower() == getattr(entry, key).lower() for key, asked in one_of) and (
        arguments.weights is None or arguments.weights in entry.weights.split("+")
    )


def _shown(name: str, value: Any) -> Any:
    if name in {"n_parameters", "n_active_parameters"} and value:
        return f"{value / 1e9:g}B" if value >= 1e9 else f"{value / 1e6:g}M"
    if name == "chain":
        return " > ".join(value)
    return "" if value is None else value


def _entries(names: list[str]) -> list[Any]:
    from harness.checkpoints import checkpoints
    from harness.models import model_table as models

    found = []
    for name in names:
        entry = models.find(name)
        if entry is None:
            checkpoints.require_known(name)
            if Path(name).is_dir():
                raise ValueError(f"{name} is a folder, whose revision is a hash of its files; only the Hub is pinned.")
            hub_id, _, revision = name.partition("@")
            entry = models.Entry(name, hub_id, revision=revision or "main")
        found.append(replace(entry, name=name))  # with its revision: a lock holds both a model and one of its steps
    return found


def _one(name: str, arguments: argparse.Namespace) -> int:
    from harness.checkpoints import hub
    from harness.models.model_table import described

    (entry,) = _entries([name])
    row = described(entry) | {"pinned": hub.pinned().get(entry.name, {}).get("commit")}
    if arguments.json:
        document(row)
    else:
        row["chain"] = " > ".join(row["chain"])
        print("\n".join(f"{key:<19} {'' if value is None else value}" for key, value in row.items()))
    return 0


def _pin(arguments: argparse.Namespace) -> int:
    from harness.checkpoints import hub
    from harness.models import model_table as models

    if not (arguments.names or arguments.all):
        raise ValueError("pin which models? Give their names, or --all.")
    names = arguments.names or [entry.name for entry in models.MODELS.values() if entry.hub_id]
    rows = hub.pin(_entries(names), arguments.lock)
    if arguments.json:
        document(rows)
    else:
        show(rows, as_json=False)
        path = hub.lock(arguments.lock)
        print(
            f"\n{path} holds them; runs read " + ("it" if path == hub.lock() else f"it by HARNESS_MODELS_LOCK={path}")
        )
    return 0


def _checkpoints(arguments: argparse.Namespace) -> int:
    from harness.checkpoints import hub
    from harness.models import model_table as models

    if len(arguments.names) != 1:
        raise ValueError("checkpoints of which model? Give one name.")
    (entry,) = _entries(arguments.names)
    found = models.steps(entry) if entry.group != "user" or entry.checkpoints else None
    if found is None:
        found = hub.refs(entry.hub_id)
    stem = entry.name.partition("@")[0]
    rows = [f"{stem}@{revision}" for revision in found[:: arguments.every]]
    if arguments.json:
        document(rows)
    else:
        print("\n".join(rows))
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """Where and when each model of a spec would run; 1 where one can run nowhere."""
    from harness.cluster import forecast, forecast_view
    from harness.models import model_table as models

    names = list(_spec_models(arguments.spec))
    if arguments.models:
        names += models.extend(arguments.models)
    names = arguments.model or names
    if not names:
        raise ValueError(f"spec {arguments.spec!r} names no models: give --model NAME_OR_FOLDER, once for each.")
    backend: Backend = "vllm" if arguments.backend == "vllm" else "transformers"
    demands = forecast.demands_of(names, backend, arguments.allow_pickle)
    planned = forecast.plan(demands, _cluster(arguments), arguments.dtype)
    if arguments.json:
        document(forecast_view.as_json(planned))
    else:
        if planned.placed:
            show(forecast_view.in_rows(planned), as_json=False)
        print("", *forecast_view.in_words(planned), sep="\n")
    return int(any(one.refused for one in planned.placements))


def _spec_models(name: str) -> tuple[str, ...]:
    import difflib

    if name not in SPECS:
        near = difflib.get_close_matches(name, SPECS, n=3, cutoff=0.4) or list(SPECS)
        raise ValueError(f"spec {name!r} is unknown; the nearest are {', '.join(near)}.")
    return SPECS[name]().models


def _cluster(arguments: argparse.Namespace) -> Any:
    from harness.cluster import forecast, machines

    rates = {
        "storage_bytes_s": arguments.storage_gb_s * 1e9, "gpu_flops": arguments.gpu_tflops * 1e12,
        "usd_per_gpu_hour": arguments.usd_per_gpu_hour,
    }  # fmt: skip
    if any(not value > 0 for value in rates.values() if value is not None):
        raise ValueError("--storage-gb-s, --gpu-tflops and --usd-per-gpu-hour must be more than 0.")
    if arguments.nodes is None and arguments.gpus_per_node is None:
        return forecast.cluster_of(str(machines.cluster_file(arguments.cluster)), arguments.gpu_memory_gb, **rates)
    if arguments.cluster:
        raise ValueError("give --cluster, or --nodes with --gpus-per-node and --gpu-memory-gb, not both.")
    n_nodes = 1 if arguments.nodes is None else arguments.nodes
    n_gpus = 1 if arguments.gpus_per_node is None else arguments.gpus_per_node
    if n_gpus and arguments.gpu_memory_gb is None:
        raise ValueError("how much memory has a GPU? Give --gpu-memory-gb.")
    return machines.Cluster.made_up(n_nodes, n_gpus, arguments.gpu_memory_gb or 0, **rates)
