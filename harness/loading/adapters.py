"""Merge a PEFT adapter (LoRA, DoRA, IA3, ...) into its base, which gives one ordinary model.

PEFT applies and merges the adapter. Each layer is merged in float32, from the base's weights in the model's precision,
and rounded to that precision once; PEFT alone would add in the lower precision.

Source: peft 0.21, PeftModel.from_pretrained and merge_and_unload.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.checkpoints import adapter_config, weights
from harness.checkpoints.headers import read_json
from harness.checkpoints.weights import dtype_of, shape_of

# Names of tensors are those of PEFT: PREFIX, the path of the layer, and the tensor's role in it (lora_A.weight).
PREFIX = "base_model.model."
TO_SAVE = ".modules_to_save."
DEFAULT = "default"  # PEFT's name for an adapter that was given none
# Other infixes that PEFT puts into the names of a wrapped model: a layer's own weights, and those before training.
_BASE_LAYER, _ORIGINAL = ".base_layer.", ".original_module."
_TRAINED = re.compile(r"\.((?:lora|ia3|hada|lokr|oft|boft|vera|vblora|trainable_tokens)_\w+)\.([^.]+)(?=\.|$)")
# Kinds whose layers do not record that they are merged: PEFT would merge them a second time.
_MERGED_ONCE = frozenset({"OSF"})


def merge(model: Any, folder: Path, tensors: Mapping[str, Any], name: str) -> Any:
    """Merge an adapter into a model's weights, in place where possible, and return the model.

    Embeddings grow where the adapter stores more rows than the base has (tokens added in tuning).

    Args:
        model: the base, a transformers model in its final precision and on its devices.
        folder: folder with adapter_config.json.
        tensors: from `read` or `split_unmerged`.
        name: model name, for messages.

    Raises:
        ValueError: if PEFT is not installed, does not know this kind of adapter or cannot merge it; or if the adapter
            does not fit the base: a tensor has no place in it, is missing, or has another shape.
    """
    with _without_peft_warnings():
        config = _config(folder, name)
        _require_finite_floats(tensors, name)
        host = _host(model, tensors)
        _grow_embeddings(model, config, tensors, name)
        try:
            wrapped = _wrapped(host, config, name)
            _load_tensors(wrapped, config, tensors, name)
            _untie_adapted_embeddings(model)
            if config.peft_type.value not in _MERGED_ONCE:
                _merge_in_float32(wrapped)
            merged = wrapped.merge_and_unload()
        except (NotImplementedError, AttributeError) as error:
            raise ValueError(
                f"{name}: adapters of the kind {config.peft_type.value} cannot be merged ({_first_line(error)}); give "
                "the base, or a merged model."
            ) from error
    return merged if host is model else model


@contextmanager
def _without_peft_warnings() -> Iterator[None]:
    """Silence PEFT's warnings: each is either an error here or irrelevant."""
    logger = logging.getLogger("peft")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _config(folder: Path, name: str) -> Any:
    """Read the adapter's configuration with PEFT; a setting that PEFT does not know is an error, not ignored."""
    try:
        from peft import PeftConfig
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError as error:
        raise ValueError(f"{name}: merging adapters needs PEFT, which is not installed: pip install peft") from error
    content = read_json(folder / adapter_config.CONFIG, name)
    kind = str(content["peft_type"])
    config_classes = {peft_type.value: config_class for peft_type, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if kind not in config_classes:
        raise ValueError(f"{name}: this version of PEFT does not know adapters of the kind {kind!r}; update PEFT.")
    fields = config_classes[kind].__dataclass_fields__
    unknown = [key for key, value in content.items() if key not in fields and value not in (None, False, {}, [], "")]
    if unknown := [key for key in unknown if key not in {"peft_version", "runtime_config", "auto_mapping"}]:
        raise ValueError(
            f"{name}: {adapter_config.CONFIG} sets {', '.join(unknown)}, which this version of PEFT does not know; "
            "update PEFT."
        )
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{name}: {adapter_config.CONFIG} is not a valid configuration of {kind} ({_first_line(error)})."
        ) from error
    _require_mergeable(config, kind, name)
    config.inference_mode = True
    return config


def _require_mergeable(config: Any, kind: str, name: str) -> None:
    """Raise if an adapter's settings mean that merging cannot give the trained model."""
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ValueError(
            f"{name}: its adapter ({kind}) puts learned vectors before the text and changes no weights; it cannot be "
            "merged. Give the base, or an adapter such as LoRA."
        )
    if "_niter_" in str(getattr(config, "init_lora_weights", "")):
        raise ValueError(
            f"{name}: {adapter_config.CONFIG} sets init_lora_weights to {config.init_lora_weights!r}, which changes "
            "the base's weights by a randomised computation that differs each time the adapter is loaded; convert the "
            "adapter to ordinary LoRA (PEFT's save_pretrained with path_initial_model_for_weight_conversion)."
        )
    for setting in ("layer_replication", "megatron_config"):
        if getattr(config, setting, None):
            raise ValueError(
                f"{name}: {adapter_config.CONFIG} sets {setting}, which changes the model and not only its weights; "
                "give a merged model."
            )
    for setting in ("r", "lora_alpha"):
        if not isinstance(value := getattr(config, setting, 0), (int, float)):
            raise ValueError(f"{name}: {setting} of {adapter_config.CONFIG} is {value!r}; it must be a number.")


def _host(model: Any, tensors: Mapping[str, Any]) -> Any:
    """The module that the adapter's tensor names are relative to: the model, or its stack without the head."""
    adapter_roots = {key.removeprefix(PREFIX).split(".", 1)[0] for key in tensors}
    model_children, stack_children = (set(dict(module.named_children())) for module in (model, model.base_model))
    return model if adapter_roots & model_children or not adapter_roots & stack_children else model.base_model


def _require_finite_floats(tensors: Mapping[str, Any], name: str) -> None:
    """Raise if an adapter's weights are integers or not finite."""
    for key, tensor in tensors.items():
        problem = ""
        if tensor.is_floating_point():
            problem = "" if tensor.isfinite().all() else "is not finite"
        elif ".lora_" in key:
            problem = f"is stored as {dtype_of(tensor)}, not as floating-point numbers"
        if problem:
            raise ValueError(f"{name}: {key.removeprefix(PREFIX)} of its adapter {problem}; copy the adapter again.")


def _wrapped(host: Any, config: Any, name: str) -> Any:
    """Add the adapter's layers to the model, with PEFT's initial weights."""
    from peft import PeftModel

    try:
        return PeftModel(host, config, DEFAULT)
    except re.error as error:
        raise ValueError(
            f"{name}: target_modules of {adapter_config.CONFIG} is not a valid regular expression ({error}): "
            f"{config.target_modules!r}; give a list of names, or an expression that matches whole paths."
        ) from error
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{name}: its adapter does not fit the base: {_first_line(error).rstrip('.')}; give the base that it was "
            "trained on."
        ) from error


def _grow_embeddings(model: Any, config: Any, tensors: Mapping[str, Any], name: str) -> None:
    """Add rows to embeddings and head where the adapter stores more rows than the base has."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    paths_by_id = {id(module): path for path, module in model.named_modules()}
    stored_rows = {key.removeprefix(PREFIX): shape_of(tensor)[0] for key, tensor in tensors.items() if shape_of(tensor)}
    n_rows = embeddings.num_embeddings
    paths = [paths_by_id[id(module)] for module in (embeddings, head) if module is not None]
    n_wanted = max((stored_rows.get(f"{path}.weight", 0) for path in paths), default=0)
    trained = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or []
    index_lists = trained.values() if isinstance(trained, dict) else [trained]
    indices = [index for index_list in index_lists for index in index_list]
    n_wanted = max([n_wanted, *(index + 1 for index in indices)])
    if n_wanted <= n_rows:
        return
    is_tied = head is None or head.weight is embeddings.weight
    stores_all_rows = all(stored_rows.get(f"{path}.weight") == n_wanted for path in (paths[:1] if is_tied else paths))
    if not stores_all_rows and not set(range(n_rows, n_wanted)) <= set(indices):
        raise ValueError(
            f"{name}: its adapter adds {n_wanted - n_rows} tokens to the {n_rows} of the base but does not store all "
            "of their rows in embeddings and head; save it again with save_embedding_layers=True."
        )
    model.resize_token_embeddings(n_wanted, mean_resizing=False)


def _load_tensors(wrapped: Any, config: Any, tensors: Mapping[str, Any], name: str) -> None:
    """Load the adapter's tensors. Raise if a tensor has no place in the model, or a place has no tensor."""
    from peft import set_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    shapes = {key: tuple(tensor.shape) for key, tensor in wrapped.state_dict().items()}
    try:
        result: Any = set_peft_model_state_dict(wrapped, dict(tensors), adapter_name=DEFAULT)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"{name}: its adapter does not fit the base: {_misfit(shapes, tensors, error)}") from error
    if result.unexpected_keys:
        raise ValueError(
            f"{name}: its adapter does not fit the base: {len(result.unexpected_keys)} of its tensors have no place in "
            f"it, the first is {result.unexpected_keys[0].removeprefix(PREFIX)}; give an adapter of a language model, "
            "and the base that it was trained on."
        )
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type, "")
    missing = [
        key for key in result.missing_keys
        if f".{DEFAULT}" in key and ((prefix and prefix in key) or TO_SAVE in key) and "vector_bank" not in key
    ]  # fmt: skip
    if missing and not _starts_at_zero(config, missing, tensors):
        raise ValueError(
            f"{name}: {len(missing)} tensors that {adapter_config.CONFIG} requires are missing in the adapter's file, "
            f"the first is {missing[0].removeprefix(PREFIX)}; copy both files again."
        )


def _starts_at_zero(config: Any, missing: list[str], tensors: Mapping[str, Any]) -> bool:
    """Whether all missing layers are LoRA layers at initialisation, where B is zero and the layer changes nothing."""
    missing_layers = {key.partition(".lora_")[0] for key in missing}
    stored_layers = {key.partition(".lora_")[0] for key in tensors if ".lora_" in key}
    is_lora = config.peft_type.value == "LORA" and config.init_lora_weights in (True, "gaussian")
    only_lora = all(".lora_" in key for key in missing)
    return is_lora and only_lora and bool(stored_layers) and not missing_layers & stored_layers


def _misfit(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Any], error: Exception) -> str:
    """Describe the first tensor whose shape differs from the model's; otherwise PEFT's own message."""
    model_shapes = {
        key.replace(f".{DEFAULT}", "").replace(".modules_to_save", ""): shape for key, shape in shapes.items()
    }
    for key, tensor in tensors.items():
        if key in model_shapes and model_shapes[key] != shape_of(tensor):
            return (
                f"{key.removeprefix(PREFIX)} has the shape {shape_of(tensor)}, the base needs {model_shapes[key]}; "
                "give the base that it was trained on."
            )
    return f"{_first_line(error)}; give the base that it was trained on."


def _untie_adapted_embeddings(model: Any) -> None:
    """Give the head its own weights if embeddings or head are adapted: merging into shared weights changes both."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    if None in layers or not any(isinstance(layer, BaseTunerLayer) for layer in layers):
        return
    embeddings, head = (layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in layers)
    if getattr(head, "weight", None) is getattr(embeddings, "weight", head):
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False


def _merge_in_float32(wrapped: Any) -> None:
    """Merge layer by layer, holding only the current layer's base weights in float32."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in [module for module in wrapped.modules() if isinstance(module, BaseTunerLayer)]:
        base = layer.get_base_layer()
        parameters = base.named_parameters(recurse=False)
        dtypes = {key: parameter.dtype for key, parameter in parameters if parameter.is_floating_point()}
        for key in dtypes:
            parameter = getattr(base, key)
            parameter.data = parameter.data.float()
        layer.merge(safe_merge=True)
        for key, dtype in dtypes.items():
            parameter = getattr(base, key)
            parameter.data = parameter.data.to(dtype)


def _first_line(error: Exception) -> str:
    """The informative line of an error: the second if the first only introduces it (ends with a colon)."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (lines[1].strip() if len(lines) > 1 and lines[0].endswith(":") else lines[0])[:300]


# --- the tensors of an adapter ----------------------------------------------------------------------------------------


def read(folder: Path, name: str, allow_pickle: bool = False) -> dict[str, Any]:
    """Read the tensors of an adapter, keyed by their names in its file.

    Raises:
        FileNotFoundError: if there are none, or only a pickle while pickles are not allowed.
        ValueError: if the file is damaged.
    """
    file = adapter_config.weights_file(folder, name, allow_pickle)
    tensors = weights.load_pickle(file, name) if file.suffix == ".bin" else weights.open_safetensors(file)
    if not tensors:
        raise ValueError(f"{name}: the adapter's file holds no tensors; save the adapter again.")
    unique: dict[str, Any] = {}
    for key, stored in tensors.items():
        # PEFT stores trained embeddings under two names, with and without TO_SAVE; one copy is kept.
        short_key, tensor = key.replace(TO_SAVE, "."), stored[...]
        if short_key in unique and not unique[short_key].equal(tensor):
            raise ValueError(f"{name}: the adapter holds two different tensors for {short_key}; save it again.")
        unique[short_key] = tensor
    return unique


# --- a whole checkpoint that was saved before its adapter was merged --------------------------------------------------


def is_unmerged(tensors: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has the tensor names that PEFT uses while an adapter is being trained."""
    return any(key.startswith(PREFIX) or _BASE_LAYER in key or _TRAINED.search(key) for key in tensors)


def first_adapter_key(tensors: Mapping[str, Any]) -> str:
    """Name of the first tensor that belongs to an adapter or to an adapted layer; "" if there is none."""
    keys = (key for key in tensors if _BASE_LAYER in key or TO_SAVE in key or _TRAINED.search(key))
    return next((key.removeprefix(PREFIX) for key in keys), "")


def split_unmerged(tensors: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split an unmerged checkpoint into the base's tensors and the adapter's, each under its usual names.

    Args:
        tensors: tensors of a checkpoint for which `is_unmerged` holds.
        name: model name, for messages.

    Raises:
        ValueError: if the checkpoint holds several adapters.
    """
    base: dict[str, Any] = {}
    adapter: dict[str, Any] = {}
    adapter_names: set[str] = set()
    for key, tensor in tensors.items():
        bare_key = key.removeprefix(PREFIX)
        if trained := _TRAINED.search(f".{bare_key}"):
            adapter_names.add(trained[2] if trained[2] not in {"weight", "bias"} else DEFAULT)
            is_named = trained[2] != "weight"
            file_key = bare_key.replace(f"{trained[1]}.{trained[2]}", trained[1], 1) if is_named else bare_key
            # DoRA's magnitude vector is the only tensor that PEFT saves without ".weight".
            adapter[PREFIX + file_key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")] = tensor
        elif TO_SAVE in bare_key:
            module, rest = bare_key.split(TO_SAVE, 1)
            adapter_name, _, attribute = rest.partition(".")
            adapter_names.add(adapter_name)
            adapter[f"{PREFIX}{module}.{attribute}"] = tensor
        else:
            base[bare_key.replace(_BASE_LAYER, ".").replace(_ORIGINAL, ".")] = tensor
    if len(adapter_names) > 1:
        raise ValueError(
            f"{name}: the checkpoint holds {len(adapter_names)} unmerged adapters "
            f"({', '.join(sorted(adapter_names))}); merge one (merge_and_unload) and save the model again."
        )
    return base, adapter
