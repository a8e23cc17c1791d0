"""Extract features with vLLM: large decoders, with tensor parallelism over several GPUs.

Windows and layers are those of with_transformers.py: layer 0 is the input of the first block, layer k the output of
block k before the final norm. Hidden states are pooled on the device (vllm_connector.py).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from harness.checkpoints.checkpoints import Checkpoint
from harness.extraction import predictions
from harness.extraction.heads import N_STATISTICS
from harness.extraction.with_transformers import facts_of
from harness.loading import architectures
from harness.loading.batches import Batches
from harness.loading.loaded_model import LoadedModel
from harness.protocol import Dtype
from harness.records import DEFAULT_EXTRACTION, Extraction, ExtractionSettings, Features, Floats, Layer, Tokens
from harness.text.tokens import Window, cut

# With prompt log-probabilities, the logits of this many tokens are in memory at once.
BATCH_TOKENS = 2048
# Maximum seconds between the end of a request and its file of pooled states.
_WRITE_S = 60.0


@dataclass(frozen=True)
class Engine:
    """vLLM with a model, in place of a transformers model.

    Attributes:
        llm: vLLM's engine.
        config: transformers configuration of the model.
        folder: folder for the files of pooled states.
    """

    llm: Any
    config: Any
    folder: tempfile.TemporaryDirectory[str]

    def get_input_embeddings(self) -> Any:
        """A stand-in for the embeddings that states their number."""
        return SimpleNamespace(num_embeddings=self.config.get_text_config().vocab_size)


def load(
    checkpoint: Checkpoint, device: str, dtype: Dtype, n_gpus: int = 1, memory_fraction: float = 0.9, *,
    states: bool = True,
) -> LoadedModel:  # fmt: skip
    """Start vLLM with a checkpoint.

    Args:
        checkpoint: a decoder with its weights on this machine.
        device: "cpu" or "cuda".
        dtype: precision of the weights; not int8.
        n_gpus: number of GPUs for tensor parallelism.
        memory_fraction: fraction of each GPU's memory, for weights and cache together.
        states: whether hidden states will be needed besides log-probabilities.

    Raises:
        ValueError: if vLLM cannot load it.
    """
    _configure()
    architecture = architectures.read(checkpoint.folder, checkpoint.name)
    limit = checkpoint.context_size or BATCH_TOKENS
    folder = tempfile.TemporaryDirectory(prefix="harness-states-", ignore_cleanup_errors=True)
    options = _state_options(architecture.model_config.n_blocks["decoder"], folder.name) if states else {}
    if device != "cpu":
        options["gpu_memory_utilization"] = memory_fraction
    try:
        from vllm import LLM

        llm = LLM(
            model=checkpoint.folder, dtype=dtype, tensor_parallel_size=n_gpus, max_model_len=limit + 1,
            max_num_batched_tokens=BATCH_TOKENS, enable_chunked_prefill=True, enable_prefix_caching=False,
            enforce_eager=True, trust_remote_code=False, seed=0, disable_log_stats=True, max_num_seqs=32, **options,
        )  # fmt: skip
    except Exception as error:
        folder.cleanup()
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{checkpoint.name}: vLLM cannot load it: {reason}; use transformers.") from error
    return LoadedModel(
        Engine(llm, architecture.config, folder), architecture.tokenizer, architecture.stack,
        architecture.special.prefix, limit, torch.device(device), dtype=dtype, notes=architecture.special.notes,
    )  # fmt: skip


def _configure() -> None:
    """Set vLLM's environment variables."""
    # In this process: another process would be asked for files before it has written them.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # A window may be as long as the model's limit; vLLM must generate one token after it, which is not used.
    os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def _state_options(n_blocks: int, folder: str) -> dict[str, Any]:
    """Options that make vLLM return the hidden states of every layer, pooled, in files in a folder."""
    return {
        "speculative_config": {
            "method": "extract_hidden_states", "num_speculative_tokens": 1,
            "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": list(range(n_blocks + 1))}},
        },
        "kv_transfer_config": {
            "kv_connector": "PooledStates", "kv_connector_module_path": "harness.extraction.vllm_connector",
            "kv_role": "kv_producer",
            "kv_connector_extra_config": {"shared_storage_path": folder, "use_synchronization_lock": False},
        },
    }  # fmt: skip


def close(loaded: LoadedModel) -> None:
    """Stop vLLM: end its processes, release GPU memory, and delete the folder."""
    import gc

    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    engine: Engine = loaded.model
    engine.llm.llm_engine.engine_core.shutdown()
    engine.folder.cleanup()
    gc.collect()
    cleanup_dist_env_and_memory()


def extract(
    loaded: LoadedModel, tokens: Sequence[Tokens], settings: ExtractionSettings = DEFAULT_EXTRACTION, *,
    states: bool = True, log_probabilities: bool = True,
) -> Extraction:  # fmt: skip
    """Extract features of contexts; arguments and result as in `with_transformers.extract`.

    vLLM returns each token's log-probability and rank but not the whole distribution: entropies and breaks are NaN.
    It does not support encoder-decoders, so that `settings.decoder_reads` has no effect.
    """
    started, llm, pooling = time.perf_counter(), loaded.model.llm, settings.pooling
    limit = min(settings.window, loaded.limit)
    windows = cut(tokens, limit, loaded.prefix, settings.overlap, pooling, settings.bos)
    outputs = _generate(llm, windows, pooling, states=states, log_probabilities=log_probabilities)
    ids = tuple(stimulus_id for context_tokens in tokens for stimulus_id in context_tokens.stimulus_ids)
    token_predictions = predictions.unknown(tokens, windows)
    pooled: dict[Layer, Floats] = {}
    for window, output in zip(windows, outputs, strict=True):
        if states and len(window.at):
            window_states = _pooled_states(llm, output.kv_transfer_params["hidden_states_path"])
            _store_states(pooled, window, window_states, len(ids))
        if log_probabilities:
            predictions.record_window(token_predictions, window, _statistics(window, output.prompt_logprobs))
    batches = Batches(BATCH_TOKENS, n_sequences=len(windows), n_tokens=sum(len(window.ids) for window in windows))
    facts = facts_of(loaded, tokens, batches, time.perf_counter() - started, settings) | {"device": str(loaded.device)}
    features = Features(pooled, ids) if states else None
    return Extraction(features, token_predictions if log_probabilities else None, facts)


def _generate(llm: Any, windows: Sequence[Window], pooling: str, *, states: bool, log_probabilities: bool) -> list[Any]:
    """Run vLLM; gives its output for each window."""
    from vllm import SamplingParams

    parameters = []
    for window in windows:
        pool = _pool(window, pooling) if states and len(window.at) else None
        extra = {"kv_transfer_params": {"pool": pool}} if pool else None
        logprobs = 0 if log_probabilities else None
        parameters.append(SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=logprobs, extra_args=extra))
    prompts = [{"prompt_token_ids": [int(i) for i in window.ids]} for window in windows]
    outputs: list[Any] = llm.generate(prompts, parameters, use_tqdm=False)
    return outputs


def _pool(window: Window, pooling: str) -> dict[str, Any]:
    """The fields of the connector's `PooledSave`: positions, and the index of each one's stimulus in the window."""
    rows, row_index = np.unique(window.rows, return_inverse=True)
    return {
        "at": [int(i) for i in window.at], "place": [int(i) for i in row_index], "n_rows": len(rows),
        "adds_up": pooling == "sum",
    }  # fmt: skip


def _store_states(pooled: dict[Layer, Floats], window: Window, states: Floats, n_rows: int) -> None:
    """Store a window's (layer, row, hidden) states in the matrix of each layer."""
    rows = np.unique(window.rows)
    for index, matrix in enumerate(states):
        layer = Layer("decoder", index)
        if layer not in pooled:
            pooled[layer] = np.full((n_rows, matrix.shape[-1]), np.nan, dtype=np.float32)
        pooled[layer][rows] = matrix


def _pooled_states(llm: Any, path: str) -> Floats:
    """Read and delete the connector's file, which vLLM writes in the step after the one that ends a request."""
    from safetensors.numpy import load_file

    deadline = time.monotonic() + _WRITE_S
    while not Path(path).is_file():
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"vLLM wrote no hidden states to {path} within {_WRITE_S:.0f} s; check that its disk is not full."
            )
        llm.llm_engine.step()
    states: Floats = load_file(path)["states"]
    Path(path).unlink()
    return states


def _statistics(window: Window, logprobs: list[Any]) -> Floats:
    """(position, 4) statistics as in predictions.py, NaN where vLLM states none."""
    at = predictions.positions(window) + window.n_prefix
    statistics = np.full((len(at), N_STATISTICS), np.nan)
    for row, position in zip(statistics, at[at < len(window.ids)], strict=False):
        token = logprobs[position][int(window.ids[position])]
        row[:2] = token.logprob, token.rank
    return statistics
