"""Tables of words for the report: which columns make a cell, and how numbers are written for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.report import figures
from harness.report.figures import PROTOCOLS, Figure

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Columns = dict[str, tuple[str, Callable[..., str]]]  # heading -> (columns of the row, how they are written)

KINDS = {
    "model": "model", "untrained": "untrained", "shuffled": "words shuffled", "chat": "chat template",
    "control": "control",
}  # fmt: skip


MOST_ROWS, MOST_FOLDED = 1100, 300  # of a shown table; the rest is in the files


@dataclass(frozen=True)
class ReportTable:
    """Cells as they are shown. The first column names the row; `n_words` columns from the left hold words.

    groups: (name, number of columns) of the headings above the headings; folded: shown on demand; protocol: of all
    rows, "" where they differ.
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
        """The protocol that each column is of; "" for those of all."""
        known = (self.group_of(i).lower() for i in range(len(self.columns)))
        return [name if name in PROTOCOLS else "" for name in known]

    def protocol_of(self, row: list[str]) -> str:
        """The protocol that a row is of; "" for one of all."""
        if "Protocol" not in self.columns:
            return self.protocol
        said = row[self.columns.index("Protocol")].lower()
        return said if said in PROTOCOLS else ""

    def group_of(self, column: int) -> str:
        """The heading above a column's heading; "" where there is none."""
        return [*(name for name, n in self.groups for _ in range(n)), *[""] * len(self.columns)][column]


Parts = list[str | Figure | ReportTable]  # a string is a heading: the data set that what follows is about


def records(frame: pd.DataFrame) -> list[Row]:
    """Rows as plain mappings; text that is absent is ""."""
    columns = [
        (frame[name] if frame[name].dtype.kind in "fiub" else frame[name].astype(object).fillna("")).to_numpy().tolist()
        for name in frame.columns
    ]
    return [dict(zip(frame.columns, values, strict=True)) for values in zip(*columns, strict=True)]


def table(
    caption: str, columns: Columns, rows: list[Row], n_words: int = 2, folded: bool = False, protocol: str = ""
) -> ReportTable:
    """One line per row, as far as a page holds them."""
    most = MOST_FOLDED if folded else MOST_ROWS
    lines = [_cells(columns, row) for row in rows[:most]]
    return ReportTable(caption + _cut(len(rows), most), list(columns), lines, n_words, folded=folded, protocol=protocol)


def _cut(n: int, most: int) -> str:
    return f" The first {most:,} of {n:,} rows." if n > most else ""


def beside(
    caption: str, columns: Columns, rows: pd.DataFrame, second: str = "Kind", folded: bool = False
) -> ReportTable:
    """One row per source and target, the protocols beside each other, STRICT first; `second` is "Kind" or "Target"."""
    shown = [name for name in PROTOCOLS if name in set(rows["protocol"])]
    lines: list[list[str]] = []
    used = ["model", "protocol", "kind", "target", *(name for names, _ in columns.values() for name in names.split())]
    for target, part in rows[list(dict.fromkeys(used)) + [name for name in ("r",) if name not in used]].groupby(
        "target"
    ):
        if folded and len(lines) > MOST_FOLDED:
            break
        found = {(row["model"], row["protocol"]): row for row in records(part)}
        for name in figures.in_order(part):
            present = [found.get((name, protocol)) for protocol in shown]
            kind_ = next(kind(row["kind"]) for row in present if row)
            cells = (cell for row in present for cell in _cells(columns, row))
            lines.append([name, kind_ if second == "Kind" else target, *cells])
    groups = (("", 2), *((protocol.upper(), len(columns)) for protocol in shown))
    most = MOST_FOLDED if folded else MOST_ROWS
    n_rows = len(rows.drop_duplicates(["model", "target"]))
    caption += _cut(n_rows, most)
    return ReportTable(caption, ["Source", second, *list(columns) * len(shown)], lines[:most], 2, groups, folded)


def _cells(columns: Columns, row: Row | None) -> list[str]:
    """The cells of one row; en dashes where there is no row."""
    if row is None:
        return ["–"] * len(columns)
    return [write(*(row[name] for name in names.split())) for names, write in columns.values()]


def strict_first(rows: pd.DataFrame) -> list[Row]:
    """Rows by data set, STRICT before PAPER."""
    return sorted(records(rows), key=lambda row: (row["dataset"], PROTOCOLS.index(row["protocol"])))


def kinds_of(rows: pd.DataFrame) -> str:
    """Which intervals and which ceilings stand in the rows."""
    return f"Interval: {_said_of(rows, 'interval_kind')}. Ceiling: {_said_of(rows, 'ceiling_kind')}."


def _said_of(rows: pd.DataFrame, column: str) -> str:
    """What a column says, by protocol where the protocols differ; "none" where it says nothing."""
    said = {}
    for protocol in PROTOCOLS:
        part = rows.loc[rows["protocol"] == protocol, column].dropna()
        if len(part):
            said[protocol.upper()] = " or ".join(sorted(set(part) - {""})) or "none"
    if len(set(said.values())) < 2:
        return next(iter(said.values()), "none")
    return "; ".join(f"{protocol} {kind}" for protocol, kind in said.items())


def text(value: str) -> str:
    """An en dash where nothing is said."""
    return value or "–"


def short(revision: str) -> str:
    """Enough of a revision to tell it by."""
    return revision[:12] or "–"


def kind(of_row: str) -> str:
    """A kind of source in words."""
    return KINDS.get(of_row, of_row)
