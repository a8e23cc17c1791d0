"""A laboratory's own recording: a folder of tables that is scored without writing code, as `local:FOLDER`.

Each table is a CSV or a Parquet file. Rows are joined by their ids, so that their order matters in `stimuli` alone.

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

Without `sentence`, sentences are found by punctuation; without `scored`, the first word of each is left out: both as in
Futrell2018. The protocols: `local_protocols.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.datasets import local_files, local_protocols, local_settings, readers
from harness.datasets.entry import Entry, version_of
from harness.datasets.futrell2018 import sentence_starts
from harness.datasets.local_files import Table, nearest
from harness.datasets.local_settings import Settings
from harness.records import Dataset, Floats, ReadingTimes, Responses, Stimuli

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
    try:
        said = local_settings.read(folder)
        dataset = _read_dataset(folder, said)
        protocols = local_protocols.choose(dataset, said.context, said.folds)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return Entry(
        name=said.name,
        title=said.title,
        extent=_counts(dataset),
        kind="reading" if dataset.reading else "brain",
        licence=said.licence,
        load=lambda _: dataset,
        protocols=protocols,
        citation=said.citation,
        landing=str(folder.absolute()),
    )


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


def _read_dataset(folder: Path, said: Settings) -> Dataset:
    local_files.check_names(folder, _TABLES)
    shown = local_files.require(folder, "stimuli", ("stimulus_id", "text"), _OPTIONAL)
    measured = local_files.find(folder, "responses", ("row_id",))
    times = local_files.find(folder, "reading_times", ("stimulus_id",))
    scans = local_files.find(folder, "scans", ("scan_id", "time_s"), ("block", "group"))
    _require_one_kind(shown, measured, times)
    stimuli = _stimuli(shown, words=measured is None or scans is not None, timed=scans is not None)
    responses = reading = None
    if measured is None:
        stimuli = _with_sentences(shown, stimuli)
        reading = _reading(shown, stimuli, times)
    else:
        rows = _scan_rows(scans, stimuli, shown.file) if scans else _sentence_rows(measured, stimuli, shown.file)
        neuroids = local_files.find(folder, "neuroids", ("neuroid_id", "subject"), ("roi",))
        responses = _responses(measured, neuroids, rows, said.unit)
    ceiling = np.array([np.nan if said.ceiling is None else said.ceiling])
    version = version_of(stimuli, *(people for people in (responses, reading) if people), ceiling)
    return Dataset(said.name, version, stimuli, responses, reading, said.ceiling, said.ceiling_source)


def _require_one_kind(shown: Table, measured: Table | None, times: Table | None) -> None:
    """Raise unless there is exactly one of responses, a column of reading times, a table of reading times."""
    column = ["reading_ms"] if "reading_ms" in shown.columns else []
    there = [table.file for table in (measured, times) if table] + column
    if len(there) != 1:
        raise ValueError(
            "a folder holds one of responses, a column reading_ms of stimuli, and reading_times; "
            f"here: {' and '.join(there) or 'none of them'}."
        )


def _stimuli(table: Table, *, words: bool, timed: bool) -> Stimuli:
    ids, texts = table.ids(), table.texts("text")
    passages = table.texts("passage") if "passage" in table.columns else ("all",) * len(ids) if words else ids
    groups = table.texts("group") if "group" in table.columns else ()
    for column in ("onset_s", "end_s") if timed else ():
        if column not in table.columns:
            raise ValueError(f"{table.file} has no column {column!r}, which words need where there are scans.")
    onsets, ends = (table.numbers(column, complete=True) if timed else None for column in ("onset_s", "end_s"))
    return Stimuli(ids, texts, passages, groups, onsets_s=onsets, ends_s=ends)


class _Rows(NamedTuple):
    """The rows of the responses, in order of time, and the table that names them."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    blocks: tuple[str, ...]
    times_s: Floats | None
    file: str


def _sentence_rows(measured: Table, stimuli: Stimuli, file: str) -> _Rows:
    """The stimuli that have a response, in order of presentation."""
    responded = set(measured.ids())
    rows = [row for row, stimulus_id in enumerate(stimuli.ids) if stimulus_id in responded]
    ids, groups, blocks = (tuple(c[row] for row in rows) for c in (stimuli.ids, stimuli.groups, stimuli.passages))
    return _Rows(ids, groups, blocks, None, file)


def _scan_rows(scans: Table, stimuli: Stimuli, file: str) -> _Rows:
    """The scans, block after block in the order of the passages, by time within each."""
    ids, times = scans.ids(), scans.numbers("time_s", complete=True)
    passages = tuple(dict.fromkeys(stimuli.passages))
    blocks = (
        scans.texts("block") if "block" in scans.columns else (passages[0] if len(passages) == 1 else "all",) * len(ids)
    )
    place = {passage: k for k, passage in enumerate(passages)}
    for scan, block in zip(ids, blocks, strict=True):
        if block not in place and "block" in scans.columns:
            raise ValueError(
                f"{scans.file}: block {block!r} of scan {scan!r} is no passage of {file}{nearest(block, passages)}."
            )
    order = sorted(range(len(ids)), key=lambda row: (place.get(blocks[row], 0), times[row]))
    for before, row in pairwise(order):
        if blocks[before] == blocks[row] and times[before] == times[row]:
            raise ValueError(f"{scans.file}: scans {ids[before]!r} and {ids[row]!r} have one time_s, {times[row]:g}.")
    if len(set(blocks)) == len(ids):
        raise ValueError(f"{scans.file}: no block has two scans, so the time from scan to scan is not known.")
    if "group" in scans.columns:
        groups: Sequence[str] = scans.texts("group")
    else:
        groups = blocks if len(set(blocks)) > 1 else [f"minute.{int((t - times.min()) // 60) + 1}" for t in times]
    ids, groups, blocks = (tuple(column[row] for row in order) for column in (ids, groups, blocks))
    return _Rows(ids, groups, blocks, times[order], scans.file)


def _responses(measured: Table, neuroids: Table | None, rows: _Rows, unit: str) -> Responses:
    place, wanted = {row_id: row for row, row_id in enumerate(measured.ids())}, set(rows.ids)
    if odd := [row_id for row_id in place if row_id not in wanted]:
        raise ValueError(f"{measured.file}: row_id {odd[0]!r} is not in {rows.file}{nearest(odd[0], rows.ids)}.")
    if odd := [row_id for row_id in rows.ids if row_id not in place]:
        raise ValueError(f"{measured.file}: no row for {odd[0]!r} of {rows.file}; write a row without values.")
    names, subjects, rois = _neuroids(measured, neuroids)
    values = measured.matrix(names, [place[row_id] for row_id in rows.ids])
    if len(empty := np.flatnonzero(np.isnan(values).all(axis=0))):
        raise ValueError(f"{measured.file}: column {names[empty[0]]!r} has no value at all; leave the neuroid out.")
    return Responses(values, rows.ids, rows.groups, rows.blocks, names, subjects, rois, unit, rows.times_s)


def _neuroids(measured: Table, table: Table | None) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Ids, subjects and rois, in the order of the columns of the responses."""
    columns = measured.columns
    if not columns:
        raise ValueError(f"{measured.file} has no column beside 'row_id'; give one for each neuroid.")
    if table is None:
        return columns, ("subject",) * len(columns), ("",) * len(columns)
    place = {name: row for row, name in enumerate(table.ids())}
    if odd := [column for column in columns if column not in place]:
        raise ValueError(
            f"{measured.file}: column {odd[0]!r} is no neuroid_id of {table.file}{nearest(odd[0], place)}."
        )
    if odd := sorted(set(place) - set(columns)):
        raise ValueError(
            f"{table.file}: neuroid_id {odd[0]!r} is no column of {measured.file}{nearest(odd[0], columns)}."
        )
    subjects = table.texts("subject")
    rois = table.texts("roi") if "roi" in table.columns else ("",) * len(place)
    at = [place[column] for column in columns]
    return columns, tuple(subjects[row] for row in at), tuple(rois[row] for row in at)


def _with_sentences(shown: Table, stimuli: Stimuli) -> Stimuli:
    if "sentence" in shown.columns:
        return replace(stimuli, sentences=shown.texts("sentence"))
    return replace(stimuli, sentences=tuple(str(number) for number in np.cumsum(sentence_starts(stimuli))))


def _reading(shown: Table, stimuli: Stimuli, times: Table | None) -> ReadingTimes:
    starts = np.array([True, *(before != after for before, after in pairwise(stimuli.sentences))])
    scored = shown.flags("scored") if "scored" in shown.columns else ~starts
    if times is None:
        return ReadingTimes(stimuli.ids, shown.numbers("reading_ms"), scored, release="local")
    place = {word: row for row, word in enumerate(stimuli.ids)}
    read = times.ids()
    if odd := [word for word in read if word not in place]:
        raise ValueError(f"{times.file}: stimulus_id {odd[0]!r} is not in {shown.file}{nearest(odd[0], stimuli.ids)}.")
    values = np.full((len(stimuli), len(times.columns)), np.nan, dtype=np.float32)
    values[[place[word] for word in read]] = times.matrix(times.columns, range(len(read)))
    return ReadingTimes(stimuli.ids, readers.mean_of_readers(values), scored, "local", times.columns, values)
