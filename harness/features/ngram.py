"""Surprisal without a neural network: bits per word by a trigram model of the user's own corpus.

What the last two words and the frequencies of words tell is what a language model must go beyond. Interpolated modified
Kneser-Ney smoothing, in NumPy: every order is two sorted tables, and a whole recording is one look-up in each. A corpus
of a million words takes seconds; count 100 bytes a word of the corpus in memory.

Source: Chen & Goodman 1999 (Computer Speech & Language 13, section 3). The unknown word as in KenLM (Heafield et al.
2013): it has no count and gets its share of what single words leave to all. nltk.lm was tried first (2026-11; 378,193
words, 10,256 scored): its Kneser-Ney needs 11 minutes; its Witten-Bell, 9 s, gives unknown words infinitely many bits,
or as few as a word that the corpus holds once (r with reading times .09 where this gives .25, in half a second).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from harness.delimited.encodings import TextSource, blocks_of_lines
from harness.features.word_vectors import bare, report_known
from harness.records import Floats, Integers, Stimuli

UNKNOWN = "<unk>"  # in wikitext too
_START, _UNKNOWN_ID = 0, 1
_MOST_WORDS = 2**21  # three ids in 63 bits
# Of counts 1, 2, 3 and more, where a corpus is too small to estimate them: KenLM's fallback.
_FALLBACK = (0.5, 1.0, 1.5)
# wikitext sets off the hyphen, comma or point within a word by @, and 's and n't by a space, as the Penn treebank does.
_MARK, _CLITIC = re.compile(r" @(\S)@ "), re.compile(r" (n't|'(?:s|re|ve|ll|d|m))(?!\w)")


class Order(NamedTuple):
    """n-grams of one length; a key is the number that its words' ids make in the base of the vocabulary.

    grams, shares: (gram,) sorted keys, what each keeps of its probability given its context. contexts, left: (context,)
    sorted keys of all words but the last, what each leaves to the shorter n-grams.
    """

    grams: Integers
    shares: Floats
    contexts: Integers
    left: Floats


@dataclass(frozen=True)
class Trigrams:
    """A trained model. ids: word -> its id from 1, the unknown word's; orders: words alone, pairs, threes."""

    ids: dict[str, int]
    orders: tuple[Order, ...]

    def probabilities(self, threes: Integers) -> Floats:
        """(three,) p of the last word of each row of (three, 3) ids, given the two before it; 0 begins a passage.

        Over all last words it sums to 1.
        """
        base = len(self.ids) + 1
        p = np.full(len(threes), 1.0 / len(self.ids))
        for n, order in enumerate(self.orders, 1):
            keys = _keys(threes[:, -n:].T, base)
            p = (
                _values(order.grams, order.shares, keys, 0.0)
                + _values(order.contexts, order.left, keys // base, 1.0) * p
            )
        return p

    def bits(self, passages: Iterable[Sequence[str]]) -> Floats:
        """(word,) -log2 p of all words of the passages in their order; each passage starts afresh."""
        ids = [[_START, _START, *(self.ids.get(word, _UNKNOWN_ID) for word in words)] for words in passages]
        threes = [
            np.lib.stride_tricks.sliding_window_view(np.array(row, dtype=np.int64), 3) for row in ids if len(row) > 2
        ]
        bits: Floats = -np.log2(self.probabilities(np.concatenate(threes)))
        return bits


def bits_of(stimuli: Stimuli, path: str) -> Floats:
    """(stimulus, 2) float64: sum and mean of the bits of a stimulus's words, in order of presentation in its passage.

    A word without letter or digit is none, in the stimuli as in the corpus; a stimulus without a word gets zeros.

    Args:
        stimuli: sentences or words.
        path: the corpus, UTF-8 or UTF-16 text, also compressed; each line (a paragraph, in wikitext) is a passage.

    Raises:
        ValueError: if the corpus is no such text (naming the line), or holds no word of the stimuli.
    """
    model = train(corpus(path))
    shown = [words(text) for text in stimuli.texts]
    running = [word for row in shown for word in row]
    report_known("ngram", path, sum(word in model.ids for word in running), len(running))
    passages = groupby(range(len(shown)), key=lambda row: stimuli.passages[row])
    bits = model.bits([[word for row in rows for word in shown[row]] for _, rows in passages])
    n_words = np.array([len(row) for row in shown])
    total = np.bincount(np.repeat(np.arange(len(shown)), n_words), weights=bits, minlength=len(shown))
    return np.stack([total, total / np.maximum(n_words, 1)], axis=1)


def words(text: str) -> list[str]:
    """The words of a text as they are compared: in lower case, without outer punctuation."""
    return [word for shown in text.split() if (word := shown if shown == UNKNOWN else bare(shown).lower())]


def corpus(path: str) -> Iterator[list[str]]:
    """The words of each line; wikitext's headings (` = Heading = `) are left out, its marks (@-@, 's) undone."""
    for block in blocks_of_lines(TextSource(path, remedy="")):
        for line in block:
            if not (line.startswith(" = ") and line.rstrip().endswith(" =")):
                yield words(_CLITIC.sub(r"\1", _MARK.sub(r"\1", line)))


def train(passages: Iterable[Sequence[str]], discounts: Sequence[Sequence[float]] | None = None) -> Trigrams:
    """Count and smooth.

    Args:
        passages: words of each.
        discounts: for words alone, pairs and threes what is taken from counts of 1, 2, 3 and more; estimated if None.

    Raises:
        ValueError: if there is no word, or more different ones than two millions.
    """
    ids, text = {UNKNOWN: _UNKNOWN_ID}, array("q")
    for passage in passages:
        text.extend([_START, _START])
        text.extend(ids.setdefault(word, len(ids) + 1) for word in passage)
    if not 1 < len(ids) < _MOST_WORDS:
        raise ValueError(f"ngram: the corpus holds {len(ids) - 1} different words, wanted 1 to {_MOST_WORDS - 2}.")
    base, threes = len(ids) + 1, np.lib.stride_tricks.sliding_window_view(np.asarray(text), 3)
    grams = _keys(threes[threes[:, 2] > _UNKNOWN_ID].T, base)
    orders = []
    for n in (3, 2, 1):
        # Shorter n-grams count the different words before them: Francisco is frequent, but after San alone.
        grams, counts = np.unique(grams % base**n, return_counts=True)
        orders.append(_order(grams, counts, base, discounts[n - 1] if discounts else None))
    return Trigrams(ids, tuple(reversed(orders)))


def _order(grams: Integers, counts: Integers, base: int, discounts: Sequence[float] | None) -> Order:
    """Absolute discounting: each n-gram gives up what its context leaves to shorter ones."""
    taken = np.array(discounts or _discounts(counts))[np.minimum(counts, 3) - 1]
    contexts, of = np.unique(grams // base, return_inverse=True)
    totals = np.bincount(of, weights=counts)
    return Order(grams, (counts - taken) / totals[of], contexts, np.bincount(of, weights=taken) / totals)


def _discounts(counts: Integers) -> Sequence[float]:
    """Chen & Goodman's estimate from how many n-grams were counted once, twice, three and four times."""
    once, twice, thrice, four = (int((counts == n).sum()) for n in (1, 2, 3, 4))
    if not (once and twice and thrice):
        return _FALLBACK
    share = once / (once + 2 * twice)
    found = 1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * four / thrice
    return found if min(found) > 0 else _FALLBACK


def _keys(ids: Integers, base: int) -> Integers:
    """(gram,) from (place, gram) ids."""
    keys = np.zeros(ids.shape[1], dtype=np.int64)
    for place in ids:
        keys = keys * base + place
    return keys


def _values(keys: Integers, values: Floats, wanted: Integers, absent: float) -> Floats:
    """(wanted,) values of sorted keys, `absent` for those that are not among them."""
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], absent)
