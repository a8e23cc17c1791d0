"""Cells of a user's file of scores, as text columns and numeric columns: CSV, TSV, JSON or Parquet.

The cells decide whether a column is numeric. A column in which most cells are numbers must be numeric throughout, so
that one unreadable cell is an error and does not silently drop a model property.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.delimited import table
from harness.delimited.encodings import TextSource, text_of
from harness.delimited.numerals import MISSING, looks_like_a_number, read_numbers
from harness.delimited.table import DelimitedTable
from harness.models import sizes

if TYPE_CHECKING:
    import pandas as pd

_DELIMITED = (".csv", ".tsv", ".tab", ".txt")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
# Names under which R and pandas write a row index to a file.
_INDEX = {"x", "x.1", "index", "rownames", "row.names", "row", "rn"}


def load(path: str, wanted: Collection[str], encoding: str | None = None) -> DelimitedTable:
    """Read a file of scores without changing any cell.

    Args:
        path: file or URL; .csv, .tsv, .txt (also compressed), .json or .parquet.
        wanted: column names of which at least one must be present; used to detect the separator.
        encoding: encoding of a text file that is not UTF-8 and has no byte-order mark.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read; the message names file, line and column.
    """
    import fsspec

    filesystem, where = fsspec.core.url_to_fs(path)
    if not filesystem.isfile(where):
        raise FileNotFoundError(f"{path} is neither a file of scores nor a folder that contains `tables`.")
    name = where.lower()
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    if name.endswith(".parquet"):
        return table.read_parquet(path)
    if name.endswith(".json"):
        return _of_json(path, encoding)
    if name.endswith(_DELIMITED):
        return table.read(TextSource(path, encoding), wanted)
    raise ValueError(f"{path}: unknown file type; wanted .csv, .tsv, .json or .parquet.")


def _of_json(path: str, encoding: str | None) -> DelimitedTable:
    """A list of records, or columns as written by pandas."""
    import pandas as pd

    try:
        frame = pd.DataFrame(json.loads(text_of(TextSource(path, encoding))), dtype=object)
    except ValueError as error:
        raise ValueError(f"{path} is not a list of JSON records: {error}") from None
    if nested := [name for name in frame if frame[name].map(lambda value: isinstance(value, dict | list)).any()]:
        raise ValueError(
            f"{path}: column {nested[0]!r} contains lists or objects; wanted one text or number in each cell."
        )
    return table.without_index(DelimitedTable(path.rsplit("/", 1)[-1], frame, range(1, len(frame) + 1), "row"))


def typed(
    content: DelimitedTable, texts: Collection[str], scores: Collection[str], size: str
) -> tuple[pd.DataFrame, list[str]]:
    """Decide for each column whether it is text or numeric, and convert it.

    Args:
        content: the file, as from `load`.
        texts: names of columns that are always text.
        scores: names of columns that must be numeric.
        size: name of the column with numbers of parameters, where values such as 7B are allowed.

    Returns:
        Text columns as str and numeric columns as float64; what was unusual or is not used, as sentences.

    Raises:
        ValueError: if a cell of a numeric column is not a number; the message names file, line, column and model.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    notes, unused = list(content.notes), []
    for name in content.frame:
        column = content.frame[name]
        if name in texts:
            columns[name] = [value.strip() for value in content.texts(name)]
        elif str(name).lower() in _INDEX and name not in scores and _counts_rows(content, name):
            notes.append(f"{content.file}: column {name!r} is a row index and is ignored.")
        elif name in scores or column.dtype.kind in "fiu" or _is_mostly_numbers(content, name, size):
            columns[name] = _numbers(content, name, size)
        else:
            columns[name] = content.texts(name)
            unused.append(str(name))
    if unused:
        notes.append(f"columns not used because they are not numbers: {', '.join(unused)}.")
    return pd.DataFrame(columns, columns=list(columns)), notes


def _counts_rows(content: DelimitedTable, name: str) -> bool:
    cells = [cell.removesuffix(".0") for cell in content.texts(name)]
    return any(cells == [str(number) for number in range(start, start + len(cells))] for start in (0, 1))


def _is_mostly_numbers(content: DelimitedTable, name: str, size: str) -> bool:
    """Whether at least half of the non-empty cells are numbers."""
    cells = [cell.strip() for cell in content.texts(name)]
    present = [cell for cell in cells if cell.lower() not in MISSING]
    n_numbers = sum(looks_like_a_number(cell) or (name == size and sizes.has_suffix(cell)) for cell in present)
    return 2 * n_numbers >= len(present) > 0


def _numbers(content: DelimitedTable, name: str, size: str) -> Any:
    """Convert a column to float64; the column `size` may contain values such as 7B."""

    def describe(row: int, cell: str) -> str:
        model = f" (model {content.texts('model')[row]})" if "model" in content.frame else ""
        return f"{content.where(row, name)}{model} is {cell!r}"

    column = content.frame[name]
    if name != size or column.dtype.kind in "fiu":
        return read_numbers(column, describe, percent=True).values
    cells = [cell.strip() for cell in content.texts(name)]
    abbreviated = {row for row, cell in enumerate(cells) if sizes.has_suffix(cell)}
    others = column.where([row not in abbreviated for row in range(len(cells))], "")
    values = np.array(read_numbers(others, describe).values)
    for row in abbreviated:
        try:
            values[row] = sizes.read(cells[row])
        except ValueError as error:
            raise ValueError(f"{content.where(row, name)}: {error}") from None
    return values
