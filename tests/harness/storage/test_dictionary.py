"""Every table and column is described, and nothing else."""

import json

import pytest

from harness.cli.commands import main
from harness.storage import dictionary
from harness.storage.schemas import SCHEMAS


def test_every_table_is_described():
    assert set(dictionary.TABLES) == set(SCHEMAS)


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_column_of_a_table_is_described_in_order(table):
    rows = dictionary.columns(table)
    assert [row["column"] for row in rows] == list(SCHEMAS[table])
    assert all(row["meaning"] for row in rows)


def test_no_description_is_of_a_column_that_does_not_exist():
    assert set(dictionary._COLUMNS) == {name for columns in SCHEMAS.values() for name in columns}
    assert all(name in SCHEMAS[table] for table, name in dictionary._OVERRIDES)


def test_the_command_prints_tables_and_columns(capsys):
    assert main(["tables", "--json"]) == 0
    assert [row["table"] for row in json.loads(capsys.readouterr().out)] == list(dictionary.TABLES)
    assert main(["tables", "runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == {
        "column": "run", "type": "string", "meaning": "name of the run: its spec and a hash of what was computed",
    }  # fmt: skip
    assert main(["tables", "model_score"]) == 2
    assert "table 'model_score' is unknown; the nearest are model_scores" in capsys.readouterr().err
