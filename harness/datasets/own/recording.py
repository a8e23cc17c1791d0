"""A laboratory's own recording: a folder of tables that is scored without writing code, as `local:FOLDER`.

Each table is a CSV, TSV or Parquet file. Rows are joined by their ids, so that order matters in `stimuli` alone.

- `stimuli`: stimulus_id, text, in order of presentation; passage (one context; default: each sentence alone, all words
  one story), group (what must not be divided over train and test; default: the passage); onset_s and end_s of words
  that are aligned to scans; reading_ms, sentence, scored of words that were read.
- `responses`: row_id (a stimulus_id, or a scan_id), then one column per neuroid; nothing where it was not measured.
- `neuroids` (may be absent): neuroid_id, subject, roi (may be absent). Subject "group" marks means over subjects.
- `scans` (makes the rows scans): scan_id, time_s on the clock of onset_s; block (the passage that is heard, whose
  clock this is; default: one clock for all), group (default: the block; minutes where there is one block).
- `reading_times` (instead of reading_ms): stimulus_id, then one column per reader, ms, nothing where not read. The
  score is on their mean, the ceiling their split half.
- `dataset.json` (may be absent): see `local_settings.py`.

Without `sentence`, sentences are found by punctuation (`sentences.py`); without `scored`, the first word of each is
left out, as in Futrell2018. The protocols: `local_protocols.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.datasets.entry import Entry, version_of
from harness.datasets.own import files, settings
from harness.datasets.own import own_protocols as local_protocols
from harness.datasets.own.files import Table, joined, nearest
from harness.datasets.own.reading_times import read_times
from harness.datasets.own.scans import Rows, require_words_in_scans, scan_rows
from harness.datasets.own.settings import Settings
from harness.delimited.identifiers import join
from harness.records import Dataset, Responses, Stimuli
from harness.text import frequencies, scripts, sentences

logger = logging.getLogger(__name__)

PREFIX = "local:"
_TABLES = ("stimuli", "responses", "neuroids", "scans", "reading_times", "dataset")
_OPTIONAL = ("passage", "group", "onset_s", "end_s", "reading_ms", "sentence", "scored")


def folder_of(name: str) -> Path:
    """The folder of "local:FOLDER"; ValueError where there is none, with those of a like name."""
    folder = Path(name.removeprefix(PREFIX)).expanduser()
    if not folder.is_dir():
        beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        raise ValueError(f"{name}: {folder.absolute()} is no folder{nearest(folder.name, sorted(beside))}.")
    return folder


def entry(name: str) -> Entry:
    """Read and check the whole folder.

    Args:
        name: "local:FOLDER"; a relative folder is one of the working directory.

    Returns:
        The entry, whose name is that of the tables, and which gives the recording that was read.

    Raises:
        ValueError: what is wrong, with folder, file, column and id.
    """
    folder = folder_of(name)
    notes: list[str] = []
    try:
        said = settings.read(folder)
        dataset = _read_dataset(folder, said, notes)
        protocols = local_protocols.choose(dataset, said.context, said.folds)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return Entry(
        name=said.name,
        title=said.title,
        extent=_counts(dataset),
        kind="reading" if dataset.reading else "brain",
        licence=said.licence,
        load=lambda _: _with_notes(dataset, notes),
        protocols=protocols,
        citation=said.citation,
        landing=str(folder.absolute()),
        language=said.language,
        notes=tuple(notes),
    )


def _with_notes(dataset: Dataset, notes: list[str]) -> Dataset:
    """The recording, after logging once what was unusual about its files."""
    for note in notes:
        _log_once(f"dataset={dataset.name} {note}")
    return dataset


@cache
def _log_once(message: str) -> None:
    logger.warning("%s", message)


def _counts(dataset: Dataset) -> str:
    responses, n_stimuli = dataset.responses, len(dataset.stimuli)
    if responses is None:
        people = len(dataset.reading.subjects) if dataset.reading else 0
        return f"reading times of {n_stimuli} words" + (f", {people} readers" if people else "")
    rows = (
        f"{n_stimuli} sentences" if responses.times_s is None else f"{n_stimuli} words, {len(responses.row_ids)} scans"
    )
    n_people = len(set(responses.subjects))
    return f"{rows}, {len(responses.neuroid_ids)} neuroids of {n_people} subject{'s' if n_people > 1 else ''}"


# --- tables -> records ------------------------------------------------------------------------------------------------


def _read_dataset(folder: Path, said: Settings, notes: list[str]) -> Dataset:
    files.check_names(folder, _TABLES)
    shown = files.require(folder, "stimuli", ("stimulus_id", "text"), _OPTIONAL, said.encoding)
    measured = files.find(folder, "responses", ("row_id",), None, said.encoding)
    times = files.find(folder, "reading_times", ("stimulus_id",), None, said.encoding)
    scans = files.find(folder, "scans", ("scan_id", "time_s"), ("block", "group"), said.encoding)
    neuroids = files.find(folder, "neuroids", ("neuroid_id", "subject"), ("roi",), said.encoding)
    notes += [note for table in (shown, measured, times, scans, neuroids) if table for note in table.content.notes]
    _require_one_kind(shown, measured, times)
    stimuli = _stimuli(shown, said, words=measured is None or scans is not None, timed=scans is not None)
    responses = reading = None
    if measured is None:
        stimuli = _with_sentences(shown, stimuli, said)
        reading = read_times(shown, stimuli, times, notes)
        notes += _frequency_notes(said.language)
    else:
        rows = scan_rows(scans, stimuli, shown.file, notes) if scans else _sentence_rows(stimuli, shown.file)
        responses = _responses(measured, neuroids, rows, said.unit, notes)
        if scans:
            require_words_in_scans(stimuli, responses, scans.file)
    ceiling = np.array([np.nan if said.ceiling is None else said.ceiling])
    contents: list[Any] = [stimuli, *(measure for measure in (responses, reading) if measure), ceiling]
    contents += [] if frequencies.is_english(said.language) else [said.language]
    return Dataset(
        said.name, version_of(*contents), stimuli, responses, reading, said.ceiling, said.ceiling_source,
        language=said.language,
    )  # fmt: skip


def _frequency_notes(language: str) -> list[str]:
    """A warning where the regression of reading times will lack the frequencies of its words."""
    try:
        frequencies.zipf_frequencies(["a"], language)
    except (ValueError, ModuleNotFoundError) as error:
        return [f"STRICT, which regresses reading times over word frequency, cannot be computed: {error}"]
    return []


def _require_one_kind(shown: Table, measured: Table | None, times: Table | None) -> None:
    """Raise unless there is exactly one of responses, a column of reading times, a table of reading times."""
    column = ["reading_ms"] if "reading_ms" in shown.columns else []
    there = [table.file for table in (measured, times) if table] + column
    if len(there) != 1:
        raise ValueError(
            "a folder holds one of responses, a column reading_ms of stimuli, and reading_times; "
            f"here: {' and '.join(there) or 'none of them'}."
        )


def _stimuli(table: Table, said: Settings, *, words: bool, timed: bool) -> Stimuli:
    ids, texts = table.ids(), table.texts("text")
    if words:
        _require_single_words(table, texts)
    passages = table.texts("passage") if "passage" in table.columns else ("all",) * len(ids) if words else ids
    groups = table.texts("group") if "group" in table.columns else ()
    for column in ("onset_s", "end_s") if timed else ():
        if column not in table.columns:
            raise ValueError(f"{table.file} has no column {column!r}, which words need where there are scans.")
    onsets, ends = (table.numbers(column, complete=True) if timed else None for column in ("onset_s", "end_s"))
    if said.joiner is None and len(set(passages)) < len(ids) and scripts.has_no_spaces(texts):
        raise ValueError(
            f"{table.file}: column 'text' is in a script without spaces between words, but would be joined by spaces; "
            'state what stands between stimuli in dataset.json: "joiner": "" for nothing, " " for a space.'
        )
    joiner = " " if said.joiner is None else said.joiner
    return Stimuli(ids, texts, passages, groups, onsets_s=onsets, ends_s=ends, separator=joiner)


def _require_single_words(table: Table, texts: Sequence[str]) -> None:
    """Raise where a word holds a line break or a tab: it is several cells that were merged."""
    for row, text in enumerate(texts):
        if any(sign in text.strip() for sign in "\n\r\t"):
            raise ValueError(f"{table.file}: column 'text' holds a line break or a tab in {table.row(row)}: {text!r}.")


def _sentence_rows(stimuli: Stimuli, file: str) -> Rows:
    """The stimuli, in order of presentation; not all need have a response."""
    return Rows(stimuli.ids, stimuli.groups, stimuli.passages, None, file)


def _responses(measured: Table, neuroids: Table | None, rows: Rows, unit: str, notes: list[str]) -> Responses:
    given = measured.ids()
    same = joined(given, rows.ids, "row_id", measured.file, rows.file, notes)
    place = {same[row_id]: row for row, row_id in enumerate(given)}
    chosen = [row for row, row_id in enumerate(rows.ids) if row_id in place or rows.times_s is not None]
    if missing := next((rows.ids[row] for row in chosen if rows.ids[row] not in place), None):
        raise ValueError(f"{measured.file}: no row for {missing!r} of {rows.file}; write a row without values.")
    ids, groups, blocks = (tuple(column[row] for row in chosen) for column in (rows.ids, rows.groups, rows.blocks))
    names, subjects, rois = _neuroids(measured, neuroids, notes)
    values = measured.matrix(names, [place[row_id] for row_id in ids])
    if len(empty := np.flatnonzero(np.isnan(values).all(axis=0))):
        raise ValueError(f"{measured.file}: column {names[empty[0]]!r} has no value at all; leave the neuroid out.")
    return Responses(values, ids, groups, blocks, names, subjects, rois, unit, rows.times_s)


def _neuroids(
    measured: Table, table: Table | None, notes: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Ids, subjects and rois, in the order of the columns of the responses."""
    columns = measured.columns
    if not columns:
        raise ValueError(f"{measured.file} has no column beside 'row_id'; give one for each neuroid.")
    if table is None:
        return columns, ("subject",) * len(columns), ("",) * len(columns)
    place = {name: row for row, name in enumerate(table.ids())}
    same = join(columns, list(place), measured.file, table.file)
    if odd := [column for column in columns if column not in same.same]:
        raise ValueError(
            f"{measured.file}: column {odd[0]!r} is no neuroid_id of {table.file}{nearest(odd[0], place)}."
        )
    notes += [same.note] if same.note else []
    if odd := sorted(set(place) - set(same.same.values())):
        raise ValueError(
            f"{table.file}: neuroid_id {odd[0]!r} is no column of {measured.file}{nearest(odd[0], columns)}."
        )
    subjects = table.texts("subject")
    rois = table.texts("roi") if "roi" in table.columns else ("",) * len(place)
    at = [place[same.same[column]] for column in columns]
    return columns, tuple(subjects[row] for row in at), tuple(rois[row] for row in at)


def _with_sentences(shown: Table, stimuli: Stimuli, said: Settings) -> Stimuli:
    if "sentence" in shown.columns:
        return replace(stimuli, sentences=shown.texts("sentence"))
    starts = sentences.starts(stimuli.texts, stimuli.passages, stimuli.separator, said.language)
    return replace(stimuli, sentences=tuple(str(number) for number in np.cumsum(starts)))
