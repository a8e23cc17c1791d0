"""All rows of a file under one layout, counted: whether they fit the header, and in what they differ from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.delimited.encodings import TextSource
from harness.delimited.rows import Batch, Layout, Row, rows_of


@dataclass
class Survey:
    """What is true of the rows.

    Attributes:
        n_rows: rows. n_one_more: those with one cell more than the header.
        short: the first row with too few cells. long: the first with a cell beyond the header that is not empty.
        trailing: line of the first row with empty cells beyond the header.
        unnamed: place of each column without a name -> the first row in which it holds something.
        multiline, multiline_places: line of the first row that goes over several lines; places of such cells.
        enclosed: place -> how many cells begin and end with a quote, where quotes are read as text.
        has_doubled: whether such a cell holds doubled quotes.
        is_numbered: whether the first cells are consecutive numbers from 0 or 1.
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
        """Whether all rows have the cells of the header, or all of them one more."""
        return self.short is None and (self.long is None or self.n_one_more == self.n_rows)


def survey(source: TextSource, layout: Layout, header: Sequence[str], *, quotes: bool = True) -> Survey:
    """Count the rows of a file.

    Args:
        source: the file.
        layout: how it is cut.
        header: the names of the columns; "" for one without.
        quotes: whether the file holds any, so that cells that they enclose are worth counting.

    Raises:
        MalformedError: as `rows_of`.
    """
    found = Survey()
    needed = max((place for place, name in enumerate(header) if name), default=0) + 1
    unnamed = [place for place, name in enumerate(header) if not name]
    for batch in rows_of(source, layout):
        lengths = set(map(len, batch.rows))
        if lengths != {len(header)}:
            _count_lengths(found, batch, len(header), needed)
        for place in unnamed:
            _look_at_unnamed(found, batch, place)
        if batch.multiline:
            found.multiline = found.multiline or batch.multiline[0]
            found.multiline_places |= {place for row in batch.rows for place, cell in enumerate(row) if "\n" in cell}
        if quotes and layout.quoting == "none":
            _count_enclosed(found, batch)
        _count_numbers(found, batch)
        found.n_rows += len(batch.rows)
    return found


def _count_lengths(found: Survey, batch: Batch, n_header: int, needed: int) -> None:
    for line, row in zip(batch.lines, batch.rows, strict=True):
        found.n_one_more += len(row) == n_header + 1
        if len(row) < needed:
            found.short = found.short or Row(line, row)
        elif len(row) > n_header and any(cell.strip() for cell in row[n_header:]):
            found.long = found.long or Row(line, row)
        elif len(row) > n_header:
            found.trailing = found.trailing or line


def _look_at_unnamed(found: Survey, batch: Batch, place: int) -> None:
    if place not in found.unnamed:
        filled = zip(batch.lines, batch.rows, strict=True)
        first = next((Row(line, row) for line, row in filled if place < len(row) and row[place].strip()), None)
        if first:
            found.unnamed[place] = first


def _count_enclosed(found: Survey, batch: Batch) -> None:
    for row in batch.rows:
        for place, cell in enumerate(row):
            if len(cell) > 1 and cell[0] == cell[-1] == '"':
                found.enclosed[place] = found.enclosed.get(place, 0) + 1
                found.has_doubled = found.has_doubled or '""' in cell[1:-1]


def _count_numbers(found: Survey, batch: Batch) -> None:
    """Whether the first cells go on as 1, 2, 3, ... or 0, 1, 2, ..."""
    if not found.is_numbered or not batch.rows:
        return
    if found.offset is None:
        found.offset = 0 if batch.rows[0][0].strip('"') == "0" else 1
    first = found.n_rows + found.offset
    found.is_numbered = all(row[0].strip('"') == str(number) for number, row in enumerate(batch.rows, first))
