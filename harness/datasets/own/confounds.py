"""Reads the nuisance regressors of a run from `*_desc-confounds_timeseries.tsv`, as fMRIPrep writes them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from harness.datasets.own import files
from harness.datasets.own.bids import Run
from harness.datasets.own.files import REMEDY
from harness.delimited import table
from harness.delimited.encodings import TextSource
from harness.records import Floats


def path_of(run: Run) -> Path | None:
    """Confounds of a run, as fMRIPrep names them now or did before version 20."""
    return run.find("timeseries", ".tsv", desc="confounds") or run.find("regressors", ".tsv", desc="confounds")


def read(run: Run, n_scans: int, patterns: Sequence[str], encoding: str | None) -> Floats:
    """Read the confounds of one run.

    Args:
        run: the run.
        n_scans: its number of scans.
        patterns: names of columns; `*` stands for any characters.
        encoding: encoding of tables that are not UTF-8 and do not declare theirs.

    Returns:
        (scan, regressor) float64. A missing first row, as derivatives in time have it, repeats the second, as in
        nilearn.

    Raises:
        ValueError: if there is no file, a column is unknown, or other values are missing.
    """
    if not patterns:
        return np.empty((n_scans, 0))
    path = path_of(run)
    if path is None:
        raise ValueError(f"{run.file.name} has no desc-confounds_timeseries.tsv, but dataset.json names confounds.")
    content = table.read(TextSource(str(path), encoding, REMEDY))
    available = list(content.frame.columns)
    names: list[str] = []
    for pattern in patterns:
        if not (fitting := [name for name in available if fnmatchcase(name, pattern)]):
            raise ValueError(f"{path.name} has no column {pattern!r}{files.nearest(pattern, available)}.")
        names += [name for name in fitting if name not in names]
    if len(content.frame) != n_scans:
        raise ValueError(f"{path.name} has {len(content.frame)} rows, but {run.file.name} has {n_scans} scans.")
    values = np.stack([content.numerals(name).values for name in names], axis=1)
    values[0] = np.where(np.isnan(values[0]), values[1], values[0])
    if len(missing := np.argwhere(np.isnan(values))):
        row, column = missing[0]
        raise ValueError(f"{content.where(int(row), names[column])} is empty; choose other confounds, or fill it.")
    return values
