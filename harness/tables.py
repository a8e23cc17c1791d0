"""The tables: schema of each, where they lie, how they are read.

Parquet, Hive-partitioned: OUT/tables/TABLE/run=.../dataset=.../model=.../*.parquet. pandas, DuckDB and Ray Data read a
table's folder as it is. Raw score, ceiling and ratio are three columns; nothing is clipped; NaN means not measurable.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd

_TEXT, _REAL, _WHOLE, _FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()

# Partition columns stand in the path, not in the file.
PARTITIONS = ("run", "dataset", "model")

READERS = 4  # threads that read the files of a table

# What makes a row again: who (model at a revision), on what (data set at a version), how (protocol), by which code.
_SOURCE: dict[str, pa.DataType] = {
    "run": _TEXT, "model": _TEXT, "kind": _TEXT, "revision": _TEXT, "code_version": _TEXT, "created": _TEXT,
}  # fmt: skip
_ORIGIN: dict[str, pa.DataType] = {
    **_SOURCE, "dataset": _TEXT, "dataset_version": _TEXT, "protocol": _TEXT, "protocol_hash": _TEXT,
    "context": _TEXT, "backend": _TEXT, "dtype": _TEXT, "seed": _WHOLE, "metric": _TEXT,
}  # fmt: skip
_SCORE: dict[str, pa.DataType] = {"r": _REAL, "ceiling": _REAL, "ceiling_kind": _TEXT, "ratio": _REAL}
# R2 of model and controls together, of the controls alone, and the difference; of the layer chosen for "all".
_UNIQUE: dict[str, pa.DataType] = {
    "unique_r2": _REAL, "unique_low": _REAL, "unique_high": _REAL, "controls_r2": _REAL, "joint_r2": _REAL,
    "unique_over": _TEXT,
}  # fmt: skip
_SIZE: dict[str, pa.DataType] = {"n_rows": _WHOLE, "n_features": _WHOLE, "n_folds": _WHOLE}

SCHEMAS: dict[str, dict[str, pa.DataType]] = {
    # One row per neuroid and layer: r is the mean over folds, alpha the median over folds.
    "neuroid_scores": {
        **_ORIGIN, "stack": _TEXT, "layer": _WHOLE, "neuroid_id": _TEXT, "subject": _TEXT, "roi": _TEXT,
        **_SCORE, "alpha": _REAL, "n_folds_nan": _WHOLE, **_SIZE,
    },
    # One row per layer and target. target: "all" is the median over the neuroids of all subjects; any other word is one
    # roi (the median over its neuroids); "group ..." are means over subjects, never part of "all" beside subjects.
    "layer_scores": {
        **_ORIGIN, "stack": _TEXT, "layer": _WHOLE, "target": _TEXT, **_SCORE, "r_std_folds": _REAL, "inner": _REAL,
        "alpha_at_low": _REAL, "alpha_at_high": _REAL, "rank": _REAL, "n_neuroids": _WHOLE, "n_nan": _WHOLE, **_SIZE,
    },
    # One row per target: the layer chosen as the protocol says; where folds differ, that of most folds (layer_folds).
    "model_scores": {
        **_ORIGIN, "stack": _TEXT, "layer": _WHOLE, "layer_folds": _WHOLE, "layer_choice": _TEXT, "target": _TEXT,
        **_SCORE, "r_low": _REAL, "r_high": _REAL, "interval_kind": _TEXT, "n_neuroids": _WHOLE, "n_nan": _WHOLE,
        **_UNIQUE, **_SIZE,
    },
    # corrected_bits: surprisal with the leading-space correction. entropy_bits: of the next token, before the word.
    # rank: of the word's first token among all. scored: whether the word counts for r (not the first of a sentence).
    "word_surprisals": {
        **_ORIGIN, "story": _TEXT, "sentence": _TEXT, "word_id": _TEXT, "word": _TEXT, "surprisal_bits": _REAL,
        "corrected_bits": _REAL, "n_tokens": _WHOLE, "entropy_bits": _REAL, "rank": _REAL, "reading_ms": _REAL,
        "scored": _FLAG,
    },
    # One row per source. predictor: "surprisal" of a model, or the control's own values. r is signed.
    "reading_scores": {
        **_ORIGIN, "predictor": _TEXT, **_SCORE, "abs_r": _REAL, "r_low": _REAL, "r_high": _REAL, "partial_r": _REAL,
        "partial_low": _REAL, "partial_high": _REAL, "delta_ll": _REAL, "delta_ll_low": _REAL, "delta_ll_high": _REAL,
        "interval_kind": _TEXT, "n_words": _WHOLE, "n_missing": _WHOLE, "n_regression": _WHOLE,
    },
    # One row per source, term and reader, where the readers are at hand (slopes.py): log milliseconds per bit.
    "reader_slopes": {
        **_ORIGIN, "predictor": _TEXT, "term": _TEXT, "subject": _TEXT, "slope": _REAL, "se": _REAL, "low": _REAL,
        "high": _REAL, "p": _REAL, "mixed_slope": _REAL, "mixed_se": _REAL, "mixed_p": _REAL, "sd_subjects": _REAL,
        "n_subjects": _WHOLE,
        "n_readings": _WHOLE, "converged": _FLAG,
    },
    # One row per source and text: how well the next token is predicted.
    "next_word_scores": {
        **_ORIGIN, "loss_nats": _REAL, "perplexity": _REAL, "accuracy": _REAL, "bits_per_byte": _REAL,
        "word_perplexity": _REAL, "n_tokens": _WHOLE, "n_words": _WHOLE, "n_bytes": _WHOLE, "n_missing": _WHOLE,
    },
    # next_word_*: from next_word_scores, where the run has a text (next_word_text).
    "model_properties": {
        **_SOURCE, "next_word_text": _TEXT, "next_word_loss": _REAL, "next_word_perplexity": _REAL,
        "next_word_accuracy": _REAL, "family": _TEXT, "tuned_from": _TEXT, "pair_source": _TEXT, "n_parameters": _WHOLE,
        "n_layers": _WHOLE, "hidden_size": _WHOLE, "context_size": _WHOLE, "vocabulary": _WHOLE,
    },
    # One row per pair, data set, protocol and target.
    "comparisons": {
        "run": _TEXT, "base": _TEXT, "tuned": _TEXT, "pair_source": _TEXT, "dataset": _TEXT, "protocol": _TEXT,
        "target": _TEXT, "metric": _TEXT, "base_score": _REAL, "tuned_score": _REAL, "difference": _REAL,
        "gain_percent": _REAL,
    },
    # Tests of "tuned minus base is 0", whose unit is the base (tuning.py). gain_percent: mean over pairs; difference
    # and its interval: over bases, and people where interval_over says so. p_adjusted: of p_sign_flip, over the run.
    "tuning_tests": {
        "run": _TEXT, "dataset": _TEXT, "protocol": _TEXT, "metric": _TEXT, "n_pairs": _WHOLE, "n_bases": _WHOLE,
        "n_people": _WHOLE, "gain_percent": _REAL, "gain_percent_bases": _REAL, "gain_low": _REAL, "gain_high": _REAL,
        "difference": _REAL, "low": _REAL, "high": _REAL, "interval_over": _TEXT, "p_interval": _REAL, "d_z": _REAL,
        "p_sign_flip": _REAL, "p_adjusted": _REAL, "p_least": _REAL, "p_wilcoxon": _REAL, "rank_biserial": _REAL,
        "mixed_difference": _REAL, "mixed_low": _REAL, "mixed_high": _REAL, "mixed_df": _REAL, "p_mixed": _REAL,
        "icc": _REAL, "p_t_pairs": _REAL,
    },
    # One row per property and data set (correlations.py). population: "all" models or "tuned" ones; unit: of each a
    # "model" or the mean of those of a "base"; given: what is held constant, "" nothing.
    "correlations": {
        "run": _TEXT, "dataset": _TEXT, "protocol": _TEXT, "metric": _TEXT, "population": _TEXT, "unit": _TEXT,
        "property": _TEXT, "given": _TEXT, "n": _WHOLE, "r": _REAL, "r_low": _REAL, "r_high": _REAL, "p": _REAL,
        "p_adjusted": _REAL, "n_tests": _WHOLE,
    },
    # How well a model knows (properties.py); not of one run. category and task: "" for the whole benchmark. n:
    # questions. cut: whether the beginning of prompts was cut off to fit the model's window.
    "benchmark_scores": {
        "model": _TEXT, "revision": _TEXT, "benchmark": _TEXT, "category": _TEXT, "task": _TEXT, "metric": _TEXT,
        "n_shots": _WHOLE, "value": _REAL, "low": _REAL, "high": _REAL, "chance": _REAL, "n": _WHOLE,
        "cut": _FLAG, "source": _TEXT, "created": _TEXT,
    },
    # One row per row of a recording (or word that was read) and fold in which it has a side, "train" or "test"; others
    # were dropped at a gap.
    "folds": {
        "run": _TEXT, "dataset": _TEXT, "dataset_version": _TEXT, "protocol": _TEXT, "protocol_hash": _TEXT,
        "part": _TEXT, "fold": _WHOLE, "row_id": _TEXT, "side": _TEXT,
    },
    # One row per unit of the store that the run's tables are made of.
    "units": {
        "run": _TEXT, "kind": _TEXT, "key": _TEXT, "model": _TEXT, "dataset": _TEXT, "protocol": _TEXT,
    },
    # One row per text that a model read. reused: whether an earlier run, or another driver, had read it; then node and
    # gpus are null. recoveries: how often it was begun again because an actor or a node was lost. parity_*: the largest
    # difference from a direct forward of a few stimuli: of states, relative to their layer; of log-probabilities.
    "extractions": {
        **_SOURCE, "dataset": _TEXT, "key": _TEXT, "context": _TEXT, "backend": _TEXT, "dtype": _TEXT,
        "device": _TEXT, "host": _TEXT, "node": _TEXT, "gpus": _TEXT, "n_stimuli": _WHOLE, "n_tokens": _WHOLE,
        "n_windows": _WHOLE, "n_reencoded": _WHOLE, "n_oom": _WHOLE, "batch_tokens": _WHOLE, "seconds": _REAL,
        "parity_states": _REAL, "parity_nats": _REAL, "reused": _FLAG, "recoveries": _WHOLE,
    },
    "failures": {
        "run": _TEXT, "model": _TEXT, "dataset": _TEXT, "protocol": _TEXT, "station": _TEXT, "exception": _TEXT,
        "message": _TEXT, "created": _TEXT,
    },
    "runs": {
        "run": _TEXT, "spec": _TEXT, "status": _TEXT, "started": _TEXT, "seconds": _REAL, "n_units": _WHOLE,
        "n_computed": _WHOLE, "n_reused": _WHOLE, "n_failed": _WHOLE, "command": _TEXT, "code_version": _TEXT,
        "versions": _TEXT, "machine": _TEXT, "backends": _TEXT, "dtypes": _TEXT, "parity_states": _REAL,
        "parity_nats": _REAL, "n_recoveries": _WHOLE, "n_nodes": _WHOLE, "n_gpus": _WHOLE, "predicted_s": _REAL,
        "read_s": _REAL, "content": _TEXT,
    },
}  # fmt: skip


def schema(table: str) -> pa.Schema:
    """Arrow schema of a table, partition columns included."""
    return pa.schema(list(SCHEMAS[table].items()))


def rows_to_arrow(table: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as an Arrow table in the table's schema; ValueError names a column that is unknown or missing."""
    for row in rows:
        _require_columns(table, set(row))
    return pa.Table.from_pylist(rows, schema=schema(table))


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
    """
    import fsspec
    import pandas as pd
    import pyarrow.dataset as ds

    filesystem, root = fsspec.core.url_to_fs(out)
    if not filesystem.isdir(f"{root}/tables"):
        raise FileNotFoundError(f"no tables under {out}: run `harness run quickstart --out {out}` first.")
    path = f"{root}/tables/{table}"
    if not filesystem.isdir(path):
        return schema(table).empty_table().to_pandas()
    wanted = ds.field("run") == run if run else ds.scalar(True)
    if models is not None:
        wanted &= ds.field("model").isin(pa.array(list(models), _TEXT))
    found = _rows_of(_dataset(filesystem, path, table), wanted, list(columns or SCHEMAS[table]), table, where)
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
        kept = where(partition) if where else None
        rows = rows if kept is None else rows.filter(kept)
        for name, value in partition.items():
            rows = rows.append_column(name, pa.repeat(pa.scalar(value, _TEXT), len(rows)))
        return rows

    with ThreadPoolExecutor(READERS) as pool:
        parts = list(pool.map(read_one, data.get_fragments(filter=wanted)))
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

    names = [name for name in PARTITIONS if name in SCHEMAS[table]]
    partitioning = ds.partitioning(pa.schema([(name, _TEXT) for name in names]), flavor="hive")
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


def holds(out: str, run: str) -> bool:
    """Whether all tables of a finished run are there; `runs` is written last."""
    import fsspec

    filesystem, root = fsspec.core.url_to_fs(out)
    if not all(filesystem.isdir(f"{root}/tables/{table}/run={run}") for table in SCHEMAS if "run" in SCHEMAS[table]):
        return False
    return bool((read(out, "runs", run)["status"] == "done").any())
