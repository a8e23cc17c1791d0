"""Which of a run's models is tuned from which: the table and the model's card come first, then the names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from harness.checkpoints.checkpoints import Checkpoint
from harness.models.model_table import MODELS, ancestors

# A tuned checkpoint is taken for a version of another model of the same run when only these words tell them apart.
_TUNED_WORDS = re.compile(r"[-_.](instruct|chat|it|sft|dpo|rlhf|tuned|alpaca)(?=$|[-_.@])", re.IGNORECASE)
_SUFFIX = re.compile(r"@.*$|[-_.](hf|base|pt|v\d+(\.\d+)*)(?=$|[-_.@])", re.IGNORECASE)  # says nothing of tuning

_PULL_REQUEST = re.compile(r"@refs/pr/\d+$")


def pair(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Fill in `tuned_from` where a name says it: X-instruct is a tuned X of the same shape, if X is in the run.

    The table and the model's card come first; `pair_source` tells which of the three spoke.
    """
    known = list(checkpoints)
    return [_paired(checkpoint, [other for other in known if other is not checkpoint]) for checkpoint in known]


def _paired(checkpoint: Checkpoint, others: list[Checkpoint]) -> Checkpoint:
    """With the name in this run of the base that table or card names; else with the one that its own name says.

    A model of several stages is paired with the nearest stage that is in the run: an OLMo 2 Instruct with its DPO
    version, or, where neither that nor the SFT version is there, with the base.
    """
    if checkpoint.tuned_from:
        before = checkpoint.name if checkpoint.pair_source == "table" else checkpoint.tuned_from
        for wanted in (checkpoint.tuned_from, *ancestors(before)):
            for other in others:
                if _is_called(other, wanted):
                    return replace(checkpoint, tuned_from=other.name)
    if not _TUNED_WORDS.search(checkpoint.name):
        return checkpoint
    stem = _SUFFIX.sub("", _TUNED_WORDS.sub("", checkpoint.name))
    for other in others:
        untuned = not _TUNED_WORDS.search(other.name)
        if untuned and _SUFFIX.sub("", other.name) == stem and _same_shape(other, checkpoint):
            return replace(checkpoint, tuned_from=other.name, pair_source="name")
    return checkpoint


def _is_called(other: Checkpoint, wanted: str) -> bool:
    """Whether a model of the run is the one that table or card name: by name, Hub id, or the last part of either.

    A pull request of a model (NAME@refs/pr/2) is the model itself, converted; any other revision is not.
    """
    name = _PULL_REQUEST.sub("", other.name)
    hub_id, revision = _place(name)
    if wanted in {name, hub_id, hub_id.rpartition("/")[2]} or wanted.rpartition("/")[2] == name:
        return True
    return wanted in MODELS and (hub_id, revision) == _place(wanted)


def _place(name: str) -> tuple[str, str]:
    """(repository, revision) that a name of the table or of the Hub stands for; of a folder its name alone."""
    if name in MODELS:
        return MODELS[name].hub_id, MODELS[name].revision
    stem, _, revision = name.partition("@")
    return (stem, revision or "main") if "/" in name else (name, "")


def _same_shape(one: Checkpoint, other: Checkpoint) -> bool:
    return (one.family, one.n_layers, one.hidden_size) == (other.family, other.n_layers, other.hidden_size)
