"""A checkpoint's folder -> what kind of model it is: its stacks, its class in transformers, the tokens around a text.

A family that has both forms (BERT) is what its configuration says: a decoder where `is_decoder` is set, else an
encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from harness.spec import Dtype

Stack = Literal["decoder", "encoder-decoder", "encoder"]


@dataclass(frozen=True)
class Architecture:
    """A configuration with its tokenizer, before any weight.

    auto: transformers' Auto class for the stack. prefix, suffix: ids put before and after a text (see Reader).
    """

    config: Any
    tokenizer: Any
    stack: Stack
    auto: Any
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    @property
    def model_class(self) -> Any:
        """The class of transformers that holds the weights; an encoder's with its head, so that no pooler is drawn."""
        found = self.auto._model_mapping[type(self.config)]
        return found[0] if isinstance(found, (list, tuple)) else found

    def skeleton(self, dtype: Dtype) -> Any:
        """The model without numbers, on the meta device: what it will take, exactly."""
        with torch.device("meta"):
            return self.auto.from_config(self.config, dtype=torch_dtype(dtype), trust_remote_code=False)


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """Of what is not in 8 bits; bfloat16 beside int8, since some families leave float16's range."""
    found: torch.dtype = getattr(torch, "bfloat16" if dtype == "int8" else dtype)
    return found


def read(folder: str, tokenizer_folder: str = "") -> Architecture:
    """The architecture of a folder; ValueError if it is no decoder, no encoder and not of the T5 family.

    Args:
        folder: with config.json.
        tokenizer_folder: with the tokenizer, where it is another one (an adapter's).
    """
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    stack, auto = _stack(config)
    own = {"config": config} if tokenizer_folder not in {"", folder} else {}
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder or folder, trust_remote_code=False, **own)
    prefix, suffix = _around(stack, config, tokenizer)
    return Architecture(config, tokenizer, stack, auto, prefix, suffix)


def _stack(config: Any) -> tuple[Stack, Any]:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    known = type(config)
    if config.is_encoder_decoder:
        # Only T5 and its like have an encoder whose states are read here and an end token alone around a text.
        if known in AutoModelForSeq2SeqLM._model_mapping and hasattr(config, "num_decoder_layers"):
            return "encoder-decoder", AutoModelForSeq2SeqLM
    elif known in AutoModelForMaskedLM._model_mapping and not getattr(config, "is_decoder", False):
        return "encoder", AutoModelForMaskedLM
    elif known in AutoModelForCausalLM._model_mapping:
        return "decoder", AutoModelForCausalLM
    raise ValueError(f"{config.model_type!r} is neither a decoder, nor an encoder, nor of the T5 family")


def _around(stack: Stack, config: Any, tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else config.bos_token_id
    if stack == "encoder-decoder":
        return (config.decoder_start_token_id,), _one(tokenizer.eos_token_id)
    if stack == "encoder":
        first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
        return _one(bos if first is None else first), _one(tokenizer.eos_token_id if last is None else last)
    return _one(bos), ()


def _one(token: int | None) -> tuple[int, ...]:
    return () if token is None else (token,)
