"""Checks on a loaded model: complete, finite, with its own tokenizer, and causal if it is a decoder.

transformers initialises weights that a file lacks at random and only logs it, and accepts stored integers as weights;
here each of these is an error.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from harness.checkpoints import quantization
from harness.checkpoints.headers import is_buffer
from harness.checkpoints.weights import dtype_of, shape_of
from harness.loading.blocks import call, n_embeddings

# safetensors names of the types that weights can have.
_IS_FLOAT = re.compile(r"^(F64|F32|F16|BF16|F8_(E4M3|E5M2)(FNUZ)?)$|^FLOAT")
_BLOCK = re.compile(r"^(.*?\.?(?:layers|layer|h|block|blocks)\.\d+)\.")
_BLOCK_INDEX = re.compile(r"\.(layers|layer|h|block|blocks)\.(\d+)\.")
# Embeddings are padded to round numbers, by a percent or two; a tokenizer of under half of them is another model's.
MIN_VOCABULARY_FRACTION, MAX_VOCABULARY_FRACTION = 0.5, 1.02
# Largest allowed change of earlier logits in a causal stack, as a fraction of the largest logit: none where kernels
# sum in one order, a few roundings elsewhere. Bidirectional stacks change by a quarter and more.
CAUSAL_FRACTION, CAUSAL_ROUNDINGS = 1e-5, 4
# LLM.int8() treats outlier columns separately, and every token of the batch affects which columns these are.
CAUSAL_FRACTION_INT8 = 0.05


def require_sound_tensors(tensors: Mapping[str, Any], meta_model: Any, settings: Mapping[str, Any]) -> None:
    """Raise if a stored tensor cannot be a weight of this model. Checks headers only; no tensor is loaded.

    Args:
        tensors: from `weights.read`.
        meta_model: the model on the meta device.
        settings: `quantization.stated` of its configuration; quantised weights may be integers.

    Raises:
        ValueError: if weights are integers, booleans or complex, or if one has more elements than the whole model.
    """
    parameters = dict(meta_model.named_parameters())
    attributes = {key.rpartition(".")[2] for key in parameters}
    # Buffers are stored too.
    n_model_elements = sum(tensor.numel() for tensor in (*parameters.values(), *meta_model.buffers()))
    for key, tensor in tensors.items():
        if math.prod(shape_of(tensor)) > max(n_model_elements, 1):
            raise ValueError(
                f"{key} has the shape {shape_of(tensor)}, more elements than the whole model of config.json has "
                f"({n_model_elements}); copy the checkpoint again"
            )
    not_float = [
        key for key, tensor in tensors.items()
        if key.rpartition(".")[2] in attributes and not is_buffer(key) and not _IS_FLOAT.match(dtype_of(tensor))
    ]  # fmt: skip
    if not_float and not settings:
        raise ValueError(
            f"{len(not_float)} weights are not floating-point numbers, the first is {not_float[0]}, stored as "
            f"{dtype_of(tensors[not_float[0]])}, and config.json states no quantization_config; copy the checkpoint "
            "again, or give the one before quantisation"
        )


def require_quantised(tensors: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise if config.json states a quantisation but no weight is quantised.

    Not checked for FP8 and MXFP4, where transformers loads ordinary weights correctly.
    """
    method = quantization.method_of(settings)
    if quantization.METHODS[method].modules and not any(quantization.is_part(key) for key in tensors):
        raise ValueError(
            f"config.json states that the weights are quantised by {method}, and none of them is; remove "
            "quantization_config from config.json, or copy the quantised weights"
        )


def require_whole_blocks(tensors: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise if FP8 weights are not a whole number of blocks, which transformers dequantises with the wrong scales.

    It computes the height of a block as the weight's height over that of the scales: 192 rows in blocks of 128 have
    two scales, and each would be applied to 96 rows.

    Source: Fp8Dequantize of transformers 5.19 (integrations/finegrained_fp8.py).
    """
    block = settings.get("weight_block_size")
    if quantization.method_of(settings) not in {"fp8", "mxfp8"} or not block:
        return
    for key, scales in tensors.items():
        weight = tensors.get(key.removesuffix("_scale_inv"))
        if not key.endswith("_scale_inv") or weight is None or len(shape_of(scales)) < 2:
            continue
        for size, n_scales, block_size in zip(shape_of(weight)[-2:], shape_of(scales)[-2:], block, strict=True):
            if n_scales > 1 and size != n_scales * block_size:
                raise ValueError(
                    f"{key.removesuffix('_scale_inv')} has the shape {shape_of(weight)}, which is not a whole number "
                    f"of blocks of {block[0]} x {block[1]}; this version of transformers dequantises it wrongly; give "
                    "the checkpoint before quantisation"
                )


def without_tables(keys: Iterable[str], tensors: Mapping[str, Any]) -> list[str]:
    """Drop the names of integer and boolean tensors that are not quantised weights: masks and lookup tables."""
    return [
        key for key in keys
        if key not in tensors or _IS_FLOAT.match(dtype_of(tensors[key])) or quantization.is_part(key)
    ]  # fmt: skip


def require_own_weights(loading_info: dict[str, Any], prefix: str, config: Any) -> None:
    """Raise if a weight is missing, has another shape, or belongs to a block that the configuration does not have.

    Args:
        loading_info: from transformers: missing_keys, mismatched_keys, unexpected_keys.
        prefix: start of the names of the weights that are used; others may be missing (the head of an encoder).
        config: the model's configuration. Blocks for multi-token prediction after those of the model are allowed.
    """
    in_blocks = [
        key for key in loading_info["unexpected_keys"]
        if (match := _BLOCK_INDEX.search(key)) and not is_buffer(key) and not _is_mtp_block(int(match[2]), config)
    ]  # fmt: skip
    quantised = [key for key in in_blocks if quantization.is_part(key)]
    _refuse("are parts of quantised weights, but config.json states no quantization_config", sorted(quantised))
    missing = sorted(key for key in loading_info["missing_keys"] if key.startswith(prefix))
    others = sorted(key for key in loading_info["unexpected_keys"] if not is_buffer(key))
    if missing and others:
        raise ValueError(
            f"{len(missing)} weights are missing in the file, the first is {missing[0]}; it holds {len(others)} under "
            f"other names, the first is {others[0]}; save the model again with save_pretrained"
        )
    _refuse("are missing in the file", missing)
    _refuse("have another shape than config.json states", sorted(str(key) for key in loading_info["mismatched_keys"]))
    own = [key for key in in_blocks if int(_BLOCK_INDEX.search(key)[2]) < _n_blocks(config)]  # type: ignore[index]
    _refuse("of its blocks have no place in the model that config.json describes", sorted(own))
    _refuse("are of blocks that config.json does not have", sorted(in_blocks))


def _n_blocks(config: Any) -> int:
    """Number of blocks of a configuration's text part; 0 if not stated."""
    return getattr(config.get_text_config(), "num_hidden_layers", 0) or 0


def _is_mtp_block(block: int, config: Any) -> bool:
    """Whether a block is for multi-token prediction (DeepSeek-V3, GLM-4.5): such blocks follow those of the model."""
    return 0 <= block - _n_blocks(config) < (getattr(config, "num_nextn_predict_layers", 0) or 0)


def require_sound_model(model: Any) -> None:
    """Raise if weights are NaN or infinite, or are all zero where no training leaves them so.

    All zero is an error for the embeddings, the head, all matrices of a block, and more than half of all matrices.
    Zero is allowed for biases, norms that are offsets (Gemma), adapters that start at zero and single matrices.

    Minimum and maximum decide, which takes one pass and no copy of the weight.
    """
    not_finite, is_zero = [], {}
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.numel() and type(weight.data) is torch.Tensor:
            low, high = torch.aminmax(weight.detach())
            if not (torch.isfinite(low) and torch.isfinite(high)):
                not_finite.append(name)
            if weight.ndim > 1:
                is_zero[name] = bool(low == 0) and bool(high == 0)
    _refuse("are not finite", not_finite)
    if zero_names := [name for name, zero in is_zero.items() if zero]:
        _require_plausible_zeros(model, zero_names, is_zero)


def _require_plausible_zeros(model: Any, zero_names: list[str], is_zero: Mapping[str, bool]) -> None:
    ends = {
        id(layer.weight)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
        if hasattr(layer, "weight")
    }
    parameters = dict(model.named_parameters(remove_duplicate=False))
    _refuse("are all zero", [name for name in zero_names if id(parameters[name]) in ends])
    blocks: defaultdict[str, list[str]] = defaultdict(list)
    for name in is_zero:
        if block := _BLOCK.match(name):
            blocks[block[1]].append(name)
    for names in blocks.values():
        if all(is_zero[name] for name in names):
            _refuse("are all zero, which are all those of a block", names)
    if 2 * len(zero_names) > len(is_zero):
        _refuse(f"of {len(is_zero)} are all zero", zero_names)


def _refuse(problem: str, names: list[str]) -> None:
    if names:
        raise ValueError(f"{len(names)} weights {problem}, the first is {names[0]}; copy the checkpoint again")


def require_causal(name: str, model: Any, device: torch.device, dtype: str) -> None:
    """Raise if a decoder's next-token distributions depend on later tokens, as in an encoder."""
    ids = torch.arange(4, 10, device=device)[None] % n_embeddings(model)
    changed_ids = ids.clone()
    changed_ids[0, -1] = ids[0, 0]
    with torch.inference_mode():
        logits, changed_logits = (
            call(model, input_ids=sequence, use_cache=False).logits[0, :-1].float() for sequence in (ids, changed_ids)
        )
    if not torch.isfinite(logits).all():
        raise ValueError(f"{name}: its logits are not finite in {dtype}; use bfloat16 or float32.")
    allowed = max(CAUSAL_FRACTION, CAUSAL_ROUNDINGS * torch.finfo(model.dtype).eps)
    allowed = CAUSAL_FRACTION_INT8 if dtype == "int8" else allowed
    if float((logits - changed_logits).abs().max()) > allowed * float(logits.abs().max()):
        raise ValueError(
            f"{name}: {model.config.model_type!r} should be a decoder, but its predictions depend on later tokens; "
            "give a causal language model."
        )


def require_fit(name: str, tokenizer: Any, model: Any) -> None:
    """Raise if the tokenizer is another model's."""
    n_rows, n_tokens = n_embeddings(model), len(tokenizer.get_vocab())
    # A few special tokens past the end are common (Gemma 3 has one) and do not occur in plain text.
    if not MIN_VOCABULARY_FRACTION * n_rows <= n_tokens <= n_rows * MAX_VOCABULARY_FRACTION:
        raise ValueError(
            f"{name}: the tokenizer does not fit the model: it has {n_tokens} tokens, the model {n_rows} embeddings. "
            "Put the model's own tokenizer into its folder."
        )
