"""Narratives: fMRI of 345 participants listening to spoken stories, each to some of them.

Nastase et al. (2021), Scientific Data 8, 250; OpenNeuro ds002345. Stories of 7 to 56 minutes, scans of 1.5 s. Read from
the DataLad data set `labs/hasson/narratives` (the raw data and the authors' derivatives; OpenNeuro has no derivatives
and no words), which lies under the data root as `narratives`:

    derivatives/afni-nosmooth/sub-001/func/sub-001_task-tunnel_space-fsaverage6_hemi-L_desc-clean.func.gii
    sub-001/func/sub-001_task-tunnel_events.tsv      onset, duration, trial_type, stim_file
    stimuli/gentle/tunnel/align.json                 words, and their times in the audio file
    code/scan_exclude.json                           scans that the authors exclude

All subjects and stories whose responses are there are read. Responses are on the surface fsaverage6, not smoothed, and
the authors removed head motion, physiological noise and drift. With `lh.annot` and `rh.annot` in the folder, a
FreeSurfer annotation of fsaverage6, neuroids are the means of its parcels; without, every vertex (40,962 a hemisphere)
is one, which fits into memory for a few subjects only.

Clock: the events say when, after the first scan, the audio file began (its first row, often music) and when the story
began. On the clock of the words, that of the audio file, scan k is thus at 1.5 k s minus the onset of the first row.
This agrees with the authors' figure (plot_stim.py), with their boundary between the stories of `slumlordreach`
(get_words.py), and with the onsets that they publish in scans (event_meta.json; but for `lucy`, whose events.tsv was
corrected later). As in their analyses, a story has the scans from its onset to its end, without the first six, and is
z-scored.

Words are those of the transcript with its punctuation, their texts joined unchanged. Words that the aligner did not
find, or put more than a scan before the story, have times between those of their neighbours.

Groups, which folds hold out, are the fifths of all stories: 163 of 345 participants heard one story only (counting the
versions of a story as one), for whom whole stories cannot be held out. Versions of a story at the same pace (three of
`milkyway`) or nearly so (`pieman`, `piemanpni`; two descriptions of one film, `shapesphysical` and `shapessocial`) have
their fifths in common.

Omitted: `schema` (clips of films and stories in an order of each subject's own), the scrambled versions of
`notthefall`, which have no words, scans that the authors exclude, second hearings of a story, vertices without signal.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.datasets import blank2014, brennan2016
from harness.datasets.entry import Entry, File, version_of
from harness.datasets.formats import gentle, surfaces
from harness.datasets.formats.gentle import SpokenWord
from harness.datasets.formats.surfaces import Parcels
from harness.datasets.own import bids, cleaning, gifti, scans
from harness.datasets.own.courses import parcel_means
from harness.protocol import FoldRule, Sampling, equal_dimension
from harness.records import Dataset, Floats, Responses, Stimuli

_FOLDER = "narratives"
_EXCLUDED = f"{_FOLDER}/code/scan_exclude.json"
_WITHOUT_WORDS = frozenset({"schema", "notthefalllongscram", "notthefallshortscram"})
_TR_S, _N_CUT, _N_PARTS = 1.5, 6, 5
_LEAST_OF_STORY = 0.9  # a scan may end this early, the rest is NaN
_ANNOTATIONS = {"L": "lh.annot", "R": "rh.annot"}

PAPER = brennan2016.PAPER
STRICT = replace(
    blank2014.STRICT,
    folds=FoldRule("grouped", n=_N_PARTS, gap=7, min_test_rows=10),
    sampling=Sampling(pool="mean", delays=(2, 3, 4, 5)),
    notes=(
        "The same fifth of every story is held out, with seven scans (10.5 s) dropped on both sides, since 163 of 345 "
        "participants heard one story only. Within the training rows the other fifths are left out one at a time, with "
        "the same gap. Features are delayed by 2 to 5 scans (3 to 7.5 s).",
        "Nastase et al. (2021) publish no encoding model, so there is no score to compare with. The scans of a story, "
        "the six that are dropped at its start and the exclusions are those of their intersubject correlations.",
    ),
)


class _Scan(NamedTuple):
    """One subject's hearing of a recording. files: hemisphere -> responses; name: "sub-001_task-pieman_run-1"."""

    subject: str
    task: str
    name: str
    files: dict[str, Path]


class _Story(NamedTuple):
    """A story of a recording.

    Attributes:
        name: passage, such as "tunnel".
        first, stop: its first scan, and one past its last.
        onset_s, end_s: in seconds of the audio file.
        sound_s: when the audio file began after the first scan, in seconds.
    """

    name: str
    first: int
    stop: int
    onset_s: float
    end_s: float
    sound_s: float

    @property
    def times_s(self) -> Floats:
        """(scan,) times of its scans in seconds of the audio file."""
        times: Floats = _TR_S * np.arange(self.first, self.stop) - self.sound_s
        return times


class _Sound(NamedTuple):
    """An audio file: its name without ending, and its stories."""

    name: str
    stories: tuple[_Story, ...]


def load(root: Path) -> Dataset:
    """Load all subjects and stories under the data root.

    Returns:
        Words with times, and responses (scan, neuroid); each story is a passage and block with its own clock.

    Raises:
        ValueError: if there are no responses, they do not fit into memory, or a file does not have the published form;
            names the file.
    """
    folder = root / _FOLDER
    heard = _find_scans(folder, json.loads((root / _EXCLUDED).read_text()))
    sound_of = _sounds(folder, heard)
    sounds = {sound.name: sound for sound in sorted(sound_of.values())}
    stimuli = _stimuli(folder, list(sounds.values()))
    responses = _responses(folder, heard, sound_of, [story for sound in sounds.values() for story in sound.stories])
    scans.require_words_in_scans(stimuli, responses, "stimuli/gentle")
    return Dataset("narratives", version_of(stimuli, responses), stimuli, responses, rows_in_order=False)


# --- scans and events -------------------------------------------------------------------------------------------------


def _find_scans(folder: Path, excluded: Mapping[str, Mapping[str, Sequence[str]]]) -> list[_Scan]:
    """The first hearing of each subject and task that is not excluded; ValueError if there is none."""
    names = {name for subjects in excluded.values() for hearings in subjects.values() for name in hearings}
    found: dict[tuple[str, str], _Scan] = {}
    pattern = "derivatives/afni-nosmooth/sub-*/func/*_space-fsaverage6_hemi-[LR]_desc-clean.func.gii"
    for path in sorted(path for path in folder.glob(pattern) if path.is_file()):
        entities, name = bids.parse(path.name).entities, path.name.partition("_space-")[0]
        subject, task = f"sub-{entities['sub']}", entities["task"]
        if task in _WITHOUT_WORDS or name in names:
            continue
        scan = found.setdefault((subject, task), _Scan(subject, task, name, {}))
        if scan.name == name:
            scan.files[entities["hemi"]] = path
    if not found:
        raise ValueError(f"{folder} has no responses {pattern}; get them with datalad.")
    hemispheres = {hemisphere for scan in found.values() for hemisphere in scan.files}
    for scan in found.values():
        if missing := sorted(hemispheres - set(scan.files)):
            raise ValueError(f"{scan.name} has no responses of hemi-{missing[0]}, others have; get all, or none.")
    return list(found.values())


def _sounds(folder: Path, heard: Sequence[_Scan]) -> dict[str, _Sound]:
    """The recording of each scan by its name; ValueError if two scans of a recording have other events."""
    first: dict[str, tuple[Path, _Sound]] = {}
    sounds = {}
    for scan in heard:
        path = folder / scan.subject / "func" / f"{scan.name}_events.tsv"
        sound = _read_events(path)
        before = first.setdefault(sound.name, (path, sound))
        if before[1] != sound:
            raise ValueError(
                f"{before[0].name} and {path.name} have different onsets or durations of {sound.name}; if one was "
                f"started at another time, add it to {_EXCLUDED}."
            )
        sounds[scan.name] = sound
    return sounds


def _read_events(path: Path) -> _Sound:
    """Read when a recording and its stories began."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but there are responses; get the events with datalad.")
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["stim_file"] != "n/a"]
        names = {row["stim_file"].removesuffix("_audio.wav") for row in rows}
        onsets = [float(row["onset"]) for row in rows]
        spans = [(float(row["onset"]), float(row["duration"])) for row in rows if row["trial_type"] == "story"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has no valid onset, duration, trial_type or stim_file ({error!r}).") from error
    if len(names) != 1 or not spans:
        raise ValueError(f"{path}: wanted one audio file with a story, not {', '.join(sorted(names)) or 'none'}.")
    (name,), sound_s = names, min(onsets)
    stories = []
    for number, (onset, duration) in enumerate(spans, start=1):
        first, n_scans = round(onset / _TR_S), round(duration / _TR_S)
        label, begin = name if len(spans) == 1 else f"{name}-{number}", onset - sound_s
        stories.append(_Story(label, first + _N_CUT, first + n_scans, begin, begin + duration, sound_s))
    return _Sound(name, tuple(stories))


# --- words ------------------------------------------------------------------------------------------------------------


def _stimuli(folder: Path, sounds: Sequence[_Sound]) -> Stimuli:
    """Words of all stories; ids "tunnel.1", "tunnel.2", ..., times in seconds of the audio file."""
    rows, onsets, ends = [], [], []
    for sound in sounds:
        path = folder / "stimuli" / "gentle" / sound.name / "align.json"
        if not path.is_file():
            raise ValueError(f"{sound.name} has responses but no {path}; get the words with datalad.")
        words = gentle.read(path)
        for story, own in zip(sound.stories, _by_story(words, sound.stories), strict=True):
            times = _times(own, story.onset_s - _TR_S)
            if not len(times):
                raise ValueError(f"{path} has no word with a time in the story {story.name}; fetch it again.")
            rows += [(f"{story.name}.{k}", word.text, story.name) for k, word in enumerate(own, start=1)]
            onsets.append(times[:, 0])
            ends.append(times[:, 1])
    ids, texts, passages = zip(*rows, strict=True)
    onsets_s, ends_s = np.concatenate(onsets), np.concatenate(ends)
    return Stimuli(ids, texts, passages, onsets_s=onsets_s, ends_s=ends_s, separator="")


def _by_story(words: Sequence[SpokenWord], stories: Sequence[_Story]) -> list[Sequence[SpokenWord]]:
    """The words of each story of a recording, divided at the first word after the middle of a pause."""
    edges = [0]
    for story, following in pairwise(stories):
        middle = (story.end_s + following.onset_s) / 2
        edges.append(next((k for k, word in enumerate(words) if word.start_s > middle), len(words)))
    return [words[start:stop] for start, stop in zip(edges, [*edges[1:], len(words)], strict=True)]


def _times(words: Sequence[SpokenWord], earliest_s: float) -> Floats:
    """(word, 2) start and end; those of words that were not found, or are too early, between their neighbours'.

    (0, 2) if no word has a time.
    """
    times = np.array([(word.start_s, word.end_s) for word in words]).reshape(-1, 2)
    found = np.flatnonzero(times[:, 0] >= earliest_s)
    if not len(found):
        return times[:0]
    return np.stack([np.interp(np.arange(len(times)), found, column[found]) for column in times.T], axis=1)


# --- responses --------------------------------------------------------------------------------------------------------


def _responses(
    folder: Path, heard: Sequence[_Scan], sound_of: Mapping[str, _Sound], stories: Sequence[_Story]
) -> Responses:
    """Responses of all subjects side by side, NaN in stories that a subject did not hear."""
    parcels = _read_parcels(folder, sorted(heard[0].files))
    labels = _labels(_read_courses(heard[0], parcels), parcels)
    width, subjects = len(labels), list(dict.fromkeys(scan.subject for scan in heard))
    lengths = [story.stop - story.first for story in stories]
    starts = dict(zip((story.name for story in stories), np.cumsum([0, *lengths]).tolist(), strict=False))
    _require_memory(sum(lengths), width * len(subjects))
    values = np.full((sum(lengths), width * len(subjects)), np.nan, dtype=np.float32)
    for scan in heard:
        courses = np.hstack(list(_read_courses(scan, parcels).values()))
        if courses.shape[1] != width:
            raise ValueError(
                f"{scan.name} has {courses.shape[1]} vertices, {heard[0].name} has {width}; fetch it again."
            )
        place = width * subjects.index(scan.subject)
        for story in sound_of[scan.name].stories:
            own = _of_story(courses, story, scan.name)
            values[starts[story.name] : starts[story.name] + len(own), place : place + width] = own
    measured = np.flatnonzero(np.isfinite(values).any(axis=0))
    passages = tuple(story.name for story, n in zip(stories, lengths, strict=True) for _ in range(n))
    places = np.concatenate([np.arange(story.first, story.stop) for story in stories])
    parts = np.concatenate([np.arange(n) * _N_PARTS // n + 1 for n in lengths])
    return Responses(
        values=values if len(measured) == values.shape[1] else values[:, measured],
        row_ids=tuple(f"{name}.{place}" for name, place in zip(passages, places, strict=True)),
        row_groups=tuple(f"fifth {part}" for part in parts),
        row_blocks=passages,
        neuroid_ids=tuple(f"{subjects[k // width]}.{labels[k % width]}" for k in measured),
        subjects=tuple(subjects[k // width] for k in measured),
        rois=("",) * len(measured),
        unit="BOLD, confounds and drift removed as published, z-scored by story",
        times_s=np.concatenate([story.times_s for story in stories]),
    )


def _read_parcels(folder: Path, hemispheres: Sequence[str]) -> dict[str, Parcels]:
    """The annotation of each hemisphere; {} if there is none."""
    paths = {hemisphere: folder / _ANNOTATIONS[hemisphere] for hemisphere in hemispheres}
    present = [path for path in paths.values() if path.is_file()]
    if present and len(present) < len(paths):
        missing = next(path for path in paths.values() if not path.is_file())
        raise ValueError(f"{folder} has {present[0].name} but no {missing.name}; add it, or remove the other.")
    return {hemisphere: surfaces.read_parcels(path) for hemisphere, path in paths.items()} if present else {}


def _read_courses(scan: _Scan, parcels: Mapping[str, Parcels]) -> dict[str, Floats]:
    """(scan, vertex or parcel) courses of each hemisphere."""
    courses = {}
    for hemisphere, path in sorted(scan.files.items()):
        bold = gifti.open_bold([path])
        courses[hemisphere] = np.vstack([*bold.read(np.arange(len(bold.grid)))]).astype(np.float32)
        if parcels:
            courses[hemisphere] = _parcel_means(courses[hemisphere], parcels[hemisphere], path.name)
    if len({len(own) for own in courses.values()}) > 1:
        raise ValueError(f"{scan.name}: hemispheres have {[len(own) for own in courses.values()]} scans; fetch again.")
    return courses


def _parcel_means(courses: Floats, parcels: Parcels, where: str) -> Floats:
    """(scan, parcel) means over the finite vertices of each parcel; ValueError if there are other vertices."""
    if courses.shape[1] != len(parcels.parcel_of):
        raise ValueError(
            f"{where} has {courses.shape[1]} vertices, the annotation {len(parcels.parcel_of)}; wanted one of "
            "fsaverage6."
        )
    inside = np.flatnonzero(parcels.parcel_of >= 0)
    return parcel_means(courses[:, inside].astype(np.float64), parcels.parcel_of[inside])


def _labels(courses: Mapping[str, Floats], parcels: Mapping[str, Parcels]) -> list[str]:
    """Such as "L.1023" or "L.G_temp_sup-Lateral": hemisphere, and vertex or parcel."""
    names = {side: parcels[side].names if parcels else range(own.shape[1]) for side, own in courses.items()}
    return [f"{side}.{name}" for side, own in names.items() for name in own]


def _of_story(courses: Floats, story: _Story, name: str) -> Floats:
    """The scans of a story, z-scored; ValueError if too few of them were taken."""
    own, n = courses[story.first : story.stop], story.stop - story.first
    if len(own) < _LEAST_OF_STORY * n:
        raise ValueError(
            f"{name} has {len(courses)} scans, but {story.name} ends with scan {story.stop}; fetch it again, or add it "
            f"to {_EXCLUDED}."
        )
    cleaning.clean(own, np.empty((len(own), 0)), zscore=True, where=name)
    return own


def _require_memory(n_rows: int, n_neuroids: int) -> None:
    """Raise ValueError if the responses, and a copy of them, exceed the free memory."""
    import psutil

    n_bytes, free = 2 * 4 * n_rows * n_neuroids, psutil.virtual_memory().available
    if n_bytes > free:
        raise ValueError(
            f"narratives: {n_rows:,} scans x {n_neuroids:,} neuroids of all subjects need {n_bytes / 1e9:,.0f} GB to "
            f"load, {free / 1e9:,.0f} GB are free. Keep fewer subjects or stories in {_FOLDER}/derivatives, or add "
            f"{' and '.join(_ANNOTATIONS.values())}, an annotation of fsaverage6, for means of parcels."
        )


ENTRY = Entry(
    name="narratives",
    title="Narratives: up to 345 participants listening to 18 recordings of stories, cortical surface",
    kind="brain",
    licence="CC0 (audio and transcripts: for non-commercial research)",
    load=load,
    protocols=(PAPER, STRICT, equal_dimension(STRICT)),
    citation="Nastase, Liu, Hillman, Zadbood, Hasenfratz, Keshavarzian, Chen, Honey, Yeshurun, Regev, and others "
    '(2021), The "Narratives" fMRI dataset for evaluating models of naturalistic language comprehension, Scientific '
    "Data 8, 250, doi:10.1038/s41597-021-01033-3",
    landing="https://openneuro.org/datasets/ds002345",
    extent="scans x vertices or parcels",
    files=(File(_EXCLUDED, "", "", 0),),
    notes=(
        "Only the list of excluded scans is listed: events, words and the responses that are there are read from the "
        "same folder. `datalad install -r ///labs/hasson/narratives` and, in that folder, `datalad get code "
        "stimuli/gentle sub-*/func/*events.tsv derivatives/afni-nosmooth/sub-*/func/*task-tunnel*fsaverage6*clean*` "
        "get the words and one story.",
        "lh.annot and rh.annot (optional) are FreeSurfer annotations of fsaverage6, such as lh.aparc.a2009s.annot of "
        "FreeSurfer's fsaverage6/label.",
    ),
)
