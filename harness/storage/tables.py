"""The tables: where they lie, how they are read and checked; their schemas stand in schemas.py.

Parquet, Hive-partitioned: OUT/tables/TABLE/run=.../dataset=.../model=.../*.parquet. pandas, DuckDB and Ray Data read a
table's folder as it is. Raw score, ceiling and ratio are three columns; nothing is clipped; NaN means not measurable.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa

from harness import names
from harness.storage import table_files, transfer
from harness.storage.schemas import SCHEMAS

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

# Partition columns stand in the path, not in the file.
PARTITIONS = ("run", "dataset", "model")

PAUSES_S = (0.1, 0.4, 1.6)  # before a table is read again whose files were moved meanwhile
READERS = 4  # threads that read the files of a table


def schema(table: str) -> pa.Schema:
    """Arrow schema of a table, partition columns included."""
    return pa.schema(list(SCHEMAS[table].items()))


def rows_to_arrow(table: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as an Arrow table in the table's schema; ValueError names a column that is unknown or missing."""
    for row in rows:
        _require_columns(table, set(row))
    try:
        return pa.Table.from_pylist(rows, schema=schema(table))
    except (UnicodeEncodeError, OverflowError, pa.ArrowException):
        return pa.Table.from_pylist([_fitting(table, row) for row in rows], schema=schema(table))


def _fitting(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row of which every value fits its column: one strange value of one model must not cost all rows.

    What no column can hold is escaped, of a text, or null, and named in the log.
    """
    made = {}
    for name, value in row.items():
        try:
            pa.scalar(value, SCHEMAS[table][name])
            made[name] = value
        except (UnicodeEncodeError, OverflowError, pa.ArrowException):
            made[name] = names.printable(value) if isinstance(value, str) else None
            what = names.printable(str(row.get("model", "")))
            logger.warning("table %s, model %s: %s cannot be written as it is: %.80r", table, what, name, value)
    return made


def columns_to_arrow(table: str, columns: dict[str, Any]) -> pa.Table:
    """Columns as an Arrow table in the table's schema: tuples and arrays, one at least, or one value for all rows.

    Raises:
        ValueError: naming a column that is unknown or missing, or of another length.
    """
    _require_columns(table, set(columns))
    lengths = {len(column) for column in columns.values() if isinstance(column, tuple | np.ndarray)}
    if len(lengths) != 1:
        raise ValueError(f"table {table}: columns of {sorted(lengths)} rows; wanted one length.")
    (n,) = lengths
    arrays = []
    for name, kind in SCHEMAS[table].items():
        column = columns[name]
        whole = isinstance(column, tuple | np.ndarray)
        arrays.append(pa.array(column, kind) if whole else pa.repeat(pa.scalar(column, kind), n))
    return pa.Table.from_arrays(arrays, schema=schema(table))


def _require_columns(table: str, found: set[str]) -> None:
    odd = sorted(found ^ set(SCHEMAS[table]))
    if odd:
        raise ValueError(f"table {table}: columns {odd} are unknown or missing in a row.")


def folder(out: str, table: str) -> str:
    """Where a table lies under OUT."""
    return f"{out.rstrip('/')}/tables/{table}"


def read(
    out: str,
    table: str,
    run: str | None = None,
    columns: Sequence[str] | None = None,
    models: Collection[str] | None = None,
    where: Callable[[dict[str, str]], Any] | None = None,
) -> pd.DataFrame:
    """A table as a pandas frame in schema order, of one run or of all; empty where nothing was written.

    Args:
        out: folder or URL that holds `tables`.
        table: its name.
        run: a run id; None is all of them.
        columns: only these.
        models: only of these sources; the files of others are not opened.
        where: partition (its data set and model by name) -> Arrow's expression for the rows of it to keep; None: all.

    Raises:
        FileNotFoundError: if OUT holds no tables at all.
        table_files.DamagedTablesError: if files of the run are not as they were written. Of all runs, those that are
            damaged are named in the log and left out.
    """
    filesystem, root = fsspec.core.url_to_fs(out)
    if not transfer.exists(filesystem, f"{root}/tables"):
        raise FileNotFoundError(f"no tables under {out}: run `harness run quickstart --out {out}` first.")
    for pause_s in PAUSES_S:
        # Another driver may be replacing the files that were just listed.
        with contextlib.suppress(FileNotFoundError, table_files.DamagedTablesError):
            return _read(filesystem, root, table, run, columns, models, where)
        time.sleep(pause_s)
    return _read(filesystem, root, table, run, columns, models, where)


def _damaged(filesystem: Any, root: str, table: str) -> list[str]:
    """The runs whose files of a table are not as they were written, each named in the log."""
    found = []
    for run in table_files.listed(filesystem, root):
        try:
            table_files.require(filesystem, root, run, [table])
        except table_files.DamagedTablesError as error:
            logger.warning("%s Its rows are left out.", error)
            found.append(run)
    return found


def _read(
    filesystem: Any,
    root: str,
    table: str,
    run: str | None,
    columns: Sequence[str] | None,
    models: Collection[str] | None,
    where: Callable[[dict[str, str]], Any] | None,
) -> pd.DataFrame:
    import pandas as pd
    import pyarrow.dataset as ds

    path = f"{root}/tables/{table}"
    wanted = ds.field("run") == run if run else ds.scalar(True)
    if run:
        table_files.require(filesystem, root, run, [table])
    elif "run" in SCHEMAS[table] and (damaged := _damaged(filesystem, root, table)):
        wanted = ~ds.field("run").isin(pa.array(damaged, pa.string()))
    if not transfer.exists(filesystem, path):
        return schema(table).empty_table().to_pandas()
    if models is not None:
        wanted &= ds.field("model").isin(pa.array(list(models), pa.string()))
    data = transfer.retry(_dataset, filesystem, path, table)
    found = _rows_of(data, wanted, list(columns or SCHEMAS[table]), table, where)
    with pd.option_context("mode.string_storage", "python"):  # row by row, Arrow's strings are several times slower
        frame = found.to_pandas()
    frame.columns = pd.Index(found.column_names)
    return frame


def _rows_of(data: Any, wanted: Any, columns: list[str], table: str, where: Callable[..., Any] | None) -> pa.Table:
    """The rows of the partitions wanted, file by file: thousands of small ones take Arrow's scanner twice as long."""
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    def read_one(fragment: Any) -> pa.Table:
        with data.filesystem.open_input_file(fragment.path) as stream:
            rows = pq.ParquetFile(stream, pre_buffer=False).read(columns=columns, use_threads=False)
        partition = ds.get_partition_keys(fragment.partition_expression)
        kept = where(partition) if where and len(rows) else None  # an empty table has no partitions
        rows = rows if kept is None else rows.filter(kept)
        for name, value in partition.items():
            rows = rows.append_column(name, pa.repeat(pa.scalar(value, pa.string()), len(rows)))
        return rows

    with ThreadPoolExecutor(READERS) as pool:
        parts = list(pool.map(partial(transfer.retry, read_one), data.get_fragments(filter=wanted)))
    whole = schema(table)
    if not parts:
        return whole.empty_table().select(columns)
    rows = pa.concat_tables(parts, promote_options="permissive")
    absent = [name for name in columns if name not in rows.column_names]  # of a file of an earlier version
    for name in absent:
        rows = rows.append_column(name, pa.nulls(len(rows), SCHEMAS[table][name]))
    return rows.select(columns).cast(pa.schema([whole.field(name) for name in columns]))


def _dataset(filesystem: Any, path: str, table: str) -> Any:
    """Arrow's view of a table's folder."""
    import pyarrow.dataset as ds

    columns = [name for name in PARTITIONS if name in SCHEMAS[table]]
    partitioning = ds.partitioning(pa.schema([(name, pa.string()) for name in columns]), flavor="hive")
    native = None if "file" in filesystem.protocol else filesystem  # Arrow's own lists thousands of files at once
    return ds.dataset(path, filesystem=native, format="parquet", partitioning=partitioning, schema=schema(table))


def pick_run(out: str, run: str | None = None) -> dict[str, Any]:
    """The row of the table "runs" of the run asked for, or of the one that started last.

    Raises:
        FileNotFoundError: if OUT holds no tables at all.
        ValueError: if the run is unknown; names the nearest.
    """
    rows: list[dict[str, Any]] = read(out, "runs").to_dict("records")
    rows = sorted(rows, key=lambda row: str(row["started"]))
    wanted = [row for row in rows if run in (None, row["run"])]
    if not wanted:
        known = list(dict.fromkeys(row["run"] for row in rows))
        near = difflib.get_close_matches(run or "", known) or known[-5:]
        raise ValueError(f"run {run or 'newest'} is not in the table of runs; there are: {', '.join(near) or 'none'}.")
    return wanted[-1]


def remove(out: str, run: str) -> None:
    """Remove a run from all tables; `runs` first, so that a run that is listed has its tables."""
    filesystem, root = fsspec.core.url_to_fs(out)
    run = table_files.require_name(run)
    table_files.forget(filesystem, root, run)
    for table in sorted(table_files.of_a_run(), key=lambda table: table != "runs"):
        transfer.remove(filesystem, f"{root}/tables/{table}/run={run}", recursive=True)


def holds(out: str, run: str) -> bool:
    """Whether all tables of a finished run are there as they were written; `runs` is written last."""
    filesystem, root = fsspec.core.url_to_fs(out)
    if not all(transfer.exists(filesystem, f"{root}/tables/{name}/run={run}") for name in table_files.of_a_run()):
        return False
    try:
        table_files.require(filesystem, root, run)
    except table_files.DamagedTablesError as error:
        logger.warning("%s", error)
        return False
    return bool((read(out, "runs", run)["status"] == "done").any())
