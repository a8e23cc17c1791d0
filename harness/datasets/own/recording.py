"""Loads a user's own recording, `local:FOLDER`: a folder of tables that is scored without writing code.

Each table is a CSV, TSV or Parquet file. Rows are joined by id, so the order of rows matters only in `stimuli`.

- `stimuli`: stimulus_id, text, in order of presentation. Optional: passage (one context; default: each sentence alone,
  all words one story), group (never split over training and test rows; default: the passage). Words aligned with scans
  need onset_s and end_s. Words with reading times: reading_ms, and optionally sentence and scored.
- `responses`: row_id (a stimulus_id or scan_id), then one column per neuroid; empty if not measured. A sentence that
  was presented repeatedly may have several rows with a column repetition (see `presentations.py`).
- One file of responses per subject instead, `responses_sub-01.csv`, `.npy`, `.h5`, ...: see `subjects.py`.
- `neuroids` (optional): neuroid_id, subject; optional roi. Subject "group" marks means over subjects,
  roi "network" or "... network" the mean over a subject's other regions: both are scored, but not as part of "all". A
  roi with several neuroids of a subject is a region, whatever its name.
- `scans` (optional; makes the rows scans): scan_id, time_s on the clock of onset_s. Optional: block (the passage being
  heard, if each has its own clock; default: one clock for all), group (default: the block; minutes if there is one).
- `reading_times` (instead of reading_ms): stimulus_id, then one column per reader in ms, empty if not read. Scores use
  the mean over readers, the ceiling their split-half reliability.
- Samples of EEG, MEG or ECoG are scans; `epochs.py` cuts them into words if dataset.json says so.
- BOLD images in BIDS style instead of tables: see `bold.py`; files of EEG, MEG or ECoG: see `sensors.py`.
- `dataset.json` (optional): see `settings.py`.

Without a column sentence, sentences are detected by punctuation (`harness/text/sentences.py`). Without a column scored,
the first word of each sentence is not scored, as in Futrell2018. Protocols are chosen in `own_protocols.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from harness.datasets.entry import Entry, version_of
from harness.datasets.own import bids, bold, epochs, files, own_protocols, presentations, sensors, settings, subjects
from harness.datasets.own.files import Table, joined, nearest
from harness.datasets.own.presentations import Presented
from harness.datasets.own.reading_times import read_times
from harness.datasets.own.scans import Rows, require_words_in_scans, scan_rows
from harness.datasets.own.settings import BoldSettings, Settings
from harness.delimited.identifiers import join
from harness.records import Dataset, ReadingTimes, Repetitions, Responses, Stimuli
from harness.text import frequencies, scripts, sentences

logger = logging.getLogger(__name__)

PREFIX = "local:"
_TABLES = ("stimuli", "responses", "neuroids", "scans", "reading_times", "dataset")
_OPTIONAL = ("passage", "group", "onset_s", "end_s", "reading_ms", "sentence", "scored", "repetition")


def folder_of(name: str) -> Path:
    """Folder of "local:FOLDER"; ValueError if it does not exist, with the nearest name."""
    folder = Path(name.removeprefix(PREFIX)).expanduser()
    if not folder.is_dir():
        siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        raise ValueError(f"{name}: {folder.absolute()} is not a folder{nearest(folder.name, sorted(siblings))}.")
    return folder


def entry(name: str) -> Entry:
    """Read and check the whole folder.

    Args:
        name: "local:FOLDER"; a relative path is relative to the working directory.

    Returns:
        The entry. Its name is the one used in result tables, and its loader returns the recording already read.

    Raises:
        ValueError: if the folder has an error; names folder, file, column and id.
    """
    folder = folder_of(name)
    notes: list[str] = []
    try:
        options = settings.read(folder)
        if _form(folder) == "sensors" and not options.epochs:
            options = replace(options, epochs=epochs.DEFAULT)
        dataset = _read_dataset(folder, options, notes)
        epoch_s = options.epochs.length_s if options.epochs else 0.0
        protocols = own_protocols.choose(dataset, options.context, options.folds, options.response, epoch_s)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return Entry(
        options.name, options.title, "reading" if dataset.reading else "brain", options.licence,
        lambda _: _with_notes(dataset, notes), protocols, citation=options.citation, landing=str(folder.absolute()),
        extent=_extent(dataset), language=options.language, notes=tuple(notes),
    )  # fmt: skip


def _with_notes(dataset: Dataset, notes: list[str]) -> Dataset:
    """Log once what was unusual about the files, and return the recording."""
    for note in notes:
        _log_once(f"dataset={dataset.name} {note}")
    return dataset


@cache
def _log_once(message: str) -> None:
    logger.warning("%s", message)


def _extent(dataset: Dataset) -> str:
    """Numbers of stimuli, rows, neuroids and subjects in words."""
    responses, n_stimuli = dataset.responses, len(dataset.stimuli)
    if responses is None:
        n_readers = len(dataset.reading.subjects) if dataset.reading else 0
        return f"reading times of {n_stimuli} words" + (f", {n_readers} readers" if n_readers else "")
    scans = f"words, {len(responses.row_ids)} scans"
    rows = f"{n_stimuli} {'sentences' if responses.times_s is None else scans}"
    n_subjects = len(set(responses.subjects))
    return f"{rows}, {len(responses.neuroid_ids)} neuroids of {n_subjects} subject{'s' if n_subjects > 1 else ''}"


# --- tables -> records ------------------------------------------------------------------------------------------------


class _Content(NamedTuple):
    """What a folder has."""

    stimuli: Stimuli
    responses: Responses | None = None
    reading: ReadingTimes | None = None
    repetitions: Repetitions | None = None


def _form(folder: Path) -> Literal["tables", "bold", "sensors"]:
    """What a folder has; tables come first, then BOLD images."""
    has_tables = any((folder / f"stimuli{suffix}").is_file() for suffix in (".csv", ".tsv", ".parquet"))
    if not has_tables and bids.has_runs(folder):
        return "bold"
    return "sensors" if not has_tables and bids.has_runs(folder, bids.SENSORS) else "tables"


def _read_dataset(folder: Path, options: Settings, notes: list[str]) -> Dataset:
    """Read and check all files of a folder; notes are appended to `notes`."""
    read: dict[str, Callable[[Path, Settings, list[str]], _Content]]
    read = {"tables": _read_tables, "bold": _read_bold, "sensors": _read_sensors}
    content = read[_form(folder)](folder, options, notes)
    stimuli, responses, reading, repetitions = content
    ceiling = np.array([np.nan if options.ceiling is None else options.ceiling])
    contents: list[Any] = [stimuli, *(measure for measure in (responses, reading) if measure), ceiling]
    contents += [] if frequencies.is_english(options.language) else [options.language]
    contents += [repetitions.values] if repetitions else []
    is_averaged = repetitions is not None and options.repetitions == "average"
    dataset = Dataset(
        options.name, version_of(*contents), stimuli, responses, reading, options.ceiling, options.ceiling_source,
        language=options.language, repetitions=repetitions, rows_in_order=options.in_order and not is_averaged,
    )  # fmt: skip
    notes += _merged_groups_notes(stimuli, responses, dataset)
    return dataset


def _read_bold(folder: Path, options: Settings, notes: list[str]) -> _Content:
    """Read BOLD images in BIDS style."""
    if bids.has_runs(folder, bids.SENSORS):
        notes.append("EEG, MEG or ECoG is ignored, since there are BOLD images; remove either.")
    if options.epochs:
        raise ValueError('dataset.json: "epochs" is for samples of EEG, MEG or ECoG, not for BOLD images.')
    unit = "" if options.unit == Settings.unit else options.unit
    joiner = " " if options.joiner is None else options.joiner
    stimuli, responses = bold.read(
        folder, options.bold, unit=unit, joiner=joiner, encoding=options.encoding, notes=notes
    )
    _require_separator(stimuli.texts, options, "the words of the events")
    require_words_in_scans(stimuli, responses, "the words of the events")
    return _Content(stimuli, responses)


def _read_sensors(folder: Path, options: Settings, notes: list[str]) -> _Content:
    """Read EEG, MEG or ECoG in BIDS style."""
    assert options.epochs is not None  # noqa: S101 - there is a default
    unit = "" if options.unit == Settings.unit else options.unit
    joiner = " " if options.joiner is None else options.joiner
    stimuli, responses = sensors.read(
        folder, options.sensors, options.epochs, unit=unit, joiner=joiner, encoding=options.encoding, notes=notes
    )
    _require_separator(stimuli.texts, options, "the words of the events")
    return _Content(stimuli, responses)


def _read_tables(folder: Path, options: Settings, notes: list[str]) -> _Content:
    """Read all tables of a folder."""
    subject_files = subjects.find(folder)
    known = (*_TABLES, *(path.stem for path in subject_files.values()))
    files.check_names(folder, known)
    notes += files.ignored(folder, known)
    has_runs = any(bids.has_runs(folder, kind) for kind in (bids.BOLD, bids.SENSORS))
    notes += ["sub-XX is ignored, since there are tables; remove either."] if has_runs else []
    notes += ['"bold" of dataset.json is ignored, since there are tables.'] if options.bold != BoldSettings() else []
    stimuli_table = files.require(folder, "stimuli", ("stimulus_id", "text"), _OPTIONAL, options.encoding)
    response_table = files.find(folder, "responses", ("row_id",), None, options.encoding)
    times = files.find(folder, "reading_times", ("stimulus_id",), None, options.encoding)
    scans = files.find(folder, "scans", ("scan_id", "time_s"), ("block", "group"), options.encoding)
    neuroids = files.find(folder, "neuroids", ("neuroid_id", "subject"), ("roi",), options.encoding)
    tables = (stimuli_table, response_table, times, scans, neuroids)
    notes += [note for table in tables if table for note in table.content.notes]
    _require_one_kind(stimuli_table, response_table, times, subject_files)
    if options.epochs and not scans:
        raise ValueError(
            'dataset.json: "epochs" needs a table scans with the time of each sample (scan_id, time_s), and onset_s of '
            "the words."
        )
    if response_table is not None and scans is None:
        stimuli_table, response_table = presentations.with_own_ids(stimuli_table, response_table, notes)
    is_reading = response_table is None and not subject_files
    stimuli = _stimuli(stimuli_table, options, words=is_reading or scans is not None, timed=scans is not None)
    if is_reading:
        stimuli = _with_sentences(stimuli_table, stimuli, options)
        reading = read_times(stimuli_table, stimuli, times, notes)
        notes += _frequency_notes(options.language)
        return _Content(stimuli, reading=reading)
    # Without scans all stimuli are rows, in order of presentation; not all need to have a response.
    file = stimuli_table.file
    by_sentence = Rows(stimuli.ids, stimuli.groups, stimuli.passages, None, file)
    rows = scan_rows(scans, stimuli, file, notes) if scans else by_sentence
    if response_table is None:
        responses = subjects.read(subject_files, neuroids, rows, options.unit, options.encoding, notes)
    else:
        responses = _responses(response_table, neuroids, rows, options.unit, notes)
    if scans:
        require_words_in_scans(stimuli, responses, scans.file)
        responses = epochs.cut(stimuli, responses, options.epochs, notes) if options.epochs else responses
        return _Content(stimuli, responses)
    presented = _presented(stimuli_table, stimuli, responses, options, notes)
    return _Content(presented.stimuli, presented.responses, repetitions=presented.repetitions)


def _presented(table: Table, stimuli: Stimuli, responses: Responses, options: Settings, notes: list[str]) -> Presented:
    """Average or keep repeated presentations of sentences."""
    numbers = table.texts(presentations.NUMBER) if presentations.NUMBER in table.columns else ()
    context = options.context or own_protocols.context_of(stimuli)
    presented = presentations.combine(stimuli, responses, context, options.repetitions, numbers)
    notes += [presented.note] if presented.note else []
    return presented


def _merged_groups_notes(stimuli: Stimuli, responses: Responses | None, dataset: Dataset) -> list[str]:
    """A note if groups are treated as one because the same text is presented in them."""
    if responses is None or dataset.responses is None:
        before, after, texts = stimuli.groups, dataset.stimuli.groups, stimuli.repeated()
    else:
        before, after, texts = responses.row_groups, dataset.responses.row_groups, dataset.responses.row_texts
    n_merged = len(set(before)) - len(set(after))
    if not n_merged:
        return []
    group, first = next((old, new) for old, new in zip(before, after, strict=True) if old != new)
    n_texts = len(set(texts) - {""})
    return [
        f"the {len(set(before))} groups are {len(set(after))}, since groups that share a text are never divided over "
        f"training and test rows: {n_texts} texts are in more than one row, for example in the groups {first!r} and "
        f"{group!r}."
    ]


def _frequency_notes(language: str) -> list[str]:
    """A warning if there are no word frequencies for the regression of reading times."""
    try:
        frequencies.zipf_frequencies(["a"], language)
    except (ValueError, ModuleNotFoundError) as error:
        return [f"STRICT regresses reading times on word frequency and cannot be computed: {error}"]
    return []


def _require_one_kind(
    stimuli_table: Table, response_table: Table | None, times: Table | None, subject_files: dict[str, Path]
) -> None:
    """Raise unless there is exactly one of responses, a column of reading times, a table of reading times."""
    column = ["reading_ms"] if "reading_ms" in stimuli_table.columns else []
    kinds = [table.file for table in (response_table, times) if table] + column
    kinds += [path.name for path in subject_files.values()][:1]
    if len(kinds) != 1:
        raise ValueError(
            "wanted exactly one of a table responses, or one per subject (responses_sub-01.csv), a column "
            "reading_ms of stimuli, and a table reading_times; "
            f"here: {' and '.join(kinds) or 'none of them'}."
        )


def _stimuli(table: Table, options: Settings, *, words: bool, timed: bool) -> Stimuli:
    """Stimuli from their table; `words`: they are single words; `timed`: they need onsets and ends."""
    ids, texts = table.ids(), table.texts("text")
    if words:
        _require_single_words(table, texts)
    passages = table.texts("passage") if "passage" in table.columns else ("all",) * len(ids) if words else ids
    groups = table.texts("group") if "group" in table.columns else ()
    for column in ("onset_s", "end_s") if timed else ():
        if column not in table.columns:
            raise ValueError(f"{table.file} has no column {column!r}, which is required if there are scans.")
    onsets, ends = (table.numbers(column, complete=True) if timed else None for column in ("onset_s", "end_s"))
    if len(set(passages)) < len(ids):
        _require_separator(texts, options, f"{table.file}: column 'text'")
    joiner = " " if options.joiner is None else options.joiner
    return Stimuli(ids, texts, passages, groups, onsets_s=onsets, ends_s=ends, separator=joiner)


def _require_separator(texts: Sequence[str], options: Settings, what: str) -> None:
    """Raise if texts without spaces between words would be joined by spaces."""
    if options.joiner is None and scripts.is_unspaced_script(texts):
        raise ValueError(
            f"{what} is in a script without spaces between words, but would be joined by spaces; "
            'state the separator between stimuli in dataset.json: "joiner": "" for nothing, " " for a space.'
        )


def _require_single_words(table: Table, texts: Sequence[str]) -> None:
    """Raise if a word contains a line break or a tab, which happens if several cells were merged."""
    for row, text in enumerate(texts):
        if any(sign in text.strip() for sign in "\n\r\t"):
            raise ValueError(
                f"{table.file}: column 'text' contains a line break or a tab in {table.row(row)}: {text!r}; give each "
                "word its own row."
            )


def _responses(response_table: Table, neuroids: Table | None, rows: Rows, unit: str, notes: list[str]) -> Responses:
    """Responses of the rows that have any, in the order of `rows`; every scan must have a row."""
    file, row_ids = response_table.file, response_table.ids()
    same = joined(row_ids, rows.ids, "row_id", file, rows.file, notes)
    table_row = {same[row_id]: row for row, row_id in enumerate(row_ids)}
    kept = [row for row, row_id in enumerate(rows.ids) if row_id in table_row or rows.times_s is not None]
    if missing := next((rows.ids[row] for row in kept if rows.ids[row] not in table_row), None):
        raise ValueError(f"{file}: no row for {missing!r} of {rows.file}; add a row, without values if not measured.")
    ids, groups, blocks = (tuple(column[row] for row in kept) for column in (rows.ids, rows.groups, rows.blocks))
    names, subjects, rois = _neuroids(response_table, neuroids, notes)
    values = response_table.matrix(names, [table_row[row_id] for row_id in ids])
    if len(empty := np.flatnonzero(np.isnan(values).all(axis=0))):
        raise ValueError(f"{file}: column {names[empty[0]]!r} has no values; leave the neuroid out.")
    return Responses(values, ids, groups, blocks, names, subjects, rois, unit, rows.times_s)


def _neuroids(
    response_table: Table, table: Table | None, notes: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Ids, subjects and rois of the neuroids, in the order of the columns of the responses."""
    columns = response_table.columns
    if not columns:
        raise ValueError(f"{response_table.file} has only the column 'row_id'; add one for each neuroid.")
    if table is None:
        return columns, ("subject",) * len(columns), ("",) * len(columns)
    row_of = {name: row for row, name in enumerate(table.ids())}
    match = join(columns, list(row_of), response_table.file, table.file)
    if unknown := [column for column in columns if column not in match.same]:
        raise ValueError(
            f"{response_table.file}: column {unknown[0]!r} is not a neuroid_id of {table.file}"
            f"{nearest(unknown[0], row_of)}."
        )
    notes += [match.note] if match.note else []
    if unused := sorted(set(row_of) - set(match.same.values())):
        raise ValueError(
            f"{table.file}: neuroid_id {unused[0]!r} is not a column of {response_table.file}"
            f"{nearest(unused[0], columns)}."
        )
    subjects = table.texts("subject")
    rois = table.texts("roi") if "roi" in table.columns else ("",) * len(row_of)
    order = [row_of[match.same[column]] for column in columns]
    return columns, tuple(subjects[row] for row in order), tuple(rois[row] for row in order)


def _with_sentences(stimuli_table: Table, stimuli: Stimuli, options: Settings) -> Stimuli:
    """Add sentences from their column, or detected by punctuation."""
    if "sentence" in stimuli_table.columns:
        return replace(stimuli, sentences=stimuli_table.texts("sentence"))
    starts = sentences.starts(stimuli.texts, stimuli.passages, stimuli.separator, options.language)
    return replace(stimuli, sentences=tuple(str(number) for number in np.cumsum(starts)))
