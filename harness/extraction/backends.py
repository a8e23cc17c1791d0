"""Load a checkpoint with transformers or vLLM, behind one interface.

Both backends give a loaded model that encodes contexts, and a function that extracts features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from harness.checkpoints.checkpoints import Checkpoint
from harness.protocol import AskedBackend, Backend, Dtype, Protocol
from harness.records import Extraction, ExtractionSettings, Tokens


@dataclass(frozen=True)
class Model:
    """A loaded model with its backend.

    Attributes:
        backend: the library that runs it.
        loaded: the `LoadedModel`, which encodes contexts (`encode(context, in_chat=)` gives Tokens).
        extract_with: the backend's extraction function, with the arguments of `with_transformers.extract`.
    """

    backend: Backend
    loaded: Any
    extract_with: Callable[..., Extraction]

    def close(self) -> None:
        """Release what the model holds besides memory: vLLM's engine and its processes."""
        if self.backend == "vllm":
            from harness.extraction import with_vllm

            with_vllm.close(self.loaded)

    def extract(
        self, tokens: Sequence[Tokens], protocol: Protocol, *, states: bool, log_probabilities: bool
    ) -> Extraction:
        """Extract features of contexts, with a protocol's settings."""
        settings = ExtractionSettings(
            protocol.window, protocol.pooling, protocol.overlap, protocol.decoder_reads, protocol.bos
        )
        return self.extract_with(self.loaded, tokens, settings, states=states, log_probabilities=log_probabilities)


# Families whose own vLLM implementation returns the states of every layer. The generic implementation, used for others,
# leaves out the embeddings or returns log-probabilities only.
STATES_BY_VLLM = frozenset({"llama", "mistral", "qwen2", "qwen3"})
# Fraction of its GPU memory that vLLM may use; the rest is for allocations that it does not count.
MEMORY_OF_VLLM = 0.9
# From this size on tensor parallelism is worth the time to start an engine.
VLLM_PARAMETERS = 3e10


def choose(
    checkpoint: Checkpoint, asked: AskedBackend, device: str, dtype: Dtype, *, states: bool
) -> tuple[Backend, str]:
    """Choose the backend for a model, with the reason.

    transformers is the reference and supports all models. vLLM is chosen for decoders of 30 billion parameters and more
    on GPUs, and if requested for every model that it supports.

    Args:
        checkpoint: the model.
        asked: "auto", "transformers" or "vllm".
        device: "cpu" or "cuda".
        dtype: precision of the weights.
        states: whether hidden states are needed, or only log-probabilities.
    """
    is_installed = find_spec("vllm") is not None
    if asked == "transformers":
        return "transformers", "requested"
    for reason, applies in (
        (f"vLLM does not support an {checkpoint.stack}", checkpoint.stack != "decoder"),
        ("only transformers merges its adapter", bool(checkpoint.adapter)),
        ("its weights are a difference, which vLLM cannot add", bool(checkpoint.base_folder)),
        (f"only transformers dequantises its {checkpoint.quantization} weights", bool(checkpoint.quantization)),
        ("only transformers supports int8 (bitsandbytes)", dtype == "int8"),
        (f"vLLM returns no hidden states of {checkpoint.family}", states and checkpoint.family not in STATES_BY_VLLM),
        ("vLLM is not installed", not is_installed),
        ("vLLM is chosen automatically only on GPUs", asked == "auto" and device == "cpu"),
        ("under 30 billion parameters", asked == "auto" and checkpoint.n_parameters < VLLM_PARAMETERS),
    ):
        if applies:
            return "transformers", reason
    return "vllm", "requested" if asked == "vllm" else "30 billion parameters or more, in a family that vLLM supports"


def require_installed(asked: AskedBackend) -> None:
    """Raise ValueError if vLLM is requested but not installed."""
    if asked == "vllm" and find_spec("vllm") is None:
        raise ValueError("vLLM is not installed: pip install 'brain-alignment-harness[vllm]', or use transformers.")


def load(
    backend: Backend, checkpoint: Checkpoint, device: str, dtype: Dtype = "float32", untrained_seed: int | None = None,
    *, n_gpus: int = 1, allow_pickle: bool = False, gpu_share: float = 1.0,
) -> Model:  # fmt: skip
    """Load a checkpoint, or its untrained control, with a backend.

    Args:
        backend: "transformers" or "vllm".
        checkpoint: a resolved checkpoint.
        device: "cpu", "cuda" or "cuda:N".
        dtype: precision of the weights (`precision.dtype_of` chooses).
        untrained_seed: seed of the random initialisation; None loads the trained weights.
        n_gpus: number of GPUs.
        allow_pickle: whether to read pickled weights where there are no safetensors.
        gpu_share: fraction of a GPU's memory for vLLM, which allocates it at once; transformers allocates as needed.

    Raises:
        ValueError: if it cannot be loaded, does not fit into memory (`memory.InsufficientMemoryError`), or its files
            have changed since it was resolved (`fingerprints.CheckpointChangedError`).
    """
    from harness.checkpoints import checkpoints

    checkpoints.require_unchanged(checkpoint)
    if backend == "transformers":
        model = load_transformers(checkpoint, device, dtype, untrained_seed, n_gpus, allow_pickle)
    else:
        model = _load_vllm(checkpoint, device, dtype, untrained_seed, n_gpus, gpu_share * MEMORY_OF_VLLM)
    try:
        checkpoints.require_unchanged(checkpoint)  # files may also change during loading
    except ValueError:
        model.close()
        raise
    return model


def _load_vllm(
    checkpoint: Checkpoint, device: str, dtype: Dtype, untrained_seed: int | None, n_gpus: int, memory_fraction: float
) -> Model:
    is_plain = not (checkpoint.base_folder or checkpoint.adapter or checkpoint.quantization)
    if untrained_seed is not None or not is_plain or dtype == "int8":
        raise ValueError(
            f"{checkpoint.name}: vLLM loads no untrained control, difference, adapter, quantised weights or int8; use "
            "transformers."
        )
    from harness.checkpoints.checkpoints import with_weights
    from harness.extraction import with_vllm

    states = checkpoint.family in STATES_BY_VLLM
    loaded = with_vllm.load(with_weights(checkpoint), device, dtype, n_gpus, memory_fraction, states=states)
    return Model("vllm", loaded, with_vllm.extract)


def load_transformers(
    checkpoint: Checkpoint, device: str, dtype: Dtype, untrained_seed: int | None, n_gpus: int, allow_pickle: bool
) -> Model:
    """Load with transformers; arguments and errors as in `load`."""
    from harness.checkpoints.checkpoints import with_weights
    from harness.extraction import with_transformers
    from harness.loading import loaded_model

    checkpoint = with_weights(checkpoint, allow_pickle)
    loaded = loaded_model.load(checkpoint, device, untrained_seed, dtype, n_gpus=n_gpus, allow_pickle=allow_pickle)
    return Model("transformers", loaded, with_transformers.extract)
