"""Wehbe2014: eight people read a chapter of Harry Potter in the scanner, word by word ("Wehbe2011" in the paper).

Wehbe et al. (2014), PLoS ONE 9(11), e112575. Chapter 9 of Harry Potter and the Sorcerer's Stone, 5,176 words at half a
second each, in four runs; 1,351 scans of 2 s. Published by Toneva & Wehbe (2019) with their code: responses detrended,
smoothed and without the first 20 and the last 15 scans of each run, 1,211 in all. Their licence covers the code; for
the recordings none is stated. The arrays are fetched by hand, and nobody publishes checksums.

Words are the tokens that were shown, "@" (italics) and "+" (a new line) among them; nothing is cleaned.

Voxels: those of the mask "all" of the published regions. A voxel's region is the first that holds it, in the order of
REGIONS, or "other". `row_groups` and `row_blocks` are the runs. Left out: voxels outside the mask, neighbourhoods.

`HP_subj_roi_inds.npy` is a pickle, and is read by harness/datasets/formats/pickles.py, which runs no code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.datasets.entry import Entry, File, version_of
from harness.datasets.formats import pickles
from harness.protocol import WIDE_RIDGE, FoldRule, Protocol, Regression, Sampling, equal_dimension
from harness.records import Dataset, Floats, Integers, Responses, Stimuli

SUBJECTS = ("F", "H", "I", "J", "K", "L", "M", "N")
REGIONS = ("PostTemp", "AntTemp", "AngularG", "IFG", "MFG", "IFGorb", "pCingulate", "dmpfc")
N_WORDS, N_SCANS, N_RUNS = 5_176, 1_351, 4
CUT_AT_START, CUT_AT_END = 20, 15
N_KEPT = N_SCANS - N_RUNS * (CUT_AT_START + CUT_AT_END)
Mask = NDArray[np.bool_]
_WORD_S = 0.5
_CHAPTER = "chapter 9"
_WORDS, _ROIS = "wehbe2014/stimuli_words.npy", "wehbe2014/HP_subj_roi_inds.npy"
_ONSETS, _TIMES, _RUNS = (f"wehbe2014/fMRI/{name}_fmri.npy" for name in ("time_words", "time", "runs"))

PAPER = Protocol(
    name="paper",
    context="window",
    context_words=20,
    pooling="mean",
    components=10,
    sampling=Sampling(pool="mean", clock="onset", delays=(1, 2, 3, 4), zscore="run", skip_words=20),
    folds=FoldRule("trimmed", n=4, gap=5),
    regression=Regression(
        "ridge",
        alphas=tuple(10.0**k for k in range(-6, 10)),
        inner="kfold",
        inner_folds=10,
        scale="zscore sides",
        tie="smaller",
    ),
    layer_choice="max",
    notes=(
        "METHODS section 2, after the code of Toneva & Wehbe (2019). Not stated by the paper: the length of the "
        "window, here the 20 words before a word (their code took 1 to 40); which voxels, here the mask `all` of the "
        "published language regions; mean or median over voxels, here the median.",
        "Their code drops the tokens of comma, quotation mark and @ from a word's mean; whether the paper did is not "
        "stated, and here every token counts.",
        "Alpha: the code minimises the sum over inner folds of error / variance of the fold; here errors are summed "
        "over rows, which weights folds by their variance. r at the same alpha is equal (tests).",
        "A word trains the components where its own scan is a training row. The code looks one row too early, and for "
        "words of cut scans at rows of the neighbouring run.",
        "Scans are z-scored by run, test rows among them, and test rows by their own mean and sd: as in the code.",
    ),
)
STRICT = Protocol(
    name="strict",
    context="window",
    context_words=20,
    pooling="mean",
    sampling=Sampling(pool="mean", clock="onset", delays=(1, 2, 3, 4)),
    folds=FoldRule("grouped", n=N_RUNS, min_test_rows=10),
    regression=WIDE_RIDGE,
    layer_choice="nested",
    notes=(
        "The four runs are the folds; 35 scans (70 s) are cut between them. The word vectors are PAPER's, unreduced, "
        "and every mean and scale is of training rows. Within these, one run is left out at a time.",
    ),
)


def load(root: Path) -> Dataset:
    """Load the chapter: 5,176 words with onsets, and (1211, voxel) responses of eight people side by side.

    Raises:
        ValueError: if a file does not have the published form; it says what was wanted and what came.
    """
    stimuli, (scans, runs, times) = _read_words(root), _read_clock(root)
    rois = _read_rois(root / _ROIS)
    courses = [_read_courses(root / _responses_file(subject), rois[subject]["all"]) for subject in SUBJECTS]
    voxels = [(subject, voxel) for subject in SUBJECTS for voxel in np.flatnonzero(rois[subject]["all"])]
    responses = Responses(
        values=np.hstack(courses),
        row_ids=tuple(f"scan.{scan}" for scan in scans),
        row_groups=tuple(f"run.{run}" for run in runs),
        row_blocks=tuple(f"run.{run}" for run in runs),
        neuroid_ids=tuple(f"{subject}.{voxel}" for subject, voxel in voxels),
        subjects=tuple(subject for subject, _ in voxels),
        rois=tuple(region for subject in SUBJECTS for region in _regions(rois[subject])),
        unit="BOLD, detrended and smoothed",
        times_s=times,
    )
    return Dataset(
        name="wehbe2014",
        version=version_of(stimuli, responses),
        stimuli=stimuli,
        responses=responses,
        published_ceiling=0.104,
        ceiling_source="published by the paper",
    )


def _responses_file(subject: str) -> str:
    return f"wehbe2014/fMRI/data_subject_{subject}.npy"


def _read(path: Path, shape: tuple[int | None, ...], what: str, kinds: str = "fiu") -> Any:
    """An array, mapped into memory; ValueError where it is no array, or not of the shape (None: any) and kind."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged, or no array of {what}: {error}. Fetch it anew.") from error
    fits = found.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, found.shape, strict=True))
    if not fits or found.dtype.kind not in kinds:
        wanted = " x ".join("any number" if n is None else str(n) for n in shape)
        raise ValueError(f"{path} holds {found.shape} of {found.dtype}; wanted {wanted} {what}. Fetch it anew.")
    return found


def _read_times(path: Path, n: int, what: str) -> Floats:
    """(n,) float64 seconds; ValueError where one is not finite, or not later than the one before."""
    times: Floats = np.array(_read(path, (n,), f"{what} in seconds"), dtype=np.float64)
    wrong = ~np.isfinite(times) | (np.diff(times, prepend=-np.inf) <= 0)
    if wrong.any():
        k = int(wrong.argmax())
        raise ValueError(f"{path}: number {k} of the {what} is {times[k]}, wanted a later time than the one before.")
    return times


def _read_words(root: Path) -> Stimuli:
    """The tokens that were shown; ids "word.0" on; the chapter is one passage, over all runs."""
    texts = [word.strip() for word in np.array(_read(root / _WORDS, (N_WORDS,), "words", "US")).astype(str).tolist()]
    if not all(texts):
        raise ValueError(f"{root / _WORDS}: word {texts.index('')} is empty; fetch it anew.")
    onsets = _read_times(root / _ONSETS, N_WORDS, "onsets of words")
    return Stimuli(
        ids=tuple(f"word.{number}" for number in range(N_WORDS)),
        texts=tuple(texts),
        passages=(_CHAPTER,) * N_WORDS,
        onsets_s=onsets,
        ends_s=onsets + _WORD_S,
    )


def _read_clock(root: Path) -> tuple[Integers, Integers, Floats]:
    """(1211,) number, run and seconds of each scan that was kept."""
    times = _read_times(root / _TIMES, N_SCANS, "times of scans")
    runs = np.array(_read(root / _RUNS, (N_SCANS,), "runs of scans"))
    if not np.array_equal(np.unique(runs), np.arange(1, N_RUNS + 1)) or (np.diff(runs) < 0).any():
        raise ValueError(f"{root / _RUNS}: runs {np.unique(runs).tolist()}, wanted 1 to {N_RUNS} in order.")
    each = [np.flatnonzero(runs == run)[CUT_AT_START:-CUT_AT_END] for run in range(1, N_RUNS + 1)]
    scans = np.concatenate(each)
    if len(scans) != N_KEPT:
        raise ValueError(f"{root / _RUNS}: {len(scans)} scans are left of {N_SCANS}, wanted {N_KEPT}: a run is short.")
    return scans, runs[scans].astype(np.int64), times[scans]


def _read_rois(path: Path) -> dict[str, dict[str, Mask]]:
    """Subject -> region -> (voxel,) mask; ValueError where a subject, or a region of one, is missing."""
    rois = pickles.load(path)
    if not isinstance(rois, dict):
        raise ValueError(f"{path} holds a {type(rois).__name__}; wanted a dictionary of subjects. Fetch it anew.")
    return {subject: _masks(path, subject, rois.get(subject)) for subject in SUBJECTS}


def _masks(path: Path, subject: str, found: Any) -> dict[str, Mask]:
    """Region -> (voxel,) mask of one subject."""
    lacking = [name for name in ("all", *REGIONS) if not isinstance(found, dict) or name not in found]
    if lacking:
        raise ValueError(f"{path}: subject {subject} has no mask {', '.join(lacking)}. Fetch it anew.")
    masks = {name: np.asarray(found[name]) for name in ("all", *REGIONS)}
    if len({mask.shape for mask in masks.values()}) > 1 or masks["all"].ndim != 1:
        shapes = {name: mask.shape for name, mask in masks.items()}
        raise ValueError(f"{path}: masks of subject {subject} are {shapes}; wanted as many voxels in each.")
    odd = [name for name, mask in masks.items() if not np.isin(mask, (0, 1)).all()]
    if odd or not np.any(masks["all"] == 1):
        what = f"mask {odd[0]} is not of true and false" if odd else "mask all is empty"
        raise ValueError(f"{path}: subject {subject}: {what}. Fetch it anew.")
    return {name: mask == 1 for name, mask in masks.items()}


def _regions(masks: dict[str, Mask]) -> list[str]:
    """The region of each voxel in the mask "all": the first that holds it, or "other"."""
    return [
        next((region for region in REGIONS if masks[region][voxel]), "other") for voxel in np.flatnonzero(masks["all"])
    ]


def _read_courses(path: Path, mask: Mask) -> Floats:
    """(1211, voxel) float32 of the voxels in the mask."""
    courses = _read(path, (N_KEPT, None), "scans x voxels")
    if courses.shape[1] != len(mask):
        raise ValueError(f"{path} has {courses.shape[1]} voxels; {_ROIS} has masks of {len(mask)}. Fetch both anew.")
    return np.stack([scan[mask] for scan in courses]).astype(np.float32)


ENTRY = Entry(
    name="wehbe2014",
    title="Harry Potter: 8 participants reading a chapter word by word, voxels of the language regions",
    kind="brain",
    licence="not stated (the code beside the data is MIT)",
    load=load,
    protocols=(PAPER, STRICT, equal_dimension(STRICT)),
    citation="Wehbe, Murphy, Talukdar, Fyshe, Ramdas, Mitchell (2014), Simultaneously uncovering the patterns of brain "
    "regions involved in different story reading subprocesses, PLoS ONE 9(11), e112575; as published by Toneva & Wehbe "
    "(2019), NeurIPS",
    landing="https://github.com/mtoneva/brain_language_nlp",
    extent="1,211 x language voxels",
    files=tuple(
        File(path, "", "", 0)
        for path in (_WORDS, _ROIS, _ONSETS, _TIMES, _RUNS, *(_responses_file(subject) for subject in SUBJECTS))
    ),
)
