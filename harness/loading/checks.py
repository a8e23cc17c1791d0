"""What a loaded model must be before it reads: whole, finite, with its own tokenizer, and causal if it is a decoder.

transformers draws weights that a file lacks at random and says so in a log, and takes stored whole numbers for weights;
here each of these is an error.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from harness.checkpoints import quantization
from harness.checkpoints.headers import is_buffer
from harness.checkpoints.weights import dtype_of, shape_of
from harness.loading.blocks import call, n_embeddings

# Types of stored numbers that can be weights, by their safetensors names.
_IS_REAL = re.compile(r"^(F64|F32|F16|BF16|F8_(E4M3|E5M2)(FNUZ)?)$|^FLOAT")
_BLOCK = re.compile(r"^(.*?\.?(?:layers|layer|h|block|blocks)\.\d+)\.")
_OF_A_BLOCK = re.compile(r"\.(layers|layer|h|block|blocks)\.(\d+)\.")
# Embeddings are padded to round numbers, by a percent or two; a tokenizer of under half of them is another model's.
MIN_VOCABULARY_SHARE, MAX_VOCABULARY_SHARE = 0.5, 1.02
# Largest change of an earlier position's logits in a causal stack, by the largest logit: none where
# kernels sum in one order, a few roundings elsewhere. Bidirectional stacks change by a quarter and more.
CAUSAL_SHARE, CAUSAL_ROUNDINGS = 1e-5, 4
# LLM.int8() keeps the columns of outliers apart, and which these are depends on every token of the batch.
CAUSAL_SHARE_INT8 = 0.05


def require_sound_tensors(tensors: Mapping[str, Any], skeleton: Any, settings: Mapping[str, Any]) -> None:
    """Raise where a stored tensor cannot be a weight of this model; none is read.

    Args:
        tensors: of `weights.read`.
        skeleton: the model on the meta device.
        settings: `quantization.stated` of its configuration: quantised weights may be whole numbers.

    Raises:
        ValueError: if weights are whole numbers, truth values or complex; or if one has more numbers than the model.
    """
    weights = dict(skeleton.named_parameters())
    attributes = {key.rpartition(".")[2] for key in weights}
    n_numbers = sum(each.numel() for each in (*weights.values(), *skeleton.buffers()))  # buffers are stored too
    for key, tensor in tensors.items():
        n_own = 1
        for size in shape_of(tensor):
            n_own *= size
        if n_own > max(n_numbers, 1):
            raise ValueError(
                f"{key} has the shape {shape_of(tensor)}, more numbers than the whole model that config.json describes "
                f"({n_numbers}); copy the checkpoint again"
            )
    odd = [
        key for key, tensor in tensors.items()
        if key.rpartition(".")[2] in attributes and not is_buffer(key) and not _IS_REAL.match(dtype_of(tensor))
    ]  # fmt: skip
    if odd and not settings:
        raise ValueError(
            f"{len(odd)} weights are no real numbers, the first is {odd[0]}, stored as {dtype_of(tensors[odd[0]])}, "
            "and config.json states no quantization_config; copy the checkpoint again, or give the one before "
            "quantisation"
        )


def require_quantised(tensors: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise where config.json states a quantisation and no weight is quantised, for the methods that cannot tell.

    FP8 and MXFP4 can: transformers loads ordinary weights as they are.
    """
    method = quantization.method_of(settings)
    if quantization.METHODS[method].modules and not any(quantization.is_part(key) for key in tensors):
        raise ValueError(
            f"config.json states that the weights are quantised by {method}, and none of them is; remove "
            "quantization_config from config.json, or copy the quantised weights"
        )


def require_whole_blocks(tensors: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise where weights in FP8 are no whole number of blocks, which transformers dequantises by wrong scales.

    It takes the height of a block to be the weight's over the scales': 192 rows in blocks of 128 have two scales, and
    each would be used for 96.

    Source: Fp8Dequantize of transformers 5.19 (integrations/finegrained_fp8.py).
    """
    block = settings.get("weight_block_size")
    if quantization.method_of(settings) not in {"fp8", "mxfp8"} or not block:
        return
    for key, scales in tensors.items():
        weight = tensors.get(key.removesuffix("_scale_inv"))
        if not key.endswith("_scale_inv") or weight is None or len(shape_of(scales)) < 2:
            continue
        for size, n_scales, wanted in zip(shape_of(weight)[-2:], shape_of(scales)[-2:], block, strict=True):
            if n_scales > 1 and size != n_scales * wanted:
                raise ValueError(
                    f"{key.removesuffix('_scale_inv')} has the shape {shape_of(weight)}, no whole number of blocks of "
                    f"{block[0]} x {block[1]}, which this version of transformers dequantises wrongly; give the "
                    "checkpoint before quantisation"
                )


def without_tables(keys: Iterable[str], tensors: Mapping[str, Any]) -> list[str]:
    """Drop the names of integer and boolean tensors that are not quantised weights: masks and lookup tables."""
    return [
        key for key in keys
        if key not in tensors or _IS_REAL.match(dtype_of(tensors[key])) or quantization.is_part(key)
    ]  # fmt: skip


def require_own_weights(found: dict[str, Any], read: str, config: Any) -> None:
    """Raise where a weight is absent, of another shape, or of a block that the configuration lacks.

    Args:
        found: loading_info of transformers: missing_keys, mismatched_keys, unexpected_keys.
        read: how the names of the weights begin that are read; others may be absent (the head of an encoder).
        config: of the model: its blocks, and the blocks for multi-token prediction after them, which are not loaded.
    """
    blocks = [
        key for key in found["unexpected_keys"]
        if (place := _OF_A_BLOCK.search(key)) and not is_buffer(key) and not _is_mtp_block(int(place[2]), config)
    ]  # fmt: skip
    quantised = [key for key in blocks if quantization.is_part(key)]
    _refuse("are parts of quantised weights that config.json states no quantization_config for", sorted(quantised))
    missing = sorted(key for key in found["missing_keys"] if key.startswith(read))
    others = sorted(key for key in found["unexpected_keys"] if not is_buffer(key))
    if missing and others:
        raise ValueError(
            f"{len(missing)} weights are missing in the file, the first is {missing[0]}; it holds {len(others)} of "
            f"other names, the first is {others[0]}; save the model again with save_pretrained"
        )
    _refuse("are missing in the file", missing)
    _refuse("have another shape than config.json says", sorted(str(key) for key in found["mismatched_keys"]))
    own = [key for key in blocks if int(_OF_A_BLOCK.search(key)[2]) < _n_blocks(config)]  # type: ignore[index]
    _refuse("of its blocks have no place in the model that config.json describes", sorted(own))
    _refuse("are of blocks that config.json does not have", sorted(blocks))


def _n_blocks(config: Any) -> int:
    """Number of blocks of a configuration's text part; 0 if not stated."""
    return getattr(config.get_text_config(), "num_hidden_layers", 0) or 0


def _is_mtp_block(block: int, config: Any) -> bool:
    """Whether a block is for multi-token prediction (DeepSeek-V3, GLM-4.5): such blocks follow those of the model."""
    return 0 <= block - _n_blocks(config) < (getattr(config, "num_nextn_predict_layers", 0) or 0)


def require_sound_model(model: Any) -> None:
    """Raise where weights are NaN or infinite, or all zero where no training leaves them so.

    All zero are refused: the embeddings, the head, all matrices of a block, and more than half of all matrices. Zero
    biases, norms that are offsets (Gemma), adapters that begin at zero and single matrices of a block are not.

    The extremes tell, in one pass and without a copy of the weight.
    """
    odd, is_zero = [], {}
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.numel() and type(weight.data) is torch.Tensor:
            low, high = torch.aminmax(weight.detach())
            if not (torch.isfinite(low) and torch.isfinite(high)):
                odd.append(name)
            if weight.ndim > 1:
                is_zero[name] = bool(low == 0) and bool(high == 0)
    _refuse("are not finite", odd)
    if empty := [name for name, zero in is_zero.items() if zero]:
        _require_not_empty(model, empty, is_zero)


def _require_not_empty(model: Any, empty: list[str], is_zero: Mapping[str, bool]) -> None:
    ends = {id(layer.weight) for layer in (model.get_input_embeddings(), _head(model)) if hasattr(layer, "weight")}
    named = dict(model.named_parameters(remove_duplicate=False))
    _refuse("are all zero", [name for name in empty if id(named[name]) in ends])
    blocks: defaultdict[str, list[str]] = defaultdict(list)
    for name in is_zero:
        if block := _BLOCK.match(name):
            blocks[block[1]].append(name)
    for names in blocks.values():
        if all(is_zero[name] for name in names):
            _refuse("are all zero, all those of a block", names)
    if 2 * len(empty) > len(is_zero):
        _refuse(f"of {len(is_zero)} are all zero", empty)


def _head(model: Any) -> Any:
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


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
