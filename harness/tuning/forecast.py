"""Forecast memory, time and cost of a tuning (`harness tune --plan`) from counts; nothing is loaded.

All formulas are on the page of this room. Activations are the tensors that torch keeps for the backward pass, counted
on LLaMA blocks; a test compares them with torch's own.

Source: bytes of mixed-precision training by AdamW: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 3.1; 6
FLOPs per parameter and token: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1; attention: Chowdhery et al. 2022
(PaLM, arXiv 2204.02311), appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checkpoints import model_configs
from harness.cluster import forecast as cluster_forecast
from harness.cluster.placement import LAYERS, RESERVED, WIDTH_FACTOR
from harness.tuning import sequences
from harness.tuning.examples import Example
from harness.tuning.recipe import Lora, Recipe, batch_of, split

# Bytes kept for the backward pass per token and block, as multiples of the hidden size and of the MLP's width.
# bfloat16: weights and activations are bfloat16 (sharded, or frozen under LoRA). autocast: weights are float32, and
# matrix products bfloat16 (replicated full fine-tuning).
KEPT_BYTES = {"float32": (40, 16), "bfloat16": (24, 8), "autocast": (34, 8)}
LOGIT_BYTES = 12  # per token and entry of the vocabulary: log-probabilities, their gradient, logits
GATED_WIDTH = 8 / 3  # width of a gated MLP over the hidden size, where the configuration is not at hand


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder.

    Attributes:
        name: model name.
        n_parameters: counted, or nominal.
        n_layers, hidden_size, mlp_width, vocabulary: of its blocks and embeddings.
        is_counted: whether these are from a configuration; else estimated from the number of parameters.
    """

    name: str
    n_parameters: float
    n_layers: int
    hidden_size: int
    mlp_width: int
    vocabulary: int
    is_counted: bool

    @property
    def block_parameters(self) -> float:
        """Parameters of one block, with embeddings and an untied head apart."""
        return max(0.0, self.n_parameters - 2 * self.vocabulary * self.hidden_size) / self.n_layers


@dataclass(frozen=True)
class Machines:
    """GPUs and their rates, which are assumptions.

    Attributes:
        n_gpus: workers with one GPU each.
        gpu_bytes: memory of one.
        flops: sustained rate of one, per second.
        link_bytes_s: rate between GPUs.
        storage_bytes_s: rate at which checkpoints and states are written.
        usd_per_gpu_hour: price; None if unknown.
    """

    n_gpus: int
    gpu_bytes: float
    flops: float = 1.5e14
    link_bytes_s: float = 1e11
    storage_bytes_s: float = 1e9
    usd_per_gpu_hour: float | None = None


@dataclass(frozen=True)
class Forecast:
    """Forecast of one training; memory is of one GPU, in bytes, times in seconds.

    Attributes:
        weights, gradients, optimizer: what is held through the training.
        gathered: weights of other workers while they are used, and casts.
        activations: of one micro-batch, with its logits.
        n_trained: trained parameters.
        n_steps, n_tokens: of the training; tokens with padding.
        compute_s, communication_s, writing_s: the first two overlap, so a training takes the larger of them.
        checkpoint_bytes, state_bytes: on storage, one of each.
    """

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    n_trained: float
    n_steps: int
    n_tokens: float
    compute_s: float
    communication_s: float
    writing_s: float
    checkpoint_bytes: float
    state_bytes: float

    @property
    def memory(self) -> float:
        """Bytes on one GPU."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations

    @property
    def seconds(self) -> float:
        """Duration of one training."""
        return max(self.compute_s, self.communication_s) + self.writing_s

    def fits(self, machines: Machines) -> bool:
        """Whether it fits, with a part of the memory left free for CUDA and fragmentation."""
        return self.memory <= (1 - RESERVED) * machines.gpu_bytes

    def usd(self, machines: Machines) -> float | None:
        """Cost of one training; None without a price."""
        price = machines.usd_per_gpu_hour
        return None if price is None else price * machines.n_gpus * self.seconds / 3600


def shape_of(base: str) -> Shape:
    """Sizes of a model by its folder, which needs only config.json, or by its name in the table.

    Raises:
        ValueError: if the model or its size is unknown, or it is not a decoder.
    """
    if (Path(base) / "config.json").is_file():
        return _counted(base)
    (demand,) = cluster_forecast.demands_of([base])
    if demand.stack not in {"", "decoder"}:
        raise ValueError(f"{base} is an {demand.stack}; only decoders can be tuned here.")
    if not demand.n_parameters:
        raise ValueError(f"the size of {base} is unknown; give a folder with its config.json, or a name of the table.")
    width = demand.hidden_size or round((WIDTH_FACTOR * demand.n_parameters) ** (1 / 3))
    return Shape(
        base, demand.n_parameters, demand.n_layers or LAYERS, width, round(GATED_WIDTH * width),
        demand.vocabulary or 32000, is_counted=False,
    )  # fmt: skip


def _counted(folder: str) -> Shape:
    import torch

    config = model_configs.load(folder, Path(folder).name)
    if config.stack != "decoder":
        raise ValueError(f"{folder} is an {config.stack}; only decoders can be tuned here.")
    with torch.device("meta"):
        model = config.kind._from_config(config.config)
    settings: dict[str, Any] = config.config.to_dict()
    names = ("intermediate_size", "n_inner", "ffn_dim")
    width = next((settings[name] for name in names if settings.get(name)), 4 * config.hidden_size)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    return Shape(
        Path(folder).name, n_parameters, config.n_blocks["decoder"], config.hidden_size, int(width), config.vocabulary,
        is_counted=True,
    )  # fmt: skip


def make(
    shape: Shape, recipe: Recipe, machines: Machines, is_sharded: bool, n_examples: int, tokens_per_example: float
) -> Forecast:
    """Forecast one training.

    Args:
        shape: the model.
        recipe: how to tune; "auto" is bfloat16.
        machines: the GPUs.
        is_sharded: whether each weight is divided among them.
        n_examples: examples to train on.
        tokens_per_example: mean tokens of an example, with padding.

    Raises:
        ValueError: if the examples do not fill one batch.
    """
    n, precision = shape.n_parameters, "float32" if recipe.dtype == "float32" else "bfloat16"
    n_trained = n if recipe.lora is None else lora_parameters(shape, recipe.lora)
    parts = machines.n_gpus if is_sharded else 1
    # Frozen weights are held in the precision of the passes, trained ones in float32.
    frozen_bytes = 4 if recipe.lora is None or precision == "float32" else 2
    is_autocast = precision == "bfloat16" and recipe.lora is None and not is_sharded
    n_steps = recipe.n_steps(n_examples)
    n_tokens = n_steps * recipe.batch * tokens_per_example
    flops = n_tokens * flops_per_token(shape, recipe, tokens_per_example)
    stored = 2 * n if recipe.lora is None else 4 * n_trained
    state = 12 * n_trained
    return Forecast(
        weights=frozen_bytes * n / parts + (4 * n_trained / parts if recipe.lora else 0),
        gradients=4 * n_trained / parts,
        optimizer=8 * n_trained / parts,
        gathered=_gathered(shape, recipe) if is_sharded else (2 * n if is_autocast else 0),
        activations=activations(shape, recipe, "autocast" if is_autocast else precision),
        n_trained=n_trained, n_steps=n_steps, n_tokens=n_tokens,
        compute_s=flops / (machines.n_gpus * machines.flops),
        communication_s=_communicated(shape, recipe, machines, is_sharded, n_trained) * n_steps / machines.link_bytes_s,
        writing_s=(recipe.n_checkpoints * stored + (recipe.n_checkpoints - 1) * state) / machines.storage_bytes_s,
        checkpoint_bytes=stored, state_bytes=state,
    )  # fmt: skip


def count(rows: Sequence[Example], tokenizer: Any, prefix: Sequence[int], recipe: Recipe) -> tuple[int, float]:
    """(examples that are trained on, their mean tokens with padding), in the arm with instructions.

    Args:
        rows: the examples.
        tokenizer: of the base.
        prefix: ids that the base puts before a text.
        recipe: for length, batches and micro-batches.
    """
    corpus = sequences.of_examples(rows, tokenizer, prefix, recipe.length).by_arm["with instructions"]
    places, _ = split(len(corpus), recipe.held_out)
    order = batch_of(0, len(places), len(places), seed=0)
    lengths = [len(corpus[places[place]].ids) for place in order]
    size = recipe.micro_batch
    chunks = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return len(places), sum(max(chunk) * len(chunk) for chunk in chunks) / len(lengths)


def lora_parameters(shape: Shape, lora: Lora) -> float:
    """Parameters of the adapters: rank x (inputs + outputs) of each adapted layer; queries and values by default."""
    square, mlp = 2 * shape.hidden_size, shape.hidden_size + shape.mlp_width
    targets = lora.targets or ("q_proj", "v_proj")
    if targets == ("all-linear",):
        targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    is_mlp = ("gate", "up", "down", "fc", "mlp")
    sizes = [mlp if any(part in target for part in is_mlp) else square for target in targets]
    return float(shape.n_layers * lora.rank * sum(sizes))


def activations(shape: Shape, recipe: Recipe, precision: str) -> float:
    """Bytes of one micro-batch at the maximum length: what each block keeps, and the logits.

    With recomputation each block keeps only its input, and one block at a time is whole.
    """
    n_tokens = recipe.micro_batch * recipe.length
    hidden_bytes, mlp_bytes = KEPT_BYTES[precision]
    block = hidden_bytes * shape.hidden_size + mlp_bytes * shape.mlp_width
    inputs = shape.n_layers * shape.hidden_size * (2 if precision == "bfloat16" else 4)
    blocks = inputs + block if recipe.recompute else shape.n_layers * block
    return float(n_tokens * (blocks + LOGIT_BYTES * shape.vocabulary))


def flops_per_token(shape: Shape, recipe: Recipe, tokens_per_example: float) -> float:
    """Operations of one token, forward and backward.

    The forward pass takes 2 per parameter and 4 x layers x hidden size x tokens for attention (the masked half counts,
    since kernels differ); the backward pass takes twice that, or, for the products with frozen weights, once.
    """
    forward = 2 * shape.n_parameters + 4 * shape.n_layers * shape.hidden_size * tokens_per_example
    attention = 4 * shape.n_layers * shape.hidden_size * tokens_per_example
    backward = 2 * forward if recipe.lora is None else forward + attention
    return forward * (2 if recipe.recompute else 1) + backward


def _gathered(shape: Shape, recipe: Recipe) -> float:
    """Whole weights that a sharded worker holds for a while: two blocks, embeddings and head, and their gradients."""
    n_bytes = 4 if recipe.dtype == "float32" else 2
    ends = 2 * shape.vocabulary * shape.hidden_size
    gradients = (n_bytes + 4) * (shape.block_parameters + ends) if recipe.lora is None else 0.0
    return n_bytes * (2 * shape.block_parameters + ends) + gradients


def _communicated(shape: Shape, recipe: Recipe, machines: Machines, is_sharded: bool, n_trained: float) -> float:
    """Bytes that one GPU sends in a step."""
    fraction = (machines.n_gpus - 1) / machines.n_gpus
    if not is_sharded:
        return 2 * fraction * 4 * n_trained  # ring all-reduce of float32 gradients
    n_rounds = math.ceil(math.ceil(recipe.batch / recipe.micro_batch) / machines.n_gpus)
    n_bytes = 4 if recipe.dtype == "float32" else 2
    return n_rounds * fraction * (2 * n_bytes * shape.n_parameters + 4 * n_trained)
