"""Read what kind of model a checkpoint's folder holds: configuration, tokenizer, transformers class, special ids.

For a family that has both forms (BERT), the configuration decides: a decoder if `is_decoder` is set, else an encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness.checkpoints import model_configs, special_ids
from harness.checkpoints.model_configs import ModelConfig, Stack
from harness.checkpoints.special_ids import SpecialIds
from harness.protocol import Dtype


@dataclass(frozen=True)
class Architecture:
    """A model without its weights.

    Attributes:
        model_config: the configuration in the harness's terms.
        tokenizer: fast tokenizer of transformers.
        special: ids put around a text, and sentences on what was used otherwise than the files state, or than
            transformers would use it.
    """

    model_config: ModelConfig
    tokenizer: Any
    special: SpecialIds

    @property
    def stack(self) -> Stack:
        """Decoder, encoder or encoder-decoder."""
        return self.model_config.stack

    @property
    def config(self) -> Any:
        """The configuration that the model's class takes."""
        return self.model_config.config

    @property
    def model_class(self) -> Any:
        """The transformers class for the weights; for an encoder the class with its head, which adds no pooler."""
        return self.model_config.kind

    def meta_model(self, dtype: Dtype) -> Any:
        """Build the model on the meta device, without memory for its weights."""
        with torch.device("meta"):
            return self.random_model(dtype)

    def random_model(self, dtype: Dtype) -> Any:
        """Build the model with randomly initialised weights."""
        return self.model_class._from_config(self.config, dtype=torch_dtype(dtype))


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The torch type of all weights that are not int8; bfloat16 beside int8, since some families overflow float16."""
    return getattr(torch, "bfloat16" if dtype == "int8" else dtype)  # type: ignore[no-any-return]


def read(folder: str, name: str = "", tokenizer_folder: str = "") -> Architecture:
    """Read the architecture of a folder.

    Args:
        folder: folder with config.json.
        name: model name, for messages.
        tokenizer_folder: folder with the tokenizer if it is another one (an adapter's).

    Raises:
        FileNotFoundError, ValueError: see `model_configs.load`, `tokenizers.load` and `special_ids.around`.
    """
    model_config = model_configs.load(folder, name or folder)
    return Architecture(model_config, *special_ids.load(tokenizer_folder or folder, model_config))
