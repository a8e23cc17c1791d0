"""Add a published weight difference to its base, tensor by tensor, each computed when it is read.

LLaMA's licence did not allow sharing tuned copies, so Alpaca, Vicuna and StableVicuna were published as differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.checkpoints.headers import is_buffer
from harness.checkpoints.weights import shape_of

NewRows = Literal["zero", "mean"]
# Elements added at once: adding two precisions makes a float32 copy of the block.
_BLOCK = 2**20


@dataclass(frozen=True)
class Recipe:
    """How the authors of a difference add it.

    Attributes:
        new_rows: the base's value at tokens that tuning added.
        total: float32 sum over all tensors of the tuned model, to within `TOLERANCE`; None if the authors state none.
    """

    new_rows: NewRows = "zero"
    total: float | None = None


TOLERANCE = 0.01
# Keyed by the Hub id of the difference.
RECIPES = {
    # weight_diff.py of tatsu-lab/stanford_alpaca: smart_tokenizer_and_embedding_resize gives [PAD] the mean of the
    # base's rows; recover() compares the sum of all tensors of the state dict with 50637.1836, atol 0.01.
    "tatsu-lab/alpaca-7b-wdiff": Recipe("mean", 50637.1836),
    # apply_delta.py of FastChat and of CarperAI: the rows of [PAD] are set to 0 before adding.
    "CarperAI/stable-vicuna-13b-delta": Recipe("zero"),
    "lmsys/vicuna-7b-delta-v0": Recipe("zero"),
    "lmsys/vicuna-13b-delta-v0": Recipe("zero"),
}


# Names under which a local copy of a difference is recognised.
_HUB_IDS = {"alpaca-7b": "tatsu-lab/alpaca-7b-wdiff", "stable-vicuna-13b": "CarperAI/stable-vicuna-13b-delta"}


def recipe_of(hub_id: str, name: str = "", new_rows: str = "") -> Recipe:
    """How to add a difference: as its entry states, else as its authors do, else with zeros at new tokens.

    Args:
        hub_id: Hub id of the difference; "" for a folder, which is recognised by `name`.
        name: name of the tuned model.
        new_rows: value from its entry (`model_table.Entry`).
    """
    recipe = RECIPES.get(hub_id or _HUB_IDS.get(name, ""), Recipe())
    if not new_rows or new_rows == recipe.new_rows:
        return recipe
    return Recipe("mean" if new_rows == "mean" else "zero")


def add(
    base: Mapping[str, Any], delta: Mapping[str, Any], name: str, vocabulary: int, new_rows: NewRows = "zero"
) -> dict[str, Any]:
    """Base + difference: the tuned model's tensors, each added in float32 when it is read.

    Args:
        base: from `weights.read`.
        delta: from `weights.read`, with the names of the base; buffers may differ.
        name: name of the tuned model, for messages.
        vocabulary: its vocabulary size. Embeddings and head may have rows that the base lacks, for tokens added in
            tuning (Alpaca, StableVicuna and Vicuna v0 add a pad token).
        new_rows: the base's value in those rows: "zero", or "mean", the mean of its own rows.

    Raises:
        ValueError: if a tensor is in only one of the two, or has another shape.

    Source: apply_delta.py of FastChat (lm-sys) and of CarperAI/stable-vicuna-13b-delta, which add in float16;
        weight_diff.py of tatsu-lab/stanford_alpaca, which adds in float32. Here the sum is float32 and is rounded once,
        to the precision that the model is loaded in.
    """
    base_keys, delta_keys = ({key for key in tensors if not is_buffer(key)} for tensors in (base, delta))
    for key in sorted(base_keys ^ delta_keys):
        place = "the base, but not in the difference" if key in base_keys else "the difference, but not in the base"
        raise ValueError(f"{name}: {key} is in {place}; give the base that its authors name.")
    for key in sorted(base_keys):
        base_shape, delta_shape = shape_of(base[key]), shape_of(delta[key])
        is_longer = len(delta_shape) == 2 and delta_shape[0] == vocabulary > base_shape[0]
        if base_shape != delta_shape and not (is_longer and base_shape[1:] == delta_shape[1:]):
            raise ValueError(
                f"{name}: {key} has the shape {delta_shape} in the difference, {base_shape} in the base; give the base "
                "that its authors name."
            )
    return {key: Sum(base[key], delta[key], new_rows) for key in sorted(base_keys)}


class Sum:
    """A tensor of base + difference. Reading it holds the sum and one of the two in memory.

    Attributes:
        total: float32 sum of its elements, set when it is read.
    """

    def __init__(self, base: Any, delta: Any, new_rows: NewRows = "zero") -> None:
        self.base, self.delta, self.new_rows = base, delta, new_rows
        self.total: Any = None

    def __getitem__(self, index: Any) -> Any:
        import torch

        values = torch.zeros(self.get_shape(), dtype=torch.float32)
        flat = values.view(-1)  # rows that the base lacks are the last
        for tensor in (self.delta, self.base):
            elements = tensor[...].reshape(-1)
            for start in range(0, len(elements), _BLOCK):
                block = elements[start : start + _BLOCK]
                flat[start : start + len(block)] += block
        if self.new_rows == "mean" and math.prod(shape_of(self.base)) < flat.numel():
            values[shape_of(self.base)[0] :] += self.base[...].float().mean(dim=0, keepdim=True)
        self.total = values.sum()
        return values[index]

    def get_shape(self) -> tuple[int, ...]:
        """Shape of the sum."""
        return shape_of(self.delta)

    def get_dtype(self) -> str:
        """The safetensors name of the sum's type."""
        return "F32"


# --- the checksum that the authors state ------------------------------------------------------------------------------

# Tensors of a block, in the order of transformers 4.28's state dict, which included rotary frequencies until 4.32.
_BLOCK_ORDER = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "self_attn.rotary_emb.inv_freq",
    "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj", "input_layernorm", "post_attention_layernorm",
)  # fmt: skip
_ROPE_THETA = 10000.0  # of LLaMA 1


def total(tensors: Mapping[str, Sum], head_width: int) -> float:
    """The float32 sum over all elements of a LLaMA, computed as Alpaca's authors do: tensor by tensor, in their order.

    Args:
        tensors: from `add`; tensors that have not been read yet are read now.
        head_width: width of an attention head, for the rotary frequencies, which are no longer stored.
    """
    import torch

    exponents = torch.arange(0, head_width, 2).float() / head_width
    frequency_sum = (1.0 / _ROPE_THETA**exponents).sum()
    blocks = {key.split(".")[2] for key in tensors if key.startswith("model.layers.")}
    sums: dict[str, Any] = {f"model.layers.{block}.self_attn.rotary_emb.inv_freq": frequency_sum for block in blocks}
    for key, tensor in tensors.items():
        if tensor.total is None:
            tensor[...]
        sums[key] = tensor.total
    return float(sum((sums[key] for key in sorted(sums, key=_position)), torch.zeros(())))


def _position(key: str) -> tuple[int, int, int]:
    """Sort key of a tensor in the state dict: embeddings, block by block, final norm, head."""
    if not key.startswith("model.layers."):
        return (2 if key == "model.norm.weight" else 3 if key == "lm_head.weight" else 0), 0, 0
    _, _, block, rest = key.split(".", 3)
    order = next((index for index, stem in enumerate(_BLOCK_ORDER) if rest.startswith(stem)), len(_BLOCK_ORDER))
    return 1, int(block), order


def require_total(tensors: Mapping[str, Sum], stated: float, head_width: int, name: str) -> None:
    """Raise ValueError if the sum over all elements is not the one that the authors of a difference state.

    Source: recover() of weight_diff.py, tatsu-lab/stanford_alpaca.
    """
    actual = total(tensors, head_width)
    if abs(actual - stated) > TOLERANCE:
        raise ValueError(
            f"{name}: the sum over all its weights is {actual:.4f}, its authors state {stated} within {TOLERANCE}: the "
            "base or the difference is not the one that they used; copy both again."
        )
