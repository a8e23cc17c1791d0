"""Reads the header of a delimited file and detects the separator, which must agree with all rows.

Candidates are comma, semicolon, tab and vertical bar, and a space between quoted names. A line `sep=;` as written by
Excel decides. Under a header of one name each line is one cell, unless every row has two.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import islice

from harness.delimited.encodings import TextSource, blocks_of_lines, lines_of
from harness.delimited.rows import NO_SEPARATOR, Layout, MalformedError
from harness.delimited.survey import try_survey

SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar", " ": "a space"}
# A separator inside a cell of a one-column table; a comma between digits is part of a number.
_INNER_SEPARATOR = re.compile(r"[^\W\d],\w|\w,[^\W\d]|\w;\w|\w\t+\w")
_SEP_LINE = re.compile(r'"?sep=(\\t|.)"?[,;]*', re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """The first line that is not blank.

    text: the line without its end.
    line: its number, from 1.
    stated: separator given by a `sep=` line before it, or "".
    """

    text: str
    line: int
    stated: str = ""

    @property
    def is_quoted(self) -> bool:
        """Whether the first column name is in quotes."""
        return self.text.lstrip().startswith('"')

    def cells(self, separator: str) -> list[str]:
        """Column names, stripped and in NFC; "" for a column without a name."""
        cells = next(csv.reader([self.text], delimiter=separator or NO_SEPARATOR, skipinitialspace=True))
        return [unicodedata.normalize("NFC", cell.strip("\ufeff\u200b").strip()) for cell in cells]


def read(source: TextSource) -> Header:
    """Read the header of a file; ValueError if the file has no line with text."""
    stated = ""
    for number, line in enumerate(lines_of(source), 1):
        text = line.rstrip("\n")
        if match := _SEP_LINE.fullmatch(text) if number == 1 else None:
            stated = match[1].replace("\\t", "\t")
        elif text.strip():
            return Header(text, number, stated)
    raise ValueError(f"{source.path} is empty; a header line with the column names was expected.")


def layout_of(source: TextSource, header: Header, wanted: Collection[str]) -> Layout:
    """Detect the separator.

    Args:
        source: the file.
        header: its header.
        wanted: expected columns, at least one of which must be present; used to decide between separators.

    Raises:
        MalformedError: if two separators fit, or if rows under a header of one name have several cells.
    """
    usable = [separator for separator in SEPARATORS if len(header.cells(separator)) > 1]
    if header.stated and header.stated in header.text:
        usable = [header.stated]
    for fits in (lambda sep: bool({*header.cells(sep)} & {*wanted}), lambda sep: _is_regular(source, header, sep)):
        if len(usable) > 1:
            usable = [separator for separator in usable if fits(separator)] or usable
    if len(usable) > 1:
        choices = " or ".join(_SEPARATOR_NAMES[separator] for separator in usable)
        raise MalformedError(
            header.line, f"columns may be separated by {choices}; state which in a first line such as `sep=;`."
        )
    if usable:
        later_cells = [cell for cell in header.text.split(usable[0])[1:] if cell]
        spaced = bool(later_cells) and usable[0] != " " and all(cell.startswith(" ") for cell in later_cells)
        return Layout(usable[0], "doubled", header.line, spaced)
    layout = Layout(_space_separator(header.text), "doubled", header.line)
    return layout if layout.separator else _one_column_layout(source, header, layout)


def _space_separator(header: str) -> str:
    """Return " " if the header consists of quoted names separated by spaces, as written by R; else ""."""
    return " " if re.fullmatch(r'"[^"]*"( "[^"]*")+', header.strip()) else ""


def _is_regular(source: TextSource, header: Header, separator: str) -> bool:
    """Whether all rows fit the header under this separator."""
    return try_survey(source, Layout(separator, "doubled", header.line), header.cells(separator)).is_regular


def _one_column_layout(source: TextSource, header: Header, layout: Layout) -> Layout:
    """Layout under a header of one name: each line is one cell, unless all rows have two, e.g. R's row names."""
    following = islice(lines_of(source), header.line, None)
    first = next((line for line in following if line.strip()), "")
    for separator in SEPARATORS:
        if separator not in first:
            continue
        result = try_survey(source, Layout(separator, "doubled", header.line), [header.text.strip()])
        if isinstance(result, MalformedError) or result.n_rows != result.n_one_more:
            continue
        if result.long is None:
            raise MalformedError(
                result.trailing or header.line, f"every row ends in {_SEPARATOR_NAMES[separator]} but the header does "
                "not, so it may be a separator or part of the text; write the header as "
                f"`{header.text.strip()}{separator}`, or quote the text.",
            )  # fmt: skip
        return replace(layout, separator=separator)
    _require_one_cell(source, header)
    return layout


def _require_one_cell(source: TextSource, header: Header) -> None:
    """Raise if a line of a one-column table has what looks like a separator, unless it is the last character."""
    number = 0
    for block in blocks_of_lines(source):
        joined = "".join(block)
        if any(sign in joined for sign in ",;\t") and _INNER_SEPARATOR.search(joined):
            for line, text in enumerate(block, number + 1):
                if line > header.line and '"' not in text and _INNER_SEPARATOR.search(text):
                    raise MalformedError(
                        line, f"{text.strip()!r} where the header names one column; quote texts that contain a "
                        "separator, or name the other columns.",
                    )  # fmt: skip
        number += len(block)
