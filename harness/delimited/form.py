"""Detects separator, quoting and columns of a delimited file from all its rows, or rejects the file.

All rows are scanned before the file is read. The separator is the one that the header uses and all rows agree with.
Quotes enclose cells as in RFC 4180, or are escaped with a backslash as in R; if both contradict the file, quotes are
part of the text. Additions of other programs are recognised: Excel's `sep=` line, separators at the end of rows, empty
columns and rows at the end, R's row names and pandas' index, with and without a header cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

from harness.delimited.encodings import TextSource, UndecodableError, contains, lines_of
from harness.delimited.header import SEPARATORS, Header, layout_of, read
from harness.delimited.plain import is_plain
from harness.delimited.rows import Layout, MalformedError, Quoting, has_bare_quotes
from harness.delimited.survey import Survey, survey, try_survey


@dataclass(frozen=True)
class Dialect:
    """The format of a file.

    Attributes:
        layout: separator, quoting and header line.
        names: names of the columns that have one.
        places: position of each of these columns among the cells of a row.
        notes: what is unusual about the file and how it is read, for the user; empty for a plain file. Their wording is
            part of the keys of stored corpora (`WordStream.differs_from_before`): changing it recomputes those corpora.
        is_plain: whether each line is one row with as many cells as the header.
    """

    layout: Layout
    names: tuple[str, ...]
    places: tuple[int, ...]
    notes: tuple[str, ...] = ()
    is_plain: bool = False


def detect(source: TextSource, wanted: Collection[str] = (), multiline: Collection[str] = ()) -> Dialect:
    """Scan a file and detect its format.

    Args:
        source: the file.
        wanted: expected columns, at least one of which must be present; used to decide between separators.
        multiline: columns whose cells may contain line breaks; in all others, a quote that is not closed on its line is
            part of the text.

    Raises:
        ValueError: if the file is malformed or ambiguous; names file and line, and the column if one is concerned.
    """
    try:
        header = read(source)
        return _form(source, header, layout_of(source, header, wanted), multiline)
    except UndecodableError as error:
        raise _with_column(error) from None
    except MalformedError as error:
        raise ValueError(f"{source.path}, line {error.line}: {error}") from None


def _with_column(error: UndecodableError) -> ValueError:
    """Add the name of the column with the invalid byte to an error."""
    separator = max(SEPARATORS, key=error.header.count)
    names, place = error.header.split(separator), error.before.count(separator)
    if separator not in error.header or place >= len(names):
        return ValueError(str(error))
    head, _, rest = str(error).partition(": byte")
    return ValueError(f"{head}, column {names[place].strip().strip(chr(34))!r}: byte{rest}")


# --- quoting ----------------------------------------------------------------------------------------------------------


def _first_misfit(result: Survey | MalformedError) -> int:
    """Number of the first line that does not fit."""
    if isinstance(result, MalformedError):
        return result.line
    row = result.short or result.long
    return result.multiline or (row.line if row else 1)


def _form(source: TextSource, header: Header, layout: Layout, multiline: Collection[str]) -> Dialect:
    """Detect quoting and columns, given the separator."""
    cells = header.cells(layout.separator)
    quoted = contains(source, b'"')
    layout = replace(layout, quoting="doubled" if quoted else "none")
    if len(set(cells)) == len(cells) and is_plain(source, layout, cells):
        return Dialect(layout, tuple(cells), tuple(range(len(cells))), is_plain=True)
    if not quoted:
        return _checked_form(source, header, layout, cells, survey(source, layout, cells, quotes=False))
    under = cache(lambda quoting: try_survey(source, replace(layout, quoting=quoting), cells))
    quoting, note = _quoting(source, header, layout, under, [name for name in multiline if name in cells])
    result = under(quoting)
    if isinstance(result, MalformedError):
        raise result
    form = _checked_form(source, header, replace(layout, quoting=quoting), cells, result)
    return replace(form, notes=(*((f"{source.name}: {note}",) if note else ()), *form.notes))


def _quoting(
    source: TextSource, header: Header, layout: Layout, under: Callable[[Quoting], Any], multiline: Collection[str]
) -> tuple[Quoting, str]:
    """Detect the quoting, with a note if it is unusual; MalformedError if the file is ambiguous.

    `under` surveys the file under a quoting, or returns the error if a line contradicts it.
    """
    doubled: Survey | None = under("doubled") if under("doubled").is_regular else None
    bare_line = None
    if doubled and not doubled.multiline:
        bare_line = _bare_line(source, layout)
        if bare_line is None:
            return "doubled", ""
    if doubled is None and contains(source, b'\\"') and under("escaped").is_regular:
        return "escaped", "quotes are escaped with a backslash, as R writes them; the backslashes are removed."
    literal = under("none")
    if not literal.is_regular or (bare_line is not None and not literal.enclosed):
        return "doubled", ""
    encloses = header.is_quoted or literal.has_doubled
    encloses = encloses or any(n > literal.n_rows / 2 for n in literal.enclosed.values())
    if doubled is None:
        line = _first_misfit(under("doubled"))
        return ("doubled", "") if encloses else ("none", _literal_note(line))
    line = doubled.multiline or bare_line or header.line
    names = header.cells(layout.separator)
    may_be_multiline = any(names[place] in multiline for place in doubled.multiline_places if place < len(names))
    if encloses or may_be_multiline or not doubled.multiline:
        raise MalformedError(
            line, "quotes may enclose cells or be part of the text, and both readings fit the file; double the "
            'quotes that are part of the text and enclose their cell in quotes ("6\'2""").',
        )  # fmt: skip
    return "none", _literal_note(line)


def _literal_note(line: int) -> str:
    return f"quotes belong to the text, because one in line {line} does not enclose a cell."


def _bare_line(source: TextSource, layout: Layout) -> int | None:
    """Number of the first line with a quote inside a cell that is not enclosed in quotes."""
    index = has_bare_quotes(islice(lines_of(source), layout.header_line, None), layout.separator)
    return None if index is None else layout.header_line + 1 + index


# --- columns ----------------------------------------------------------------------------------------------------------


def _checked_form(source: TextSource, header: Header, layout: Layout, cells: list[str], result: Survey) -> Dialect:
    """Names and positions of the columns; MalformedError if a row does not fit them."""
    names = [cell for cell in cells if cell]
    if doubled := next((name for name, n in Counter(names).items() if n > 1), None):
        raise MalformedError(header.line, f"column {doubled!r} appears more than once; column names must be unique.")
    if result.short and (not result.long or result.short.line < result.long.line):
        raise MalformedError(result.short.line, _too_short(result.short.cells, cells))
    has_row_names = _has_row_names(header, layout, cells, result)
    if result.long and not has_row_names:
        raise MalformedError(result.long.line, _too_long(result.long.cells, cells))
    for place, row in result.unnamed.items():
        if place and not has_row_names:
            raise MalformedError(
                row.line, f"column {place + 1} has no name, but contains {row.cells[place]!r}; name it."
            )
    if result.trailing and result.n_one_more == result.n_rows and result.is_numbered and not _may_be_number(cells[0]):
        raise MalformedError(
            result.trailing, "rows end in a separator that the header lacks, and begin with row numbers: column "
            f"{cells[0]!r} may be the number or the cell after it; write the table without row names.",
        )  # fmt: skip
    places = tuple(place + has_row_names for place, cell in enumerate(cells) if cell)
    return Dialect(layout, tuple(names), places, _notes(source, cells, result, has_row_names=has_row_names))


def _notes(source: TextSource, cells: list[str], result: Survey, *, has_row_names: bool) -> tuple[str, ...]:
    """What is unusual about the columns."""
    notes = []
    if has_row_names:
        notes.append("each row begins with a cell that the header lacks (R's row names); it is ignored.")
    elif result.trailing:
        notes.append(f"rows end in a delimiter that the header lacks, first in line {result.trailing}.")
    if not cells[0] and 0 in result.unnamed and not result.is_numbered:
        notes.append("the first column has no name and is not read.")
    return tuple(f"{source.name}: {note}" for note in notes)


def _has_row_names(header: Header, layout: Layout, cells: list[str], result: Survey) -> bool:
    """Whether all rows begin with a cell that the header lacks, as R writes row names: quoted, or as row numbers."""
    if result.long is None or result.n_one_more != result.n_rows:
        return False
    quoted = header.text.lstrip().startswith('"') and layout.quoting != "none"
    return quoted or (result.is_numbered and not _may_be_number(cells[0]))


def _may_be_number(name: str) -> bool:
    """Whether a column of this name may contain row numbers."""
    return name.lower().endswith("id") or name.lower() in {"n", "zone", "item", "index", "number", "trial"}


def _too_long(row: list[str], names: list[str]) -> str:
    return (
        f"{len(row)} cells where the header names {len(names)} ({_listed(names)}); column {len(names) + 1} would be "
        f"{row[len(names)]!r}: quote texts that contain the separator, or name the column."
    )


def _too_short(row: list[str], names: list[str]) -> str:
    return (
        f"{len(row)} cell{'s' if len(row) != 1 else ''} where the header names {len(names)} ({_listed(names)}); column "
        f"{names[min(len(row), len(names) - 1)]!r} is missing: write an empty cell if there is no value."
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
