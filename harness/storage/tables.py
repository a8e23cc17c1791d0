"""Result tables: location, conversion to Arrow, and reading. Their schemas are in schemas.py.

Parquet, Hive-partitioned: OUT/tables/TABLE/run=.../dataset=.../model=.../*.parquet. pandas, DuckDB and Ray Data can
read a table's folder directly. Raw score, ceiling and ratio are three columns; nothing is clipped; NaN means not
measurable.
"""

from __future__ import annotations

import contextlib
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
from harness.storage import earlier_names, table_files, transfer
from harness.storage.schemas import SCHEMAS

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

# Partition columns are in the path, not in the file.
PARTITIONS = ("run", "dataset", "model")

PAUSES_S = (0.1, 0.4, 1.6)  # pauses before re-reading a table whose files are being replaced
READERS = 4  # threads that read the files of a table


def schema(table: str) -> pa.Schema:
    """Arrow schema of a table, including partition columns."""
    return pa.schema(list(SCHEMAS[table].items()))


def rows_to_arrow(table: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Convert rows to an Arrow table with the table's schema; ValueError names unknown or missing columns."""
    for row in rows:
        _require_columns(table, set(row))
    try:
        return pa.Table.from_pylist(rows, schema=schema(table))
    except (UnicodeEncodeError, OverflowError, pa.ArrowException):
        return pa.Table.from_pylist([_sanitise(table, row) for row in rows], schema=schema(table))


def _sanitise(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """Make every value of a row fit its column, so that one invalid value does not lose all rows.

    Invalid text is escaped, other invalid values become null; each is logged.
    """
    values = {}
    for name, value in row.items():
        try:
            pa.scalar(value, SCHEMAS[table][name])
            values[name] = value
        except (UnicodeEncodeError, OverflowError, pa.ArrowException):
            values[name] = names.printable(value) if isinstance(value, str) else None
            model = names.printable(str(row.get("model", "")))
            logger.warning("table %s, model %s: %s cannot be written unchanged: %.80r", table, model, name, value)
    return values


def columns_to_arrow(table: str, columns: dict[str, Any]) -> pa.Table:
    """Convert columns to an Arrow table with the table's schema.

    Args:
        table: name of the table.
        columns: name -> tuple or array, or one value for all rows; at least one tuple or array.

    Raises:
        ValueError: naming unknown or missing columns, or if lengths differ.
    """
    _require_columns(table, set(columns))
    lengths = {len(column) for column in columns.values() if isinstance(column, tuple | np.ndarray)}
    if len(lengths) != 1:
        raise ValueError(f"table {table}: columns of {sorted(lengths)} rows; all must have one length.")
    (n,) = lengths
    arrays = []
    for name, dtype in SCHEMAS[table].items():
        column = columns[name]
        is_column = isinstance(column, tuple | np.ndarray)
        arrays.append(pa.array(column, dtype) if is_column else pa.repeat(pa.scalar(column, dtype), n))
    return pa.Table.from_arrays(arrays, schema=schema(table))


def _require_columns(table: str, columns: set[str]) -> None:
    wrong = sorted(columns ^ set(SCHEMAS[table]))
    if wrong:
        raise ValueError(f"table {table}: columns {wrong} are unknown or missing in a row.")


def folder(out: str, table: str) -> str:
    """Folder of a table under OUT."""
    return f"{out.rstrip('/')}/tables/{table}"


def read(
    out: str,
    table: str,
    run: str | None = None,
    columns: Sequence[str] | None = None,
    models: Collection[str] | None = None,
    where: Callable[[dict[str, str]], Any] | None = None,
) -> pd.DataFrame:
    """Read a table as a pandas frame in schema order; empty if nothing was written.

    Args:
        out: folder or URL that holds `tables`.
        table: name of the table.
        run: a run id; None for all runs.
        columns: restrict to these columns.
        models: restrict to these sources; files of others are not opened.
        where: called with a partition (`dataset` and `model`); returns an Arrow expression for the rows to keep, or
            None for all.

    Raises:
        FileNotFoundError: if OUT holds no tables at all.
        table_files.DamagedTablesError: if files of the run differ from what was written. With run=None, damaged runs
            are logged and left out instead.
    """
    filesystem, root = fsspec.core.url_to_fs(out)
    if not transfer.exists(filesystem, f"{root}/tables"):
        raise FileNotFoundError(f"no tables under {out}: run `harness run quickstart --out {out}` first.")
    for pause_s in PAUSES_S:
        # Another driver may be replacing the listed files.
        with contextlib.suppress(FileNotFoundError, table_files.DamagedTablesError):
            return _read(filesystem, root, table, run, columns, models, where)
        time.sleep(pause_s)
    return _read(filesystem, root, table, run, columns, models, where)


def _damaged(filesystem: Any, root: str, table: str) -> list[str]:
    """Runs whose files of a table are damaged; each is logged."""
    damaged_runs = []
    for run in table_files.listed(filesystem, root):
        try:
            table_files.require(filesystem, root, run, [table])
        except table_files.DamagedTablesError as error:
            logger.warning("%s Its rows are left out.", error)
            damaged_runs.append(run)
    return damaged_runs


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
    partitions = ds.field("run") == run if run else ds.scalar(True)
    if run:
        table_files.require(filesystem, root, run, [table])
    elif "run" in SCHEMAS[table] and (damaged := _damaged(filesystem, root, table)):
        partitions = ~ds.field("run").isin(pa.array(damaged, pa.string()))
    if not transfer.exists(filesystem, path):
        return schema(table).empty_table().to_pandas()
    if models is not None:
        partitions &= ds.field("model").isin(pa.array(list(models), pa.string()))
    data = transfer.retry(_dataset, filesystem, path, table)
    rows = _rows_of(data, partitions, list(columns or SCHEMAS[table]), table, where)
    with pd.option_context("mode.string_storage", "python"):  # Arrow strings are several times slower row by row
        frame = rows.to_pandas()
    frame.columns = pd.Index(rows.column_names)
    return frame


def _rows_of(data: Any, partitions: Any, columns: list[str], table: str, where: Callable[..., Any] | None) -> pa.Table:
    """Rows of the selected partitions, read file by file: Arrow's scanner takes twice as long for many small files."""
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    in_files = earlier_names.names_in_files(table, columns)

    def read_one(fragment: Any) -> pa.Table:
        with data.filesystem.open_input_file(fragment.path) as stream:
            rows = pq.ParquetFile(stream, pre_buffer=False).read(columns=in_files, use_threads=False)
        rows = earlier_names.with_current_names(table, rows)
        partition = ds.get_partition_keys(fragment.partition_expression)
        condition = where(partition) if where and len(rows) else None  # an empty table has no partitions
        rows = rows if condition is None else rows.filter(condition)
        for name, value in partition.items():
            rows = rows.append_column(name, pa.repeat(pa.scalar(value, pa.string()), len(rows)))
        return rows

    with ThreadPoolExecutor(READERS) as pool:
        fragments = list(pool.map(partial(transfer.retry, read_one), data.get_fragments(filter=partitions)))
    table_schema = schema(table)
    if not fragments:
        return table_schema.empty_table().select(columns)
    rows = pa.concat_tables(fragments, promote_options="permissive")
    missing = [name for name in columns if name not in rows.column_names]  # file of an earlier version
    for name in missing:
        rows = rows.append_column(name, pa.nulls(len(rows), SCHEMAS[table][name]))
    return rows.select(columns).cast(pa.schema([table_schema.field(name) for name in columns]))


def _dataset(filesystem: Any, path: str, table: str) -> Any:
    """A table's folder as an Arrow dataset."""
    import pyarrow.dataset as ds

    columns = [name for name in PARTITIONS if name in SCHEMAS[table]]
    partitioning = ds.partitioning(pa.schema([(name, pa.string()) for name in columns]), flavor="hive")
    native = None if "file" in filesystem.protocol else filesystem  # Arrow's own lists thousands of files faster
    return ds.dataset(path, filesystem=native, format="parquet", partitioning=partitioning, schema=schema(table))


def pick_run(out: str, run: str | None = None) -> dict[str, Any]:
    """The row of the table `runs` for the given run, or for the one that started last.

    Raises:
        FileNotFoundError: if OUT holds no tables at all.
        ValueError: if the run is unknown; lists the nearest names.
    """
    rows: list[dict[str, Any]] = read(out, "runs").to_dict("records")
    rows = sorted(rows, key=lambda row: str(row["started"]))
    matches = [row for row in rows if run in (None, row["run"])]
    if not matches:
        run_names = list(dict.fromkeys(row["run"] for row in rows))
        near = names.nearest(run or "", run_names) or run_names[-5:]
        raise ValueError(f"run {run or 'newest'} is not in the table of runs; there are: {', '.join(near) or 'none'}.")
    return matches[-1]


def remove(out: str, run: str) -> None:
    """Remove a run from all tables; from `runs` first, so that every listed run has all its tables."""
    filesystem, root = fsspec.core.url_to_fs(out)
    run = table_files.require_name(run)
    table_files.forget(filesystem, root, run)
    for table in sorted(table_files.run_tables(), key=lambda table: table != "runs"):
        transfer.remove(filesystem, f"{root}/tables/{table}/run={run}", recursive=True)


def holds(out: str, run: str) -> bool:
    """Whether a run is finished and all its tables are intact; `runs` is written last."""
    filesystem, root = fsspec.core.url_to_fs(out)
    if not all(transfer.exists(filesystem, f"{root}/tables/{name}/run={run}") for name in table_files.run_tables()):
        return False
    try:
        table_files.require(filesystem, root, run)
    except table_files.DamagedTablesError as error:
        logger.warning("%s", error)
        return False
    return bool((read(out, "runs", run)["status"] == "done").any())
