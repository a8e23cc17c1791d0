"""Lines of a delimited file -> rows of cells with their line numbers, once its separator and quoting are known."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, NamedTuple

from harness.delimited.encodings import TextSource, blocks_of_lines

Quoting = Literal["none", "doubled", "escaped"]
NO_SEPARATOR = "\x1f"  # for csv, which wants one
_BATCH = 20_000


@dataclass(frozen=True)
class Layout:
    """What cuts a file into cells.

    Attributes:
        separator: one character; "" where each line is one cell.
        quoting: "none" (quotes are text), "doubled" (RFC 4180) or "escaped" (a backslash before quotes within a cell).
        header_line: number of the header's line, from 1; rows follow it.
        spaced: whether a space follows each separator and belongs to no cell.
    """

    separator: str
    quoting: Quoting
    header_line: int
    spaced: bool = False


class Row(NamedTuple):
    """A row, and the line where it begins."""

    line: int
    cells: list[str]


class Batch(NamedTuple):
    """Some rows: the lines where they begin, their cells, and which of them go over several lines."""

    lines: list[int]
    rows: list[list[str]]
    multiline: list[int]


class MalformedError(ValueError):
    """A line that cannot be what the layout says."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def rows_of(source: TextSource, layout: Layout) -> Iterator[Batch]:
    """The rows after the header, some thousands at a time, without blank lines and without empty rows at the end.

    Raises:
        MalformedError: where a quote is not closed, or text follows a closing quote.
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


def _blocks(source: TextSource, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Blocks of lines after the header, each with the number of its first line."""
    number = 1
    for block in blocks_of_lines(source):
        first, lines = number, block
        number += len(block)
        if number > layout.header_line + 1:
            skipped = max(layout.header_line + 1 - first, 0)
            yield first + skipped, lines[skipped:]


def _unquoted(source: TextSource, layout: Layout) -> Iterator[Batch]:
    separator = layout.separator
    for first, block in _blocks(source, layout):
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
    lines = chain.from_iterable(block for _, block in _blocks(source, layout))
    reader = csv.reader(
        lines, delimiter=layout.separator or NO_SEPARATOR, strict=True, skipinitialspace=layout.spaced
    )  # fmt: skip
    numbered = _numbered(reader, layout)
    while taken := list(islice(numbered, _BATCH)):
        kept = [(first, row, last) for first, row, last in taken if row and not (len(row) == 1 and row[0].isspace())]
        yield Batch(
            [first for first, _, _ in kept], [row for _, row, _ in kept],
            [first for first, _, last in kept if last > first],
        )  # fmt: skip


def _numbered(reader: Iterator[list[str]], layout: Layout) -> Iterator[tuple[int, list[str], int]]:
    """Rows of csv's reader with their first and last line."""
    last = layout.header_line
    try:
        for row in reader:
            first, last = last + 1, layout.header_line + reader.line_num  # type: ignore[attr-defined]
            yield first, row, last
    except csv.Error as error:
        at = layout.header_line + reader.line_num  # type: ignore[attr-defined]
        if "expected after" in str(error) and at == last + 1:
            raise MalformedError(at, 'text follows a closing quote; double the quotes within a cell ("").') from None
        raise MalformedError(
            last + 1, 'a quote opens a cell and is not closed; close it, or double the quotes within a cell ("").'
        ) from None


def _escaped(source: TextSource, layout: Layout) -> Iterator[Batch]:
    end = f"(?={re.escape(layout.separator)}|$)" if layout.separator else "$"
    bare = f'[^"{re.escape(layout.separator)}]*' if layout.separator else '[^"]*'
    cell = re.compile(rf'(?:"((?:[^"\\]|\\.|"")*)"|({bare})){end}')
    for first, block in _blocks(source, layout):
        rows, numbers = [], []
        for number, line in enumerate(block, first):
            if line.strip():
                rows.append(_cells(line.rstrip("\n"), cell, number))
                numbers.append(number)
        yield Batch(numbers, rows, [])


def _cells(text: str, cell: re.Pattern[str], number: int) -> list[str]:
    cells, place = [], 0
    while place <= len(text):
        found = cell.match(text, place)
        if found is None:
            raise MalformedError(number, 'a quote is neither escaped (\\") nor the end of its cell.')
        enclosed, bare = found.groups()
        cells.append(bare if enclosed is None else enclosed.replace('\\"', '"').replace('""', '"'))
        place = found.end() + 1
    return cells


def has_bare_quotes(lines: Iterable[str], separator: str) -> int | None:
    """Place of the first line with a quote in a cell that no quotes enclose, of lines that hold whole rows."""
    one = re.escape(separator or NO_SEPARATOR)
    clean = re.compile(rf'\s*(?:"(?:[^"]|"")*"|[^"{one}]*)(?:{one} ?(?:"(?:[^"]|"")*"|[^"{one}]*))*\n?')
    return next((place for place, line in enumerate(lines) if '"' in line and not clean.fullmatch(line)), None)
