"""Finds where vertices are: the meshes of surfaces beside the images, by which scores are drawn as glass brains.

    sub-01/anat/sub-01_space-fsLR_den-32k_hemi-L_midthickness.surf.gii      fMRIPrep
    sourcedata/freesurfer/fsaverage5/surf/lh.pial                           FreeSurfer
    tpl-fsaverage_hemi-L_den-10k_pial.surf.gii, hemi-L_pial.surf.gii        any, in the folder or that of a subject
    pial_left.gii.gz                                                        nilearn, likewise

A mesh fits if it has as many vertices as the images' surface. Inflated surfaces and spheres are not used.

Source: BIDS derivatives and the outputs of fMRIPrep; GIFTI Surface Data Format 1.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.datasets.own import images
from harness.datasets.own.brainordinates import SIDES, Brainordinates
from harness.records import Floats

# Of several meshes of one folder the first of these is used.
_KINDS = ("midthickness", "graymid", "pial", "white", "smoothwm")
_OTHERS = re.compile(r"inflated|sphere|flat|\.(?:func|label|shape)\.")
_SIDES = {"L": re.compile(r"(?:^|[._-])(?:L|lh|left)[._]"), "R": re.compile(r"(?:^|[._-])(?:R|rh|right)[._]")}


class Points(NamedTuple):
    """(place, 3) mm to the right, anterior and superior, and the distance of neighbours."""

    coordinates: Floats
    size_mm: float


def points(grid: Brainordinates, root: Path, derivatives: str, subject: str) -> Points | None:
    """Where the vertices and voxels of an image are; None if a hemisphere has no mesh.

    Args:
        grid: of the image.
        root: of the BIDS folder.
        derivatives: folder below it with the images, "" for the root itself.
        subject: such as "sub-01".

    Raises:
        ValueError: if a mesh is damaged.
    """
    coordinates, sizes = np.full((len(grid), 3), np.nan), []
    folders = list(dict.fromkeys(_folders(root, derivatives, subject)))
    for structure, where, axis in grid.axis.iter_structures():
        if structure not in grid.axis.nvertices:
            coordinates[where] = axis.voxel @ axis.affine[:3, :3].T + axis.affine[:3, 3]
            continue
        mesh = _find(folders, SIDES.get(structure, ""), grid.axis.nvertices[structure])
        if mesh is None:
            return None
        coordinates[where] = mesh.coordinates[axis.vertex]
        sizes.append(mesh.size_mm)
    return Points(coordinates, max(sizes)) if sizes else None


def candidates(folder: Path) -> list[Path]:
    """Files in a folder that are meshes by their names."""
    return [path for path in sorted(folder.iterdir()) if any(_is_mesh(path, kind) for kind in _KINDS)]


def _folders(root: Path, derivatives: str, subject: str) -> Iterator[Path]:
    """Folders in which a subject's meshes may lie, the nearest first."""
    for source in (root / derivatives, root):
        yield from (source / subject / "anat", *sorted((source / subject).glob("ses-*/anat")), source / subject, source)
    for source in (root / derivatives, root, root / "derivatives"):
        for freesurfer in (source / "sourcedata" / "freesurfer", source / "freesurfer"):
            yield from (path / "surf" for path in (freesurfer / subject, *sorted(freesurfer.glob("fsaverage*"))))


def _find(folders: Sequence[Path], side: str, n_vertices: int) -> Points | None:
    """The mesh of a hemisphere with this number of vertices."""
    for folder in folders if side else ():
        files = [path for path in candidates(folder) if _SIDES[side].search(path.name)] if folder.is_dir() else []
        for path in (path for kind in _KINDS for path in files if _is_mesh(path, kind)):
            vertices, triangles = _read(path)
            if len(vertices) == n_vertices:
                edges = vertices[triangles] - vertices[np.roll(triangles, 1, axis=1)]
                return Points(vertices, float(np.median(np.linalg.norm(edges, axis=2))))
    return None


def _is_mesh(path: Path, kind: str) -> bool:
    is_gifti = path.name.endswith((".gii", ".gii.gz")) and kind in path.name and not _OTHERS.search(path.name)
    return is_gifti or path.suffix == f".{kind}"


def _read(path: Path) -> tuple[Floats, Any]:
    """(vertex, 3) coordinates in mm, and (triangle, 3) numbers of vertices."""
    images.require_nibabel(path.name, "surface")
    from nibabel import freesurfer

    if ".gii" in path.suffixes:
        image = images.load(path, "GIfTI")
        arrays = [image.agg_data(name) for name in ("pointset", "triangle")]
    else:
        try:
            arrays = list(freesurfer.read_geometry(path))
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{path.name} cannot be read as a surface of FreeSurfer ({error}); copy it again."
            ) from error
    if any(np.ndim(array) != 2 or np.shape(array)[1] != 3 for array in arrays):
        raise ValueError(f"{path.name} has no points and triangles; copy it again.")
    vertices, triangles = arrays
    return np.asarray(vertices, dtype=float), np.asarray(triangles)
