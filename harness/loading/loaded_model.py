"""Load a checkpoint's model and tokenizer, ready to extract features.

No remote code runs, and weights are safetensors unless pickles are allowed. Memory is checked before any weight is
loaded; each tensor is then read once, directly onto its device.
"""

from __future__ import annotations

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
# Recurrent decoders (Mamba, RWKV) and some with relative positions state no limit; the protocol's window applies.
NO_LIMIT = 2**20


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model with its tokenizer.

    Attributes:
        model: transformers model; for an encoder the stack without its head.
        tokenizer: fast tokenizer of transformers.
        stack: decoder, encoder or encoder-decoder.
        prefix: ids put once before a text: BOS for decoders (so that the first word has a surprisal), the decoder's
            start token for an encoder-decoder, CLS for an encoder.
        limit: maximum tokens of one window, prefix and suffix included.
        device: device for token ids; for a model on several GPUs the first.
        suffix: ids put after a text: SEP for an encoder, the end of sequence for T5's encoder, none for decoders.
        dtype: precision of the weights.
        source_prefix: ids put before the encoder's input of an encoder-decoder (none for T5).
        notes: sentences on what was used otherwise than the files state, or than transformers would use it.
        is_padded: whether one batch may hold texts of different lengths.
        quantization: describes weights that stay quantised in computation; "" if there are none.
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
        """Whether the model has both an encoder and a decoder."""
        return self.stack == "encoder-decoder"

    @property
    def n_embeddings(self) -> int:
        """Number of token ids of the model."""
        return blocks.n_embeddings(self.model)

    @cached_property
    def word_initial_tokens(self) -> Integers:
        """Ids of the word-initial tokens (`tokens.word_initial_tokens`) that the model has embeddings for."""
        ids = tokens.word_initial_tokens(self.tokenizer)
        return ids[ids < self.n_embeddings]

    @property
    def before_source(self) -> tuple[int, ...]:
        """Ids put before the encoder's input."""
        return self.prefix if self.stack == "encoder" else self.source_prefix

    def encode(self, context: Context, *, in_chat: bool = False) -> Tokens:
        """Tokenise a context, as a user's turn of the chat template if `in_chat`.

        Raises:
            ValueError: if the tokenizer does not fit the model or the text.
        """
        if in_chat:
            context = tokens.in_chat(context, self.tokenizer)
        return tokens.encode(context, self.tokenizer, self.n_embeddings)


def load(
    checkpoint: Checkpoint, device: str = "cpu", untrained_seed: int | None = None, dtype: Dtype = "float32", *,
    n_gpus: int = 1, allow_pickle: bool = False,
) -> LoadedModel:  # fmt: skip
    """Load a checkpoint, or its untrained control.

    A checkpoint with a `base_folder` is a difference or an adapter, which is added to or merged into its base in
    float32.

    Args:
        checkpoint: a resolved checkpoint.
        device: "cpu", "cuda" or "cuda:N".
        untrained_seed: seed of the random initialisation; None loads the trained weights.
        dtype: precision of the weights (`precision.dtype_of` chooses). "int8" is LLM.int8() of bitsandbytes: linear
            layers in 8 bits, the rest in bfloat16; CUDA only.
        n_gpus: number of GPUs, from cuda:0 on, which get consecutive blocks; only with device "cuda".
        allow_pickle: whether to read pickled weights where there are no safetensors (`weights.read`).

    Raises:
        ValueError: if the folder cannot be loaded; if weights are missing, have another shape, are not finite or all
            zero; if a decoder uses later tokens; if the tokenizer does not fit the model; if the family cannot be
            computed in this precision; or if a GPU or a library is not available.
        memory.InsufficientMemoryError: if it does not fit into memory; no weight has been loaded then.
    """
    _silence_transformers()
    devices = allocation.devices(device, n_gpus, dtype)
    architecture, meta_model = _architecture(checkpoint, dtype)
    settings = quantization.settings_of(architecture.config.to_dict())
    precision.dtype_of(checkpoint.family, architecture.stack, checkpoint.n_parameters, dtype)
    checks.require_fit(checkpoint.name, architecture.tokenizer, meta_model)
    is_untrained = untrained_seed is not None
    device_by_module = allocation.assign(checkpoint.name, architecture, meta_model, dtype, devices, is_untrained)
    try:
        if untrained_seed is not None:
            model = _untrained(architecture, untrained_seed, dtype, device_by_module)
        else:
            model = trained.load(architecture, meta_model, checkpoint, dtype, device_by_module, allow_pickle)
    except Exception as error:
        raise _loading_error(checkpoint, error) from error
    first_device = torch.device(devices[0])
    if architecture.stack == "decoder":
        checks.require_causal(checkpoint.name, model, first_device, dtype)
    quantised = "" if is_untrained else quantization.remaining_quantization(settings)
    return _loaded_model(architecture, model, first_device, dtype, quantised)


def of_memory(checkpoint: Checkpoint, model: Any, dtype: Dtype) -> LoadedModel:
    """Use a transformers model that is already in memory; it is neither copied nor changed.

    Args:
        checkpoint: `in_memory.InMemory.checkpoint`.
        model: the model, in evaluation mode.
        dtype: precision of its weights.

    Raises:
        ValueError: as `load`, or if the model's class is not the one with which its hidden states and surprisals are
            computed.
    """
    architecture, meta_model = _architecture(checkpoint, dtype)
    checks.require_fit(checkpoint.name, architecture.tokenizer, meta_model)
    is_encoder = architecture.stack == "encoder"
    wanted = (architecture.model_class, *([type(meta_model.base_model)] if is_encoder else []))
    if not isinstance(model, wanted):
        loader = "AutoModelForSeq2SeqLM" if architecture.stack == "encoder-decoder" else "AutoModelForCausalLM"
        raise ValueError(
            f"{checkpoint.name} is a {type(model).__name__}; wanted a {architecture.model_class.__name__}, as {loader} "
            "loads it."
        )
    checks.require_sound_model(model)
    if architecture.stack == "decoder":
        checks.require_causal(checkpoint.name, model, model.device, dtype)
    return _loaded_model(architecture, model.base_model if is_encoder else model, model.device, dtype, "")


def _silence_transformers() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _architecture(checkpoint: Checkpoint, dtype: Dtype) -> tuple[Architecture, Any]:
    """A checkpoint's architecture, and its model on the meta device."""
    try:
        architecture = architectures.read(checkpoint.config_folder, checkpoint.name, checkpoint.tokenizer_folder)
        return architecture, architecture.meta_model(dtype)
    except Exception as error:
        raise _loading_error(checkpoint, error) from error


def _loaded_model(
    architecture: Architecture, model: Any, device: torch.device, dtype: Dtype, quantised: str
) -> LoadedModel:
    special = architecture.special
    return LoadedModel(
        model, architecture.tokenizer, architecture.stack, special.prefix, _limit(architecture, model), device,
        special.suffix, dtype, special.source_prefix, special.notes,
        is_padded=not _changes_with_padding(model, architecture.stack, device), quantization=quantised,
    )  # fmt: skip


def _changes_with_padding(model: Any, stack: Stack, device: torch.device) -> bool:
    module = model.get_encoder() if stack == "encoder-decoder" else blocks.body(model)

    def hidden_states(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output = blocks.call(module, input_ids=ids, attention_mask=mask, use_cache=False)
        return output.last_hidden_state  # type: ignore[no-any-return]

    return changes_with_padding(hidden_states, blocks.n_embeddings(model), device)


def _loading_error(checkpoint: Checkpoint, error: Exception) -> ValueError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].removeprefix(f"{checkpoint.name}: ")
    if isinstance(error, KeyError):  # missing in one of transformers' tables (activations, position types, ...)
        reason = f"config.json names {reason}, which transformers does not know for that setting"
    elif "Padding_idx" in reason:
        reason = "pad_token_id of config.json is past the embeddings; copy config.json again"
    return ValueError(f"{checkpoint.name}: cannot be loaded from {checkpoint.folder}: {reason}")


def _untrained(architecture: Architecture, seed: int, dtype: Dtype, device_by_module: dict[str, str]) -> Any:
    """The untrained control. Weights are initialised on the CPU, so that they depend on the seed and not on the GPU."""
    if dtype == "int8":
        raise ValueError("an untrained control cannot be int8; use bfloat16")
    torch.manual_seed(seed)
    model = architecture.random_model(dtype)
    if len(device_by_module) > 1:
        from accelerate import dispatch_model

        model = dispatch_model(model, device_by_module, skip_keys=model._skip_keys_device_placement)
    else:
        model = model.to(device_by_module[""])
    return (model.base_model if architecture.stack == "encoder" else model).eval()


def _limit(architecture: Architecture, model: Any) -> int:
    """Maximum tokens of a window. RoBERTa and similar models number positions from the padding token's id."""
    limit = architecture.model_config.window or (NO_LIMIT if architecture.stack == "decoder" else T5_CONTEXT)
    positions = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    return limit if padding is None else limit - padding - 1
