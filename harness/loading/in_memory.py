"""A transformers model that is already in memory, with its tokenizer: in a notebook, or during a training.

Its configuration and tokenizer are saved to a folder, from which the facts about it are read as for any checkpoint, and
its untrained control is made. Its weights are neither saved nor copied; their hash is its revision.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from harness.checkpoints import checkpoints, fingerprints
from harness.checkpoints.checkpoints import Checkpoint
from harness.loading import loaded_model
from harness.loading.loaded_model import LoadedModel
from harness.protocol import Dtype, content_hash


@dataclass(frozen=True)
class InMemory:
    """A model in memory.

    Attributes:
        model: the transformers model.
        checkpoint: facts about it; its folder holds configuration and tokenizer.
        dtype: precision of its weights.
    """

    model: Any
    checkpoint: Checkpoint
    dtype: Dtype

    @contextmanager
    def loaded(self) -> Iterator[LoadedModel]:
        """The model in evaluation mode; afterwards each of its modules is in the mode in which it was."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            yield loaded_model.of_memory(self.checkpoint, self.model, self.dtype)
        finally:
            for module, was_training in modes:
                module.training = was_training


def of(model: Any, tokenizer: Any, folder: Path, name: str = "") -> InMemory:
    """Describe a model.

    Args:
        model: transformers model with its head (`AutoModelForCausalLM`, `AutoModelForSeq2SeqLM`; for encoders without).
        tokenizer: its tokenizer, a fast one.
        folder: empty folder for its configuration and tokenizer.
        name: its name in the tables; default: the last part of the name or folder from which it was loaded, else its
            class.

    Raises:
        ValueError: if it is not such a model, is quantised or has an adapter that is not merged, or is of an
            unsupported kind.
    """
    _require_usable(model, tokenizer)
    name = name or Path(str(getattr(model, "name_or_path", "") or "")).name or type(model).__name__
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype not in get_args(Dtype):
        raise ValueError(f"{name} has weights of type {dtype}; wanted float32, bfloat16 or float16.")
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    if generation := getattr(model, "generation_config", None):
        generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    revision = f"memory-{content_hash([_hash(model), fingerprints.revision_of(folder)])[:16]}"
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    return InMemory(model, checkpoints.of_memory(name, folder, revision, n_parameters), dtype)  # type: ignore[arg-type]


def _require_usable(model: Any, tokenizer: Any) -> None:
    if not (isinstance(model, torch.nn.Module) and hasattr(model, "config")):
        raise ValueError(f"a model is a {type(model).__name__}; give a name, a folder, or (model, tokenizer).")
    if not hasattr(tokenizer, "save_pretrained"):
        raise ValueError(f"{type(model).__name__} needs its tokenizer; give (model, tokenizer).")
    if hasattr(model, "peft_config"):
        raise ValueError("the model has an adapter that is not merged; give model.merge_and_unload().")
    if getattr(model, "hf_quantizer", None) is not None:
        raise ValueError("the weights of the model are quantised; save it and give its folder.")


def _hash(model: Any) -> str:
    """Hash over names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(repr((key, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(memoryview(values.numpy()))
    return digest.hexdigest()
