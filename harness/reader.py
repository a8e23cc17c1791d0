"""A checkpoint's folder -> a model and its tokenizer, loaded and ready to read.

Safetensors only, no remote code: a checkpoint is data. Weights are float32 here; precision by family comes with the
table of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness.models import Checkpoint

# T5 v1.1 has relative positions and no limit of its own; it was trained on 512 tokens.
T5_CONTEXT = 512
# Embeddings are padded to round numbers, by a percent or two; a tokenizer of under half of them is another model's.
MIN_VOCABULARY_SHARE = 0.5


@dataclass(frozen=True)
class Reader:
    """A loaded model with its tokenizer, ready to read.

    Attributes:
        prefix: ids put before a text once: BOS for decoders (so that a first word has a surprisal), the decoder's
            start token for T5.
        limit: tokens of one window.
    """

    model: Any
    tokenizer: Any
    is_encoder_decoder: bool
    prefix: tuple[int, ...]
    limit: int
    device: torch.device


def load(checkpoint: Checkpoint, device: str = "cpu", untrained_seed: int | None = None) -> Reader:
    """Load a checkpoint, or its untrained twin, in float32.

    Args:
        checkpoint: a resolved checkpoint; its weights must be safetensors.
        device: "cpu", "cuda" or "cuda:N".
        untrained_seed: seed of the re-initialised weights; None loads the trained ones.

    Raises:
        ValueError: if the model is neither decoder nor encoder-decoder, or the tokenizer does not fit it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if type(config) not in kind._model_mapping:
        raise ValueError(f"{checkpoint.name}: {config.model_type!r} is neither a decoder nor an encoder-decoder.")
    if untrained_seed is None:
        model = kind.from_pretrained(
            checkpoint.folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    else:
        torch.manual_seed(untrained_seed)
        model = kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
    _require_fit(checkpoint.name, tokenizer, model)
    return Reader(
        model=model.eval().to(device),
        tokenizer=tokenizer,
        is_encoder_decoder=config.is_encoder_decoder,
        prefix=_prefix(config, tokenizer),
        limit=checkpoint.context_size or T5_CONTEXT,
        device=torch.device(device),
    )


def _require_fit(name: str, tokenizer: Any, model: Any) -> None:
    rows = model.get_input_embeddings().num_embeddings
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ValueError(
            f"{name}: the tokenizer does not fit the model: it has a token with id {largest}, the model has {rows} "
            "embeddings. Put the model's own tokenizer.json into its folder."
        )
    if largest < rows * MIN_VOCABULARY_SHARE:
        raise ValueError(
            f"{name}: the tokenizer does not fit the model: it has {largest + 1} tokens, the model {rows} embeddings. "
            "Put the model's own tokenizer.json into its folder."
        )
    if model.config.is_encoder_decoder and tokenizer.eos_token_id is None:
        raise ValueError(f"{name}: the tokenizer names no end-of-sequence token; the encoder ends every text with it.")


def _prefix(config: Any, tokenizer: Any) -> tuple[int, ...]:
    if config.is_encoder_decoder:
        return (config.decoder_start_token_id,)
    return () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
