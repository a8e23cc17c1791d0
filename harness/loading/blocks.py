"""The transformer blocks of a model's stack, in the order in which a text passes through them.

transformers says of most families which class their blocks are. Where it does not, they are the outermost list of
modules that is as long as the configuration says. Some families apply one block several times (ALBERT): what counts is
how often a block is applied, so that layer k is the output of the k-th application.
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
    """Where the hidden states of a stack can be taken.

    first: the module whose input is layer 0, the embeddings. modules: those whose outputs are the layers after it, each
    once. form: what makes a state (sequence, token, hidden) of what these take and give.
    """

    first: Any
    modules: Sequence[Any]
    form: Callable[[torch.Tensor], torch.Tensor]


def plain(state: torch.Tensor) -> torch.Tensor:
    """(sequence, token, hidden); families with several residual streams (sequence, token, stream, hidden) keep all."""
    return state.flatten(2) if state.dim() > 3 else state


def _active_stream(state: torch.Tensor) -> torch.Tensor:
    """Gemma 3n: of (stream, sequence, token, hidden) the stream that its blocks compute; others are only corrected."""
    return state[0] if state.dim() > 3 else state


_FORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"gemma3n_text": _active_stream}


def stack_of(model: Any, which: str) -> Any:
    """The module that holds a stack of text.

    Args:
        model: of transformers, with or without its head.
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
    """How many token ids a model knows."""
    embeddings = model.get_input_embeddings()
    return int(getattr(embeddings, "num_embeddings", 0) or embeddings.weight.shape[0])


def blocks_of(model: Any, which: str) -> Blocks:
    """The blocks of a stack of a model.

    Args:
        model: of transformers.
        which: "encoder" or "decoder".

    Raises:
        ValueError: if none are found.
    """
    stack = stack_of(model, which)
    family = getattr(stack, "config", model.config).model_type
    if family in _OF_FAMILY:
        return _OF_FAMILY[family](stack)
    n_blocks = model_configs.n_blocks(model.config, which)
    found = _recorded(stack) or _listed(stack, n_blocks)
    if not found:
        raise ValueError(f"{family}: no list of {n_blocks} blocks was found in {type(stack).__name__}.")
    return Blocks(found[0], found, _FORMS.get(family, plain))


def _of_norms(stack: Any) -> Blocks:
    """XLM and FlauBERT have no module for a block: its last part is a norm."""
    return Blocks(stack.attentions[0], list(stack.layer_norm2), plain)


def _of_full_length(stack: Any) -> Blocks:
    """Funnel halves the text between its groups of blocks: the first group and the decoder have a state per token."""
    encoder = list(stack.encoder.blocks[0])
    return Blocks(encoder[0], [*encoder, *stack.decoder.layers], plain)


_OF_FAMILY: dict[str, Callable[[Any], Blocks]] = {
    "xlm": _of_norms, "flaubert": _of_norms, "funnel": _of_full_length,
}  # fmt: skip


def _recorded(stack: Any) -> list[Any]:
    """Modules of the classes whose outputs transformers records as hidden states."""
    from transformers.utils.output_capturing import OutputRecorder

    stated = (getattr(stack, "_can_record_outputs", None) or {}).get("hidden_states")
    classes = []
    for each in stated if isinstance(stated, (list, tuple)) else [stated]:
        if isinstance(each, OutputRecorder):
            if each.layer_name or each.index or not each.target_class:
                return []
            classes.append(each.target_class)
        elif isinstance(each, type):
            classes.append(each)
    return list(_outermost(stack, tuple(classes), is_top=True)) if classes else []


def _outermost(module: Any, classes: tuple[type, ...], *, is_top: bool = False) -> Iterator[Any]:
    """Modules of some classes that are in no other of them; parts that are models of their own are left out."""
    from transformers import PreTrainedModel

    if isinstance(module, classes):
        yield module
    elif is_top or not isinstance(module, PreTrainedModel):
        for child in module.children():
            yield from _outermost(child, classes)


def _listed(stack: Any, n_blocks: int) -> list[Any]:
    for module in stack.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_blocks:
            return list(module)
    return []


# --- recording and calling -------------------------------------------------------------------------------------------


@contextmanager
def recorded(blocks: Blocks, keep: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """While open, each forward pass gives `keep` the states of all layers, in order: (sequence, token, hidden)."""
    is_begun = False

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal is_begun
        if not is_begun:
            is_begun = True
            keep(blocks.form(_first_tensor(args or kwargs.get("hidden_states", list(kwargs.values())))))

    def after(_: Any, __: Any, output: Any) -> None:
        keep(blocks.form(_first_tensor(output)))

    handles = [blocks.first.register_forward_pre_hook(before, with_kwargs=True)]
    handles += [module.register_forward_hook(after) for module in blocks.modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(value: Any) -> Any:
    """What a block takes or gives: a tensor, or the first of a tuple, a list or a record of transformers."""
    while not isinstance(value, torch.Tensor):
        parts = value if isinstance(value, (tuple, list)) else value.to_tuple()
        value = next(part for part in parts if part is not None)
    return value


def call(module: Any, **arguments: Any) -> Any:
    """Run a module of transformers with those of the arguments that it takes; families differ in which they do."""
    taken = _arguments(type(module).forward)
    return module(**arguments if taken is None else {key: arguments[key] for key in arguments if key in taken})


@cache
def _arguments(forward: Callable[..., Any]) -> frozenset[str] | None:
    """Names of the arguments of a forward; None where it takes any."""
    parameters = inspect.signature(forward).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)
