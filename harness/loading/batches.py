"""Split token sequences into batches that fit into memory.

Sequences are sorted by length, longest first, and a batch holds as many as its token budget allows, padding included.
The same sequences give the same batches on every machine, unless memory runs out: then batches are halved, and the
number of halvings is recorded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.loading.memory import InsufficientMemoryError
from harness.records import Integers

# Test for sensitivity to padding: twelve tokens, alone and in a batch padded to 19. A larger change than this fraction
# of the largest hidden state, or this many roundings of the precision, is not rounding.
PADDING_FRACTION, PADDING_ROUNDINGS = 1e-5, 8
_PADDED_LENGTH = 19


@dataclass
class Batches:
    """Runs sequences in batches and keeps count.

    Attributes:
        budget: tokens per batch, padding included; reduced when memory runs out.
        same_length: whether all sequences of a batch must have one length (models whose states change with padding).
        n_sequences, n_tokens: processed so far, without padding.
        n_oom, oom: how often memory ran out; the last message.
    """

    budget: int
    same_length: bool = False
    n_sequences: int = 0
    n_tokens: int = 0
    n_oom: int = 0
    oom: str = ""

    def run(
        self, items: Sequence[Any], length: Callable[[Any], int], forward: Callable[[list[Any]], None],
        shape: Callable[[Any], Any] | None = None,
    ) -> None:  # fmt: skip
        """Call `forward` on all items, batch by batch. A batch that runs out of memory is halved and run again.

        Args:
            items: the sequences.
            length: number of tokens of an item.
            forward: runs one batch.
            shape: what all items of a batch must have in common if `same_length` is set; None: the length.

        Raises:
            InsufficientMemoryError: if a single sequence does not fit.
        """
        shape = shape or length
        ordered = sorted(items, key=(lambda item: (length(item), shape(item))) if self.same_length else length,
                         reverse=True)  # fmt: skip
        start = 0
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

    def _halve(self, batch_size: int, longest: int, error: BaseException) -> None:
        self.n_oom += 1
        self.oom = (str(error).strip() or type(error).__name__).splitlines()[0]
        if batch_size == 1:
            raise InsufficientMemoryError(
                f"one sequence of {longest} tokens does not fit into memory beside the weights ({self.oom}); use more "
                "GPUs, bfloat16 or a smaller window."
            ) from error
        self.budget = batch_size // 2 * longest
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    is_stated = re.search("out of memory|can't allocate memory|not enough memory", str(error), re.IGNORECASE)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(is_stated)


def padded(rows: Iterable[Integers], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded (sequence, token) ids and mask; in a causal stack, padding after the text changes nothing."""
    sequences = [torch.from_numpy(np.ascontiguousarray(row)) for row in rows]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(sequence) for sequence in sequences], batch_first=True)
    ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    return ids.to(device, non_blocking=True), mask.to(device, non_blocking=True)


def changes_with_padding(run: Callable[..., torch.Tensor], n_embeddings: int, device: torch.device) -> bool:
    """Whether padding after a text changes its hidden states; tested with twelve tokens, alone and padded.

    It does in models that mix all positions without a mask (FNet), that approximate attention over blocks of a text
    (Nystromformer, YOSO), or that use the next token's embedding (MobileBERT).

    Args:
        run: (input_ids, attention_mask) -> (sequence, token, hidden) states.
        n_embeddings: number of token ids of the model.
        device: device for the ids.
    """
    text = torch.arange(5, 17) % n_embeddings
    alone_ids, alone_mask = padded([text.numpy()], device)
    batch_ids, batch_mask = padded([text.numpy(), np.resize(text.numpy(), _PADDED_LENGTH)], device)
    with torch.inference_mode():
        alone = run(alone_ids, alone_mask)[0, : len(text)].float()
        in_batch = run(batch_ids, batch_mask)[0, : len(text)]
    allowed = max(PADDING_FRACTION, PADDING_ROUNDINGS * torch.finfo(in_batch.dtype).eps)
    return bool((alone - in_batch.float()).abs().max() > allowed * alone.abs().max())
