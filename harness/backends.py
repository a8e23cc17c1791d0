"""A checkpoint -> a model that reads, whichever library holds it.

Every backend gives the same two things: a reader that encodes contexts, and a function that extracts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.checkpoints import Checkpoint
from harness.records import Extraction, Tokens
from harness.spec import Backend, Dtype, Protocol


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        backend: the library that holds it.
        reader: encodes contexts (`encode(context, in_chat=)` gives Tokens).
        read: the extraction of that library, with the arguments of `harness.extract.extract`.
    """

    backend: Backend
    reader: Any
    read: Callable[..., Extraction]

    def extract(self, tokens: Sequence[Tokens], how: Protocol, *, states: bool, log_probabilities: bool) -> Extraction:
        """Read contexts as a protocol says."""
        return self.read(
            self.reader, tokens, how.window, pooling=how.pooling, overlap=how.overlap, states=states,
            log_probabilities=log_probabilities,
        )  # fmt: skip


def load(
    backend: Backend, checkpoint: Checkpoint, device: str, dtype: Dtype = "float32", untrained_seed: int | None = None
) -> Model:
    """Load a checkpoint, or its untrained twin, with a backend; ValueError where it cannot be loaded."""
    from harness import extract, reader

    if backend != "transformers":
        raise ValueError(f"backend {backend!r} is not there yet; use transformers.")
    if dtype != "float32":
        raise ValueError(f"dtype {dtype!r} is not there yet; use float32.")
    return Model(backend, reader.load(checkpoint, device, untrained_seed), extract.extract)
