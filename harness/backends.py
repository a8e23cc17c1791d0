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
            log_probabilities=log_probabilities, decoder_reads=how.decoder_reads,
        )  # fmt: skip


def load(
    backend: Backend,
    checkpoint: Checkpoint,
    device: str,
    dtype: Dtype = "float32",
    untrained_seed: int | None = None,
    *,
    n_gpus: int = 1,
    allow_pickle: bool = False,
) -> Model:
    """Load a checkpoint, or its untrained twin, with a backend.

    Args:
        backend: the library.
        checkpoint: a resolved checkpoint.
        device: "cpu", "cuda" or "cuda:N".
        dtype: precision of the weights (`precision.dtype_of` chooses).
        untrained_seed: seed of re-initialised weights; None loads the trained ones.
        n_gpus: over so many GPUs.
        allow_pickle: whether pickled weights are read where there are no safetensors.

    Raises:
        ValueError: if it cannot be loaded, or does not fit into memory (`room.NoRoomError`).
    """
    if backend != "transformers":
        raise ValueError(f"backend {backend!r} is not there yet; use transformers.")
    return load_transformers(checkpoint, device, dtype, untrained_seed, n_gpus=n_gpus, allow_pickle=allow_pickle)


def load_transformers(
    checkpoint: Checkpoint,
    device: str,
    dtype: Dtype = "float32",
    untrained_seed: int | None = None,
    *,
    n_gpus: int = 1,
    allow_pickle: bool = False,
) -> Model:
    """Load with transformers; arguments and errors of `load`."""
    from harness import extract, reader
    from harness.checkpoints import with_weights

    checkpoint = with_weights(checkpoint, allow_pickle)
    loaded = reader.load(checkpoint, device, untrained_seed, dtype, n_gpus=n_gpus, allow_pickle=allow_pickle)
    return Model("transformers", loaded, extract.extract)
