"""The built-in example: three tiny models, and a recording that follows one layer of one of them.

Everything is generated at run time from configurations and a seed, saved to folders, and loaded by the same code as
real checkpoints and recordings.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

from harness.checkpoints import checkpoints
from harness.datasets import synthetic
from harness.models import tiny
from harness.models.tiny import MODELS, PLANTED, PLANTED_READING
from harness.records import Extraction, Stimuli, Surprisals
from harness.text import contexts


def folder_of(out: str) -> Path:
    """Folder for the models and the recording inside a local OUT folder.

    Raises:
        ValueError: if `out` is a remote URL.
    """
    local = out.removeprefix("file://")
    if "://" in local:
        raise ValueError(
            f"the quickstart writes its models to a local disk; give a local folder as --out, not {out!r}."
        )
    return Path(local).absolute() / "quickstart"


def is_built(folder: Path) -> bool:
    """Whether the folder is complete: planted.json is written last, and the folder is renamed into place."""
    return (folder / "synthetic" / "planted.json").is_file()


def build(folder: str, seed: int) -> None:
    """Build models and recording in a temporary folder, then rename it into place.

    Args:
        folder: from `folder_of`; gets one folder per model, and is the data root of the synthetic data sets.
        seed: seed of weights, map from features to responses, drift and noise.
    """
    staging = Path(folder).with_name(f".aside-{uuid.uuid4().hex}")
    sentences = synthetic.stimuli(seed)
    for k, (name, family) in enumerate(MODELS.items()):
        # The untrained control uses the seed itself.
        tiny.build(family, staging / name, sentences.texts, seed + 1000 + k)
    words = synthetic.words(sentences)
    features = _extract(staging / PLANTED, sentences)[0].features
    surprisals = _extract(staging / PLANTED_READING, words)[1]
    assert features is not None  # noqa: S101 - extracted by default
    planted: dict[str, Any] = {
        "model": PLANTED, "layer": str(synthetic.PLANTED_LAYER), "ceiling": synthetic.SIGNAL**0.5,
        "reading_model": PLANTED_READING, "seed": seed,
        "shares": {"signal": synthetic.SIGNAL, "drift": synthetic.DRIFT, "noise": synthetic.NOISE},
    }  # fmt: skip
    responses = synthetic.plant_responses(features, sentences, seed)
    synthetic.write(staging, responses, synthetic.plant_reading_times(surprisals, words, seed), sentences, planted)
    if is_built(Path(folder)):  # another process finished first
        shutil.rmtree(staging)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        staging.replace(folder)


def _extract(folder: Path, stimuli: Stimuli) -> tuple[Extraction, Surprisals]:
    """Load a model and extract its features and surprisals for the stimuli."""
    from harness.extraction import surprisal, with_transformers
    from harness.loading import loaded_model

    model = loaded_model.load(checkpoints.resolve(str(folder)))
    encoded = [model.encode(context) for context in contexts.build(stimuli, "passage")]
    extraction = with_transformers.extract(model, encoded)
    assert extraction.predictions is not None  # noqa: S101 - extracted by default
    return extraction, surprisal.per_word(encoded, extraction.predictions)
