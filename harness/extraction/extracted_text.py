"""Encode, extract, check against a plain forward pass, sum to surprisal: the one way from a text to its features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.extraction import surprisal
from harness.extraction.backends import Model
from harness.extraction.parity import check
from harness.loading.loaded_model import LoadedModel
from harness.protocol import Protocol
from harness.records import Context, Features, Surprisals, Tokens
from harness.text import brainscore_texts


@dataclass(frozen=True)
class ExtractedText:
    """What one model gives for one text.

    Attributes:
        stimulus_ids: in the order of the rows of `features`.
        n_tokens: tokens of the text.
        features: hidden states per layer; None if not requested.
        words: surprisals per stimulus; None if not requested.
        facts: how it was extracted, for the manifest of the unit; parity among them.
    """

    stimulus_ids: tuple[str, ...]
    n_tokens: int
    features: Features | None
    words: Surprisals | None
    facts: Mapping[str, Any]


def extract(
    model: Model, texts: Iterable[Context], protocol: Protocol, *, states: bool, surprisals: bool, in_chat: bool = False
) -> ExtractedText:
    """Extract the hidden states and surprisals of a text in one pass, and check them.

    Args:
        model: loaded model.
        texts: the contexts of the text (`contexts.build`), or under the encoding "brainscore" one text per stimulus
            (`brainscore_texts.build`).
        protocol: pooling, windows, BOS; for T5 what the decoder gets.
        states: whether to keep hidden states.
        surprisals: whether to compute surprisals.
        in_chat: whether to put the text into the model's chat template.

    Raises:
        ValueError: if the text cannot be encoded or extracted.
        ParityError: if a plain forward pass of transformers gives different values (parity.py).
    """
    tokens = _encoded(model.loaded, texts, protocol, in_chat=in_chat)
    extraction = model.extract(tokens, protocol, states=states, log_probabilities=surprisals)
    facts = {**extraction.facts, **check(model, tokens, extraction, protocol), "backend": model.backend}
    words = None
    if extraction.predictions is not None:
        words = surprisal.per_word(
            tokens, extraction.predictions, model.loaded.word_initial_tokens,
            single_stimuli=protocol.decoder_reads == "stimulus" and model.loaded.is_encoder_decoder,
        )  # fmt: skip
    ids = tuple(name for part in tokens for name in part.stimulus_ids)
    return ExtractedText(ids, sum(len(part.ids) for part in tokens), extraction.features, words, facts)


def _encoded(loaded: LoadedModel, texts: Iterable[Context], protocol: Protocol, *, in_chat: bool) -> list[Tokens]:
    """Tokenise the contexts by the protocol's encoding."""
    if protocol.encoding == "shared":
        return [loaded.encode(text, in_chat=in_chat) for text in texts]
    limit = min(protocol.window, loaded.limit)
    return brainscore_texts.encode(texts, loaded.tokenizer, limit, loaded.n_embeddings, in_chat=in_chat)
