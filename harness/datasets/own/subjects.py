"""Reads one file of responses per subject: `responses_sub-01.csv`, .tsv, .parquet, .npy, .npz, .h5.

Tables have a column row_id, as `responses` has. Matrices without ids have their rows in the order of the table of
stimuli or scans. Subjects may have different neuroids and, in tables, different rows; a subject whose scans of a whole
block are missing has no values there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.datasets.own import arrays, files
from harness.datasets.own.files import Table, joined, nearest
from harness.datasets.own.presentations import NUMBER
from harness.datasets.own.scans import Rows
from harness.records import Floats, Integers, Responses

_SUBJECT = re.compile(r"responses_(sub-[A-Za-z0-9]+)")
_ALONE = "subject"  # of a matrix `responses.npy`, whose name has no subject
_TABLES = (".csv", ".tsv", ".parquet")
_BREAKS = re.compile(r"[\s/\\]+")


class _Part(NamedTuple):
    """Responses of one subject. places: (row,) rows of the recording."""

    values: Floats
    places: Integers
    neuroid_ids: tuple[str, ...]
    rois: tuple[str, ...]


def find(folder: Path) -> dict[str, Path]:
    """Files of responses by subject, in order of their names; {} if there are none, or one table has all responses.

    Raises:
        ValueError: if a subject has two files, or the name of a file has no subject `sub-XX`.
    """
    if any((folder / f"responses{suffix}").is_file() for suffix in _TABLES):
        return {}
    paths: dict[str, Path] = {}
    for path in sorted(folder.glob("responses*")):
        if path.suffix not in (*_TABLES, *arrays.SUFFIXES):
            continue
        match = _SUBJECT.fullmatch(path.stem)
        if path.stem != "responses" and not match:
            label = re.sub(r"[^A-Za-z0-9]", "", path.stem.removeprefix("responses")) or "01"
            raise ValueError(
                f"{path.name}: wanted responses_sub-LABEL{path.suffix}, LABEL of letters and digits; rename it, for "
                f"example, to responses_sub-{label}{path.suffix}."
            )
        subject = match[1] if match else _ALONE
        if subject in paths:
            raise ValueError(f"both {paths[subject].name} and {path.name} exist; keep one of them.")
        paths[subject] = path
    if _ALONE in paths and len(paths) > 1:
        raise ValueError(f"{paths[_ALONE].name} has no subject in its name, others have; rename it or remove it.")
    return paths


def read(
    paths: dict[str, Path], neuroids: Table | None, rows: Rows, unit: str, encoding: str | None, notes: list[str]
) -> Responses:
    """Read the responses of all subjects side by side.

    Args:
        paths: file of each subject.
        neuroids: table of neuroids; None if there is none.
        rows: stimuli or scans, in order of time.
        unit: unit of the values.
        encoding: encoding of tables that are not UTF-8 and do not declare theirs.
        notes: list to which notes are appended.

    Returns:
        All scans, or all stimuli with a response of any subject. NaN where a subject has no response. Neuroids are
        called "sub-01.NAME"; NAME counts from 1 if the file has no names.

    Raises:
        ValueError: if a file is damaged, its rows are not those of the table, or a neuroid of a table has no value.
    """
    parts = {subject: _read_subject(path, subject, neuroids, rows, encoding, notes) for subject, path in paths.items()}
    subjects = tuple(subject for subject, part in parts.items() for _ in part.neuroid_ids)
    ids = tuple(f"{subject}.{name}" for subject, part in parts.items() for name in part.neuroid_ids)
    rois = tuple(roi for part in parts.values() for roi in part.rois)
    heard = np.unique(np.concatenate([part.places for part in parts.values()]))
    kept = np.arange(len(rows.ids)) if rows.times_s is not None else heard
    notes += _coverage(parts, len(kept))
    dtype = np.result_type(*(part.values.dtype for part in parts.values()))
    values = np.full((len(kept), len(ids)), np.nan, dtype=dtype)
    start = 0
    for subject in paths:  # each part is freed once it is copied
        part = parts.pop(subject)
        stop = start + len(part.neuroid_ids)
        values[np.searchsorted(kept, part.places), start:stop] = part.values
        start = stop
    row_ids, groups, blocks = (tuple(column[row] for row in kept) for column in (rows.ids, rows.groups, rows.blocks))
    return Responses(values, row_ids, groups, blocks, ids, subjects, rois, unit, rows.times_s)


def _coverage(parts: dict[str, _Part], n_rows: int) -> list[str]:
    """A note for each subject without a response to some rows."""
    return [
        f"{subject} has responses in {len(part.places)} of {n_rows} rows."
        for subject, part in parts.items() if len(part.places) < n_rows
    ]  # fmt: skip


def _read_subject(
    path: Path, subject: str, neuroids: Table | None, rows: Rows, encoding: str | None, notes: list[str]
) -> _Part:
    if path.suffix in _TABLES:
        table = files.require(path.parent, path.stem, ("row_id",), None, encoding)
        notes += table.content.notes
        if NUMBER in table.columns:
            raise ValueError(
                f"{path.name}: a column {NUMBER!r} is read from a table of all subjects only; give each presentation "
                "a stimulus_id of its own."
            )
        if not table.columns:
            raise ValueError(f"{path.name} has only the column 'row_id'; add one for each neuroid.")
        row_ids = table.ids()
        matrix = arrays.Matrix(table.matrix(table.columns, range(len(row_ids))), row_ids, table.columns)
    else:
        matrix = arrays.read(path)
    places = _places(path.name, matrix, rows, notes)
    names, rois = _neuroids(path.name, matrix, subject, neuroids)
    empty = np.atleast_1d(np.isnan(matrix.values).all(axis=0))
    if empty.any() and path.suffix in _TABLES:
        raise ValueError(f"{path.name}: column {names[int(empty.argmax())]!r} has no values; leave the neuroid out.")
    if empty.all():
        raise ValueError(f"{path.name} has no values; remove it, or write the responses.")
    if not empty.any():
        return _Part(matrix.values, places, names, rois)
    notes.append(f"{path.name}: {empty.sum()} of {len(empty)} neuroids have no values and are left out.")
    kept = np.flatnonzero(~empty)
    return _Part(matrix.values[:, kept], places, tuple(names[k] for k in kept), tuple(rois[k] for k in kept))


def _places(file: str, matrix: arrays.Matrix, rows: Rows, notes: list[str]) -> Integers:
    """(row,) places of a file's rows among all rows."""
    place_of = {row_id: place for place, row_id in enumerate(rows.ids)}
    if matrix.row_ids is None:
        ids = rows.table_ids or rows.ids
        if len(matrix.values) != len(ids):
            n_rows, n_columns = matrix.values.shape
            turned = " The matrix seems to be transposed." if n_columns == len(ids) else ""
            raise ValueError(
                f"{file} has {n_rows} rows x {n_columns} neuroids and no row_id, but {rows.file} has {len(ids)} rows; "
                f"give one row for each row of {rows.file}, in its order, NaN where nothing was measured.{turned}"
            )
        return np.array([place_of[row_id] for row_id in ids])
    if len(set(matrix.row_ids)) < len(matrix.row_ids):
        doubled = next(row_id for k, row_id in enumerate(matrix.row_ids) if row_id in matrix.row_ids[:k])
        raise ValueError(f"{file}: row_id {doubled!r} appears more than once; give each row its own id.")
    same = joined(matrix.row_ids, rows.ids, "row_id", file, rows.file, notes)
    places = np.array([place_of[same[row_id]] for row_id in matrix.row_ids])
    if rows.times_s is not None:
        _require_whole_blocks(file, places, rows)
    return places


def _require_whole_blocks(file: str, places: Integers, rows: Rows) -> None:
    """Raise if a subject has some but not all scans of a block."""
    present, begun = set(places.tolist()), {rows.blocks[place] for place in places}
    for place, (row_id, block) in enumerate(zip(rows.ids, rows.blocks, strict=True)):
        if block in begun and place not in present:
            raise ValueError(
                f"{file}: no row for {row_id!r} of {rows.file}, but for others of block {block!r}; add a row, without "
                "values if not measured."
            )


def _neuroids(
    file: str, matrix: arrays.Matrix, subject: str, table: Table | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and rois of a subject's neuroids, in the order of the columns."""
    n = matrix.values.shape[1]
    own = _own_neuroids(subject, table)
    if matrix.neuroid_ids is None and own and len(own) != n:
        raise ValueError(
            f"{file} has {n} columns without names, but neuroids has {len(own)} rows of subject {subject!r}."
        )
    names = matrix.neuroid_ids or tuple(own) or tuple(str(k + 1) for k in range(n))
    if doubled := [name for k, name in enumerate(names) if name in names[:k]] if len(set(names)) < n else []:
        raise ValueError(f"{file}: neuroid {doubled[0]!r} appears more than once; give each its own name.")
    if own and (unknown := [name for name in names if name not in own]):
        raise ValueError(
            f"{file}: column {unknown[0]!r} is not a neuroid_id of {subject!r} in the table neuroids"
            f"{nearest(unknown[0], own)}."
        )
    return tuple(_BREAKS.sub("-", name) for name in names), tuple(own.get(name, "") for name in names)


def _own_neuroids(subject: str, table: Table | None) -> dict[str, str]:
    """Roi of each neuroid that the table has of a subject; the ids may begin with "sub-01."."""
    if table is None:
        return {}
    rois: Sequence[str] = table.texts("roi") if "roi" in table.columns else ("",) * len(table.ids())
    whose = [
        label if label.startswith("sub-") or label == _ALONE else f"sub-{label}" for label in table.texts("subject")
    ]
    own = {
        name.removeprefix(f"{subject}."): roi
        for name, owner, roi in zip(table.ids(), whose, rois, strict=True) if owner == subject
    }  # fmt: skip
    if not own:
        raise ValueError(f"{table.file} has no neuroid of subject {subject!r}{nearest(subject, sorted(set(whose)))}.")
    return own
