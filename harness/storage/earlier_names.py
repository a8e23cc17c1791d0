"""Names that earlier versions gave to columns, in tables and in the stored units that tables are made from.

Files are never rewritten: whatever reads a Parquet file of ours asks for both names, and uses the current one.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from harness.storage.schemas import SCHEMAS

# Table -> name that earlier versions wrote -> current name.
EARLIER: dict[str, dict[str, str]] = {
    "word_surprisals": {"story": "passage"},
    "tuning_tests": {"n_people": "n_subjects", "p_least": "p_min"},
    "correlations": {"given": "covariate"},
    "benchmark_scores": {"cut": "truncated"},
    "folds": {"side": "subset"},
    "watched": {"asked": "spec_hash", "stamp": "fingerprint"},
    "failures": {"station": "stage"},
    "runs": {"predicted_s": "forecast_s", "read_s": "extraction_s"},
}


def names_in_files(table: str, columns: Iterable[str]) -> list[str]:
    """Columns under their current names, then under those that older files have for them."""
    columns = list(columns)
    return [*columns, *(earlier for earlier, current in EARLIER.get(table, {}).items() if current in columns)]


def schema_of_files(table: str) -> pa.Schema:
    """Arrow schema that reads files of this and of earlier versions; `with_current_names` makes it the table's own."""
    current_names = EARLIER.get(table, {})
    types = {name: SCHEMAS[table][current_names.get(name, name)] for name in names_in_files(table, SCHEMAS[table])}
    return pa.schema(list(types.items()))


def with_current_names(table: str, rows: pa.Table) -> pa.Table:
    """Give columns their current names.

    Args:
        table: name of the table.
        rows: rows of one file, or of several files of different versions read with `schema_of_files`, where each row
            has its value under one of the two names.
    """
    for earlier, current in EARLIER.get(table, {}).items():
        if earlier not in rows.column_names:
            continue
        if current not in rows.column_names:
            rows = rows.rename_columns({earlier: current})
            continue
        values = pc.coalesce(rows[current], rows[earlier])
        rows = rows.set_column(rows.schema.get_field_index(current), current, values).drop_columns([earlier])
    return rows
