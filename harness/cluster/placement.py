"""Placement of models on a cluster: GPUs, tensor parallelism, memory, order and predicted times.

Loading weights dominates, since a model processes few tokens. Therefore the largest models come first, each model is
loaded once for all data sets, loads are balanced over the nodes' links, and small models share a GPU. Start and end
times come from a simulation of the placement (simulate.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from harness.cluster import simulate
from harness.cluster.machines import Cluster, Node
from harness.cluster.simulate import ModelJob
from harness.protocol import Backend, Dtype

BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
# Fraction of GPU memory left free: CUDA context, fragmentation, other processes.
RESERVED = 0.1
# Tokens per model for all data sets of the spec `scale`; its untrained control processes them too.
N_TOKENS = 100_000
# Estimates for a model of which only the number of parameters is known: its hidden size cubed is nine times that number
# (Llama 2 7B and 70B: 10 and 8 times), and it has as many layers as a model of 13 billion parameters.
WIDTH_FACTOR, LAYERS = 9, 40
# Limits on the models sharing a GPU, each a process with its own CUDA context; the limit that ends first is chosen.
MOST_ON_A_GPU = (4, 2, 1)


@dataclass(frozen=True)
class Demand:
    """Size of a model.

    Attributes:
        model, family, stack: name, model family, and "decoder", "encoder" or "encoder-decoder".
        n_parameters: counted in its checkpoint, or nominal; 0 if unknown, which is refused.
        n_layers, hidden_size, vocabulary: 0 if unknown.
        n_heads: attention heads, divided by tensor parallelism; 0 if unknown.
        backend: library that runs the model.
        n_tokens: tokens to process.
        weights_form: one or more of model_table.WEIGHTS, joined by "+"; "" if unknown. It does not affect placement.
    """

    model: str
    family: str
    stack: str
    n_parameters: float
    n_layers: int = 0
    hidden_size: int = 0
    vocabulary: int = 0
    n_heads: int = 0
    backend: Backend = "transformers"
    n_tokens: int = N_TOKENS
    weights_form: str = ""


@dataclass(frozen=True)
class Need:
    """Total bytes: weights, activations of a batch with its logits, and buffers of pooled features (main memory)."""

    weights: int
    activations: int
    buffers: int

    @property
    def on_device(self) -> int:
        """Bytes that must fit into GPU memory, on nodes with GPUs."""
        return self.weights + self.activations


@dataclass(frozen=True)
class Placement:
    """Where and when a model runs, or why it cannot.

    Attributes:
        model, dtype, backend: the model, precision of its weights, and library.
        n_gpus: number of GPUs; 0 for cores.
        gpu_share: fraction of one GPU if several models share it, otherwise 1.
        node: name of the node.
        order: position in the order of execution, from 0.
        start_s, end_s: predicted times, including loading.
        need: memory.
        refused: the reason; "" if the model is placed.
        gpus: indices of the GPUs on the node.
        load_s: loading time if the model has the link for itself.
        run_s: computation time.
    """

    model: str
    dtype: Dtype
    backend: Backend
    n_gpus: int
    gpu_share: float
    node: str
    order: int
    start_s: float
    end_s: float
    need: Need
    refused: str = ""
    gpus: tuple[int, ...] = ()
    load_s: float = 0.0
    run_s: float = 0.0

    @property
    def tensor_parallel(self) -> int:
        """Degree of tensor parallelism; 1 for transformers, which assigns whole blocks to GPUs."""
        return max(1, self.n_gpus) if self.backend == "vllm" else 1

    def job(self, start_s: float) -> ModelJob:
        """The model as input to the simulation."""
        spots = self.gpus or (simulate.CORES,)
        return ModelJob(self.model, self.node, spots, self.gpu_share, self.need.weights, start_s, self.run_s)


def need_of(demand: Demand, dtype: Dtype, batch_tokens: int = 8192, n_stimuli: int = 16384) -> Need:
    """Memory of a model in bytes.

    Args:
        demand: size of the model.
        dtype: precision of the weights.
        batch_tokens: tokens in a batch.
        n_stimuli: stimuli whose pooled features are buffered.
    """
    weights = int(demand.n_parameters * BYTES[dtype])
    n_layers, width = shape_of(demand)
    states = 12 * batch_tokens * width * max(2, BYTES[dtype])  # residual, norm, q, k, v, the wider MLP
    logits = 2 * 4 * min(batch_tokens * (demand.vocabulary or 2**18), 2**26)  # in float32, twice (heads.LOGIT_BYTES)
    buffers = 4 * n_layers * width * n_stimuli
    return Need(weights, states + logits, buffers)


def shape_of(demand: Demand) -> tuple[int, int]:
    """Number of layers of hidden states (embeddings included) and their width; estimated where unknown."""
    width = demand.hidden_size or int((WIDTH_FACTOR * demand.n_parameters) ** (1 / 3))
    return (demand.n_layers or LAYERS) + (2 if demand.stack == "encoder-decoder" else 1), width


@dataclass
class _Lane:
    """Schedule of a node during placement.

    link_s: when its link becomes free. spots: GPU (or CORES) -> (end, fraction) of its models. begun: GPU -> latest
    start of a model on it.
    """

    node: Node
    link_s: float = 0.0
    spots: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    begun: dict[int, float] = field(default_factory=dict)

    def begin(self, spot: int, share: float) -> float:
        """Earliest time, not before the previous start on this spot, at which the given fraction of it is free."""
        start = self.begun.get(spot, 0.0)
        busy = sorted(entry for entry in self.spots.get(spot, []) if entry[0] > start)
        used = sum(entry[1] for entry in busy)
        while busy and used + share > 1 + 1e-9:
            start, released = busy.pop(0)
            used -= released
        return start


def place(demands: Iterable[Demand], cluster: Cluster, dtypes: dict[str, Dtype]) -> list[Placement]:
    """Place models, largest first, each on the node where it ends earliest; refuse those that fit nowhere.

    Args:
        demands: the models, with unique names.
        cluster: the machines.
        dtypes: model -> precision of its weights.

    Returns:
        One placement per model, in order of execution; refused models last.
    """
    ordered = sorted(demands, key=lambda demand: (-demand.n_parameters, demand.model))
    plans = [_plan(ordered, cluster, dtypes, max_per_gpu) for max_per_gpu in MOST_ON_A_GPU]
    return min(plans, key=lambda plan: max((placed.end_s for placed in plan if not placed.refused), default=0.0))


def _plan(demands: list[Demand], cluster: Cluster, dtypes: dict[str, Dtype], max_per_gpu: int) -> list[Placement]:
    """Place models in the given order, with at most `max_per_gpu` on one GPU."""
    lanes = [_Lane(node) for node in cluster.nodes]
    placed: list[Placement] = []
    refused: list[Placement] = []
    for demand in demands:
        dtype = dtypes[demand.model]
        need = need_of(demand, dtype)
        candidates = [_offer(demand, dtype, need, lane, cluster, max_per_gpu) for lane in lanes]
        offers = [offer for offer in candidates if offer]
        if not offers:
            reason = _reason(demand, dtype, need, cluster)
            refused.append(Placement(demand.model, dtype, demand.backend, 0, 0, "", -1, 0, 0, need, reason))
            continue
        lane, best = min(offers, key=lambda offer: (offer[1].end_s, offer[1].n_gpus, offer[1].node))
        _take(lane, best)
        placed.append(replace(best, order=len(placed)))
    times = simulate.replay([job.job(cluster.start_s) for job in placed], cluster)
    return [replace(job, start_s=times.start_s[job.model], end_s=times.end_s[job.model]) for job in placed] + refused


def _offer(
    demand: Demand, dtype: Dtype, need: Need, lane: _Lane, cluster: Cluster, max_per_gpu: int
) -> tuple[_Lane, Placement] | None:
    """The best placement of a model on one node; None if it does not fit."""
    node, on_gpus = lane.node, lane.node.n_gpus > 0
    n_gpus = gpus_needed(demand, need, node) if on_gpus else 0
    if demand.n_parameters <= 0 or n_gpus is None or (not on_gpus and not _fits_in_memory(need, node)):
        return None
    share = 1 / max(1, node.n_cpus // 2) if not on_gpus else _share(need, node, max_per_gpu) if n_gpus == 1 else 1.0
    all_spots = range(node.n_gpus) if on_gpus else [simulate.CORES]
    spots = sorted(all_spots, key=lambda spot: (lane.begin(spot, share), -_used(lane, spot), spot))[: max(1, n_gpus)]
    start = max(lane.begin(spot, share) for spot in spots)
    load_s, run_s = need.weights / cluster.storage_bytes_s, _run_s(demand, need, n_gpus, cluster)
    end = max(lane.link_s + load_s, start + cluster.start_s) + run_s
    gpus = tuple(sorted(spots)) if on_gpus else ()
    return lane, Placement(
        demand.model, dtype, demand.backend, n_gpus, share, node.name, -1, start, end, need, "", gpus, load_s, run_s
    )


def _take(lane: _Lane, placement: Placement) -> None:
    lane.link_s += placement.load_s
    for spot in placement.gpus or (simulate.CORES,):
        lane.begun[spot] = placement.start_s
        lane.spots.setdefault(spot, []).append((placement.end_s, placement.gpu_share))


def _used(lane: _Lane, spot: int) -> float:
    """Fraction of a spot in use at its latest start, so that models sharing GPUs fill one GPU before the next."""
    start = lane.begun.get(spot, 0.0)
    return sum(share for until, share in lane.spots.get(spot, []) if until > start)


def gpus_needed(demand: Demand, need: Need, node: Node) -> int | None:
    """Smallest number of a node's GPUs that hold a model; None if the node has too few.

    Each GPU holds its fraction of the weights, one additional block (blocks are not split), and a batch. Tensor
    parallelism splits blocks by heads, so the number must be a power of two that divides the number of heads.
    """
    usable, parallel = node.gpu_bytes * (1 - RESERVED), demand.backend == "vllm"
    block = 0 if parallel else need.weights / (demand.n_layers or LAYERS)
    for n_gpus in range(1, node.n_gpus + 1):
        if parallel and (n_gpus & (n_gpus - 1) or (demand.n_heads and demand.n_heads % n_gpus)):
            continue
        if need.weights / n_gpus + (block if n_gpus > 1 else 0) + need.activations <= usable:
            return n_gpus
    return None


def _share(need: Need, node: Node, max_per_gpu: int) -> float:
    """Smallest fraction of a GPU (1, 1/2, 1/3 ...) that holds a model, and at least 1 / `max_per_gpu`."""
    n_fit = int(node.gpu_bytes * (1 - RESERVED) // max(1, need.on_device))
    return 1 / max(1, min(max_per_gpu, n_fit))


def _fits_in_memory(need: Need, node: Node) -> bool:
    return not node.memory_bytes or need.on_device + need.buffers <= node.memory_bytes * (1 - RESERVED)


def _run_s(demand: Demand, need: Need, n_gpus: int, cluster: Cluster) -> float:
    """Time to copy to the GPUs and compute, at two operations per parameter and token.

    Without tensor parallelism several GPUs compute one after the other, which saves no time.
    """
    flops = (cluster.gpu_flops if n_gpus else cluster.cpu_flops) * (n_gpus if demand.backend == "vllm" else 1)
    copy = need.weights / cluster.device_bytes_s if n_gpus else 0.0
    return copy + 2 * demand.n_parameters * demand.n_tokens / flops


def _reason(demand: Demand, dtype: Dtype, need: Need, cluster: Cluster) -> str:
    """Why a model fits nowhere, and what would help."""
    if demand.n_parameters <= 0:
        return "its size is unknown; give n_parameters in a file of models (--models), or the folder of its weights."
    sizes = f"{need.weights / 1e9:.0f} GB of weights in {dtype} and {need.activations / 1e9:.1f} GB for a batch"
    if not cluster.n_gpus:
        largest = max((node.memory_bytes for node in cluster.nodes), default=0)
        return f"{sizes} do not fit into the {largest / 1e9:.0f} GB of main memory of the largest node."
    node = max(cluster.nodes, key=lambda node: node.n_gpus * node.gpu_bytes)
    usable = node.gpu_bytes * (1 - RESERVED)
    reason = (
        f"{sizes} do not fit into one node: the largest has {node.n_gpus} GPUs of {node.gpu_bytes / 1e9:.0f} GB, of "
        f"which {node.n_gpus * usable / 1e9:.0f} GB can be used; a model is not spread over nodes."
    )
    for smaller in ("bfloat16", "int8"):
        if BYTES[smaller] < BYTES[dtype] and gpus_needed(demand, need_of(demand, smaller), node):
            return f"{reason} In {smaller} it would fit: give --dtype {smaller}."
    n_needed = -(-need.weights // int(max(1, usable - need.activations)))
    return f"{reason} It needs {n_needed} such GPUs in one node, or larger ones."
