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
    """Divide the stimuli into contexts, joined by one space.

    Args:
        stimuli: in order of presentation.
        rule: "none" (each stimulus alone), "passage" (starts afresh at each passage or story), "corpus" (one text).

    Returns:
        The contexts in order; every stimulus is in exactly one.

    Raises:
        ValueError: if the rule is unknown, or a stimulus has no text.

    Source: METHODS section 2; Pereira2018 resets at each passage, Futrell2018 under PAPER never.
    """
    for stimulus_id, text in zip(stimuli.ids, stimuli.texts, strict=True):
        if not text.strip():
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
    ends = np.cumsum([len(text) + 1 for text in texts]) - 1
    starts = ends - [len(text) for text in texts]
    return Context(" ".join(texts), tuple(stimuli.ids[row] for row in rows), np.stack([starts, ends], axis=1))
