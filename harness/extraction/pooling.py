"""Pool the hidden states of a model's blocks on the device that computes them.

Hooks select positions and average or sum them on the device, so that one vector per layer and stimulus is copied to the
CPU, not the states of every token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.loading.blocks import Blocks, recorded
from harness.records import Floats, Layer


class StatePool:
    """Collects the pooled states of every layer in a (stimulus, hidden) float32 matrix.

    Several positions of one stimulus are averaged, or summed with the pooling "sum".
    """

    def __init__(self, stack: str, blocks: Blocks, n_rows: int, pooling: str = "last") -> None:
        self.stack, self.blocks, self.n_rows, self.pooling = stack, blocks, n_rows, pooling
        self.buffers: dict[Layer, torch.Tensor] = {}

    @contextmanager
    def hooked(self, positions: Sequence[Any], rows: Sequence[Any], on: bool = True) -> Iterator[None]:
        """While open, a forward pass pools positions[i] of sequence i into rows[i].

        Rows are written only after the pass has succeeded.
        """
        if not on:
            yield
            return
        selection = _Selection.of(positions, rows, self.pooling)
        pooled: list[torch.Tensor] = []
        with recorded(self.blocks, lambda hidden: pooled.append(selection.pool(hidden).to("cpu", non_blocking=True))):
            yield
        selection.wait()  # copies run while later blocks compute
        for index, matrix in enumerate(pooled):
            layer = Layer(self.stack, index)
            if layer not in self.buffers:
                self.buffers[layer] = torch.full((self.n_rows, matrix.shape[-1]), torch.nan)
            self.buffers[layer][selection.rows] = matrix

    def values(self) -> dict[Layer, Floats]:
        """Layer -> (stimulus, hidden) float32, NaN where nothing was pooled."""
        return {layer: self.buffers[layer].numpy() for layer in sorted(self.buffers)}


@dataclass
class _Selection:
    """Positions of a batch and the rows they are pooled into.

    Attributes:
        sequence, position: (selected,) indices of the states.
        row_index: (selected,) index into `rows`.
        weight: (row,) factor of the sum; None if each row has one position.
        rows: (row,) rows of the buffers.
        by_device: copies of the indices on each device that has blocks.
    """

    sequence: torch.Tensor
    position: torch.Tensor
    row_index: torch.Tensor
    weight: torch.Tensor | None
    rows: torch.Tensor
    by_device: dict[torch.device, tuple[torch.Tensor, ...]]

    @classmethod
    def of(cls, positions: Sequence[Any], rows: Sequence[Any], pooling: str) -> _Selection:
        sequence = np.repeat(np.arange(len(positions)), [len(selected) for selected in positions])
        position = np.concatenate([np.asarray(selected, dtype=np.int64) for selected in positions])
        row_of_position = np.concatenate([np.asarray(row_numbers, dtype=np.int64) for row_numbers in rows])
        unique_rows, row_index, count = np.unique(row_of_position, return_inverse=True, return_counts=True)
        is_single = (count == 1).all()
        if is_single:  # states are copied in the order of the rows; nothing is summed
            order = np.argsort(row_index)
            sequence, position, row_index = sequence[order], position[order], row_index[order]
        weight = None if is_single else 1 / count if pooling != "sum" else np.ones(len(count))
        return cls(
            torch.from_numpy(sequence), torch.from_numpy(position), torch.from_numpy(row_index),
            None if weight is None else torch.from_numpy(weight).float(), torch.from_numpy(unique_rows), {},
        )  # fmt: skip

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """Pool (sequence, token, hidden) states to (row, hidden) float32."""
        device = hidden.device
        if device not in self.by_device:
            indices = (self.sequence, self.position, self.row_index, *([] if self.weight is None else [self.weight]))
            self.by_device[device] = tuple(tensor.to(device, non_blocking=True) for tensor in indices)
        sequence, position, row_index, *weight = self.by_device[device]
        states = hidden[sequence, position].float()
        if not weight:
            return states
        sums = states.new_zeros((len(self.rows), states.shape[-1]))
        return sums.index_add_(0, row_index, states) * weight[0][:, None]

    def wait(self) -> None:
        """Wait for the copies from every GPU."""
        for device in self.by_device:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
