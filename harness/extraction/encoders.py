"""Extract features with bidirectional stacks: an encoder, or T5's encoder together with its decoder.

An encoder's state at a word depends on the words after it. Each stimulus is therefore encoded with its prefix alone
(the text up to and including it), so that no state contains text that a reader has not seen yet.
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
from harness.text.tokens import prefix_of, source_of


@dataclass(frozen=True)
class EncoderInput:
    """The text up to and including one stimulus, and the decoder's input for it in an encoder-decoder.

    Attributes:
        source: ids for the encoder.
        positions, rows: positions in `source` to pool, and the row of each (empty before the first stimulus).
        decoder_ids: decoder_input_ids; empty if the decoder does not run.
        decoder_positions, decoder_rows: positions in `decoder_ids` to pool, and the row of each.
        decoder_place: context, index and number of tokens of the stimulus in the decoder.
    """

    source: Integers
    positions: Integers
    rows: Integers
    decoder_ids: Integers
    decoder_positions: Integers
    decoder_rows: Integers
    decoder_place: tuple[int, int, int]

    @property
    def n_tokens(self) -> int:
        """Number of tokens of the longer input."""
        return max(len(self.source), len(self.decoder_ids))


def encoder_inputs(
    loaded: LoadedModel, tokens: Sequence[Tokens], limit: int, pooling: str, decoder_reads: str, *, whole: bool = False
) -> Iterator[EncoderInput]:
    """Build the inputs of all stimuli.

    If the decoder reads stimuli, one encoder pass serves two of them: the text up to a stimulus is also the context of
    the next stimulus, which the decoder reads.

    Args:
        loaded: a loaded model with an encoder.
        tokens: one per context.
        limit: maximum tokens of a source; a longer text is truncated on the left, after its prompt.
        pooling: "last", "mean" or "sum".
        decoder_reads: decoder input; see `with_transformers.extract`.
        whole: whether every token of a stimulus is needed.

    Raises:
        ValueError: if `whole` is set and a stimulus is too long for the decoder.
    """
    before, after = np.asarray(loaded.before_source, dtype=np.int64), np.asarray(loaded.suffix, dtype=np.int64)
    start = np.asarray(loaded.prefix, dtype=np.int64)
    max_text, empty, first_row = limit - len(before) - len(after), np.zeros(0, dtype=np.int64), 0
    for context, context_tokens in enumerate(tokens):
        n_stimuli = len(context_tokens.stimulus_ids)
        for stimulus in range(-1, n_stimuli):
            prefix, own = prefix_of(context_tokens, stimulus)
            has_next = decoder_reads == "stimulus" and stimulus + 1 < n_stimuli
            if stimulus < 0 and not has_next:
                continue
            text, n_dropped = source_of(context_tokens, prefix, max_text)
            source = np.concatenate([before, text, after])
            positions = own[own >= context_tokens.n_prompt + n_dropped] - n_dropped + len(before)
            positions = positions[-1:] if pooling == "last" else positions
            decoder_ids, decoder_positions, decoder_row, n_next = empty, empty, 0, 0
            if decoder_reads == "nothing":
                decoder_ids, decoder_positions, decoder_row = start, np.array([len(start) - 1]), first_row + stimulus
            elif has_next:
                max_target = limit - len(start)
                next_prefix, next_own = prefix_of(context_tokens, stimulus + 1)
                n_next, decoder_row = len(next_own), first_row + stimulus + 1
                if whole and n_next > max_target:
                    raise ValueError(
                        f"stimulus {context_tokens.stimulus_ids[stimulus + 1]!r} has {n_next} tokens, but the decoder "
                        f"takes at most {max_target}; use decoder_reads text, or leave this stimulus out."
                    )
                decoder_ids = np.concatenate([start, next_prefix[next_own][-max_target:]])
                decoder_positions = np.arange(len(start), len(decoder_ids))
                decoder_positions = decoder_positions[-1:] if pooling == "last" else decoder_positions
            yield EncoderInput(
                source, positions, np.full(len(positions), first_row + stimulus), decoder_ids, decoder_positions,
                np.full(len(decoder_positions), decoder_row), (context, stimulus + 1, n_next),
            )  # fmt: skip
        first_row += n_stimuli


def extract(
    loaded: LoadedModel, inputs: Sequence[EncoderInput], n_rows: int, pooling: str, batches: Batches,
    decoder_predictions: tuple[Predictions, ...], *, states: bool,
) -> dict[Layer, Floats]:  # fmt: skip
    """Run the inputs and pool the states of each layer.

    Args:
        loaded: a loaded model with an encoder.
        inputs: from `encoder_inputs`.
        n_rows: number of stimuli in all contexts.
        pooling: "last", "mean" or "sum".
        batches: runs the batches.
        decoder_predictions: one per context, filled with the decoder's predictions of each stimulus; () for none.
        states: whether to pool hidden states.

    Returns:
        Layer -> (stimulus, hidden) float32; empty without `states`.
    """
    has_decoder, model = loaded.is_encoder_decoder, loaded.model
    encoder_pool = StatePool("encoder", blocks_of(model, "encoder"), n_rows, pooling)
    decoder_pool = StatePool("decoder", blocks_of(model, "decoder"), n_rows, pooling) if has_decoder else None
    decoder_ids = [item.decoder_ids for item in inputs if len(item.decoder_ids)]
    head = heads.head_for(decoder_ids, loaded, batches) if decoder_predictions and decoder_ids else None

    def forward(batch: list[EncoderInput]) -> None:
        source, mask = padded([item.source for item in batch], loaded.device)
        positions, rows = [item.positions for item in batch], [item.rows for item in batch]
        with torch.inference_mode(), encoder_pool.hooked(positions, rows, on=states):
            encoder = model.get_encoder() if has_decoder else body(model)
            encoder_states = call(encoder, input_ids=source, attention_mask=mask).last_hidden_state
        indices = [index for index, item in enumerate(batch) if len(item.decoder_ids)]
        if decoder_pool is None or not indices:
            return
        items = [batch[index] for index in indices]
        ids, decoder_mask = padded([item.decoder_ids for item in items], loaded.device)
        positions, rows = [item.decoder_positions for item in items], [item.decoder_rows for item in items]
        with torch.inference_mode(), decoder_pool.hooked(positions, rows, on=states):
            final = heads.forward(loaded, ids, decoder_mask, head, (encoder_states[indices], mask[indices]))
            if head:
                places = [item.decoder_place for item in items]
                predictions.record_stimuli(decoder_predictions, places, final, ids, head, len(loaded.prefix))

    batches.run(inputs, lambda item: item.n_tokens, forward, lambda item: (len(item.source), len(item.decoder_ids)))
    return (encoder_pool.values() | (decoder_pool.values() if decoder_pool else {})) if states else {}
