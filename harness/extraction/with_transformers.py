"""Extract features with transformers: token ids -> hidden states -> one vector per layer and stimulus.

A stimulus is represented by the state at its last token, or by the mean or sum over its tokens. Hooks on the blocks
pool on the device, so that only one (stimulus, hidden) matrix per layer is copied to the CPU. Layer 0 is the input of
the first block (the embeddings), layer k the output of block k **before** the final norm; transformers' own last
hidden state has the norm applied.

A decoder processes each window once, which gives the states of every stimulus in it and the prediction of every token
(predictions.py). A stimulus whose prefix is tokenised differently from the whole text (text/boundaries.py) is processed
by itself, and counted. A bidirectional encoder processes the prefix of each stimulus by itself (encoders.py). The paper
does not state the input of T5's decoder; `decoder_reads` has three options.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from harness.extraction import encoders, heads, predictions
from harness.extraction.pooling import StatePool
from harness.loading.batches import Batches, padded
from harness.loading.blocks import blocks_of
from harness.loading.loaded_model import LoadedModel
from harness.records import DEFAULT_EXTRACTION, Extraction, ExtractionSettings, Features, Predictions, Tokens
from harness.text.tokens import Window, cut

BATCH_TOKENS = 8192


def extract(
    loaded: LoadedModel, tokens: Sequence[Tokens], settings: ExtractionSettings = DEFAULT_EXTRACTION, *,
    states: bool = True, log_probabilities: bool = True,
) -> Extraction:  # fmt: skip
    """Extract hidden states and log-probabilities of contexts.

    Args:
        loaded: a loaded model.
        tokens: one per context.
        settings: windows, pooling, BOS, and what the decoder of an encoder-decoder reads.
        states: whether to pool hidden states, at every layer.
        log_probabilities: whether to compute the predictions of every token.

    Returns:
        Extraction; features are layer -> (stimulus, hidden) float32 in the order of the contexts, NaN rows where a
        stimulus has no token. facts: n_windows, n_reencoded, batch_tokens, n_oom, oom, seconds, tokens_per_second,
        device, pooling, bos, notes.

    Raises:
        ValueError: if predictions are requested of an encoder or of a T5 whose decoder reads nothing, or if a stimulus
            does not fit T5's decoder.
        memory.InsufficientMemoryError: if a single sequence does not fit into memory.
    """
    if log_probabilities:
        _require_predictions(loaded, settings.decoder_reads)
    started = time.perf_counter()
    ids = tuple(stimulus_id for context_tokens in tokens for stimulus_id in context_tokens.stimulus_ids)
    batches = Batches(BATCH_TOKENS, same_length=not loaded.is_padded)
    is_causal = loaded.stack == "decoder" or settings.decoder_reads == "text"
    limit, pooling = min(settings.window, loaded.limit), settings.pooling
    pool, token_predictions = None, None
    if is_causal and (log_probabilities or (states and loaded.stack != "encoder")):
        # T5's decoder always needs its start token.
        bos = settings.bos if loaded.stack == "decoder" else "window"
        windows = cut(tokens, limit, loaded.prefix, settings.overlap, pooling, bos)
        pool = StatePool("decoder", blocks_of(loaded.model, "decoder"), len(ids), pooling)
        token_predictions = _run_windows(loaded, tokens, windows, pool, states, log_probabilities, batches)
    pooled = pool.values() if pool else {}
    per_stimulus = log_probabilities and not is_causal
    if loaded.stack != "decoder" and (states or per_stimulus):
        decoder_input = settings.decoder_reads if loaded.is_encoder_decoder else "text"
        by_stimulus = predictions.unknown(tokens) if per_stimulus else ()
        inputs = encoders.encoder_inputs(loaded, tokens, limit, pooling, decoder_input, whole=per_stimulus)
        pooled |= encoders.extract(loaded, list(inputs), len(ids), pooling, batches, by_stimulus, states=states)
        token_predictions = by_stimulus or token_predictions
    facts = facts_of(loaded, tokens, batches, time.perf_counter() - started, settings)
    return Extraction(Features(pooled, ids) if states else None, token_predictions, facts)


def facts_of(
    loaded: LoadedModel, tokens: Sequence[Tokens], batches: Batches, seconds: float, settings: ExtractionSettings
) -> dict[str, object]:
    """How contexts were extracted, for the manifest of the unit."""
    device = torch.cuda.get_device_name(loaded.device) if loaded.device.type == "cuda" else loaded.device.type
    n_reencoded = sum(len(context_tokens.retokenised) for context_tokens in tokens)
    facts: dict[str, object] = {
        "n_windows": batches.n_sequences, "n_reencoded": n_reencoded, "bos": settings.bos,
        "batch_tokens": batches.budget, "n_oom": batches.n_oom, "oom": batches.oom, "seconds": seconds,
        "tokens_per_second": batches.n_tokens / seconds, "device": str(device),
        "pooling": settings.pooling, "notes": " ".join(loaded.notes),
    }  # fmt: skip
    return facts | ({"dtype": f"{loaded.dtype}, {loaded.quantization}"} if loaded.quantization else {})


def _require_predictions(loaded: LoadedModel, decoder_reads: str) -> None:
    if loaded.stack == "encoder":
        raise ValueError(
            f"{loaded.model.config.model_type} is a bidirectional encoder, which gives no next-token probabilities; "
            "request hidden states only, or use a decoder."
        )
    if loaded.is_encoder_decoder and decoder_reads == "nothing":
        raise ValueError(
            "a decoder that reads nothing gives no token probabilities; use decoder_reads text or stimulus."
        )


# --- a causal stack: every position of a window in one pass -----------------------------------------------------------


def _run_windows(
    loaded: LoadedModel, tokens: Sequence[Tokens], windows: Sequence[Window], pool: StatePool, states: bool,
    log_probabilities: bool, batches: Batches,
) -> tuple[Predictions, ...] | None:  # fmt: skip
    """Pool the states of windows and return the predictions of each context; None without `log_probabilities`."""
    token_predictions = predictions.unknown(tokens, windows)
    rows = [window.ids for window in windows]
    head = heads.head_for(rows, loaded, batches) if log_probabilities and rows else None

    def forward(batch: list[Window]) -> None:
        ids, mask = padded([window.ids for window in batch], loaded.device)
        positions, rows = [window.at for window in batch], [window.rows for window in batch]
        with torch.inference_mode(), pool.hooked(positions, rows, on=states):
            final = heads.forward(loaded, ids, mask, head)
            if head:
                predictions.record_windows(token_predictions, batch, final, ids, head)

    batches.run(windows, lambda window: len(window.ids), forward)
    return token_predictions if log_probabilities else None
