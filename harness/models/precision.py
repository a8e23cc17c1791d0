"""Choose the precision of a model's weights from its family and size.

float32 where affordable, bfloat16 above. The choice depends on the model alone, never on the machine: precision is part
of a unit's key, so a run on other hardware must find what an earlier run stored.

This is the precision of weights and of hidden states between blocks. transformers itself computes
Llama-style norms and the softmax of eager attention in float32. Pooled features and
log-probabilities are always float32 (rounding them to bfloat16 alone moves a neuroid's r by up to 0.13).
"""

from __future__ import annotations

from typing import get_args

from harness.protocol import AskedDtype, Dtype

# float32 up to this size: 12 GB at most, exact, and no family overflows. Above it bfloat16: half the memory at the
# range of float32 (T5 and Gemma overflow float16, but not bfloat16), with 1 % relative error in the last layer,
# cosine 0.99995, surprisal 0.004 nats.
FLOAT32_PARAMETERS = 3e9

_T5 = (
    "its feed-forward output exceeds 65504, float16's largest number (66246 in t5-base: huggingface/transformers issue "
    "5651); it was trained in bfloat16 (google-research/text-to-text-transfer-transformer issue 539)"
)
_GEMMA = (
    "its activations exceed 65504, float16's largest number (huggingface/transformers issue 36822 and pull request "
    "36832; vLLM refuses it likewise, vllm/config/model.py)"
)
_VLLM = "it is numerically unstable there (vllm/config/model.py)"
# Families (model_type) that cannot run in float16, and the evidence.
FLOAT16_OVERFLOWS = {
    "t5": _T5, "mt5": _T5, "umt5": _T5, "longt5": _T5, "switch_transformers": _T5,
    "gemma2": _GEMMA, "gemma3": _GEMMA, "gemma3_text": _GEMMA, "gemma3n": _GEMMA, "gemma3n_text": _GEMMA,
    "t5gemma": _GEMMA,
    "glm4": _VLLM, "plamo2": _VLLM,
}  # fmt: skip


def dtype_of(family: str, stack: str, n_parameters: float, asked: AskedDtype = "auto") -> Dtype:
    """Return the precision in which a model runs.

    Args:
        family: model_type of its configuration.
        stack: "decoder", "encoder-decoder" or "encoder"; used in the error message.
        n_parameters: counted or nominal; 0 (unknown) counts as small.
        asked: a precision, or "auto" for the choice by size.

    Raises:
        ValueError: if `asked` is unknown, or is float16 for a family that overflows in it.
    """
    if asked == "auto":
        return "float32" if n_parameters <= FLOAT32_PARAMETERS else "bfloat16"
    if asked not in get_args(AskedDtype):
        raise ValueError(f"precision {asked!r} is none of {', '.join(get_args(AskedDtype))}.")
    if asked == "float16" and family in FLOAT16_OVERFLOWS:
        raise ValueError(
            f"{family!r} ({stack}) does not run in float16: {FLOAT16_OVERFLOWS[family]}. Use bfloat16, which has the "
            "range of float32 in the same memory, or float32."
        )
    return asked
