"""What a model expected of a text's tokens -> bits per word.

The surprisal of a word is the sum over its tokens of -log2 p (paper, section 3.3; the paper says "perplexity", its code
uses this). Needs no model: the predictions come out of the same pass as the hidden states.

Where a token reaches over the end of a word ("New York" as one), the text up to that word has other tokens than the
whole text. The chain rule holds for texts all the same: a word's surprisal is that of the text up to it less that of
the text before it. Without such tokens the two are one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.records import Floats, Integers, Predictions, Surprisals, Tokens
from harness.text.tokens import so_far

_BIT = np.log(2)


def per_word(
    tokens: Sequence[Tokens],
    predictions: Sequence[Predictions],
    openings: Integers | Sequence[int] = (),
    *,
    alone: bool = False,
) -> Surprisals:
    """Put together what was expected of each stimulus.

    Args:
        tokens: one per context.
        predictions: what was expected of each.
        openings: tokens that begin with a space; without them `space_bits` is NaN.
        alone: whether each stimulus was read by itself, with its context elsewhere (in T5's encoder).

    Returns:
        Surprisals in the order of the contexts. `space_bits` is log2 P(a space or the end comes next) before the word
        less the same after it. A word's first token stands for the space before it as well, but not for the one after:
        the sum over tokens is the surprisal of all words that begin so ("dog", "dogs"), and adding this corrects it. Of
        a word that begins without a space (the first of a text) only what follows is corrected.

    Raises:
        ValueError: if a context has not one prediction per token.

    Source: of the correction, Pimentel & Meister (2024), "How to compute the probability of a word", theorem 2; Oh &
        Schuler (2024), "Leading whitespaces of language models' subword vocabulary".
    """
    known = np.asarray(openings, dtype=np.int64)
    of_one = _by_themselves if alone else _along
    parts = [of_one(read, said, known) for read, said in zip(tokens, predictions, strict=True)]
    nats, n_tokens, spaces, entropies, ranks, n_first = (
        np.concatenate([part[:, k] for part in parts]) for k in range(len(_COLUMNS))
    )
    ids = tuple(i for read in tokens for i in read.stimulus_ids)
    return Surprisals(ids, nats / _BIT, n_tokens.astype(np.int64), spaces / _BIT, entropies / _BIT, ranks, n_first)


_COLUMNS = ("nats", "n_tokens", "space", "entropy", "rank", "n_first")


def _along(read: Tokens, said: Predictions, openings: Integers) -> Floats:
    """(stimulus, column) of a text that was read from left to right."""
    logs, n = said.log_probabilities, len(read.stimulus_ids)
    if len(read.ids) != len(logs):
        raise ValueError(f"surprisal: {len(read.ids)} tokens but {len(logs)} predictions; give one per token.")
    owned = np.flatnonzero(read.owners >= 0)
    owners = read.owners[owned]
    n_tokens = np.bincount(owners, minlength=n)
    has = n_tokens > 0
    first = owned[np.searchsorted(owners, np.flatnonzero(has))]
    found = np.full((n, len(_COLUMNS)), np.nan)
    found[:, 1] = n_tokens
    found[has, 0] = -np.bincount(owners, weights=logs[owned], minlength=n)[has]
    found[has, 3], found[has, 4] = said.entropies[first], said.ranks[first]
    found[has, 5] = _n_first(owners, said.ranks[owned], n)[has]
    if len(openings):
        before = np.where(np.isin(read.ids[first], openings), said.breaks[first], 0.0)
        found[has, 2] = before - said.breaks[read.last[has] + 1]
    for k in sorted({*read.apart, *(k + 1 for k in read.apart if k + 1 < n)}):
        found[k] = _shared(read, said, openings, k)
    return found


def _n_first(owners: Integers, ranks: Floats, n: int) -> Floats:
    """(stimulus,) how many tokens of each had rank 1; NaN where one's rank is not known."""
    weights = np.where(np.isnan(ranks), np.nan, ranks == 1)
    return np.asarray(np.bincount(owners, weights=weights, minlength=n), dtype=np.float64)


def _by_themselves(read: Tokens, said: Predictions, openings: Integers) -> Floats:
    """(stimulus, column) where each stimulus was read apart from its context."""
    found = np.full((len(read.stimulus_ids), len(_COLUMNS)), np.nan)
    found[:, 1] = 0
    for k, own in said.apart.items():
        ids, at = so_far(read, k)
        space = own.breaks[0] if ids[at[0]] in openings else 0.0
        gap = space - own.breaks[-1] if len(openings) else np.nan
        n_first = float((own.ranks == 1).sum())
        found[k] = -own.log_probabilities.sum(), len(at), gap, own.entropies[0], own.ranks[0], n_first
    return found


@dataclass(frozen=True)
class _End:
    """What is known where the text up to a stimulus ends.

    n: its leading tokens that are those of the whole. length: all its tokens. nats: what those that follow cost.
    entropy, gap: of what comes next: its entropy, the log-probability of a space.
    """

    n: int
    length: int
    nats: float
    entropy: float
    gap: float


def _end(read: Tokens, said: Predictions, k: int) -> _End:
    length = len(so_far(read, k)[0])
    if k not in read.apart:
        return _End(length, length, 0.0, float(said.entropies[length]), float(said.breaks[length]))
    own = said.apart[k]
    nats = -float(own.log_probabilities.sum())
    return _End(read.apart[k].n_kept, length, nats, float(own.entropies[-1]), float(own.breaks[-1]))


def _shared(read: Tokens, said: Predictions, openings: Integers, k: int) -> tuple[float, ...]:
    """The columns of a stimulus that shares a token with a neighbour: the text up to it, less the text before it."""
    before, now = _end(read, said, k - 1), _end(read, said, k)
    ids, at = so_far(read, k)
    if not len(at):
        return np.nan, 0, np.nan, np.nan, np.nan, np.nan
    common = min(before.n, now.n)
    costs = [end.nats - float(said.log_probabilities[common : end.n].sum()) for end in (before, now)]
    ranks = np.concatenate([said.ranks[: now.n], said.apart[k].ranks]) if k in read.apart else said.ranks
    starts_afresh = at[0] >= before.length
    space = before.gap if not starts_afresh or ids[at[0]] in openings else 0.0
    return (
        costs[1] - costs[0], len(at), space - now.gap if len(openings) else np.nan, before.entropy,
        float(ranks[at[0]]) if starts_afresh else np.nan, float(_n_first(at * 0, ranks[at], 1)[0]),
    )  # fmt: skip
