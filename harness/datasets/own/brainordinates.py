"""Vertices of surfaces and voxels of subcortical structures, as GIfTI and CIFTI images have them.

A place is known by its structure and the number of its vertex, or the indices of its voxel, so that an atlas of all
vertices fits images without the medial wall.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.datasets.own.images import Grid, Labels, Parcel
from harness.records import Integers

LEFT, RIGHT = "CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT"
SIDES = {LEFT: "L", RIGHT: "R"}
_AFFINE_MM = 1e-2
# Names of FreeSurfer, the Human Connectome Project and Schaefer et al. for vertices of no parcel.
_NO_PARCEL = frozenset({
    "???", "unknown", "background", "medial_wall", "medial wall", "medialwall", "corpuscallosum",
    "background+freesurfer_defined_medial_wall",
})  # fmt: skip


@dataclass(frozen=True)
class Brainordinates(Grid):
    """Places of a GIfTI or CIFTI image. axis: their `nibabel.cifti2.BrainModelAxis`."""

    file: str
    axis: Any
    unit: ClassVar = "vertices and voxels"

    def __len__(self) -> int:
        return len(self.axis)

    def names(self, places: Integers) -> list[str]:
        """Side and number of a vertex from 0, as "L1234", or indices of a voxel from 0, as "x30y41z22"."""
        columns = (self.axis.name[places], self.axis.vertex[places], self.axis.voxel[places])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [_name(structure, vertex, voxel) for structure, vertex, voxel in rows]

    def fault(self, other: Grid) -> str:
        """In which structure places differ, and the remedy."""
        assert isinstance(other, Brainordinates)  # noqa: S101 - the masks of surfaces are surfaces
        if self.axis == other.axis:
            return ""
        remedy = "choose images, mask and atlas of one space and density."
        own, others = _sizes(self.axis), _sizes(other.axis)
        if different := [name for name in {**own, **others} if own.get(name) != others.get(name)]:
            name = different[0]
            return f"has {own.get(name, 'no places')} in {name}, {other.file} {others.get(name, 'none')}; {remedy}"
        return f"has other vertices or voxels than {other.file}; {remedy}"

    def place(self, labels: Labels) -> Labels:
        """The mask or atlas at these vertices and voxels; places that it lacks are outside."""
        parcel_of = np.full(len(self), -1)
        assert isinstance(labels.grid, Brainordinates)  # noqa: S101 - the masks of surfaces are surfaces
        theirs = {name: (where, axis) for name, where, axis in labels.grid.axis.iter_structures()}
        for name, where, axis in self.axis.iter_structures():
            if name not in theirs:
                continue
            their_where, their_axis = theirs[name]
            self._require_same_size(name, labels.file, their_axis)
            parcel_at = np.full(_size(axis, name), -1)
            parcel_at[_numbers(their_axis, name)] = labels.parcel_of[their_where]
            parcel_of[where] = parcel_at[_numbers(axis, name)]
        if (parcel_of < 0).all():
            raise ValueError(f"{labels.file} has no vertex or voxel of {self.file}; give that of the images' space.")
        return labels._replace(grid=self, parcel_of=parcel_of)

    def _require_same_size(self, name: str, file: str, axis: Any) -> None:
        size, theirs = _size(self.axis, name), _size(axis, name)
        if size != theirs:
            raise ValueError(
                f"{file} has {theirs} vertices in {name}, {self.file} {size}; give that of the images' space and "
                "density, such as fsaverage5."
            )
        if name not in self.axis.nvertices and not np.allclose(self.axis.affine, axis.affine, atol=_AFFINE_MM):
            raise ValueError(f"{file} has another affine of voxels than {self.file}; resample it to the images' grid.")


def _name(structure: str, vertex: int, voxel: list[int]) -> str:
    if vertex < 0:
        return "x{}y{}z{}".format(*voxel)
    side = SIDES.get(structure) or structure.removeprefix("CIFTI_STRUCTURE_").lower() + "-"
    return f"{side}{vertex}"


def _sizes(axis: Any) -> dict[str, str]:
    """Vertices of each surface and shape of the volume, in words."""
    sizes = {str(name): f"{n} vertices" for name, n in axis.nvertices.items()}
    shape = axis.volume_shape
    return sizes | ({"the volume": f"{' x '.join(map(str, shape))} voxels"} if shape else {})


def _size(axis: Any, name: str) -> int:
    """Number of vertices of a surface, or of voxels of the volume."""
    return int(axis.nvertices[name]) if name in axis.nvertices else int(np.prod(axis.volume_shape))


def _numbers(axis: Any, name: str) -> Integers:
    """(place,) numbers of the vertices or voxels of one structure."""
    if name in axis.nvertices:
        vertices: Integers = axis.vertex
        return vertices
    voxels: Integers = np.ravel_multi_index(tuple(axis.voxel.T), axis.volume_shape)
    return voxels


def parcels_of(file: str, keys: Any, names: dict[int, str], side: str = "") -> tuple[Integers, list[Parcel]]:
    """(place,) index of each place's parcel, -1 outside, and the parcels, by their keys in a label table."""
    if (keys != np.round(keys)).any():
        raise ValueError(f"{file}: wanted whole numbers, one per parcel; was it resampled by interpolation?")
    present, index = np.unique(keys.astype(np.int64), return_inverse=True)
    is_parcel = [key > 0 and names.get(key, "").strip().lower() not in _NO_PARCEL for key in present.tolist()]
    rank = np.where(is_parcel, np.cumsum(is_parcel) - 1, -1)
    chosen = present[np.array(is_parcel, dtype=bool)].tolist()
    return rank[index], [Parcel(key, names.get(key, "").strip(), side) for key in chosen]
