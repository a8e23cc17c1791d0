"""What would run where: a spec's models and a cluster -> a plan as people and programs read it. Nothing is run.

Sizes are those of the table of models, or counted in a folder's own files; neither weights nor a network are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from harness.checkpoints import checkpoints, pickles
from harness.checkpoints.checkpoints import Checkpoint
from harness.cluster import placement, simulate
from harness.cluster.machines import GPU_MEMORY, Cluster, Node
from harness.cluster.placement import Demand, Placement
from harness.models import model_table, precision, tiny
from harness.protocol import AskedDtype, Backend, Dtype


@dataclass(frozen=True)
class Forecast:
    """A plan, what no plan could beat, and what was assumed. seconds are from the beginning of the run.

    forms: model -> form of its weights, of models.WEIGHTS; only where it is known.
    """

    placements: tuple[Placement, ...]
    cluster: Cluster
    lower_bound_s: float
    forms: Mapping[str, str] = field(default_factory=dict)

    @property
    def placed(self) -> list[Placement]:
        """Those that are not refused, in the order in which they come."""
        return [one for one in self.placements if not one.refused]

    @property
    def makespan_s(self) -> float:
        """Until the last model has read its texts."""
        return max((one.end_s for one in self.placed), default=0.0)

    @property
    def gpu_hours(self) -> float:
        """GPUs that are held, by how much of them and for how long."""
        return sum(map(_gpu_hours, self.placed))

    @property
    def usd(self) -> float | None:
        """Of the whole cluster for the whole time: a node is paid for while it waits too. None without a price."""
        price = self.cluster.usd_per_gpu_hour
        return None if price is None else price * self.cluster.n_gpus * self.makespan_s / 3600


def _gpu_hours(one: Placement) -> float:
    return one.n_gpus * one.gpu_share * (one.end_s - one.start_s) / 3600


def plan(demands: Iterable[Demand], cluster: Cluster, asked: AskedDtype = "auto") -> Forecast:
    """Place models on a cluster.

    Args:
        demands: the models.
        cluster: where.
        asked: precision of the weights; "auto" by family and size. One in which a family cannot be read is not taken
            for it.

    Raises:
        ValueError: if a family is not read in the precision that was asked for.
    """
    wanted = list(demands)
    dtypes: dict[str, Dtype] = {
        demand.model: precision.dtype_of(demand.family, demand.stack, demand.n_parameters, asked) for demand in wanted
    }
    placed = placement.place(wanted, cluster, dtypes)
    jobs = [one.job(cluster.start_s) for one in placed if not one.refused]
    forms = {demand.model: demand.weights_form for demand in wanted if demand.weights_form}
    return Forecast(tuple(placed), cluster, simulate.lower_bound(jobs, cluster), forms)


# --- who --------------------------------------------------------------------------------------------------------------


def demands_of(
    names: Iterable[str], backend: Backend = "transformers", allow_pickle: bool = False
) -> list[Demand]:  # fmt: skip
    """What models ask for, by their names in the table or their folders; no network is asked.

    Raises:
        ValueError: if a name is neither in the table nor a folder.
        FileNotFoundError: if a folder is no whole checkpoint, or its weights are pickles and these are not allowed.
    """
    known_as = checkpoints.names_of(dict.fromkeys(names))
    return [_demand(name, shown, backend, allow_pickle) for name, shown in known_as.items()]


def _demand(name: str, known_as: str, backend: Backend, allow_pickle: bool) -> Demand:
    entry = model_table.find(name)
    if name in tiny.MODELS or (entry is None and not Path(name).is_dir()):
        if name in tiny.MODELS:  # they are built when the run begins
            return Demand(name, tiny.MODELS[name], "", 1e5)
        checkpoints.require_known(name)
        return Demand(name, "", "", 0)
    if entry is None or entry.folder:
        found = checkpoints.resolve(name, known_as, allow_pickle=allow_pickle)
        shape = (found.n_parameters, found.n_layers, found.hidden_size, found.vocabulary, found.n_heads)
        form = "pickle" if pickles.are_all_of(Path(found.folder)) else "safetensors"
        return Demand(
            found.name, found.family, found.stack, *shape, _able(backend, found.stack), weights_form=form
        )  # fmt: skip
    return Demand(
        name, entry.family, entry.stack, entry.n_parameters, entry.n_blocks, backend=_able(backend, entry.stack),
        weights_form=entry.weights if entry.revision == model_table.MODELS[entry.name].revision else "",
    )  # fmt: skip


def _able(backend: Backend, stack: str) -> Backend:
    return backend if stack == "decoder" else "transformers"


# --- where ------------------------------------------------------------------------------------------------------------


def cluster_of(file: str, gpu_memory_gb: float | None = None, **rates: Any) -> Cluster:
    """The workers that a cluster.yaml of Ray's launcher allows at most.

    Args:
        file: the YAML file.
        gpu_memory_gb: of one GPU, for node types that do not say it by the label "gpu-memory-gb".
        rates: of `Cluster`.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no such file, or the memory of a GPU is not known.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} is no file; give the cluster.yaml of Ray's launcher, or --nodes.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        kinds, head = content["available_node_types"], content["head_node_type"]
        most = int(content.get("max_workers", 2**31))
        nodes = [
            (name, kind.get("resources", {}), kind.get("labels", {}), 1 if name == head else int(kind["max_workers"]))
            for name, kind in kinds.items()
        ]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} is no cluster file of Ray's launcher ({type(error).__name__}: {error}).") from error
    made: list[Node] = []
    for name, resources, labels, n in nodes:
        n_gpus, memory = int(resources.get("GPU", 0)), labels.get(GPU_MEMORY, gpu_memory_gb)
        if n_gpus and memory is None:
            raise ValueError(
                f"{file}: node type {name} has GPUs whose memory is not known; give it `labels: {{{GPU_MEMORY}: "
                '"80"}`, or --gpu-memory-gb.'
            )
        node = (int(resources.get("CPU", 1)), n_gpus, int(float(memory or 0) * 1e9), int(resources.get("memory", 0)))
        made += [Node(f"{name}-{k}", *node) for k in range(n)]
    with_gpus = sorted((node for node in made if node.n_gpus), key=lambda node: -node.n_gpus * node.gpu_bytes)
    return Cluster(tuple(with_gpus[:most]) or tuple(made), **rates)


# --- as it is read ----------------------------------------------------------------------------------------------------


def demand_of(checkpoint: Checkpoint, backend: Backend) -> Demand:
    """What a model asks of a cluster."""
    return Demand(
        checkpoint.name, checkpoint.family, checkpoint.stack, checkpoint.n_parameters, checkpoint.n_layers,
        checkpoint.hidden_size, checkpoint.vocabulary, checkpoint.n_heads, backend,
    )  # fmt: skip
