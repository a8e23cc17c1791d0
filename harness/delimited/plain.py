"""The plain case, which covers nearly all files: each line is one row with the cells of the header; read by pandas.

All lines are checked first, so pandas cannot shift or merge cells, which it would do in irregular files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import Any

from harness.delimited.encodings import TextSource, open_text
from harness.delimited.rows import Layout, blocks_after_header

_CHUNK_ROWS = 50_000


def is_plain(source: TextSource, layout: Layout, header: Sequence[str]) -> bool:
    """Whether every line after the header is one row with as many cells as the header, and every column has a name.

    If the layout knows quotes, they only enclose whole cells. Blank lines occur only at the end, and the last row is
    not empty.
    """
    if "" in header or layout.spaced or layout.quoting == "escaped":
        return False
    ended = False
    for _, block in blocks_after_header(source, layout):
        lines = list(block)
        while lines and lines[-1].isspace():
            lines.pop()
        if lines and (ended or not _all_fit(lines, layout, len(header))):
            return False
        ended = ended or len(lines) < len(block)
    return True


def _all_fit(lines: list[str], layout: Layout, n_cells: int) -> bool:
    separator = layout.separator
    if not lines[-1].strip(f'{separator} "\n') or any(map(str.isspace, lines)):
        return False
    if layout.quoting == "doubled":
        return all(map(_row_pattern(separator, n_cells).fullmatch, lines))
    return not separator or set(map(str.count, lines, repeat(separator))) == {n_cells - 1}


def _row_pattern(separator: str, n_cells: int) -> re.Pattern[str]:
    """A line of `n_cells` cells, each enclosed in quotes or without any quote."""
    bare = f'[^"{re.escape(separator)}\n]*' if separator else '[^"\n]*'
    cell = rf'(?:"(?:[^"\n]|"")*"|{bare})'
    return re.compile(f"{cell}(?:{re.escape(separator)}{cell}){{{n_cells - 1}}}\n?" if separator else f"{cell}\n?")


def chunks(source: TextSource, layout: Layout, names: Sequence[str]) -> Iterator[Any]:
    """Yield frames of 50,000 rows of a plain file; every cell is a str."""
    import pandas as pd

    quoting = {"none": 3, "doubled": 0}[layout.quoting]
    with open_text(source) as stream:
        for _ in islice(stream, layout.header_line):
            pass
        try:
            yield from pd.read_csv(
                stream, sep=layout.separator or "\x1f", quoting=quoting, header=None, names=list(names),
                index_col=False, dtype=object, na_filter=False, engine="c", chunksize=_CHUNK_ROWS,
            )  # fmt: skip
        except pd.errors.EmptyDataError:
            return
