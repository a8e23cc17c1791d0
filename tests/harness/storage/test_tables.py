"""Rows and columns give the same tables, and columns that do not fit are named."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.runs import assemble
from harness.storage import tables

KINDS = {pa.string(): "word", pa.float64(): 0.5, pa.int64(): 3, pa.bool_(): True}


def columns():
    constant = {name: KINDS[kind] for name, kind in tables.SCHEMAS["neuroid_scores"].items()}
    return constant | {"run": None, "neuroid_id": ("a", "b", "c"), "r": np.array([0.1, np.nan, -0.2])}


def test_columns_and_rows_give_the_same_table():
    table = columns()
    rows = [{**table, "neuroid_id": name, "r": r} for name, r in zip(table["neuroid_id"], table["r"], strict=True)]
    by_columns, by_rows = tables.columns_to_arrow("neuroid_scores", table), tables.rows_to_arrow("neuroid_scores", rows)
    assert by_columns.schema == by_rows.schema
    assert by_columns.to_pandas().equals(by_rows.to_pandas())
    assert by_columns["r"].null_count == 0  # NaN means not measurable, and is not null


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c.pop("alpha"), r"columns \['alpha'\] are unknown or missing"),
    (lambda c: c.update(aplha=1.0), r"columns \['aplha'\] are unknown or missing"),
    (lambda c: c.update(roi=("x", "y")), r"columns of \[2, 3\] rows"),
    (lambda c: c.update(neuroid_id="a", r=0.1), r"columns of \[\] rows"),
])  # fmt: skip
def test_a_column_that_does_not_fit_is_named(change, message):
    table = columns()
    change(table)
    with pytest.raises(ValueError, match=message):
        tables.columns_to_arrow("neuroid_scores", table)


@pytest.mark.parametrize("model", ["org/model@refs/pr/2", "m@step-0600", "a%2Fb", "plain", "with space", "x:untrained"])
def test_a_partition_preserves_the_model_name_and_is_a_single_folder(model, tmp_path):
    folder = tmp_path / "tables" / "word_surprisals" / assemble.partition("r", "local", model)
    assert folder.parent.name == "dataset=local"
    assert ("/" in model or "%" in model) != (folder.name == f"model={model}")
    folder.mkdir(parents=True)
    schema = tables.schema("word_surprisals")
    rows = pa.Table.from_pylist([{"word": "bee"}], schema=schema).drop_columns(list(tables.PARTITIONS))
    pq.write_table(rows, folder / "part-0.parquet")
    frame = tables.read(str(tmp_path), "word_surprisals", "r")
    assert frame[["dataset", "model", "word"]].values.tolist() == [["local", model, "bee"]]
