"""Columns and rows make the same tables, and what does not fit is named."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.runs import assemble
from harness.storage import tables

KINDS = {pa.string(): "word", pa.float64(): 0.5, pa.int64(): 3, pa.bool_(): True}


def columns():
    same = {name: KINDS[kind] for name, kind in tables.SCHEMAS["neuroid_scores"].items()}
    return same | {"run": None, "neuroid_id": ("a", "b", "c"), "r": np.array([0.1, np.nan, -0.2])}


def test_columns_are_the_rows_that_they_stand_for():
    whole = columns()
    rows = [{**whole, "neuroid_id": name, "r": r} for name, r in zip(whole["neuroid_id"], whole["r"], strict=True)]
    ours, theirs = tables.columns_to_arrow("neuroid_scores", whole), tables.rows_to_arrow("neuroid_scores", rows)
    assert ours.schema == theirs.schema
    assert ours.to_pandas().equals(theirs.to_pandas())
    assert ours["r"].null_count == 0  # NaN is not measurable, and not absent


@pytest.mark.parametrize(("change", "said"), [
    (lambda c: c.pop("alpha"), r"columns \['alpha'\] are unknown or missing"),
    (lambda c: c.update(aplha=1.0), r"columns \['aplha'\] are unknown or missing"),
    (lambda c: c.update(roi=("x", "y")), r"columns of \[2, 3\] rows"),
    (lambda c: c.update(neuroid_id="a", r=0.1), r"columns of \[\] rows"),
])  # fmt: skip
def test_a_column_that_does_not_fit_is_named(change, said):
    whole = columns()
    change(whole)
    with pytest.raises(ValueError, match=said):
        tables.columns_to_arrow("neuroid_scores", whole)


@pytest.mark.parametrize("model", ["org/model@refs/pr/2", "m@step-0600", "a%2Fb", "plain", "with space", "x:untrained"])
def test_a_partition_gives_back_the_name_of_its_model_and_stays_one_folder(model, tmp_path):
    folder = tmp_path / "tables" / "word_surprisals" / assemble.partition("r", "local", model)
    assert folder.parent.name == "dataset=local"
    assert ("/" in model or "%" in model) != (folder.name == f"model={model}")
    folder.mkdir(parents=True)
    schema = tables.schema("word_surprisals")
    rows = pa.Table.from_pylist([{"word": "bee"}], schema=schema).drop_columns(list(tables.PARTITIONS))
    pq.write_table(rows, folder / "part-0.parquet")
    found = tables.read(str(tmp_path), "word_surprisals", "r")
    assert found[["dataset", "model", "word"]].values.tolist() == [["local", model, "bee"]]
