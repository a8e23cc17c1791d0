"""Files as an earlier version wrote them: the same content under the column names of that version."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.storage.manifest import MANIFEST, describe

# Table -> current name -> name in an earlier version.
NAMES = {
    "word_surprisals": {"passage": "story"},
    "tuning_tests": {"n_subjects": "n_people", "p_min": "p_least"},
    "correlations": {"covariate": "given"},
    "benchmark_scores": {"truncated": "cut"},
    "folds": {"subset": "side"},
    "watched": {"spec_hash": "asked", "fingerprint": "stamp"},
    "failures": {"stage": "station"},
    "runs": {"forecast_s": "predicted_s", "extraction_s": "read_s"},
}


def renamed(table: str, rows: pa.Table) -> pa.Table:
    """Rows of a table under the column names of an earlier version."""
    return rows.rename_columns([NAMES[table].get(name, name) for name in rows.column_names])


def rewrite(table: str, file: Path) -> None:
    """Replace a Parquet file of a table by the file of an earlier version."""
    rows = renamed(table, pq.read_table(file, partitioning=None))
    file.unlink()
    pq.write_table(rows, file)


def rewrite_units(out: str, kind: str, file: str) -> list[Path]:
    """Replace the words in stored units, and the manifests that have their checksums; returns the folders of the units.

    Args:
        out: folder of units and tables.
        kind: kind of the units.
        file: name of the file with columns of `word_surprisals`.
    """
    folders = [path.parent for path in Path(out).glob(f"units/{kind}/*/{file}")]
    for folder in folders:
        rewrite("word_surprisals", folder / file)
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest.pop("checksum")  # which an earlier version did not write
        manifest["files"][file] = describe([folder / file])[file]
        (folder / MANIFEST).write_text(json.dumps(manifest))
    return folders
