"""Reads a delimited or Parquet file, whole or in pieces, as columns of text with the line number of each cell."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.delimited import form, plain
from harness.delimited.encodings import TextSource, open_bytes
from harness.delimited.form import Dialect
from harness.delimited.numerals import Numerals, read_numbers
from harness.delimited.rows import Batch, rows_of

# Written by Excel and similar programs in place of a text that they took for a formula.
SPREADSHEET_ERRORS = frozenset({"#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#NUM!", "#N/A", "#NULL!"})
_INDEX = re.compile(r"|Unnamed: \d+|\.\.\.\d+|__index_level_\d+__")


@dataclass(frozen=True)
class DelimitedTable:
    """Columns of one file.

    Attributes:
        file: file name, for messages.
        frame: pandas frame; all cells are text if the file is delimited, typed if it is Parquet.
        lines: line number of each row of a delimited file, row number of a Parquet file; both from 1.
        unit: whether `lines` counts lines or rows.
        notes: what was unusual about the file and how it was read.
    """

    file: str
    frame: Any
    lines: Sequence[int]
    unit: Literal["line", "row"] = "line"
    notes: tuple[str, ...] = ()

    def where(self, row: int, column: str = "") -> str:
        """Locate a cell by file, line and column, for the beginning of a message."""
        at = f"{self.file}, {self.unit} {self.lines[row]}"
        return f"{at}, column {column!r}" if column else at

    def texts(self, column: str) -> list[str]:
        """A column as text; "" for missing values in Parquet."""
        return [text_of(value) for value in self.frame[column]]

    def numerals(self, column: str, *, percent: bool = False, whole: bool = False) -> Numerals:
        """A column as numbers, NaN if a cell is empty or holds a code for a missing value.

        Args:
            column: column name.
            percent: whether to accept percentages, which are divided by 100.
            whole: whether the numbers are counts, so that "1,234" can only be 1234.

        Raises:
            ValueError: if a cell is not a finite number or is ambiguous; names file, line and column.
        """
        return read_numbers(
            self.frame[column], lambda row, cell: f"{self.where(row, column)} is {cell!r}", percent=percent, whole=whole
        )


def text_of(value: Any) -> str:
    """A cell as text; "" for the missing values None, NaN, NA and NaT."""
    if isinstance(value, str):
        return value
    return "" if value is None or str(value) in {"nan", "<NA>", "NaT"} else str(value)


def read(source: TextSource, wanted: Collection[str] = (), multiline: Collection[str] = ()) -> DelimitedTable:
    """Read a delimited file whole.

    Args:
        source: the file.
        wanted: expected columns, at least one of which must be present; used to decide between separators.
        multiline: columns whose cells may contain line breaks.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is malformed or ambiguous; names file and line.
    """
    import pandas as pd

    found = form.detect(source, wanted, multiline)
    parts = list(stream(source, found))
    if not parts:
        return DelimitedTable(source.name, pd.DataFrame(columns=list(found.names), dtype=object), (), notes=found.notes)
    frame = pd.concat([part.frame for part in parts], ignore_index=True) if len(parts) > 1 else parts[0].frame
    lines = [line for part in parts for line in part.lines]
    return without_index(DelimitedTable(source.name, frame, lines, notes=found.notes))


def stream(source: TextSource, found: Dialect) -> Iterator[DelimitedTable]:
    """Yield the tables of consecutive blocks of rows, for files of any length; `found` is the result of `form.find`."""
    if not found.is_plain:
        for batch in rows_of(source, found.layout):
            yield DelimitedTable(source.name, _frame(batch, found), batch.lines, notes=found.notes)
        return
    first = found.layout.header_line + 1
    for chunk in plain.chunks(source, found.layout, found.names):
        yield DelimitedTable(source.name, chunk, range(first, first + len(chunk)))
        first += len(chunk)


def read_parquet(path: str) -> DelimitedTable:
    """Read a Parquet file whole, from a local path or an fsspec URL."""
    import pyarrow.parquet as pq

    with open_bytes(path) as stream:
        frame = pq.ParquetFile(stream).read().to_pandas(ignore_metadata=True)
    return without_index(DelimitedTable(path.rsplit("/", 1)[-1], frame, range(1, len(frame) + 1), "row"))


def without_index(table: DelimitedTable) -> DelimitedTable:
    """Drop an index column written by pandas or R, recognised by its name and its numbers."""
    frame = table.frame
    kept = [name for name in frame if not (_INDEX.fullmatch(str(name)) and _is_index(str(name), frame[name]))]
    return replace(table, frame=frame[kept])


def _is_index(name: str, column: Any) -> bool:
    """Whether a column has pandas' name of an index in Parquet, or numbers the rows, in any order."""
    cells = {text_of(value).removesuffix(".0") for value in column}
    numbers_rows = any(cells == {str(number) for number in range(start, start + len(column))} for start in (0, 1))
    return name.startswith("__index_level_") or numbers_rows


def _frame(batch: Batch, found: Dialect) -> Any:
    """A pandas frame of the cells of each named column, as text."""
    import pandas as pd

    n_cells = max(found.places, default=-1) + 1
    by_place = list(zip(*(row[:n_cells] for row in batch.rows), strict=True))
    columns = [by_place[place] for place in found.places]
    return pd.DataFrame(dict(zip(found.names, columns, strict=True)), columns=list(found.names), dtype=object)
