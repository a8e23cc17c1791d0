"""Loss, perplexity and accuracy of next-token prediction.

Loss per token depends on the tokenizer: a larger vocabulary gives fewer, harder tokens. Loss per word and per byte are
reported too, since they are comparable across tokenizers.

Source: Aw et al. 2023, section 5 (loss on WikiText-2); per word and per byte as in lm-evaluation-harness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.records import Surprisals


@dataclass(frozen=True)
class NextWord:
    """How well the next token is predicted.

    Attributes:
        loss_nats: mean loss per token.
        perplexity: its exponential.
        accuracy: fraction of tokens that were the most probable one; NaN where ranks are not known.
        bits_per_byte: of the UTF-8 text, separators between stimuli included.
        word_perplexity: exponential of the loss per whitespace-separated word.
        n_tokens, n_words, n_bytes: numbers of predicted tokens, words and bytes.
        n_missing: stimuli without a probability, excluded from all other values.
    """

    loss_nats: float
    perplexity: float
    accuracy: float
    bits_per_byte: float
    word_perplexity: float
    n_tokens: int
    n_words: int
    n_bytes: int
    n_missing: int


def score(words: Surprisals, texts: Sequence[str], separator: str) -> NextWord:
    """Combine the surprisals of all stimuli.

    Args:
        words: surprisals of the stimuli.
        texts: the same stimuli, in the same order.
        separator: text before each stimulus.

    Raises:
        ValueError: if no stimulus has a probability.
    """
    valid = np.isfinite(words.bits)
    if not valid.any():
        raise ValueError("next-word prediction: no stimulus has a probability; check that the text has tokens.")
    n_bytes = np.array([len(f"{separator}{text}".encode()) for text in texts])
    n_words = np.array([len(text.split()) for text in texts])
    bits, tokens = float(words.bits[valid].sum()), int(words.n_tokens[valid].sum())
    loss, per_word = bits * np.log(2) / tokens, bits * np.log(2) / int(n_words[valid].sum())
    return NextWord(
        float(loss), float(np.exp(loss)), float(words.n_first[valid].sum() / tokens), bits / int(n_bytes[valid].sum()),
        float(np.exp(per_word)), tokens, int(n_words[valid].sum()), int(n_bytes[valid].sum()), int((~valid).sum()),
    )  # fmt: skip
