"""Projects scores through the brain, as glass brains show them: the highest along each of three axes.

Of subjects who share a space the mean over subjects is shown. Coordinates are those of the voxels of NIfTI images, or
of the vertices of surfaces, if their meshes lie beside the images (`meshes.py`); those of the first subject.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.datasets.own import maps, meshes, recording, settings
from harness.datasets.own.brainordinates import Brainordinates
from harness.datasets.own.images import Bold
from harness.datasets.own.maps import Grid
from harness.datasets.own.meshes import Points
from harness.datasets.own.nifti import Voxels
from harness.records import Floats, Integers

# Name, labels of the left and right side, and the axes to the right and up (x right, y anterior, z superior).
_VIEWS = (("sagittal", "P", "A", 1, 2), ("coronal", "L", "R", 0, 2), ("axial", "L", "R", 0, 1))
_MOST_COLUMNS = 164  # of the three views together
_OF_BRIGHTEST = 0.25  # a voxel of the brain has this fraction of the intensity of bright ones


class View(NamedTuple):
    """One projection, from above to below.

    Attributes:
        name: "sagittal", "coronal" or "axial".
        left, right: what is on these sides: P(osterior), A(nterior), L(eft), R(ight).
        values: (row, column) highest scores; NaN where there is none.
        inside: (row, column) whether it is in the brain, or in the mask or atlas.
    """

    name: str
    left: str
    right: str
    values: Floats
    inside: NDArray[np.bool_]


@dataclass(frozen=True)
class Brain:
    """The projections of one model and protocol. `subject`: one of them, or such as "mean of 3 subjects"."""

    model: str
    kind: str
    dataset: str
    protocol: str
    subject: str
    views: tuple[View, ...]


def brains(name: str, scores: Iterable[Mapping[str, Any]]) -> list[Brain]:
    """Project the scores r of every model and protocol; [] if the recording has no coordinates.

    Args:
        name: "local:FOLDER", a recording of BOLD images.
        scores: rows of the table `neuroid_scores` at the chosen layers.

    Returns:
        For each model and protocol the mean over the subjects who share a space, or else each subject.
    """
    spaces: list[list[Grid]] = []
    for grid in maps.grids(name):
        shared = [space for space in spaces if _is_same(grid, space[0])]
        spaces += [] if shared else [[]]
        (shared or spaces)[-1].append(grid)
    placed = [(space, points) for space in spaces if (points := _points(name, space[0])) is not None]
    outlines = [_outline(space) for space, _ in placed]
    return [
        Brain(*_about(rows), _who(space), project(points, values, outline))
        for rows in maps.by_map(scores).values()
        for (space, points), outline in zip(placed, outlines, strict=True)
        if np.isfinite(values := _mean(space, rows)).any()
    ]


def _is_same(grid: Grid, other: Grid) -> bool:
    """Whether two subjects share a space."""
    one, two = grid.region.grid, other.region.grid
    return type(one) is type(two) and grid.space == other.space and not one.fault(two)


def _points(name: str, grid: Grid) -> Points | None:
    """Where the places of an image are; None if it is not known."""
    places = grid.region.grid
    if isinstance(places, Voxels):
        return Points(places.coordinates(np.arange(len(places))), places.size_mm)
    if not isinstance(places, Brainordinates):
        return None
    folder = recording.folder_of(name)
    return meshes.points(places, folder, settings.read(folder).bold.derivatives, grid.subject)


def project(where: Points, values: Floats, outline: Integers) -> tuple[View, ...]:
    """Project (place,) values, NaN where there is none, along three axes; outline: places that are in the brain."""
    from scipy import ndimage

    scored = np.flatnonzero(np.isfinite(values))
    points, of_outline = where.coordinates[scored], where.coordinates[outline]
    low, high = of_outline.min(axis=0), of_outline.max(axis=0)
    extent = high - low
    step = max(where.size_mm, sum(extent[across] for *_, across, _ in _VIEWS) / _MOST_COLUMNS)
    views = []
    for name, left, right, across, up in _VIEWS:
        shape = int(extent[up] / step) + 3, int(extent[across] / step) + 3  # with a margin
        raster = np.full(shape, np.nan)
        np.fmax.at(raster, _cells(points, low, high, step, across, up), values[scored])
        inside = np.zeros(shape, dtype=bool)
        inside[_cells(of_outline, low, high, step, across, up)] = True
        views.append(View(name, left, right, raster, ndimage.binary_fill_holes(inside)))
    return tuple(views)


def _cells(points: Floats, low: Floats, high: Floats, step: float, across: int, up: int) -> tuple[Integers, Integers]:
    """(point,) rows and columns of a view."""
    rows, columns = (high[up] - points[:, up]) / step, (points[:, across] - low[across]) / step
    return np.rint(rows).astype(np.int64) + 1, np.rint(columns).astype(np.int64) + 1


def _about(rows: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str, str]:
    row = next(iter(rows.values()))
    return row["model"], row["kind"], row["dataset"], row["protocol"]


def _who(space: Sequence[Grid]) -> str:
    return space[0].subject if len(space) == 1 else f"mean of {len(space)} subjects"


def _mean(space: Sequence[Grid], rows: Mapping[str, Mapping[str, Any]]) -> Floats:
    """(place,) mean over subjects; NaN where no subject has a score."""
    n_places = len(space[0].region.grid)
    total, n = np.zeros(n_places), np.zeros(n_places)
    for grid in space:
        values = grid.region.everywhere(maps.column(grid, rows, "r"))
        total += np.nan_to_num(values)
        n += np.isfinite(values)
    means: Floats = np.divide(total, n, out=np.full(n_places, np.nan), where=n > 0)
    return means


def _outline(space: Sequence[Grid]) -> Integers:
    """Places in the mask or atlas of any subject, or in the brain as the first volume shows it; of surfaces, all."""
    inside = np.zeros(len(space[0].region.grid), dtype=bool)
    for grid in space:
        inside[grid.region.places] = True
    inside |= _brain(space[0].bold) if isinstance(space[0].bold.grid, Voxels) else True
    return np.flatnonzero(inside)


def _brain(bold: Bold) -> NDArray[np.bool_]:
    """(place,) whether a voxel of the first volume is bright and connected to most others; none without a mean."""
    from scipy import ndimage

    volume = np.nan_to_num(next(bold.read(np.arange(len(bold.grid))))[0])
    bright = volume > _OF_BRIGHTEST * np.percentile(volume, 98)
    if volume.min() < 0 or not 0.02 < bright.mean() < 0.7:
        return np.zeros(len(volume), dtype=bool)
    assert isinstance(bold.grid, Voxels)  # noqa: S101 - chosen in `brains`
    parts, _ = ndimage.label(bright.reshape(bold.grid.shape, order="F"))
    largest = int(np.bincount(parts[parts > 0]).argmax())
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(parts == largest).reshape(-1, order="F")
    return filled
