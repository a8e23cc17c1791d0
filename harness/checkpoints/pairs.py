"""Pair base models and tuned versions within a run: by the model table, an adapter, the model card, else by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from harness.checkpoints.checkpoints import Checkpoint
from harness.models.model_table import MODELS, ancestors, entry_of

# A checkpoint counts as a tuned version of another model in the run if only these words distinguish their names.
_TUNED_WORDS = re.compile(r"[-_.](instruct|chat|it|sft|dpo|rlhf|tuned|alpaca)(?=$|[-_.@])", re.IGNORECASE)
_SUFFIX = re.compile(r"@.*$|[-_.](hf|base|pt|v\d+(\.\d+)*)(?=$|[-_.@])", re.IGNORECASE)  # does not indicate tuning

_PULL_REQUEST = re.compile(r"@refs/pr/\d+$")


def pair(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Fill in `tuned_from`, `pair_source`, `trained_from` and `stage` for the models of a run.

    Table, adapter and model card take precedence. Otherwise X-instruct is a tuned X if X is in the run and has the same
    shape (`pair_source` is then "name").
    """
    models = list(checkpoints)
    others = {id(model): [other for other in models if other is not model] for model in models}
    return [_with_start(_paired(model, others[id(model)]), others[id(model)]) for model in models]


def _with_start(checkpoint: Checkpoint, others: list[Checkpoint]) -> Checkpoint:
    """Return the checkpoint with its stage and the model from which its training started, as the table has them."""
    entry = entry_of(checkpoint.name)
    if entry is None:
        return checkpoint
    start = next((other.name for other in others if _is_named(other, entry.trained_from)), entry.trained_from)
    return replace(checkpoint, trained_from=start, stage=entry.stage)


def _paired(checkpoint: Checkpoint, others: list[Checkpoint]) -> Checkpoint:
    """Return the checkpoint with `tuned_from` set to the name of its base in this run, if there is one.

    A model tuned in several stages is paired with the nearest stage in the run: OLMo 2 Instruct with its DPO version,
    or, if neither that nor the SFT version is in the run, with the base.
    """
    if checkpoint.tuned_from:
        start = checkpoint.name if checkpoint.pair_source == "table" else checkpoint.tuned_from
        for base in (checkpoint.tuned_from, *ancestors(start)):
            for other in others:
                if _is_named(other, base):
                    return replace(checkpoint, tuned_from=other.name)
    if not _TUNED_WORDS.search(checkpoint.name):
        return checkpoint
    stem = _SUFFIX.sub("", _TUNED_WORDS.sub("", checkpoint.name))
    for other in others:
        is_untuned = not _TUNED_WORDS.search(other.name)
        if is_untuned and _SUFFIX.sub("", other.name) == stem and _same_shape(other, checkpoint):
            return replace(checkpoint, tuned_from=other.name, pair_source="name")
    return checkpoint


def _is_named(other: Checkpoint, wanted: str) -> bool:
    """Return whether a model of the run is the one called `wanted`: by name, Hub id, or the last part of either.

    A pull request of a model (NAME@refs/pr/2) counts as the model itself, converted; other revisions do not.
    """
    name = _PULL_REQUEST.sub("", other.name)
    hub_id, revision = _repository(name)
    if wanted in {name, hub_id, hub_id.rpartition("/")[2]} or wanted.rpartition("/")[2] == name:
        return True
    return wanted in MODELS and (hub_id, revision) == _repository(wanted)


def _repository(name: str) -> tuple[str, str]:
    """Return (repository, revision) of a table name or Hub id; (name, "") for a folder."""
    if name in MODELS:
        return MODELS[name].hub_id, MODELS[name].revision
    stem, _, revision = name.partition("@")
    return (stem, revision or "main") if "/" in name else (name, "")


def _same_shape(one: Checkpoint, other: Checkpoint) -> bool:
    return (one.family, one.n_layers, one.hidden_size) == (other.family, other.n_layers, other.hidden_size)
