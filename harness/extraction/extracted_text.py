"""Encode, extract, check against a plain forward pass, sum to surprisal: the one way from a text to its features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.extraction import embeddings, surprisal
from harness.extraction.backends import Model
from harness.extraction.parity import check
from harness.loading.loaded_model import LoadedModel
from harness.protocol import Protocol
from harness.records import Context, Features, Floats, Surprisals, Tokens
from harness.text import brainscore_texts, contexts
from harness.variants import Condition


@dataclass(frozen=True)
class ExtractedText:
    """What one model gives for one text.

    Attributes:
        stimulus_ids: in the order of the rows of `features`.
        n_tokens: tokens of the text.
        features: hidden states per layer; None if not requested.
        words: surprisals per stimulus; None if not requested.
        embeddings: (stimulus, hidden) input embeddings, averaged over the tokens of each stimulus, in the order of
            `stimulus_ids`; None if hidden states were not requested or the backend does not give them.
        facts: how it was extracted, for the manifest of the unit; parity among them.
    """

    stimulus_ids: tuple[str, ...]
    n_tokens: int
    features: Features | None
    words: Surprisals | None
    embeddings: Floats | None
    facts: Mapping[str, Any]


def extract(
    model: Model, texts: Iterable[Context], protocol: Protocol, *, states: bool, surprisals: bool,
    in_chat: bool = False, condition: Condition | None = None,
) -> ExtractedText:  # fmt: skip
    """Extract the hidden states and surprisals of a text in one pass, and check them.

    Args:
        model: loaded model.
        texts: the contexts of the text (`contexts.build`), or under the encoding "brainscore" one text per stimulus
            (`brainscore_texts.build`).
        protocol: pooling, windows, BOS; for T5 what the decoder gets.
        states: whether to keep hidden states.
        surprisals: whether to compute surprisals.
        in_chat: whether to put the text into the model's chat template.
        condition: the prompt around each context; None for none.

    Raises:
        ValueError: if the text cannot be encoded or extracted.
        ParityError: if a plain forward pass of transformers gives different values (parity.py).
    """
    if condition:
        tokens = _prompted(model.loaded, texts, protocol, condition)
    else:
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
    inputs = embeddings.averaged(model.loaded, tokens) if states else None
    return ExtractedText(ids, sum(len(part.ids) for part in tokens), extraction.features, words, inputs, facts)


def _prompted(loaded: LoadedModel, texts: Iterable[Context], protocol: Protocol, condition: Condition) -> list[Tokens]:
    """Tokenise the contexts after the prompt of a condition."""
    if protocol.encoding != "shared":
        raise ValueError("Brain-Score's encoding has no prompts; score conditions under another protocol.")
    after: tuple[int, ...] = ()
    if loaded.stack != "decoder" and condition.after:
        after = tuple(loaded.tokenizer(condition.after, add_special_tokens=False)["input_ids"])
    return [replace(loaded.encode(contexts.prompted(text, condition)), after=after) for text in texts]


def _encoded(loaded: LoadedModel, texts: Iterable[Context], protocol: Protocol, *, in_chat: bool) -> list[Tokens]:
    """Tokenise the contexts by the protocol's encoding."""
    if protocol.encoding == "shared":
        return [loaded.encode(text, in_chat=in_chat) for text in texts]
    limit = min(protocol.window, loaded.limit)
    return brainscore_texts.encode(texts, loaded.tokenizer, limit, loaded.n_embeddings, in_chat=in_chat)
