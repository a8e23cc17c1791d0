"""The files of a laboratory's folder as checked columns: CSV or Parquet, data at rest, nothing is executed.

A table is NAME.csv or NAME.parquet. Everything that can be wrong with one is told here with file, column and row. An
index that pandas wrote beside the columns is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from harness.records import Floats

_ABSENT = {"", "na", "nan", "null", "none", "<na>"}
_INDEX = ("", "__index_level_0__")  # how pandas names an index without a name, in CSV and in Parquet


@dataclass(frozen=True)
class Table:
    """One file: its name, the column that names its rows, and its columns, as text or numbers."""

    file: str
    key: str
    frame: Any

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns beside the key, in the order of the file."""
        return tuple(column for column in self.frame.columns if column != self.key)

    def ids(self) -> tuple[str, ...]:
        """The key; ValueError where one is empty or stands twice."""
        ids = tuple(_text(value) for value in self.frame[self.key])
        if "" in ids:
            raise ValueError(f"{self.file}: column {self.key!r} is empty in row {ids.index('') + 1}; name every row.")
        if doubled := [value for value, n in Counter(ids).items() if n > 1]:
            raise ValueError(f"{self.file}: {self.key} {doubled[0]!r} stands more than once; name each row by itself.")
        return ids

    def texts(self, column: str) -> tuple[str, ...]:
        """A column as text; ValueError names the row in which it is empty."""
        texts = tuple(_text(value) for value in self.frame[column])
        for row, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"{self.file}: column {column!r} is empty in {self._row(row)}; fill it.")
        return texts

    def numbers(self, column: str, *, complete: bool = False) -> Floats:
        """(row,) float64; NaN where empty or NaN. ValueError: what is no finite number, or is absent if `complete`."""
        import pandas as pd

        given = self.frame[column]
        values: Floats = pd.to_numeric(given, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        for row in np.flatnonzero(~np.isfinite(values)):
            if complete or _text(given.iloc[row]).strip().lower() not in _ABSENT:
                wanted = "a finite number" if complete else "a finite number, or nothing where it was not measured"
                raise ValueError(
                    f"{self.file}: column {column!r} is {_text(given.iloc[row])!r} in {self._row(row)}; write {wanted}."
                )
        return values

    def flags(self, column: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(row,) bool of true/false or 1/0."""
        known = {"true": True, "1": True, "false": False, "0": False}
        given = [text.lower() for text in self.texts(column)]
        for row, text in enumerate(given):
            if text not in known:
                raise ValueError(
                    f"{self.file}: column {column!r} is {text!r} in {self._row(row)}; write true or false."
                )
        return np.array([known[text] for text in given], dtype=bool)

    def matrix(self, columns: Sequence[str], rows: Sequence[int]) -> Floats:
        """(len(rows), len(columns)) float32, rows by their place in the file; NaN where absent, as in `numbers`."""
        places = np.array(rows, dtype=np.int64)
        values = np.empty((len(places), len(columns)), dtype=np.float32)
        for k, column in enumerate(columns):
            values[:, k] = self.numbers(column)[places]
        return values

    def _row(self, row: int) -> str:
        return f"{self.key} {_text(self.frame[self.key].iloc[row])!r}"


def find(folder: Path, name: str, required: Sequence[str], optional: Sequence[str] | None = None) -> Table | None:
    """Read NAME.csv or NAME.parquet.

    Args:
        folder: of the laboratory.
        name: of the file, without its ending.
        required: columns that must be there; the first names the rows.
        optional: columns that are known besides; None where any may stand, as the neuroids do.

    Returns:
        The table, or None where there is neither file.

    Raises:
        ValueError: if there are both files, the file cannot be read, or a column is missing, doubled or misspelt.
    """
    paths = [path for ending in ("csv", "parquet") if (path := folder / f"{name}.{ending}").is_file()]
    if not paths:
        return None
    if len(paths) > 1:
        raise ValueError(f"there are {paths[0].name} and {paths[1].name}; keep one of them.")
    (path,) = paths
    try:
        frame = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
    _check_columns(path.name, list(frame.columns), required, optional)
    if not len(frame):
        raise ValueError(f"{path.name} has no rows.")
    return Table(path.name, required[0], frame)


def require(folder: Path, name: str, required: Sequence[str], optional: Sequence[str] | None = None) -> Table:
    """As `find`; a file that is not there is an error, which names those of a like name."""
    table = find(folder, name, required, optional)
    if table is None:
        there = sorted(path.name for path in folder.iterdir())
        raise ValueError(f"{name}.csv or {name}.parquet is not there{nearest(name, there)}.")
    return table


def check_names(folder: Path, known: Sequence[str]) -> None:
    """Raise ValueError where a file bears almost the name of one that is not there: it would not be read."""
    names = {path.name: path.stem for path in folder.iterdir() if path.suffix in {".csv", ".parquet", ".json"}}
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
    if doubled := [column for column, n in Counter(columns).items() if n > 1]:
        raise ValueError(f"{file}: column {doubled[0]!r} stands more than once; names of columns must be unique.")
    for column in required:
        if column not in columns:
            others = [other for other in columns if other not in required]
            raise ValueError(f"{file} has no column {column!r}{nearest(column, others)}.")
    absent = [column for column in optional or () if column not in columns]
    for column in columns if optional is not None else ():
        if column not in {*required, *(optional or ())} and (
            near := get_close_matches(column, absent, n=1, cutoff=0.8)
        ):
            raise ValueError(f"{file}: column {column!r} is not known; is it {near[0]!r}? Rename it or leave it out.")


def _read_csv(path: Path) -> Any:
    """Every cell as text: words such as NA or null are words; the header is read as a row, so that doubles are seen."""
    import pandas as pd

    cells = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig").fillna("")
    frame = cells.iloc[1:].reset_index(drop=True)
    frame.columns = [str(name) for name in cells.iloc[0]]
    return _without_index(frame)


def _read_parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    return _without_index(pq.ParquetFile(path).read().to_pandas(ignore_metadata=True))


def _without_index(frame: Any) -> Any:
    return frame[[column for column in frame.columns if column not in _INDEX]]


def _text(value: Any) -> str:
    """A cell as text; "" where it is absent (None, NaN, NA: these alone differ from themselves or are None)."""
    return "" if value is None or value is not value or str(value) == "<NA>" else str(value)
