"""Stimuli -> the text that a model reads, and where each stimulus lies in it.

A context is read in one pass and gives every stimulus in it: a causal model at position t has seen what a reader had
seen at t, so nothing need be re-encoded. Base and tuned models read the same plain text: no chat template, no system
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

# A longer text is read in pieces of so many stimuli, so that none outgrows memory; each is read after so many stimuli
# before it, more than a window holds.
PIECE, LEAD = 20_000, 2_048
_RUN = 10  # words that change places with each other where stimuli are single words


def build(stimuli: Stimuli, rule: str, context_words: int = 0) -> list[Context]:
    """Divide the stimuli into contexts, joined by their separator, one space for most.

    Args:
        stimuli: in order of presentation.
        rule: "none" (each stimulus alone), "sentence" or "passage" (starts afresh at each sentence, passage or story),
            "corpus" (one text), "window" (each stimulus after the `context_words` before it in its passage, or as many
            as there are).
        context_words: of the rule "window".

    Returns:
        The contexts in order; every stimulus is in exactly one, though its text may stand in others. A text of more
        than `PIECE` stimuli is several contexts, which begin with the `LEAD` stimuli before them.

    Raises:
        ValueError: if the rule is unknown, or a stimulus has no text. Where the texts bring their own spaces it may
            have none (a scan in which nothing was heard); it then lies, empty, after what came before.

    Source: METHODS section 2; Pereira2018 resets at each passage, Futrell2018 under PAPER never.
    """
    for stimulus_id, text in zip(stimuli.ids, stimuli.texts, strict=True):
        if not text.strip() and stimuli.separator:
            raise ValueError(f"stimulus {stimulus_id!r} has no text; leave it out of the data set or give it a text.")
    rows = range(len(stimuli))
    if rule == "none":
        return [_join(stimuli, [row]) for row in rows]
    if rule == "sentence":
        if not stimuli.sentences:
            raise ValueError("the stimuli have no sentences; give each word's, or use another context.")
        return _apart(stimuli, lambda row: (stimuli.passages[row], stimuli.sentences[row]))
    if rule == "passage":
        return _apart(stimuli, lambda row: stimuli.passages[row])
    if rule == "corpus":
        return _apart(stimuli, lambda _: "")
    if rule == "window":
        before = np.minimum(stimuli.positions(), context_words)
        return [_join(stimuli, range(row - n, row + 1), n_before=int(n)) for row, n in zip(rows, before, strict=True)]
    raise ValueError(f"context rule {rule!r} is unknown; use 'none', 'sentence', 'passage', 'corpus' or 'window'.")


def shuffled(stimuli: Stimuli, seed: int) -> Stimuli:
    """The same stimuli with the order of their words destroyed.

    A model still reads the same words in the same company; what its score keeps is not owed to their order, to syntax.
    Where all stimuli are single words, words change places in runs of ten of a passage, and each keeps its id, so that
    its vector is the one it gets in the scrambled text. Else the words within each stimulus change places; a word is
    what stands between spaces, with its punctuation.

    Args:
        stimuli: in order of presentation.
        seed: of the order; the same seed gives the same order anywhere. Some short stimuli stay as they were.

    Returns:
        Stimuli of the same ids, words and passages.

    Source: Kauf et al. 2024 (Neurobiology of Language 5); AlKhamissi et al. 2025 (arXiv 2503.01830).
    """
    rng = np.random.default_rng(seed)
    if any(len(text.split()) > 1 for text in stimuli.texts):
        return replace(stimuli, texts=tuple(_with_words_moved(text, rng) for text in stimuli.texts))
    places = stimuli.positions()
    runs = groupby(range(len(stimuli)), key=lambda row: (stimuli.passages[row], places[row] // _RUN))
    order = np.concatenate([rng.permutation([*rows]) for _, rows in runs])
    columns = {field.name: getattr(stimuli, field.name) for field in fields(stimuli)}
    moved: dict[str, Any] = {
        name: tuple(column[row] for row in order) if isinstance(column, tuple) else column[order]
        for name, column in columns.items()
        if isinstance(column, tuple | np.ndarray) and len(column)
    }
    return replace(stimuli, **moved)


def _with_words_moved(text: str, rng: np.random.Generator) -> str:
    """The text with its words in another order; its spaces stay, for some texts are joined by their own."""
    words = iter(rng.permutation(text.split()))
    return re.sub(r"\S+", lambda _: str(next(words)), text)


def _apart(stimuli: Stimuli, text_of: Callable[[int], Any]) -> list[Context]:
    """One context for each text, or piece of it."""
    rows = groupby(range(len(stimuli)), key=text_of)
    return [_join(stimuli, [*before, *part], len(before)) for _, text in rows for before, part in pieces(text)]


Item = TypeVar("Item")


def pieces(text: Iterable[Item]) -> Iterator[tuple[list[Item], list[Item]]]:
    """What is read before each piece of a text, and the piece; a text of up to `PIECE` items is one."""
    before: list[Item] = []
    items = iter(text)
    while part := list(islice(items, PIECE)):
        yield before, part
        before = [*before, *part][-LEAD:]


def _join(stimuli: Stimuli, rows: Sequence[int], n_before: int = 0) -> Context:
    texts, ids = [stimuli.texts[row] for row in rows], [stimuli.ids[row] for row in rows[n_before:]]
    return join(texts, ids, n_before, stimuli.separator)


def join(texts: Sequence[str], ids: Sequence[str], n_before: int = 0, separator: str = " ") -> Context:
    """The context of texts; the first `n_before` are read before the stimuli and are none of them."""
    ends = np.cumsum([len(text) + len(separator) for text in texts]) - len(separator)
    starts = ends - [len(text) for text in texts]
    whole = separator.join(texts).rstrip()  # a space at the end would be a token that no reader saw
    spans = np.minimum(np.stack([starts, ends], axis=1), len(whole))
    return Context(whole, tuple(ids), spans[n_before:])
