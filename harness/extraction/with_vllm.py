"""Token ids -> hidden states and log-probabilities, with vLLM: large decoders, their blocks cut over several GPUs.

The windows are those of harness/extraction/with_transformers.py, and so are the layers: 0 is the input of the first
block, k the output of block k before the final norm. The states are pooled on the device (vllm_connector.py).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from harness.checkpoints.checkpoints import Checkpoint
from harness.loading import architectures
from harness.loading.loaded_model import LoadedModel
from harness.protocol import Dtype
from harness.records import Extraction, Features, Floats, Layer, Predictions, Tokens
from harness.text.tokens import Window, cut

# With prompt log-probabilities the logits of so many tokens are in memory at once.
BATCH_TOKENS = 2048
# How long a file of pooled states may take once its request has ended.
_WRITE_S = 60.0


@dataclass(frozen=True)
class Engine:
    """vLLM with a model in it, in the place of a model of transformers. folder: where pooled states are handed over."""

    llm: Any
    config: Any
    folder: tempfile.TemporaryDirectory[str]

    def get_input_embeddings(self) -> Any:
        """How many token ids the model knows."""
        return SimpleNamespace(num_embeddings=self.config.get_text_config().vocab_size)


def load(
    checkpoint: Checkpoint,
    device: str,
    dtype: Dtype,
    n_gpus: int = 1,
    memory_share: float = 0.9,
    *,
    states: bool = True,
) -> LoadedModel:  # fmt: skip
    """Start vLLM with a checkpoint.

    Args:
        checkpoint: a decoder's, its weights on this machine.
        device: "cpu" or "cuda".
        dtype: of the weights; not int8.
        n_gpus: tensor parallelism.
        memory_share: of each GPU's memory, for weights and cache together.
        states: whether hidden states will be asked for, besides log-probabilities.

    Raises:
        ValueError: if vLLM cannot load it.
    """
    # In this process: an engine in another would be asked for files that it has not written yet.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # A window may be as long as the model reads; the token that vLLM must draw after it is not read.
    os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    architecture = architectures.read(checkpoint.folder, checkpoint.name)
    limit = checkpoint.context_size or BATCH_TOKENS
    folder = tempfile.TemporaryDirectory(prefix="harness-states-", ignore_cleanup_errors=True)
    n_blocks = architecture.described.n_blocks["decoder"]
    handing_over: dict[str, Any] = {
        "speculative_config": {
            "method": "extract_hidden_states", "num_speculative_tokens": 1,
            "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": list(range(n_blocks + 1))}},
        },
        "kv_transfer_config": {
            "kv_connector": "PooledStates", "kv_connector_module_path": "harness.extraction.vllm_connector",
            "kv_role": "kv_producer",
            "kv_connector_extra_config": {"shared_storage_path": folder.name, "use_synchronization_lock": False},
        },
    }  # fmt: skip
    try:
        from vllm import LLM

        llm = LLM(
            model=checkpoint.folder, dtype=dtype, tensor_parallel_size=n_gpus, max_model_len=limit + 1,
            max_num_batched_tokens=BATCH_TOKENS, enable_chunked_prefill=True, enable_prefix_caching=False,
            enforce_eager=True, trust_remote_code=False, seed=0, disable_log_stats=True, max_num_seqs=32,
            **({} if device == "cpu" else {"gpu_memory_utilization": memory_share}),
            **(handing_over if states else {}),
        )  # fmt: skip
    except Exception as error:
        folder.cleanup()
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{checkpoint.name}: vLLM cannot load it: {said}") from error
    engine = Engine(llm, architecture.config, folder)
    return LoadedModel(
        engine,
        architecture.tokenizer,
        architecture.stack,
        architecture.special.prefix,
        limit,
        torch.device(device),
        dtype=dtype,
        notes=architecture.notes,
    )


def close(reader: LoadedModel) -> None:
    """End vLLM: its processes, its share of the GPUs, and the folder."""
    import gc

    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    engine: Engine = reader.model
    engine.llm.llm_engine.engine_core.shutdown()
    engine.folder.cleanup()
    gc.collect()
    cleanup_dist_env_and_memory()


def extract(
    reader: LoadedModel,
    tokens: Sequence[Tokens],
    window: int = 2048,
    *,
    pooling: str = "last",
    states: bool = True,
    log_probabilities: bool = True,
    overlap: float = 0.5,
    decoder_reads: str = "stimulus",  # noqa: ARG001 - of T5, which vLLM does not read
    bos: str = "window",
    progress: Callable[[float], None] | None = None,
) -> Extraction:
    """Read the contexts; arguments and result of `harness.extraction.with_transformers.extract`.

    vLLM tells each token's log-probability and rank, not what else was expected: entropies and breaks are NaN.
    """
    from vllm import SamplingParams

    if pooling not in {"last", "mean", "sum"}:
        raise ValueError(f"pooling {pooling!r} is unknown; use one of last, mean, sum.")
    started, engine = time.perf_counter(), reader.model
    windows = cut(tokens, min(window, reader.limit), reader.prefix, overlap, pooling, bos)
    asked = []
    for each in windows:
        pool = _pool(each, pooling) if states and len(each.at) else None
        params = {"kv_transfer_params": {"pool": pool}} if pool else None
        logs = 0 if log_probabilities else None
        asked.append(SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=logs, extra_args=params))
    prompts = [{"prompt_token_ids": [int(i) for i in each.ids]} for each in windows]
    outputs = engine.llm.generate(prompts, asked, use_tqdm=False)
    ids = tuple(i for read in tokens for i in read.stimulus_ids)
    expected = tuple(Predictions.unknown(len(read.ids)) for read in tokens)
    pooled: dict[Layer, Floats] = {}
    for k, (each, output) in enumerate(zip(windows, outputs, strict=True)):
        if states and len(each.at):
            _put(pooled, each, _handed_over(engine.llm, output.kv_transfer_params["hidden_states_path"]), len(ids))
        if log_probabilities:
            _note(expected[each.context], each, output.prompt_logprobs, tokens[each.context])
        if progress:
            progress((k + 1) / len(windows))
    seconds, n_tokens = time.perf_counter() - started, sum(len(each.ids) for each in windows)
    facts = {
        "n_windows": len(windows), "n_reencoded": sum(len(read.apart) for read in tokens), "bos": bos,
        "batch_tokens": BATCH_TOKENS, "n_oom": 0, "oom": "", "seconds": seconds,
        "tokens_per_second": n_tokens / seconds, "device": str(reader.device), "pooling": pooling,
    }  # fmt: skip
    return Extraction(Features(pooled, ids) if states else None, expected if log_probabilities else None, facts)


def _pool(window: Window, pooling: str) -> dict[str, Any]:
    """What the connector is told: positions, and each one's place among the window's stimuli."""
    rows, place = np.unique(window.rows, return_inverse=True)
    return {
        "at": [int(i) for i in window.at], "place": [int(i) for i in place], "n_rows": len(rows),
        "adds_up": pooling == "sum",
    }  # fmt: skip


def _put(pooled: dict[Layer, Floats], window: Window, states: Floats, n_rows: int) -> None:
    """(layer, row, hidden) of a window into the matrix of each layer."""
    rows = np.unique(window.rows)
    for index, matrix in enumerate(states):
        layer = Layer("decoder", index)
        if layer not in pooled:
            pooled[layer] = np.full((n_rows, matrix.shape[-1]), np.nan, dtype=np.float32)
        pooled[layer][rows] = matrix


def _handed_over(llm: Any, path: str) -> Floats:
    """The file that the connector wrote: vLLM writes it in the step after the one in which a request ends."""
    from safetensors.numpy import load_file

    until = time.monotonic() + _WRITE_S
    while not Path(path).is_file():
        if time.monotonic() > until:
            raise RuntimeError(f"vLLM handed over no states in {_WRITE_S:.0f} s; is the disk of {path} full?")
        llm.llm_engine.step()
    states: Floats = load_file(path)["states"]
    Path(path).unlink()
    return states


def _note(expected: Predictions, window: Window, said: list[Any], read: Tokens) -> None:
    """Write down what a window answers for; of a first token that nothing precedes nothing is said."""
    target = expected
    if window.apart >= 0:
        target = expected.apart.setdefault(window.apart, Predictions.unknown(len(read.apart[window.apart].ids)))
    offset = window.start - (window.first if window.apart >= 0 else 0)
    for t in range(max(window.first - window.start, 1 - window.n_prefix, 0), len(window.ids) - window.n_prefix):
        token = said[t + window.n_prefix][int(window.ids[t + window.n_prefix])]
        target.log_probabilities[offset + t], target.ranks[offset + t] = token.logprob, token.rank
