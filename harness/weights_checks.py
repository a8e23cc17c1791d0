"""What a loaded model must be before it reads: whole, finite, with its own tokenizer, and causal if it is a decoder.

transformers draws weights that a file lacks at random and says so in a log; here each of these is an error.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from harness.blocks import call, n_embeddings
from harness.headers import is_buffer

_OF_A_BLOCK = re.compile(r"\.(layers|layer|h|block|blocks)\.\d+\.")
# Embeddings are padded to round numbers, by a percent or two; a tokenizer of under half of them is another model's.
MIN_VOCABULARY_SHARE, MAX_VOCABULARY_SHARE = 0.5, 1.02
# Largest change of an earlier position's logits in a causal stack, by the largest logit: none where
# kernels sum in one order, a few roundings elsewhere. Bidirectional stacks change by a quarter and more.
CAUSAL_SHARE, CAUSAL_ROUNDINGS = 1e-5, 4
# LLM.int8() keeps the columns of outliers apart, and which these are depends on every token of the batch.
CAUSAL_SHARE_INT8 = 0.05


def require_own_weights(found: dict[str, Any], read: str = "") -> None:
    """Raise where a weight is absent, of another shape, or of a block that the configuration lacks.

    Args:
        found: loading_info of transformers: missing_keys, mismatched_keys, unexpected_keys.
        read: how the names of the weights begin that are read; others may be absent (the head of an encoder).
    """
    blocks = [key for key in found["unexpected_keys"] if _OF_A_BLOCK.search(key) and not is_buffer(key)]
    odd = {
        "are missing in the file": [key for key in found["missing_keys"] if key.startswith(read)],
        "have another shape than config.json says": [str(key) for key in found["mismatched_keys"]],
        "are of blocks that config.json does not have": blocks,
    }
    for what, names in odd.items():
        _refuse(what, sorted(names))


def require_finite(model: Any) -> None:
    """Raise where a weight is NaN or infinite. The extremes tell, in one pass and without a copy of the weight."""
    odd = []
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.numel():
            low, high = torch.aminmax(weight.detach())
            if not (torch.isfinite(low) and torch.isfinite(high)):
                odd.append(name)
    _refuse("are not finite", odd)


def _refuse(what: str, names: list[str]) -> None:
    if names:
        raise ValueError(f"{len(names)} weights {what}, the first is {names[0]}; copy the checkpoint again")


def require_causal(name: str, model: Any, device: torch.device, dtype: str) -> None:
    """Raise where a decoder's probabilities of a text change with what comes after it, as an encoder's do."""
    one = torch.arange(4, 10, device=device)[None] % n_embeddings(model)
    other = one.clone()
    other[0, -1] = one[0, 0]
    with torch.inference_mode():
        before, after = (call(model, input_ids=ids, use_cache=False).logits[0, :-1].float() for ids in (one, other))
    if not torch.isfinite(before).all():
        raise ValueError(f"{name}: its logits are not finite in {dtype}; use bfloat16 or float32.")
    allowed = max(CAUSAL_SHARE, CAUSAL_ROUNDINGS * torch.finfo(model.dtype).eps)
    allowed = CAUSAL_SHARE_INT8 if dtype == "int8" else allowed
    if float((before - after).abs().max()) > allowed * float(before.abs().max()):
        raise ValueError(f"{name}: {model.config.model_type!r} sees what is to come and is no encoder.")


def require_fit(name: str, tokenizer: Any, model: Any) -> None:
    """Raise where the tokenizer is another model's."""
    rows, n_tokens = n_embeddings(model), len(tokenizer.get_vocab())
    # A few special tokens past the end are common (Gemma 3 has one) and stand in no plain text.
    if not MIN_VOCABULARY_SHARE * rows <= n_tokens <= rows * MAX_VOCABULARY_SHARE:
        raise ValueError(
            f"{name}: the tokenizer does not fit the model: it has {n_tokens} tokens, the model {rows} embeddings. "
            "Put the model's own tokenizer into its folder."
        )
