"""Assemble the tables of a run from its score units: small ones in this process, large ones with Ray Data.

Each score unit stores its rows of each table as Parquet. The rows of all units of a run are read, get the run's name,
and are written partitioned into a staging folder, which is then renamed into place. A table is thus either complete or
absent. Ray Data needs seconds to begin, so that it is used only for what should not be held in memory at once.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from harness.statistics import analysis, scores, tuning
from harness.storage import earlier_names, schemas, table_files, tables, transfer
from harness.storage.store import Store
from harness.units.score_units import ScoreUnit

# Tables with more rows are written by Ray Data; smaller ones in this process (a row takes 300 to 450 bytes of memory).
MOST_ROWS = 500_000
READERS = 8  # threads that read the files of units
# Number of input files that one task reads and writes as one output file.
FILES_TOGETHER = 20
# Limit on the part of Ray's object store that holds words on their way into a partition.
STREAM_BYTES = 256 * 2**20
SCORE_TABLES = (
    "neuroid_scores", "split_scores", "layer_scores", "model_scores", "fold_scores", "reading_scores", "reader_slopes",
    "word_surprisals", "next_word_scores", "similarity_scores", "similarity_layers",
)  # fmt: skip


def write(
    store: Store, run: str, units: Iterable[ScoreUnit], others: dict[str, list[dict[str, Any]]],
    join: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Write all tables of a run; existing tables of the run are replaced.

    Args:
        store: the store that holds the units; the tables are written to the same OUT.
        run: the run's name.
        units: finished score units.
        others: table -> rows, for the tables other than scores. `runs` is written last, so that a run listed there has
            all its tables.
        join: connects to Ray, if it is not yet; called if a table is large.
    """
    run_entry = f"{_root(store)}/runs/run={table_files.require_name(run)}"
    table_files.forget(store.fs, root_of(store), run)
    transfer.remove(store.fs, run_entry, recursive=True)  # not listed as done if killed from here on
    folders = [store.folder("scores", unit.key) for unit in units]
    for table in SCORE_TABLES:
        files = [f"{folder}/{table}.parquet" for folder in folders]
        _write_scores(store, run, table, [file for file in files if transfer.exists(store.fs, file)], join)
    for table, rows in (others | _statistics(store.out, run, others)).items():
        if table != "runs":
            write_rows(store, run, table, rows)
    write_rows(store, run, "runs", others["runs"])
    table_files.write(store.fs, root_of(store), run)


def _statistics(out: str, run: str, others: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the tables with statistics over models."""
    import pandas as pd

    brain, reading = (tables.read(out, table, run) for table in ("model_scores", "reading_scores"))
    properties = tables.rows_to_arrow("model_properties", others["model_properties"]).to_pandas()
    of_run = scores.of_run(out, brain, reading, properties)
    result = analysis.analyse(replace(of_run, fold_scores=tables.read(out, "fold_scores", run)))
    similar = scores.of_similarities(of_run, tables.read(out, "similarity_scores", run))
    frames = {
        "comparisons": pd.concat([result.pairs, tuning.pairs(similar)]), "paired_tests": result.paired,
        "tuning_tests": result.tuning, "correlations": result.correlations, "trajectories": result.trajectories,
        "trajectory_tests": result.trajectory_tests,
    }  # fmt: skip
    return {
        table: frame.assign(run=run).reindex(columns=list(schemas.SCHEMAS[table])).to_dict("records")
        for table, frame in frames.items()
    }


def _write_scores(
    store: Store, run: str, table: str, files: list[str], join: Callable[[], None] = lambda: None
) -> None:
    """Write a table of scores from the Parquet files of its units."""
    if not files:
        write_rows(store, run, table, [])
        return
    rows = _read_small(store, table, files)
    if rows is None:
        join()
        _silence_ray_data()

    def write(staging: str) -> None:
        if rows is None:
            _stream(store, run, table, files, staging)
        else:
            _write_partitions(store, run, rows, staging)
        _install(store, f"{staging}/run={run}", f"{_root(store)}/{table}/run={run}")

    _through_staging(store, write)


def _read_small(store: Store, table: str, files: list[str]) -> pa.Table | None:
    """The rows of some files; None if they are more than `MOST_ROWS`."""

    def n_rows(file: str) -> int:
        with store.fs.open(file, "rb") as stream:
            return int(pq.read_metadata(stream).num_rows)

    with ThreadPoolExecutor(READERS) as pool:
        if sum(pool.map(partial(transfer.retry, n_rows), files)) > MOST_ROWS:
            return None
        return pa.concat_tables(pool.map(partial(transfer.retry, _read_file, store, table), files))


def _write_partitions(store: Store, run: str, rows: pa.Table, staging: str) -> None:
    """Write rows into one folder per data set and model, named as Ray Data names them."""
    labels = rows.select(["dataset", "model"]).to_pandas()
    for (dataset, model), places in labels.groupby(["dataset", "model"]).indices.items():
        folder = f"{staging}/run={run}/dataset={quote(dataset, safe='')}/model={quote(model, safe='')}"
        store.fs.makedirs(folder, exist_ok=True)
        with store.fs.open(f"{folder}/part-0.parquet", "wb") as stream:
            pq.write_table(rows.take(places).drop_columns(list(tables.PARTITIONS)), stream)


def _stream(store: Store, run: str, table: str, files: list[str], staging: str) -> None:
    """Write the rows of files into one folder per data set and model, with Ray Data."""
    import ray

    partitions = [name for name in tables.PARTITIONS if name in schemas.SCHEMAS[table]]
    schema = earlier_names.schema_of_files(table)
    stored = ray.data.read_parquet(files, filesystem=_arrow_filesystem(store), schema=schema, partitioning=None)
    rows = stored.map_batches(partial(_of_run, table=table, run=run), batch_format="pyarrow", batch_size=None)
    rows.write_parquet(staging, filesystem=_arrow_filesystem(store), partition_cols=partitions)


def partition(run: str, dataset: str, model: str) -> str:
    """Return the path of the partition of a model and a data set within a table's folder.

    Slashes in Hub names such as "org/model@refs/pr/2" are percent-encoded; readers of hive partitions decode them. Only
    "/" and "%" are encoded, so that folders written by earlier versions keep their names.
    """
    values = {"run": run, "dataset": dataset, "model": model}
    return "/".join(f"{key}={value.replace('%', '%25').replace('/', '%2F')}" for key, value in values.items())


def write_partition(
    store: Store, table: str, run: str, dataset: str, model: str, files: list[str], **values: str
) -> None:
    """Stream Parquet files, in order, into one partition of a table.

    Args:
        store: the store that holds the files; the table is written to the same OUT.
        table: name of the table.
        run: the run's name.
        dataset: the data set of all rows.
        model: the model of all rows.
        files: paths of the files on the store's filesystem.
        values: constant columns added to all rows.
    """
    import ray

    _silence_ray_data()
    execution = ray.data.DataContext.get_current().execution_options
    execution.preserve_order = True
    execution.resource_limits = ray.data.ExecutionResources.for_limits(object_store_memory=STREAM_BYTES)

    def write(staging: str) -> None:
        groups = [{"files": files[k : k + FILES_TOGETHER]} for k in range(0, len(files), FILES_TOGETHER)]
        rows = ray.data.from_items(groups, override_num_blocks=len(groups)).map_batches(
            partial(_read_files, out=store.out, table=table, values=values), batch_size=1
        )
        rows.write_parquet(staging, filesystem=_arrow_filesystem(store))
        _install(store, staging, f"{_root(store)}/{table}/{partition(run, dataset, model)}")

    _through_staging(store, write)


def _through_staging(store: Store, write: Callable[[str], None]) -> None:
    """Write a table through a new staging folder; retry from the start if a node is lost or the filesystem fails."""
    folders: list[str] = []

    def attempt() -> None:
        folders.append(f"{_root(store)}/.aside-{uuid.uuid4().hex}")
        write(folders[-1])

    try:
        transfer.retry(attempt)
    finally:
        with contextlib.suppress(Exception):  # `harness cache gc` removes what is left if the filesystem still fails
            for staging in folders:
                transfer.remove(store.fs, staging, recursive=True)


def _read_files(batch: dict[str, Any], out: str, table: str, values: dict[str, str]) -> pa.Table:
    """Read the rows of a batch of files, without the columns encoded in the partition's path."""
    store = Store(out)
    rows = pa.concat_tables(_read_file(store, table, str(file)) for file in batch["files"][0])
    return _with_values(rows, values, tables.PARTITIONS)


def _read_file(store: Store, table: str, file: str) -> pa.Table:
    """Rows of a unit, of this or an earlier version, under the current names."""
    with store.fs.open(file, "rb") as stream:
        rows = pq.read_table(stream, schema=earlier_names.schema_of_files(table), partitioning=None)
    return earlier_names.with_current_names(table, rows)


def _silence_ray_data() -> None:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, and reported once


def _arrow_filesystem(store: Store) -> Any:
    return None if store.is_local else pa.fs.PyFileSystem(pa.fs.FSSpecHandler(store.fs))


def _of_run(batch: pa.Table, table: str, run: str) -> pa.Table:
    """Rows of units, of this or an earlier version, as rows of a run's table."""
    return _with_values(earlier_names.with_current_names(table, batch), {"run": run})


def _with_values(batch: pa.Table, values: dict[str, str], without: Sequence[str] = ()) -> pa.Table:
    """Set columns of a batch to constant values, and drop others."""
    for name, value in values.items():
        column = batch.schema.get_field_index(name)
        batch = batch.set_column(column, name, pa.array([value] * len(batch), pa.string()))
    return batch.drop_columns(list(without))


def write_rows(store: Store, run: str, table: str, rows: list[dict[str, Any]]) -> None:
    """Write a small table; with no rows, an empty table with all columns, so that every table exists."""
    content = tables.rows_to_arrow(table, rows).drop_columns(["run"])

    def write(staging: str) -> None:
        store.fs.makedirs(staging, exist_ok=True)
        with store.fs.open(f"{staging}/part-0.parquet", "wb") as stream:
            pq.write_table(content, stream)
        _install(store, staging, f"{_root(store)}/{table}/run={run}")

    _through_staging(store, write)


def _install(store: Store, staging: str, final: str) -> None:
    """Rename a staging folder into place. If another driver was faster the rename fails; its tables are identical."""
    store.fs.makedirs(final.rsplit("/", 1)[0], exist_ok=True)
    if not store.is_local:
        transfer.remove(store.fs, final, recursive=True)
        store.fs.mv(staging, final, recursive=True)
        return
    replaced = Path(f"{_root(store)}/.aside-{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        Path(final).rename(replaced)
    try:
        Path(staging).rename(final)
    except OSError:
        if not any(Path(final).rglob("*.parquet")):
            raise
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def root_of(store: Store) -> str:
    """Return the path of OUT on the store's filesystem."""
    return store.root.rsplit("/", 1)[0]


def _root(store: Store) -> str:
    return f"{root_of(store)}/tables"
