"""Token ids -> hidden states -> one vector per layer and stimulus, with transformers.

A stimulus is the state at its last token, or the mean over its tokens.

Hooks on the blocks pool on the device, so that only pooled vectors leave it, one (stimulus, hidden) matrix a layer.
Layer 0 is the input of the first block (the embeddings), layer k the output of block k **before** the final norm;
transformers' own last hidden state has the norm applied.

A decoder reads each window once and gives every stimulus in it, and the log-probability of every token, in the same
pass. A T5 encoder looks both ways, so its prefixes are encoded one by one; the decoder reads the next stimulus while
the encoder holds the text before it (METHODS section 3: what the decoder reads is not stated by the paper).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from harness.pooling import Pool, blocks
from harness.reader import Reader
from harness.records import Extraction, Features, Floats, Integers, Layer, Tokens
from harness.tokens import windows

# The logits are the largest thing in memory: tokens x vocabulary. A batch is made of so many bytes of them, one window
# at least; log_softmax makes a second copy, of some positions at a time.
LOGIT_BYTES = 256 * 2**20
LOGIT_POSITIONS = 512
BATCH_TOKENS = 8192


def extract(
    reader: Reader,
    tokens: Sequence[Tokens],
    window: int = 2048,
    *,
    pooling: str = "last",
    states: bool = True,
    log_probabilities: bool = True,
    overlap: float = 0.5,
    progress: Callable[[float], None] | None = None,
) -> Extraction:
    """Read the contexts.

    Args:
        reader: a loaded model.
        tokens: one per context.
        window: tokens read at once at most, or the model's own limit where that is less. A longer context is read in
            windows that overlap; each begins with the model's BOS or start token.
        pooling: "last" (a stimulus is the state at its last token) or "mean" (over its tokens, those that are read in
            the window that answers for its last).
        states: whether to pool the hidden states of each stimulus, at every layer.
        log_probabilities: whether to give the log-probability of each token. For T5 these are the decoder's, teacher-
            forced on the text with an empty source.
        overlap: share of a window that the one before has read already.
        progress: called with the share done, after each batch.

    Returns:
        Extraction; features are layer -> (stimulus, hidden) float32 in the order of the contexts, NaN rows where a
        stimulus has no token.
    """
    ids = tuple(i for read in tokens for i in read.stimulus_ids)
    wants_prefixes = reader.is_encoder_decoder and states
    pooled, logs = None, None
    if log_probabilities or not wants_prefixes:
        cut = _cut(reader, tokens, window, overlap, pooling)
        pooled, logs = _read_windows(reader, tokens, cut, states and not wants_prefixes, log_probabilities, progress)
    if wants_prefixes:
        pooled = _read_prefixes(reader, list(_prefixes(reader, tokens, window, pooling)), len(ids), progress)
    return Extraction(Features(pooled, ids) if pooled is not None else None, logs)


# --- a causal stack: every position of a window in one pass -----------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """Tokens that are read together.

    ids: the prefix, then tokens start.. of the context; first: the first token that this window answers for.
    at, rows: positions in `ids` that are pooled, and the stimulus of each.
    """

    ids: Integers
    context: int
    start: int
    first: int
    at: Integers
    rows: Integers


def _cut(reader: Reader, tokens: Sequence[Tokens], window: int, overlap: float, pooling: str) -> list[_Window]:
    """All windows of all contexts."""
    cut, row, n_prefix = [], 0, len(reader.prefix)
    prefix = np.asarray(reader.prefix, dtype=np.int64)
    for context, read in enumerate(tokens):
        pooled = np.flatnonzero(_stand_for_their_stimulus(read, pooling))
        of, last = read.owners[pooled], read.last[read.owners[pooled]]
        for start, end, first in windows(len(read.ids), min(window, reader.limit) - n_prefix, overlap):
            inside = (last >= first) & (last < end) & (pooled >= start)
            ids = np.concatenate([prefix, read.ids[start:end]])
            cut.append(_Window(ids, context, start, first, pooled[inside] - start + n_prefix, row + of[inside]))
        row += len(read.stimulus_ids)
    return cut


def _stand_for_their_stimulus(read: Tokens, pooling: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(token,) whether its state is pooled."""
    if pooling == "mean":
        return read.owners >= 0
    return np.isin(np.arange(len(read.ids)), read.last)


def _read_windows(
    reader: Reader,
    tokens: Sequence[Tokens],
    cut: Sequence[_Window],
    states: bool,
    log_probabilities: bool,
    progress: Callable[[float], None] | None,
) -> tuple[dict[Layer, Floats] | None, tuple[Floats, ...] | None]:
    logs = tuple(np.full(len(read.ids), np.nan) for read in tokens)
    pool = Pool("decoder", blocks(reader.model, "decoder"), sum(len(read.stimulus_ids) for read in tokens))
    vocabulary = reader.model.get_input_embeddings().num_embeddings
    budget = min(BATCH_TOKENS, LOGIT_BYTES // (4 * vocabulary)) if log_probabilities else BATCH_TOKENS
    for batch, done in _batches(cut, lambda window: len(window.ids), budget, progress):
        ids, mask = _pad([window.ids for window in batch], reader.device)
        with torch.inference_mode(), pool.hooked([w.at for w in batch], [w.rows for w in batch], on=states):
            logits = _forward(reader, ids, mask, log_probabilities)
        if log_probabilities:
            for window, row in zip(batch, _token_log_probabilities(logits, ids), strict=True):
                _note(logs[window.context], window, row, len(reader.prefix))
        done()
    return (pool.values() if states else None), (logs if log_probabilities else None)


def _note(logs: Floats, window: _Window, row: Floats, n_prefix: int) -> None:
    """Write down the log-probabilities of the tokens that a window answers for; row[i] is that of ids[i + 1]."""
    fresh = np.arange(window.first - window.start, len(window.ids) - n_prefix)
    fresh = fresh[fresh + n_prefix > 0]  # nothing precedes the first token where there is no prefix
    logs[window.start + fresh] = row[fresh + n_prefix - 1]


def _forward(reader: Reader, ids: torch.Tensor, mask: torch.Tensor, logits: bool) -> Any:
    if not reader.is_encoder_decoder:
        run = reader.model if logits else reader.model.base_model
        return getattr(run(input_ids=ids, attention_mask=mask, use_cache=False), "logits", None)
    empty = torch.full((len(ids), 1), reader.tokenizer.eos_token_id, device=ids.device)
    output = reader.model(input_ids=empty, decoder_input_ids=ids, decoder_attention_mask=mask, use_cache=False)
    return output.logits


def _token_log_probabilities(logits: torch.Tensor, ids: torch.Tensor) -> Floats:
    """(window, token - 1) nats of each token after the first, in float32 whatever the model computes in."""
    parts = [logits.new_zeros((len(ids), 0))]
    for start in range(0, ids.shape[1] - 1, LOGIT_POSITIONS):
        stop = min(start + LOGIT_POSITIONS, ids.shape[1] - 1)
        scores = torch.log_softmax(logits[:, start:stop].float(), dim=-1)
        parts.append(scores.gather(-1, ids[:, start + 1 : stop + 1, None])[..., 0])
    values: Floats = torch.cat(parts, dim=1).double().cpu().numpy()
    return values


# --- an encoder: one prefix per stimulus ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prefix:
    """The text up to and including one stimulus, and the stimulus that follows.

    source, following: what the encoder reads, and the decoder. at, rows: positions in `source` that are pooled, and the
    stimulus of each (none where no stimulus stands in the text yet); next_at, next_rows: the same in `following`.
    """

    source: Integers
    at: Integers
    rows: Integers
    following: Integers
    next_at: Integers
    next_rows: Integers


def _prefixes(reader: Reader, tokens: Sequence[Tokens], window: int, pooling: str) -> Iterator[_Prefix]:
    """One encoder pass serves two stimuli: it is the text so far for one, and the context of the next."""
    end, row, limit = [reader.tokenizer.eos_token_id], 0, min(window, reader.limit)
    prefix = np.asarray(reader.prefix, dtype=np.int64)
    for read in tokens:
        pooled = _stand_for_their_stimulus(read, pooling)
        n_before = int(np.argmax(read.owners >= 0)) if len(read.ids) else 0  # tokens that are only context
        for i, stop in enumerate(np.maximum.accumulate([n_before, *(read.last + 1)])):
            so_far = np.arange(stop)[-(limit - 1) :]
            to_come = np.flatnonzero(read.owners == i)[-(limit - 1) :]
            at = np.flatnonzero(pooled[so_far] & (read.owners[so_far] == i - 1) & (i > 0))
            next_at = len(prefix) + np.flatnonzero(pooled[to_come])
            yield _Prefix(
                source=np.concatenate([read.ids[so_far], end]),
                at=at,
                rows=np.full(len(at), row + i - 1),
                following=np.concatenate([prefix, read.ids[to_come]]),
                next_at=next_at,
                next_rows=np.full(len(next_at), row + i),
            )
        row += len(read.stimulus_ids)


def _read_prefixes(
    reader: Reader, prefixes: Sequence[_Prefix], n_rows: int, progress: Callable[[float], None] | None
) -> dict[Layer, Floats]:
    model = reader.model
    encoder = Pool("encoder", blocks(model, "encoder"), n_rows)
    decoder = Pool("decoder", blocks(model, "decoder"), n_rows)
    for batch, done in _batches(prefixes, lambda p: max(len(p.source), len(p.following)), BATCH_TOKENS, progress):
        source, source_mask = _pad([prefix.source for prefix in batch], reader.device)
        target, target_mask = _pad([prefix.following for prefix in batch], reader.device)
        with (
            torch.inference_mode(),
            encoder.hooked([p.at for p in batch], [p.rows for p in batch]),
            decoder.hooked([p.next_at for p in batch], [p.next_rows for p in batch]),
        ):
            memory = model.encoder(input_ids=source, attention_mask=source_mask).last_hidden_state
            model.decoder(
                input_ids=target,
                attention_mask=target_mask,
                encoder_hidden_states=memory,
                encoder_attention_mask=source_mask,
                use_cache=False,
            )
        done()
    return encoder.values() | decoder.values()


# --- batching ---------------------------------------------------------------------------------------------------------


def _batches(
    items: Sequence[Any], length: Callable[[Any], int], budget: int, progress: Callable[[float], None] | None
) -> Iterator[tuple[list[Any], Callable[[], None]]]:
    """Items of similar length together, longest first, at most `budget` tokens with padding."""
    ordered = sorted(items, key=length, reverse=True)
    total = sum(length(item) for item in ordered)
    start, read = 0, 0
    while start < len(ordered):
        size = max(1, budget // length(ordered[start]))
        batch = ordered[start : start + size]
        start += size
        read += sum(length(item) for item in batch)
        yield batch, partial(progress or _unheard, read / total)


def _unheard(_: float) -> None:
    """Nobody asked for progress."""


def _pad(rows: Iterable[Integers], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded (sequence, token) ids and mask; padding after the text changes nothing in a causal stack."""
    parts = [torch.from_numpy(np.ascontiguousarray(row)) for row in rows]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(part) for part in parts], batch_first=True)
    ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    return ids.to(device), mask.to(device)
