"""Finds the mask or atlas of a subject, and the names of its neuroids.

`atlas.tsv` or `atlas.csv` names parcels: index, name, and optionally roi. As in BIDS, index is the number in the image.
"""

from __future__ import annotations

from pathlib import Path

from harness.datasets.own import files, images
from harness.datasets.own.images import Region


def _image(folder: Path, subject: str, name: str) -> Path | None:
    """A subject's own mask or atlas, or that of all."""
    places = (place / f"{name}{suffix}" for place in (folder / subject, folder) for suffix in (".nii.gz", ".nii"))
    return next((path for path in places if path.is_file()), None)


def find(folder: Path, subject: str) -> Region:
    """The voxels that are read of a subject: a mask's, an atlas's, or an atlas's within a mask."""
    mask, atlas = (_image(folder, subject, name) for name in ("mask", "atlas"))
    if not (mask or atlas):
        raise ValueError(
            f"{folder} has BOLD images, but neither mask.nii.gz (voxels) nor atlas.nii.gz (parcel means), and "
            f"{subject} has none of its own; add one, on the grid of the images."
        )
    if not atlas:
        assert mask  # noqa: S101 - one of the two is there
        return images.read_region(mask, is_atlas=False)
    region = images.read_region(atlas, is_atlas=True)
    return images.within(region, images.read_region(mask, is_atlas=False)) if mask else region


def neuroids(folder: Path, subject: str, region: Region, encoding: str | None) -> list[tuple[str, str, str]]:
    """(neuroid_id, subject, roi) of each neuroid: "sub-01.x10y20z5", or "sub-01.NAME" of a parcel."""
    if region.parcel_of is None:
        return [(f"{subject}.x{x}y{y}z{z}", subject, "") for x, y, z in region.labels.tolist()]
    has_own = _image(folder / subject, "", "atlas") is not None
    names = files.find(folder / subject, "atlas", ("index", "name"), None, encoding) if has_own else None
    names = names or files.find(folder, "atlas", ("index", "name"), None, encoding)
    if names is None:
        return [(f"{subject}.{label}", subject, "") for label in region.labels.tolist()]
    rois = names.texts("roi") if "roi" in names.columns else ("",) * len(names.ids())
    named: dict[int, tuple[str, str]] = {}
    for number, name, roi in zip(names.numbers("index", complete=True), names.texts("name"), rois, strict=True):
        named[int(number)] = name, roi
    if unknown := [label for label in region.labels.tolist() if label not in named]:
        raise ValueError(f"{names.file} has no index {unknown[0]}, which is a parcel of {region.file}; add its row.")
    if len({name for name, _ in named.values()}) < len(named):
        raise ValueError(f"{names.file}: a name appears more than once; give each parcel its own.")
    return [(f"{subject}.{named[label][0]}", subject, named[label][1]) for label in region.labels.tolist()]
