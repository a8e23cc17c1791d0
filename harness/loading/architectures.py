"""A checkpoint's folder -> what kind of model it is: configuration, tokenizer, class in transformers, special ids.

A family that has both forms (BERT) is what its configuration says: a decoder where `is_decoder` is set, else an
encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness.checkpoints import model_configs, special_ids, tokenizers
from harness.checkpoints.model_configs import ModelConfig, Stack
from harness.checkpoints.special_ids import SpecialIds
from harness.protocol import Dtype


@dataclass(frozen=True)
class Architecture:
    """A model before its weights.

    described: its configuration in our terms. special: ids put around a text. notes: sentences on what was not used as
    the files say, or not as transformers would.
    """

    described: ModelConfig
    tokenizer: Any
    special: SpecialIds
    notes: tuple[str, ...] = ()

    @property
    def stack(self) -> Stack:
        """What it is made of."""
        return self.described.stack

    @property
    def config(self) -> Any:
        """The configuration that the class of the model takes."""
        return self.described.config

    @property
    def model_class(self) -> Any:
        """The class of transformers that holds the weights; an encoder's with its head, so that no pooler is drawn."""
        return self.described.kind

    def skeleton(self, dtype: Dtype) -> Any:
        """The model without numbers, on the meta device: what it will take, exactly."""
        with torch.device("meta"):
            return self.drawn(dtype)

    def drawn(self, dtype: Dtype) -> Any:
        """The model with random weights."""
        return self.model_class._from_config(self.config, dtype=torch_dtype(dtype))


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """Of what is not in 8 bits; bfloat16 beside int8, since some families leave float16's range."""
    found: torch.dtype = getattr(torch, "bfloat16" if dtype == "int8" else dtype)
    return found


def read(folder: str, name: str = "", tokenizer_folder: str = "") -> Architecture:
    """The architecture of a folder.

    Args:
        folder: with config.json.
        name: of the model, for messages.
        tokenizer_folder: with the tokenizer, where it is another one (an adapter's).

    Raises:
        FileNotFoundError, ValueError: as `model_configs.load`, `published_tokenizers.load` and `special_ids.around`.
    """
    described = model_configs.load(folder, name or folder)
    published = tokenizers.load(tokenizer_folder or folder, described.config)
    special = special_ids.around(described, published.tokenizer)
    notes = (*([published.note] if published.note else []), *special.notes)
    return Architecture(described, published.tokenizer, special, notes)
