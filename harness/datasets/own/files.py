"""Reads the tables of a user's folder into checked columns.

A table is NAME.csv, NAME.tsv or NAME.parquet; delimited files are read by `harness/delimited`. Errors name file,
column, id and line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.delimited import table
from harness.delimited.encodings import TextSource
from harness.delimited.identifiers import difference_of, join
from harness.delimited.numerals import read_numbers
from harness.delimited.table import SPREADSHEET_ERRORS
from harness.names import nearest as nearest_names
from harness.records import Floats

_SUFFIXES = ("csv", "tsv", "parquet")
_DATA = (
    ".csv", ".tsv", ".parquet", ".npy", ".npz", ".h5", ".hdf5", ".hf5", ".nii", ".nii.gz", ".gii", ".mat", ".xlsx",
    ".xls", ".nc", ".fif", ".edf", ".set", ".vhdr", ".TextGrid", ".wav", ".mp3", ".pkl",
)  # fmt: skip
REMEDY = '"encoding": "NAME" in dataset.json'
_NUMBERED = {"row_id": ", or number repeated presentations in a column 'repetition'"}
_MULTILINE = ("text",)  # only sentences may contain line breaks

# Largest value of a column, relative to its range, that float32 keeps to 1e-5 of the range.
_FAR = 100.0


@dataclass(frozen=True)
class Table:
    """One file. `key`: the column that identifies its rows."""

    key: str
    content: table.DelimitedTable

    @property
    def file(self) -> str:
        """File name."""
        return self.content.file

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns other than the key, in the order of the file."""
        return tuple(column for column in self.content.frame.columns if column != self.key)

    def ids(self) -> tuple[str, ...]:
        """Values of the key column; ValueError if one is empty or duplicate."""
        ids = tuple(self.content.texts(self.key))
        if "" in ids:
            row = ids.index("")
            at = f"row {row + 1} ({self.content.unit} {self.content.lines[row]})"
            raise ValueError(f"{self.file}: column {self.key!r} is empty in {at}; give every row an id.")
        if doubled := [value for value, n in Counter(ids).items() if n > 1]:
            lines = [self.content.lines[row] for row, value in enumerate(ids) if value == doubled[0]]
            raise ValueError(
                f"{self.file}: {self.key} {doubled[0]!r} appears more than once ({self.content.unit}s "
                f"{', '.join(map(str, lines[:4]))}); give each row its own id{_NUMBERED.get(self.key, '')}."
            )
        return ids

    def texts(self, column: str) -> tuple[str, ...]:
        """A column as text; ValueError names a row in which it is empty or a spreadsheet error such as #NAME?."""
        texts = tuple(self.content.texts(column))
        for row, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"{self.file}: column {column!r} is empty in {self.row(row)}; fill it.")
            if text in SPREADSHEET_ERRORS:
                raise ValueError(
                    f"{self.file}: column {column!r} is {text!r} in {self.row(row)}, a spreadsheet error; write the "
                    "original text."
                )
        return texts

    def numbers(self, column: str, *, complete: bool = False) -> Floats:
        """(row,) float64, NaN if missing. ValueError if a cell is not a number, or if one is missing and `complete`."""
        values = read_numbers(self.content.frame[column], lambda row, cell: self._cell(column, row, cell)).values
        if complete and len(missing := np.flatnonzero(np.isnan(values))):
            cell = self.content.texts(column)[missing[0]]
            raise ValueError(f"{self._cell(column, int(missing[0]), cell)}; write a finite number.")
        return values

    def flags(self, column: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(row,) bool, from true/false or 1/0."""
        meanings = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
        cells = [text.strip().lower() for text in self.texts(column)]
        for row, text in enumerate(cells):
            if text not in meanings:
                raise ValueError(f"{self._cell(column, row, text)}; write true or false.")
        return np.array([meanings[text] for text in cells], dtype=bool)

    def matrix(self, columns: Sequence[str], rows: Sequence[int]) -> Floats:
        """(len(rows), len(columns)), NaN if missing; `rows` are row indices. Raises as `numbers`.

        float32, or float64 if a column is so far from 0, compared with its range, that float32 would round it.
        """
        indices = np.array(rows, dtype=np.int64)
        values = np.empty((len(indices), len(columns)), dtype=np.float32)
        for k, column in enumerate(columns):
            exact = self.numbers(column)[indices]
            present = exact[np.isfinite(exact)]
            if values.dtype != float and len(present) and np.abs(present).max() > _FAR * np.ptp(present) > 0:
                values = values.astype(float)
            values[:, k] = exact
        return values

    def row(self, row: int) -> str:
        """Id and line of a row, for messages."""
        return f"{self.key} {self.content.texts(self.key)[row]!r} ({self.content.unit} {self.content.lines[row]})"

    def _cell(self, column: str, row: int, cell: str) -> str:
        return f"{self.file}: column {column!r} is {cell!r} in {self.row(row)}"


def find(
    folder: Path, name: str, required: Sequence[str], optional: Sequence[str] | None = None, encoding: str | None = None
) -> Table | None:
    """Read NAME.csv, NAME.tsv or NAME.parquet.

    Args:
        folder: the user's folder.
        name: file name without its suffix.
        required: required columns; the first identifies the rows.
        optional: other known columns; None if any column is allowed, for example neuroids.
        encoding: encoding of files that are not UTF-8 and do not declare theirs.

    Returns:
        The table, or None if there is no such file.

    Raises:
        ValueError: if there are two such files, the file cannot be read, or a column is missing, duplicate or misspelt.
    """
    paths = [path for suffix in _SUFFIXES if (path := folder / f"{name}.{suffix}").is_file()]
    if not paths:
        return None
    if len(paths) > 1:
        raise ValueError(f"both {paths[0].name} and {paths[1].name} exist; keep one of them.")
    (path,) = paths
    try:
        if path.suffix == ".parquet":
            content = table.read_parquet(str(path))
        else:
            content = table.read(TextSource(str(path), encoding, REMEDY), required, _MULTILINE)
    except (ValueError, OSError) as error:
        message = " ".join(str(error).replace(f"{path}", path.name).split())
        starts_with_name = message.startswith(path.name)
        raise ValueError(message if starts_with_name else f"{path.name} cannot be read: {message}") from error
    _check_columns(path.name, list(content.frame.columns), required, optional)
    if not len(content.frame):
        raise ValueError(f"{path.name} has no rows.")
    return Table(required[0], content)


def require(
    folder: Path, name: str, required: Sequence[str], optional: Sequence[str] | None = None, encoding: str | None = None
) -> Table:
    """Read a table as `find` does; ValueError if the file does not exist."""
    result = find(folder, name, required, optional, encoding)
    if result is None:
        existing = sorted(path.name for path in folder.iterdir())
        raise ValueError(f"{name}.csv or {name}.parquet does not exist{nearest(name, existing)}.")
    return result


def joined(ids: Sequence[str], known: Sequence[str], what: str, file: str, of: str, notes: list[str]) -> dict[str, str]:
    """Match the ids of a table with those of another; ids whose form differs are matched with a note.

    Args:
        ids: unique ids of the first table.
        known: ids of the other table.
        what: name of the id column, such as "row_id", for messages.
        file: name of the first table, for messages.
        of: name of the other table, for messages.
        notes: list to which a note is appended.

    Returns:
        Id of the first table -> id of the other.

    Raises:
        ValueError: if an id has no match; names it and how the nearest id differs.
    """
    match = join(ids, known, file, of)
    if missing := next((item for item in ids if item not in match.same), None):
        alike = next(((other, form) for other in known if (form := difference_of(missing, other))), None)
        hint = f", but {alike[0]!r} is, which differs in {alike[1]}" if alike else nearest(missing, known)
        raise ValueError(f"{file}: {what} {missing!r} is not in {of}{hint}.")
    notes += [match.note] if match.note else []
    return match.same


def check_names(folder: Path, known: Sequence[str]) -> None:
    """Raise ValueError if a file name resembles a known name that does not exist: the file would be ignored."""
    suffixes = {".csv", ".tsv", ".parquet", ".json"}
    names = {path.name: path.stem for path in folder.iterdir() if path.suffix in suffixes}
    absent = [name for name in known if name not in names.values()]
    for name, stem in sorted(names.items()):
        if stem not in known and (near := nearest_names(stem, absent, 1, 0.8)):
            raise ValueError(f"{name} is not a known file; did you mean {near[0]!r}? Rename it or remove it.")


def ignored(folder: Path, known: Sequence[str]) -> list[str]:
    """A note for each file of data in the folder whose name, without suffixes, is not one of `known`."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name.endswith(_DATA))
    unused = [name for name in names if name.partition(".")[0] not in known and name.rpartition(".")[0] not in known]
    shared = [name for name in unused if name.startswith("responses_")]
    notes = [f"{name} is ignored, since a table `responses` has all responses; remove one of them." for name in shared]
    others = [name for name in unused if name not in shared]
    listed = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    verb = "are ignored: their names are" if len(others) > 1 else "is ignored: its name is"
    return [*notes, *([f"{listed} {verb} not known."] if others else [])]


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for the end of an error message: "; the nearest is ...", or a list of what there is."""
    known = list(known)
    if near := nearest_names(name, known, 1, 0.5):
        return f"; the nearest is {near[0]!r}"
    listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"; there is {listed or 'nothing'}"


def _check_columns(file: str, columns: list[str], required: Sequence[str], optional: Sequence[str] | None) -> None:
    """Raise if a column is duplicate, missing or misspelt."""
    if doubled := [column for column, n in Counter(columns).items() if n > 1]:  # possible in Parquet
        raise ValueError(f"{file}: column {doubled[0]!r} appears more than once; column names must be unique.")
    for column in required:
        if column not in columns:
            others = [other for other in columns if other not in required]
            raise ValueError(f"{file} has no column {column!r}{nearest(column, others)}.")
    absent = [column for column in optional or () if column not in columns]
    for column in columns if optional is not None else ():
        if column not in {*required, *(optional or ())} and (near := nearest_names(column.lower(), absent, 1, 0.8)):
            raise ValueError(
                f"{file}: column {column!r} is not a known column; did you mean {near[0]!r}? Rename it or leave it out."
            )
