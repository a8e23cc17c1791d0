"""Read an adapter's tensors, from the adapter's own file or from a checkpoint that was saved before merging.

Names are those of PEFT: "base_model.model.", the path of the layer, and the tensor's role in it (lora_A.weight).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.checkpoints import adapter_config, weights

PREFIX = "base_model.model."
TO_SAVE = ".modules_to_save."
DEFAULT = "default"  # PEFT's name for an adapter that was given none
# Other infixes that PEFT puts into the names of a wrapped model: a layer's own weights, and those before training.
_BASE_LAYER, _ORIGINAL = ".base_layer.", ".original_module."
_TRAINED = re.compile(r"\.((?:lora|ia3|hada|lokr|oft|boft|vera|vblora|trainable_tokens)_\w+)\.([^.]+)(?=\.|$)")


def read(folder: Path, name: str, allow_pickle: bool = False) -> dict[str, Any]:
    """Read the tensors of an adapter, keyed by their names in its file.

    Raises:
        FileNotFoundError: if there are none, or only a pickle while pickles are not allowed.
        ValueError: if the file is damaged.
    """
    file = adapter_config.weights_file(folder, name, allow_pickle)
    if file.suffix == ".bin":
        return _without_copies(weights.load_pickle(file, name), name)
    return _without_copies({key: tensor[...] for key, tensor in weights.open_safetensors(file).items()}, name)


def _without_copies(tensors: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Keep one copy of each tensor. PEFT stores trained embeddings under two names, with and without TO_SAVE."""
    if not tensors:
        raise ValueError(f"{name}: the adapter's file holds no tensors; save the adapter again.")
    unique: dict[str, Any] = {}
    for key, tensor in tensors.items():
        short_key = key.replace(TO_SAVE, ".")
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
            file_key = (
                bare_key.replace(f"{trained[1]}.{trained[2]}", trained[1], 1) if trained[2] != "weight" else bare_key
            )
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
