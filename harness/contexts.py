"""Stimuli -> the text that a model reads, and where each stimulus lies in it.

A context is read in one pass and gives every stimulus in it: a causal model at position t has seen what a reader had
seen at t, so nothing need be re-encoded. Base and tuned models read the same plain text: no chat template, no system
prompt (paper, App. B).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from harness.records import Context, Stimuli


def build(stimuli: Stimuli, rule: str) -> list[Context]:
    """Divide the stimuli into contexts, joined by their separator, one space for most.

    Args:
        stimuli: in order of presentation.
        rule: "none" (each stimulus alone), "passage" (starts afresh at each passage or story), "corpus" (one text).

    Returns:
        The contexts in order; every stimulus is in exactly one.

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
    if rule == "passage":
        return [_join(stimuli, list(part)) for _, part in groupby(rows, key=lambda row: stimuli.passages[row])]
    if rule == "corpus":
        return [_join(stimuli, list(rows))]
    raise ValueError(f"context rule {rule!r} is unknown; use 'none', 'passage' or 'corpus'.")


def _join(stimuli: Stimuli, rows: Sequence[int]) -> Context:
    texts = [stimuli.texts[row] for row in rows]
    ends = np.cumsum([len(text) + len(stimuli.separator) for text in texts]) - len(stimuli.separator)
    starts = ends - [len(text) for text in texts]
    whole = stimuli.separator.join(texts).rstrip()  # a space at the end would be a token that no reader saw
    spans = np.minimum(np.stack([starts, ends], axis=1), len(whole))
    return Context(whole, tuple(stimuli.ids[row] for row in rows), spans)
