"""The tables of a page as files that the page itself holds: CSV for spreadsheets, Parquet for programs.

A page that is mailed away from its tables still has them. What would make the page slow to open is left to the folder
of tables, and said.
"""

from __future__ import annotations

import base64
import gzip
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MOST_BYTES, MOST_TOGETHER = 1_000_000, 2_500_000  # of one file within the page, and of all
MOST_ROWS = 25_000  # of a table that is tried
PLAIN_CSV_BYTES = 200_000  # larger ones are gzipped, which pandas and DuckDB read as they are


@dataclass(frozen=True)
class Download:
    """One table: its rows, and (file name, data address, bytes) of each form; no forms where it is too large."""

    table: str
    n_rows: int
    forms: tuple[tuple[str, str, int], ...]


# Columns of data, which stay as they are; other text columns hold names and sentences.
_DATA_COLUMNS = frozenset({"word", "story", "sentence", "word_id", "row_id", "neuroid_id", "passage"})
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def escape_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before names that a spreadsheet would run as formulas; returns a copy for CSV."""
    escaped = frame.copy()
    for column in frame.columns.difference(list(_DATA_COLUMNS)):
        if frame[column].dtype == object or str(frame[column].dtype).startswith("str"):
            escaped[column] = [
                f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell
                for cell in frame[column]
            ]
    return escaped


def of(frames: dict[str, pd.DataFrame]) -> list[Download]:
    """The tables that have rows, in order."""
    found, left = [], MOST_TOGETHER
    for name, frame in frames.items():
        few = 0 < len(frame) <= MOST_ROWS
        forms = [form for form in _forms(name, frame) if form[2] <= left] if few else []
        left -= sum(n_bytes for _, _, n_bytes in forms)
        if len(frame):
            found.append(Download(name, len(frame), tuple(forms)))
    return found


def _forms(name: str, frame: pd.DataFrame) -> list[tuple[str, str, int]]:
    parquet = io.BytesIO()
    frame.to_parquet(parquet, index=False, compression="zstd")
    if parquet.tell() > MOST_BYTES:
        return []
    forms = [_form(f"{name}.parquet", "application/vnd.apache.parquet", parquet.getvalue())]
    csv = escape_formulas(frame).to_csv(index=False).encode()
    if len(csv) > PLAIN_CSV_BYTES:
        csv, name = gzip.compress(csv, compresslevel=6, mtime=0), f"{name}.csv.gz"
        kind = "application/gzip"
    else:
        name, kind = f"{name}.csv", "text/csv"
    return [_form(name, kind, csv), *forms] if len(csv) <= MOST_BYTES else forms


def _form(name: str, kind: str, content: bytes) -> tuple[str, str, int]:
    return name, f"data:{kind};base64,{base64.b64encode(content).decode()}", len(content)
