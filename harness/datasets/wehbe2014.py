"""Wehbe2014: fMRI of eight participants reading a chapter of Harry Potter word by word ("Wehbe2011" in Aw et al.).

Wehbe et al. (2014), PLoS ONE 9(11), e112575. Chapter 9 of Harry Potter and the Sorcerer's Stone, 5,176 words of half a
second each, in four runs; 1,351 scans of 2 s. Published by Toneva & Wehbe (2019) with their code: responses are
detrended, smoothed and without the first 20 and last 15 scans of each run, leaving 1,211. Their licence covers the
code; none is stated for the recordings. The arrays must be downloaded by hand; no checksums are published.

Words are the tokens as shown, including "@" (italics) and "+" (new line); nothing is cleaned.

Voxels are those of the mask "all" of the published regions. The region of a voxel is the first in the order of REGIONS
that contains it, or "other". `row_groups` and `row_blocks` are the runs. Omitted: voxels outside the mask, and voxel
neighbourhoods.

`HP_subj_roi_inds.npy` is a pickle; it is read by harness/datasets/formats/pickles.py, which executes no code.
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

_RIDGE = Regression(
    "ridge", alphas=tuple(10.0**k for k in range(-6, 10)), inner="kfold", inner_folds=10, scale="zscore sides",
    tie="smaller",
)  # fmt: skip
PAPER = Protocol(
    name="paper",
    context="window",
    context_words=20,
    pooling="mean",
    components=10,
    sampling=Sampling(pool="mean", clock="onset", delays=(1, 2, 3, 4), zscore="run", skip_words=20),
    folds=FoldRule("trimmed", n=4, gap=5),
    regression=_RIDGE,
    layer_choice="max",
    notes=(
        "Aw et al. (2023), after the code of Toneva & Wehbe (2019). Not stated by Aw et al.: the length of the window, "
        "here the 20 words before a word (the code used 1 to 40); the voxels, here the mask `all` of the published "
        "language regions; mean or median over voxels, here the median.",
        "The code excludes the tokens of comma, quotation mark and @ from the mean over the tokens of a word. Whether "
        "Aw et al. did is not stated; here every token counts.",
        "Alpha: the code minimises the sum over inner folds of error / variance of the fold; here errors are summed "
        "over rows, which weights folds by their variance. r at the same alpha is equal (tested).",
        "A word is used to fit the principal components if its own scan is a training row. The code looks one row too "
        "early, and for words of removed scans at rows of the neighbouring run.",
        "As in the code, scans are z-scored by run including test rows, and test rows by their own mean and sd.",
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
    aggregate="by subject",
    ceiling_curve="reliability",
    notes=(
        "The four runs are the folds; 35 scans (70 s) are removed between them. Word vectors as in PAPER but without "
        "dimensionality reduction; all means and scales come from training rows, within which one run is left out at a "
        "time.",
    ),
)


def load(root: Path) -> Dataset:
    """Load the chapter: 5,176 words with onsets, and (1211, voxel) responses of eight subjects side by side.

    Raises:
        ValueError: if a file does not have the published format; says what was expected and what the file has.
    """
    stimuli, (scans, runs, times) = _read_words(root), _read_clock(root)
    rois = _read_rois(root / _ROIS)
    courses = [_read_courses(root / _responses_file(subject), rois[subject]["all"]) for subject in SUBJECTS]
    voxels = [(subject, voxel) for subject in SUBJECTS for voxel in np.flatnonzero(rois[subject]["all"])]
    run_of_row = tuple(f"run.{run}" for run in runs)
    responses = Responses(
        values=np.hstack(courses),
        row_ids=tuple(f"scan.{scan}" for scan in scans),
        row_groups=run_of_row,
        row_blocks=run_of_row,
        neuroid_ids=tuple(f"{subject}.{voxel}" for subject, voxel in voxels),
        subjects=tuple(subject for subject, _ in voxels),
        rois=tuple(region for subject in SUBJECTS for region in _regions(rois[subject])),
        unit="BOLD, detrended and smoothed",
        times_s=times,
    )
    return Dataset(
        "wehbe2014", version_of(stimuli, responses), stimuli, responses, published_ceiling=0.104,
        ceiling_source="published by the paper",
    )  # fmt: skip


def _responses_file(subject: str) -> str:
    return f"wehbe2014/fMRI/data_subject_{subject}.npy"


def _read(path: Path, shape: tuple[int | None, ...], content: str, kinds: str = "fiu") -> Any:
    """Memory-map an array; ValueError if the file is damaged, or shape (None: any size) or kind differ."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged or not an array of {content}: {error}. Download it again.") from error
    fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind not in kinds:
        wanted = " x ".join("any number" if n is None else str(n) for n in shape)
        raise ValueError(
            f"{path} has shape {array.shape} of {array.dtype}; wanted {wanted} {content}. Download it again."
        )
    return array


def _read_times(path: Path, n: int, content: str) -> Floats:
    """Read (n,) float64 seconds, checked as by `require_increasing`."""
    times: Floats = np.array(_read(path, (n,), f"{content} in seconds"), dtype=np.float64)
    require_increasing(times, path, content)
    return times


def require_increasing(times: Floats, path: Path, content: str) -> None:
    """Raise ValueError if a time is not finite or not later than the previous one."""
    wrong = ~np.isfinite(times) | (np.diff(times, prepend=-np.inf) <= 0)
    if wrong.any():
        k = int(wrong.argmax())
        raise ValueError(
            f"{path}: number {k} of the {content} is {times[k]}, wanted a later time than the previous one. Download "
            "it again."
        )


def _read_words(root: Path) -> Stimuli:
    """Read the tokens as shown and their onsets."""
    texts = np.array(_read(root / _WORDS, (N_WORDS,), "words", "US")).astype(str).tolist()
    return stimuli_of(texts, _read_times(root / _ONSETS, N_WORDS, "onsets of words"), root / _WORDS)


def stimuli_of(words: list[str], onsets_s: Floats, path: Path) -> Stimuli:
    """The chapter as one passage over all runs; ids "word.0", "word.1", ...; ValueError if a word is empty."""
    texts = tuple(word.strip() for word in words)
    if not all(texts):
        raise ValueError(f"{path}: word {texts.index('')} is empty; download it again.")
    ids, passages = tuple(f"word.{number}" for number in range(len(texts))), (_CHAPTER,) * len(texts)
    return Stimuli(ids, texts, passages, onsets_s=onsets_s, ends_s=onsets_s + _WORD_S)


def _read_clock(root: Path) -> tuple[Integers, Integers, Floats]:
    """Number, run and time in seconds of each kept scan, (1211,) each."""
    times = _read_times(root / _TIMES, N_SCANS, "times of scans")
    runs = np.array(_read(root / _RUNS, (N_SCANS,), "runs of scans"))
    scans = kept_scans(runs, root / _RUNS)
    return scans, runs[scans].astype(np.int64), times[scans]


def kept_scans(runs: Any, path: Path) -> Integers:
    """Indices of the 1,211 scans without the first 20 and last 15 of each run.

    Args:
        runs: (1351,) run of each scan.
        path: the file, for messages.

    Raises:
        ValueError: if the runs are not 1 to 4 in order, or one is too short.
    """
    if not np.array_equal(np.unique(runs), np.arange(1, N_RUNS + 1)) or (np.diff(runs) < 0).any():
        raise ValueError(f"{path}: runs {np.unique(runs).tolist()}, wanted 1 to {N_RUNS} in order. Download it again.")
    scans = np.hstack([np.flatnonzero(runs == run)[CUT_AT_START:-CUT_AT_END] for run in range(1, N_RUNS + 1)])
    if len(scans) != N_KEPT:
        raise ValueError(
            f"{path}: {len(scans)} of {N_SCANS} scans remain after trimming, wanted {N_KEPT}: a run is too short. "
            "Download it again."
        )
    return scans


def _read_rois(path: Path) -> dict[str, dict[str, Mask]]:
    """Read subject -> region -> (voxel,) mask; ValueError if a subject or region is missing."""
    rois = pickles.load(path)
    if not isinstance(rois, dict):
        raise ValueError(f"{path} holds a {type(rois).__name__}; wanted a dictionary of subjects. Download it again.")
    return {subject: _masks(path, subject, rois.get(subject)) for subject in SUBJECTS}


def _masks(path: Path, subject: str, rois: Any) -> dict[str, Mask]:
    """Check the masks of one subject: region -> (voxel,) mask."""
    missing = [name for name in ("all", *REGIONS) if not isinstance(rois, dict) or name not in rois]
    if missing:
        raise ValueError(f"{path}: subject {subject} has no mask {', '.join(missing)}. Download it again.")
    masks = {name: np.asarray(rois[name]) for name in ("all", *REGIONS)}
    if len({mask.shape for mask in masks.values()}) > 1 or masks["all"].ndim != 1:
        shapes = {name: mask.shape for name, mask in masks.items()}
        raise ValueError(
            f"{path}: masks of subject {subject} have shapes {shapes}; wanted the same number of voxels in each. "
            "Download it again."
        )
    not_boolean = [name for name, mask in masks.items() if not np.isin(mask, (0, 1)).all()]
    if not_boolean or not np.any(masks["all"] == 1):
        fault = f"mask {not_boolean[0]} is not boolean" if not_boolean else "mask all is empty"
        raise ValueError(f"{path}: subject {subject}: {fault}. Download it again.")
    return {name: mask == 1 for name, mask in masks.items()}


def _regions(masks: dict[str, Mask]) -> list[str]:
    """Region of each voxel in the mask "all": the first that contains it, or "other"."""
    return [
        next((region for region in REGIONS if masks[region][voxel]), "other") for voxel in np.flatnonzero(masks["all"])
    ]


def _read_courses(path: Path, mask: Mask) -> Floats:
    """Read the time courses of the voxels in the mask, (1211, voxel) float32."""
    courses = _read(path, (N_KEPT, None), "scans x voxels")
    if courses.shape[1] != len(mask):
        raise ValueError(
            f"{path} has {courses.shape[1]} voxels; {_ROIS} has masks of {len(mask)}. Download both again."
        )
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
