"""What `harness tune` states about a checkpoint in training.json: base, arm, seed and step.

The record lies beside the weights and is not part of the checkpoint's revision.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.checkpoints.headers import read_json

FILE = "training.json"
FORM = "harness tune 1"  # content of the field `form`; other programs also write files of this name


@dataclass(frozen=True)
class TrainingRecord:
    """Where a checkpoint comes from.

    Attributes:
        parent: name of the base model in the tables.
        parent_revision: its revision.
        arm: "with instructions" or "without instructions".
        seed: seed of the training.
        step: finished optimiser steps.
        n_steps: steps of the whole training.
        epochs: passes over the examples so far.
        tokens: tokens seen so far, without padding.
        response_tokens: those among them that are in the loss.
        method: "full", or the kind and settings of the adapter.
        data: name of the file of examples.
        data_sha256: hash of its bytes.
        n_examples: examples trained on.
        n_left_out: examples without a response within the maximum length, left out of both arms.
        n_cut: examples whose end is cut off at the maximum length, in this arm.
        recipe: hash of all choices that determine the weights.
        settings: these choices.
        form: version of this record.
    """

    parent: str
    parent_revision: str
    arm: str
    seed: int
    step: int
    n_steps: int
    epochs: float
    tokens: int
    response_tokens: int
    method: str
    data: str
    data_sha256: str
    n_examples: int
    n_left_out: int
    n_cut: int
    recipe: str
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    form: str = FORM


def read(folder: Path, name: str) -> TrainingRecord | None:
    """Read the record of a checkpoint folder; None if there is none, or another program's.

    Raises:
        ValueError: if a record of this program is damaged.
    """
    if not (folder / FILE).is_file():
        return None
    content = read_json(folder / FILE, name)
    if content.get("form") != FORM:
        return None
    kinds: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "dict[str, Any]": dict}
    for entry in fields(TrainingRecord):
        if not isinstance(content.get(entry.name), kinds[str(entry.type)]):
            raise ValueError(
                f"{name}: {FILE} has {content.get(entry.name)!r} as {entry.name}; copy the checkpoint again."
            )
    return TrainingRecord(**{entry.name: content[entry.name] for entry in fields(TrainingRecord)})
