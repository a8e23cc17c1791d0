"""A made-up laboratory's recording of hours of stories: `python tests/benchmarks/long_recording.py FOLDER`.

Writes FOLDER/lab, a folder in BIDS style (BOLD images with an atlas, TextGrids, confounds), and FOLDER/model, a GPT-2
of width 768 with random weights, and prints the command that scores it. Files are written by nibabel and pandas, and
the responses are made with plain NumPy:

    response of a parcel = signal (a fifth of the variance, in every other parcel) + head motion + slow drift + noise

where the signal is a random direction of the model's middle layer, averaged over the words of each scan and delayed by
1 to 4 scans. The known answer is r = .45 for parcels with a signal, which a fit approaches from below, and 0 for the
others. By default 6 subjects, 40 runs of 900 scans, 400 parcels; `--small` makes a tenth of the runs and half the
subjects.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.checkpoints import checkpoints
from harness.extraction import with_transformers
from harness.loading import loaded_model
from harness.models import tiny
from harness.records import Stimuli
from harness.text import contexts

TR_S, WORDS_PER_S, SIGNAL = 2.0, 2.0, 0.2
SHAPE, N_PARCELS = (20, 22, 20), 400
DELAYS = {1: 0.3, 2: 1.0, 3: 0.8, 4: 0.3}
MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
WORDS = [first + second for first in "bdfgklmnprst" for second in ("an", "ell", "ig", "ot", "um", "ea", "oor")]


class Sizes(NamedTuple):
    """Numbers of subjects, runs and scans a run."""

    subjects: int
    runs: int
    scans: int


def make(folder: Path, sizes: Sizes, seed: int) -> None:
    """Write model and recording.

    Args:
        folder: gets `lab`, `model` and `planted.csv`, which says of each neuroid whether it has a signal.
        sizes: of the recording.
        seed: of everything random.
    """
    rng = np.random.default_rng(seed)
    heard = [words_of(sizes, rng) for _ in range(sizes.runs)]
    model = build_model(folder / "model", heard, seed)
    lab = folder / "lab"
    atlas = np.arange(np.prod(SHAPE)).reshape(SHAPE) * N_PARCELS // int(np.prod(SHAPE)) + 1
    (lab / "stimuli").mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(atlas.astype(np.int16), np.diag([3, 3, 3, 1])), lab / "atlas.nii.gz")
    settings = {"bold": {"confounds": MOTION}, "response": {"delays": list(DELAYS)}}
    (lab / "dataset.json").write_text(json.dumps(settings))
    directions = rng.standard_normal((sizes.subjects, width_of(model), N_PARCELS))
    directions[:, :, 1::2] = 0.0
    for run, words in enumerate(heard):
        (lab / "stimuli" / f"story{run + 1:02}.TextGrid").write_text(text_grid(words))
        features = at_scans(features_of(model, words), words, sizes.scans)
        for subject in range(sizes.subjects):
            write_run(lab, subject, run, features @ directions[subject], atlas, rng)
        print(f"run {run + 1} of {sizes.runs}", flush=True)
    ids = [f"sub-{subject + 1:02}.{parcel + 1}" for subject in range(sizes.subjects) for parcel in range(N_PARCELS)]
    has_signal = [parcel % 2 == 0 for _ in range(sizes.subjects) for parcel in range(N_PARCELS)]
    pd.DataFrame({"neuroid_id": ids, "has_signal": has_signal}).to_csv(folder / "planted.csv", index=False)


# --- words and model --------------------------------------------------------------------------------------------------


def words_of(sizes: Sizes, rng: np.random.Generator) -> pd.DataFrame:
    """Random words of a run, with onset and end in seconds."""
    onsets = np.arange(0.5, sizes.scans * TR_S - 5, 1 / WORDS_PER_S) + rng.uniform(0, 0.1)
    return pd.DataFrame({"text": rng.choice(WORDS, len(onsets)), "onset": onsets, "end": onsets + 0.35})


def text_grid(words: pd.DataFrame) -> str:
    """The words as a Praat TextGrid in long form."""
    last = float(words.end.iloc[-1])
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {last}"]
    lines += ["tiers? <exists>", "size = 1", "item []:", "    item [1]:", '        class = "IntervalTier"']
    lines += [
        '        name = "words"',
        "        xmin = 0",
        f"        xmax = {last}",
        f"        intervals: size = {len(words)}",
    ]
    for k, word in enumerate(words.itertuples(), start=1):
        lines += [
            f"        intervals [{k}]:",
            f"            xmin = {word.onset:.3f}",
            f"            xmax = {word.end:.3f}",
        ]
        lines += [f'            text = "{word.text}"']
    return "\n".join(lines) + "\n"


def build_model(folder: Path, heard: list[pd.DataFrame], seed: int) -> loaded_model.LoadedModel:
    """Write a GPT-2 of width 768 with four blocks and random weights, and load it."""
    import torch
    import transformers

    tokenizer = tiny._tokenizer([" ".join(heard[0].text)])
    tokenizer.model_max_length = 1024
    torch.manual_seed(seed)
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_layer=4, bos_token_id=0, eos_token_id=1)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loaded_model.load(checkpoints.resolve(str(folder)))


def width_of(model: loaded_model.LoadedModel) -> int:
    """Number of features of a layer."""
    return int(model.model.config.n_embd)


def features_of(model: loaded_model.LoadedModel, words: pd.DataFrame) -> np.ndarray:
    """(word, feature) of the middle layer."""
    ids = tuple(map(str, range(len(words))))
    stimuli = Stimuli(ids, tuple(words.text), ("run",) * len(words), separator=" ")
    encoded = [model.encode(context) for context in contexts.build(stimuli, "passage")]
    extraction = with_transformers.extract(model, encoded)
    layers = extraction.features.values
    return np.asarray(layers[list(layers)[len(layers) // 2]], dtype=float)


# --- responses --------------------------------------------------------------------------------------------------------


def at_scans(features: np.ndarray, words: pd.DataFrame, n_scans: int) -> np.ndarray:
    """(scan, feature) means over the words that end in the TR before each scan, delayed and summed."""
    pooled, times = np.zeros((n_scans, features.shape[1])), np.arange(n_scans) * TR_S
    centred = features - features.mean(axis=0)
    for scan, time_s in enumerate(times):
        inside = np.flatnonzero((words.end > time_s - TR_S) & (words.end <= time_s))
        if len(inside):
            pooled[scan] = centred[inside].mean(axis=0)
    delayed = np.zeros_like(pooled)
    for delay, weight in DELAYS.items():
        delayed[delay:] += weight * pooled[:-delay]
    return delayed


def write_run(
    lab: Path, subject: int, run: int, signal: np.ndarray, atlas: np.ndarray, rng: np.random.Generator
) -> None:
    """Write the image and the confounds of a subject's run."""
    n_scans, name = len(signal), f"sub-{subject + 1:02}"
    motion = rng.standard_normal((n_scans, len(MOTION))).cumsum(axis=0)
    motion = (motion - motion.mean(axis=0)) / motion.std(axis=0)
    drift = np.cos(np.pi * np.arange(1, 4) * (np.arange(n_scans)[:, None] + 0.5) / n_scans)
    deviation = signal.std(axis=0)
    scaled = np.where(deviation > 0, signal / np.where(deviation > 0, deviation, 1.0), 0.0)
    courses = SIGNAL**0.5 * scaled + (1 - SIGNAL * (deviation > 0)) ** 0.5 * rng.standard_normal(signal.shape)
    courses += 0.5 * motion @ rng.standard_normal((len(MOTION), N_PARCELS)) + drift @ rng.standard_normal(
        (3, N_PARCELS)
    )
    image = nibabel.Nifti1Image((1000.0 + 10.0 * courses.T[atlas - 1]).astype(np.float32), np.diag([3, 3, 3, 1]))
    image.set_data_dtype(np.int16)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((3, 3, 3, TR_S))
    stem = lab / name / "func" / f"{name}_task-story{run + 1:02}_run-01"
    stem.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, f"{stem}_bold.nii.gz")
    table = pd.DataFrame(motion, columns=MOTION)
    table.to_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False)


def main() -> None:
    """Make the recording and print the command that scores it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make(given.folder, Sizes(3, 4, 900) if given.small else Sizes(6, 40, 900), given.seed)
    print(f"harness run real --dataset local:{given.folder}/lab --model {given.folder}/model --out {given.folder}/out")


if __name__ == "__main__":
    main()
