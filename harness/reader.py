"""A checkpoint's folder -> a model and its tokenizer, loaded and ready to read.

Safetensors only, no remote code: a checkpoint is data. Weights are float32 here; precision by family comes with the
table of models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from harness import tokens
from harness.checkpoints import Checkpoint, is_buffer
from harness.records import Context, Tokens

# T5 v1.1 has relative positions and no limit of its own; it was trained on 512 tokens.
T5_CONTEXT = 512
# Embeddings are padded to round numbers, by a percent or two; a tokenizer of under half of them is another model's.
_OF_A_BLOCK = re.compile(r"\.(layers|h|block|blocks)\.\d+\.")
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

    def encode(self, context: Context, *, in_chat: bool = False) -> Tokens:
        """The context in this model's tokens; ValueError where its tokenizer does not fit it or the text."""
        if in_chat:
            context = tokens.in_chat(context, self.tokenizer)
        return tokens.encode(context, self.tokenizer, self.model.get_input_embeddings().num_embeddings)


def load(checkpoint: Checkpoint, device: str = "cpu", untrained_seed: int | None = None) -> Reader:
    """Load a checkpoint, or its untrained twin, in float32.

    Args:
        checkpoint: a resolved checkpoint; its weights must be safetensors.
        device: "cpu", "cuda" or "cuda:N".
        untrained_seed: seed of the re-initialised weights; None loads the trained ones.

    Raises:
        ValueError: if the folder cannot be loaded; if weights are missing, of another shape or not finite (transformers
            would draw them at random); if the model is no decoder and not of the T5 family, or sees what is to come; if
            the tokenizer does not fit it.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, tokenizer = _read_folder(checkpoint, untrained_seed)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{checkpoint.name}: cannot be loaded from {checkpoint.folder}: {reason}") from error
    _require_fit(checkpoint.name, tokenizer, model)
    reader = Reader(
        model=model.eval().to(device),
        tokenizer=tokenizer,
        is_encoder_decoder=model.config.is_encoder_decoder,
        prefix=_prefix(model.config, tokenizer),
        limit=checkpoint.context_size or T5_CONTEXT,
        device=torch.device(device),
    )
    _require_causal(checkpoint.name, reader)
    return reader


def _read_folder(checkpoint: Checkpoint, untrained_seed: int | None) -> tuple[Any, Any]:
    """Model and tokenizer; every weight comes from the file, or every one from the seed."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    t5_like = not config.is_encoder_decoder or hasattr(config, "num_decoder_layers")
    if type(config) not in kind._model_mapping or not t5_like:
        raise ValueError(f"{config.model_type!r} is neither a decoder nor of the T5 family")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
    if untrained_seed is not None:
        torch.manual_seed(untrained_seed)
        return kind.from_config(config, dtype=torch.float32, trust_remote_code=False), tokenizer
    model, found = kind.from_pretrained(
        checkpoint.folder,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    _require_own_weights(model, found)
    return model, tokenizer


def _require_own_weights(model: Any, found: dict[str, Any]) -> None:
    """Raise where a weight is absent, of another shape, of a block that the configuration lacks, or not finite."""
    blocks = [key for key in found["unexpected_keys"] if _OF_A_BLOCK.search(key) and not is_buffer(key)]
    odd = {
        "are missing in the file": sorted(found["missing_keys"]),
        "have another shape than config.json says": sorted(str(key) for key in found["mismatched_keys"]),
        "are of blocks that config.json does not have": sorted(blocks),
        "are not finite": [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()],
    }
    for what, names in odd.items():
        if names:
            raise ValueError(f"{len(names)} weights {what}, the first is {names[0]}; copy the checkpoint again")


def _require_causal(name: str, reader: Reader) -> None:
    """Raise where a decoder's probabilities of a text change with what comes after it, as an encoder's do."""
    if reader.is_encoder_decoder:
        return
    one = torch.arange(4, 10, device=reader.device)[None] % reader.model.get_input_embeddings().num_embeddings
    other = one.clone()
    other[0, -1] = one[0, 0]
    with torch.inference_mode():
        before, after = (reader.model(input_ids=ids, use_cache=False).logits[0, :-1] for ids in (one, other))
    if float((before - after).abs().max()) > 1e-5 * float(before.abs().max()):
        raise ValueError(
            f"{name}: {reader.model.config.model_type!r} sees what is to come; only decoders and T5 are read."
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
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else config.bos_token_id
    return () if bos is None else (bos,)
