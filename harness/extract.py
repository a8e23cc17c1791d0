"""Token ids -> hidden states -> one vector per layer and stimulus, with transformers.

A stimulus is the state at its last token, or the mean or the sum over its tokens.

Hooks on the blocks pool on the device, so that only pooled vectors leave it, one (stimulus, hidden) matrix a layer.
Layer 0 is the input of the first block (the embeddings), layer k the output of block k **before** the final norm;
transformers' own last hidden state has the norm applied.

A decoder reads each window once and gives every stimulus in it, and the log-probability of every token, in the same
pass. A stimulus whose text so far has other tokens (prefixes.py) is read by itself, and counted. What looks both ways,
an encoder, reads the text so far of each stimulus by itself; what T5's decoder reads meanwhile is not stated by the
paper (METHODS section 3), so there are three readings of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness import heads
from harness.batches import Batches, padded
from harness.heads import Head
from harness.pooling import Pool, blocks
from harness.reader import Reader
from harness.records import Extraction, Features, Floats, Integers, Layer, Tokens
from harness.tokens import Window, cut, so_far

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
    decoder_reads: str = "stimulus",
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
        log_probabilities: whether to give the log-probability of each token. For T5 these are the decoder's, teacher-
            forced on the text with an empty source.
        overlap: share of a window that the one before has read already, in [0, 1).
        decoder_reads: what T5's decoder reads for its states. "stimulus": it is teacher-forced on the stimulus, and the
            encoder holds the text before it. "text": on the whole text, with an empty source, as a decoder does.
            "nothing": its start token, where it is pooled, and the encoder holds the text, the stimulus included. The
            encoder's own states are those of the text so far in all three.
        progress: called with the share done, after each batch.

    Returns:
        Extraction; features are layer -> (stimulus, hidden) float32 in the order of the contexts, NaN rows where a
        stimulus has no token. facts: n_windows, n_reencoded, batch_tokens, n_oom, oom, seconds, tokens_per_second,
        device, pooling.

    Raises:
        ValueError: if an encoder is asked for probabilities, or an argument is none of the above.
        room.NoRoomError: if memory runs out over one sequence alone.
    """
    _require(reader, pooling, decoder_reads, log_probabilities=log_probabilities)
    started, ids = time.perf_counter(), tuple(i for read in tokens for i in read.stimulus_ids)
    batches = Batches(BATCH_TOKENS, progress)
    causal = reader.stack == "decoder" or decoder_reads == "text"
    pooled: dict[Layer, Floats] = {}
    logs = None
    if log_probabilities or (states and reader.stack != "encoder" and causal):
        windows = cut(tokens, min(window, reader.limit), reader.prefix, overlap, pooling, states=states and causal)
        pool = Pool("decoder", blocks(reader.model, "decoder"), len(ids), pooling)
        logs = _read_windows(reader, tokens, windows, pool, states and causal, log_probabilities, batches)
        pooled |= pool.values()
    if states and reader.stack != "decoder":
        follows = decoder_reads if reader.is_encoder_decoder else "text"
        prefixes = list(_prefixes(reader, tokens, min(window, reader.limit), pooling, follows))
        pooled |= _read_prefixes(reader, prefixes, len(ids), pooling, batches)
    seconds = time.perf_counter() - started
    facts = {
        "n_windows": batches.n_sequences, "n_reencoded": sum(len(read.apart) for read in tokens) if states else 0,
        "batch_tokens": batches.budget, "n_oom": batches.n_oom, "oom": batches.oom, "seconds": seconds,
        "tokens_per_second": batches.n_tokens / seconds, "device": _name(reader.device), "pooling": pooling,
    }  # fmt: skip
    return Extraction(Features(pooled, ids) if states else None, logs, facts)


def _require(reader: Reader, pooling: str, decoder_reads: str, *, log_probabilities: bool) -> None:
    for what, given, known in (
        ("pooling", pooling, ("last", "mean", "sum")),
        ("decoder_reads", decoder_reads, ("stimulus", "text", "nothing")),
    ):
        if given not in known:
            raise ValueError(f"{what} {given!r} is unknown; use one of {', '.join(known)}.")
    if log_probabilities and reader.stack == "encoder":
        raise ValueError(
            f"{reader.model.config.model_type} is an encoder: it has read what comes after a word, and gives no "
            "probability of it; ask for its states alone, or use a decoder."
        )


def _name(device: torch.device) -> str:
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else str(device.type)


# --- a causal stack: every position of a window in one pass -----------------------------------------------------------


def _read_windows(
    reader: Reader,
    tokens: Sequence[Tokens],
    windows: Sequence[Window],
    pool: Pool,
    states: bool,
    log_probabilities: bool,
    batches: Batches,
) -> tuple[Floats, ...] | None:
    """Pool the states of the windows; the log-probabilities of each context's tokens, where they are asked for."""
    logs = tuple(np.full(len(read.ids), np.nan) for read in tokens)
    head = None
    if log_probabilities and windows:
        longest = max(windows, key=lambda window: len(window.ids))
        head = heads.of(reader, padded([longest.ids], reader.device)[0])
        if head.project is None:  # logits of all positions at once, twice
            width = reader.model.get_input_embeddings().num_embeddings
            batches.budget = min(batches.budget, max(1, heads.LOGIT_BYTES // (4 * width)))

    def forward(batch: list[Window]) -> None:
        ids, mask = padded([window.ids for window in batch], reader.device)
        with torch.inference_mode(), pool.hooked([w.at for w in batch], [w.rows for w in batch], on=states):
            final = heads.forward(reader, ids, mask, head)
            if head:
                _note(logs, batch, final, ids, head, len(reader.prefix))

    batches.read(windows, lambda window: len(window.ids), forward)
    return logs if log_probabilities else None


def _note(
    logs: tuple[Floats, ...], batch: list[Window], final: torch.Tensor, ids: torch.Tensor, head: Head, n_prefix: int
) -> None:
    """Write down the log-probabilities of the tokens that the windows answer for: of a token, by the state before it.

    Nothing precedes the first token where there is no prefix.
    """
    fresh = [np.arange(max(window.first - window.start, 1 - n_prefix), len(window.ids) - n_prefix) for window in batch]
    sequence = np.repeat(np.arange(len(batch)), [len(part) for part in fresh])
    at = torch.from_numpy(np.concatenate(fresh) + n_prefix).to(ids.device)
    row = torch.from_numpy(sequence).to(ids.device)
    found = head.log_probabilities(final[row.to(final.device), (at - 1).to(final.device)], ids[row, at])
    values = found.double().cpu().numpy()
    for window, part, own in zip(
        batch, fresh, np.split(values, np.cumsum([len(part) for part in fresh])[:-1]), strict=True
    ):
        logs[window.context][window.start + part] = own


# --- an encoder: the text so far of each stimulus ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Prefix:
    """The text up to and including one stimulus, and what T5's decoder reads with it.

    source, following: what the encoder reads, and the decoder (nothing: it is not run). at, rows: positions in `source`
    that are pooled, and the stimulus of each (none where no stimulus stands in the text yet); next_at, next_rows: the
    same in `following`.
    """

    source: Integers
    at: Integers
    rows: Integers
    following: Integers
    next_at: Integers
    next_rows: Integers

    @property
    def n_tokens(self) -> int:
        """Of the longer of the two."""
        return max(len(self.source), len(self.following))


def _prefixes(reader: Reader, tokens: Sequence[Tokens], limit: int, pooling: str, follows: str) -> Iterator[_Prefix]:
    """One encoder pass serves two stimuli where the decoder reads the next: the text so far is that one's context."""
    before = np.asarray(reader.prefix if reader.stack == "encoder" else (), dtype=np.int64)
    after, start = np.asarray(reader.suffix, dtype=np.int64), np.asarray(reader.prefix, dtype=np.int64)
    room, none, row = limit - len(before) - len(after), np.zeros(0, dtype=np.int64), 0
    for read in tokens:
        for i in range(-1, len(read.stimulus_ids)):
            text, own = so_far(read, i)
            is_context = follows == "stimulus" and i + 1 < len(read.stimulus_ids)
            if i < 0 and not is_context:
                continue
            source = np.concatenate([before, text[-room:], after])
            at = own[own >= len(text) - room] - max(0, len(text) - room) + len(before)
            at = at[-1:] if pooling == "last" else at
            if follows == "nothing":
                following, next_at, of = start, np.array([len(start) - 1]), row + i
            elif is_context:
                theirs, tail = so_far(read, i + 1)
                following = np.concatenate([start, theirs[tail][-(limit - len(start)) :]])
                next_at, of = np.arange(len(start), len(following)), row + i + 1
                next_at = next_at[-1:] if pooling == "last" else next_at
            else:
                following, next_at, of = none, none, 0
            yield _Prefix(source, at, np.full(len(at), row + i), following, next_at, np.full(len(next_at), of))
        row += len(read.stimulus_ids)


def _read_prefixes(
    reader: Reader, prefixes: Sequence[_Prefix], n_rows: int, pooling: str, batches: Batches
) -> dict[Layer, Floats]:
    both, stacks = reader.is_encoder_decoder, reader.model
    encoder = Pool("encoder", blocks(reader.model, "encoder"), n_rows, pooling)
    decoder = Pool("decoder", blocks(reader.model, "decoder"), n_rows, pooling) if both else None

    def forward(batch: list[_Prefix]) -> None:
        source, mask = padded([prefix.source for prefix in batch], reader.device)
        with torch.inference_mode(), encoder.hooked([p.at for p in batch], [p.rows for p in batch]):
            run = stacks.encoder if both else stacks.base_model
            memory = run(input_ids=source, attention_mask=mask).last_hidden_state
        spoken = [k for k, prefix in enumerate(batch) if len(prefix.following)]
        if decoder is None or not spoken:
            return
        target, target_mask = padded([batch[k].following for k in spoken], reader.device)
        with (
            torch.inference_mode(),
            decoder.hooked([batch[k].next_at for k in spoken], [batch[k].next_rows for k in spoken]),
        ):
            stacks.decoder(
                input_ids=target, attention_mask=target_mask, encoder_hidden_states=memory[spoken],
                encoder_attention_mask=mask[spoken], use_cache=False,
            )  # fmt: skip

    batches.read(prefixes, lambda prefix: prefix.n_tokens, forward)
    return encoder.values() | (decoder.values() if decoder else {})
