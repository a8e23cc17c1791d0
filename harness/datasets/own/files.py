"""The files of a laboratory's folder as checked columns: CSV, TSV or Parquet, data at rest, nothing is executed.

A table is NAME.csv, NAME.tsv or NAME.parquet. Errors name file, column, id and
line; `harness/delimited` reads the delimited ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from harness.delimited import table
from harness.delimited.encodings import TextSource
from harness.delimited.identifiers import difference_of, join
from harness.delimited.numerals import read_numbers
from harness.delimited.table import SPREADSHEET_ERRORS
from harness.records import Floats

_ENDINGS = ("csv", "tsv", "parquet")
_REMEDY = '"encoding": "NAME" in dataset.json'
_MULTILINE = ("text",)  # a sentence may hold a line break, nothing else


@dataclass(frozen=True)
class Table:
    """One file: the column that names its rows, and its content."""

    key: str
    content: table.DelimitedTable

    @property
    def file(self) -> str:
        """Its name."""
        return self.content.file

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns beside the key, in the order of the file."""
        return tuple(column for column in self.content.frame.columns if column != self.key)

    def ids(self) -> tuple[str, ...]:
        """The key; ValueError where one is empty or appears twice."""
        ids = tuple(self.content.texts(self.key))
        if "" in ids:
            row = ids.index("")
            at = f"row {row + 1} ({self.content.unit} {self.content.lines[row]})"
            raise ValueError(f"{self.file}: column {self.key!r} is empty in {at}; name every row.")
        if doubled := [value for value, n in Counter(ids).items() if n > 1]:
            lines = [self.content.lines[row] for row, value in enumerate(ids) if value == doubled[0]]
            raise ValueError(
                f"{self.file}: {self.key} {doubled[0]!r} stands more than once ({self.content.unit}s "
                f"{', '.join(map(str, lines[:4]))}); name each row by itself."
            )
        return ids

    def texts(self, column: str) -> tuple[str, ...]:
        """A column as text; ValueError names the row in which it is empty or an error of a spreadsheet."""
        texts = tuple(self.content.texts(column))
        for row, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"{self.file}: column {column!r} is empty in {self.row(row)}; fill it.")
            if text in SPREADSHEET_ERRORS:
                raise ValueError(
                    f"{self.file}: column {column!r} is {text!r} in {self.row(row)}, an error of a spreadsheet; write "
                    "the text that stood there."
                )
        return texts

    def numbers(self, column: str, *, complete: bool = False) -> Floats:
        """(row,) float64; NaN where empty or missing. ValueError: a cell that is no number, or absent if `complete`."""
        values = read_numbers(self.content.frame[column], lambda row, cell: self._cell(column, row, cell)).values
        if complete and len(absent := np.flatnonzero(np.isnan(values))):
            cell = self.content.texts(column)[absent[0]]
            raise ValueError(f"{self._cell(column, int(absent[0]), cell)}; write a finite number.")
        return values

    def flags(self, column: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(row,) bool of true/false or 1/0."""
        known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
        given = [text.strip().lower() for text in self.texts(column)]
        for row, text in enumerate(given):
            if text not in known:
                raise ValueError(f"{self._cell(column, row, text)}; write true or false.")
        return np.array([known[text] for text in given], dtype=bool)

    def matrix(self, columns: Sequence[str], rows: Sequence[int]) -> Floats:
        """(len(rows), len(columns)) float32, rows by their place in the file; NaN where absent, as in `numbers`."""
        places = np.array(rows, dtype=np.int64)
        values = np.empty((len(places), len(columns)), dtype=np.float32)
        for k, column in enumerate(columns):
            values[:, k] = self.numbers(column)[places]
        return values

    def row(self, row: int) -> str:
        """A row by its id and its line."""
        return f"{self.key} {self.content.texts(self.key)[row]!r} ({self.content.unit} {self.content.lines[row]})"

    def _cell(self, column: str, row: int, cell: str) -> str:
        return f"{self.file}: column {column!r} is {cell!r} in {self.row(row)}"


def find(
    folder: Path, name: str, required: Sequence[str], optional: Sequence[str] | None = None, encoding: str | None = None
) -> Table | None:
    """Read NAME.csv, NAME.tsv or NAME.parquet.

    Args:
        folder: of the laboratory.
        name: of the file, without its ending.
        required: columns that must be there; the first names the rows.
        optional: columns that are known besides; None where any may stand, as the neuroids do.
        encoding: of files that are not UTF-8 and do not state theirs.

    Returns:
        The table, or None where there is no such file.

    Raises:
        ValueError: if there are two such files, the file cannot be read, or a column is missing, doubled or misspelt.
    """
    paths = [path for ending in _ENDINGS if (path := folder / f"{name}.{ending}").is_file()]
    if not paths:
        return None
    if len(paths) > 1:
        raise ValueError(f"there are {paths[0].name} and {paths[1].name}; keep one of them.")
    (path,) = paths
    try:
        if path.suffix == ".parquet":
            content = table.read_parquet(str(path))
        else:
            content = table.read(TextSource(str(path), encoding, _REMEDY), required, _MULTILINE)
    except (ValueError, OSError) as error:
        told = " ".join(str(error).replace(f"{path}", path.name).split())
        raise ValueError(told if told.startswith(path.name) else f"{path.name} cannot be read: {told}") from error
    _check_columns(path.name, list(content.frame.columns), required, optional)
    if not len(content.frame):
        raise ValueError(f"{path.name} has no rows.")
    return Table(required[0], content)


def require(
    folder: Path, name: str, required: Sequence[str], optional: Sequence[str] | None = None, encoding: str | None = None
) -> Table:
    """As `find`; a file that is not there is an error, which names those of a like name."""
    found = find(folder, name, required, optional, encoding)
    if found is None:
        there = sorted(path.name for path in folder.iterdir())
        raise ValueError(f"{name}.csv or {name}.parquet is not there{nearest(name, there)}.")
    return found


def joined(ids: Sequence[str], known: Sequence[str], what: str, file: str, of: str, notes: list[str]) -> dict[str, str]:
    """The id of another table that each id is; a changed form is joined and noted.

    Args:
        ids: of a table, each unique.
        known: of the other.
        what: they are, such as "row_id", for the error.
        file: name of the first table.
        of: name of the other, for the error and the note.
        notes: a note is added to them.

    Raises:
        ValueError: naming the first id that the other table lacks, and in what the nearest differs.
    """
    found = join(ids, known, file, of)
    if missing := next((one for one in ids if one not in found.same), None):
        alike = next(((other, form) for other in known if (form := difference_of(missing, other))), None)
        hint = f", but {alike[0]!r} is, which differs in {alike[1]}" if alike else nearest(missing, known)
        raise ValueError(f"{file}: {what} {missing!r} is not in {of}{hint}.")
    notes += [found.note] if found.note else []
    return found.same


def check_names(folder: Path, known: Sequence[str]) -> None:
    """Raise ValueError where a file bears almost the name of one that is not there: it would not be read."""
    endings = {".csv", ".tsv", ".parquet", ".json"}
    names = {path.name: path.stem for path in folder.iterdir() if path.suffix in endings}
    absent = [name for name in known if name not in names.values()]
    for name, stem in sorted(names.items()):
        if stem not in known and (near := get_close_matches(stem, absent, n=1, cutoff=0.8)):
            raise ValueError(f"{name} is not known; is it {near[0]!r}? Rename it or take it away.")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint to put behind an error: "; the nearest is ...", or what there is."""
    known = list(known)
    if near := get_close_matches(name, known, n=1, cutoff=0.5):
        return f"; the nearest is {near[0]!r}"
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"; there is {shown or 'nothing'}"


def _check_columns(file: str, columns: list[str], required: Sequence[str], optional: Sequence[str] | None) -> None:
    if doubled := [column for column, n in Counter(columns).items() if n > 1]:  # in Parquet
        raise ValueError(f"{file}: column {doubled[0]!r} stands more than once; names of columns must be unique.")
    for column in required:
        if column not in columns:
            others = [other for other in columns if other not in required]
            raise ValueError(f"{file} has no column {column!r}{nearest(column, others)}.")
    absent = [column for column in optional or () if column not in columns]
    for column in columns if optional is not None else ():
        if column not in {*required, *(optional or ())} and (
            near := get_close_matches(column.lower(), absent, n=1, cutoff=0.8)
        ):
            raise ValueError(f"{file}: column {column!r} is not known; is it {near[0]!r}? Rename it or leave it out.")
