"""The place of a checkpoint in a training run, as its name states it: training, seed, step and tokens seen.

Names of published checkpoints: "step1000" (Pythia), "stage1-step140000-tokens294B" and "step150-tokens1B" (OLMo),
"checkpoint-105" (transformers' Trainer). A training of several stages is one training per stage, since each counts its
steps anew.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.models.model_table import find

# "m@step1000", "runs/checkpoint-105", "m-2000steps", "m@stage2-ingredient1-step11931-tokens50B"
_STEP = re.compile(
    r"^(?P<stem>.*?)[-_@/.]*"
    r"(?:(?:checkpoint|ckpt|step|iter|epoch)[-_]?(?P<step>\d+)|(?P<steps>\d+)[-_]?steps?)"
    r"(?:[-_]tokens?[-_]?(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[KMBT])?)?$",
    re.IGNORECASE,
)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_SEED = re.compile(r"^(?P<stem>.+?)[-_]seed[-_]?(?P<seed>\d+)$", re.IGNORECASE)
# A step of every Pythia has 1,024 sequences of 2,048 tokens; in the first release (v0) this differs by size.
# Source: Biderman et al. 2023 (arXiv 2304.01373), section 2.2.
_PYTHIA, _PYTHIA_TOKENS = re.compile(r"EleutherAI/pythia-(?!.*-v0)"), 1024 * 2048


class TrainingStep(NamedTuple):
    """training: the training run, without its seed; seed: None if the name states none; tokens: None if unknown."""

    training: str
    seed: int | None
    step: int
    tokens: int | None


def of_name(name: str) -> TrainingStep | None:
    """The place that a model's name states; None if it is not that of a checkpoint of a training run."""
    match = _STEP.match(name)
    if match is None:
        return None
    run, step = match["stem"].rstrip("-_@/."), int(match["step"] or match["steps"])
    model, at, stage = run.partition("@")
    seeded = _SEED.match(model)
    training = (seeded["stem"] if seeded else model) + at + stage
    tokens: int | None
    if match["tokens"]:
        tokens = round(float(match["tokens"]) * _UNITS[(match["unit"] or "").lower()])
    else:
        entry = find(model)
        tokens = step * _PYTHIA_TOKENS if _PYTHIA.match(entry.hub_id if entry else model) else None
    return TrainingStep(training, int(seeded["seed"]) if seeded else None, step, tokens)
