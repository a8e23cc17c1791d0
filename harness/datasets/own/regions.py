"""Finds the mask or atlas of a subject, in its folder or that of all, and names its neuroids.

    mask.nii.gz, atlas.nii.gz                              of NIfTI images
    hemi-L_atlas.label.gii (any *.label.gii), *.dlabel.nii  of surfaces; masks are called ..._mask

`atlas.tsv` or `atlas.csv` names parcels: index, name, and optionally roi. As in BIDS, index is the number in the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from harness.datasets.own import bids, cifti, files, gifti, nifti
from harness.datasets.own.images import Bold, Grid, Labels, Parcel
from harness.records import Floats, Integers

# By the end of the name; the first that fits.
_FORMATS = {
    ".gii": gifti, ".dtseries.nii": cifti, ".ptseries.nii": cifti, ".dlabel.nii": cifti, ".dscalar.nii": cifti,
    ".nii": nifti, ".nii.gz": nifti,
}  # fmt: skip
_OF_SURFACES = {
    "mask": (".shape.gii", ".label.gii", ".dscalar.nii", ".dlabel.nii"), "atlas": (".label.gii", ".dlabel.nii"),
}  # fmt: skip
_ENDINGS = (*_OF_SURFACES["mask"], *(f"{kind}.nii{zipped}" for kind in ("mask", "atlas") for zipped in ("", ".gz")))


@dataclass(frozen=True)
class Region:
    """Places that are read of a subject's images.

    Attributes:
        file: mask, atlas, or image of which all places are read, for messages.
        grid: grid of the image.
        places: (place,) indices into the grid, ascending.
        parcel_of: (place,) index of each place's parcel; None if every place is a neuroid.
        parcels: parcels in order; () if every place is a neuroid.
    """

    file: str
    grid: Grid
    places: Integers
    parcel_of: Integers | None = None
    parcels: tuple[Parcel, ...] = ()

    def __len__(self) -> int:
        return len(self.places) if self.parcel_of is None else len(self.parcels)

    def everywhere(self, values: Floats) -> Floats:
        """(neuroid,) values at all places of the grid, (place,) float32; NaN outside."""
        spread = np.full(len(self.grid), np.nan, dtype=np.float32)
        spread[self.places] = values if self.parcel_of is None else values[self.parcel_of]
        return spread


def open_bold(paths: Sequence[Path]) -> Bold:
    """Open the image of a run, or the files of its hemispheres; ValueError if they are damaged."""
    bold: Bold = _format(paths[0]).open_bold(paths)
    return bold


def find(folder: Path, subject: str, grid: Grid) -> Region:
    """The places that are read of a subject: a mask's, an atlas's, an atlas's within a mask, or those of a surface.

    Args:
        folder: root of the BIDS folder.
        subject: such as "sub-01".
        grid: grid of the subject's images.

    Raises:
        ValueError: if mask or atlas do not fit the images or each other, or volumes have neither.
    """
    mask, atlas = (_labels(folder, subject, kind, grid) for kind in ("mask", "atlas"))
    if not (mask or atlas):
        if grid.needs_mask:
            raise ValueError(
                f"{folder} has BOLD images, but neither mask.nii.gz (voxels) nor atlas.nii.gz (parcel means), and "
                f"{subject} has none of its own; add one, on the grid of the images."
            )
        return Region(grid.file, grid, np.arange(len(grid)))
    inside = np.logical_and.reduce([labels.parcel_of >= 0 for labels in (mask, atlas) if labels])
    places = np.flatnonzero(inside)
    if not atlas:
        assert mask  # noqa: S101 - one of the two is there
        return Region(mask.file, mask.grid, places)
    if mask and not len(places):
        raise ValueError(f"no voxel or vertex of {atlas.file} is in {mask.file}.")
    present, parcel_of = np.unique(atlas.parcel_of[places], return_inverse=True)
    return Region(atlas.file, atlas.grid, places, parcel_of, tuple(atlas.parcels[k] for k in present))


def neuroids(folder: Path, subject: str, region: Region, encoding: str | None) -> list[tuple[str, str, str]]:
    """(neuroid_id, subject, roi) of each neuroid: "sub-01.x10y20z5", "sub-01.L1234", or "sub-01.NAME" of a parcel."""
    if region.parcel_of is None:
        return [(f"{subject}.{name}", subject, "") for name in region.grid.names(region.places)]
    named = _table(folder, subject, region, encoding)
    pairs = [named[parcel.number] if named else (parcel.name or str(parcel.number), "") for parcel in region.parcels]
    names = _distinct([name for name, _ in pairs], region)
    return [(f"{subject}.{name}", subject, roi) for name, (_, roi) in zip(names, pairs, strict=True)]


def candidates(folder: Path) -> list[Path]:
    """Files in a folder that are masks or atlases by the end of their names."""
    return [path for path in sorted(folder.iterdir()) if path.name.endswith(_ENDINGS)]


def ignored(folder: Path, grid: Grid) -> list[str]:
    """A note on masks and atlases in a folder that are not those of its images."""
    own = {path for kind in ("mask", "atlas") for path in _paths(folder, kind, grid)}
    names = [path.name for path in candidates(folder) if path not in own]
    wanted = "mask.nii.gz or atlas.nii.gz" if grid.needs_mask else "*_mask.shape.gii, *.label.gii or *.dlabel.nii"
    return [f"{', '.join(names)}: ignored; a mask or atlas of these images is called {wanted}."] if names else []


def _labels(folder: Path, subject: str, kind: str, grid: Grid) -> Labels | None:
    """A subject's own mask or atlas, or that of all, at the places of the grid; None if there is none."""
    paths = _paths(folder / subject, kind, grid) or _paths(folder, kind, grid)
    return grid.place(_format(paths[0]).read_labels(paths, is_atlas=kind == "atlas")) if paths else None


def _paths(folder: Path, kind: str, grid: Grid) -> list[Path]:
    """Files of a mask or an atlas in a folder: one, or one for each hemisphere."""
    if grid.needs_mask:
        return [path for name in (f"{kind}.nii.gz", f"{kind}.nii") if (path := folder / name).is_file()][:1]
    endings = _OF_SURFACES[kind]
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [path for path in listed if path.name.endswith(endings) and _is_mask(path) == (kind == "mask")]
    if len(paths) > 1 and any(path.suffix == ".nii" for path in paths):
        raise ValueError(f"{folder} has several files of the {kind}: {', '.join(p.name for p in paths)}; keep one.")
    return paths


def _is_mask(path: Path) -> bool:
    return bids.parse(path.name).suffix == "mask"


def _format(path: Path) -> ModuleType:
    """The module that reads a file, by the end of its name."""
    return next(module for ending, module in _FORMATS.items() if path.name.endswith(ending))


def _table(folder: Path, subject: str, region: Region, encoding: str | None) -> dict[int, tuple[str, str]]:
    """Name and roi of each parcel by its number, from atlas.tsv beside the atlas; {} if there is none."""
    has_own = bool(_paths(folder / subject, "atlas", region.grid))
    names = files.find(folder / subject, "atlas", ("index", "name"), None, encoding) if has_own else None
    names = names or files.find(folder, "atlas", ("index", "name"), None, encoding)
    if names is None:
        return {}
    rois = names.texts("roi") if "roi" in names.columns else ("",) * len(names.ids())
    named: dict[int, tuple[str, str]] = {}
    for number, name, roi in zip(names.numbers("index", complete=True), names.texts("name"), rois, strict=True):
        named[int(number)] = name, roi
    if unknown := [parcel.number for parcel in region.parcels if parcel.number not in named]:
        raise ValueError(f"{names.file} has no index {unknown[0]}, which is a parcel of {region.file}; add its row.")
    if len({name for name, _ in named.values()}) < len(named):
        raise ValueError(f"{names.file}: a name appears more than once; give each parcel its own.")
    return named


def _distinct(names: list[str], region: Region) -> list[str]:
    """Names, with the side before those that both hemispheres have; ValueError if two parcels have one."""
    of_both = {name for name, n in Counter(names).items() if n > 1}
    sides = [f"{parcel.side}_" if parcel.side else "" for parcel in region.parcels]
    distinct = [side + name if name in of_both else name for side, name in zip(sides, names, strict=True)]
    if len(set(distinct)) < len(distinct):
        doubled = next(name for name, n in Counter(distinct).items() if n > 1)
        raise ValueError(f"{region.file}: the name {doubled!r} appears more than once; give each parcel its own.")
    return distinct
