"""Words of a user's text, read in chunks: from a table with a column `word`, or from plain text split at spaces.

Tables are CSV, TSV or Parquet; any other file is plain text. All but Parquet may be compressed. Errors name file, line
and column, and occur before a model is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.delimited import form, table
from harness.delimited.encodings import TextSource, blocks_of_text
from harness.delimited.table import DelimitedTable
from harness.names import nearest
from harness.text import scripts

OPTIONAL = ("passage", "sentence", "word_id")
_TABLES = {".csv", ".tsv", ".tab"}
COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}
_CHUNK = 50_000
# A header of quoted names separated by spaces, as written by R's write.table.
_QUOTED = re.compile(r'"[^"]*"( "[^"]*")+')


@dataclass(frozen=True)
class TextOptions:
    """Facts about a text that its file does not state.

    Attributes:
        encoding: encoding of a file that is not UTF-8 and does not state its own; None is UTF-8.
        joiner: separator between words in the text given to a model; None is a space, but an error for words in a
            script without spaces.
        language: BCP 47 code, which affects sentence boundaries; "" is English.
    """

    encoding: str | None = None
    joiner: str | None = None
    language: str = ""


AS_FOUND = TextOptions()


@dataclass(frozen=True)
class WordFile:
    """A file of words that can be iterated over repeatedly.

    Attributes:
        parts: returns an iterator of tables with a column `word` and the `OPTIONAL` columns present.
        notes: remarks on unusual formatting and how it was interpreted.
    """

    parts: Callable[[], Iterator[DelimitedTable]]
    notes: tuple[str, ...] = ()


def open_word_file(path: Path, options: TextOptions) -> WordFile:
    """Detect the format of a file.

    Raises:
        ValueError: naming file and line, if the format is invalid or ambiguous, if there is no column `word`, or if a
            file named as plain text is a table.
    """
    suffix = next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() not in COMPRESSED), "")
    source = TextSource(str(path), options.encoding)
    if suffix == ".parquet":
        return WordFile(lambda: _parquet(path))
    if suffix not in _TABLES:
        _require_no_table(source)
        return WordFile(lambda: _plain(source, options))
    layout = form.detect(source, ("word",))
    _require_columns(path.name, layout.names)
    return WordFile(lambda: table.stream(source, layout), layout.notes)


def _require_columns(file: str, names: tuple[str, ...]) -> None:
    if "word" not in names:
        raise ValueError(f"{file} has the columns {', '.join(names)}; one must be called `word`.")
    missing = [name for name in OPTIONAL if name not in names]
    for name in names:
        if name not in {"word", *OPTIONAL} and (near := nearest(name.casefold(), missing, 1, 0.9)):
            raise ValueError(f"{file}: column {name!r} is not known; is it {near[0]!r}? Rename it or leave it out.")


def _parquet(path: Path) -> Iterator[DelimitedTable]:
    import pyarrow.parquet as pq

    first = 1
    for batch in pq.ParquetFile(path).iter_batches(_CHUNK):
        frame = batch.to_pandas()
        _require_columns(path.name, tuple(map(str, frame.columns)))
        yield DelimitedTable(path.name, frame, range(first, first + len(frame)), "row")
        first += len(frame)


def _plain(source: TextSource, options: TextOptions) -> Iterator[DelimitedTable]:
    """Words between spaces, block by block."""
    rest, must_check = "", options.joiner is None
    for block in blocks_of_text(source):
        words = (rest + block).split()
        if must_check and scripts.is_unspaced_script(words):
            example = next(word for word in words if scripts.is_unspaced_script([word]))
            raise ValueError(
                f"{source.path}: {example[:20]!r} is in a script without spaces, so its words are not known. Give a "
                'table with one word per row (column `word`) and --joiner ""; if spaces in this file do separate '
                'words, state the separator in the text: --joiner "" or --joiner " ".'
            )
        must_check = False
        rest = "" if block[-1].isspace() or not words else words.pop()
        yield _table_of(source, words)
    yield _table_of(source, [rest] if rest else [])


def _table_of(source: TextSource, words: list[str]) -> DelimitedTable:
    import pandas as pd

    frame: Any = pd.DataFrame({"word": words}, dtype=object)
    return DelimitedTable(source.name, frame, range(1, len(words) + 1), "row")


def _require_no_table(source: TextSource) -> None:
    """Raise if the first line of a text is the header of a table, whose cells would be taken for words."""
    first_line, _, other_lines = next(blocks_of_text(source), "").strip().partition("\n")
    first_line = first_line.strip()
    headers = [re.split(separator, first_line) for separator in (r"[\t,;|]", r"\s{2,}")]
    headers += [first_line.split()] if _QUOTED.fullmatch(first_line) else []
    is_single_column = other_lines and first_line.strip('"') == "word"
    names = [[cell.strip().strip('"') for cell in cells] for cells in headers]
    if is_single_column or any(len(cells) > 1 and "word" in cells for cells in names):
        raise ValueError(
            f"{source.path} looks like a table (its first line is {first_line[:60]!r}); name it .csv or .tsv, or "
            "delete that line if it is part of the text."
        )
