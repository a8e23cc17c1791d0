"""How a delimited file is written: its separator, its quoting, its columns; found from all of its rows, or refused.

A file is gone through once before it is read. The separator is the one that the header uses and that all rows agree
with. Quotes enclose cells as in RFC 4180, or escape quotes with a backslash as R does, or are part of the text, where
the other two contradict the file. What other programs add is known: Excel's `sep=` line, delimiters at the end of rows,
empty columns and rows at the end; the row names of R and the index of pandas, with and without a header cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import islice

from harness.delimited.encodings import TextSource, UndecodableError, blocks_of_lines, holds
from harness.delimited.header import SEPARATORS, Header, layout_of, read
from harness.delimited.plain import is_plain
from harness.delimited.rows import Layout, MalformedError, Quoting, has_bare_quotes
from harness.delimited.survey import Survey, survey


@dataclass(frozen=True)
class Form:
    """How a file is written.

    Attributes:
        layout: separator, quoting, and where the rows begin.
        names, places: the columns that have a name, and the place of each among the cells of a row.
        notes: what was unusual and how it was read, for the user; empty for a plain file.
        is_plain: whether each line is a row with the cells of the header.
    """

    layout: Layout
    names: tuple[str, ...]
    places: tuple[int, ...]
    notes: tuple[str, ...] = ()
    is_plain: bool = False


def find(source: TextSource, wanted: Collection[str] = (), multiline: Collection[str] = ()) -> Form:
    """Go through a file and find how it is written.

    Args:
        source: the file.
        wanted: columns of which at least one must be there; they decide between separators.
        multiline: columns whose cells may hold line breaks; in all others a quote that does not close on its line is
            part of the text.

    Raises:
        ValueError: naming file and line (and column, where one is meant), if the file can be read in no way or in two.
    """
    try:
        header = read(source)
        return _form(source, header, layout_of(source, header, wanted), multiline)
    except UndecodableError as error:
        raise _with_column(error) from None
    except MalformedError as error:
        raise ValueError(f"{source.path}, line {error.line}: {error}") from None


def _with_column(error: UndecodableError) -> ValueError:
    """The same error, with the name of the column that the byte is in."""
    separator = max(SEPARATORS, key=error.header.count)
    names, place = error.header.split(separator), error.before.count(separator)
    if separator not in error.header or place >= len(names):
        return ValueError(str(error))
    head, _, rest = str(error).partition(": byte")
    return ValueError(f"{head}, column {names[place].strip().strip(chr(34))!r}: byte{rest}")


# --- quoting ----------------------------------------------------------------------------------------------------------


class _Candidates:
    """The surveys of a file under each way of quoting, made when they are asked for."""

    def __init__(self, source: TextSource, layout: Layout, header: list[str]) -> None:
        self.made: dict[Quoting, Survey | MalformedError] = {}
        self.of = source, layout, header

    def under(self, quoting: Quoting) -> Survey | MalformedError:
        """The survey; an error where a line cannot be so."""
        source, layout, header = self.of
        if quoting not in self.made:
            try:
                self.made[quoting] = survey(source, replace(layout, quoting=quoting), header)
            except MalformedError as error:
                self.made[quoting] = error
        return self.made[quoting]

    def fitting(self, quoting: Quoting) -> Survey | None:
        """The survey, where every row fits the header."""
        found = self.under(quoting)
        return found if isinstance(found, Survey) and found.is_regular else None

    def wrong_line(self, quoting: Quoting) -> int:
        """The first line that does not fit."""
        found = self.under(quoting)
        if isinstance(found, MalformedError):
            return found.line
        row = found.short or found.long
        return found.multiline or (row.line if row else 1)


def _form(source: TextSource, header: Header, layout: Layout, multiline: Collection[str]) -> Form:
    cells = header.cells(layout.separator)
    quoted = holds(source, b'"')
    layout = replace(layout, quoting="doubled" if quoted else "none")
    if len(set(cells)) == len(cells) and is_plain(source, layout, cells):
        return Form(layout, tuple(cells), tuple(range(len(cells))), is_plain=True)
    if not quoted:
        return _checked(source, header, layout, cells, survey(source, layout, cells, quotes=False))
    candidates = _Candidates(source, layout, cells)
    quoting, note = _quoting(source, header, layout, candidates, [name for name in multiline if name in cells])
    found = candidates.under(quoting)
    if isinstance(found, MalformedError):
        raise found
    form = _checked(source, header, replace(layout, quoting=quoting), cells, found)
    return replace(form, notes=(*((f"{source.name}: {note}",) if note else ()), *form.notes))


def _quoting(
    source: TextSource, header: Header, layout: Layout, candidates: _Candidates, multiline: Collection[str]
) -> tuple[Quoting, str]:
    """What quotes are in this file, and a note where that is unusual; MalformedError where two readings fit."""
    doubled, bare = candidates.fitting("doubled"), None
    if doubled and not doubled.multiline:
        bare = _bare_line(source, layout)
        if bare is None:
            return "doubled", ""
    if doubled is None and holds(source, b'\\"') and candidates.fitting("escaped"):
        return "escaped", "quotes are escaped with a backslash, as R writes them; the backslashes are removed."
    literal = candidates.fitting("none")
    if literal is None or (bare is not None and not literal.enclosed):
        return "doubled", ""
    encloses = header.is_quoted or literal.has_doubled
    encloses = encloses or any(n > literal.n_rows / 2 for n in literal.enclosed.values())
    if doubled is None:
        line = candidates.wrong_line("doubled")
        return ("doubled", "") if encloses else ("none", _literal_note(line))
    line = doubled.multiline or bare or header.line
    names = header.cells(layout.separator)
    may_be_multiline = any(names[place] in multiline for place in doubled.multiline_places if place < len(names))
    if encloses or may_be_multiline or not doubled.multiline:
        raise MalformedError(
            line, "quotes either enclose cells or belong to the text, and both readings fit the file; double the "
            'quotes that are part of the text and enclose their cell in quotes ("6\'2""").',
        )  # fmt: skip
    return "none", _literal_note(line)


def _literal_note(line: int) -> str:
    return f"quotes belong to the text, because one in line {line} does not enclose a cell."


def _bare_line(source: TextSource, layout: Layout) -> int | None:
    """The first line with a quote in a cell that no quotes enclose."""
    lines = (line for block in blocks_of_lines(source) for line in block)
    place = has_bare_quotes(islice(lines, layout.header_line, None), layout.separator)
    return None if place is None else layout.header_line + 1 + place


# --- columns ----------------------------------------------------------------------------------------------------------


def _checked(source: TextSource, header: Header, layout: Layout, cells: list[str], found: Survey) -> Form:
    """Names and places of the columns, once every row is known to fit them."""
    names = [cell for cell in cells if cell]
    if doubled := next((name for name, n in Counter(names).items() if n > 1), None):
        raise MalformedError(header.line, f"column {doubled!r} appears more than once; column names must be unique.")
    if found.short and (not found.long or found.short.line < found.long.line):
        raise MalformedError(found.short.line, _too_short(found.short.cells, cells))
    has_row_names = _has_row_names(header, layout, cells, found)
    if found.long and not has_row_names:
        raise MalformedError(found.long.line, _too_long(found.long.cells, cells))
    for place, row in found.unnamed.items():
        if place and not has_row_names:
            raise MalformedError(row.line, f"column {place + 1} has no name, but holds {row.cells[place]!r}; name it.")
    if found.trailing and found.n_one_more == found.n_rows and found.is_numbered and not _may_be_number(cells[0]):
        raise MalformedError(
            found.trailing, "rows end in a delimiter that the header lacks, and begin with their numbers: column "
            f"{cells[0]!r} is either the number or what follows it; write the table without row names.",
        )  # fmt: skip
    places = tuple(place + has_row_names for place, cell in enumerate(cells) if cell)
    return Form(layout, tuple(names), places, _notes(source, cells, found, has_row_names=has_row_names))


def _notes(source: TextSource, cells: list[str], found: Survey, *, has_row_names: bool) -> tuple[str, ...]:
    notes = []
    if has_row_names:
        notes.append("each row begins with a cell that the header lacks (R's row names); it is ignored.")
    elif found.trailing:
        notes.append(f"rows end in a delimiter that the header lacks, first in line {found.trailing}.")
    if not cells[0] and 0 in found.unnamed and not found.is_numbered:
        notes.append("the first column has no name and is not read.")
    return tuple(f"{source.name}: {note}" for note in notes)


def _has_row_names(header: Header, layout: Layout, cells: list[str], found: Survey) -> bool:
    """Whether all rows begin with a cell that the header lacks: R quotes both, or numbers rows that have no ids."""
    if found.long is None or found.n_one_more != found.n_rows:
        return False
    quoted = header.text.lstrip().startswith('"') and layout.quoting != "none"
    return quoted or (found.is_numbered and not _may_be_number(cells[0]))


def _may_be_number(name: str) -> bool:
    """Whether a column of this name may hold the numbers of its rows."""
    return name.lower().endswith("id") or name.lower() in {"n", "zone", "item", "index", "number", "trial"}


def _too_long(row: list[str], names: list[str]) -> str:
    return (
        f"{len(row)} cells where the header names {len(names)} ({_listed(names)}); column {len(names) + 1} would be "
        f"{row[len(names)]!r}: quote a text that holds the separator, or name the column."
    )


def _too_short(row: list[str], names: list[str]) -> str:
    return (
        f"{len(row)} cell{'s' if len(row) != 1 else ''} where the header names {len(names)} ({_listed(names)}); column "
        f"{names[min(len(row), len(names) - 1)]!r} is missing: write an empty cell where there is no value."
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
