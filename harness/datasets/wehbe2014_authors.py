"""Wehbe2014, the authors' own files: all voxels of the brain, with another preprocessing than `wehbe2014`.

The experiment is that of `wehbe2014`: eight participants read a chapter of Harry Potter, 5,176 words, 1,351 scans of
2 s in four runs. Wehbe et al. (2014) publish one MAT file per participant, `subject_1.mat` to `subject_8.mat`, with the
variables `data` (scan, voxel), `time` (scan; start in seconds, and run), `words` (text, start, length) and `meta` (with
`colToROInum`, the AAL region of each voxel, and `ROInumToName`, whose last name is that of voxels without region).

The files are realigned, corrected for slice timing, normalised to MNI space and without cerebrospinal fluid, but, as
their page says, "without smoothing, detrending and masking". Here drift is removed as from a user's own images:
discrete cosines of periods above 128 s, run by run, on all scans of a run. Then each run is z-scored, and its first 20
and last 15 scans are dropped, so that rows, words and folds are those of `wehbe2014`. The authors' own detrending and
smoothing are described in an appendix of the paper, which was not available.

Words are the tokens as shown; they must be the same in all files. The region of a voxel is its AAL region, a target of
its own. Omitted: voxels without a signal. Which subject of `wehbe2014` (F, H, ...) has which number is not published.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.datasets import wehbe2014
from harness.datasets.entry import Entry, File, version_of
from harness.datasets.formats import matlab
from harness.datasets.own import cleaning
from harness.datasets.wehbe2014 import N_SCANS, N_WORDS
from harness.protocol import equal_dimension
from harness.records import Dataset, Floats, Integers, Responses, Stimuli

SUBJECTS = tuple(range(1, 9))
_FOLDER_URL = "https://www.cs.cmu.edu/~fmri/plosone/files"
_VARIABLES = ("data", "time", "words", "meta")
_TR_S, _HIGH_PASS_S = 2.0, 128.0

_NOTE = (
    "The authors' own files: whole brain, drift of periods above 128 s removed and each run z-scored here, without "
    "smoothing. Aw et al. (2023) and Toneva & Wehbe (2019) used `wehbe2014`, detrended and smoothed, in language "
    "regions; scores of the two are not comparable, and the ceiling published for it (0.104) does not apply."
)
PAPER = replace(wehbe2014.PAPER, notes=(_NOTE, *wehbe2014.PAPER.notes))
STRICT = replace(wehbe2014.STRICT, notes=(_NOTE, *wehbe2014.STRICT.notes))


def load(root: Path) -> Dataset:
    """Load the chapter: 5,176 words with onsets, and (1211, voxel) responses of eight subjects side by side.

    Raises:
        ValueError: if a file is damaged or does not have the published form, or the words of two files differ.
    """
    paths = {str(subject): root / _file(subject) for subject in SUBJECTS}
    courses, neuroids, first = [], [], None
    for subject, path in paths.items():
        content = matlab.read(path, _VARIABLES)
        stimuli, clock = _words(path, content["words"]), _clock(path, content["time"])
        scans = wehbe2014.kept_scans(clock[:, 1].astype(np.int64), path)
        if first is None:
            first = (path, stimuli, clock)
        _require_same(first, (path, stimuli, clock))
        values = _cleaned(path, content["data"], clock[:, 1])[scans]
        regions = _regions(path, content["meta"], values.shape[1])
        measured = np.flatnonzero(np.isfinite(values).any(axis=0))
        courses.append(values[:, measured])
        neuroids += [(f"{subject}.{voxel}", subject, regions[voxel]) for voxel in measured.tolist()]
    assert first is not None  # noqa: S101 - there are eight files
    _, stimuli, clock = first
    responses = _responses(np.hstack(courses), neuroids, scans, clock)
    return Dataset("wehbe2014-authors", version_of(stimuli, responses), stimuli, responses)


def _file(subject: int) -> str:
    return f"wehbe2014-authors/subject_{subject}.mat"


def _responses(values: Floats, neuroids: list[tuple[str, str, str]], scans: Integers, clock: Floats) -> Responses:
    ids, subjects, rois = zip(*neuroids, strict=True)
    run_of_row = tuple(f"run.{int(run)}" for run in clock[scans, 1])
    return Responses(
        values=values,
        row_ids=tuple(f"scan.{scan}" for scan in scans),
        row_groups=run_of_row,
        row_blocks=run_of_row,
        neuroid_ids=ids,
        subjects=subjects,
        rois=rois,
        unit=f"BOLD, drift of periods above {_HIGH_PASS_S:g} s removed, z-scored in each run",
        times_s=clock[scans, 0],
    )


def _words(path: Path, words: Any) -> Stimuli:
    """The tokens as shown, with their onsets."""
    structs = np.atleast_1d(words)
    if len(structs) != N_WORDS or not all(
        isinstance(word, dict) and {"text", "start"} <= set(word) for word in structs
    ):
        raise ValueError(
            f"{path}: `words` has {len(structs)} elements, wanted {N_WORDS} with the fields text, start and length; "
            "download it again."
        )
    texts, starts = [word["text"] for word in structs], [word["start"] for word in structs]
    if odd := [k for k, text in enumerate(texts) if not isinstance(text, str)]:
        raise ValueError(f"{path}: word {odd[0]} is {texts[odd[0]]!r}, wanted a text; download it again.")
    onsets = np.array(starts, dtype=np.float64)
    wehbe2014.require_increasing(onsets, path, "onsets of words")
    return wehbe2014.stimuli_of(texts, onsets, path)


def _clock(path: Path, time: Any) -> Floats:
    """(1351, 2) start in seconds and run of each scan."""
    if np.shape(time) != (N_SCANS, 2):
        raise ValueError(
            f"{path}: `time` has shape {np.shape(time)}, wanted {N_SCANS} scans x (start, run); download it again."
        )
    clock: Floats = np.asarray(time, dtype=np.float64)
    wehbe2014.require_increasing(clock[:, 0], path, "times of scans")
    return clock


def _require_same(first: tuple[Path, Stimuli, Floats], other: tuple[Path, Stimuli, Floats]) -> None:
    """Raise unless two files have the same words and the same clock."""
    for content, same in (
        ("words", first[1].texts == other[1].texts),
        ("onsets of words", np.array_equal(first[1].onsets_s, other[1].onsets_s)),  # type: ignore[arg-type]
        ("times and runs of scans", np.array_equal(first[2], other[2])),
    ):
        if not same:
            raise ValueError(f"{first[0]} and {other[0]} have different {content}; download both again.")


def _cleaned(path: Path, data: Any, runs: Floats) -> Floats:
    """(1351, voxel) float32 time courses without drift, z-scored in each run; NaN where a course is constant."""
    if np.ndim(data) != 2 or len(data) != N_SCANS or np.asarray(data).dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: `data` has shape {np.shape(data)}, wanted {N_SCANS} scans x voxels; download it again."
        )
    courses: Floats = np.array(data, dtype=np.float32)
    if not np.isfinite(courses).all():
        voxel = int(np.argmin(np.isfinite(courses).all(axis=0)))
        raise ValueError(f"{path}: voxel {voxel} has a value that is not finite; download it again.")
    for run in np.unique(runs):
        rows = np.flatnonzero(runs == run)
        drift = cleaning.cosines(len(rows), _TR_S, _HIGH_PASS_S)
        cleaning.clean(courses[rows[0] : rows[-1] + 1], drift, zscore=True, where=f"{path.name}, run {int(run)}")
    return courses


def _regions(path: Path, meta: Any, n_voxels: int) -> list[str]:
    """AAL region of each voxel; "" if it has none.

    Numbers count from 1; 0, or the number of the last name, is an unlabelled voxel.
    """
    fields = meta if isinstance(meta, dict) else {}
    numbers, names = np.atleast_1d(fields.get("colToROInum", ())), np.atleast_1d(fields.get("ROInumToName", ()))
    if len(numbers) != n_voxels or not len(names) or numbers.min() < 0 or numbers.max() > len(names):
        raise ValueError(
            f"{path}: `meta` has {len(numbers)} region numbers (colToROInum) and {len(names)} names (ROInumToName) for "
            f"{n_voxels} voxels, wanted a number of 0 to {len(names)} for each; download it again."
        )
    region_of = ["", *(str(name) for name in names[:-1]), ""]
    return [region_of[int(number)] for number in numbers]


ENTRY = Entry(
    name="wehbe2014-authors",
    title="Harry Potter, the authors' own files: 8 participants reading a chapter word by word, whole brain",
    kind="brain",
    licence="not stated",
    load=load,
    protocols=(PAPER, STRICT, equal_dimension(STRICT)),
    citation="Wehbe, Murphy, Talukdar, Fyshe, Ramdas, Mitchell (2014), Simultaneously uncovering the patterns of brain "
    "regions involved in different story reading subprocesses, PLoS ONE 9(11), e112575, "
    "doi:10.1371/journal.pone.0112575",
    landing="https://www.cs.cmu.edu/~fmri/plosone/",
    extent="1,211 x voxels",
    files=tuple(File(_file(subject), f"{_FOLDER_URL}/subject_{subject}.mat", "", 0) for subject in SUBJECTS),
    notes=(
        "No checksums are published: `harness fetch` shows the sha256 of what came, and the loader checks the form.",
    ),
)
