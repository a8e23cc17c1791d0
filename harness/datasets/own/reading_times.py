"""Reads and checks reading times: 0, negative numbers and codes for missing values are rejected.

Otherwise logarithms, means and split halves would include them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from harness.datasets.formats import natural_stories
from harness.datasets.own.files import Table, joined
from harness.records import Floats, ReadingTimes, Stimuli

_CODES = tuple(float("9" * n) for n in range(4, 10))  # codes for missing values: 9999 and longer
_MIN_MEDIAN_MS, _MAX_MEDIAN_MS = 10.0, 100_000.0  # a column with a median outside is not in milliseconds
_FASTEST_MS = 1.0


def read_times(stimuli_table: Table, stimuli: Stimuli, times: Table | None, notes: list[str]) -> ReadingTimes:
    """Read reading times from a column `reading_ms` of the stimuli, or from a table with one column per reader.

    Args:
        stimuli_table: table of the stimuli.
        stimuli: words, with their sentences.
        times: table of reading times; None if the stimuli have the column.
        notes: list to which notes on unusual ids are appended.

    Raises:
        ValueError: if a time is 0, negative or a code for a missing value (names reader and word), if the unit of a
            column cannot be milliseconds, or if a word is not a stimulus.
    """
    starts = np.array([True, *(before != after for before, after in pairwise(stimuli.sentences))])
    scored = stimuli_table.flags("scored") if "scored" in stimuli_table.columns else ~starts
    if times is None:
        mean_ms = stimuli_table.numbers("reading_ms")
        _require_times(stimuli_table, "reading_ms", mean_ms, stimuli.texts)
        return ReadingTimes(stimuli.ids, mean_ms, scored, release="local")
    word_ids = times.ids()
    same = joined(word_ids, stimuli.ids, "stimulus_id", times.file, stimuli_table.file, notes)
    row_of = {word_id: row for row, word_id in enumerate(stimuli.ids)}
    rows = [row_of[same[word_id]] for word_id in word_ids]
    words = [stimuli.texts[row] for row in rows]
    values = np.full((len(stimuli), len(times.columns)), np.nan, dtype=np.float32)
    for k, column in enumerate(times.columns):
        reader_ms = times.numbers(column)
        _require_times(times, column, reader_ms, words)
        values[rows, k] = reader_ms
    return ReadingTimes(stimuli.ids, natural_stories.mean_of_readers(values), scored, "local", times.columns, values)


def _require_times(table: Table, column: str, reader_ms: Floats, words: Sequence[str]) -> None:
    """Raise if a time is 0, negative or a code for a missing value; `words` are those of the table's rows."""
    present = np.isfinite(reader_ms)
    if not present.any():
        return
    _require_milliseconds(table.file, column, reader_ms[present & (reader_ms > 0)])
    for row in np.flatnonzero(present & ((reader_ms < _FASTEST_MS) | np.isin(reader_ms, _CODES))):
        source = "column 'reading_ms'" if column == "reading_ms" else f"reader {column!r}"
        is_code = reader_ms[row] in _CODES or reader_ms[row] < 0
        raise ValueError(
            f"{table.file}: {source} has {reader_ms[row]:g} ms for word {words[row]!r}, {table.row(int(row))}: this is "
            f"{'a code for a missing value' if is_code else 'not a reading time'}; leave the cell empty if the word "
            "was not read."
        )


def _require_milliseconds(file: str, column: str, times_ms: Floats) -> None:
    """Raise if the median of a column suggests seconds or microseconds."""
    median = float(np.median(times_ms)) if len(times_ms) else _MIN_MEDIAN_MS
    if _MIN_MEDIAN_MS <= median <= _MAX_MEDIAN_MS:
        return
    unit, factor = ("seconds", "multiply by 1000") if median < _MIN_MEDIAN_MS else ("microseconds", "divide by 1000")
    raise ValueError(
        f"{file}: column {column!r} has a median of {median:g}, where milliseconds are expected: are these {unit}? "
        f"Write milliseconds ({factor})."
    )
