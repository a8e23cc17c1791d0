"""Surprisal without a neural network: bits per word from a trigram model of the user's corpus.

This is the baseline of the last two words and word frequencies. Smoothing is interpolated modified Kneser-Ney, in
NumPy: each order is two sorted tables, and a whole recording is one look-up in each. A corpus of a million words takes
seconds and about 100 bytes of memory per word.

Source: Chen & Goodman 1999 (Computer Speech & Language 13, section 3). The unknown word is treated as in KenLM
(Heafield et al. 2013): it has no count and gets an equal part of the probability that unigrams leave. nltk.lm was tried
first (November 2026; 378,193 words, 10,256 scored): its Kneser-Ney takes 11 minutes; its Witten-Bell (9 s) gives
unknown words infinite surprisal, or as little as a word seen once (r with reading times 0.09; here 0.25 in 0.5 s).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from harness.delimited.encodings import TextSource, blocks_of_lines
from harness.features.word_vectors import bare, report_known
from harness.records import Floats, Integers, Stimuli

UNKNOWN = "<unk>"  # as in WikiText
_START, _UNKNOWN_ID = 0, 1
_MOST_WORDS = 2**21  # so that three ids fit in 63 bits
# Discounts of counts 1, 2 and 3 or more if the corpus is too small to estimate them: KenLM's fallback.
_FALLBACK = (0.5, 1.0, 1.5)
# WikiText marks a hyphen, comma or point within a word by @, and splits off 's and n't as the Penn Treebank does.
_MARK, _CLITIC = re.compile(r" @(\S)@ "), re.compile(r" (n't|'(?:s|re|ve|ll|d|m))(?!\w)")


class BackoffOrder(NamedTuple):
    """n-grams of one length. A key encodes the word ids as digits in base vocabulary size + 1.

    Attributes:
        grams: (gram,) sorted keys.
        shares: (gram,) discounted probability given the context.
        contexts: (context,) sorted keys of all words but the last.
        left: (context,) probability left to shorter n-grams.
    """

    grams: Integers
    shares: Floats
    contexts: Integers
    left: Floats


@dataclass(frozen=True)
class Trigrams:
    """A trained model. ids: word -> id, from 1 for the unknown word; orders: unigrams, bigrams, trigrams."""

    ids: dict[str, int]
    orders: tuple[BackoffOrder, ...]

    def probabilities(self, threes: Integers) -> Floats:
        """(trigram,) probability of the last word in each row of (trigram, 3) ids, given the two before it.

        Id 0 marks the start of a passage. Probabilities sum to 1 over all last words.
        """
        base = len(self.ids) + 1
        p = np.full(len(threes), 1.0 / len(self.ids))
        for n, order in enumerate(self.orders, 1):
            keys = _keys(threes[:, -n:].T, base)
            left = _values(order.contexts, order.left, keys // base, 1.0)
            p = _values(order.grams, order.shares, keys, 0.0) + left * p
        return p

    def bits(self, passages: Iterable[Sequence[str]]) -> Floats:
        """(word,) -log2 p of all words, passage by passage; the context restarts at each passage."""
        ids = [[_START, _START, *(self.ids.get(word, _UNKNOWN_ID) for word in words)] for words in passages]
        rows = (np.array(row, dtype=np.int64) for row in ids if len(row) > 2)
        threes = [sliding_window_view(row, 3) for row in rows]
        bits: Floats = -np.log2(self.probabilities(np.concatenate(threes)))
        return bits


def bits_of(stimuli: Stimuli, path: str) -> Floats:
    """Sum and mean surprisal over the words of each stimulus.

    Words follow each other in order of presentation within a passage. Tokens without a letter or digit are ignored, in
    stimuli and corpus.

    Args:
        stimuli: sentences or words.
        path: the corpus: UTF-8 or UTF-16 text, optionally compressed; each line (in WikiText a paragraph) is a passage.

    Returns:
        (stimulus, 2) float64 bits; zeros for a stimulus without words.

    Raises:
        ValueError: if the corpus is not such a text (naming the line), or contains none of the stimuli's words.
    """
    model = train(corpus(path))
    words_by_stimulus = [words(text) for text in stimuli.texts]
    running = [word for row in words_by_stimulus for word in row]
    report_known("ngram", path, sum(word in model.ids for word in running), len(running))
    passages = groupby(range(len(words_by_stimulus)), key=lambda row: stimuli.passages[row])
    bits = model.bits([[word for row in rows for word in words_by_stimulus[row]] for _, rows in passages])
    n_words = np.array([len(row) for row in words_by_stimulus])
    total = np.bincount(np.repeat(np.arange(len(n_words)), n_words), weights=bits, minlength=len(n_words))
    return np.stack([total, total / np.maximum(n_words, 1)], axis=1)


def words(text: str) -> list[str]:
    """The words of a text in lower case, without outer punctuation."""
    return [word for token in text.split() if (word := token if token == UNKNOWN else bare(token).lower())]


def corpus(path: str) -> Iterator[list[str]]:
    """Yield the words of each line, without WikiText's headings (` = Heading = `) and marks (@-@, split 's)."""
    for block in blocks_of_lines(TextSource(path, remedy="")):
        for line in block:
            if not (line.startswith(" = ") and line.rstrip().endswith(" =")):
                yield words(_CLITIC.sub(r"\1", _MARK.sub(r"\1", line)))


def train(passages: Iterable[Sequence[str]], discounts: Sequence[Sequence[float]] | None = None) -> Trigrams:
    """Train a model: count n-grams and smooth.

    Args:
        passages: the words of each passage.
        discounts: for unigrams, bigrams and trigrams the discounts of counts 1, 2 and 3 or more; estimated if None.

    Raises:
        ValueError: if there is no word, or more than two million different words.
    """
    ids, text = {UNKNOWN: _UNKNOWN_ID}, array("q")
    for passage in passages:
        text.extend([_START, _START])
        text.extend(ids.setdefault(word, len(ids) + 1) for word in passage)
    if not 1 < len(ids) < _MOST_WORDS:
        raise ValueError(f"ngram: the corpus has {len(ids) - 1} different words; wanted 1 to {_MOST_WORDS - 2}.")
    base, threes = len(ids) + 1, sliding_window_view(np.asarray(text), 3)
    grams = _keys(threes[threes[:, 2] > _UNKNOWN_ID].T, base)
    orders = []
    for n in (3, 2, 1):
        # Kneser-Ney: shorter n-grams count the distinct words before them ("Francisco" follows almost only "San").
        grams, counts = np.unique(grams % base**n, return_counts=True)
        orders.append(_order(grams, counts, base, discounts[n - 1] if discounts else None))
    return Trigrams(ids, tuple(reversed(orders)))


def _order(grams: Integers, counts: Integers, base: int, discounts: Sequence[float] | None) -> BackoffOrder:
    """Absolute discounting: the counts taken from the n-grams of a context go to shorter n-grams."""
    taken = np.array(discounts or _discounts(counts))[np.minimum(counts, 3) - 1]
    contexts, context_of = np.unique(grams // base, return_inverse=True)
    totals = np.bincount(context_of, weights=counts)
    left = np.bincount(context_of, weights=taken) / totals
    return BackoffOrder(grams, (counts - taken) / totals[context_of], contexts, left)


def _discounts(counts: Integers) -> Sequence[float]:
    """Chen & Goodman's discounts, from the numbers of n-grams counted once, twice, three and four times."""
    once, twice, thrice, four = (int((counts == n).sum()) for n in (1, 2, 3, 4))
    if not (once and twice and thrice):
        return _FALLBACK
    share = once / (once + 2 * twice)
    discounts = 1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * four / thrice
    return discounts if min(discounts) > 0 else _FALLBACK


def _keys(ids: Integers, base: int) -> Integers:
    """(gram,) keys from (place, gram) ids."""
    keys = np.zeros(ids.shape[1], dtype=np.int64)
    for place in ids:
        keys = keys * base + place
    return keys


def _values(keys: Integers, values: Floats, wanted: Integers, absent: float) -> Floats:
    """(wanted,) values looked up by sorted keys; `absent` for unknown keys."""
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], absent)
