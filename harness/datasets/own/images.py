"""Reads NIfTI images by nibabel: the voxels of a mask or the means of an atlas's parcels, scan by scan.

An image is read once from its beginning to its end, a few volumes at a time, so that memory is that of the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.records import Floats, Integers

_BYTES_AT_ONCE = 64 << 20
_AFFINE_MM = 1e-2  # affines are rounded to float32, and by some programs to fewer digits
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}


@dataclass(frozen=True)
class Region:
    """Voxels of a mask or an atlas that are read.

    Attributes:
        file: file name, for messages.
        shape, affine: grid of the image.
        voxels: (voxel,) indices into the volume in Fortran order, ascending.
        parcel_of: (voxel,) index of each voxel's parcel; None if every voxel is a neuroid.
        labels: (parcel,) numbers of the atlas, or (voxel, 3) indices of the voxels.
        space: code of the space in the NIfTI header, such as 1 (scanner) or 4 (MNI152).
    """

    file: str
    shape: tuple[int, ...]
    affine: Floats
    voxels: Integers
    parcel_of: Integers | None
    labels: Integers
    space: int = 0

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Bold:
    """Header of a run's image: number of scans, TR in seconds (0 if the header has none), and the open image."""

    path: Path
    n_scans: int
    tr_s: float
    image: Any


def open_bold(path: Path) -> Bold:
    """Read the header of a four-dimensional image; ValueError if it is damaged or has no time."""
    image = _load(path)
    if len(image.shape) != 4:
        raise ValueError(f"{path.name} has shape {image.shape}; wanted (x, y, z, scan).")
    unit = image.header.get_xyzt_units()[1]
    tr_s = float(image.header["pixdim"][4]) * _SECONDS.get(unit, 0.0)
    return Bold(path, image.shape[3], tr_s, image)


def read_region(path: Path, *, is_atlas: bool) -> Region:
    """Read a mask (every voxel that is not 0) or an atlas (one number per parcel, 0 outside).

    Raises:
        ValueError: if the image is damaged, has a time axis, is empty, or an atlas has numbers that are not whole.
    """
    image = _load(path)
    shape = image.shape[:3] if len(image.shape) == 4 and image.shape[3] == 1 else image.shape
    if len(shape) != 3:
        raise ValueError(f"{path.name} has shape {image.shape}; wanted (x, y, z), with one number per voxel.")
    values = np.nan_to_num(np.asanyarray(image.dataobj)).reshape(-1, order="F")
    voxels = np.flatnonzero(values)
    if not len(voxels):
        raise ValueError(f"{path.name} is 0 everywhere; wanted {'parcel numbers' if is_atlas else '1 in the mask'}.")
    if not is_atlas:
        places = np.stack(np.unravel_index(voxels, shape, order="F"), axis=1)
        return Region(path.name, shape, image.affine, voxels, None, places, _space(image))
    numbers = values[voxels]
    if (numbers != np.round(numbers)).any() or numbers.min() < 0:
        odd = numbers[(numbers != np.round(numbers)) | (numbers < 0)][0]
        raise ValueError(
            f"{path.name}: wanted whole numbers, one per parcel, not {odd:g}; is it a probabilistic atlas, or was it "
            "resampled by interpolation? Use nearest neighbour."
        )
    labels, parcel_of = np.unique(numbers.astype(np.int64), return_inverse=True)
    return Region(path.name, shape, image.affine, voxels, parcel_of, labels, _space(image))


def within(atlas: Region, mask: Region) -> Region:
    """The atlas without voxels outside the mask; ValueError if the grids differ or nothing is left."""
    require_grid(mask.file, mask.shape, mask.affine, atlas)
    assert atlas.parcel_of is not None  # noqa: S101 - an atlas has parcels
    kept = np.isin(atlas.voxels, mask.voxels)
    if not kept.any():
        raise ValueError(f"no voxel of {atlas.file} is in {mask.file}.")
    present, parcel_of = np.unique(atlas.parcel_of[kept], return_inverse=True)
    return replace(atlas, voxels=atlas.voxels[kept], parcel_of=parcel_of, labels=atlas.labels[present])


def require_grid(file: str, shape: tuple[int, ...], affine: Floats, region: Region) -> None:
    """Raise ValueError unless an image has the grid of a mask or atlas."""
    if shape != region.shape:
        fault = f"has {' x '.join(map(str, shape))} voxels, {region.file} {' x '.join(map(str, region.shape))}"
    elif not np.allclose(affine, region.affine, atol=_AFFINE_MM):
        fault = f"has another affine than {region.file}: {affine.tolist()} and {region.affine.tolist()}"
    else:
        return
    raise ValueError(f"{file} {fault}; resample {region.file} to the grid of the images (nearest neighbour).")


def write_map(path: Path, region: Region, values: Floats) -> None:
    """Write (neuroid,) values as a NIfTI image on the grid of a mask or atlas: float32, NaN outside."""
    import nibabel

    volume = np.full(int(np.prod(region.shape)), np.nan, dtype=np.float32)
    volume[region.voxels] = values if region.parcel_of is None else values[region.parcel_of]
    image = nibabel.Nifti1Image(volume.reshape(region.shape, order="F"), region.affine)
    image.set_sform(region.affine, region.space or 2)
    image.set_qform(region.affine, region.space or 2)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _space(image: Any) -> int:
    """The code of an image's space; 0 if it has none."""
    return int(image.header["sform_code"]) or int(image.header["qform_code"])


def read_courses(bold: Bold, region: Region, out: Floats) -> None:
    """Write the (scan, neuroid) courses of a run into `out`: voxels, or the means over a parcel's finite voxels.

    Raises:
        ValueError: if the grid differs from the region's, or the file ends before its last scan.
    """
    from nibabel.openers import ImageOpener

    require_grid(bold.path.name, bold.image.shape[:3], bold.image.affine, region)
    proxy = bold.image.dataobj
    n_bytes = int(np.prod(region.shape)) * proxy.dtype.itemsize
    at_once = max(1, _BYTES_AT_ONCE // max(n_bytes, 8 * len(region.voxels)))
    with ImageOpener(str(bold.path), "rb") as stream:
        stream.seek(proxy.offset)
        for start in range(0, bold.n_scans, at_once):
            n = min(at_once, bold.n_scans - start)
            try:
                content = stream.read(n * n_bytes)
            except (OSError, EOFError) as error:
                raise ValueError(f"{bold.path.name} is damaged ({error}); copy it again.") from error
            if len(content) < n * n_bytes:
                raise ValueError(f"{bold.path.name} ends before scan {start + n} of {bold.n_scans}; copy it again.")
            volumes = np.frombuffer(content, dtype=proxy.dtype).reshape(n, -1)[:, region.voxels]
            scaled = volumes.astype(np.float64) * float(proxy.slope) + float(proxy.inter)
            out[start : start + n] = scaled if region.parcel_of is None else means_of(scaled, region.parcel_of)


def means_of(volumes: Floats, parcel_of: Integers) -> Floats:
    """(scan, parcel) means of (scan, voxel) values over the finite voxels of each parcel; NaN where it has none.

    Args:
        volumes: (scan, voxel) float64.
        parcel_of: (voxel,) parcel of each voxel, numbered from 0; every parcel has a voxel.
    """
    from scipy import sparse

    n_voxels = len(parcel_of)
    ones = sparse.csr_array((np.ones(n_voxels), (parcel_of, np.arange(n_voxels))))
    means: Floats = (ones @ volumes.T).T / np.bincount(parcel_of)
    if np.isfinite(means).all():
        return means
    finite = np.isfinite(volumes)
    sums = (ones @ np.where(finite, volumes, 0.0).T).T
    counts = (ones @ finite.T.astype(np.float64)).T
    means[:] = np.nan
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _load(path: Path) -> Any:
    """Open an image; its values are not read."""
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
    except ImportError as error:
        raise ValueError(
            f"{path.name}: NIfTI images are read by nibabel, which is not installed; run "
            "`pip install 'brain-alignment-harness[neuroimaging]'`."
        ) from error
    try:
        return nibabel.load(path)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise ValueError(f"{path.name} cannot be read as NIfTI ({error}); copy it again.") from error
