"""Splits the lines of a delimited file into rows of cells with their line numbers, given separator and quoting."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, NamedTuple

from harness.delimited.encodings import TextSource, blocks_of_lines

Quoting = Literal["none", "doubled", "escaped"]
NO_SEPARATOR = "\x1f"  # for the csv module, which requires a separator
_BATCH_ROWS = 20_000


@dataclass(frozen=True)
class Layout:
    """How a file is split into cells.

    Attributes:
        separator: one character; "" if each line is one cell.
        quoting: "none" (quotes are text), "doubled" (RFC 4180) or "escaped" (a backslash before quotes within a cell).
        header_line: line number of the header, from 1.
        spaced: whether each separator is followed by a space that is not part of the cell.
    """

    separator: str
    quoting: Quoting
    header_line: int
    spaced: bool = False


class Row(NamedTuple):
    """A row and the line on which it begins."""

    line: int
    cells: list[str]


class Batch(NamedTuple):
    """Consecutive rows.

    lines: line on which each row begins.
    rows: their cells.
    multiline: first lines of the rows that span several lines.
    """

    lines: list[int]
    rows: list[list[str]]
    multiline: list[int]


class MalformedError(ValueError):
    """A line contradicts the layout. `line`: its number."""

    is_regular = False  # as of a `Survey`

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def rows_of(source: TextSource, layout: Layout) -> Iterator[Batch]:
    """Yield the rows after the header in batches, without blank lines and without empty rows at the end.

    Raises:
        MalformedError: if a quote is not closed, or text follows a closing quote.
    """
    batches = {"none": _unquoted, "doubled": _doubled, "escaped": _escaped}[layout.quoting](source, layout)
    held = Batch([], [], [])
    for lines, rows, multiline in batches:
        lines, rows, multiline = held.lines + lines, held.rows + rows, held.multiline + multiline
        n_filled = len(rows)
        while n_filled and not any(cell.strip() for cell in rows[n_filled - 1]):
            n_filled -= 1
        if n_filled:
            yield Batch(lines[:n_filled], rows[:n_filled], multiline)
            multiline = []
        held = Batch(lines[n_filled:], rows[n_filled:], multiline)


def blocks_after_header(source: TextSource, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield blocks of lines after the header, each with the number of its first line."""
    first = 1
    for block in blocks_of_lines(source):
        skipped = max(layout.header_line + 1 - first, 0)
        if skipped < len(block):
            yield first + skipped, block[skipped:]
        first += len(block)


def _unquoted(source: TextSource, layout: Layout) -> Iterator[Batch]:
    """Rows of a file in which quotes are text."""
    separator = layout.separator
    for first, block in blocks_after_header(source, layout):
        texts = [line.rstrip("\n") for line in block]
        rows = [text.split(separator) for text in texts] if separator else [[text] for text in texts]
        numbers = list(range(first, first + len(rows)))
        if blank := {k for k, row in enumerate(rows) if len(row) == 1 and (not row[0] or row[0].isspace())}:
            kept = [k for k in range(len(rows)) if k not in blank]
            rows, numbers = [rows[k] for k in kept], [numbers[k] for k in kept]
        if layout.spaced:
            rows = [[row[0], *(cell.removeprefix(" ") for cell in row[1:])] for row in rows]
        yield Batch(numbers, rows, [])


def _doubled(source: TextSource, layout: Layout) -> Iterator[Batch]:
    """Rows of a file quoted as in RFC 4180."""
    lines = chain.from_iterable(block for _, block in blocks_after_header(source, layout))
    reader = csv.reader(
        lines, delimiter=layout.separator or NO_SEPARATOR, strict=True, skipinitialspace=layout.spaced
    )  # fmt: skip
    numbered = _numbered(reader, layout)
    while chunk := list(islice(numbered, _BATCH_ROWS)):
        kept = [(first, row, last) for first, row, last in chunk if row and not (len(row) == 1 and row[0].isspace())]
        yield Batch(
            [first for first, _, _ in kept], [row for _, row, _ in kept],
            [first for first, _, last in kept if last > first],
        )  # fmt: skip


def _numbered(reader: Iterator[list[str]], layout: Layout) -> Iterator[tuple[int, list[str], int]]:
    """Add first and last line number to the rows of a csv reader."""
    last = layout.header_line
    try:
        for row in reader:
            first, last = last + 1, layout.header_line + reader.line_num  # type: ignore[attr-defined]
            yield first, row, last
    except csv.Error as error:
        at = layout.header_line + reader.line_num  # type: ignore[attr-defined]
        if "expected after" in str(error) and at == last + 1:
            raise MalformedError(at, 'text after a closing quote; double the quotes within a cell ("").') from None
        raise MalformedError(
            last + 1, 'a quote opens a cell and is not closed; close it, or double the quotes within a cell ("").'
        ) from None


def _escaped(source: TextSource, layout: Layout) -> Iterator[Batch]:
    """Rows of a file in which quotes within a cell are escaped by a backslash."""
    end = f"(?={re.escape(layout.separator)}|$)" if layout.separator else "$"
    bare = f'[^"{re.escape(layout.separator)}]*' if layout.separator else '[^"]*'
    cell = re.compile(rf'(?:"((?:[^"\\]|\\.|"")*)"|({bare})){end}')
    for first, block in blocks_after_header(source, layout):
        rows, numbers = [], []
        for number, line in enumerate(block, first):
            if line.strip():
                rows.append(_cells(line.rstrip("\n"), cell, number))
                numbers.append(number)
        yield Batch(numbers, rows, [])


def _cells(text: str, cell: re.Pattern[str], number: int) -> list[str]:
    """Split one line into cells."""
    cells, position = [], 0
    while position <= len(text):
        match = cell.match(text, position)
        if match is None:
            raise MalformedError(
                number, 'a quote neither ends its cell nor is escaped; escape quotes within a cell (\\").'
            )
        enclosed, bare = match.groups()
        cells.append(bare if enclosed is None else enclosed.replace('\\"', '"').replace('""', '"'))
        position = match.end() + 1
    return cells


def has_bare_quotes(lines: Iterable[str], separator: str) -> int | None:
    """Index of the first line with a quote inside a cell that is not enclosed in quotes; each line is a whole row."""
    sep = re.escape(separator or NO_SEPARATOR)
    clean = re.compile(rf'\s*(?:"(?:[^"]|"")*"|[^"{sep}]*)(?:{sep} ?(?:"(?:[^"]|"")*"|[^"{sep}]*))*\n?')
    return next((index for index, line in enumerate(lines) if '"' in line and not clean.fullmatch(line)), None)
