"""A checkpoint -> a model that reads, whichever library holds it.

Every backend gives the same two things: a reader that encodes contexts, and a function that extracts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from harness.checkpoints.checkpoints import Checkpoint
from harness.protocol import AskedBackend, Backend, Dtype, Protocol
from harness.records import Extraction, Tokens


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        backend: the library that holds it.
        reader: encodes contexts (`encode(context, in_chat=)` gives Tokens).
        read: the extraction of that library, with the arguments of `harness.extraction.with_transformers.extract`.
    """

    backend: Backend
    reader: Any
    read: Callable[..., Extraction]

    def close(self) -> None:
        """Give back what it holds besides memory: an engine with processes of its own."""
        if self.backend == "vllm":
            from harness.extraction import with_vllm

            with_vllm.close(self.reader)

    def extract(self, tokens: Sequence[Tokens], how: Protocol, *, states: bool, log_probabilities: bool) -> Extraction:
        """Read contexts as a protocol says."""
        return self.read(
            self.reader, tokens, how.window, pooling=how.pooling, overlap=how.overlap, states=states,
            log_probabilities=log_probabilities, decoder_reads=how.decoder_reads, bos=how.bos,
        )  # fmt: skip


# Families whose every layer vLLM hands over, by its own implementation; others go through its generic one, which leaves
# out the embeddings, or give log-probabilities alone.
STATES_BY_VLLM = frozenset({"llama", "mistral", "qwen2", "qwen3"})
# Of its share of a GPU; the rest is for what it does not count.
MEMORY_OF_VLLM = 0.9
# From this size on tensor parallelism is worth an engine's start.
VLLM_PARAMETERS = 3e10


def choose(
    checkpoint: Checkpoint, asked: AskedBackend, device: str, dtype: Dtype, *, states: bool
) -> tuple[Backend, str]:
    """The library that reads a model, and why.

    transformers is the reference and reads everything. vLLM reads decoders of 30 billion parameters and more on GPUs,
    or whatever it can where it is asked for.

    Args:
        checkpoint: the model.
        asked: "auto", or one of the two.
        device: "cpu" or "cuda".
        dtype: of the weights.
        states: whether hidden states are wanted; else log-probabilities alone.
    """
    there = find_spec("vllm") is not None
    if asked == "transformers":
        return "transformers", "asked for"
    for reason, holds in (
        (f"vLLM reads no {checkpoint.stack}", checkpoint.stack != "decoder"),
        ("its adapter is merged by transformers alone", bool(checkpoint.adapter)),
        ("its weights are a difference, which vLLM does not add", bool(checkpoint.base_folder)),
        (f"its {checkpoint.quantization} weights are dequantised by transformers alone", bool(checkpoint.quantization)),
        ("int8 of bitsandbytes is read by transformers alone", dtype == "int8"),
        (f"vLLM hands over no states of {checkpoint.family}", states and checkpoint.family not in STATES_BY_VLLM),
        ("vLLM is not installed", not there),
        ("vLLM is for GPUs", asked == "auto" and device == "cpu"),
        ("under 30 billion parameters", asked == "auto" and checkpoint.n_parameters < VLLM_PARAMETERS),
    ):
        if holds:
            return "transformers", reason
    return "vllm", "asked for" if asked == "vllm" else "30 billion parameters or more, and its states are handed over"


def require_installed(asked: AskedBackend) -> None:
    """Raise ValueError where a library is asked for that is not here."""
    if asked == "vllm" and find_spec("vllm") is None:
        raise ValueError("vLLM is not installed: pip install 'brain-alignment-harness[vllm]', or use transformers.")


def load(
    backend: Backend,
    checkpoint: Checkpoint,
    device: str,
    dtype: Dtype = "float32",
    untrained_seed: int | None = None,
    *,
    n_gpus: int = 1,
    allow_pickle: bool = False,
    gpu_share: float = 1.0,
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
        gpu_share: of a GPU's memory, which vLLM takes at once; transformers takes what it needs.

    Raises:
        ValueError: if it cannot be loaded, does not fit into memory (`room.NoRoomError`), or its files have changed
            since it was resolved (`fingerprints.CheckpointChangedError`).
    """
    from harness.checkpoints import checkpoints

    checkpoints.require_planned(checkpoint)
    model = _load(
        backend, checkpoint, device, dtype, untrained_seed, n_gpus=n_gpus, allow_pickle=allow_pickle,
        gpu_share=gpu_share,
    )  # fmt: skip
    try:
        checkpoints.require_planned(checkpoint)  # nor changed while it was read
    except ValueError:
        model.close()
        raise
    return model


def _load(
    backend: Backend, checkpoint: Checkpoint, device: str, dtype: Dtype, untrained_seed: int | None, *, n_gpus: int,
    allow_pickle: bool, gpu_share: float,
) -> Model:  # fmt: skip
    if backend == "transformers":
        return load_transformers(checkpoint, device, dtype, untrained_seed, n_gpus=n_gpus, allow_pickle=allow_pickle)
    is_whole = not (checkpoint.base_folder or checkpoint.adapter or checkpoint.quantization)
    if untrained_seed is not None or not is_whole or dtype == "int8":
        raise ValueError(
            f"{checkpoint.name}: vLLM reads no untrained control, difference, adapter, quantised weights or int8; use "
            "transformers."
        )
    from harness.checkpoints.checkpoints import with_weights
    from harness.extraction import with_vllm

    states = checkpoint.family in STATES_BY_VLLM
    share = gpu_share * MEMORY_OF_VLLM
    loaded = with_vllm.load(with_weights(checkpoint), device, dtype, n_gpus, share, states=states)
    return Model("vllm", loaded, with_vllm.extract)


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
    from harness.checkpoints.checkpoints import with_weights
    from harness.extraction import with_transformers as extract
    from harness.loading import loaded_model as reader

    checkpoint = with_weights(checkpoint, allow_pickle)
    loaded = reader.load(checkpoint, device, untrained_seed, dtype, n_gpus=n_gpus, allow_pickle=allow_pickle)
    return Model("transformers", loaded, extract.extract)
