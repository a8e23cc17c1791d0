"""A user's text -> its words, some thousand at a time: a table with a column `word`, or the words between spaces.

Tables are CSV, TSV or Parquet, text is anything else; all but Parquet may be compressed. Errors name file, line
and column, before a model is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from harness.delimited import form, table
from harness.delimited.encodings import TextSource, blocks_of_text
from harness.delimited.table import DelimitedTable
from harness.text import scripts

OPTIONAL = ("passage", "sentence", "word_id")
_TABLES = {".csv", ".tsv", ".tab"}
COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}
_CHUNK = 50_000
# A line of quoted names with spaces between them, as R's write.table begins.
_QUOTED = re.compile(r'"[^"]*"( "[^"]*")+')


@dataclass(frozen=True)
class TextOptions:
    """What a user states about a text that the file does not state itself.

    Attributes:
        encoding: of a file that is not UTF-8 and does not state its own; None is UTF-8.
        joiner: what stands between words in the text that a model reads; None is a space, unless the words are in a
            script without spaces, which is then an error.
        language: BCP 47, which matters to where sentences end; "" is English.
    """

    encoding: str | None = None
    joiner: str | None = None
    language: str = ""


AS_FOUND = TextOptions()


@dataclass(frozen=True)
class WordFile:
    """A file of words that can be gone through as often as needed.

    Attributes:
        parts: makes an iterator of tables with a column `word` and those of `OPTIONAL` that are there.
        notes: what was unusual about the file and how it was read.
    """

    parts: Callable[[], Iterator[DelimitedTable]]
    notes: tuple[str, ...] = ()


def opened(path: Path, options: TextOptions) -> WordFile:
    """Find out how a file is written.

    Raises:
        ValueError: naming file and line, if it can be read in no way or in two, has no column `word`, or bears the name
            of a text but is a table.
    """
    suffix = next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() not in COMPRESSED), "")
    source = TextSource(str(path), options.encoding)
    if suffix == ".parquet":
        return WordFile(lambda: _parquet(path))
    if suffix not in _TABLES:
        _require_no_table(source)
        return WordFile(lambda: _plain(source, options))
    found = form.find(source, ("word",))
    _require_columns(path.name, found.names)
    return WordFile(lambda: table.stream(source, found), found.notes)


def _require_columns(file: str, names: tuple[str, ...]) -> None:
    if "word" not in names:
        raise ValueError(f"{file} has the columns {', '.join(names)}; one must be called `word`.")
    absent = [name for name in OPTIONAL if name not in names]
    for name in names:
        if name not in {"word", *OPTIONAL} and (near := get_close_matches(name.casefold(), absent, n=1, cutoff=0.9)):
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
    """The words between spaces, whatever their number."""
    rest, is_first = "", options.joiner is None
    for block in blocks_of_text(source):
        words = (rest + block).split()
        if is_first and scripts.has_no_spaces(words):
            shown = next(word for word in words if scripts.has_no_spaces([word]))
            raise ValueError(
                f"{source.path}: {shown[:20]!r} is in a script without spaces, so that its words are not known. Give a "
                'table with one word a row (column `word`) and --joiner ""; if spaces in this file do separate words, '
                'state what separates them in the text: --joiner "" or --joiner " ".'
            )
        is_first = False
        rest = "" if block[-1].isspace() or not words else words.pop()
        yield _of_words(source, words)
    yield _of_words(source, [rest] if rest else [])


def _of_words(source: TextSource, words: list[str]) -> DelimitedTable:
    import pandas as pd

    frame: Any = pd.DataFrame({"word": words}, dtype=object)
    return DelimitedTable(source.name, frame, range(1, len(words) + 1), "row")


def _require_no_table(source: TextSource) -> None:
    """Raise where the first line of a text is the header of a table: its cells would be taken for words."""
    first, _, more = next(blocks_of_text(source), "").strip().partition("\n")
    first = first.strip()
    headers = [re.split(separator, first) for separator in (r"[\t,;|]", r"\s{2,}")]
    headers += [first.split()] if _QUOTED.fullmatch(first) else []
    alone = more and first.strip('"') == "word"
    if alone or any(len(cells) > 1 and "word" in {cell.strip().strip('"') for cell in cells} for cells in headers):
        raise ValueError(
            f"{source.path} looks like a table (its first line is {first[:60]!r}); name it .csv or .tsv, or delete "
            "that line if it is part of the text."
        )
