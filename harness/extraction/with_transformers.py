"""Token ids -> hidden states -> one vector per layer and stimulus, with transformers.

A stimulus is the state at its last token, or the mean or the sum over its tokens.

Hooks on the blocks pool on the device, so that only pooled vectors leave it, one (stimulus, hidden) matrix a layer.
Layer 0 is the input of the first block (the embeddings), layer k the output of block k **before** the final norm;
transformers' own last hidden state has the norm applied.

A decoder reads each window once and gives every stimulus in it, and what it expects of every token (predictions.py), in
the same pass. A stimulus whose text so far has other tokens (prefixes.py) is read by itself, and counted. What looks
both ways, an encoder, reads the text so far of each stimulus by itself (encoders.py); what T5's decoder reads meanwhile
is not stated by the paper (METHODS section 3), so there are three readings of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from harness.extraction import encoders, heads, predictions
from harness.extraction.pooling import StatePool
from harness.loading.batches import Batches, padded
from harness.loading.blocks import blocks_of
from harness.loading.loaded_model import LoadedModel
from harness.records import Extraction, Features, Floats, Layer, Predictions, Tokens
from harness.text.tokens import Window, cut

BATCH_TOKENS = 8192


def extract(
    reader: LoadedModel,
    tokens: Sequence[Tokens],
    window: int = 2048,
    *,
    pooling: str = "last",
    states: bool = True,
    log_probabilities: bool = True,
    overlap: float = 0.5,
    decoder_reads: str = "stimulus",
    bos: str = "window",
    progress: Callable[[float], None] | None = None,
) -> Extraction:
    """Read the contexts.

    Args:
        reader: a loaded model.
        tokens: one per context.
        window: tokens read at once at most, or the model's own limit where that is less. A longer context is read in
            windows that overlap; each begins with the model's BOS or start token.
        pooling: "last" (a stimulus is the state at its last token), "mean" or "sum" (over its tokens, those that are
            read in the window that answers for its last).
        states: whether to pool the hidden states of each stimulus, at every layer.
        log_probabilities: whether to give what is expected of each token.
        overlap: share of a window that the one before has read already, in [0, 1).
        decoder_reads: what T5's decoder reads, for its states and for what it expects. "stimulus": it is teacher-forced
            on the stimulus, and the encoder holds the text before it; predictions are then of each stimulus `apart`.
            "text": on the whole text, with an empty source, as a decoder does. "nothing": its start token, where it is
            pooled, and the encoder holds the text, the stimulus included; nothing is expected then. The encoder's own
            states are those of the text so far in all three.
        bos: which windows of a decoder's begin with the model's BOS: each ("window"), the first of a context ("text"),
            or "none": then nothing is expected of the first token.
        progress: called with the share done, after each batch.

    Returns:
        Extraction; features are layer -> (stimulus, hidden) float32 in the order of the contexts, NaN rows where a
        stimulus has no token. facts: n_windows, n_reencoded, batch_tokens, n_oom, oom, seconds, tokens_per_second,
        device, pooling, bos.

    Raises:
        ValueError: if an encoder, or a T5 whose decoder reads nothing, is asked for probabilities; if a stimulus does
            not fit T5's decoder; or if an argument is none of the above.
        room.NoRoomError: if memory runs out over one sequence alone.
    """
    _require(reader, pooling, decoder_reads, bos, log_probabilities=log_probabilities)
    started, ids = time.perf_counter(), tuple(i for read in tokens for i in read.stimulus_ids)
    batches = Batches(BATCH_TOKENS, progress, same_length=not reader.is_padded)
    causal, limit = reader.stack == "decoder" or decoder_reads == "text", min(window, reader.limit)
    pooled: dict[Layer, Floats] = {}
    expected: tuple[Predictions, ...] | None = None
    if causal and (log_probabilities or (states and reader.stack != "encoder")):
        # A decoder of T5's cannot do without its start token.
        windows = cut(tokens, limit, reader.prefix, overlap, pooling, bos if reader.stack == "decoder" else "window")
        pool = StatePool("decoder", blocks_of(reader.model, "decoder"), len(ids), pooling)
        expected = _read_windows(reader, tokens, windows, pool, states, log_probabilities, batches)
        pooled |= pool.values()
    by_stimulus = log_probabilities and not causal
    if reader.stack != "decoder" and (states or by_stimulus):
        follows = decoder_reads if reader.is_encoder_decoder else "text"
        told = tuple(Predictions.unknown(len(read.ids)) for read in tokens) if by_stimulus else ()
        sources = encoders.encoder_inputs(reader, tokens, limit, pooling, follows, whole=by_stimulus)
        pooled |= encoders.read(reader, list(sources), len(ids), pooling, batches, told, states=states)
        expected = told or expected
    seconds = time.perf_counter() - started
    facts = {
        "n_windows": batches.n_sequences, "n_reencoded": sum(len(read.apart) for read in tokens), "bos": bos,
        "batch_tokens": batches.budget, "n_oom": batches.n_oom, "oom": batches.oom, "seconds": seconds,
        "tokens_per_second": batches.n_tokens / seconds, "device": _name(reader.device), "pooling": pooling,
        "notes": " ".join(reader.notes),
    }  # fmt: skip
    if reader.quantization:
        facts["dtype"] = f"{reader.dtype}, {reader.quantization}"
    return Extraction(Features(pooled, ids) if states else None, expected, facts)


def _require(reader: LoadedModel, pooling: str, decoder_reads: str, bos: str, *, log_probabilities: bool) -> None:
    for what, given, known in (
        ("pooling", pooling, ("last", "mean", "sum")),
        ("decoder_reads", decoder_reads, ("stimulus", "text", "nothing")),
        ("bos", bos, ("window", "text", "none")),
    ):
        if given not in known:
            raise ValueError(f"{what} {given!r} is unknown; use one of {', '.join(known)}.")
    if log_probabilities and reader.stack == "encoder":
        raise ValueError(
            f"{reader.model.config.model_type} is an encoder: it has read what comes after a word, and gives no "
            "probability of it; ask for its states alone, or use a decoder."
        )
    if log_probabilities and reader.is_encoder_decoder and decoder_reads == "nothing":
        raise ValueError("a decoder that reads nothing expects nothing; use decoder_reads text or stimulus.")


def _name(device: torch.device) -> str:
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else str(device.type)


# --- a causal stack: every position of a window in one pass -----------------------------------------------------------


def _read_windows(
    reader: LoadedModel,
    tokens: Sequence[Tokens],
    windows: Sequence[Window],
    pool: StatePool,
    states: bool,
    log_probabilities: bool,
    batches: Batches,
) -> tuple[Predictions, ...] | None:
    """Pool the states of the windows; what is expected in each context, where that is asked for."""
    expected = tuple(Predictions.unknown(len(read.ids)) for read in tokens)
    head = None
    if log_probabilities and windows:
        longest = max(windows, key=lambda window: len(window.ids))
        head = heads.of(reader, padded([longest.ids], reader.device)[0])
        heads.free_memory(head, reader, batches)
        for window in windows:
            if window.apart >= 0:
                n_own = len(tokens[window.context].apart[window.apart].ids)
                expected[window.context].apart[window.apart] = Predictions.unknown(n_own)

    def forward(batch: list[Window]) -> None:
        ids, mask = padded([window.ids for window in batch], reader.device)
        with torch.inference_mode(), pool.hooked([w.at for w in batch], [w.rows for w in batch], on=states):
            final = heads.forward(reader, ids, mask, head)
            if head:
                predictions.note(expected, batch, final, ids, head)

    batches.read(windows, lambda window: len(window.ids), forward)
    return expected if log_probabilities else None
