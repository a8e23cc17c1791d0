"""The tensors of an adapter: from its own file, or out of a checkpoint that was saved before its adapter was merged.

Names are those of PEFT: "base_model.model.", the path of the layer, and what the tensor is in it (lora_A.weight).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.checkpoints import adapter_config, weights

PREFIX = "base_model.model."
TO_SAVE = ".modules_to_save."
DEFAULT = "default"  # PEFT's own name of an adapter that has none
# What else PEFT puts into the names of a model that it has wrapped: a layer's own weights, and those before training.
_BASE_LAYER, _ORIGINAL = ".base_layer.", ".original_module."
_TRAINED = re.compile(r"\.((?:lora|ia3|hada|lokr|oft|boft|vera|vblora|trainable_tokens)_\w+)\.([^.]+)(?=\.|$)")


def read(folder: Path, name: str, allow_pickle: bool = False) -> dict[str, Any]:
    """The tensors of an adapter, by their names in its file.

    Raises:
        FileNotFoundError: if there are none, or only a pickle and this is not allowed.
        ValueError: if the file is damaged.
    """
    file = adapter_config.weights_file(folder, name, allow_pickle)
    if file.suffix == ".bin":
        return _without_copies(weights.unpickled(file, name), name)
    return _without_copies({key: tensor[...] for key, tensor in weights.opened(file).items()}, name)


def _without_copies(tensors: Mapping[str, Any], name: str) -> dict[str, Any]:
    """PEFT stores embeddings that grew under two names, and as they were before; one of the trained is kept."""
    if not tensors:
        raise ValueError(f"{name}: the adapter's file holds no tensors; save the adapter again.")
    made: dict[str, Any] = {}
    for key, tensor in tensors.items():
        short = key.replace(TO_SAVE, ".")
        if short in made and not made[short].equal(tensor):
            raise ValueError(f"{name}: the adapter holds two different tensors for {short}; save it again.")
        made[short] = tensor
    return made


# --- a whole checkpoint that was saved before its adapter was merged --------------------------------------------------


def is_unmerged(tensors: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has names that PEFT gives to a model while an adapter is trained."""
    return any(key.startswith(PREFIX) or _BASE_LAYER in key or _TRAINED.search(key) for key in tensors)


def first_apart(tensors: Mapping[str, Any]) -> str:
    """The first tensor of an adapter, or of a layer that an adapter was attached to; "" where there is none."""
    apart = (key for key in tensors if _BASE_LAYER in key or TO_SAVE in key or _TRAINED.search(key))
    return next((key.removeprefix(PREFIX) for key in apart), "")


def taken_apart(tensors: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of the base by their own names, and those of the adapter as its file would name them.

    Args:
        tensors: of a checkpoint that `is_unmerged`.
        name: of the model, for messages.

    Raises:
        ValueError: if it holds several adapters.
    """
    base: dict[str, Any] = {}
    adapter: dict[str, Any] = {}
    kinds: set[str] = set()
    for key, tensor in tensors.items():
        bare = key.removeprefix(PREFIX)
        if trained := _TRAINED.search(f".{bare}"):
            kinds.add(trained[2] if trained[2] not in {"weight", "bias"} else DEFAULT)
            short = bare.replace(f"{trained[1]}.{trained[2]}", trained[1], 1) if trained[2] != "weight" else bare
            # The only one whose file has no word for the tensor in its layer.
            adapter[PREFIX + short.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")] = tensor
        elif TO_SAVE in bare:
            module, rest = bare.split(TO_SAVE, 1)
            kind, _, attribute = rest.partition(".")
            kinds.add(kind)
            adapter[f"{PREFIX}{module}.{attribute}"] = tensor
        else:
            base[bare.replace(_BASE_LAYER, ".").replace(_ORIGINAL, ".")] = tensor
    if len(kinds) > 1:
        raise ValueError(
            f"{name}: it holds {len(kinds)} adapters ({', '.join(sorted(kinds))}) that are not merged; merge one "
            "(merge_and_unload) and save the model again."
        )
    return base, adapter
