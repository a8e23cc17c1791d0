"""Which of a run's models is tuned from which: the table and the model's card come first, then the names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from harness.checkpoints import Checkpoint
from harness.models import MODELS

# A tuned checkpoint is taken for a version of another model of the same run when only these words tell them apart.
_TUNED_WORDS = re.compile(r"[-_.](instruct|chat|it|sft|dpo|rlhf|tuned|alpaca)(?=$|[-_.@])", re.IGNORECASE)
_SUFFIX = re.compile(r"@.*$|[-_.](hf|base|pt|v\d+(\.\d+)*)(?=$|[-_.@])", re.IGNORECASE)  # says nothing of tuning


def pair(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Fill in `tuned_from` where a name says it: X-instruct is a tuned X of the same shape, if X is in the run.

    The table and the model's card come first; `pair_source` tells which of the three spoke.
    """
    known = list(checkpoints)
    return [_paired(checkpoint, [other for other in known if other is not checkpoint]) for checkpoint in known]


def _paired(checkpoint: Checkpoint, others: list[Checkpoint]) -> Checkpoint:
    """With the name in this run of the base that table or card names; else with the one that its own name says."""
    if checkpoint.tuned_from:
        for other in others:
            hub_id = MODELS[other.name].hub_id if other.name in MODELS else other.name
            if checkpoint.tuned_from in {other.name, hub_id, hub_id.rpartition("/")[2]}:
                return replace(checkpoint, tuned_from=other.name)
            if checkpoint.tuned_from.rpartition("/")[2] == other.name:
                return replace(checkpoint, tuned_from=other.name)
    if not _TUNED_WORDS.search(checkpoint.name):
        return checkpoint
    stem = _SUFFIX.sub("", _TUNED_WORDS.sub("", checkpoint.name))
    for other in others:
        untuned = not _TUNED_WORDS.search(other.name)
        if untuned and _SUFFIX.sub("", other.name) == stem and _same_shape(other, checkpoint):
            return replace(checkpoint, tuned_from=other.name, pair_source="name")
    return checkpoint


def _same_shape(one: Checkpoint, other: Checkpoint) -> bool:
    return (one.family, one.n_layers, one.hidden_size) == (other.family, other.n_layers, other.hidden_size)
