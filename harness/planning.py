"""What would run where: a spec's models and a cluster -> a plan as people and programs read it. Nothing is run.

Sizes are those of the table of models, or counted in a folder's own files; neither weights nor a network are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from harness import checkpoints, models, pickles, placement, precision, quickstart, simulate
from harness.cluster import Cluster, Node
from harness.placement import Demand, Placement
from harness.printing import size
from harness.spec import AskedDtype, Backend, Dtype

# A field of our own in a node type of cluster.yaml, beside Ray's: memory of one GPU in GB. As a label, Ray keeps it.
GPU_MEMORY = "gpu-memory-gb"
# The same of the head: the largest node that may come (reservations.py reads it).
LARGEST = "largest-gpu-node"


@dataclass(frozen=True)
class Planned:
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


def plan(demands: Iterable[Demand], cluster: Cluster, asked: AskedDtype = "auto") -> Planned:
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
    return Planned(tuple(placed), cluster, simulate.lower_bound(jobs, cluster), forms)


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
    entry = models.find(name)
    if name in quickstart.MODELS or (entry is None and not Path(name).is_dir()):
        if name in quickstart.MODELS:  # they are built when the run begins
            return Demand(name, quickstart.MODELS[name], "", 1e5)
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
        weights_form=entry.weights if entry.revision == models.MODELS[entry.name].revision else "",
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


def as_json(planned: Planned) -> dict[str, Any]:
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


def _row(one: Placement, planned: Planned) -> dict[str, Any]:
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


def in_rows(planned: Planned) -> list[dict[str, Any]]:
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


def in_words(planned: Planned) -> list[str]:
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


def _pickled(planned: Planned) -> list[str]:
    """One line about the models that a run would refuse without a word from the user."""
    names = [model for model, form in planned.forms.items() if "pickle" in form.split("+")]
    if not names:
        return []
    return [
        f"pickles only, by the table or the folder: {', '.join(names)}; `harness run` wants --allow-pickle, or a "
        "revision with safetensors (NAME@refs/pr/N, where somebody converted them)"
    ]


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
