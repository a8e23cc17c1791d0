"""Model sizes + a cluster -> GPUs, tensor parallelism, memory, order, predicted time.

Loading the weights dominates (SCALE: 50 thousand tokens a model), so the largest models come first, each is loaded once
for all data sets, each node's link is given its share, and small models share a GPU. When each begins and ends is then
told by a replay of the plan (simulate.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from harness.cluster import simulate
from harness.cluster.machines import Cluster, Node
from harness.cluster.simulate import ModelJob
from harness.protocol import Backend, Dtype

BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
# What a GPU's memory is not used for: the CUDA context, fragments, other processes.
RESERVED = 0.1
# Tokens that a model reads for all data sets (SCALE); its untrained twin reads them too.
N_TOKENS = 100_000
# Of a model of which no more than its size is known: its width's cube is nine times its parameters (Llama 2 7B and 70B:
# 10 and 8 times), and its layers are as many as those of a model of 13 billion.
WIDTH_FACTOR, LAYERS = 9, 40
# Models that may share a GPU, each a process with a CUDA context of its own; the plan that ends first is taken.
MOST_ON_A_GPU = (4, 2, 1)


@dataclass(frozen=True)
class Demand:
    """What a model asks for; an unknown size is 0 and is refused.

    n_parameters: of its checkpoint, or nominal. n_heads: attention heads, divided by tensor parallelism; 0 if unknown.
    weights_form: of models.WEIGHTS, several joined by "+"; "" if unknown. It decides no place.
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
    """Bytes in all: weights, activations of a batch with its logits, and buffers of pooled states (in main memory)."""

    weights: int
    activations: int
    buffers: int

    @property
    def on_device(self) -> int:
        """What must fit into the GPUs, where there is one."""
        return self.weights + self.activations


@dataclass(frozen=True)
class Placement:
    """Where and when a model runs, or why it cannot.

    n_gpus: 0 on cores. gpu_share: of one GPU, where several models share it; else 1. node: name of the node. order:
    0 is first. start_s, end_s: predicted, loading included. refused: the reason; "" where it is placed. gpus: which of
    the node's. load_s, run_s: of it loading, if it has the link for itself, and computing. tensor_parallel: 1 where
    blocks are on several GPUs in turn.
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
        """Of vLLM; transformers lays blocks on GPUs in turn."""
        return max(1, self.n_gpus) if self.backend == "vllm" else 1

    def job(self, start_s: float) -> ModelJob:
        """For a replay."""
        spots = self.gpus or (simulate.CORES,)
        share = self.gpu_share
        return ModelJob(self.model, self.node, spots, share, self.need.weights, start_s, self.run_s)


def need_of(demand: Demand, dtype: Dtype, batch_tokens: int = 8192, n_stimuli: int = 16384) -> Need:
    """Bytes that a model takes: parameters at a precision; a batch's states, attention and logits; pooled vectors."""
    weights = int(demand.n_parameters * BYTES[dtype])
    width = demand.hidden_size or int((WIDTH_FACTOR * demand.n_parameters) ** (1 / 3))
    states = 12 * batch_tokens * width * max(2, BYTES[dtype])  # residual, norm, q, k, v, the wider MLP
    logits = 2 * 4 * min(batch_tokens * (demand.vocabulary or 2**18), 2**26)  # in float32, twice (heads.LOGIT_BYTES)
    buffers = 4 * ((demand.n_layers or LAYERS) + 1) * width * n_stimuli
    return Need(weights, states + logits, buffers)


@dataclass
class _Lane:
    """A node while models are given to it: until when its link and each of its spots are taken."""

    node: Node
    link_s: float = 0.0
    spots: dict[int, list[tuple[float, float]]] = field(default_factory=dict)  # (until, share), latest begin in `begun`
    begun: dict[int, float] = field(default_factory=dict)

    def begin(self, spot: int, share: float) -> float:
        """The first moment, no earlier than what was given to it before, from which a spot has a share free."""
        at = self.begun.get(spot, 0.0)
        busy = sorted(entry for entry in self.spots.get(spot, []) if entry[0] > at)
        used = sum(entry[1] for entry in busy)
        while busy and used + share > 1 + 1e-9:
            at, gone = busy.pop(0)
            used -= gone
        return at


def place(demands: Iterable[Demand], cluster: Cluster, dtypes: dict[str, Dtype]) -> list[Placement]:
    """Largest first, each on the node where it ends first; the rest are refused with a reason.

    Args:
        demands: the models, of different names.
        cluster: where they may run.
        dtypes: model -> precision of its weights.

    Returns:
        One placement a model, in their order; those refused come last.
    """
    ordered = sorted(demands, key=lambda demand: (-demand.n_parameters, demand.model))
    plans = [_plan(ordered, cluster, dtypes, most) for most in MOST_ON_A_GPU]
    return min(plans, key=lambda plan: max((one.end_s for one in plan if not one.refused), default=0.0))


def _plan(demands: list[Demand], cluster: Cluster, dtypes: dict[str, Dtype], most: int) -> list[Placement]:
    """Models in their order, so many on a GPU at most."""
    lanes = [_Lane(node) for node in cluster.nodes]
    placed: list[Placement] = []
    refused: list[Placement] = []
    for demand in demands:
        dtype = dtypes[demand.model]
        need = need_of(demand, dtype)
        made = [_offer(demand, dtype, need, lane, cluster, most) for lane in lanes]
        offers = [offer for offer in made if offer]
        if not offers:
            why = _why(demand, dtype, need, cluster)
            refused.append(Placement(demand.model, dtype, demand.backend, 0, 0, "", -1, 0, 0, need, why))
            continue
        lane, best = min(offers, key=lambda offer: (offer[1].end_s, offer[1].n_gpus, offer[1].node))
        _take(lane, best)
        placed.append(replace(best, order=len(placed)))
    replay = simulate.replay([one.job(cluster.start_s) for one in placed], cluster)
    return [replace(one, start_s=replay.start_s[one.model], end_s=replay.end_s[one.model]) for one in placed] + refused


def _offer(
    demand: Demand, dtype: Dtype, need: Need, lane: _Lane, cluster: Cluster, most: int
) -> tuple[_Lane, Placement] | None:
    """What a node could do for a model."""
    node, on_gpus = lane.node, lane.node.n_gpus > 0
    n_gpus = gpus_needed(demand, need, node) if on_gpus else 0
    if demand.n_parameters <= 0 or n_gpus is None or (not on_gpus and not _fits_in_memory(need, node)):
        return None
    share = 1 / max(1, node.n_cpus // 2) if not on_gpus else _share(need, node, most) if n_gpus == 1 else 1.0
    every = range(node.n_gpus) if on_gpus else [simulate.CORES]
    spots = sorted(every, key=lambda spot: (lane.begin(spot, share), -_used(lane, spot), spot))[: max(1, n_gpus)]
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
    """Share of a spot that is taken at its latest begin: those that share fill one GPU before the next."""
    at = lane.begun.get(spot, 0.0)
    return sum(share for until, share in lane.spots.get(spot, []) if until > at)


def gpus_needed(demand: Demand, need: Need, node: Node) -> int | None:
    """The least number of a node's GPUs that hold a model; None where it has too few.

    Each holds its share of the weights, one block more (blocks are not cut), and a batch. Tensor parallelism cuts the
    blocks and divides the heads, so that only powers of two that divide them will do.
    """
    usable, parallel = node.gpu_bytes * (1 - RESERVED), demand.backend == "vllm"
    block = 0 if parallel else need.weights / (demand.n_layers or LAYERS)
    for n_gpus in range(1, node.n_gpus + 1):
        if parallel and (n_gpus & (n_gpus - 1) or (demand.n_heads and demand.n_heads % n_gpus)):
            continue
        if need.weights / n_gpus + (block if n_gpus > 1 else 0) + need.activations <= usable:
            return n_gpus
    return None


def _share(need: Need, node: Node, most: int) -> float:
    """Of a GPU: the smallest of 1, 1/2, 1/3 ... that is enough, so that no more than `most` are on one."""
    fit = int(node.gpu_bytes * (1 - RESERVED) // max(1, need.on_device))
    return 1 / max(1, min(most, fit))


def _fits_in_memory(need: Need, node: Node) -> bool:
    return not node.memory_bytes or need.on_device + need.buffers <= node.memory_bytes * (1 - RESERVED)


def _run_s(demand: Demand, need: Need, n_gpus: int, cluster: Cluster) -> float:
    """To the GPUs, and two operations a parameter and token; blocks that are on several GPUs in turn gain nothing."""
    flops = (cluster.gpu_flops if n_gpus else cluster.cpu_flops) * (n_gpus if demand.backend == "vllm" else 1)
    copy = need.weights / cluster.device_bytes_s if n_gpus else 0.0
    return copy + 2 * demand.n_parameters * demand.n_tokens / flops


def _why(demand: Demand, dtype: Dtype, need: Need, cluster: Cluster) -> str:
    """Why a model can be placed nowhere, and what would help."""
    if demand.n_parameters <= 0:
        return "its size is not known; give n_parameters in a file of models (--models), or the folder of its weights."
    takes = f"{need.weights / 1e9:.0f} GB of weights in {dtype} and {need.activations / 1e9:.1f} GB for a batch"
    if not cluster.n_gpus:
        most = max((node.memory_bytes for node in cluster.nodes), default=0)
        return f"{takes} do not fit into the {most / 1e9:.0f} GB of main memory of the largest node."
    node = max(cluster.nodes, key=lambda node: node.n_gpus * node.gpu_bytes)
    usable = node.gpu_bytes * (1 - RESERVED)
    said = (
        f"{takes} do not fit into one node: the largest has {node.n_gpus} GPUs of {node.gpu_bytes / 1e9:.0f} GB, of "
        f"which {node.n_gpus * usable / 1e9:.0f} GB can be used; a model is not spread over nodes."
    )
    for other in ("bfloat16", "int8"):
        if BYTES[other] < BYTES[dtype] and gpus_needed(demand, need_of(demand, other), node):
            return f"{said} In {other} it would fit: give --dtype {other}."
    n_needed = -(-need.weights // int(max(1, usable - need.activations)))
    return f"{said} It takes {n_needed} such GPUs in one node, or larger ones."
