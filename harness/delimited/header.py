"""The header of a delimited file and the separator that it uses, in agreement with all rows.

Candidates are comma, semicolon, tab and vertical bar, and a space between quoted names. Excel's line `sep=;` is
followed. A header of one name stands over lines that are one cell each, unless every row has two.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import islice

from harness.delimited.encodings import TextSource, blocks_of_lines
from harness.delimited.rows import NO_SEPARATOR, Layout, MalformedError
from harness.delimited.survey import survey

SEPARATORS = (",", ";", "\t", "|")
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar", " ": "a space"}
# In a table of one column: what is not part of a word (a comma between digits is).
_WITHIN = re.compile(r"[^\W\d],\w|\w,[^\W\d]|\w;\w|\w\t+\w")
_SEP_LINE = re.compile(r'"?sep=(\\t|.)"?[,;]*', re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """The first line that is not blank: its text, its number, its cells, and a separator that a `sep=` line states."""

    text: str
    line: int
    stated: str = ""

    @property
    def is_quoted(self) -> bool:
        """Whether the first name is quoted."""
        return self.text.lstrip().startswith('"')

    def cells(self, separator: str) -> list[str]:
        """The names, stripped and in Unicode's composed form; "" for a column without one."""
        cells = next(csv.reader([self.text], delimiter=separator or NO_SEPARATOR, skipinitialspace=True))
        return [unicodedata.normalize("NFC", cell.strip("\ufeff\u200b").strip()) for cell in cells]


def read(source: TextSource) -> Header:
    """The header of a file; ValueError where there is no line with text."""
    number, stated = 0, ""
    for block in blocks_of_lines(source):
        for line in block:
            number += 1
            text = line.rstrip("\n")
            if found := _SEP_LINE.fullmatch(text) if number == 1 else None:
                stated = found[1].replace("\\t", "\t")
            elif text.strip():
                return Header(text, number, stated)
    raise ValueError(f"{source.path} is empty; a header line with the names of the columns was expected.")


def layout_of(source: TextSource, header: Header, wanted: Collection[str]) -> Layout:
    """The separator that header and rows use.

    Args:
        source: the file.
        header: its header.
        wanted: columns of which at least one must be there; they decide between separators.

    Raises:
        MalformedError: if two separators fit, or rows under a header of one name do not have one cell.
    """
    usable = [separator for separator in SEPARATORS if len(header.cells(separator)) > 1]
    if header.stated and header.stated in header.text:
        usable = [header.stated]
    for fits in (lambda each: bool({*header.cells(each)} & {*wanted}), lambda each: _agrees(source, header, each)):
        if len(usable) > 1:
            usable = [separator for separator in usable if fits(separator)] or usable
    if len(usable) > 1:
        shown = " or ".join(_NAMES[separator] for separator in usable)
        raise MalformedError(
            header.line, f"columns may be separated by {shown}; state which in a first line such as `sep=;`."
        )
    if usable:
        others = [cell for cell in header.text.split(usable[0])[1:] if cell]
        spaced = bool(others) and usable[0] != " " and all(cell.startswith(" ") for cell in others)
        return Layout(usable[0], "doubled", header.line, spaced)
    layout = Layout(_blank(header.text), "doubled", header.line)
    return layout if layout.separator else _of_one_column(source, header, layout)


def _blank(header: str) -> str:
    """A space where the header is of several quoted names with a space between them, as R writes it; else none."""
    return " " if re.fullmatch(r'"[^"]*"( "[^"]*")+', header.strip()) else ""


def _agrees(source: TextSource, header: Header, separator: str) -> bool:
    try:
        found = survey(source, Layout(separator, "doubled", header.line), header.cells(separator))
    except MalformedError:
        return False
    return found.is_regular


def _of_one_column(source: TextSource, header: Header, layout: Layout) -> Layout:
    """A header of one name: each line is one cell, unless all rows have two, which must be explained."""
    after = islice((line for block in blocks_of_lines(source) for line in block), header.line, None)
    first = next((line for line in after if line.strip()), "")
    for separator in SEPARATORS:
        if separator not in first:
            continue
        try:
            found = survey(source, Layout(separator, "doubled", header.line), [header.text.strip()])
        except MalformedError:
            continue
        if found.n_rows == found.n_one_more and found.long is None:
            raise MalformedError(
                found.trailing or header.line, f"every row ends in {_NAMES[separator]} but the header does not: is it "
                f"part of the text or a delimiter? Write the header as `{header.text.strip()}{separator}`, or quote "
                "the text.",
            )  # fmt: skip
        if found.n_rows == found.n_one_more:
            return replace(layout, separator=separator)
    _require_one_cell(source, header)
    return layout


def _require_one_cell(source: TextSource, header: Header) -> None:
    """Raise where a line of a table of one column holds what looks like a separator: within, not at its end."""
    number = 0
    for block in blocks_of_lines(source):
        joined = "".join(block)
        if any(sign in joined for sign in ",;\t") and _WITHIN.search(joined):
            for line, text in enumerate(block, number + 1):
                if line > header.line and '"' not in text and _WITHIN.search(text):
                    raise MalformedError(
                        line, f"{text.strip()!r} where the header names one column; quote a text that holds a "
                        "separator, or name the other columns.",
                    )  # fmt: skip
        number += len(block)
