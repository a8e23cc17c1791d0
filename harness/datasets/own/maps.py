"""Writes scores of neuroids as images in the format and space of the BOLD images they come from.

    MAPS/MODEL/PROTOCOL/sub-01_stat-r_statmap.nii.gz, and beside it a .json that says what it shows
    sub-01_hemi-L_stat-r_statmap.func.gii and hemi-R of GIfTI; .dscalar.nii or .pscalar.nii of CIFTI

Names follow BIDS (statistical maps). Every place of a parcel has the parcel's value; places outside the mask or atlas,
and neuroids without the statistic, are NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from harness.datasets.own import bids, recording, regions, settings
from harness.datasets.own.images import Bold
from harness.datasets.own.regions import Region
from harness.names import unknown
from harness.records import Floats

# Columns of the table `neuroid_scores` that can be mapped, and what they are.
STATISTICS = {
    "r": "held-out score",
    "p": "p of the permutation test",
    "q": "p after Benjamini-Hochberg over the neuroids of all subjects",
    "ceiling": "noise ceiling of the score",
    "ratio": "score as a fraction of its ceiling",
    "alpha": "median penalty of ridge regression over folds",
    "layer": "number of the layer chosen for the neuroid's target",
}
_ORIGIN = ("model", "dataset", "protocol", "metric", "run", "code_version")


class Grid(NamedTuple):
    """A subject's mask, atlas or surface, the ids of its neuroids in the order of the region, and its first image."""

    subject: str
    region: Region
    neuroid_ids: tuple[str, ...]
    bold: Bold
    space: str = ""


def write(
    name: str, scores: Iterable[Mapping[str, Any]], target: Path, statistics: Sequence[str] = ("r", "q"),
    max_q: float | None = None,
) -> list[Path]:  # fmt: skip
    """Write the maps of all subjects, models and protocols.

    Args:
        name: "local:FOLDER", a recording of BOLD images.
        scores: rows of the table `neuroid_scores` at the chosen layers.
        target: folder for the maps; maps of the same names are replaced.
        statistics: columns of the table, of `STATISTICS`.
        max_q: also writes maps of r that are 0 unless q is below this value.

    Returns:
        The images.

    Raises:
        ValueError: if the folder has no images, a neuroid is not in it, there are no rows, or a statistic is unknown.
    """
    for statistic in statistics:
        if statistic not in STATISTICS:
            raise unknown("statistic", statistic, STATISTICS)
    if max_q is not None and not 0 < max_q <= 1:
        raise ValueError(f"q must be above 0 and at most 1, not {max_q:g}.")
    found, rows_of = grids(name), by_map(scores)
    if not rows_of:
        raise ValueError(f"no scores of neuroids of {name} are in the tables, so there are no maps to write.")
    known = {neuroid for grid in found for neuroid in grid.neuroid_ids}
    written: list[Path] = []
    for (model, protocol), rows in rows_of.items():
        if strange := next((neuroid for neuroid in rows if neuroid not in known), None):
            raise ValueError(f"neuroid {strange} of {model} is not in {name}; give the folder that was scored.")
        folder = folder_of(target, model, protocol)
        folder.mkdir(parents=True, exist_ok=True)
        written += [
            path for grid in found if any(neuroid in rows for neuroid in grid.neuroid_ids)
            for label, values, text in _maps(grid, rows, statistics, max_q)
            for path in _write_one(folder / f"{grid.subject}_{label}_statmap", grid, rows, values, text)
        ]  # fmt: skip
    return written


def label_of(name: str) -> str:
    """The name of "local:FOLDER" in result tables."""
    return settings.read(recording.folder_of(name)).name


def grids(name: str) -> list[Grid]:
    """The mask, atlas or surface of every subject of "local:FOLDER"; ValueError if it has no BOLD images."""
    folder = recording.folder_of(name)
    if not bids.has_runs(folder):
        raise ValueError(f"{name} has no BOLD images (sub-XX/func/*_bold.*), so there is no space for maps.")
    options = settings.read(folder)
    runs = bids.find_runs(folder, options.bold.derivatives, options.bold.space, [])
    found = []
    for subject, run in {run.subject: run for run in reversed(runs)}.items():  # the first of each
        bold = regions.open_bold(run.images)
        region = regions.find(folder, subject, bold.grid)
        names = regions.neuroids(folder, subject, region, options.encoding)
        space = run.name.entities.get("space", "")
        found.append(Grid(subject, region, tuple(neuroid for neuroid, _, _ in names), bold, space))
    return found[::-1]


def folder_of(target: Path, model: str, protocol: str) -> Path:
    """The folder of the maps of one model and protocol."""
    return target / quote(model, safe=" :@+") / protocol


def by_map(scores: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    """The rows of each model and protocol, by neuroid."""
    rows_of: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in scores:
        rows_of.setdefault((row["model"], row["protocol"]), {})[row["neuroid_id"]] = row
    return rows_of


def column(grid: Grid, rows: Mapping[str, Mapping[str, Any]], statistic: str) -> Floats:
    """(neuroid,) a statistic of one subject's neuroids; NaN where there is none."""
    values = [rows.get(neuroid, {}).get(statistic) for neuroid in grid.neuroid_ids]
    return np.array([math.nan if value is None else float(value) for value in values])


def _maps(
    grid: Grid, rows: Mapping[str, Mapping[str, Any]], statistics: Sequence[str], max_q: float | None
) -> Iterator[tuple[str, Any, str]]:
    """(entities of the file name, (neuroid,) values, what they are) of one subject's maps."""
    columns = {name: column(grid, rows, name) for name in dict.fromkeys((*statistics, "r", "q"))}
    for name in statistics:
        yield f"stat-{name}", columns[name], STATISTICS[name]
    if max_q is not None:
        kept = np.where(np.isnan(columns["r"]), np.nan, np.where(columns["q"] < max_q, columns["r"], 0.0))
        yield f"desc-q{f'{max_q:g}'.replace('.', 'p')}_stat-r", kept, f"{STATISTICS['r']} where q < {max_q:g}, else 0"


def _write_one(stem: Path, grid: Grid, rows: Mapping[str, Mapping[str, Any]], values: Any, text: str) -> list[Path]:
    """Write an image, or one for each hemisphere, and the JSON beside it."""
    of_subject = [rows[neuroid] for neuroid in grid.neuroid_ids if neuroid in rows]
    content = {
        "Description": text,
        **{column: of_subject[0][column] for column in _ORIGIN},
        "layers": sorted({f"{row['stack']} {row['layer']}" for row in of_subject}),
        "n_neuroids": int(np.isfinite(values).sum()),
    }
    content |= {"space": grid.space} if grid.space else {}
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    title = f"{content['model']}, {content['protocol']}: {text}"
    return grid.region.grid.write(stem, grid.region.everywhere(values), title)
