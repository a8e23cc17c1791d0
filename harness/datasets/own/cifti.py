"""Reads and writes CIFTI-2 files: vertices of both hemispheres and subcortical voxels, or parcels.

`sub-01_task-alice_run-01_space-fsLR_den-91k_bold.dtseries.nii`, as fMRIPrep writes it, or `.ptseries.nii` with means of
parcels. Courses are contiguous in the file, which is mapped into memory.

Source: CIFTI-2 file format specification of the Human Connectome Project.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.datasets.own import images
from harness.datasets.own.brainordinates import Brainordinates, parcels_of
from harness.datasets.own.images import Bold, Grid, Labels
from harness.records import Floats, Integers

_SCALARS = {"dscalar": "ConnDenseScalar", "pscalar": "ConnParcelScalr"}  # intents; the name has 15 letters


class Grayordinates(Brainordinates):
    """Vertices and voxels of a dense file."""

    def write(self, stem: Path, values: Floats, title: str) -> list[Path]:
        """Write `.dscalar.nii` with one map, called by the title."""
        return [_write(stem, self.axis, values, title, "dscalar")]


@dataclass(frozen=True)
class Parcels(Grid):
    """Parcels of a parcellated file. axis: their `nibabel.cifti2.ParcelsAxis`."""

    file: str
    axis: Any
    unit: ClassVar = "parcels"

    def __len__(self) -> int:
        return len(self.axis)

    def names(self, places: Integers) -> list[str]:
        """Names in the file."""
        return [str(name) for name in self.axis.name[places]]

    def fault(self, other: Grid) -> str:
        """Whether parcels differ."""
        assert isinstance(other, Parcels)  # noqa: S101 - images of one format are compared
        return "" if self.axis == other.axis else f"has other parcels than {other.file}; use one atlas for all runs."

    def place(self, labels: Labels) -> Labels:
        """Parcels have no places for a mask or an atlas."""
        raise ValueError(f"{self.file} has parcels already; remove {labels.file}.")

    def write(self, stem: Path, values: Floats, title: str) -> list[Path]:
        """Write `.pscalar.nii` with one map, called by the title."""
        return [_write(stem, self.axis, values, title, "pscalar")]


def open_bold(paths: Sequence[Path]) -> Bold:
    """Read the header of a time series; ValueError if it is damaged, or has no time or places."""
    from nibabel.cifti2 import BrainModelAxis, ParcelsAxis, SeriesAxis

    (path,) = paths
    image, (series, axis) = _load(path)
    if not isinstance(series, SeriesAxis) or not isinstance(axis, BrainModelAxis | ParcelsAxis):
        raise ValueError(f"{path.name} is no time series of vertices, voxels or parcels; wanted .dtseries.nii.")
    grid = (Grayordinates if isinstance(axis, BrainModelAxis) else Parcels)(path.name, axis)
    tr_s = float(series.step) if series.unit == "SECOND" else 0.0
    return Bold(path.name, len(series), tr_s, grid, lambda places: _read(path, image.dataobj, places))


def read_labels(paths: Sequence[Path], *, is_atlas: bool) -> Labels:
    """Read a mask (`.dscalar.nii`, or `.dlabel.nii`, not 0) or an atlas (`.dlabel.nii`) of one map.

    Keys of 0 and below, and names such as "???" and "Medial_Wall", are no parcels.
    """
    from nibabel.cifti2 import BrainModelAxis, LabelAxis

    (path,) = paths
    image, (maps, axis) = _load(path)
    if len(maps) != 1 or not isinstance(axis, BrainModelAxis):
        raise ValueError(f"{path.name} has {len(maps)} maps; wanted one, with one number per vertex or voxel.")
    grid, values = Grayordinates(path.name, axis), np.nan_to_num(np.asarray(image.dataobj)[0])
    if not is_atlas:
        labels = Labels(path.name, grid, np.where(values != 0, 0, -1))
    else:
        table = maps.label[0] if isinstance(maps, LabelAxis) else {}
        parcel_of, parcels = parcels_of(path.name, values, {key: name for key, (name, _) in table.items()})
        labels = Labels(path.name, grid, parcel_of, tuple(parcels))
    if (labels.parcel_of < 0).all():
        wanted = "labels of parcels" if is_atlas else "1 in the mask"
        raise ValueError(f"{path.name} has no {'parcel' if is_atlas else 'value but 0'}; wanted {wanted}.")
    return labels


def _load(path: Path) -> tuple[Any, list[Any]]:
    """An opened file and its two axes."""
    image = images.load(path, "CIFTI-2")
    from nibabel.cifti2 import Cifti2Image

    if not isinstance(image, Cifti2Image) or len(image.shape) != 2:
        raise ValueError(f"{path.name} is no CIFTI-2 file of two dimensions; write it by Connectome Workbench.")
    return image, [image.header.get_axis(k) for k in range(2)]


def _read(path: Path, proxy: Any, places: Integers) -> Iterator[Floats]:
    """(scan, place) values, a few volumes at a time."""
    n_scans = proxy.shape[0]
    try:
        values = np.memmap(path, proxy.dtype, "r", proxy.offset, proxy.shape, order="F")
    except ValueError as error:
        raise ValueError(f"{path.name} ends before its last scan, {n_scans}; copy it again.") from error
    at_once = images.scans_at_once(8 * len(places))
    for start in range(0, n_scans, at_once):
        block = values[start : start + at_once][:, places].astype(np.float64)
        yield block * float(proxy.slope) + float(proxy.inter)


def _write(stem: Path, axis: Any, values: Floats, title: str, kind: str) -> Path:
    import nibabel
    from nibabel.cifti2 import Cifti2Image, ScalarAxis

    image = Cifti2Image(values.astype(np.float32)[None], (ScalarAxis([title]), axis))
    image.nifti_header.set_intent(_SCALARS[kind])
    nibabel.save(image, path := stem.with_name(f"{stem.name}.{kind}.nii"))
    return path
