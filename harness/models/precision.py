"""A model's family and size -> the precision of its weights.

float32 where it is affordable, bfloat16 above. The choice looks at the model alone, never at the machine: precision is
part of a unit's key, and a run on another card must find what this one stored.

This is the precision of weights and of what flows between blocks. What must be wider inside a block is wider in
transformers already: norms of the Llama kind and softmax of eager attention compute in float32. Pooled features and
log-probabilities are float32 whatever stands here (bf16 rounding alone moves a neuroid's r by up to .13).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from harness.protocol import AskedDtype, Dtype


@dataclass(frozen=True)
class PrecisionRule:
    """Models of up to so many parameters are read in this precision, and why."""

    n_parameters: float
    dtype: Dtype
    why: str


POLICY = (
    PrecisionRule(3e9, "float32", "12 GB at most: exact, and no family overflows"),
    PrecisionRule(float("inf"), "bfloat16", "half the memory at the range of float32: 1 % relative error in the last "
                  "layer, cosine .99995, surprisal .004 nats; T5 and Gemma, which leave float16's range, stay in it"),
)  # fmt: skip

_T5 = (
    "its feed-forward output passes 65504, float16's largest number (66246 in t5-base: huggingface/transformers issue "
    "5651); it was trained in bfloat16 (google-research/text-to-text-transfer-transformer issue 539)"
)
_GEMMA = (
    "its activations pass 65504, float16's largest number (huggingface/transformers issue 36822 and pull request "
    "36832; vLLM refuses it likewise, vllm/config/model.py)"
)
_VLLM = "it is numerically unstable there (vllm/config/model.py)"
# Families (model_type) that cannot be read in float16, and how that is known.
FLOAT16_OVERFLOWS = {
    "t5": _T5, "mt5": _T5, "umt5": _T5, "longt5": _T5, "switch_transformers": _T5,
    "gemma2": _GEMMA, "gemma3": _GEMMA, "gemma3_text": _GEMMA, "gemma3n": _GEMMA, "gemma3n_text": _GEMMA,
    "t5gemma": _GEMMA,
    "glm4": _VLLM, "plamo2": _VLLM,
}  # fmt: skip


def dtype_of(family: str, stack: str, n_parameters: float, asked: AskedDtype = "auto") -> Dtype:
    """The precision in which a model is read.

    Args:
        family: model_type of its configuration.
        stack: "decoder", "encoder-decoder" or "encoder"; named in the message.
        n_parameters: of its checkpoint, or nominal; 0 (not known) counts as small.
        asked: a precision, or "auto" for the policy.

    Raises:
        ValueError: if what was asked for is no precision, or is float16 for a family that overflows in it.
    """
    if asked == "auto":
        return next(rule.dtype for rule in POLICY if n_parameters <= rule.n_parameters)
    if asked not in get_args(AskedDtype):
        raise ValueError(f"precision {asked!r} is none of {', '.join(get_args(AskedDtype))}.")
    if asked == "float16" and family in FLOAT16_OVERFLOWS:
        raise ValueError(
            f"{family!r} ({stack}) is not read in float16: {FLOAT16_OVERFLOWS[family]}. Use bfloat16, which has the "
            "range of float32 in the same memory, or float32."
        )
    return asked
