"""The readers of Natural Stories one by one: each one's time on each word, whichever word the file counts from.

The screens of the experiment were numbered from 1 with two before the first word, and the published files subtract that
to different degrees (the corpus notes corrections of 2020 and of 2025). So nothing is believed: the times are laid on
the words under every shift from two words early to two words late, and the one under which the means over readers are
the published means is taken. Kept are times over 100 and under 3000 ms of readers with more than 4 of 6 answers correct
in the story, as the corpus' own processing does.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.records import Floats, Integers, Stimuli

log = logging.getLogger(__name__)

# Least r of the means over readers with the published means: where all readers are in the file, and where some are.
SAME, ALIKE = 1 - 1e-9, 0.7
_LEAD = 0.1  # by which the r of a shift must exceed that of any other
_SHIFTS = (0, 1, 2, -1, -2)
_COLUMNS = {"subject": "WorkerId", "story_id": "item", "zone_raw": "zone", "RT": "RT", "correct": "correct"}
_FASTEST_MS, _SLOWEST_MS, _TOO_FEW_CORRECT = 100, 3000, 4


class Readers(NamedTuple):
    """As in `ReadingTimes`: who read, (word, subject) float32 milliseconds, and how times were put on words."""

    subjects: tuple[str, ...]
    by_subject_ms: Floats
    alignment: str


def read(path: Path, stimuli: Stimuli, published_ms: Floats, least_r: float) -> Readers:
    """Read the times of each reader and lay them on the words.

    Args:
        path: `processed_RTs.tsv` of the corpus (WorkerId, item, zone, RT, correct) or the second batch (subject,
            story_id, zone_raw, RT, correct); other columns are not looked at.
        stimuli: words with ids "story.word", both from 1, each story whole.
        published_ms: (word,) the published means over readers.
        least_r: SAME or ALIKE.

    Raises:
        ValueError: if a column is missing, a reader has two times for a word, or no shift fits: with what was tried.
    """
    frame = _kept(path)
    found = {shift: _mean_ms(frame, _words_of(frame, stimuli, shift), len(stimuli)) for shift in _SHIFTS}
    r = {shift: _pearson(means, published_ms) for shift, means in found.items()}
    best, second = sorted(r, key=lambda shift: -r[shift])[:2]
    if not r[best] >= max(least_r, r[second] + _LEAD):
        tried = ", ".join(f"{_in_words(shift)} r {value:.6f}" for shift, value in r.items())
        raise ValueError(
            f"{path.name}: under no shift do the means over readers follow the published ones: {tried}; wanted at "
            f"least {least_r:.9g}, and {_LEAD} more than under any other. Is it of another release? Fetch it again."
        )
    alignment = f"{_in_words(best)} (r {r[best]:.3f} with the published means, next best {r[second]:.3f})"
    subjects, values = _matrix(frame, _words_of(frame, stimuli, best), stimuli, path.name)
    log.info("readers file=%s n_readers=%d alignment=%s", path.name, len(subjects), alignment)
    return Readers(subjects, values, alignment)


def mean_of_readers(by_subject_ms: Floats) -> Floats:
    """(word,) float64 mean over those who read the word; NaN where nobody did."""
    present = np.isfinite(by_subject_ms)
    count = present.sum(axis=1)
    mean: Floats = np.where(present, by_subject_ms, 0.0).sum(axis=1, dtype=float) / np.where(count, count, np.nan)
    return mean


def _kept(path: Path) -> Any:
    """The rows that count, as a frame with the columns subject, story_id, zone_raw, RT."""
    import pandas as pd

    frame = pd.read_csv(path, sep="\t", quoting=3, dtype={"WorkerId": str, "subject": str})
    frame = frame.rename(columns={theirs: ours for ours, theirs in _COLUMNS.items()})
    if missing := [f"{ours} (or {theirs})" for ours, theirs in _COLUMNS.items() if ours not in frame]:
        raise ValueError(f"{path.name} has no column {', '.join(missing)}; it has {', '.join(frame)}.")
    in_time = (frame["RT"] > _FASTEST_MS) & (frame["RT"] < _SLOWEST_MS)
    return frame[in_time & (frame["correct"] > _TOO_FEW_CORRECT)]


def _words_of(frame: Any, stimuli: Stimuli, shift: int) -> Integers:
    """(row,) index of the word under a shift; -1 where there is no such word."""
    stories, first, length = np.unique(np.array(stimuli.passages), return_index=True, return_counts=True)
    known = {int(story): (start, n) for story, start, n in zip(stories, first, length, strict=True)}
    starts, lengths = np.array([known.get(int(story), (0, 0)) for story in frame["story_id"]]).T
    words = frame["zone_raw"].to_numpy() - shift
    return np.where((words >= 1) & (words <= lengths), starts + words - 1, -1)


def _mean_ms(frame: Any, words: Integers, n_words: int) -> Floats:
    """(word,) mean over the rows of each word; NaN where there is none."""
    on_a_word = words >= 0
    total = np.bincount(words[on_a_word], frame["RT"].to_numpy()[on_a_word], n_words)
    count = np.bincount(words[on_a_word], minlength=n_words)
    mean: Floats = total / np.where(count, count, np.nan)
    return mean


def _pearson(a: Floats, b: Floats) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    return float(np.corrcoef(a[both], b[both])[0, 1]) if both.sum() > 2 else -1.0


def _matrix(frame: Any, words: Integers, stimuli: Stimuli, file: str) -> tuple[tuple[str, ...], Floats]:
    """Readers in the order of their names, and (word, reader) float32."""
    on_a_word = words >= 0
    names, readers = np.unique(frame["subject"].to_numpy(str)[on_a_word], return_inverse=True)
    cells = words[on_a_word] * len(names) + readers
    order = np.sort(cells)
    if len(doubled := order[1:][order[1:] == order[:-1]]):
        word, reader = divmod(int(doubled[0]), len(names))
        raise ValueError(
            f"{file}: reader {str(names[reader])!r} has two times for word {stimuli.ids[word]}; leave one out."
        )
    values = np.full((len(stimuli), len(names)), np.nan, dtype=np.float32)
    values.flat[cells] = frame["RT"].to_numpy()[on_a_word]
    return tuple(str(name) for name in names), values


def _in_words(shift: int) -> str:
    return f"word = zone {'-' if shift > 0 else '+'} {abs(shift)}" if shift else "word = zone"
