"""Loads a folder in BIDS style: BOLD images of runs, the words of each, and a mask or an atlas.

    sub-01/func/sub-01_task-alice_run-01_bold.nii.gz, ..._bold.json, ..._events.tsv, ..._desc-confounds_timeseries.tsv
    mask.nii.gz (every voxel is a neuroid) or atlas.nii.gz (means of parcels), or a subject's own in sub-01/

Surfaces (GIfTI, CIFTI) need no mask: without any, every vertex with a signal is a neuroid.

Every run is a block and a passage with its own clock: scan k is at k TR, plus StartTime of the JSON sidecar if it has
one. Subjects who heard the same run stand side by side; a subject without a run has no values there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.datasets.own import bids, cleaning, confounds, files, meshes, regions, words
from harness.datasets.own.bids import Run
from harness.datasets.own.courses import read_courses
from harness.datasets.own.images import Bold, Grid
from harness.datasets.own.regions import Region
from harness.datasets.own.settings import BoldSettings
from harness.datasets.own.words import Words
from harness.delimited.encodings import TextSource, text_of
from harness.records import Floats, Responses, Stimuli

_MAX_TR_S = 60.0
_MAX_SHIFT_S = 0.1  # subjects may begin a run this much apart


class Recording(NamedTuple):
    """Stimuli and responses of a folder."""

    stimuli: Stimuli
    responses: Responses


class Block(NamedTuple):
    """A run as all of its subjects have it. file: image of the first subject; n_late: words after the last scan."""

    label: str
    n_scans: int
    tr_s: float
    start_s: float
    words: Words
    file: str
    n_late: int = 0


def read(
    folder: Path, options: BoldSettings, *, unit: str, joiner: str, encoding: str | None, notes: list[str]
) -> Recording:
    """Read all subjects and runs of a folder.

    Args:
        folder: root of the BIDS folder.
        options: which images, and how they are cleaned.
        unit: unit of the values; "" describes the cleaning.
        joiner: separator between words.
        encoding: encoding of tables that are not UTF-8 and do not declare theirs.
        notes: list to which notes are appended.

    Raises:
        ValueError: if a file is missing or damaged, runs of two subjects differ in length, TR or words, an image has
            another grid than its mask or atlas, or a parcel has no signal; names the file.
    """
    runs = bids.find_runs(folder, options.derivatives, options.space, notes)
    bolds = opened(runs)
    blocks = _blocks(bolds, options, encoding, notes)
    used = [path.name.partition(".")[0] for path in (*regions.candidates(folder), *meshes.candidates(folder))]
    notes += [*_notes(blocks, runs, options), *files.ignored(folder, ["atlas", "dataset", "participants", *used])]
    notes += regions.ignored(folder, bolds[runs[0]].grid)
    responses = read_responses(folder, bolds, blocks, options, unit=unit, encoding=encoding, notes=notes)
    return Recording(words.stimuli_of({label: block.words for label, block in blocks.items()}, joiner), responses)


def read_responses(
    folder: Path,
    bolds: Mapping[Run, Bold],
    blocks: Mapping[str, Block],
    options: BoldSettings,
    *,
    unit: str,
    encoding: str | None,
    notes: list[str],
) -> Responses:
    """Read the images of all subjects in the masks or atlases of a folder.

    Args:
        folder: folder with the masks or atlases.
        bolds: the opened image of each run.
        blocks: block of each label of the runs, with its number of scans.
        options: how the images are cleaned.
        unit: unit of the values; "" describes the cleaning.
        encoding: encoding of tables that are not UTF-8 and do not declare theirs.
        notes: list to which notes are appended.

    Raises:
        ValueError: if there is no mask or atlas, an image is damaged or has another grid, or a parcel has no signal.
    """
    grids = {run.subject: bold.grid for run, bold in reversed([*bolds.items()])}  # of the first run
    subjects = dict.fromkeys(run.subject for run in bolds)
    regions_of = {subject: regions.find(folder, subject, grids[subject]) for subject in subjects}
    columns = {subject: regions.neuroids(folder, subject, region, encoding) for subject, region in regions_of.items()}
    values = _read_values(bolds, blocks, regions_of, options, encoding)
    kept = _measured(values, regions_of, columns, notes)
    return _responses(values, kept, blocks, columns, unit or options.in_words)


def opened(runs: Sequence[Run]) -> dict[Run, Bold]:
    """The images of all runs. Equal grids are one object, since those of surfaces are large."""
    bolds: dict[Run, Bold] = {}
    grids: list[Grid] = []
    for run in runs:
        bold = regions.open_bold(run.images)
        same = (grid for grid in grids if type(grid) is type(bold.grid) and not bold.grid.fault(grid))
        grid = next(same, bold.grid)
        grids += [grid] if grid is bold.grid else []
        bolds[run] = replace(bold, grid=grid)
    return bolds


# --- runs and words ---------------------------------------------------------------------------------------------------


def _blocks(
    bolds: Mapping[Run, Bold], options: BoldSettings, encoding: str | None, notes: list[str]
) -> dict[str, Block]:
    """Blocks by label, checked to be the same for all of their subjects."""
    blocks: dict[str, Block] = {}
    for run, bold in bolds.items():
        tr_s, start_s = _clock(run, bold, notes)
        heard = words.read(run, options.words, options.sound_onset_s, encoding)
        n_late = words.require_in_run(heard, start_s + (bold.n_scans - 1) * tr_s)
        block = Block(run.label, bold.n_scans, tr_s, start_s, heard, bold.file, n_late)
        if run.label not in blocks:
            blocks[run.label] = block
        else:
            _require_same(blocks[run.label], block, notes)
    if len(trs := {round(block.tr_s, 4) for block in blocks.values()}) > 1:
        raise ValueError(f"runs have different TRs ({', '.join(f'{tr:g}' for tr in sorted(trs))} s); one is needed.")
    return blocks


def _clock(run: Run, bold: Bold, notes: list[str]) -> tuple[float, float]:
    """TR and time of the first scan in seconds, from the JSON sidecar, or else the header."""
    tr_s, start_s, path = bold.tr_s, 0.0, run.find("bold", ".json")
    if path:
        try:
            sidecar = json.loads(text_of(TextSource(str(path))))
            stated = float(sidecar.get("RepetitionTime", tr_s))
            start_s = float(sidecar.get("StartTime", 0.0))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path.name} has no valid RepetitionTime or StartTime ({error}).") from error
        if tr_s and abs(stated - tr_s) > 1e-3:
            notes.append(f"{bold.file}: the header has a TR of {tr_s:g} s, {path.name} {stated:g} s, which is used.")
        tr_s = stated
    if not 0 < tr_s <= _MAX_TR_S:
        milliseconds = " (is it in milliseconds?)" if tr_s > _MAX_TR_S else ""
        raise ValueError(
            f"{bold.file}: the TR is {tr_s:g} s{milliseconds}; write RepetitionTime in seconds in "
            f"{bold.file.partition('.')[0]}.json."
        )
    return tr_s, start_s


def _require_same(first: Block, other: Block, notes: list[str]) -> None:
    """Raise unless another subject's run has the same length, TR and words."""
    pair = f"{first.file} and {other.file}"
    hint = "runs of the same task and number must have the same words: name runs after what was presented"
    if first.n_scans != other.n_scans:
        raise ValueError(f"{pair} have {first.n_scans} and {other.n_scans} scans; {hint}, and cut them to one length.")
    if abs(first.tr_s - other.tr_s) > 1e-4 or abs(first.start_s - other.start_s) > _MAX_SHIFT_S:
        raise ValueError(f"{pair} have different TRs or start times ({first.tr_s:g} and {other.tr_s:g} s).")
    shift_s = words.differences(first.words, other.words)
    if shift_s == float("inf"):
        where = words.difference_in_words(first.words.texts, other.words.texts)
        raise ValueError(f"{pair} have different words ({where}); {hint}.")
    if shift_s > _MAX_SHIFT_S:
        raise ValueError(f"{pair} have the same words up to {shift_s:g} s apart, more than {_MAX_SHIFT_S:g} s; {hint}.")
    if shift_s > 1e-6:
        notes.append(f"{other.file}: words are up to {shift_s:.3f} s from those of {first.file}, which are used.")


def _notes(blocks: Mapping[str, Block], runs: Sequence[Run], options: BoldSettings) -> list[str]:
    """How the images were read, and what was not."""
    notes = [f'Responses are {options.in_words}; "bold" in dataset.json chooses otherwise.']
    if any(block.words.file.endswith(".TextGrid") for block in blocks.values()) and options.sound_onset_s is None:
        notes.append("The sound of a TextGrid begins at the run's only event, or else at the first scan.")
    n_late = sum(block.n_late for block in blocks.values())
    notes += [f"{n_late} words of {len(blocks)} runs begin after the last scan, and are in none."] if n_late else []
    n_omitted = sum(block.words.n_omitted for block in blocks.values())
    notes += [f"{n_omitted} rows of events or TextGrids are no words (silences, n/a) and omitted."] if n_omitted else []
    if not options.confounds and (unused := [path for run in runs if (path := confounds.path_of(run))]):
        notes.append(f'{unused[0].name} and others are ignored: "bold" of dataset.json names no confounds.')
    for subject in dict.fromkeys(run.subject for run in runs):
        own = {run.label for run in runs if run.subject == subject}
        notes += [f"{subject} has {len(own)} of {len(blocks)} runs."] if len(own) < len(blocks) else []
    return notes


# --- courses ----------------------------------------------------------------------------------------------------------


def _read_values(
    bolds: Mapping[Run, Bold],
    blocks: Mapping[str, Block],
    regions_of: Mapping[str, Region],
    options: BoldSettings,
    encoding: str | None,
) -> Floats:
    """(scan, neuroid) float32 courses of all subjects, cleaned run by run."""
    ends = dict(zip(blocks, np.cumsum([block.n_scans for block in blocks.values()]).tolist(), strict=True))
    widths = np.cumsum([0, *(len(region) for region in regions_of.values())]).tolist()
    place = dict(zip(regions_of, widths, strict=False))
    values = np.full((ends[next(reversed(ends))], widths[-1]), np.nan, dtype=np.float32)
    for run, bold in bolds.items():
        block, region = blocks[run.label], regions_of[run.subject]
        courses = np.empty((bold.n_scans, len(region)), dtype=np.float64 if len(region) <= 2000 else np.float32)
        read_courses(bold, region, courses)
        regressors = [confounds.read(run, bold.n_scans, options.confounds, encoding)]
        if options.high_pass_s:
            regressors.append(cleaning.cosines(bold.n_scans, block.tr_s, options.high_pass_s))
        cleaning.clean(courses, np.hstack(regressors), zscore=options.zscore, where=bold.file)
        start = place[run.subject]
        values[ends[run.label] - bold.n_scans : ends[run.label], start : start + len(region)] = courses
    return values


# --- neuroids ---------------------------------------------------------------------------------------------------------


def _measured(
    values: Floats,
    regions_of: Mapping[str, Region],
    columns: Mapping[str, list[tuple[str, str, str]]],
    notes: list[str],
) -> NDArray[np.bool_] | None:
    """(neuroid,) whether a voxel or vertex has a signal; None if all have. ValueError if a parcel has none."""
    has_values = _vary(values)
    start = 0
    for subject, region in regions_of.items():
        absent = np.flatnonzero(~has_values[start : start + len(region)])
        start += len(region)
        if not len(absent):
            continue
        if region.parcel_of is not None:
            names = [columns[subject][k][0] for k in absent[:5]]
            raise ValueError(
                f"{len(absent)} parcels have no signal (NaN or constant in every run): {', '.join(names)}; do atlas "
                f"and images overlap? Remove these parcels from the atlas, or give {subject} its own, "
                f"{subject}/atlas.nii.gz."
            )
        if len(absent) == len(region):
            raise ValueError(f"{subject}: no place of {region.file} has a signal; do mask and images overlap?")
        unit = region.grid.unit
        notes.append(f"{subject}: {len(absent)} of {len(region)} {unit} have no signal and are left out.")
    return None if has_values.all() else has_values


def _vary(values: Floats) -> NDArray[np.bool_]:
    """(neuroid,) whether a column has different values; in blocks of rows, so that memory stays at the matrix."""
    low = np.full(values.shape[1], np.nan, dtype=values.dtype)
    high = low.copy()
    for start in range(0, len(values), 256):
        low = np.fmin(low, np.fmin.reduce(values[start : start + 256]))
        high = np.fmax(high, np.fmax.reduce(values[start : start + 256]))
    varies: NDArray[np.bool_] = high > low
    return varies


def _responses(
    values: Floats,
    kept: NDArray[np.bool_] | None,
    blocks: Mapping[str, Block],
    columns: Mapping[str, list[tuple[str, str, str]]],
    unit: str,
) -> Responses:
    ids, subjects, rois = zip(*(neuroid for own in columns.values() for neuroid in own), strict=True)
    if kept is not None:
        chosen = np.flatnonzero(kept)
        values = values[:, chosen]
        pick: Callable[[Sequence[str]], tuple[str, ...]] = lambda column: tuple(column[k] for k in chosen)  # noqa: E731
        ids, subjects, rois = pick(ids), pick(subjects), pick(rois)
    labels = tuple(block.label for block in blocks.values() for _ in range(block.n_scans))
    times = np.concatenate([block.start_s + block.tr_s * np.arange(block.n_scans) for block in blocks.values()])
    scans = tuple(f"{block.label}.{k}" for block in blocks.values() for k in range(block.n_scans))
    groups = labels if len(blocks) > 1 else tuple(f"minute.{int((t - times[0]) // 60) + 1}" for t in times)
    return Responses(values, scans, groups, labels, ids, subjects, rois, unit, times)
