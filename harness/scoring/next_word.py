"""What a model expected of a text -> loss, perplexity and accuracy of next-token prediction.

Losses per token depend on the tokenizer: a model with a larger vocabulary has fewer, harder tokens. So the loss per
word and per byte stand beside them, which compare across tokenizers.

Source: paper, section 5 (loss on WikiText-2); per word and byte as in the tasks of lm-evaluation-harness.
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
        loss_nats, perplexity: mean per token, and its exponential.
        accuracy: share of the tokens that were the most probable; NaN where ranks are not known.
        bits_per_byte: of the text in UTF-8, what joins the stimuli included.
        word_perplexity: exponential of the loss per word, a word being what stands between spaces.
        n_tokens, n_words, n_bytes: that were predicted; n_missing: stimuli without a probability, left out of all.
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
    """Put together what was expected of each stimulus.

    Args:
        words: of the stimuli.
        texts: of the same stimuli, in that order.
        separator: what stands before each of them in the text.

    Raises:
        ValueError: if there is no probability of any.
    """
    known = np.isfinite(words.bits)
    if not known.any():
        raise ValueError("next-word prediction: no stimulus has a probability; is there a token in the text?")
    n_bytes = np.array([len(f"{separator}{text}".encode()) for text in texts])
    n_words = np.array([len(text.split()) for text in texts])
    bits, tokens = float(words.bits[known].sum()), int(words.n_tokens[known].sum())
    loss, per_word = bits * np.log(2) / tokens, bits * np.log(2) / int(n_words[known].sum())
    return NextWord(
        float(loss), float(np.exp(loss)), float(words.n_first[known].sum() / tokens), bits / int(n_bytes[known].sum()),
        float(np.exp(per_word)), tokens, int(n_words[known].sum()), int(n_bytes[known].sum()), int((~known).sum()),
    )  # fmt: skip
