"""Reading times of a laboratory, checked: 0, negative numbers and codes for missing values are not times.

Logarithms, means and split halves would take each of them for a time.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from harness.datasets.formats import natural_stories
from harness.datasets.own.files import Table, joined
from harness.records import Floats, ReadingTimes, Stimuli

# What is written for a missing value: 9999 and longer. Medians of a column between which its unit can be milliseconds.
_CODES = tuple(float("9" * n) for n in range(4, 10))
_LEAST_MEDIAN_MS, _MOST_MEDIAN_MS = 10.0, 100_000.0
_FASTEST_MS = 1.0


def read_times(shown: Table, stimuli: Stimuli, times: Table | None, notes: list[str]) -> ReadingTimes:
    """Reading times from a column `reading_ms` of the stimuli, or from a table with a column for each reader.

    Args:
        shown: the stimuli's table.
        stimuli: words, with their sentences.
        times: the table of reading times; None where the stimuli have a column.
        notes: what was unusual is added to them.

    Raises:
        ValueError: naming reader and word, if a time is 0, negative or a code; naming the column, if its unit cannot be
            milliseconds; as `local_files.joined` for words that are not stimuli.
    """
    starts = np.array([True, *(before != after for before, after in pairwise(stimuli.sentences))])
    scored = shown.flags("scored") if "scored" in shown.columns else ~starts
    if times is None:
        mean_ms = shown.numbers("reading_ms")
        _require_times(shown, "reading_ms", mean_ms, dict(zip(stimuli.ids, stimuli.texts, strict=True)))
        return ReadingTimes(stimuli.ids, mean_ms, scored, release="local")
    read = times.ids()
    same = joined(read, stimuli.ids, "stimulus_id", times.file, shown.file, notes)
    words = {word: stimuli.texts[row] for row, word in enumerate(stimuli.ids)}
    values = np.full((len(stimuli), len(times.columns)), np.nan, dtype=np.float32)
    place = {word: row for row, word in enumerate(stimuli.ids)}
    rows = [place[same[word]] for word in read]
    for k, column in enumerate(times.columns):
        reader_ms = times.numbers(column)
        _require_times(times, column, reader_ms, {word: words[same[word]] for word in read})
        values[rows, k] = reader_ms
    return ReadingTimes(stimuli.ids, natural_stories.mean_of_readers(values), scored, "local", times.columns, values)


def _require_times(table: Table, column: str, reader_ms: Floats, words: dict[str, str]) -> None:
    known = np.isfinite(reader_ms)
    if not known.any():
        return
    _require_milliseconds(table.file, column, reader_ms[known & (reader_ms > 0)])
    for row in np.flatnonzero(known & ((reader_ms < _FASTEST_MS) | np.isin(reader_ms, _CODES))):
        word = list(words.values())[row]
        who = "column 'reading_ms'" if column == "reading_ms" else f"reader {column!r}"
        what = "a code for a missing value" if reader_ms[row] in _CODES or reader_ms[row] < 0 else "not a reading time"
        raise ValueError(
            f"{table.file}: {who} has {reader_ms[row]:g} ms for word {word!r}, {table.row(int(row))}: that is "
            f"{what}; leave the cell empty where a word was not read."
        )


def _require_milliseconds(file: str, column: str, times_ms: Floats) -> None:
    median = float(np.median(times_ms)) if len(times_ms) else _LEAST_MEDIAN_MS
    if _LEAST_MEDIAN_MS <= median <= _MOST_MEDIAN_MS:
        return
    unit, factor = ("seconds", "multiply by 1000") if median < _LEAST_MEDIAN_MS else ("microseconds", "divide by 1000")
    raise ValueError(
        f"{file}: column {column!r} has a median of {median:g}, where milliseconds are expected: are these {unit}? "
        f"Write milliseconds ({factor})."
    )
