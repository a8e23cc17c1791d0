"""Tables of the report: which columns fill a cell, and how values are formatted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.report import figures
from harness.report.figures import PROTOCOLS, Figure

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Columns = dict[str, tuple[str, Callable[..., str]]]  # heading -> (columns of the row, formatting function)

KINDS = {
    "model": "model", "untrained": "untrained", "shuffled": "shuffled words", "chat": "chat template",
    "condition": "prompt", "localised": "localised units", "untrained localised": "untrained, localised units",
    "random units": "random units",
    "control": "control",
}  # fmt: skip


MOST_ROWS, MOST_FOLDED = 1100, 300  # rows shown in an open and in a folded table; the files have all


@dataclass(frozen=True)
class ReportTable:
    """Formatted cells of one table.

    Attributes:
        columns: headings; the first column names the row.
        n_words: number of leading columns that hold text rather than numbers.
        groups: (heading, number of columns) of a second row of headings above the first.
        folded: whether the table is collapsed until the reader opens it.
        protocol: protocol of all rows; "" if they differ.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]
    n_words: int
    groups: tuple[tuple[str, int], ...] = ()
    folded: bool = False
    protocol: str = ""

    @property
    def column_protocols(self) -> list[str]:
        """The protocol of each column; "" for columns that belong to all protocols."""
        names = (self.group_of(i).lower() for i in range(len(self.columns)))
        return [name if name in PROTOCOLS else "" for name in names]

    @property
    def has_numbers(self) -> bool:
        """Whether a cell has content; tables of text alone count by their rows."""
        if self.n_words >= len(self.columns):
            return bool(self.rows)
        return any(cell != "–" for row in self.rows for cell in row[self.n_words :])

    def without_empty_columns(self) -> ReportTable:
        """The table without its columns of en dashes alone; it must have no groups."""
        kept = [k for k in range(len(self.columns)) if any(row[k] != "–" for row in self.rows)]
        rows = [[row[k] for k in kept] for row in self.rows]
        return replace(self, columns=[self.columns[k] for k in kept], rows=rows)

    def protocol_of(self, row: list[str]) -> str:
        """The protocol of a row; "" for a row that belongs to all protocols."""
        if "Protocol" not in self.columns:
            return self.protocol
        name = row[self.columns.index("Protocol")].lower()
        return name if name in PROTOCOLS else ""

    def group_of(self, column: int) -> str:
        """The group heading above a column; "" if it has none."""
        return [*(name for name, n in self.groups for _ in range(n)), *[""] * len(self.columns)][column]


Parts = list[str | Figure | ReportTable]  # a string is a heading for the parts after it, such as a data set


def filled(parts: Parts) -> Parts:
    """The parts with content: no table without rows or numbers, no figure without panels, no heading of nothing."""
    shown: Parts = []
    for part in parts:
        if isinstance(part, str):
            if shown and isinstance(shown[-1], str):
                shown.pop()
            shown.append(part)
        elif part.panels if isinstance(part, Figure) else part.has_numbers:
            shown.append(part)
    return shown[:-1] if shown and isinstance(shown[-1], str) else shown


def records(frame: pd.DataFrame) -> list[Row]:
    """Rows as dictionaries; missing text becomes ""."""
    columns = [
        (frame[name] if frame[name].dtype.kind in "fiub" else frame[name].astype(object).fillna("")).to_numpy().tolist()
        for name in frame.columns
    ]
    return [dict(zip(frame.columns, values, strict=True)) for values in zip(*columns, strict=True)]


def table(
    caption: str, columns: Columns, rows: list[Row], n_words: int = 2, folded: bool = False, protocol: str = ""
) -> ReportTable:
    """A table with one line per row, up to MOST_ROWS, or MOST_FOLDED if folded.

    Args:
        caption: shown above the table.
        columns: heading -> (columns of the row, formatting function).
        rows: in the order of display.
        n_words: number of leading columns that hold text.
        folded: whether the table is collapsed at first.
        protocol: protocol of all rows; "" if they differ.
    """
    most = MOST_FOLDED if folded else MOST_ROWS
    lines = [_cells(columns, row) for row in rows[:most]]
    return ReportTable(caption + _cut(len(rows), most), list(columns), lines, n_words, folded=folded, protocol=protocol)


def _cut(n: int, most: int) -> str:
    return f" Only the first {most:,} of {n:,} rows are shown." if n > most else ""


def by_protocol_table(
    caption: str, columns: Columns, rows: pd.DataFrame, second: str = "Kind", folded: bool = False
) -> ReportTable:
    """A table with one line per source and target and one group of columns per protocol, STRICT first.

    Args:
        caption: shown above the table.
        columns: heading -> (columns of the row, formatting function); repeated for each protocol.
        rows: scores with the columns model, kind, protocol, target and r.
        second: what the second column shows, "Kind" or "Target".
        folded: whether the table is collapsed at first.
    """
    shown = [name for name in PROTOCOLS if name in set(rows["protocol"])]
    lines: list[list[str]] = []
    used = ["model", "protocol", "kind", "target", *(name for names, _ in columns.values() for name in names.split())]
    for target, scores in rows[list(dict.fromkeys([*used, "r"]))].groupby("target"):
        if folded and len(lines) > MOST_FOLDED:
            break
        row_of = {(row["model"], row["protocol"]): row for row in records(scores)}
        for name in figures.in_order(scores):
            by_protocol = [row_of.get((name, protocol)) for protocol in shown]
            kind_ = next(kind(row["kind"]) for row in by_protocol if row)
            cells = (cell for row in by_protocol for cell in _cells(columns, row))
            lines.append([name, kind_ if second == "Kind" else target, *cells])
    groups = (("", 2), *((protocol.upper(), len(columns)) for protocol in shown))
    most = MOST_FOLDED if folded else MOST_ROWS
    n_rows = len(rows.drop_duplicates(["model", "target"]))
    caption += _cut(n_rows, most)
    return ReportTable(caption, ["Source", second, *list(columns) * len(shown)], lines[:most], 2, groups, folded)


def _cells(columns: Columns, row: Row | None) -> list[str]:
    """Format the cells of one row; en dashes if there is no row."""
    if row is None:
        return ["–"] * len(columns)
    return [write(*(row[name] for name in names.split())) for names, write in columns.values()]


def strict_first(rows: pd.DataFrame) -> list[Row]:
    """Rows sorted by data set, then by protocol, STRICT first."""
    return sorted(records(rows), key=lambda row: (row["dataset"], PROTOCOLS.index(row["protocol"])))


def kinds_of(rows: pd.DataFrame) -> str:
    """A sentence that names the kinds of intervals and ceilings in the rows."""
    return f"Interval: {_kind_in(rows, 'interval_kind')}. Ceiling: {_kind_in(rows, 'ceiling_kind')}."


def _kind_in(rows: pd.DataFrame, column: str) -> str:
    """The values of a column, by protocol if the protocols differ; "none" if there are none."""
    by_protocol = {}
    for protocol in PROTOCOLS:
        values = rows.loc[rows["protocol"] == protocol, column].dropna()
        if len(values):
            by_protocol[protocol.upper()] = " or ".join(sorted(set(values) - {""})) or "none"
    if len(set(by_protocol.values())) < 2:
        return next(iter(by_protocol.values()), "none")
    return "; ".join(f"{protocol} {value}" for protocol, value in by_protocol.items())


def text(value: str) -> str:
    """The text, or an en dash if it is empty."""
    return value or "–"


def short(revision: str) -> str:
    """The first 12 characters of a revision, or an en dash."""
    return revision[:12] or "–"


def kind(of_row: str) -> str:
    """The display name of a kind of source."""
    return KINDS.get(of_row, of_row)
