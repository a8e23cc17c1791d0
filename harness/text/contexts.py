"""Contexts: the texts given to a model, and the position of each stimulus in them.

One forward pass over a context serves all its stimuli: a causal model at position t has seen what a participant had
seen at t, so nothing is re-encoded. Base and tuned models get the same plain text, without chat template or system
prompt (paper, App. B).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import groupby, islice
from typing import Any, TypeVar

import numpy as np

from harness.records import Context, Stimuli
from harness.variants import Condition

# Longer texts are divided into pieces of PIECE stimuli to bound memory. Each piece is preceded by the LEAD stimuli
# before it, more than a window holds.
PIECE, LEAD = 20_000, 2_048
_RUN = 10  # consecutive words shuffled among themselves where stimuli are single words


def build(stimuli: Stimuli, rule: str, context_words: int = 0) -> list[Context]:
    """Divide the stimuli into contexts, joined by their separator (usually one space).

    Args:
        stimuli: in order of presentation.
        rule: "none" (each stimulus alone), "sentence" or "passage" (a new context at each sentence or passage),
            "label" (at each label), "corpus" (one text), "window" (each stimulus after up to `context_words` preceding
            ones of its passage).
        context_words: number of preceding stimuli for the rule "window".

    Returns:
        The contexts in order. Every stimulus belongs to exactly one, though its text may precede others. A text of more
        than `PIECE` stimuli becomes several contexts, each preceded by the `LEAD` stimuli before it.

    Raises:
        ValueError: if the rule is unknown, or a stimulus has no text. If the separator is "", a stimulus may be empty
            (a scan in which nothing was heard); its span is then empty, after the preceding text.

    Source: Aw et al. 2023 (arXiv 2312.00575): Pereira2018 starts a new context at each passage, Futrell2018 under PAPER
        never.
    """
    for stimulus_id, text in zip(stimuli.ids, stimuli.texts, strict=True):
        if not text.strip() and stimuli.separator:
            raise ValueError(f"stimulus {stimulus_id!r} has no text; leave it out of the data set or give it a text.")
    rows = range(len(stimuli))
    if rule == "none":
        return [_join(stimuli, [row]) for row in rows]
    if rule == "sentence":
        if not stimuli.sentences:
            raise ValueError("the stimuli have no sentences; give the sentence of each word, or use another context.")
        return _grouped(stimuli, lambda row: (stimuli.passages[row], stimuli.sentences[row]))
    if rule == "passage":
        return _grouped(stimuli, lambda row: stimuli.passages[row])
    if rule == "label":
        return _grouped(stimuli, lambda row: stimuli.labels[row])
    if rule == "corpus":
        return _grouped(stimuli, lambda _: "")
    if rule == "window":
        n_before = np.minimum(stimuli.positions(), context_words)
        return [_join(stimuli, range(row - n, row + 1), n_before=int(n)) for row, n in zip(rows, n_before, strict=True)]
    raise ValueError(
        f"context rule {rule!r} is unknown; use 'none', 'sentence', 'passage', 'label', 'corpus' or 'window'."
    )


def shuffled(stimuli: Stimuli, seed: int) -> Stimuli:
    """Shuffle the words of the stimuli.

    A control for word order and syntax: the model gets the same words in the same neighbourhood. Where all stimuli are
    single words, words are shuffled in runs of ten within a passage, and each keeps its id, so its vector is the one in
    the scrambled text. Otherwise the words within each stimulus are shuffled; a word is what stands between spaces,
    with its punctuation.

    Args:
        stimuli: in order of presentation.
        seed: gives the same order on every machine. Some short stimuli may remain unchanged.

    Returns:
        Stimuli with the same ids, words and passages.

    Source: Kauf et al. 2024 (Neurobiology of Language 5); AlKhamissi et al. 2025 (arXiv 2503.01830).
    """
    rng = np.random.default_rng(seed)
    if any(len(text.split()) > 1 for text in stimuli.texts):
        return replace(stimuli, texts=tuple(_with_words_shuffled(text, rng) for text in stimuli.texts))
    positions = stimuli.positions()
    runs = groupby(range(len(stimuli)), key=lambda row: (stimuli.passages[row], positions[row] // _RUN))
    order = np.concatenate([rng.permutation([*rows]) for _, rows in runs])
    columns = {field.name: getattr(stimuli, field.name) for field in fields(stimuli)}
    reordered: dict[str, Any] = {
        name: tuple(column[row] for row in order) if isinstance(column, tuple) else column[order]
        for name, column in columns.items()
        if isinstance(column, tuple | np.ndarray) and len(column)
    }
    return replace(stimuli, **reordered)


def prompted(context: Context, condition: Condition) -> Context:
    """Put the prompt of a condition before a context, literally, and move the spans of the stimuli.

    Whatever the rule of the contexts, each begins with the prompt: each stimulus under "none" and "window", each
    sentence or passage, each piece of a corpus.
    """
    n = len(condition.before)
    return Context(condition.before + context.text, context.stimulus_ids, context.spans + n, n)


def _with_words_shuffled(text: str, rng: np.random.Generator) -> str:
    """Shuffle the words of a text but keep its spaces, since some texts contain the spaces that join them."""
    words = iter(rng.permutation(text.split()))
    return re.sub(r"\S+", lambda _: str(next(words)), text)


def _grouped(stimuli: Stimuli, text_of: Callable[[int], Any]) -> list[Context]:
    """One context per text, or per piece of a long text; `text_of` gives the text of a row."""
    texts = groupby(range(len(stimuli)), key=text_of)
    return [_join(stimuli, [*lead, *piece], len(lead)) for _, rows in texts for lead, piece in pieces(rows)]


Item = TypeVar("Item")


def pieces(text: Iterable[Item]) -> Iterator[tuple[list[Item], list[Item]]]:
    """Divide a text into pieces of `PIECE` items; yields the up to `LEAD` items before each piece, and the piece."""
    lead: list[Item] = []
    items = iter(text)
    while piece := list(islice(items, PIECE)):
        yield lead, piece
        lead = [*lead, *piece][-LEAD:]


def _join(stimuli: Stimuli, rows: Sequence[int], n_before: int = 0) -> Context:
    texts, ids = [stimuli.texts[row] for row in rows], [stimuli.ids[row] for row in rows[n_before:]]
    return join(texts, ids, n_before, stimuli.separator)


def join(texts: Sequence[str], ids: Sequence[str], n_before: int = 0, separator: str = " ") -> Context:
    """Join texts into one context; the first `n_before` texts precede the stimuli and are not stimuli themselves."""
    ends = np.cumsum([len(text) + len(separator) for text in texts]) - len(separator)
    starts = ends - [len(text) for text in texts]
    joined = separator.join(texts).rstrip()  # a trailing space would add a token that the reader has not seen
    spans = np.minimum(np.stack([starts, ends], axis=1), len(joined))
    return Context(joined, tuple(ids), spans[n_before:])
