"""Load a checkpoint's trained weights: every weight comes from its files, or the model is refused.

Differences are added and quantised weights dequantised during loading; adapters are merged at the end. Each tensor is
read once, directly onto its device.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.checkpoints import adapter_config, quantization, weights
from harness.checkpoints.checkpoints import Checkpoint
from harness.checkpoints.headers import weight_files
from harness.loading import adapters, checks, deltas
from harness.loading.architectures import Architecture, torch_dtype
from harness.protocol import Dtype


def load(
    architecture: Architecture, meta_model: Any, checkpoint: Checkpoint, dtype: Dtype,
    device_by_module: Mapping[str, str], allow_pickle: bool = False,
) -> Any:  # fmt: skip
    """Load the trained model of a checkpoint.

    Args:
        architecture: architecture of the checkpoint (for an adapter, its base's).
        meta_model: the model on the meta device.
        checkpoint: resolved, with its weights on this machine.
        dtype: precision of the weights. Quantised weights are dequantised to it where transformers can.
        device_by_module: module path -> device; {"": device} for a single device.
        allow_pickle: whether to read pickled weights where there are no safetensors.

    Returns:
        The transformers model in `dtype`; for an encoder its stack without the head.

    Raises:
        FileNotFoundError: if weight files are missing.
        ValueError: if weights are damaged, missing, integers, not finite, all zero or have another shape; if a library
            is not installed; or if an adapter does not fit.
    """
    name, folder = checkpoint.name, Path(checkpoint.folder)
    if checkpoint.adapter and dtype == "int8":
        raise ValueError(f"{name}: an adapter cannot be merged into int8 weights; use bfloat16.")
    settings = quantization.settings_of(architecture.config.to_dict())
    if settings and not _quantization_method(checkpoint, dtype, settings).dequantises:
        weight_files(folder, name)  # raises if files are missing or damaged
        model = _build(
            architecture, str(folder), dtype, device_by_module, {"use_safetensors": True, "local_files_only": True}
        )
    else:
        tensors, adapter = _tensors(architecture, checkpoint, allow_pickle)
        prefix = architecture.model_class.base_model_prefix
        tensors = weights.without_holder(tensors, meta_model.state_dict().keys(), prefix)
        checks.require_sound_tensors(tensors, meta_model, settings)
        if settings:
            checks.require_quantised(tensors, settings)
            checks.require_whole_blocks(tensors, settings)
            architecture.config.quantization_config = {**settings, "dequantize": True}
        how = {"state_dict": tensors, "ignore_mismatched_sizes": True}
        model = _build(architecture, None, dtype, device_by_module, how)
        if settings:
            _dequantise(model, dtype)
        if isinstance(next(iter(tensors.values()), None), deltas.Sum):
            _require_total(architecture, checkpoint, tensors)
        model = adapters.merge(model, folder, adapter, name) if adapter else model
    model = model.base_model if _has_unused_head(architecture, model) else model
    checks.require_sound_model(model)
    return model.eval()


def _tensors(
    architecture: Architecture, checkpoint: Checkpoint, allow_pickle: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's tensors, read on access, and those of an adapter to merge, which are few and read at once."""
    name, folder = checkpoint.name, Path(checkpoint.folder)
    if checkpoint.adapter and checkpoint.base_folder:
        base = weights.read(Path(checkpoint.base_folder), name, allow_pickle)
        return base, adapters.read(folder, name, allow_pickle)
    tensors = weights.read(folder, name, allow_pickle)
    if checkpoint.base_folder:
        base = weights.read(Path(checkpoint.base_folder), name, allow_pickle)
        recipe = deltas.recipe_of(checkpoint.hub_id, checkpoint.name, checkpoint.new_rows)
        vocabulary = architecture.model_config.vocabulary
        return dict(deltas.add(base, tensors, name, vocabulary, recipe.new_rows)), {}
    if adapters.is_unmerged(tensors):
        base, adapter = adapters.split_unmerged(tensors, name)
        _require_adapter_config(tensors, folder, name)
        if adapter:
            return base, {key: tensor[...] for key, tensor in adapter.items()}
        tensors = base
    return tensors, adapters.read(folder, name, allow_pickle) if checkpoint.adapter else {}


def _require_adapter_config(tensors: Mapping[str, Any], folder: Path, name: str) -> None:
    """Raise if a checkpoint was saved with an unmerged adapter and no file states how to merge it."""
    key = adapters.first_adapter_key(tensors)
    if key and not adapter_config.is_adapter(folder):
        raise ValueError(
            f"{name}: it was saved before its adapter was merged ({key}), and its folder has no "
            f"{adapter_config.CONFIG} that states the adapter's scaling; put that file (and the adapter's weights) "
            "into the folder, or merge the adapter with merge_and_unload() and save the model again."
        )


def _quantization_method(
    checkpoint: Checkpoint, dtype: Dtype, settings: Mapping[str, Any]
) -> quantization.QuantizationMethod:
    """How to load quantised weights. Raise if something else would also have to change or quantise them."""
    method = quantization.require_loadable(checkpoint.name, settings)
    label = quantization.method_of(settings)
    if dtype == "int8":
        raise ValueError(f"{checkpoint.name}: its weights are already quantised by {label}; use bfloat16.")
    if checkpoint.base_folder and not checkpoint.adapter:
        raise ValueError(f"{checkpoint.name}: a difference whose weights are quantised by {label} cannot be added.")
    if checkpoint.adapter and not method.dequantises:
        raise ValueError(
            f"{checkpoint.name}: an adapter cannot be merged into weights that are quantised by {label}; name the base "
            "before quantisation (delta_of in a file of models)."
        )
    return method


def under_stored_names(model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors under the names and in the parts in which the model's files hold them.

    transformers renames some weights, and stacks those of experts, when it loads them. Other programs, and earlier
    versions of it, look for the stored names; what is missing they refuse, or initialise at random.

    Args:
        model: a transformers model, as `load` returns it.
        tensors: its weights, by their names in the model.
    """
    from transformers.core_model_loading import revert_weight_conversion

    stored = revert_weight_conversion(model, dict(tensors))
    # Parts of a stack share its memory, which safetensors does not accept.
    return {
        name: tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in stored.items()
    }


def _build(
    architecture: Architecture, folder: str | None, dtype: Dtype, device_by_module: Mapping[str, str],
    how: Mapping[str, Any],
) -> Any:  # fmt: skip
    """Build the transformers model, from a folder or from `state_dict` in `how`; every weight must be there."""
    model, loading_info = architecture.model_class.from_pretrained(
        folder, config=architecture.config, dtype=torch_dtype(dtype), output_loading_info=True, **how,
        **_options(dtype, device_by_module),
    )  # fmt: skip
    prefix = f"{model.base_model_prefix}." if _has_unused_head(architecture, model) else ""
    unexpected = checks.without_tables(loading_info["unexpected_keys"], how.get("state_dict", {}))
    checks.require_own_weights({**loading_info, "unexpected_keys": unexpected}, prefix, architecture.config)
    return model


def _dequantise(model: Any, dtype: Dtype) -> None:
    """Convert weights that the quantiser left as stored or in its own precision; not those a family keeps in float32.

    Only weights: rotary frequencies are buffers, and float32 in every precision.
    """
    if getattr(model, "hf_quantizer", None):
        model.dequantize()
    in_float32 = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    for key, weight in model.named_parameters():
        if weight.is_floating_point() and not in_float32 & set(key.split(".")):
            weight.data = weight.data.to(torch_dtype(dtype))


def _options(dtype: Dtype, device_by_module: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {} if device_by_module == {"": "cpu"} else {"device_map": dict(device_by_module)}
    if dtype == "int8":
        from transformers import BitsAndBytesConfig

        # It logs for every layer that bfloat16 is multiplied as float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    return options


def _has_unused_head(architecture: Architecture, model: Any) -> bool:
    """Whether the model is an encoder with a head."""
    return architecture.stack == "encoder" and model.base_model is not model


def _require_total(architecture: Architecture, checkpoint: Checkpoint, tensors: Mapping[str, Any]) -> None:
    recipe = deltas.recipe_of(checkpoint.hub_id, checkpoint.name, checkpoint.new_rows)
    if recipe.total is not None:
        config = architecture.config
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        deltas.require_total(tensors, recipe.total, head_width, checkpoint.name)
