"""Tables of an earlier version, whose columns had other names, are read under the current names."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.runs import assemble, ray_session
from harness.storage import tables
from harness.storage.earlier_names import EARLIER
from harness.storage.schemas import SCHEMAS
from harness.storage.store import Store
from tests.harness import earlier_files

VALUES = {pa.string(): "word", pa.float64(): 0.5, pa.int64(): 3, pa.bool_(): True}
EVERY = pytest.mark.parametrize("table", earlier_files.NAMES)


def one_row(table, **values):
    return {name: VALUES[kind] for name, kind in SCHEMAS[table].items()} | values


def put(out, table, model, *, earlier):
    """Write a row into the partition of a model, in the form of an earlier version or of this version."""
    partitions = [name for name in tables.PARTITIONS if name in SCHEMAS[table]]
    values = {"run": "r", "dataset": "d", "model": model}
    rows = tables.rows_to_arrow(table, [one_row(table, **{name: values[name] for name in partitions})])
    folder = out / "tables" / table / "/".join(f"{name}={values[name]}" for name in partitions)
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows.drop_columns(partitions)
    name = "earlier.parquet" if earlier else "current.parquet"
    pq.write_table(earlier_files.renamed(table, rows) if earlier else rows, folder / name)


def test_every_earlier_name_stands_for_one_column_and_is_in_no_table_today():
    assert {
        table: {now: then for then, now in names.items()} for table, names in EARLIER.items()
    } == earlier_files.NAMES
    for table, names in EARLIER.items():
        assert set(names.values()) <= set(SCHEMAS[table])
        assert not set(names) & set(SCHEMAS[table])


@EVERY
def test_an_earlier_table_is_read_under_the_current_names(table, tmp_path):
    put(tmp_path, table, "m", earlier=True)
    frame = tables.read(str(tmp_path), table)
    assert list(frame.columns) == list(SCHEMAS[table])
    for current in earlier_files.NAMES[table]:
        assert frame[current].tolist() == [VALUES[SCHEMAS[table][current]]]
        assert tables.read(str(tmp_path), table, columns=[current]).to_dict("list") == {
            current: frame[current].tolist()
        }


@EVERY
def test_earlier_and_current_files_of_a_table_are_read_together(table, tmp_path):
    put(tmp_path, table, "a", earlier=True)
    put(tmp_path, table, "b", earlier=False)
    frame = tables.read(str(tmp_path), table)
    assert len(frame) == 2
    assert frame.notna().all(axis=None)


def test_the_columns_of_attempts_as_an_earlier_version_wrote_them(tmp_path):
    names = (
        "created", "source", "asked", "model", "revision", "where", "stamp", "folder", "attempt", "state", "reason",
        "evaluated_in",
    )  # fmt: skip
    schema = pa.schema([(name, pa.int64() if name == "attempt" else pa.string()) for name in names])
    row = dict.fromkeys(names, "x") | {"asked": "0123", "stamp": "abcd", "attempt": 1}
    (tmp_path / "tables" / "watched").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / "tables" / "watched" / "one.parquet")
    (found,) = tables.read(str(tmp_path), "watched").to_dict("records")
    assert (found["spec_hash"], found["fingerprint"], found["where"], found["attempt"]) == ("0123", "abcd", "x", 1)


@pytest.mark.ray
@pytest.mark.parametrize("way", ["one model and corpus", "all units of a run", "all units of a large run"])
def test_units_of_both_versions_are_assembled_into_one_table(way, tmp_path, monkeypatch):
    ray_session.start(None)
    if way == "all units of a large run":
        monkeypatch.setattr(assemble, "MOST_ROWS", 2)
    store, files = Store(str(tmp_path)), []
    for k, passage in enumerate(("then", "now", None)):
        values = {"run": None, "dataset": "d", "model": "m", "word_id": str(k), "passage": passage}
        rows = tables.rows_to_arrow("word_surprisals", [one_row("word_surprisals", **values)])
        files.append(f"{tmp_path}/{k}.parquet")
        pq.write_table(earlier_files.renamed("word_surprisals", rows) if passage == "then" else rows, files[-1])
    if way == "one model and corpus":
        assemble.write_partition(store, "word_surprisals", "r", "d", "m", files, dataset_version="v")
    else:
        assemble._write_scores(store, "r", "word_surprisals", files)
    frame = tables.read(str(tmp_path), "word_surprisals", "r").sort_values("word_id")
    assert frame["passage"].fillna("none").tolist() == ["then", "now", "none"]
    for file in (tmp_path / "tables" / "word_surprisals").rglob("*.parquet"):
        assert "story" not in pq.ParquetFile(file).schema_arrow.names
