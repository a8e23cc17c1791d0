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

from harness.loading.memory import InsufficientMemoryError
from harness.records import Integers

# Largest change of a text's states by padding after it that is rounding, by the largest state; and the length to which
# twelve tokens are padded to see it.
PADDING_SHARE, PADDING_ROUNDINGS = 1e-5, 8
_PADDED_TO = 19


@dataclass
class Batches:
    """How sequences were read.

    budget: tokens of a batch, padding included; less after memory ran out. same_length: whether the sequences of a
    batch have one length, for models whose states change with padding. n_sequences, n_tokens: read so far, without
    padding. n_oom, oom: how often memory ran out; what was said the last time. progress: is told the share done.
    """

    budget: int
    progress: Callable[[float], None] | None = None
    same_length: bool = False
    n_sequences: int = 0
    n_tokens: int = 0
    n_oom: int = 0
    oom: str = ""

    def read(
        self,
        items: Sequence[Any],
        length: Callable[[Any], int],
        forward: Callable[[list[Any]], None],
        shape: Callable[[Any], Any] | None = None,
    ) -> None:
        """Give all items to `forward`, batch by batch. A batch that did not fit is given again, in halves.

        Args:
            items: the sequences.
            length: tokens of one.
            forward: runs a batch.
            shape: what the items of a batch must share where it is not padded; None: the length.

        Raises:
            NoRoomError: if one sequence alone does not fit.
        """
        shape = shape or length
        ordered = sorted(items, key=(lambda item: (length(item), shape(item))) if self.same_length else length,
                         reverse=True)  # fmt: skip
        total, start = sum(length(item) for item in ordered), 0
        already = self.n_tokens
        while start < len(ordered):
            longest = length(ordered[start])
            batch = ordered[start : start + max(1, self.budget // max(1, longest))]
            if self.same_length:
                batch = [item for item in batch if shape(item) == shape(batch[0])]
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
            raise InsufficientMemoryError(
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


def changes_with_padding(run: Callable[..., torch.Tensor], n_embeddings: int, device: torch.device) -> bool:
    """Whether the states of a text change with padding after it: tried with twelve tokens, alone and padded.

    Models that mix all positions without a mask (FNet), or that approximate attention over blocks of a text
    (Nystromformer, YOSO), or look at the next token's embedding (MobileBERT) do.

    Args:
        run: (input_ids, attention_mask) -> (sequence, token, hidden) states.
        n_embeddings: how many token ids the model knows.
        device: where ids go.
    """
    text = torch.arange(5, 17) % n_embeddings
    alone_ids, alone_mask = padded([text.numpy()], device)
    both_ids, both_mask = padded([text.numpy(), np.resize(text.numpy(), _PADDED_TO)], device)
    with torch.inference_mode():
        alone = run(alone_ids, alone_mask)[0, : len(text)].float()
        beside = run(both_ids, both_mask)[0, : len(text)]
    allowed = max(PADDING_SHARE, PADDING_ROUNDINGS * torch.finfo(beside.dtype).eps)
    return bool((alone - beside.float()).abs().max() > allowed * alone.abs().max())
