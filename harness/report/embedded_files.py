"""Tables embedded in the page as files: CSV for spreadsheets, Parquet for programs.

A page that is sent by mail thus keeps its tables. Tables that would make the page slow to open are not embedded; the
page names their folder instead.
"""

from __future__ import annotations

import base64
import gzip
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MOST_BYTES, MOST_TOGETHER = 1_000_000, 2_500_000  # of one embedded file, and of all together
MOST_ROWS = 25_000  # larger tables are not embedded
PLAIN_CSV_BYTES = 200_000  # larger CSV files are gzipped; pandas and DuckDB read them directly


@dataclass(frozen=True)
class Download:
    """One table.

    Attributes:
        table: name of the table.
        n_rows: its number of rows.
        forms: (file name, data URL, bytes) of each embedded file; empty if the table is too large.
    """

    table: str
    n_rows: int
    forms: tuple[tuple[str, str, int], ...]


# Columns of stimuli and ids, which must not be changed; other text columns hold names and sentences.
_DATA_COLUMNS = frozenset({"word", "sentence", "word_id", "row_id", "neuroid_id", "passage"})
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def escape_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before text that a spreadsheet would run as a formula; returns a copy for CSV."""
    escaped = frame.copy()
    for column in frame.columns.difference(list(_DATA_COLUMNS)):
        if frame[column].dtype == object or str(frame[column].dtype).startswith("str"):
            escaped[column] = [
                f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell
                for cell in frame[column]
            ]
    return escaped


def embed(frames: dict[str, pd.DataFrame]) -> list[Download]:
    """Embed the tables that have rows.

    Args:
        frames: table name -> rows.
    """
    downloads, n_bytes_left = [], MOST_TOGETHER
    for name, frame in frames.items():
        is_small = 0 < len(frame) <= MOST_ROWS
        forms = [form for form in _forms(name, frame) if form[2] <= n_bytes_left] if is_small else []
        n_bytes_left -= sum(n_bytes for _, _, n_bytes in forms)
        if len(frame):
            downloads.append(Download(name, len(frame), tuple(forms)))
    return downloads


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
