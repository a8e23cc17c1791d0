"""Scans all rows of a file under one layout and records whether and how they deviate from the header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.delimited.encodings import TextSource
from harness.delimited.rows import Batch, Layout, MalformedError, Row, rows_of


@dataclass
class Survey:
    """Result of a scan.

    Attributes:
        n_rows: number of rows.
        n_one_more: number of rows with exactly one cell more than the header.
        short: first row with too few cells.
        long: first row with a non-empty cell beyond the header.
        trailing: line of the first row with only empty cells beyond the header.
        unnamed: position of a column without a name -> first row in which it is not empty.
        multiline: line of the first row that spans several lines.
        multiline_places: positions of cells that span several lines.
        enclosed: position -> number of cells that begin and end with a quote, counted if quotes are read as text.
        has_doubled: whether such a cell contains doubled quotes.
        is_numbered: whether the first cells are consecutive numbers from 0 or 1.
        offset: 0 or 1, the first of these numbers; None before the first row.
    """

    n_rows: int = 0
    n_one_more: int = 0
    short: Row | None = None
    long: Row | None = None
    trailing: int | None = None
    unnamed: dict[int, Row] = field(default_factory=dict)
    multiline: int | None = None
    multiline_places: set[int] = field(default_factory=set)
    enclosed: dict[int, int] = field(default_factory=dict)
    has_doubled: bool = False
    is_numbered: bool = True
    offset: int | None = None

    @property
    def is_regular(self) -> bool:
        """Whether all rows have as many cells as the header, or all have one more."""
        return self.short is None and (self.long is None or self.n_one_more == self.n_rows)


def survey(source: TextSource, layout: Layout, header: Sequence[str], *, quotes: bool = True) -> Survey:
    """Scan all rows of a file.

    Args:
        source: the file.
        layout: separator and quoting.
        header: column names; "" for a column without one.
        quotes: whether the file contains quotes; if not, enclosed cells are not counted.

    Raises:
        MalformedError: as `rows_of`.
    """
    result = Survey()
    n_required = max((place for place, name in enumerate(header) if name), default=0) + 1
    unnamed = [place for place, name in enumerate(header) if not name]
    for batch in rows_of(source, layout):
        lengths = set(map(len, batch.rows))
        if lengths != {len(header)}:
            _count_lengths(result, batch, len(header), n_required)
        for place in unnamed:
            _check_unnamed(result, batch, place)
        if batch.multiline:
            result.multiline = result.multiline or batch.multiline[0]
            result.multiline_places |= {place for row in batch.rows for place, cell in enumerate(row) if "\n" in cell}
        if quotes and layout.quoting == "none":
            _count_enclosed(result, batch)
        _check_numbering(result, batch)
        result.n_rows += len(batch.rows)
    return result


def try_survey(source: TextSource, layout: Layout, header: Sequence[str]) -> Survey | MalformedError:
    """The survey, or the error if a line contradicts the layout."""
    try:
        return survey(source, layout, header)
    except MalformedError as error:
        return error


def _count_lengths(result: Survey, batch: Batch, n_header: int, n_required: int) -> None:
    """Record rows that are shorter or longer than the header."""
    for line, row in zip(batch.lines, batch.rows, strict=True):
        result.n_one_more += len(row) == n_header + 1
        if len(row) < n_required:
            result.short = result.short or Row(line, row)
        elif len(row) > n_header and any(cell.strip() for cell in row[n_header:]):
            result.long = result.long or Row(line, row)
        elif len(row) > n_header:
            result.trailing = result.trailing or line


def _check_unnamed(result: Survey, batch: Batch, place: int) -> None:
    """Record the first row in which a column without a name is not empty."""
    if place not in result.unnamed:
        numbered = zip(batch.lines, batch.rows, strict=True)
        first = next((Row(line, row) for line, row in numbered if place < len(row) and row[place].strip()), None)
        if first:
            result.unnamed[place] = first


def _count_enclosed(result: Survey, batch: Batch) -> None:
    """Count cells that begin and end with a quote."""
    for row in batch.rows:
        for place, cell in enumerate(row):
            if len(cell) > 1 and cell[0] == cell[-1] == '"':
                result.enclosed[place] = result.enclosed.get(place, 0) + 1
                result.has_doubled = result.has_doubled or '""' in cell[1:-1]


def _check_numbering(result: Survey, batch: Batch) -> None:
    """Check whether the first cells continue the sequence 1, 2, 3, ... or 0, 1, 2, ..."""
    if not result.is_numbered or not batch.rows:
        return
    if result.offset is None:
        result.offset = 0 if batch.rows[0][0].strip('"') == "0" else 1
    first = result.n_rows + result.offset
    result.is_numbered = all(row[0].strip('"') == str(number) for number, row in enumerate(batch.rows, first))
