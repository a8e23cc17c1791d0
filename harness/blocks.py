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

from harness import model_configs


@dataclass(frozen=True)
class Blocks:
    """Where the hidden states of a stack can be taken.

    first: the module whose input is layer 0, the embeddings. modules: those whose outputs are the layers after it, each
    once. time_first: whether states are (token, sequence, hidden) there instead of (sequence, token, hidden).
    """

    first: Any
    modules: Sequence[Any]
    time_first: bool = False


# Families whose states have the tokens first inside the model.
_TIME_FIRST = frozenset({"xlnet", "fsmt"})
# Families without any module per token and block, and why; they are refused.
NOT_READ = {
    "blt": "it reads bytes in patches of changing length, and has no state for each token",
    "cpmant": "it puts 32 prompt tokens before a text, and its tokenizer cuts Chinese words with a library of its own",
    "perceiver": "it reads a text into latent vectors, and has no state for each token",
    "reformer": "its attention draws random hashes, so that a text read twice gives two results",
    "squeezebert": "it calls its blocks in a way in which their states cannot be taken",
}


def stack_of(model: Any, which: str) -> Any:
    """The module that holds a stack of text.

    Args:
        model: of transformers, with or without its head.
        which: "encoder" or "decoder".
    """
    base = model.base_model
    if model.config.is_encoder_decoder:
        return model.get_encoder() if which == "encoder" else model.get_decoder()
    return getattr(base, "text_model", base) if which == "encoder" else base.get_decoder()


def blocks_of(model: Any, which: str) -> Blocks:
    """The blocks of a stack of a model.

    Args:
        model: of transformers.
        which: "encoder" or "decoder".

    Raises:
        ValueError: if none are found.
    """
    stack = stack_of(model, which)
    family = stack.config.model_type
    if family in _OF_FAMILY:
        return _OF_FAMILY[family](stack)
    n_blocks = model_configs.n_blocks(model.config, which)
    found = _recorded(stack) or _listed(stack, n_blocks)
    if not found:
        raise ValueError(f"{family}: no list of {n_blocks} blocks was found in {type(stack).__name__}.")
    return Blocks(found[0], found, family in _TIME_FIRST)


def _of_norms(stack: Any) -> Blocks:
    """XLM and FlauBERT have no module for a block: its last part is a norm."""
    return Blocks(stack.attentions[0], list(stack.layer_norm2))


def _of_full_length(stack: Any) -> Blocks:
    """Funnel halves the text between its groups of blocks: the first group and the decoder have a state per token."""
    encoder = list(stack.encoder.blocks[0])
    return Blocks(encoder[0], [*encoder, *stack.decoder.layers])


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

    def states(value: Any) -> torch.Tensor:
        found = _first_tensor(value)
        return found.transpose(0, 1) if blocks.time_first else found

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal is_begun
        if not is_begun:
            is_begun = True
            keep(states(args or kwargs.get("hidden_states", list(kwargs.values()))))

    def after(_: Any, __: Any, output: Any) -> None:
        keep(states(output))

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


def takes_mask(module: Any) -> bool:
    """Whether a module can be told which tokens are padding."""
    taken = _arguments(type(module).forward)
    return taken is None or "attention_mask" in taken


@cache
def _arguments(forward: Callable[..., Any]) -> frozenset[str] | None:
    """Names of the arguments of a forward; None where it takes any."""
    parameters = inspect.signature(forward).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)
