"""Anyone's file of scores as columns of text and of numbers: CSV, TSV, JSON or Parquet, of any notation.

Which columns are numbers is decided by their cells; one that is nearly all numbers must be so throughout, so that no
property of a model vanishes for a cell that cannot be read.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

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
# How R and pandas call an index that was written into the file, if it counts the rows.
_INDEX = {"x", "x.1", "index", "rownames", "row.names", "row", "rn"}


class Cells(NamedTuple):
    """A file of scores.

    frame: text columns as text, numeric ones as float64, plus nothing. lines: of each row. unit: what `lines` counts.
    notes: what was unusual, or is not used.
    """

    frame: pd.DataFrame
    lines: Any
    unit: str
    notes: list[str]


def load(path: str, wanted: Collection[str], encoding: str | None = None) -> DelimitedTable:
    """Read a file of scores, every cell unchanged.

    Args:
        path: file or URL; .csv, .tsv, .txt (also compressed), .json or .parquet.
        wanted: columns of which at least one must be there; they decide between separators.
        encoding: of a text file that is not UTF-8 and does not state its own.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file, line and column, if it cannot be read.
    """
    import fsspec

    filesystem, where = fsspec.core.url_to_fs(path)
    if not filesystem.isfile(where):
        raise FileNotFoundError(f"{path} is neither a file of scores nor a folder with `tables` in it.")
    name = where.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    if name.endswith(".parquet"):
        return table.read_parquet(path)
    if name.endswith(".json"):
        return _of_json(path, encoding)
    if name.endswith(_DELIMITED):
        return table.read(TextSource(path, encoding), wanted)
    raise ValueError(f"{path}: wanted .csv, .tsv, .json or .parquet.")


def _of_json(path: str, encoding: str | None) -> DelimitedTable:
    """Records, or columns as pandas writes them."""
    import pandas as pd

    try:
        content = json.loads(text_of(TextSource(path, encoding)))
        frame = pd.DataFrame(content, dtype=object)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON records: {error}") from None
    nested = [name for name in frame if frame[name].map(lambda value: isinstance(value, dict | list)).any()]
    if nested:
        raise ValueError(f"{path}: {nested[0]} holds lists or objects; wanted one text or number in each cell.")
    return table.without_index(DelimitedTable(path.rsplit("/", 1)[-1], frame, range(1, len(frame) + 1), "row"))


def typed(content: DelimitedTable, texts: Collection[str], scores: Collection[str], size: str) -> Cells:
    """Tell numbers from text, column by column.

    Args:
        content: of a file.
        texts: columns that are text whatever they hold.
        scores: columns that must be numbers.
        size: the column of numbers of parameters, where 7B is understood.

    Raises:
        ValueError: naming file, line, column and model of a cell that is not a number.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    notes, unused = list(content.notes), []
    for name in content.frame:
        column = content.frame[name]
        if name in texts:
            columns[name] = [value.strip() for value in content.texts(name)]
        elif str(name).lower() in _INDEX and name not in scores and _counts_rows(content, name):
            notes.append(f"{content.file}: column {name!r} numbers the rows and is ignored.")
        elif name in scores or column.dtype.kind in "fiu" or _is_mostly_numbers(content, name, size):
            columns[name] = _numbers(content, name, size)
        else:
            columns[name] = content.texts(name)
            unused.append(str(name))
    if unused:
        notes.append(f"not used, because they are not numbers: {', '.join(unused)}.")
    frame = pd.DataFrame(columns, columns=list(columns))
    return Cells(frame, content.lines, content.unit, notes)


def _counts_rows(content: DelimitedTable, name: str) -> bool:
    cells = [cell.removesuffix(".0") for cell in content.texts(name)]
    return any(cells == [str(number) for number in range(start, start + len(cells))] for start in (0, 1))


def _is_mostly_numbers(content: DelimitedTable, name: str, size: str) -> bool:
    """Whether at least half of the cells that hold something are numbers."""
    cells = [cell.strip() for cell in content.texts(name)]
    present = [cell for cell in cells if cell.lower() not in MISSING]
    return (
        2 * sum(looks_like_a_number(cell) or (name == size and sizes.has_suffix(cell)) for cell in present)
        >= len(present)
        > 0
    )


def _numbers(content: DelimitedTable, name: str, size: str) -> Any:
    """A column as float64; sizes such as 7B where it is that of sizes."""

    def tell(row: int, cell: str) -> str:
        model = f" (model {content.texts('model')[row]})" if "model" in content.frame else ""
        return f"{content.where(row, name)}{model} is {cell!r}"

    column = content.frame[name]
    if name != size or column.dtype.kind in "fiu":
        return read_numbers(column, tell, percent=True).values
    cells = [cell.strip() for cell in content.texts(name)]
    short = {row for row, cell in enumerate(cells) if sizes.has_suffix(cell)}
    others = column.where([row not in short for row in range(len(cells))], "")
    values = np.array(read_numbers(others, tell).values)
    for row in short:
        try:
            values[row] = sizes.read(cells[row])
        except ValueError as error:
            raise ValueError(f"{content.where(row, name)}: {error}") from None
    return values
