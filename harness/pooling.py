"""The states of a model's blocks, pooled where they are computed.

Hooks average the chosen positions on the device, so that one vector per layer and stimulus leaves it, and not the
states of every token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from harness.records import Floats, Layer


class Pool:
    """Collects the mean state at chosen positions of every block into a (stimulus, hidden) float32 matrix per layer."""

    def __init__(self, stack: str, blocks: Sequence[Any], n_rows: int) -> None:
        self.stack, self.blocks, self.n_rows = stack, blocks, n_rows
        self.buffers: dict[Layer, torch.Tensor] = {}

    @contextmanager
    def hooked(self, at: Sequence[Any], rows: Sequence[Any], on: bool = True) -> Iterator[None]:
        """While open, a forward pass pools positions at[i] of sequence i into rows[i]; equal rows are averaged."""
        sequence = np.repeat(np.arange(len(at)), [len(a) for a in at])
        position = np.concatenate([np.asarray(a, dtype=np.int64) for a in at])
        row, place, count = np.unique(
            np.concatenate([np.asarray(r, dtype=np.int64) for r in rows]), return_inverse=True, return_counts=True
        )

        def keep(index: int, hidden: torch.Tensor) -> None:
            layer = Layer(self.stack, index)
            if layer not in self.buffers:
                self.buffers[layer] = torch.full((self.n_rows, hidden.shape[-1]), torch.nan)
            sums = torch.zeros((len(row), hidden.shape[-1]), device=hidden.device)
            sums.index_add_(0, torch.from_numpy(place).to(hidden.device), hidden[sequence, position].float())
            means = sums / torch.from_numpy(count).to(hidden.device)[:, None]
            self.buffers[layer][torch.from_numpy(row)] = means.cpu()

        handles = []
        if on:
            first = self.blocks[0]
            handles.append(
                first.register_forward_pre_hook(lambda _, args, kwargs: keep(0, _input(args, kwargs)), with_kwargs=True)
            )
            for k, block in enumerate(self.blocks, start=1):
                handles.append(block.register_forward_hook(lambda _, __, output, k=k: keep(k, _output(output))))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def values(self) -> dict[Layer, Floats]:
        """Layer -> (stimulus, hidden) float32, NaN where nothing was pooled."""
        return {layer: self.buffers[layer].numpy() for layer in sorted(self.buffers)}


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _output(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def blocks(model: Any, stack: str) -> Sequence[Any]:
    """The transformer blocks of a stack: the first list of modules that is as long as the configuration says."""
    config = model.config.get_text_config(decoder=stack == "decoder")
    part, n_blocks = model.base_model, config.num_hidden_layers
    if model.config.is_encoder_decoder:
        part = getattr(part, stack)
        n_blocks = config.num_layers if stack == "encoder" else config.num_decoder_layers
    for module in part.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_blocks:
            return list(module)
    raise ValueError(f"{config.model_type}: no list of {n_blocks} {stack} blocks was found in the model.")
