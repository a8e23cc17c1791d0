"""A checkpoint's folder -> a model and its tokenizer, loaded and ready to read.

No remote code, and safetensors unless pickles are asked for: a checkpoint is data. What it will take is known before
anything is read, and it is read once, tensor by tensor, straight to where it stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from harness.checkpoints import quantization
from harness.checkpoints.checkpoints import Checkpoint
from harness.checkpoints.model_configs import Stack
from harness.loading import allocation, architectures, blocks, checks, trained
from harness.loading.architectures import Architecture
from harness.loading.batches import changes_with_padding
from harness.models import precision
from harness.protocol import Dtype
from harness.records import Context, Integers, Tokens
from harness.text import tokens

# T5 v1.1 has relative positions and no limit of its own; it was trained on 512 tokens.
T5_CONTEXT = 512
# Recurrent decoders (Mamba, RWKV) and some with relative positions state no limit: the protocol's window is theirs.
NO_LIMIT = 2**20


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model with its tokenizer, ready to read.

    Attributes:
        model: of transformers; of an encoder the stack alone, without its head.
        stack: what it is made of.
        prefix: ids put before a text once: BOS for decoders (so that a first word has a surprisal), the start token of
            an encoder-decoder's decoder, CLS for an encoder.
        limit: tokens of one window, prefix and suffix included.
        device: where token ids go; of a model on several GPUs the first.
        suffix: ids put after a text: SEP for an encoder, the end of sequence for T5's encoder, none for decoders.
        dtype: precision of the weights.
        source_prefix: ids put before what the encoder of an encoder-decoder reads (none for T5).
        notes: sentences on what was not used as the files say, or not as transformers would.
        is_padded: whether texts of different lengths may stand in one batch.
        quantization: what stays of quantised weights while it computes, in words; "" where they were dequantised.
    """

    model: Any
    tokenizer: Any
    stack: Stack
    prefix: tuple[int, ...]
    limit: int
    device: torch.device
    suffix: tuple[int, ...] = ()
    dtype: Dtype = "float32"
    source_prefix: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    is_padded: bool = True
    quantization: str = ""

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether a text may stand in the encoder and in the decoder."""
        return self.stack == "encoder-decoder"

    @property
    def n_embeddings(self) -> int:
        """How many token ids the model knows."""
        return blocks.n_embeddings(self.model)

    @cached_property
    def openings(self) -> Integers:
        """The tokens that begin with a space (`tokens.openings`), of those that the model knows."""
        found = tokens.word_initial_tokens(self.tokenizer)
        return found[found < self.n_embeddings]

    @property
    def before_source(self) -> tuple[int, ...]:
        """Ids put before what an encoder reads."""
        return self.prefix if self.stack == "encoder" else self.source_prefix

    def encode(self, context: Context, *, in_chat: bool = False) -> Tokens:
        """The context in this model's tokens; ValueError where its tokenizer does not fit it or the text."""
        if in_chat:
            context = tokens.in_chat(context, self.tokenizer)
        return tokens.encode(context, self.tokenizer, self.n_embeddings)


def load(
    checkpoint: Checkpoint,
    device: str = "cpu",
    untrained_seed: int | None = None,
    dtype: Dtype = "float32",
    *,
    n_gpus: int = 1,
    max_memory: Mapping[str, int] | None = None,
    allow_pickle: bool = False,
) -> LoadedModel:
    """Load a checkpoint, or its untrained twin.

    A checkpoint with a `base_folder` is a difference or an adapter: base and difference are added, or the adapter is
    merged, in float32.

    Args:
        checkpoint: a resolved checkpoint.
        device: "cpu", "cuda" or "cuda:N".
        untrained_seed: seed of the re-initialised weights; None loads the trained ones.
        dtype: precision of the weights (`precision.dtype_of` chooses). "int8" is LLM.int8() of bitsandbytes: linear
            layers in 8 bits, the rest in bfloat16, on CUDA alone.
        n_gpus: over so many GPUs, cuda:0 and those after it, blocks in turn; only with device "cuda".
        max_memory: device ("cuda:0", "cpu") -> bytes that may be taken there; None takes what is free.
        allow_pickle: whether pickled weights are read where there are no safetensors (`weights.read`).

    Raises:
        ValueError: if the folder cannot be loaded; if weights are missing, of another shape (transformers would draw
            them at random), not finite or all zero; if the model is no decoder, no encoder and not of the T5 family, or
            a decoder that sees what is to come; if the tokenizer does not fit it; if its family is not read in this
            precision; if a GPU or a library is not there.
        room.NoRoomError: if it does not fit into memory; nothing has been read then.
    """
    from transformers.utils import logging as reports

    reports.set_verbosity_error()
    reports.disable_progress_bar()
    devices = allocation.devices(device, n_gpus, dtype)
    try:
        architecture = architectures.read(checkpoint.config_folder, checkpoint.name, checkpoint.tokenizer_folder)
        skeleton = architecture.skeleton(dtype)
    except Exception as error:
        raise _not_loaded(checkpoint, error) from error
    settings = quantization.stated(architecture.config.to_dict())
    precision.dtype_of(checkpoint.family, architecture.stack, checkpoint.n_parameters, dtype)
    checks.require_fit(checkpoint.name, architecture.tokenizer, skeleton)
    where = allocation.places(
        checkpoint.name, architecture, skeleton, dtype, devices, max_memory or {}, drawn=untrained_seed is not None
    )
    try:
        if untrained_seed is not None:
            model = _drawn(architecture, untrained_seed, dtype, where)
        else:
            model = trained.load(architecture, skeleton, checkpoint, dtype, where, allow_pickle)
    except Exception as error:
        raise _not_loaded(checkpoint, error) from error
    if architecture.stack == "decoder":
        checks.require_causal(checkpoint.name, model, torch.device(devices[0]), dtype)
    return LoadedModel(
        model=model,
        tokenizer=architecture.tokenizer,
        stack=architecture.stack,
        prefix=architecture.special.prefix,
        limit=_limit(architecture, model),
        device=torch.device(devices[0]),
        suffix=architecture.special.suffix,
        dtype=dtype,
        source_prefix=architecture.special.source_prefix,
        notes=architecture.notes,
        is_padded=not _changes_with_padding(model, architecture.stack, torch.device(devices[0])),
        quantization="" if untrained_seed is not None else quantization.computed_in(settings),
    )


def _changes_with_padding(model: Any, stack: Stack, device: torch.device) -> bool:
    run = model.get_encoder() if stack == "encoder-decoder" else blocks.body(model)

    def states(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found = blocks.call(run, input_ids=ids, attention_mask=mask, use_cache=False)
        return found.last_hidden_state  # type: ignore[no-any-return]

    return changes_with_padding(states, blocks.n_embeddings(model), device)


def _not_loaded(checkpoint: Checkpoint, error: Exception) -> ValueError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].removeprefix(f"{checkpoint.name}: ")
    if isinstance(error, KeyError):  # a table of transformers': of activations, kinds of positions, ...
        reason = f"config.json names {reason}, which transformers does not know there"
    elif "Padding_idx" in reason:
        reason = "pad_token_id of config.json is past the embeddings; copy config.json again"
    return ValueError(f"{checkpoint.name}: cannot be loaded from {checkpoint.folder}: {reason}")


def _drawn(architecture: Architecture, seed: int, dtype: Dtype, where: dict[str, str]) -> Any:
    """The untrained model: weights drawn on the CPU, where they depend on the seed and not on the card."""
    if dtype == "int8":
        raise ValueError("an untrained twin is not drawn in int8; use bfloat16")
    torch.manual_seed(seed)
    model = architecture.drawn(dtype)
    if len(where) > 1:
        from accelerate import dispatch_model

        model = dispatch_model(model, where, skip_keys=model._skip_keys_device_placement)
    else:
        model = model.to(where[""])
    return (model.base_model if architecture.stack == "encoder" else model).eval()


def _limit(architecture: Architecture, model: Any) -> int:
    """Tokens of a window. RoBERTa and its like count positions from the padding token's id on."""
    limit = architecture.described.window or (NO_LIMIT if architecture.stack == "decoder" else T5_CONTEXT)
    positions = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    return limit if padding is None else limit - padding - 1
