"""An adapter in the form of PEFT (LoRA, DoRA, IA3, ...) merged onto its base: one model, as if it were trained whole.

PEFT adds the adapter and merges it. Each layer is merged in float32, from the base's weights in the precision of the
model, and rounded to that precision once; PEFT alone would add in that precision.

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

from harness.checkpoints import adapter_config
from harness.checkpoints.headers import read_json
from harness.checkpoints.weights import dtype_of, shape_of
from harness.loading.adapter_tensors import DEFAULT, PREFIX, TO_SAVE

# Kinds whose layers do not remember that they are merged: PEFT would merge them a second time.
_MERGED_ONCE = frozenset({"OSF"})


def merged(model: Any, folder: Path, tensors: Mapping[str, Any], name: str) -> Any:
    """The model with an adapter merged into its weights, in place where that is possible.

    Embeddings grow where the adapter stores more rows of them (tokens added in tuning).

    Args:
        model: of transformers, the base, in its precision and on its devices.
        folder: with adapter_config.json.
        tensors: of `read`, or of `taken_apart`.
        name: of the model, for messages.

    Raises:
        ValueError: if PEFT is not installed, does not know or cannot merge this kind, or if the adapter does not fit
            the base: a tensor that has no place, is missing, or has another shape; the message names it.
    """
    with _quiet():
        config = _config(folder, name)
        _require_numbers(tensors, name)
        host = _host(model, tensors)
        _grow(model, config, tensors, name)
        try:
            wrapped = _wrapped(host, config, name)
            _fill(wrapped, config, tensors, name)
            _untie(model)
            if config.peft_type.value not in _MERGED_ONCE:
                _merge_in_float32(wrapped)
            inner = wrapped.merge_and_unload()
        except (NotImplementedError, AttributeError) as error:
            raise ValueError(
                f"{name}: adapters of the kind {config.peft_type.value} cannot be merged ({_first_line(error)}); give "
                "the base, or a merged model."
            ) from error
    return inner if host is model else model


@contextmanager
def _quiet() -> Iterator[None]:
    """PEFT's warnings, each of which is an error here or does not matter."""
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
    """The adapter's configuration as PEFT knows it; a setting that it does not know is refused, not left out."""
    try:
        from peft import PeftConfig
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError as error:
        raise ValueError(f"{name}: adapters are merged by PEFT, which is not installed: pip install peft") from error
    content = read_json(folder / adapter_config.CONFIG, name)
    kind = str(content["peft_type"])
    kinds: dict[str, Any] = {known.value: made for known, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if kind not in kinds:
        raise ValueError(f"{name}: adapters of the kind {kind!r} are unknown to this version of PEFT; update it.")
    known = kinds[kind].__dataclass_fields__
    unknown = [key for key, value in content.items() if key not in known and value not in (None, False, {}, [], "")]
    if unknown := [key for key in unknown if key not in {"peft_version", "runtime_config", "auto_mapping"}]:
        raise ValueError(
            f"{name}: {adapter_config.CONFIG} sets {', '.join(unknown)}, which this version of PEFT does not know; "
            "update it."
        )
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{name}: {adapter_config.CONFIG} is no configuration of {kind} ({_first_line(error)})."
        ) from error
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ValueError(
            f"{name}: its adapter ({kind}) puts learned vectors before the text and changes no weights; it cannot be "
            "merged. Give the base, or an adapter such as LoRA."
        )
    if "_niter_" in str(getattr(config, "init_lora_weights", "")):
        raise ValueError(
            f"{name}: {adapter_config.CONFIG} sets init_lora_weights to {config.init_lora_weights!r}: what it takes "
            "from the base is computed from random numbers, and differs each time that the adapter is loaded; convert "
            "it to ordinary LoRA (PEFT's save_pretrained with path_initial_model_for_weight_conversion)."
        )
    for setting in ("layer_replication", "megatron_config"):
        if getattr(config, setting, None):
            raise ValueError(
                f"{name}: {adapter_config.CONFIG} sets {setting}, which changes the model and not its weights alone; "
                "give a merged model."
            )
    for setting in ("r", "lora_alpha"):
        if not isinstance(value := getattr(config, setting, 0), (int, float)):
            raise ValueError(f"{name}: {setting} of {adapter_config.CONFIG} is {value!r}; a number is wanted.")
    config.inference_mode = True
    return config


def _host(model: Any, tensors: Mapping[str, Any]) -> Any:
    """The model, or its stack without the head, whichever the adapter's names start from."""
    starts = {key.removeprefix(PREFIX).split(".", 1)[0] for key in tensors}
    own, inner = (set(dict(module.named_children())) for module in (model, model.base_model))
    return model if starts & own or not starts & inner else model.base_model


def _require_numbers(tensors: Mapping[str, Any], name: str) -> None:
    """Raise where an adapter's weights are whole numbers, or not finite."""
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.isfinite().all():
            continue
        if tensor.is_floating_point() or ".lora_" in key:
            what = (
                "is not finite" if tensor.is_floating_point() else f"is stored as {dtype_of(tensor)}, no real numbers"
            )
            raise ValueError(f"{name}: {key.removeprefix(PREFIX)} of its adapter {what}; copy the adapter again.")


def _wrapped(host: Any, config: Any, name: str) -> Any:
    """The model with the adapter's layers in place, their weights not filled in yet."""
    from peft import PeftModel

    try:
        return PeftModel(host, config, DEFAULT)
    except re.error as error:
        raise ValueError(
            f"{name}: target_modules of {adapter_config.CONFIG} is no regular expression ({error}): "
            f"{config.target_modules!r}; a list of names is wanted, or an expression for whole paths."
        ) from error
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{name}: its adapter does not fit the base: {_first_line(error).rstrip('.')}; give the base that it was "
            "trained on."
        ) from error


def _grow(model: Any, config: Any, tensors: Mapping[str, Any], name: str) -> None:
    """Give embeddings and head the rows that the adapter stores, where these are more than the base's."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    places = {id(module): path for path, module in model.named_modules()}
    stored = {key.removeprefix(PREFIX): shape_of(tensor)[0] for key, tensor in tensors.items() if shape_of(tensor)}
    n_rows = embeddings.num_embeddings
    paths = [places[id(module)] for module in (embeddings, head) if module is not None]
    wanted = max((stored.get(f"{path}.weight", 0) for path in paths), default=0)
    trained = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or []
    indices = [index for part in (trained.values() if isinstance(trained, dict) else [trained]) for index in part]
    wanted = max([wanted, *(index + 1 for index in indices)])
    if wanted <= n_rows:
        return
    is_tied = head is None or head.weight is embeddings.weight
    whole = all(stored.get(f"{path}.weight") == wanted for path in (paths[:1] if is_tied else paths))
    if not whole and not set(range(n_rows, wanted)) <= set(indices):
        raise ValueError(
            f"{name}: its adapter adds {wanted - n_rows} tokens to the {n_rows} of the base, and does not store all of "
            "their rows in embeddings and head; save it again with save_embedding_layers=True."
        )
    model.resize_token_embeddings(wanted, mean_resizing=False)


def _fill(wrapped: Any, config: Any, tensors: Mapping[str, Any], name: str) -> None:
    """Put the adapter's tensors in their places; each must have one, and each place its tensor."""
    from peft import set_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    before = {key: tuple(tensor.shape) for key, tensor in wrapped.state_dict().items()}
    try:
        found: Any = set_peft_model_state_dict(wrapped, dict(tensors), adapter_name=DEFAULT)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"{name}: its adapter does not fit the base: {_misfit(before, tensors, error)}") from error
    if found.unexpected_keys:
        raise ValueError(
            f"{name}: its adapter does not fit the base: {len(found.unexpected_keys)} of its tensors have no place in "
            f"it, the first is {found.unexpected_keys[0].removeprefix(PREFIX)}; give an adapter of a language model, "
            "and the base that it was trained on."
        )
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type, "")
    missing = [
        key for key in found.missing_keys
        if f".{DEFAULT}" in key and ((prefix and prefix in key) or TO_SAVE in key) and "vector_bank" not in key
    ]  # fmt: skip
    if missing and not _begins_at_zero(config, missing, tensors):
        raise ValueError(
            f"{name}: {len(missing)} tensors that {adapter_config.CONFIG} asks for are not in the adapter's file, the "
            f"first is {missing[0].removeprefix(PREFIX)}; copy both again."
        )


def _begins_at_zero(config: Any, missing: list[str], tensors: Mapping[str, Any]) -> bool:
    """Whether layers that the file leaves out whole are as PEFT makes them: LoRA's B is zero and changes nothing."""
    layers = {key.partition(".lora_")[0] for key in missing}
    stored = {key.partition(".lora_")[0] for key in tensors if ".lora_" in key}
    is_lora = config.peft_type.value == "LORA" and config.init_lora_weights in (True, "gaussian")
    return is_lora and all(".lora_" in key for key in missing) and bool(stored) and not layers & stored


def _misfit(places: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Any], error: Exception) -> str:
    """The first tensor that has another shape than its place; else PEFT's own words."""
    short = {key.replace(f".{DEFAULT}", "").replace(".modules_to_save", ""): shape for key, shape in places.items()}
    for key, tensor in tensors.items():
        if key in short and short[key] != shape_of(tensor):
            return (
                f"{key.removeprefix(PREFIX)} has the shape {shape_of(tensor)}, the base wants {short[key]}; give the "
                "base that it was trained on."
            )
    return f"{_first_line(error)}; give the base that it was trained on."


def _untie(model: Any) -> None:
    """Give the head weights of its own where embeddings or head are adapted: merging into shared ones changes both."""
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
    """Merge layer by layer: the base's weights of one layer are float32 while its adapter is added."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in [module for module in wrapped.modules() if isinstance(module, BaseTunerLayer)]:
        base = layer.get_base_layer()
        precisions = {key: p.dtype for key, p in base.named_parameters(recurse=False) if p.is_floating_point()}
        for key in precisions:
            parameter = getattr(base, key)
            parameter.data = parameter.data.float()
        layer.merge(safe_merge=True)
        for key, precision in precisions.items():
            parameter = getattr(base, key)
            parameter.data = parameter.data.to(precision)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (lines[1].strip() if len(lines) > 1 and lines[0].endswith(":") else lines[0])[:300]
