"""Reads single readers' times of Natural Stories and aligns them with the words.

The screens of the experiment were numbered from 1, with two screens before the first word, and the published files
correct for this to different degrees (the corpus notes corrections of 2020 and 2025). The alignment is therefore
determined from the data: all shifts from two words early to two words late are tried, and the one under which the means
over readers match the published means is used. As in the corpus' own processing, times above 100 and below 3000 ms are
kept, of readers with more than 4 of 6 correct answers in the story.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.datasets.formats import netcdf
from harness.records import Floats, Integers, Stimuli

log = logging.getLogger(__name__)

# Minimum r of the means over readers with the published means, if the file has all readers and if it has some of them.
MIN_R_ALL, MIN_R_SUBSET = 1 - 1e-9, 0.7
_MARGIN = 0.1  # by which the r of the best shift must exceed that of any other
_SHIFTS = (0, 1, 2, -1, -2)
_COLUMNS = {"subject": "WorkerId", "story_id": "item", "zone_raw": "zone", "RT": "RT", "correct": "correct"}
_FASTEST_MS, _SLOWEST_MS, _TOO_FEW_CORRECT = 100, 3000, 4


class Readers(NamedTuple):
    """Reading times by reader, as in `ReadingTimes`.

    subjects: ids of the readers.
    by_subject_ms: (word, subject) float32 milliseconds; NaN if the reader has no time for the word.
    alignment: how times were aligned with words.
    """

    subjects: tuple[str, ...]
    by_subject_ms: Floats
    alignment: str


def read(path: Path, stimuli: Stimuli, published_ms: Floats, least_r: float) -> Readers:
    """Read the times of each reader and align them with the words.

    Args:
        path: `processed_RTs.tsv` of the corpus (WorkerId, item, zone, RT, correct) or the second batch (subject,
            story_id, zone_raw, RT, correct); other columns are ignored.
        stimuli: words with ids "story.word", both from 1; stories are complete.
        published_ms: (word,) published means over readers.
        least_r: minimum r of the means with the published ones, MIN_R_ALL or MIN_R_SUBSET.

    Raises:
        ValueError: if a column is missing, a reader has two times for a word, or no shift fits; lists the r of each.
    """
    frame = _kept_rows(path)
    mean_ms = {shift: _mean_ms(frame, _word_indices(frame, stimuli, shift), len(stimuli)) for shift in _SHIFTS}
    r = {shift: _pearson(means, published_ms) for shift, means in mean_ms.items()}
    best, second = sorted(r, key=lambda shift: -r[shift])[:2]
    if not r[best] >= max(least_r, r[second] + _MARGIN):
        tried = ", ".join(f"{_in_words(shift)} r {value:.6f}" for shift, value in r.items())
        raise ValueError(
            f"{path.name}: no shift makes the means over readers match the published ones: {tried}; wanted at least "
            f"{least_r:.9g}, and {_MARGIN} more than any other shift. Is it another release? Fetch the file again."
        )
    alignment = f"{_in_words(best)} (r {r[best]:.3f} with the published means, next best {r[second]:.3f})"
    subjects, values = _matrix(frame, _word_indices(frame, stimuli, best), stimuli, path.name)
    log.info("readers file=%s n_readers=%d alignment=%s", path.name, len(subjects), alignment)
    return Readers(subjects, values, alignment)


def read_assembly(path: Path, stimuli: Stimuli, published_ms: Floats) -> Readers:
    """Read the times of each reader from Brain-Score's assembly, which is made from the release of 2016.

    Args:
        path: netCDF file with `data` (presentation, subject) in ms, the words identified by story_id and word_id.
        stimuli: words with ids "story.word"; stories are complete.
        published_ms: (word,) published means over readers.

    Raises:
        ValueError: if the file has another form, a word is missing or differs, or the means over readers are not the
            published ones.
    """
    columns = ("stimulus_id", "word", "story_id", "word_id")
    assembly = netcdf.read(path, columns, ("subject_id",), dimension="subject")
    stories, places = assembly.numbers("story_id"), assembly.numbers("word_id")
    rows = {f"{story}.{place}": row for row, (story, place) in enumerate(zip(stories, places, strict=True))}
    words = assembly.presentation["word"].tolist()
    for word_id, text in zip(stimuli.ids, stimuli.texts, strict=True):
        word = words[rows[word_id]] if word_id in rows else "nothing"
        if word != text:
            raise ValueError(f"{path.name}: word {word_id} is {word!r}, but {text!r} was shown. Fetch the file again.")
    values = assembly.values[[rows[word_id] for word_id in stimuli.ids]]
    r = _pearson(mean_of_readers(values), published_ms)
    if not r >= MIN_R_ALL:
        raise ValueError(
            f"{path.name}: the means over readers have r {r:.9f} with the published ones, wanted {MIN_R_ALL:.9g}. Is "
            "it another release? Fetch the file again."
        )
    order = np.argsort(assembly.neuroid["subject_id"])
    subjects = tuple(assembly.neuroid["subject_id"][order].tolist())
    return Readers(subjects, values[:, order].astype(np.float32), "as published by Brain-Score, word by word")


def mean_of_readers(by_subject_ms: Floats) -> Floats:
    """(word,) float64 mean over the readers who have a time for the word; NaN if none has."""
    present = np.isfinite(by_subject_ms)
    count = present.sum(axis=1)
    mean: Floats = np.where(present, by_subject_ms, 0.0).sum(axis=1, dtype=float) / np.where(count, count, np.nan)
    return mean


def _kept_rows(path: Path) -> Any:
    """Rows that pass the corpus' exclusion criteria, with the columns subject, story_id, zone_raw, RT."""
    import pandas as pd

    frame = pd.read_csv(path, sep="\t", quoting=3, dtype={"WorkerId": str, "subject": str})
    frame = frame.rename(columns={corpus_name: name for name, corpus_name in _COLUMNS.items()})
    if missing := [f"{name} (or {corpus_name})" for name, corpus_name in _COLUMNS.items() if name not in frame]:
        raise ValueError(f"{path.name} has no column {', '.join(missing)}; it has {', '.join(frame)}. Fetch it again.")
    in_time = (frame["RT"] > _FASTEST_MS) & (frame["RT"] < _SLOWEST_MS)
    return frame[in_time & (frame["correct"] > _TOO_FEW_CORRECT)]


def _word_indices(frame: Any, stimuli: Stimuli, shift: int) -> Integers:
    """(row,) index of the word of each row under a shift; -1 if there is no such word."""
    stories, first, length = np.unique(np.array(stimuli.passages), return_index=True, return_counts=True)
    extents = {int(story): (start, n) for story, start, n in zip(stories, first, length, strict=True)}
    starts, lengths = np.array([extents.get(int(story), (0, 0)) for story in frame["story_id"]]).T
    words = frame["zone_raw"].to_numpy() - shift
    return np.where((words >= 1) & (words <= lengths), starts + words - 1, -1)


def _mean_ms(frame: Any, words: Integers, n_words: int) -> Floats:
    """(word,) mean over the rows of each word; NaN if it has none."""
    has_word = words >= 0
    total = np.bincount(words[has_word], frame["RT"].to_numpy()[has_word], n_words)
    count = np.bincount(words[has_word], minlength=n_words)
    mean: Floats = total / np.where(count, count, np.nan)
    return mean


def _pearson(a: Floats, b: Floats) -> float:
    """Pearson r over the words with finite values in both; -1 if there are too few."""
    finite = np.isfinite(a) & np.isfinite(b)
    return float(np.corrcoef(a[finite], b[finite])[0, 1]) if finite.sum() > 2 else -1.0


def _matrix(frame: Any, words: Integers, stimuli: Stimuli, file: str) -> tuple[tuple[str, ...], Floats]:
    """Readers sorted by name, and their times as (word, reader) float32."""
    has_word = words >= 0
    names, readers = np.unique(frame["subject"].to_numpy(str)[has_word], return_inverse=True)
    cells = words[has_word] * len(names) + readers
    order = np.sort(cells)
    if len(doubled := order[1:][order[1:] == order[:-1]]):
        word, reader = divmod(int(doubled[0]), len(names))
        raise ValueError(
            f"{file}: reader {str(names[reader])!r} has two times for word {stimuli.ids[word]}; remove one of them."
        )
    values = np.full((len(stimuli), len(names)), np.nan, dtype=np.float32)
    values.flat[cells] = frame["RT"].to_numpy()[has_word]
    return tuple(str(name) for name in names), values


def _in_words(shift: int) -> str:
    """A shift as in `Readers.alignment`; the wording is part of the version of the data set."""
    return f"word = zone {'-' if shift > 0 else '+'} {abs(shift)}" if shift else "word = zone"
