"""A base and the difference that makes it a tuned model -> the tuned model's tensors, each added when it is asked for.

LLaMA's licence allowed no tuned copies, so that Alpaca, Vicuna and StableVicuna were published as differences to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.checkpoints.headers import is_buffer
from harness.checkpoints.weights import shape_of

NewRows = Literal["zero", "mean"]
# Numbers that are added at once: a sum of two precisions makes a float32 copy of what it adds.
_BLOCK = 2**20


@dataclass(frozen=True)
class Recipe:
    """How the authors of a difference add it.

    new_rows: what the base counts as at tokens that tuning added. total: the float32 sum of all tensors of the tuned
    model that they state, to within `TOLERANCE`; None where they state none.
    """

    new_rows: NewRows = "zero"
    total: float | None = None


TOLERANCE = 0.01
# By the Hub's name of the difference.
RECIPES = {
    # weight_diff.py of tatsu-lab/stanford_alpaca: smart_tokenizer_and_embedding_resize gives [PAD] the mean of the
    # base's rows; recover() compares the sum of all tensors of the state dict with 50637.1836, atol .01.
    "tatsu-lab/alpaca-7b-wdiff": Recipe("mean", 50637.1836),
    # apply_delta.py of FastChat and of CarperAI: the rows of [PAD] are set to 0 before adding.
    "CarperAI/stable-vicuna-13b-delta": Recipe("zero"),
    "lmsys/vicuna-7b-delta-v0": Recipe("zero"),
    "lmsys/vicuna-13b-delta-v0": Recipe("zero"),
}


# A copy of one of these in a folder, under its name in the table.
_NAMES = {"alpaca-7b": "tatsu-lab/alpaca-7b-wdiff", "stable-vicuna-13b": "CarperAI/stable-vicuna-13b-delta"}


def recipe_of(hub_id: str, name: str = "", new_rows: str = "") -> Recipe:
    """How a difference is added: as its entry says, else as its authors do, else with zeros at new tokens.

    Args:
        hub_id: of the difference; "" of a folder, which its name tells.
        name: of the tuned model.
        new_rows: of its entry (`models.Entry`).
    """
    known = RECIPES.get(hub_id or _NAMES.get(name, ""), Recipe())
    return known if not new_rows or new_rows == known.new_rows else Recipe("mean" if new_rows == "mean" else "zero")


def added(
    base: Mapping[str, Any], delta: Mapping[str, Any], name: str, vocabulary: int, new_rows: NewRows = "zero"
) -> dict[str, Any]:
    """Base + difference: the tuned model, tensor by tensor, each added in float32 when it is asked for.

    Args:
        base: of `weights.read`.
        delta: of `weights.read`, with the names of the base; buffers may differ.
        name: of the tuned model, for messages.
        vocabulary: of its configuration. Embeddings and head may have rows that the base lacks, of tokens added in
            tuning (Alpaca, StableVicuna and Vicuna v0 add a pad token).
        new_rows: what the base counts as in those rows: "zero", or "mean", the mean of its own rows.

    Raises:
        ValueError: if one has a tensor that the other lacks, or of another shape; the message names it.

    Source: apply_delta.py of FastChat (lm-sys) and of CarperAI/stable-vicuna-13b-delta, which add in float16;
        weight_diff.py of tatsu-lab/stanford_alpaca, which adds in float32. Here the sum is float32 and is rounded once,
        to the precision that the model is loaded in.
    """
    ours, theirs = ({key for key in tensors if not is_buffer(key)} for tensors in (base, delta))
    for key in sorted(ours ^ theirs):
        where = "the base, but not in the difference" if key in ours else "the difference, but not in the base"
        raise ValueError(f"{name}: {key} is in {where}; give the base that its authors name.")
    for key in sorted(ours):
        has, wants = shape_of(base[key]), shape_of(delta[key])
        more_rows = len(wants) == 2 and wants[0] == vocabulary > has[0] and has[1:] == wants[1:]
        if has != wants and not more_rows:
            raise ValueError(
                f"{name}: {key} has the shape {wants} in the difference, {has} in the base; give the base that its "
                "authors name."
            )
    return {key: Sum(base[key], delta[key], new_rows) for key in sorted(ours)}


class Sum:
    """A tensor of a base and its difference. While it is read, the sum and one of the two are in memory.

    total: the float32 sum of its numbers, known once it was read.
    """

    def __init__(self, base: Any, delta: Any, new_rows: NewRows = "zero") -> None:
        self.base, self.delta, self.new_rows = base, delta, new_rows
        self.total: Any = None

    def __getitem__(self, where: Any) -> Any:
        import torch

        values = torch.zeros(self.get_shape(), dtype=torch.float32)
        flat = values.view(-1)  # rows that the base lacks are the last
        n_own = 1
        for size in shape_of(self.base):
            n_own *= size
        for part in (self.delta, self.base):
            numbers = part[...].reshape(-1)
            for start in range(0, len(numbers), _BLOCK):
                block = numbers[start : start + _BLOCK]
                flat[start : start + len(block)] += block
        if self.new_rows == "mean" and n_own < flat.numel():
            values[shape_of(self.base)[0] :] += self.base[...].float().mean(dim=0, keepdim=True)
        self.total = values.sum()
        return values[where]

    def get_shape(self) -> tuple[int, ...]:
        """Of the sum."""
        return shape_of(self.delta)

    def get_dtype(self) -> str:
        """Of the sum, by the name that safetensors gives it."""
        return "F32"


# --- the sum that its authors state -----------------------------------------------------------------------------------

# Of a block, in the order of the state dict of transformers 4.28; rotary frequencies were part of it until 4.32.
_IN_A_BLOCK = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "self_attn.rotary_emb.inv_freq",
    "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj", "input_layernorm", "post_attention_layernorm",
)  # fmt: skip
_ROPE_THETA = 10000.0  # of LLaMA 1


def total(tensors: Mapping[str, Sum], head_width: int) -> float:
    """The float32 sum of all numbers of a LLaMA, as Alpaca's authors take it: tensor by tensor, in their order.

    Args:
        tensors: of `added`; one that was not read yet is read now.
        head_width: of an attention head, for the rotary frequencies, which are computed and not stored today.
    """
    import torch

    steps = torch.arange(0, head_width, 2).float() / head_width
    frequencies = (1.0 / _ROPE_THETA**steps).sum()
    blocks = {key.split(".")[2] for key in tensors if key.startswith("model.layers.")}
    sums: dict[str, Any] = {f"model.layers.{k}.self_attn.rotary_emb.inv_freq": frequencies for k in blocks}
    for key, tensor in tensors.items():
        if tensor.total is None:
            tensor[...]
        sums[key] = tensor.total
    return float(sum((sums[key] for key in sorted(sums, key=_place)), torch.zeros(())))


def _place(key: str) -> tuple[int, int, int]:
    """Where a tensor stands in the state dict: embeddings, block by block, final norm, head."""
    if not key.startswith("model.layers."):
        return (2 if key == "model.norm.weight" else 3 if key == "lm_head.weight" else 0), 0, 0
    _, _, block, part = key.split(".", 3)
    return 1, int(block), next((k for k, stem in enumerate(_IN_A_BLOCK) if part.startswith(stem)), len(_IN_A_BLOCK))


def require_total(tensors: Mapping[str, Sum], stated: float, head_width: int, name: str) -> None:
    """Raise ValueError where the sum of all numbers is not the one that the authors of a difference state.

    Source: recover() of weight_diff.py, tatsu-lab/stanford_alpaca.
    """
    found = total(tensors, head_width)
    if abs(found - stated) > TOLERANCE:
        raise ValueError(
            f"{name}: the sum of all its numbers is {found:.4f}, its authors state {stated} within {TOLERANCE}: the "
            "base or the difference is not the one that they used; copy both again."
        )
