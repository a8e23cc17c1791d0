"""A checkpoint's folder -> a model and its tokenizer, loaded and ready to read.

Safetensors only, no remote code: a checkpoint is data. Weights are float32 here; precision by family comes with the
table of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness import tokens
from harness.models import Checkpoint
from harness.records import Context, Tokens

# T5 v1.1 has relative positions and no limit of its own; it was trained on 512 tokens.
T5_CONTEXT = 512
# Embeddings are padded to round numbers, by a percent or two; a tokenizer of under half of them is another model's.
MIN_VOCABULARY_SHARE, MAX_VOCABULARY_SHARE = 0.5, 1.02


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

    def encode(self, context: Context) -> Tokens:
        """The context in this model's tokens; ValueError where its tokenizer does not fit it or the text."""
        return tokens.encode(context, self.tokenizer, self.model.get_input_embeddings().num_embeddings)


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
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if type(config) not in kind._model_mapping or (
        config.is_encoder_decoder and not hasattr(config, "num_decoder_layers")
    ):
        raise ValueError(f"{checkpoint.name}: {config.model_type!r} is neither a decoder nor of the T5 family.")
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
    rows, n_tokens = model.get_input_embeddings().num_embeddings, len(tokenizer.get_vocab())
    # A few special tokens past the end are common (Gemma 3 has one) and stand in no plain text.
    if not MIN_VOCABULARY_SHARE * rows <= n_tokens <= rows * MAX_VOCABULARY_SHARE:
        raise ValueError(
            f"{name}: the tokenizer does not fit the model: it has {n_tokens} tokens, the model {rows} embeddings. "
            "Put the model's own tokenizer into its folder."
        )
    if model.config.is_encoder_decoder and tokenizer.eos_token_id is None:
        raise ValueError(f"{name}: the tokenizer names no end-of-sequence token; the encoder ends every text with it.")


def _prefix(config: Any, tokenizer: Any) -> tuple[int, ...]:
    if config.is_encoder_decoder:
        return (config.decoder_start_token_id,)
    return () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
