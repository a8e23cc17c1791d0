"""The embedded default: three tiny models, and a recording in which one layer of one of them is planted.

Everything is made at run time from configurations and a seed, saved to folders, and read back by the code that reads
real checkpoints and recordings.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

from harness.checkpoints import checkpoints
from harness.datasets import synthetic
from harness.extraction import surprisal, with_transformers
from harness.loading import loaded_model
from harness.models import tiny
from harness.models.tiny import MODELS, PLANTED, PLANTED_READING
from harness.records import Extraction, Stimuli, Surprisals
from harness.text import contexts


def folder_of(out: str) -> Path:
    """Where the models and the recording lie under a local OUT."""
    local = out.removeprefix("file://")
    if "://" in local:
        raise ValueError(f"the quickstart builds its models on a local disk; give --out a folder, not {out!r}.")
    return Path(local).absolute() / "quickstart"


def is_built(folder: Path) -> bool:
    """The planted recording is written last, and the folder is moved into place whole."""
    return (folder / "synthetic" / "planted.json").is_file()


def build(folder: str, seed: int) -> None:
    """Build models and recording aside, then move them into place.

    Args:
        folder: as `folder_of` gives it; holds a folder for each model and the data root of the synthetic sets.
        seed: of weights, map, drift and noise.
    """
    aside = Path(folder).with_name(f".aside-{uuid.uuid4().hex}")
    sentences = synthetic.stimuli(seed)
    for k, (name, family) in enumerate(MODELS.items()):
        tiny.build(family, aside / name, sentences.texts, seed + 1000 + k)  # a twin has the seed itself
    read = synthetic.words(sentences)
    states = _read(aside / PLANTED, sentences)[0].features
    bits = _read(aside / PLANTED_READING, read)[1]
    assert states is not None  # noqa: S101 - asked for
    planted: dict[str, Any] = {
        "model": PLANTED,
        "layer": str(synthetic.PLANTED_LAYER),
        "ceiling": synthetic.SIGNAL**0.5,
        "reading_model": PLANTED_READING,
        "shares": {"signal": synthetic.SIGNAL, "drift": synthetic.DRIFT, "noise": synthetic.NOISE},
        "seed": seed,
    }
    responses = synthetic.plant_responses(states, sentences, seed)
    synthetic.write(aside, responses, synthetic.plant_reading_times(bits, read, seed), sentences, planted)
    if is_built(Path(folder)):  # another run was faster
        shutil.rmtree(aside)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        aside.replace(folder)


def _read(folder: Path, stimuli: Stimuli) -> tuple[Extraction, Surprisals]:
    model = loaded_model.load(checkpoints.resolve(str(folder)))
    read = [model.encode(context) for context in contexts.build(stimuli, "passage")]
    found = with_transformers.extract(model, read)
    assert found.predictions is not None  # noqa: S101 - asked for
    return found, surprisal.per_word(read, found.predictions)
