"""Compute the surprisal of each word from a text's token predictions.

The surprisal of a word is the sum over its tokens of -log2 p (paper, section 3.3; the paper says "perplexity", its code
uses this). No model is needed: the predictions come from the same pass as the hidden states.

Where a token crosses the end of a word ("New York" as one token), the text up to that word is tokenised differently
from the whole text. The chain rule still holds for texts: a word's surprisal is that of the text up to and including it
minus that of the text before it. Without such tokens this equals the sum over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.records import Floats, Integers, Predictions, Surprisals, Tokens
from harness.text.tokens import prefix_of

_NATS_PER_BIT = np.log(2)


def per_word(
    tokens: Sequence[Tokens], predictions: Sequence[Predictions], word_initial_tokens: Integers | Sequence[int] = (), *,
    single_stimuli: bool = False,
) -> Surprisals:  # fmt: skip
    """Compute surprisal and related measures of each stimulus.

    Args:
        tokens: one per context.
        predictions: one per context.
        word_initial_tokens: ids of word-initial tokens; without them `space_bits` is NaN.
        single_stimuli: whether each stimulus was processed by itself, with its context elsewhere (in T5's encoder).

    Returns:
        Surprisals in the order of the contexts. `space_bits` is log2 P(the next token is word-initial or ends the text)
        before the word minus the same after it. A word's first token includes the space before the word, but no token
        includes the one after it: the sum over tokens is the surprisal of all words that begin in this way ("dog",
        "dogs"), and adding `space_bits` corrects it. A word that begins without a space (the first of a text) is
        corrected only for what follows.

    Raises:
        ValueError: if a context does not have one prediction per token.

    Source: of the correction, Pimentel & Meister (2024), "How to compute the probability of a word", theorem 2; Oh &
        Schuler (2024), "Leading whitespaces of language models' subword vocabulary".
    """
    word_initial = np.asarray(word_initial_tokens, dtype=np.int64)
    columns_of = _single_stimuli if single_stimuli else _running_text
    columns = [
        columns_of(context_tokens, context_predictions, word_initial)
        for context_tokens, context_predictions in zip(tokens, predictions, strict=True)
    ]
    nats, n_tokens, spaces, entropies, ranks, n_first = np.concatenate(columns).T.copy()
    ids = tuple(stimulus_id for context_tokens in tokens for stimulus_id in context_tokens.stimulus_ids)
    return Surprisals(
        ids, nats / _NATS_PER_BIT, n_tokens.astype(np.int64), spaces / _NATS_PER_BIT, entropies / _NATS_PER_BIT, ranks,
        n_first,
    )  # fmt: skip


_COLUMNS = ("nats", "n_tokens", "space", "entropy", "rank", "n_first")


def _running_text(tokens: Tokens, predictions: Predictions, word_initial: Integers) -> Floats:
    """(stimulus, column) of a text that was processed from left to right."""
    logs, n = predictions.log_probabilities, len(tokens.stimulus_ids)
    if len(tokens.ids) != len(logs):
        raise ValueError(f"surprisal: {len(tokens.ids)} tokens but {len(logs)} predictions; give one per token.")
    owned = np.flatnonzero(tokens.owners >= 0)
    owners = tokens.owners[owned]
    n_tokens = np.bincount(owners, minlength=n)
    has_tokens = n_tokens > 0
    first = owned[np.searchsorted(owners, np.flatnonzero(has_tokens))]
    columns = np.full((n, len(_COLUMNS)), np.nan)
    columns[:, 1] = n_tokens
    columns[has_tokens, 0] = -np.bincount(owners, weights=logs[owned], minlength=n)[has_tokens]
    columns[has_tokens, 3], columns[has_tokens, 4] = predictions.entropies[first], predictions.ranks[first]
    columns[has_tokens, 5] = _n_first(owners, predictions.ranks[owned], n)[has_tokens]
    if len(word_initial):
        before = np.where(np.isin(tokens.ids[first], word_initial), predictions.breaks[first], 0.0)
        columns[has_tokens, 2] = before - predictions.breaks[tokens.last[has_tokens] + 1]
    for stimulus in sorted({*tokens.retokenised, *(before + 1 for before in tokens.retokenised if before + 1 < n)}):
        columns[stimulus] = _between_prefixes(tokens, predictions, word_initial, stimulus)
    return columns


def _n_first(owners: Integers, ranks: Floats, n: int) -> Floats:
    """(stimulus,) number of tokens with rank 1; NaN if the rank of any token is unknown."""
    weights = np.where(np.isnan(ranks), np.nan, ranks == 1)
    return np.asarray(np.bincount(owners, weights=weights, minlength=n), dtype=np.float64)


def _single_stimuli(tokens: Tokens, predictions: Predictions, word_initial: Integers) -> Floats:
    """(stimulus, column) of stimuli that were each processed by itself."""
    columns = np.full((len(tokens.stimulus_ids), len(_COLUMNS)), np.nan)
    columns[:, 1] = 0
    for stimulus, own in predictions.retokenised.items():
        ids, positions = prefix_of(tokens, stimulus)
        space_before = own.breaks[0] if ids[positions[0]] in word_initial else 0.0
        space = space_before - own.breaks[-1] if len(word_initial) else np.nan
        n_first = float((own.ranks == 1).sum())
        columns[stimulus] = (
            -own.log_probabilities.sum(), len(positions), space, own.entropies[0], own.ranks[0], n_first,
        )  # fmt: skip
    return columns


@dataclass(frozen=True)
class _Prefix:
    """The text up to and including a stimulus.

    Attributes:
        n_shared: number of leading tokens that it shares with the whole text.
        n_tokens: number of all its tokens.
        nats: surprisal of its tokens after the shared ones.
        entropy: entropy of the next token.
        space: log-probability that the next token is word-initial or ends the text.
    """

    n_shared: int
    n_tokens: int
    nats: float
    entropy: float
    space: float


def _prefix(tokens: Tokens, predictions: Predictions, stimulus: int) -> _Prefix:
    n_tokens = len(prefix_of(tokens, stimulus)[0])
    if stimulus not in tokens.retokenised:
        entropy, space = float(predictions.entropies[n_tokens]), float(predictions.breaks[n_tokens])
        return _Prefix(n_tokens, n_tokens, 0.0, entropy, space)
    own = predictions.retokenised[stimulus]
    nats = -float(own.log_probabilities.sum())
    return _Prefix(tokens.retokenised[stimulus].n_kept, n_tokens, nats, float(own.entropies[-1]), float(own.breaks[-1]))


def _between_prefixes(
    tokens: Tokens, predictions: Predictions, word_initial: Integers, stimulus: int
) -> tuple[float, ...]:
    """Columns of a stimulus that shares a token with a neighbour: the prefix with it minus the prefix before it."""
    before, current = _prefix(tokens, predictions, stimulus - 1), _prefix(tokens, predictions, stimulus)
    ids, positions = prefix_of(tokens, stimulus)
    if not len(positions):
        return np.nan, 0, np.nan, np.nan, np.nan, np.nan
    n_common = min(before.n_shared, current.n_shared)
    logs = predictions.log_probabilities
    nats_before, nats = (
        prefix.nats - float(logs[n_common : prefix.n_shared].sum()) for prefix in (before, current)
    )  # fmt: skip
    ranks = predictions.ranks
    if stimulus in tokens.retokenised:
        ranks = np.concatenate([ranks[: current.n_shared], predictions.retokenised[stimulus].ranks])
    starts_new_token = positions[0] >= before.n_tokens
    space_before = before.space if not starts_new_token or ids[positions[0]] in word_initial else 0.0
    return (
        nats - nats_before, len(positions), space_before - current.space if len(word_initial) else np.nan,
        before.entropy, float(ranks[positions[0]]) if starts_new_token else np.nan,
        float(_n_first(positions * 0, ranks[positions], 1)[0]),
    )  # fmt: skip
