"""Reads the words of a run, with their times from its first scan or sample: from BIDS `*_events.tsv` or a TextGrid.

Events have onset and duration in seconds, and the word in a column `word`, `words`, `text`, `stimulus` or, without any
of these, `trial_type`. A TextGrid has a tier `word` or `words` on the clock of the sound; its start is at the onset of
the run's only event, or at `sound_onset_s` of dataset.json, or at the first scan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.datasets.formats import textgrid
from harness.datasets.own.bids import Run
from harness.datasets.own.files import REMEDY, nearest
from harness.delimited import table
from harness.delimited.encodings import TextSource
from harness.delimited.table import DelimitedTable
from harness.records import Floats, Stimuli

_COLUMNS = ("word", "words", "text", "stimulus", "trial_type")
_MISSING = frozenset({"", "n/a"})  # as in BIDS; "na" and "nan" are words
_FEWEST_CONDITIONS = 10  # fewer distinct values in many rows of trial_type are conditions, not words
# Labels of aligners (MFA, Penn, Gentle, Huth lab) for silence and noise.
_NO_WORDS = frozenset({
    "", "sp", "spn", "sil", "<sil>", "<eps>", "<p:>", "ns", "br", "lg", "ls", "sentence_start", "sentence_end", "<unk>",
})  # fmt: skip
_LONGEST_WORD_S = 60.0


class Words(NamedTuple):
    """Words of a run in order of onset. onsets_s, ends_s: seconds from the first scan. `file`: where they are from."""

    texts: tuple[str, ...]
    onsets_s: Floats
    ends_s: Floats
    file: str
    n_omitted: int = 0


def read(run: Run, column: str, sound_onset_s: float | None, encoding: str | None) -> Words:
    """Read the words of one run.

    Args:
        run: the run.
        column: column of the events that has the words; "" for the first of those known.
        sound_onset_s: onset of the sound after the first scan, for TextGrids.
        encoding: encoding of tables that are not UTF-8 and do not declare theirs.

    Raises:
        ValueError: if the run has neither events with words nor a TextGrid, or one of them is damaged.
    """
    events_path, grid_path = run.find("events", ".tsv"), run.find("", ".TextGrid")
    events = _read_table(events_path, encoding) if events_path else None
    named = _column(events, column, grid_path is not None) if events else ""
    if events and named:
        return _of_events(events, named)
    if grid_path:
        return _of_textgrid(grid_path, _sound_onset(events, sound_onset_s))
    if not events:
        raise ValueError(
            f"{run.file.name} has no events; add {run.subject}_{run.label}_events.tsv with onset, duration and word, "
            f"or a TextGrid ({run.label}.TextGrid)."
        )
    others = [name for name in events.frame.columns if name not in {"onset", "duration"}]
    raise ValueError(f"{events.file} has no column {column or 'word'!r}{nearest(column or 'word', others)}.")


def _read_table(path: Path, encoding: str | None) -> DelimitedTable:
    content = table.read(TextSource(str(path), encoding, REMEDY), ("onset", "duration"))
    for name in ("onset", "duration"):
        if name not in content.frame:
            raise ValueError(f"{path.name} has no column {name!r}{nearest(name, content.frame.columns)}.")
    return content


def _column(events: DelimitedTable, wanted: str, has_grid: bool) -> str:
    """Name of the column that has the words; "" if there is none."""
    if wanted:
        return wanted if wanted in events.frame else ""
    found = next((name for name in _COLUMNS if name in events.frame), "")
    if found != "trial_type":
        return found
    values = [text for text in events.texts(found) if text.strip().lower() not in _MISSING]
    is_condition = len(set(values)) < min(_FEWEST_CONDITIONS, len(values) / 2) or len(values) < 2
    if has_grid:
        return ""
    if is_condition:
        raise ValueError(
            f"{events.file}: column 'trial_type' has {len(set(values))} different values in {len(values)} rows, which "
            'seem to be conditions; add a column \'word\', or name the column by "words" of "bold" in dataset.json.'
        )
    return found


def _of_events(events: DelimitedTable, column: str) -> Words:
    texts = events.texts(column)
    rows = np.array([k for k, text in enumerate(texts) if text.strip().lower() not in _MISSING], dtype=np.int64)
    onsets, durations = (events.numerals(name).values for name in ("onset", "duration"))
    for name, values in (("onset", onsets), ("duration", durations)):
        if len(missing := rows[~np.isfinite(values[rows])]):
            raise ValueError(
                f"{events.where(int(missing[0]), name)} is empty for {texts[missing[0]]!r}; write seconds."
            )
    if len(negative := rows[durations[rows] < 0]):
        raise ValueError(f"{events.where(int(negative[0]), 'duration')} is negative; write seconds.")
    rows = rows[np.argsort(onsets[rows], kind="stable")]
    if not len(rows):
        raise ValueError(f"{events.file}: column {column!r} has no word.")
    return _checked(
        Words(
            tuple(texts[row].strip() for row in rows), onsets[rows], onsets[rows] + durations[rows], events.file,
            len(texts) - len(rows),
        )
    )  # fmt: skip


def _sound_onset(events: DelimitedTable | None, given: float | None) -> float:
    """Onset of the sound of a TextGrid after the first scan: as given, or that of the only event, or 0."""
    if given is not None:
        return given
    if events is None:
        return 0.0
    onsets = events.numerals("onset").values
    if len(onsets) != 1:
        raise ValueError(
            f"{events.file} has {len(onsets)} events and no words, so the onset of the sound is unknown; give the "
            'events of words, one event, or "sound_onset_s" in dataset.json.'
        )
    return float(onsets[0])


def _of_textgrid(path: Path, sound_onset_s: float) -> Words:
    tiers = textgrid.read(path)
    fitting = [tier for tier in tiers if tier.name.strip().lower().rpartition(" - ")[2] in {"word", "words"}]
    if len(fitting) != 1:
        names = ", ".join(repr(tier.name) for tier in tiers) or "none"
        raise ValueError(f"{path.name}: wanted one tier 'word' or 'words'; its tiers are {names}. Rename the tier.")
    heard = [word for word in fitting[0].intervals if word.label.lower().strip("{} ") not in _NO_WORDS]
    if not heard:
        raise ValueError(f"{path.name}: tier {fitting[0].name!r} has no word.")
    n_labelled = sum(bool(interval.label) for interval in fitting[0].intervals)
    onsets, ends, texts = zip(*heard, strict=True)
    return _checked(
        Words(
            texts, np.array(onsets) + sound_onset_s, np.array(ends) + sound_onset_s, path.name, n_labelled - len(heard)
        )
    )


def _checked(words: Words) -> Words:
    longest = float(np.max(words.ends_s - words.onsets_s))
    if longest > _LONGEST_WORD_S and np.median(words.ends_s - words.onsets_s) > _LONGEST_WORD_S / 2:
        raise ValueError(f"{words.file}: durations are up to {longest:g} s; are they in milliseconds? Write seconds.")
    for text in words.texts:
        if any(sign in text for sign in "\n\r\t"):
            raise ValueError(f"{words.file}: a word contains a line break or a tab: {text!r}; give each its own row.")
    return words


def require_in_run(words: Words, last_s: float, noun: str = "scan") -> int:
    """Number of words that begin after the last scan; ValueError if they are most words, or times seem milliseconds."""
    late = words.onsets_s > last_s
    if np.mean(late) > 0.5:
        milliseconds = np.mean(words.onsets_s / 1000 <= last_s) > 0.5 and np.max(words.onsets_s) > 20 * last_s
        question = "are onsets in milliseconds? Write seconds" if milliseconds else "are they those of another run?"
        raise ValueError(
            f"{words.file}: {late.sum()} of {len(late)} words begin after the last {noun}, at {last_s:g} s (the last "
            f"word at {words.onsets_s.max():g}); {question}" + ("." if milliseconds else "")
        )
    if np.mean(words.ends_s < 0) > 0.5:
        raise ValueError(f"{words.file}: most words end before the first {noun}, from which onsets count.")
    return int(late.sum())


def stimuli_of(heard: Mapping[str, Words], joiner: str) -> Stimuli:
    """The words of all runs, each a passage; ids "task-alice_run-01.1", ..."""
    rows = [(label, k, text) for label, words in heard.items() for k, text in enumerate(words.texts, start=1)]
    return Stimuli(
        tuple(f"{label}.{k}" for label, k, _ in rows),
        tuple(text for _, _, text in rows),
        tuple(label for label, _, _ in rows),
        onsets_s=np.concatenate([words.onsets_s for words in heard.values()]),
        ends_s=np.concatenate([words.ends_s for words in heard.values()]),
        separator=joiner,
    )


def differences(first: Words, other: Words) -> float:
    """Largest difference between the times of two subjects' words, in seconds; infinite if the words differ."""
    if tuple(map(str.lower, first.texts)) != tuple(map(str.lower, other.texts)):
        return float("inf")
    return float(max(np.abs(first.onsets_s - other.onsets_s).max(), np.abs(first.ends_s - other.ends_s).max()))


def difference_in_words(first: Sequence[str], other: Sequence[str]) -> str:
    """Where two lists of words differ first, for messages."""
    place = next((k for k, (a, b) in enumerate(zip(first, other, strict=False)) if a.lower() != b.lower()), -1)
    if place < 0:
        return f"{len(first)} and {len(other)} words"
    return f"word {place + 1} is {first[place]!r} and {other[place]!r}"
