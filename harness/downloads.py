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

MOST_BYTES = 1_500_000  # of one file within the page
PLAIN_CSV_BYTES = 200_000  # larger ones are gzipped, which pandas and DuckDB read as they are


@dataclass(frozen=True)
class Download:
    """One table: its rows, and (file name, data address, bytes) of each form; no forms where it is too large."""

    table: str
    n_rows: int
    forms: tuple[tuple[str, str, int], ...]


def of(frames: dict[str, pd.DataFrame]) -> list[Download]:
    """The tables that have rows, in order."""
    return [Download(name, len(frame), tuple(_forms(name, frame))) for name, frame in frames.items() if len(frame)]


def _forms(name: str, frame: pd.DataFrame) -> list[tuple[str, str, int]]:
    parquet = io.BytesIO()
    frame.to_parquet(parquet, index=False, compression="zstd")
    if parquet.tell() > MOST_BYTES:
        return []
    forms = [_form(f"{name}.parquet", "application/vnd.apache.parquet", parquet.getvalue())]
    csv = frame.to_csv(index=False).encode()
    if len(csv) > PLAIN_CSV_BYTES:
        csv, name = gzip.compress(csv, mtime=0), f"{name}.csv.gz"
        kind = "application/gzip"
    else:
        name, kind = f"{name}.csv", "text/csv"
    return [_form(name, kind, csv), *forms] if len(csv) <= MOST_BYTES else forms


def _form(name: str, kind: str, content: bytes) -> tuple[str, str, int]:
    return name, f"data:{kind};base64,{base64.b64encode(content).decode()}", len(content)
