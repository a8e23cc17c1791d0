"""What looks both ways reads the text so far of each stimulus by itself: an encoder, or T5's and its decoder.

An encoder's state at a word depends on what comes after it, so that a text read once would tell what no reader knew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.extraction import heads, predictions
from harness.extraction.pooling import StatePool
from harness.loading.batches import Batches, padded
from harness.loading.blocks import blocks_of, body, call
from harness.loading.loaded_model import LoadedModel
from harness.records import Floats, Integers, Layer, Predictions, Tokens
from harness.text.tokens import so_far


@dataclass(frozen=True)
class EncoderInput:
    """The text up to and including one stimulus, and what T5's decoder reads with it.

    source, following: what the encoder reads, and the decoder (nothing: it is not run). at, rows: positions in `source`
    that are pooled, and the stimulus of each (none where no stimulus stands in the text yet); next_at, next_rows: the
    same in `following`. next_place: context and stimulus of what follows, and how many tokens it has.
    """

    source: Integers
    at: Integers
    rows: Integers
    following: Integers
    next_at: Integers
    next_rows: Integers
    next_place: tuple[int, int, int]

    @property
    def n_tokens(self) -> int:
        """Of the longer of the two."""
        return max(len(self.source), len(self.following))


def encoder_inputs(
    reader: LoadedModel, tokens: Sequence[Tokens], limit: int, pooling: str, follows: str, *, whole: bool = False
) -> Iterator[EncoderInput]:
    """One encoder pass serves two stimuli where the decoder reads the next: the text so far is that one's context.

    Args:
        reader: a loaded model with an encoder.
        tokens: one per context.
        limit: tokens of a source at most; a longer text loses its beginning.
        pooling: "last", "mean" or "sum".
        follows: what the decoder reads; `decoder_reads` of `extract.extract`.
        whole: whether every token of a stimulus is needed, so that one too long for the decoder is a ValueError.
    """
    before = np.asarray(reader.before_source, dtype=np.int64)
    after, start = np.asarray(reader.suffix, dtype=np.int64), np.asarray(reader.prefix, dtype=np.int64)
    room, none, row = limit - len(before) - len(after), np.zeros(0, dtype=np.int64), 0
    for context, read in enumerate(tokens):
        for i in range(-1, len(read.stimulus_ids)):
            text, own = so_far(read, i)
            is_context = follows == "stimulus" and i + 1 < len(read.stimulus_ids)
            if i < 0 and not is_context:
                continue
            source = np.concatenate([before, text[-room:], after])
            at = own[own >= len(text) - room] - max(0, len(text) - room) + len(before)
            at = at[-1:] if pooling == "last" else at
            following, next_at, of, n_own = none, none, 0, 0
            if follows == "nothing":
                following, next_at, of = start, np.array([len(start) - 1]), row + i
            elif is_context:
                theirs, tail = so_far(read, i + 1)
                n_own, of = len(tail), row + i + 1
                if whole and n_own > limit - len(start):
                    raise ValueError(
                        f"stimulus {read.stimulus_ids[i + 1]!r} has {n_own} tokens, but the decoder reads "
                        f"{limit - len(start)} at once; use decoder_reads text, or leave it out."
                    )
                following = np.concatenate([start, theirs[tail][-(limit - len(start)) :]])
                next_at = np.arange(len(start), len(following))
                next_at = next_at[-1:] if pooling == "last" else next_at
            yield EncoderInput(
                source, at, np.full(len(at), row + i), following, next_at, np.full(len(next_at), of),
                (context, i + 1, n_own),
            )  # fmt: skip
        row += len(read.stimulus_ids)


def read(
    reader: LoadedModel,
    found: Sequence[EncoderInput],
    n_rows: int,
    pooling: str,
    batches: Batches,
    expected: tuple[Predictions, ...] = (),
    *,
    states: bool = True,
) -> dict[Layer, Floats]:
    """Read the sources: pooled states of each layer, and into `expected` what the decoder expects of each stimulus."""
    both, model = reader.is_encoder_decoder, reader.model
    encoder = StatePool("encoder", blocks_of(model, "encoder"), n_rows, pooling)
    decoder = StatePool("decoder", blocks_of(model, "decoder"), n_rows, pooling) if both else None
    spoken = [each for each in found if len(each.following)]
    head = None
    if expected and spoken:
        longest = max(spoken, key=lambda each: len(each.following)).following
        head = heads.of(reader, padded([longest], reader.device)[0])
        heads.free_memory(head, reader, batches)

    def forward(batch: list[EncoderInput]) -> None:
        source, mask = padded([each.source for each in batch], reader.device)
        with torch.inference_mode(), encoder.hooked([p.at for p in batch], [p.rows for p in batch], on=states):
            run = model.get_encoder() if both else body(model)
            memory = call(run, input_ids=source, attention_mask=mask).last_hidden_state
        speaking = [k for k, each in enumerate(batch) if len(each.following)]
        if decoder is None or not speaking:
            return
        said = [batch[k] for k in speaking]
        ids, its_mask = padded([each.following for each in said], reader.device)
        with (
            torch.inference_mode(),
            decoder.hooked([each.next_at for each in said], [each.next_rows for each in said], on=states),
        ):
            final = heads.forward(reader, ids, its_mask, head, (memory[speaking], mask[speaking]))
            if head:
                predictions.note_stimuli(expected, [each.next_place for each in said], final, ids, head)

    batches.read(found, lambda each: each.n_tokens, forward, lambda each: (len(each.source), len(each.following)))
    return (encoder.values() | (decoder.values() if decoder else {})) if states else {}
