"""Model sizes + a cluster -> GPUs, tensor parallelism, memory, order, predicted time.

Loading the weights dominates (SCALE: 50 thousand tokens a model), so the largest models come first, each is loaded once
for all data sets, and small ones share a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.cluster import Cluster
from harness.spec import Backend, Dtype

BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
# What a GPU's memory is not used for: the CUDA context, fragments, other processes.
RESERVED = 0.1


@dataclass(frozen=True)
class Demand:
    """What a model asks for; an unknown size is 0 and is refused.

    n_parameters: of its checkpoint, or nominal. n_heads: attention heads, divided by tensor parallelism; 0 if unknown.
    """

    model: str
    family: str
    stack: str
    n_parameters: float
    n_layers: int = 0
    hidden_size: int = 0
    vocabulary: int = 0
    n_heads: int = 0


@dataclass(frozen=True)
class Need:
    """Bytes in all: weights, activations of a batch with its logits, and buffers of pooled states (in main memory)."""

    weights: int
    activations: int
    buffers: int

    @property
    def on_device(self) -> int:
        """What must fit into the GPUs."""
        return self.weights + self.activations


@dataclass(frozen=True)
class Placement:
    """Where and when a model runs, or why it cannot.

    n_gpus: 0 on cores. gpu_share: of one GPU, where several models share it; else 1. node: name of the node. order:
    0 is first. start_s, end_s: predicted. refused: the reason; "" where it is placed.
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


def need_of(demand: Demand, dtype: Dtype, batch_tokens: int = 8192, n_stimuli: int = 16384) -> Need:
    """Bytes that a model takes: parameters at a precision; a batch's states, attention and logits; pooled vectors."""
    weights = int(demand.n_parameters * BYTES[dtype])
    states = 12 * batch_tokens * demand.hidden_size * BYTES[dtype]  # residual, norm, q, k, v and the wider MLP
    logits = 2 * 4 * min(batch_tokens * demand.vocabulary, 2**26)  # in float32, twice (extract.LOGIT_BYTES)
    buffers = 4 * (demand.n_layers + 1) * demand.hidden_size * n_stimuli
    return Need(weights, states + logits, buffers)


def place(demands: list[Demand], cluster: Cluster, dtypes: dict[str, Dtype]) -> list[Placement]:
    """Largest first, each on the node where it can begin first; the rest are refused with a reason.

    Args:
        demands: the models.
        cluster: where they may run.
        dtypes: model -> precision of its weights.

    Returns:
        One placement a model, in the order in which they begin; those refused come last.
    """
    free = {node.name: [0.0] * max(node.n_gpus, 1) for node in cluster.nodes}  # when each GPU, or the cores, are free
    placed: list[Placement] = []
    refused: list[Placement] = []
    for demand in sorted(demands, key=lambda demand: -demand.n_parameters):
        dtype = dtypes[demand.model]
        need = need_of(demand, dtype)
        seconds = need.weights / cluster.storage_bytes_s
        choices = []
        for node in cluster.nodes:
            n_gpus = _n_gpus(need, int(node.gpu_bytes * (1 - RESERVED)), node.n_gpus)
            if n_gpus is not None:
                choices.append((sorted(free[node.name])[max(n_gpus, 1) - 1], node.name, n_gpus))
        if not choices:
            said = f"{need.on_device / 1e9:.0f} GB fit on no node of this cluster"
            refused.append(Placement(demand.model, dtype, "transformers", 0, 0, "", -1, 0, 0, need, said))
            continue
        start, name, n_gpus = min(choices)
        gpus = sorted(range(len(free[name])), key=lambda gpu: free[name][gpu])[: max(n_gpus, 1)]
        for gpu in gpus:
            free[name][gpu] = start + seconds
        placed.append(Placement(demand.model, dtype, "transformers", n_gpus, 1.0, name, len(placed), start,
                                start + seconds, need, gpus=tuple(gpus[:n_gpus])))  # fmt: skip
    return placed + refused


def _n_gpus(need: Need, gpu_bytes: int, available: int) -> int | None:
    """The least power of two of GPUs that hold it; 0 on cores; None where a node has too few."""
    if not available:
        return 0
    n_gpus = 1
    while need.on_device > n_gpus * gpu_bytes:
        n_gpus *= 2
    return n_gpus if n_gpus <= available else None
