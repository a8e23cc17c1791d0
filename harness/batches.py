"""Sequences of token ids -> batches that fit into memory.

Sorted by length, longest first, so many at once that their tokens with padding are within a budget. The same sequences
make the same batches on every machine, unless memory runs out: then batches are halved, and that is written down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.records import Integers
from harness.room import NoRoomError


@dataclass
class Batches:
    """How sequences were read.

    budget: tokens of a batch, padding included; less after memory ran out. n_sequences, n_tokens: read so far, without
    padding. n_oom, oom: how often memory ran out; what was said the last time. progress: is told the share done.
    """

    budget: int
    progress: Callable[[float], None] | None = None
    n_sequences: int = 0
    n_tokens: int = 0
    n_oom: int = 0
    oom: str = ""

    def read(self, items: Sequence[Any], length: Callable[[Any], int], forward: Callable[[list[Any]], None]) -> None:
        """Give all items to `forward`, batch by batch. A batch that did not fit is given again, in halves.

        Raises:
            NoRoomError: if one sequence alone does not fit.
        """
        ordered = sorted(items, key=length, reverse=True)
        total, start = sum(length(item) for item in ordered), 0
        already = self.n_tokens
        while start < len(ordered):
            longest = length(ordered[start])
            batch = ordered[start : start + max(1, self.budget // max(1, longest))]
            try:
                forward(batch)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._halve(len(batch), longest, error)
                continue
            start += len(batch)
            self.n_sequences += len(batch)
            self.n_tokens += sum(length(item) for item in batch)
            if self.progress and total:
                self.progress((self.n_tokens - already) / total)

    def _halve(self, n: int, longest: int, error: BaseException) -> None:
        self.n_oom += 1
        self.oom = (str(error).strip() or type(error).__name__).splitlines()[0]
        if n == 1:
            raise NoRoomError(
                f"one sequence of {longest} tokens does not fit into memory beside the weights ({self.oom}); use more "
                "GPUs, bfloat16 or a smaller window."
            ) from error
        self.budget = n // 2 * longest
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in said for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def padded(rows: Iterable[Integers], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded (sequence, token) ids and mask; padding after the text changes nothing in a causal stack."""
    parts = [torch.from_numpy(np.ascontiguousarray(row)) for row in rows]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(part) for part in parts], batch_first=True)
    ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    return ids.to(device, non_blocking=True), mask.to(device, non_blocking=True)
