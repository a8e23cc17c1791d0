"""Localise units: Welch's t of each unit between sentences and lists of non-words, at the last token of each text.

The functional localiser of neuroimaging (Fedorenko et al. 2010, J Neurophysiol 104), applied to the units of a model
(AlKhamissi et al. 2024, arXiv 2411.02280). Texts are processed a few at a time, and only means and sums of squares are
kept, so that memory grows with the number of units and not with the number of texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.extraction.backends import Model
from harness.extraction.parity import check
from harness.protocol import Protocol
from harness.records import Floats, Layer, Stimuli, Tokens
from harness.text import brainscore_texts, contexts
from harness.text.localiser_texts import Contrast

# Texts processed together; their states at all layers are in memory at once.
CHUNK = 64
# Brain-Score truncates the localiser's texts to 12 tokens (its tokenizers drop the first ones). Other protocols read
# all 12 words.
BRAINSCORE_TOKENS = 12


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of each unit, updated with a few rows at a time.

    Source: Chan, Golub & LeVeque 1983, The American Statistician 37.
    """

    n: int
    mean: Floats
    squares: Floats

    @classmethod
    def of_none(cls, n_units: int) -> Moments:
        """Of no rows."""
        return cls(0, np.zeros(n_units), np.zeros(n_units))

    def add(self, rows: Floats) -> None:
        """Add (row, unit) values; a unit with a value that is not finite has NaN moments from then on."""
        if not len(rows):
            return
        values, n = rows.astype(np.float64), self.n + len(rows)
        with np.errstate(invalid="ignore", over="ignore"):
            mean = values.mean(axis=0)
            difference = mean - self.mean
            self.squares += ((values - mean) ** 2).sum(axis=0) + difference**2 * (self.n * len(rows) / n)
            self.mean += difference * (len(rows) / n)
        self.n = n


def welch_t(first: Moments, second: Moments) -> Floats:
    """Welch's t of each unit, (unit,) float64: positive where the first mean is larger.

    NaN where it cannot be measured: the unit is constant over all rows, or has a value that is not finite. A unit that
    is constant within each condition, but differs between them, has an infinite t, as in SciPy.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        variance = first.squares / (first.n - 1) / first.n + second.squares / (second.n - 1) / second.n
        t: Floats = (first.mean - second.mean) / np.sqrt(variance)
    return np.where(np.isfinite(first.mean + second.mean), t, np.nan)


def localise(model: Model, contrast: Contrast, protocol: Protocol) -> tuple[dict[Layer, Floats], Mapping[str, Any]]:
    """Compute t of every unit: those of the outputs of all blocks, in all stacks. The embeddings are left out.

    Args:
        model: loaded model.
        contrast: the texts.
        protocol: encoding, BOS and what the decoder of T5 reads; each text is read alone and pooled at its last token.

    Returns:
        Layer -> (unit,) float64 t, sentences minus non-words; and how it was extracted, for the manifest.

    Raises:
        ParityError: if a plain forward pass of transformers gives other states for some of the first texts.
    """
    ids = tuple(str(k) for k in range(len(contrast.texts)))
    is_sentence = np.array(contrast.is_sentence)
    moments: dict[Layer, tuple[Moments, Moments]] = {}
    facts: Mapping[str, Any] = {}
    for start in range(0, len(ids), CHUNK):
        rows = slice(start, start + CHUNK)
        tokens = _encoded(model, Stimuli(ids[rows], contrast.texts[rows], ids[rows]), protocol)
        extraction = model.extract(tokens, protocol, states=True, log_probabilities=False)
        assert extraction.features is not None  # noqa: S101 - states are asked for
        if not facts:
            facts = {**extraction.facts, **check(model, tokens, extraction, protocol), "backend": model.backend}
        in_sentence = is_sentence[[int(name) for name in extraction.features.row_ids]]
        for layer in extraction.features.layers:
            if layer.index:
                states = extraction.features.values[layer]
                pair = moments.setdefault(layer, (Moments.of_none(states.shape[1]), Moments.of_none(states.shape[1])))
                pair[0].add(states[in_sentence])
                pair[1].add(states[~in_sentence])
    return {layer: welch_t(*pair) for layer, pair in moments.items()}, facts


def _encoded(model: Model, stimuli: Stimuli, protocol: Protocol) -> list[Tokens]:
    """Tokenise texts by the protocol's encoding."""
    if protocol.encoding == "shared":
        return [model.loaded.encode(text) for text in contexts.build(stimuli, "none")]
    texts, loaded = brainscore_texts.build(stimuli, "none"), model.loaded
    return brainscore_texts.encode(texts, loaded.tokenizer, BRAINSCORE_TOKENS, loaded.n_embeddings)
