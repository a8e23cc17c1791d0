"""Units -> tables, by Ray Data.

Each score unit holds its rows of each table as Parquet. Ray Data reads those of a run, adds the run's name, and writes
them partitioned into a fresh folder, which then takes its place in one step: a table is whole or absent.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.statistics import analysis, scores
from harness.storage import schemas, table_files, tables, transfer
from harness.storage.store import Store
from harness.units.score_units import ScoreUnit

# Files of a partition's rows that one task reads and writes as one.
FILES_TOGETHER = 20
SCORE_TABLES = (
    "neuroid_scores",
    "layer_scores",
    "model_scores",
    "reading_scores",
    "reader_slopes",
    "word_surprisals",
    "next_word_scores",
)


def write(store: Store, run: str, units: Iterable[ScoreUnit], others: dict[str, list[dict[str, Any]]]) -> None:
    """Write every table of a run; a run that was there is replaced.

    Args:
        store: where the units are, and under whose OUT the tables go.
        run: the run's name.
        units: finished score units.
        others: rows of the tables that are not scores; `runs` is written last, so that a listed run has its tables.
    """
    listed = f"{_root(store)}/runs/run={table_files.require_name(run)}"
    table_files.forget(store.fs, root_of(store), run)
    transfer.remove(store.fs, listed, recursive=True)  # killed while its tables are replaced, it is not listed as done
    folders = [store.folder("scores", unit.key) for unit in units]
    for table in SCORE_TABLES:
        files = [f"{folder}/{table}.parquet" for folder in folders]
        _write_scores(store, run, table, [file for file in files if transfer.exists(store.fs, file)])
    for table, rows in (others | _statistics(store.out, run, others)).items():
        if table != "runs":
            write_rows(store, run, table, rows)
    write_rows(store, run, "runs", others["runs"])
    table_files.write(store.fs, root_of(store), run)


def _statistics(out: str, run: str, others: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    brain, read = (tables.read(out, table, run) for table in ("model_scores", "reading_scores"))
    known = tables.rows_to_arrow("model_properties", others["model_properties"]).to_pandas()
    found = analysis.analyse(scores.of_run(out, brain, read, known))
    frames = {"comparisons": found.pairs, "tuning_tests": found.tuning, "correlations": found.correlations}
    return {
        table: frame.assign(run=run).reindex(columns=list(schemas.SCHEMAS[table])).to_dict("records")
        for table, frame in frames.items()
    }


def _write_scores(store: Store, run: str, table: str, files: list[str]) -> None:
    if not files:
        write_rows(store, run, table, [])
        return
    partitions = [name for name in tables.PARTITIONS if name in schemas.SCHEMAS[table]]

    def write(aside: str) -> None:
        rows = _rows_of(store, table, files).map_batches(
            partial(_with_values, values={"run": run}), batch_format="pyarrow", batch_size=None
        )
        rows.write_parquet(aside, filesystem=_arrow_filesystem(store), partition_cols=partitions)
        _install(store, f"{aside}/run={run}", f"{_root(store)}/{table}/run={run}")

    _aside(store, write)


def partition(run: str, dataset: str, model: str) -> str:
    """Where the rows of a model and a data set lie in a table's folder.

    A name of the Hub has a slash, "org/model@refs/pr/2" has three: they are escaped as readers of hive partitions undo
    it, and nothing else is, so that folders of earlier versions keep their names.
    """
    values = {"run": run, "dataset": dataset, "model": model}
    return "/".join(f"{key}={value.replace('%', '%25').replace('/', '%2F')}" for key, value in values.items())


def write_partition(
    store: Store, table: str, run: str, dataset: str, model: str, files: list[str], **values: str
) -> None:
    """Stream files of rows, in their order, into one partition of a table; `values` are columns of all of them."""
    import ray

    _quiet()

    def write(aside: str) -> None:
        groups = [{"files": files[k : k + FILES_TOGETHER]} for k in range(0, len(files), FILES_TOGETHER)]
        rows = ray.data.from_items(groups, override_num_blocks=len(groups)).map_batches(
            partial(_read_files, out=store.out, table=table, values=values), batch_size=1
        )
        rows.write_parquet(aside, filesystem=_arrow_filesystem(store))
        _install(store, aside, f"{_root(store)}/{table}/{partition(run, dataset, model)}")

    _aside(store, write)


def _aside(store: Store, write: Callable[[str], None]) -> None:
    """Write a table; again from its beginning where a node is lost meanwhile, or the filesystem fails for a while."""
    begun: list[str] = []

    def attempt() -> None:
        begun.append(f"{_root(store)}/.aside-{uuid.uuid4().hex}")
        write(begun[-1])

    try:
        transfer.retry(attempt)
    finally:
        with contextlib.suppress(Exception):  # what a filesystem keeps that fails for good, `harness cache gc` removes
            for aside in begun:
                transfer.remove(store.fs, aside, recursive=True)


def _read_files(batch: dict[str, Any], out: str, table: str, values: dict[str, str]) -> pa.Table:
    """The rows of files, without the columns that stand in a partition's path."""
    store, schema = Store(out), tables.schema(table)
    parts = []
    for file in map(str, batch["files"][0]):
        with store.fs.open(file, "rb") as stream:
            parts.append(pq.read_table(stream, schema=schema, partitioning=None))
    return _with_values(pa.concat_tables(parts), values, tables.PARTITIONS)


def _quiet() -> None:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _rows_of(store: Store, table: str, files: list[str]) -> Any:
    import ray

    _quiet()
    return ray.data.read_parquet(
        files, filesystem=_arrow_filesystem(store), schema=tables.schema(table), partitioning=None
    )


def _arrow_filesystem(store: Store) -> Any:
    return None if store.is_local else pa.fs.PyFileSystem(pa.fs.FSSpecHandler(store.fs))


def _with_values(batch: pa.Table, values: dict[str, str], without: Sequence[str] = ()) -> pa.Table:
    """The batch with some columns of one value, and without others."""
    for name, value in values.items():
        column = batch.schema.get_field_index(name)
        batch = batch.set_column(column, name, pa.array([value] * len(batch), pa.string()))
    return batch.drop_columns(list(without))


def write_rows(store: Store, run: str, table: str, rows: list[dict[str, Any]]) -> None:
    """A small table, or an empty one with its columns, so that readers find every table."""
    content = tables.rows_to_arrow(table, rows).drop_columns(["run"])

    def write(aside: str) -> None:
        store.fs.makedirs(aside, exist_ok=True)
        with store.fs.open(f"{aside}/part-0.parquet", "wb") as stream:
            pq.write_table(content, stream)
        _install(store, aside, f"{_root(store)}/{table}/run={run}")

    _aside(store, write)


def _install(store: Store, aside: str, final: str) -> None:
    """Put a folder into place. A rename fails where another driver was faster; its tables have the same content."""
    store.fs.makedirs(final.rsplit("/", 1)[0], exist_ok=True)
    if not store.is_local:
        transfer.remove(store.fs, final, recursive=True)
        store.fs.mv(aside, final, recursive=True)
        return
    before = Path(f"{_root(store)}/.aside-{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        Path(final).rename(before)
    try:
        Path(aside).rename(final)
    except OSError:
        if not any(Path(final).rglob("*.parquet")):
            raise
        shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)


def root_of(store: Store) -> str:
    """OUT on its filesystem."""
    return store.root.rsplit("/", 1)[0]


def _root(store: Store) -> str:
    return f"{root_of(store)}/tables"
