"""A checkpoint's files -> the trained model in memory: every weight comes from the files, or the model is refused.

Differences are added and quantised weights dequantised on the way; adapters are merged at the end. It is read once,
tensor by tensor, straight to where it stays.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.checkpoints import adapter_config, quantization, weights
from harness.checkpoints.checkpoints import Checkpoint
from harness.checkpoints.headers import weight_files
from harness.loading import adapter_tensors, adapters, checks, deltas
from harness.loading.architectures import Architecture, torch_dtype
from harness.protocol import Dtype


def load(
    architecture: Architecture,
    skeleton: Any,
    checkpoint: Checkpoint,
    dtype: Dtype,
    where: Mapping[str, str],
    allow_pickle: bool = False,
) -> Any:
    """Load the trained model of a checkpoint.

    Args:
        architecture: of the checkpoint (of an adapter, its base's).
        skeleton: the model on the meta device.
        checkpoint: resolved, its weights on this machine.
        dtype: precision of the weights. Quantised weights are dequantised to it where transformers can.
        where: path of a module -> device; {"": device} where there is one.
        allow_pickle: whether pickled weights are read where there are no safetensors.

    Returns:
        The model of transformers, in `dtype`; of an encoder its stack without the head.

    Raises:
        FileNotFoundError: if weights are absent.
        ValueError: if weights are damaged, missing, of another shape, whole numbers, not finite or all zero; if a
            library is not installed; or if an adapter does not fit.
    """
    name, folder = checkpoint.name, Path(checkpoint.folder)
    if checkpoint.adapter and dtype == "int8":
        raise ValueError(f"{name}: its adapter is not merged into weights in int8; use bfloat16.")
    settings = quantization.stated(architecture.config.to_dict())
    if settings:
        method = _require_plain(checkpoint, dtype, settings)
        if not method.dequantises:
            return _with_its_library(architecture, folder, name, dtype, where)
    tensors, adapter = _tensors(architecture, checkpoint, allow_pickle)
    prefix = architecture.model_class.base_model_prefix
    tensors = weights.without_holder(tensors, skeleton.state_dict().keys(), prefix)
    checks.require_sound_tensors(tensors, skeleton, settings)
    model = _built(architecture, tensors, dtype, where, settings)
    if isinstance(next(iter(tensors.values()), None), deltas.Sum):
        _require_total(architecture, checkpoint, tensors)
    if adapter:
        model = adapters.merged(model, folder, adapter, name)
    model = model.base_model if _has_head(architecture, model) else model
    checks.require_sound_model(model)
    return model.eval()


def _tensors(
    architecture: Architecture, checkpoint: Checkpoint, allow_pickle: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of the model, and those of an adapter that is to be merged into them; these are few, and read."""
    name, folder = checkpoint.name, Path(checkpoint.folder)
    if checkpoint.adapter and checkpoint.base_folder:
        base = weights.read(Path(checkpoint.base_folder), name, allow_pickle)
        return base, adapter_tensors.read(folder, name, allow_pickle)
    tensors = weights.read(folder, name, allow_pickle)
    if checkpoint.base_folder:
        base = weights.read(Path(checkpoint.base_folder), name, allow_pickle)
        recipe = deltas.recipe_of(checkpoint.hub_id, checkpoint.name, checkpoint.new_rows)
        vocabulary = architecture.described.vocabulary
        return dict(deltas.added(base, tensors, name, vocabulary, recipe.new_rows)), {}
    if adapter_tensors.is_unmerged(tensors):
        base, adapter = adapter_tensors.taken_apart(tensors, name)
        _require_stated(tensors, folder, name)
        if adapter:
            return base, {key: tensor[...] for key, tensor in adapter.items()}
        tensors = base
    return tensors, adapter_tensors.read(folder, name, allow_pickle) if checkpoint.adapter else {}


def _require_stated(tensors: Mapping[str, Any], folder: Path, name: str) -> None:
    """Raise where a checkpoint was saved with its adapter apart, and no file states how to merge it."""
    apart = adapter_tensors.first_apart(tensors)
    if apart and not adapter_config.is_adapter(folder):
        raise ValueError(
            f"{name}: it was saved before its adapter was merged ({apart}), and no {adapter_config.CONFIG} in its "
            "folder states the adapter's scaling; put that file (and the adapter's weights) into the folder, or merge "
            "it with merge_and_unload() and save the model again."
        )


def _require_plain(
    checkpoint: Checkpoint, dtype: Dtype, settings: Mapping[str, Any]
) -> quantization.QuantizationMethod:
    """How quantised weights are loaded, where nothing else is to be done with them that would quantise them again."""
    method = quantization.require_loadable(checkpoint.name, settings)
    words = quantization.method_of(settings)
    if dtype == "int8":
        raise ValueError(f"{checkpoint.name}: its weights are quantised by {words} already; use bfloat16.")
    if checkpoint.base_folder and not checkpoint.adapter:
        raise ValueError(f"{checkpoint.name}: a difference whose weights are quantised by {words} cannot be added.")
    if checkpoint.adapter and not method.dequantises:
        raise ValueError(
            f"{checkpoint.name}: an adapter is not merged into weights that are quantised by {words}; name the base "
            "before quantisation (delta_of in a file of models)."
        )
    return method


def _built(
    architecture: Architecture,
    tensors: dict[str, Any],
    dtype: Dtype,
    where: Mapping[str, str],
    settings: dict[str, Any],
) -> Any:
    """The model of transformers with these tensors in their places."""
    config, options = architecture.config, _options(dtype, where)
    if settings:
        checks.require_quantised(tensors, settings)
        checks.require_whole_blocks(tensors, settings)
        config.quantization_config = {**settings, "dequantize": True}
    model, found = architecture.model_class.from_pretrained(
        None, config=config, state_dict=tensors, dtype=torch_dtype(dtype), ignore_mismatched_sizes=True,
        output_loading_info=True, **options,
    )  # fmt: skip
    read = f"{model.base_model_prefix}." if _has_head(architecture, model) else ""
    found["unexpected_keys"] = checks.without_tables(found["unexpected_keys"], tensors)
    checks.require_own_weights(found, read, architecture.config)
    if settings:
        _dequantise(model, dtype)
    return model


def _dequantise(model: Any, dtype: Dtype) -> None:
    """What its quantiser left as it was stored, or in a precision of its own; not what a family keeps in float32.

    Weights alone: the rotary frequencies, which are no weights, are float32 in every precision.
    """
    if getattr(model, "hf_quantizer", None):
        model.dequantize()
    wide = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    for key, weight in model.named_parameters():
        if weight.is_floating_point() and not wide & set(key.split(".")):
            weight.data = weight.data.to(torch_dtype(dtype))


def _options(dtype: Dtype, where: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {} if where == {"": "cpu"} else {"device_map": dict(where)}
    if dtype == "int8":
        from transformers import BitsAndBytesConfig

        # It says at every layer that bfloat16 is multiplied as float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    return options


def _with_its_library(
    architecture: Architecture, folder: Path, name: str, dtype: Dtype, where: Mapping[str, str]
) -> Any:
    """A model whose quantised weights stay as they are: transformers and the method's own library load the folder."""
    weight_files(folder, name)  # whole, or refused
    model, found = architecture.model_class.from_pretrained(
        str(folder), config=architecture.config, dtype=torch_dtype(dtype), output_loading_info=True,
        use_safetensors=True, local_files_only=True, **_options(dtype, where),
    )  # fmt: skip
    read = f"{model.base_model_prefix}." if _has_head(architecture, model) else ""
    checks.require_own_weights(found, read, architecture.config)
    model = model.base_model if _has_head(architecture, model) else model
    checks.require_sound_model(model)
    return model.eval()


def _has_head(architecture: Architecture, model: Any) -> bool:
    """Whether it is an encoder with a head, which is not used."""
    return architecture.stack == "encoder" and model.base_model is not model


def _require_total(architecture: Architecture, checkpoint: Checkpoint, tensors: Mapping[str, Any]) -> None:
    recipe = deltas.recipe_of(checkpoint.hub_id, checkpoint.name, checkpoint.new_rows)
    if recipe.total is not None:
        config = architecture.config
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        deltas.require_total(tensors, recipe.total, head_width, checkpoint.name)
