"""The states of a model's blocks, pooled where they are computed.

Hooks average (or add up) the chosen positions on the device, so that one vector per layer and stimulus leaves it, and
not the states of every token.
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
    """Collects the state at chosen positions of every block into a (stimulus, hidden) float32 matrix per layer.

    Where a stimulus has several positions they are averaged, or added up for the pooling "sum".
    """

    def __init__(self, stack: str, blocks: Blocks, n_rows: int, pooling: str = "last") -> None:
        self.stack, self.blocks, self.n_rows, self.pooling = stack, blocks, n_rows, pooling
        self.buffers: dict[Layer, torch.Tensor] = {}

    @contextmanager
    def hooked(self, at: Sequence[Any], rows: Sequence[Any], on: bool = True) -> Iterator[None]:
        """While open, a forward pass pools positions at[i] of sequence i into rows[i].

        Nothing is written before the pass is over, and nothing of a pass that fails.
        """
        if not on:
            yield
            return
        chosen = _Chosen.of(at, rows, self.pooling)
        pooled: list[torch.Tensor] = []
        with recorded(self.blocks, lambda hidden: pooled.append(chosen.pooled(hidden).to("cpu", non_blocking=True))):
            yield
        chosen.wait()  # the copies were on their way while the next blocks computed
        for index, matrix in enumerate(pooled):
            layer = Layer(self.stack, index)
            if layer not in self.buffers:
                self.buffers[layer] = torch.full((self.n_rows, matrix.shape[-1]), torch.nan)
            self.buffers[layer][chosen.rows] = matrix

    def values(self) -> dict[Layer, Floats]:
        """Layer -> (stimulus, hidden) float32, NaN where nothing was pooled."""
        return {layer: self.buffers[layer].numpy() for layer in sorted(self.buffers)}


@dataclass
class _Chosen:
    """Positions of a batch and where they go; on each device that has blocks the indices are put once.

    sequence, position, place: (chosen,) which state, and its place among `rows`. weight: (row,) of their sum; None
    where each row has one position.
    """

    sequence: torch.Tensor
    position: torch.Tensor
    place: torch.Tensor
    weight: torch.Tensor | None
    rows: torch.Tensor
    on: dict[torch.device, tuple[torch.Tensor, ...]]

    @classmethod
    def of(cls, at: Sequence[Any], rows: Sequence[Any], pooling: str) -> _Chosen:
        sequence = np.repeat(np.arange(len(at)), [len(a) for a in at])
        position = np.concatenate([np.asarray(a, dtype=np.int64) for a in at])
        wanted = np.concatenate([np.asarray(r, dtype=np.int64) for r in rows])
        row, place, count = np.unique(wanted, return_inverse=True, return_counts=True)
        if (count == 1).all():  # then it is a choice, and no sum
            order = np.argsort(place)
            sequence, position, place = sequence[order], position[order], place[order]
        single = (count == 1).all()
        weight = None if single else 1 / count if pooling != "sum" else np.ones(len(count))
        return cls(
            torch.from_numpy(sequence), torch.from_numpy(position), torch.from_numpy(place),
            None if weight is None else torch.from_numpy(weight).float(), torch.from_numpy(row), {},
        )  # fmt: skip

    def pooled(self, hidden: torch.Tensor) -> torch.Tensor:
        """(row, hidden) float32 of (sequence, token, hidden)."""
        device = hidden.device
        if device not in self.on:
            parts = (self.sequence, self.position, self.place, *([] if self.weight is None else [self.weight]))
            self.on[device] = tuple(part.to(device, non_blocking=True) for part in parts)
        sequence, position, place, *weight = self.on[device]
        states = hidden[sequence, position].float()
        if not weight:
            return states
        sums = states.new_zeros((len(self.rows), states.shape[-1]))
        return sums.index_add_(0, place, states) * weight[0][:, None]

    def wait(self) -> None:
        """Until the copies have come from every GPU."""
        for device in self.on:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
