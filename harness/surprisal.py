"""Token log-probabilities -> bits per word.

The surprisal of a word is the sum over its tokens of -log2 p (paper, section 3.3; the paper says "perplexity", its code
uses this). Needs no model: the log-probabilities come out of the same pass as the hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.records import Floats, Surprisals, Tokens


def per_word(tokens: Sequence[Tokens], log_probabilities: Sequence[Floats]) -> Surprisals:
    """Sum token log-probabilities over each stimulus.

    Args:
        tokens: one per context.
        log_probabilities: per context (token,) nats.

    Returns:
        Surprisals in the order of the contexts: bits (word,) float64, NaN where a word has no token or a token has no
        probability; n_tokens (word,).

    Raises:
        ValueError: if a context has not one log-probability per token.
    """
    bits, counts = [], []
    ids: list[str] = []
    for read, logs in zip(tokens, log_probabilities, strict=True):
        if len(read.ids) != len(logs):
            raise ValueError(
                f"surprisal: {len(read.ids)} tokens but {len(logs)} log-probabilities; give one per token."
            )
        owned = read.owners >= 0
        n_tokens = np.bincount(read.owners[owned], minlength=len(read.stimulus_ids))
        nats = -np.bincount(read.owners[owned], weights=logs[owned], minlength=len(read.stimulus_ids))
        bits.append(np.where(n_tokens > 0, nats / np.log(2), np.nan))
        counts.append(n_tokens)
        ids.extend(read.stimulus_ids)
    return Surprisals(tuple(ids), np.concatenate(bits), np.concatenate(counts))
