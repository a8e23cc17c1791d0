"""Brennan2016 ("Alice"): 27 people listen to the first chapter of Alice in Wonderland in the scanner.

Brennan et al. (2016), Brain and Language 157-158, 81-94; CC BY 4.0. Six language regions (left and right anterior
temporal, left posterior temporal, left inferior parietal, left premotor, left inferior frontal), 362 scans of 2 s, and
2,127 words with onsets and ends, aligned by hand. One story, told at 120 % of its length after 20 s of silence.

Regions: of the two published radii, 6 mm. The group mean is more reliable there in every region (split half,
Spearman-Brown, .64-.88 against .58-.87 at 10 mm), a choice that looks at no model. Both hold the same 27 subjects: s33
has no 6 mm file, and its 10 mm file is constant, so s33 is left out. The paper's exclusion of single subject x region
pairs is not applied (its list is in a supplement that is not with the data).

Clock: the first ten scans were discarded, so row k was taken at (k + 10) * 2 s of the TextGrid. Checked: a word rate
made from the onsets with the canonical haemodynamic response agrees with the published predictor (r .988) at this
offset and at none other (.954 and .920 one second off).

Drift: time courses are raw scanner units. The published analysis z-scored them and had movement as a covariate, which
also takes the drift. Here Legendre polynomials up to order 5 are removed from each (AFNI's rule, 1 + duration / 150 s),
then each is z-scored. **Both use all rows, test rows included**: six of 362 degrees of freedom, and no knowledge of the
stimuli. The drifts hold .29 of a course's variance on average and up to .98, and a line fitted on training rows alone
runs away in a test block at either end of the chapter.

Beside the subjects stand six neuroids of subject "group": the mean over subjects of the z-scored courses. Words are as
published: no punctuation, and clitics are words of their own ("she" "'d"). Left out: movement, sound power, predictors.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from harness.datasets import DATASETS, version_of
from harness.records import Dataset, Floats, Responses, Stimuli
from harness.spec import BRAINSCORE_RIDGE, WIDE_RIDGE, FoldRule, Protocol, Regression, Sampling

REGIONS = ("LATL", "RATL", "LPTL", "LIPL", "LPreM", "LIFG")
_N_SCANS, _N_DISCARDED, _TR_S = 362, 10, 2.0
_DRIFT_ORDER = 5
_N_MINUTES = 12
_GRID = "alice_brennan2016/alice_stim_shared/DownTheRabbitHoleFinal_exp120_pad_1.TextGrid"
_INTERVAL = re.compile(r'intervals \[\d+\]:\s+xmin = (\S+)\s+xmax = (\S+)\s+text = "(.*)"')
_SILENCE = ("", "sp")

PAPER = Protocol(
    name="paper",
    context="passage",
    folds=FoldRule("shuffled", n=10, test_fraction=0.1, seed=1),
    regression=Regression("ols", scale="center"),
    layer_choice="max",
    sampling=Sampling(pool="last", shift_s=4.0),
    notes=("The paper did not use this set; the protocol is that of its Blank2014 (METHODS section 2).",),
)
STRICT = Protocol(
    name="strict",
    context="passage",
    folds=FoldRule("contiguous", n=5, gap=5, min_test_rows=10),
    regression=WIDE_RIDGE,
    layer_choice="nested",
    sampling=Sampling(pool="mean", delays=(1, 2, 3, 4)),
    notes=(
        "There is one story, so the test folds are five blocks in time, with five scans (10 s) dropped at both sides. "
        "Within the training rows a minute is left out at a time. Delays as in Wehbe2014 (METHODS section 2).",
    ),
)

BRAINSCORE2026 = Protocol(
    name="brainscore2026",
    context="passage",
    folds=FoldRule("grouped", n=10, seed=1234),
    regression=BRAINSCORE_RIDGE,
    layer_choice="max",
    metric="brainscore_r",
    sampling=Sampling(pool="last", shift_s=4.0),
    notes=(
        "Brain-Score language does not hold this set; the protocol is that of its Blank2014-ridge of August 2026. "
        "There whole stories are held out; here is one story, and whole minutes are.",
    ),
)


def load(root: Path) -> Dataset:
    """Load the chapter: words with times, and (362, 168) responses: 27 subjects x 6 regions, then the group's 6.

    `row_groups` are the twelve minutes of the chapter, for the choice of alpha within the training rows; `row_blocks`
    is the one story.

    Raises:
        ValueError: if a file does not have the published form; it names the file.
    """
    stimuli = _read_words(root / _GRID)
    paths = [root / file.path for file in DATASETS["brennan2016"].files if file.path.endswith("-timecourses.txt")]
    subjects = [path.name.split("-")[0] for path in paths]
    responses = _responses(subjects, [_read_courses(path) for path in paths])
    return Dataset("brennan2016", version_of(stimuli, responses), stimuli, responses)


def remove_drift(courses: Floats) -> Floats:
    """(scan, region) raw -> z-scored residuals of Legendre polynomials up to order 5; uses all rows.

    Rounded to 6 decimals, so that the version of the data set does not hang on the machine's linear algebra.
    """
    drifts = np.polynomial.legendre.legvander(np.linspace(-1, 1, len(courses)), _DRIFT_ORDER)
    residuals = courses - drifts @ np.linalg.lstsq(drifts, courses, rcond=None)[0]
    rounded: Floats = np.round(residuals / residuals.std(axis=0), 6)
    return rounded


def read_textgrid(text: str) -> list[tuple[float, float, str]]:
    """Intervals (start s, end s, label) of a one-tier Praat TextGrid in long form.

    Raises:
        ValueError: if the file announces another number of intervals than it holds.
    """
    intervals = [(float(start), float(end), label.strip()) for start, end, label in _INTERVAL.findall(text)]
    announced = re.search(r"intervals: size = (\d+)", text)
    if announced is None or int(announced[1]) != len(intervals):
        wanted = announced[1] if announced else "an unknown number of"
        raise ValueError(f"TextGrid announces {wanted} intervals but holds {len(intervals)}; fetch the file again.")
    return intervals


def _read_words(path: Path) -> Stimuli:
    """The spoken words, silences left out; ids "alice.1" on; the chapter is one passage."""
    words = [interval for interval in read_textgrid(path.read_text()) if interval[2] not in _SILENCE]
    return Stimuli(
        ids=tuple(f"alice.{number}" for number in range(1, len(words) + 1)),
        texts=tuple(label for _, _, label in words),
        passages=("alice",) * len(words),
        onsets_s=np.array([start for start, _, _ in words]),
        ends_s=np.array([end for _, end, _ in words]),
    )


def _read_courses(path: Path) -> Floats:
    """(scan, region) float64 raw time courses of one subject; ValueError if one is constant or a scan is missing."""
    courses = np.loadtxt(path)
    if courses.shape != (_N_SCANS, len(REGIONS)):
        raise ValueError(f"{path.name}: {courses.shape} scans x regions, wanted {(_N_SCANS, len(REGIONS))}.")
    if not (np.ptp(courses, axis=0) > 0).all():
        raise ValueError(f"{path.name}: a region is constant, which no recording is; leave the subject out.")
    return courses


def _responses(subjects: list[str], courses: list[Floats]) -> Responses:
    """Subjects' courses side by side, then their mean by region."""
    cleaned = [remove_drift(course) for course in courses]
    group = np.mean(cleaned, axis=0)
    scans = np.arange(_N_SCANS)
    return Responses(
        values=np.hstack([*cleaned, group]).astype(np.float32),
        row_ids=tuple(f"scan.{scan + _N_DISCARDED}" for scan in scans),
        row_groups=tuple(f"minute.{scan * _N_MINUTES // _N_SCANS + 1}" for scan in scans),
        row_blocks=("alice",) * _N_SCANS,
        neuroid_ids=tuple(f"{subject}.{region}" for subject in (*subjects, "group") for region in REGIONS),
        subjects=tuple(subject for subject in (*subjects, "group") for _ in REGIONS),
        rois=(*(REGIONS * len(subjects)), *(f"group {region}" for region in REGIONS)),
        unit="BOLD, drift removed and z-scored over the chapter",
        times_s=(scans + _N_DISCARDED) * _TR_S,
    )
