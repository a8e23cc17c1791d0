"""Forecast of a run (`harness plan`): models and a cluster -> placements, times and costs. Nothing is executed.

Model sizes come from the table of models, or are counted from the files in a folder. Neither weights nor network access
are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from harness.checkpoints import checkpoints, pickles
from harness.checkpoints.checkpoints import Checkpoint
from harness.cluster import placement, simulate
from harness.cluster.machines import GPU_MEMORY, Cluster, Node, reading_cluster_file
from harness.cluster.placement import Demand, Placement
from harness.cluster.scoring import Held, ScoringDemand, schedule
from harness.models import model_table, precision, tiny
from harness.protocol import AskedDtype, Backend, Dtype


@dataclass(frozen=True)
class Forecast:
    """Placements with predicted times. Times are in seconds from the start of the run.

    Attributes:
        placements: placed and refused models.
        cluster: nodes and assumed rates.
        lower_bound_s: makespan that no placement can beat.
        forms: model -> form of its weights (model_table.WEIGHTS), where known.
        scoring: scores and ceilings of the recordings, if any were given.
    """

    placements: tuple[Placement, ...]
    cluster: Cluster
    lower_bound_s: float
    forms: Mapping[str, str] = field(default_factory=dict)
    scoring: tuple[ScoringDemand, ...] = ()

    @property
    def placed(self) -> list[Placement]:
        """Placements that are not refused, in order."""
        return [placed for placed in self.placements if not placed.refused]

    @property
    def extraction_s(self) -> float:
        """End of the last extraction."""
        return max((placed.end_s for placed in self.placed), default=0.0)

    @property
    def makespan_s(self) -> float:
        """End of the last extraction, or of the last score if recordings were given."""
        return max([self.extraction_s, *(demand.end_s for demand in self.scoring if not demand.refused)])

    @property
    def gpu_hours(self) -> float:
        """GPU hours held, with shared GPUs counted by fraction."""
        return sum(map(gpu_hours_of, self.placed))

    @property
    def usd(self) -> float | None:
        """Cost of the whole cluster for the makespan, idle GPUs included; None without a price."""
        price = self.cluster.usd_per_gpu_hour
        return None if price is None else price * self.cluster.n_gpus * self.makespan_s / 3600


def gpu_hours_of(placed: Placement) -> float:
    """GPU hours held by one model."""
    return placed.n_gpus * placed.gpu_share * (placed.end_s - placed.start_s) / 3600


def make_forecast(demands: Iterable[Demand], cluster: Cluster, asked: AskedDtype = "auto") -> Forecast:
    """Place models on a cluster.

    Args:
        demands: the models.
        cluster: the machines.
        asked: precision of the weights; "auto" chooses by family and size. A precision that a family does not support
            is an error.

    Raises:
        ValueError: if a family does not support the given precision.
    """
    models = list(demands)
    dtypes: dict[str, Dtype] = {
        demand.model: precision.dtype_of(demand.family, demand.stack, demand.n_parameters, asked) for demand in models
    }
    placements = placement.place(models, cluster, dtypes)
    jobs = [placed.job(cluster.start_s) for placed in placements if not placed.refused]
    forms = {demand.model: demand.weights_form for demand in models if demand.weights_form}
    return Forecast(tuple(placements), cluster, simulate.lower_bound(jobs, cluster), forms)


def with_scoring(planned: Forecast, scoring: Iterable[ScoringDemand]) -> Forecast:
    """A forecast that includes scores and ceilings; scores of models that are not placed are left out."""
    held = [
        Held(placed.model, placed.start_s, placed.end_s, placed.n_gpus * placed.gpu_share) for placed in planned.placed
    ]
    models = {"", *(model.model for model in held)}
    demands = [demand for demand in scoring if demand.model in models]
    return replace(planned, scoring=tuple(schedule(demands, held, planned.cluster)))


# --- models -----------------------------------------------------------------------------------------------------------


def demands_of(
    names: Iterable[str], backend: Backend = "transformers", allow_pickle: bool = False
) -> list[Demand]:  # fmt: skip
    """Sizes of models given by name in the table or by folder, without network access.

    Raises:
        ValueError: if a name is neither in the table nor a folder.
        FileNotFoundError: if a folder is not a complete checkpoint, or has only pickled weights and these are not
            allowed.
    """
    known_as = checkpoints.names_of(dict.fromkeys(names))
    return [_demand(name, shown, backend, allow_pickle) for name, shown in known_as.items()]


def _demand(name: str, known_as: str, backend: Backend, allow_pickle: bool) -> Demand:
    entry = model_table.find(name)
    if name in tiny.MODELS:  # built when the run starts
        return Demand(name, tiny.MODELS[name], "", 1e5)
    if entry is None and not Path(name).is_dir():
        checkpoints.require_known(name)
        return Demand(name, "", "", 0)
    if entry is None or entry.folder:
        checkpoint = checkpoints.resolve(name, known_as, allow_pickle=allow_pickle)
        form = "pickle" if pickles.folder_has_only_pickles(Path(checkpoint.folder)) else "safetensors"
        return replace(demand_of(checkpoint, _usable_backend(backend, checkpoint.stack)), weights_form=form)
    return Demand(
        known_as, entry.family, entry.stack, entry.n_parameters, entry.n_blocks,
        backend=_usable_backend(backend, entry.stack),
        weights_form=entry.weights if entry.revision == model_table.MODELS[entry.name].revision else "",
    )  # fmt: skip


def _usable_backend(backend: Backend, stack: str) -> Backend:
    """The requested backend for decoders; transformers for all other models."""
    return backend if stack == "decoder" else "transformers"


# --- machines ---------------------------------------------------------------------------------------------------------


def cluster_of(file: str, gpu_memory_gb: float | None = None, **rates: Any) -> Cluster:
    """The largest set of workers that a cluster.yaml of Ray's launcher allows.

    Args:
        file: path of the YAML file.
        gpu_memory_gb: memory of one GPU, for node types without the label "gpu-memory-gb".
        rates: fields of `Cluster`.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not a cluster file, or the memory of a GPU is unknown.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} is not a file; give the cluster.yaml of Ray's launcher, or --nodes.")
    with reading_cluster_file(file):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        node_types, head = content["available_node_types"], content["head_node_type"]
        max_workers = int(content.get("max_workers", 2**31))
        nodes = [
            (name, kind.get("resources", {}), kind.get("labels", {}), 1 if name == head else int(kind["max_workers"]))
            for name, kind in node_types.items()
        ]
    all_nodes: list[Node] = []
    for name, resources, labels, n in nodes:
        n_gpus, memory = int(resources.get("GPU", 0)), labels.get(GPU_MEMORY, gpu_memory_gb)
        if n_gpus and memory is None:
            raise ValueError(
                f"{file}: the GPU memory of node type {name} is unknown; add `labels: {{{GPU_MEMORY}: "
                '"80"}` to it, or give --gpu-memory-gb.'
            )
        node = (int(resources.get("CPU", 1)), n_gpus, int(float(memory or 0) * 1e9), int(resources.get("memory", 0)))
        all_nodes += [Node(f"{name}-{k}", *node) for k in range(n)]
    gpu_nodes = sorted((node for node in all_nodes if node.n_gpus), key=lambda node: -node.n_gpus * node.gpu_bytes)
    return Cluster(tuple(gpu_nodes[:max_workers]) or tuple(all_nodes), **rates)


# --- resolved checkpoints ---------------------------------------------------------------------------------------------


def demand_of(checkpoint: Checkpoint, backend: Backend) -> Demand:
    """Size of a resolved checkpoint."""
    return Demand(
        checkpoint.name, checkpoint.family, checkpoint.stack, checkpoint.n_parameters, checkpoint.n_layers,
        checkpoint.hidden_size, checkpoint.vocabulary, checkpoint.n_heads, backend,
    )  # fmt: skip
