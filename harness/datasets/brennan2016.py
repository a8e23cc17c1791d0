"""Brennan2016 ("Alice"): fMRI of 27 participants listening to the first chapter of Alice in Wonderland.

Brennan et al. (2016), Brain and Language 157-158, 81-94; CC BY 4.0. Six language regions (left and right anterior
temporal, left posterior temporal, left inferior parietal, left premotor, left inferior frontal), 362 scans of 2 s, and
2,127 words with onsets and ends, aligned by hand. One story, stretched to 120 % of its length, after 20 s of silence.

Regions: the 6 mm radius of the two published ones. The group mean is more reliable than at 10 mm in every region
(split half, Spearman-Brown corrected, 0.64-0.88 against 0.58-0.87); this choice does not depend on any model. Both
radii have the same 27 subjects: s33 has no 6 mm file and is constant at 10 mm, so s33 is omitted. The paper's exclusion
of single subject x region pairs is not applied, because the list is in a supplement that is not part of the data.

Clock: the first ten scans were discarded, so row k was acquired at (k + 10) * 2 s of the TextGrid. Check: the word rate
computed from the onsets, convolved with the canonical haemodynamic response, agrees with the published predictor at
this offset (r 0.988) better than one second off (0.954 and 0.920).

Drift: the time courses are in raw scanner units. The published analysis z-scored them and used movement as a covariate,
which also removes drift. Here Legendre polynomials up to order 5 are removed (AFNI's rule, 1 + duration / 150 s), then
each course is z-scored. **Both steps use all rows, including test rows**; they remove six of 362 degrees of freedom and
use no information about the stimuli. Drift accounts for 0.29 of the variance of a course on average and for up to 0.98.
A line fitted to the training rows alone diverges in a test block at either end of the chapter.

Six neuroids of subject "group" are added: the mean over subjects of the z-scored courses. Words are as published,
without punctuation, with clitics as separate words ("she" "'d"). Omitted: movement, sound power, predictors.

The authors' page links to two archives (`alice_data_shared`, `alice_stim_shared`) on Google Drive, which has no
permanent direct address: download and unpack them by hand into the folder `alice_brennan2016`.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.datasets import blank2014
from harness.datasets.entry import Entry, File, version_of
from harness.datasets.formats import textgrid
from harness.protocol import FoldRule, Sampling, equal_dimension
from harness.records import Dataset, Floats, Responses, Stimuli

REGIONS = ("LATL", "RATL", "LPTL", "LIPL", "LPreM", "LIFG")
_N_SCANS, _N_DISCARDED, _TR_S = 362, 10, 2.0
_DRIFT_ORDER = 5
_N_MINUTES = 12
_GRID = "alice_brennan2016/alice_stim_shared/DownTheRabbitHoleFinal_exp120_pad_1.TextGrid"
_SILENCE = ("", "sp")

# Subject -> sha256 of the time courses in the regions of 6 mm radius.
with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as _stream:
    _SUBJECTS = {row["subject"]: row["sha256"] for row in csv.DictReader(_stream)}

PAPER = replace(
    blank2014.PAPER,
    sampling=Sampling(pool="last", shift_s=4.0),
    notes=("Aw et al. (2023) did not use this data set; the protocol is theirs for Blank2014.",),
)
STRICT = replace(
    blank2014.STRICT,
    folds=FoldRule("contiguous", n=5, gap=5, min_test_rows=10),
    sampling=Sampling(pool="mean", delays=(1, 2, 3, 4)),
    notes=(
        "There is one story, so the test folds are five blocks of time, with five scans (10 s) dropped on both sides. "
        "Within the training rows the other blocks are left out one at a time, with the same gap. Delays as for "
        "Wehbe2014 in Aw et al. (2023).",
    ),
)

BRAINSCORE2026 = replace(
    blank2014.BRAINSCORE2026,
    encoding="shared",
    bos="window",
    folds=FoldRule("grouped", n=10, seed=1234),
    sampling=PAPER.sampling,
    notes=(
        "Brain-Score language does not have this data set; the protocol is that of its Blank2014-ridge of August 2026. "
        "There whole stories are held out; here there is one story, and whole minutes are held out. "
        "Contexts and windows are those of PAPER.",
    ),
)


def load(root: Path) -> Dataset:
    """Load the chapter: words with times, and (362, 168) responses: 27 subjects x 6 regions, then 6 group means.

    `row_groups` are the twelve minutes of the chapter, the folds of BRAINSCORE2026. `row_blocks` is the one story.

    Raises:
        ValueError: if a file does not have the published format; names the file.
    """
    stimuli = _read_words(root / _GRID)
    responses = _responses([remove_drift(_read_courses(root / _courses_file(subject))) for subject in _SUBJECTS])
    return Dataset("brennan2016", version_of(stimuli, responses), stimuli, responses)


def _courses_file(subject: str) -> str:
    return f"alice_brennan2016/alice_data_shared/6mm/{subject}-timecourses.txt"


def remove_drift(courses: Floats) -> Floats:
    """Remove Legendre polynomials up to order 5 from raw (scan, region) time courses and z-score; uses all rows.

    Rounded to 6 decimals, so that the version of the data set does not depend on the machine's linear algebra.
    """
    drifts = np.polynomial.legendre.legvander(np.linspace(-1, 1, len(courses)), _DRIFT_ORDER)
    residuals = courses - drifts @ np.linalg.lstsq(drifts, courses, rcond=None)[0]
    rounded: Floats = np.round(residuals / residuals.std(axis=0), 6)
    return rounded


def _read_words(path: Path) -> Stimuli:
    """Read the spoken words without silences; ids "alice.1", "alice.2", ...; the chapter is one passage."""
    (tier,) = textgrid.read(path)
    words = [word for word in tier.intervals if word.label not in _SILENCE]
    onsets, ends, texts = zip(*words, strict=True)
    ids = tuple(f"alice.{number}" for number in range(1, len(words) + 1))
    return Stimuli(ids, texts, ("alice",) * len(words), onsets_s=np.array(onsets), ends_s=np.array(ends))


def _read_courses(path: Path) -> Floats:
    """Read one subject's raw time courses, (scan, region) float64; ValueError if one is constant or too short."""
    courses = np.loadtxt(path)
    if courses.shape != (_N_SCANS, len(REGIONS)):
        raise ValueError(
            f"{path.name}: {courses.shape} scans x regions, wanted {(_N_SCANS, len(REGIONS))}; download the file again."
        )
    if not (np.ptp(courses, axis=0) > 0).all():
        raise ValueError(f"{path.name}: the time course of a region is constant; download the file again.")
    return courses


def _responses(courses: list[Floats]) -> Responses:
    """Time courses of all subjects, without drift, side by side; then the mean over subjects by region."""
    scans, subjects = np.arange(_N_SCANS), (*_SUBJECTS, "group")
    return Responses(
        values=np.hstack([*courses, np.mean(courses, axis=0)]).astype(np.float32),
        row_ids=tuple(f"scan.{scan + _N_DISCARDED}" for scan in scans),
        row_groups=tuple(f"minute.{scan * _N_MINUTES // _N_SCANS + 1}" for scan in scans),
        row_blocks=("alice",) * _N_SCANS,
        neuroid_ids=tuple(f"{subject}.{region}" for subject in subjects for region in REGIONS),
        subjects=tuple(subject for subject in subjects for _ in REGIONS),
        rois=(*(REGIONS * len(_SUBJECTS)), *(f"group {region}" for region in REGIONS)),
        unit="BOLD, drift removed and z-scored over the chapter",
        times_s=(scans + _N_DISCARDED) * _TR_S,
    )


ENTRY = Entry(
    name="brennan2016",
    title="Alice: 27 participants x 6 language regions, listening to a chapter of Alice in Wonderland",
    kind="brain",
    licence="CC BY 4.0",
    load=load,
    protocols=(PAPER, STRICT, equal_dimension(STRICT), BRAINSCORE2026),
    citation="Brennan, Stabler, Van Wagenen, Luh, Hale (2016), Abstract linguistic structure correlates with "
    "temporal activity during naturalistic comprehension, Brain and Language 157-158, 81-94, "
    "doi:10.1016/j.bandl.2016.04.008",
    landing="https://sites.lsa.umich.edu/cnllab/2016/06/11/data-sharing-fmri-timecourses-story-listening/",
    extent="362 x 168",
    files=(
        File(_GRID, "", "sha256:f42484c61db089132eaa0ed633468f04709669b89bbfbc712282c1478e2bd6b3", 301_992),
        *(File(_courses_file(subject), "", f"sha256:{sha256}", 35_114) for subject, sha256 in _SUBJECTS.items()),
    ),
)
