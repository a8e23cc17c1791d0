"""LeBel2023: fMRI of participants listening to hours of stories.

LeBel et al. (2023), Scientific Data 10, 555; OpenNeuro ds003020, CC0. Stories of about ten minutes (The Moth), scans of
2 s, up to 8 participants, tens of thousands of voxels each. Read from the preprocessed derivatives, as the authors'
code does (github.com/HuthLab/deep-fMRI-dataset): `preprocessed_data/SUBJECT/STORY.hf5` with a data set `data` (scan,
voxel), `TextGrids/STORY.TextGrid`, whose second tier has the words, and `respdict.json` with the scans of each story.
All subjects and stories in the folder are read; a subject without a story has NaN there. To score one subject, keep
one subject's folder: the responses are held in memory (9,000 scans x 80,000 voxels are 2.9 GB).

Clock, as in the authors' code: scans are 2 s apart, the story begins at the sixth scan, and ten scans at the start and
ten at the end (5 of `respdict`, 5 more) are not in the responses. Row k of a story is thus at 10 + 2 k s of its
TextGrid.

Omitted: words that mark silence or noise (`sp`, `br`, `lg`, `ls`, `ns`, `sentence_start`, `sentence_end`), phonemes,
single presentations of the repeated test story, and voxels without any value. Voxels are not assigned to regions.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.datasets import blank2014, brennan2016
from harness.datasets.entry import Entry, File, version_of
from harness.datasets.formats import textgrid
from harness.protocol import FoldRule, equal_dimension
from harness.records import Dataset, Floats, Responses, Stimuli

_FOLDER = "ds003020/derivative"
_SCANS = f"{_FOLDER}/respdict.json"
_TR_S, _FIRST_S = 2.0, 10.0
_N_NOT_KEPT = 20  # 5 by `respdict`, then 10 at the start and 5 at the end
_NO_WORDS = frozenset({"", "sentence_start", "sentence_end", "br", "lg", "ls", "ns", "sp"})

PAPER = brennan2016.PAPER
STRICT = replace(
    blank2014.STRICT,
    folds=FoldRule("grouped", n=10, seed=1234, min_test_rows=10),
    sampling=brennan2016.STRICT.sampling,
    notes=(
        "Whole stories are held out; alpha and layer are chosen by leaving stories out of the training rows. Features "
        "are delayed by 1 to 4 scans, as by LeBel et al. (2023) and Antonello et al. (2023).",
        "Differences from them: they test on one story heard repeatedly, here every story is tested once; they "
        "interpolate word vectors at scan times by a Lanczos filter (window 3), here a scan has the mean over the "
        "words that ended in its 2 s; they z-score features by story, test stories too, here training rows only; they "
        "choose alpha by 50 bootstraps over chunks of 40 scans; their delays reach into the story before.",
    ),
)


def load(root: Path) -> Dataset:
    """Load all subjects and stories under the data root.

    Returns:
        Words with times, and responses (scan, voxel); stories in the order of `respdict.json`, each one passage, block
        and group with its own clock.

    Raises:
        ValueError: if there are no responses, or a file does not have the published form; names the file.
    """
    folder = root / _FOLDER
    n_scans = {story: int(n) - _N_NOT_KEPT for story, n in json.loads((root / _SCANS).read_text()).items()}
    subjects = sorted(path.name for path in (folder / "preprocessed_data").glob("*") if path.is_dir())
    paths = {
        (subject, story): path
        for subject in subjects for story in n_scans
        if (path := folder / "preprocessed_data" / subject / f"{story}.hf5").is_file()
    }  # fmt: skip
    if not paths:
        raise ValueError(
            f"{folder / 'preprocessed_data'} has no file SUBJECT/STORY.hf5 of a story of {_SCANS}; get the derivatives "
            "with datalad or from openneuro.org."
        )
    stories = [story for story in n_scans if any(heard == story for _, heard in paths)]
    stimuli = _read_words(folder / "TextGrids", stories)
    responses = _read_responses(paths, {story: n_scans[story] for story in stories})
    return Dataset("lebel2023", version_of(stimuli, responses), stimuli, responses, rows_in_order=False)


def _read_words(folder: Path, stories: list[str]) -> Stimuli:
    """Read the words of all stories; ids "story.1", "story.2", ..., times in seconds from the start of the story."""
    rows = []
    for story in stories:
        path = folder / f"{story}.TextGrid"
        if not path.is_file():
            raise ValueError(f"story {story} has responses but no {path}; fetch the TextGrids.")
        tiers = textgrid.read(path)
        if len(tiers) < 2:
            raise ValueError(f"{path.name} has {len(tiers)} tiers, wanted phonemes and words; fetch the file again.")
        heard = [word for word in tiers[1].intervals if word.label.lower().strip("{} ") not in _NO_WORDS]
        rows += [(f"{story}.{number}", *word, story) for number, word in enumerate(heard, start=1)]
    ids, onsets, ends, texts, passages = zip(*rows, strict=True)
    return Stimuli(ids, texts, passages, onsets_s=np.array(onsets), ends_s=np.array(ends))


def _read_responses(paths: dict[tuple[str, str], Path], n_scans: dict[str, int]) -> Responses:
    """Responses of all subjects side by side, NaN in stories that a subject did not hear."""
    ends = dict(zip(n_scans, np.cumsum(list(n_scans.values())).tolist(), strict=True))
    courses, neuroids = [], []
    for subject in dict.fromkeys(subject for subject, _ in paths):
        heard = {story: n for story, n in n_scans.items() if (subject, story) in paths}
        own = {story: _read_courses(paths[subject, story], n) for story, n in heard.items()}
        if len(widths := {course.shape[1] for course in own.values()}) > 1:
            raise ValueError(f"{subject} has {sorted(widths)} voxels in different stories; fetch its files again.")
        values = np.full((sum(n_scans.values()), widths.pop()), np.nan, dtype=np.float32)
        for story, course in own.items():
            values[ends[story] - len(course) : ends[story]] = course
        measured = np.flatnonzero(np.isfinite(values).any(axis=0))
        courses.append(values if len(measured) == values.shape[1] else values[:, measured])
        neuroids += [(subject, voxel) for voxel in measured.tolist()]
    story_of_row = tuple(story for story, n in n_scans.items() for _ in range(n))
    places = np.concatenate([np.arange(n) for n in n_scans.values()])
    return Responses(
        values=courses[0] if len(courses) == 1 else np.hstack(courses),
        row_ids=tuple(f"{story}.{place}" for story, place in zip(story_of_row, places, strict=True)),
        row_groups=story_of_row,
        row_blocks=story_of_row,
        neuroid_ids=tuple(f"{subject}.{voxel}" for subject, voxel in neuroids),
        subjects=tuple(subject for subject, _ in neuroids),
        rois=("",) * len(neuroids),
        unit="BOLD, detrended and z-scored by story, as published",
        times_s=_FIRST_S + _TR_S * places,
    )


def _read_courses(path: Path, n_scans: int) -> Floats:
    """Read one subject's (scan, voxel) responses to a story; infinite values are refused by `Responses`."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            values: Any = file["data"][:]
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as HDF5 with a data set `data` ({error}); fetch it again.") from error
    if values.ndim != 2 or len(values) != n_scans or values.dtype.kind != "f":
        raise ValueError(
            f"{path}: `data` has shape {values.shape} of {values.dtype}, wanted {n_scans} scans (`respdict.json` less "
            f"{_N_NOT_KEPT}) x voxels of real numbers; fetch it again."
        )
    courses: Floats = values.astype(np.float32, copy=False)
    return courses


ENTRY = Entry(
    name="lebel2023",
    title="Hours of stories, up to 8 participants, all voxels, listening",
    kind="brain",
    licence="CC0",
    load=load,
    protocols=(PAPER, STRICT, equal_dimension(STRICT)),
    citation="LeBel, Wagner, Jain, Adhikari-Desai, Gupta, Morgenthal, Tang, Xu, Huth (2023), A natural language fMRI "
    "dataset for voxelwise encoding models, Scientific Data 10, 555, doi:10.1038/s41597-023-02437-z",
    landing="https://openneuro.org/datasets/ds003020",
    extent="scans x voxels",
    files=(File(_SCANS, "", "", 0),),
    notes=(
        "Only respdict.json is listed: TextGrids and the responses of the subjects that are there are read from the "
        "same folder. `datalad clone https://github.com/OpenNeuroDatasets/ds003020` and, in that folder, `datalad get "
        "derivative` get them.",
    ),
)
