"""Find the transformer blocks of a model's stack, in the order in which they are applied, and record their states.

For most families transformers names the class of the blocks. Otherwise the blocks are the outermost list of modules
whose length is the number of blocks in the configuration. Some families apply one block several times (ALBERT): layers
count applications, so that layer k is the output of the k-th application.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from harness.checkpoints import model_configs


@dataclass(frozen=True)
class Blocks:
    """Where to record the hidden states of a stack.

    Attributes:
        first: the module whose input is layer 0, the embeddings.
        modules: the modules whose outputs are the layers after it, each module once.
        to_states: converts their inputs and outputs to states (sequence, token, hidden).
    """

    first: Any
    modules: Sequence[Any]
    to_states: Callable[[torch.Tensor], torch.Tensor]


def flat_streams(state: torch.Tensor) -> torch.Tensor:
    """(sequence, token, hidden); several residual streams (sequence, token, stream, hidden) are concatenated."""
    return state.flatten(2) if state.dim() > 3 else state


def _active_stream(state: torch.Tensor) -> torch.Tensor:
    """Gemma 3n: of (stream, sequence, token, hidden), the stream that its blocks compute; others are only corrected."""
    return state[0] if state.dim() > 3 else state


def stack_of(model: Any, which: str) -> Any:
    """The module of a model's text encoder or decoder.

    Args:
        model: transformers model, with or without its head.
        which: "encoder" or "decoder".
    """
    if model.config.is_encoder_decoder:
        return model.get_encoder() if which == "encoder" else model.get_decoder()
    base = body(model)
    return getattr(base, "text_model", base) if which == "encoder" else base.get_decoder()


def body(model: Any) -> Any:
    """A model without its head."""
    base = model.base_model
    if base is not model or model.get_output_embeddings() is None:
        return base
    from transformers import PreTrainedModel

    return next((child for child in model.children() if isinstance(child, PreTrainedModel)), model)


def n_embeddings(model: Any) -> int:
    """Number of token ids of a model."""
    embeddings = model.get_input_embeddings()
    return int(getattr(embeddings, "num_embeddings", 0) or embeddings.weight.shape[0])


def blocks_of(model: Any, which: str) -> Blocks:
    """Find the blocks of a model's stack.

    Args:
        model: transformers model.
        which: "encoder" or "decoder".

    Raises:
        ValueError: if no blocks are found.
    """
    stack = stack_of(model, which)
    family = getattr(stack, "config", model.config).model_type
    if family in _BY_FAMILY:
        return _BY_FAMILY[family](stack)
    n_blocks = model_configs.n_blocks(model.config, which)
    modules = _by_recorded_class(stack) or _by_length(stack, n_blocks)
    if not modules:
        raise ValueError(f"{family}: {type(stack).__name__} has no list of {n_blocks} blocks, as config.json states.")
    return Blocks(modules[0], modules, _active_stream if family == "gemma3n_text" else flat_streams)


def _by_norms(stack: Any) -> Blocks:
    """XLM and FlauBERT have no module per block; the last operation of each block is a norm."""
    return Blocks(stack.attentions[0], list(stack.layer_norm2), flat_streams)


def _at_full_length(stack: Any) -> Blocks:
    """Funnel halves the text between its groups of blocks; only the first group and the decoder keep all tokens."""
    encoder = list(stack.encoder.blocks[0])
    return Blocks(encoder[0], [*encoder, *stack.decoder.layers], flat_streams)


_BY_FAMILY: dict[str, Callable[[Any], Blocks]] = {
    "xlm": _by_norms, "flaubert": _by_norms, "funnel": _at_full_length,
}  # fmt: skip


def _by_recorded_class(stack: Any) -> list[Any]:
    """Modules of the classes whose outputs transformers records as hidden states."""
    from transformers.utils.output_capturing import OutputRecorder

    stated = (getattr(stack, "_can_record_outputs", None) or {}).get("hidden_states")
    classes = []
    for recorder in stated if isinstance(stated, (list, tuple)) else [stated]:
        if isinstance(recorder, OutputRecorder):
            if recorder.layer_name or recorder.index or not recorder.target_class:
                return []
            classes.append(recorder.target_class)
        elif isinstance(recorder, type):
            classes.append(recorder)
    return list(_outermost(stack, tuple(classes), is_top=True)) if classes else []


def _outermost(module: Any, classes: tuple[type, ...], *, is_top: bool = False) -> Iterator[Any]:
    """Modules of some classes that are not inside another of them; nested models are not searched."""
    from transformers import PreTrainedModel

    if isinstance(module, classes):
        yield module
    elif is_top or not isinstance(module, PreTrainedModel):
        for child in module.children():
            yield from _outermost(child, classes)


def _by_length(stack: Any, n_blocks: int) -> list[Any]:
    for module in stack.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_blocks:
            return list(module)
    return []


# --- recording and calling -------------------------------------------------------------------------------------------


@contextmanager
def recorded(blocks: Blocks, keep: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """While open, a forward pass calls `keep` with each layer's states (sequence, token, hidden), in order."""
    has_started = False

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal has_started
        if not has_started:
            has_started = True
            keep(blocks.to_states(_first_tensor(args or kwargs.get("hidden_states", list(kwargs.values())))))

    def after(_: Any, __: Any, output: Any) -> None:
        keep(blocks.to_states(_first_tensor(output)))

    handles = [blocks.first.register_forward_pre_hook(before, with_kwargs=True)]
    handles += [module.register_forward_hook(after) for module in blocks.modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(value: Any) -> Any:
    """A block's input or output: a tensor, or the first item of a tuple, a list or a transformers output."""
    while not isinstance(value, torch.Tensor):
        items = value if isinstance(value, (tuple, list)) else value.to_tuple()
        value = next(item for item in items if item is not None)
    return value


def call(module: Any, **arguments: Any) -> Any:
    """Call a transformers module, dropping arguments that its forward does not take; families differ in these."""
    names = _arguments(type(module).forward)
    return module(**arguments if names is None else {key: arguments[key] for key in arguments if key in names})


@cache
def _arguments(forward: Callable[..., Any]) -> frozenset[str] | None:
    """Argument names of a forward method; None if it takes any."""
    parameters = inspect.signature(forward).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)
