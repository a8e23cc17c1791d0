"""Reads and writes NIfTI images: places are the voxels of a volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.datasets.own import images
from harness.datasets.own.images import Bold, Grid, Labels, Parcel
from harness.records import Floats, Integers

_AFFINE_MM = 1e-2  # affines are rounded to float32, and by some programs to fewer digits
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}


@dataclass(frozen=True)
class Voxels(Grid):
    """Voxels of a volume in Fortran order.

    Attributes:
        file: the image.
        shape, affine: of the volume.
        space: code of the space in the header, such as 1 (scanner) or 4 (MNI152); 0 if it has none.
    """

    file: str
    shape: tuple[int, ...]
    affine: Floats
    space: int
    unit: ClassVar = "voxels"
    needs_mask: ClassVar = True

    def __len__(self) -> int:
        return int(np.prod(self.shape))

    def names(self, places: Integers) -> list[str]:
        """Indices from 0, such as "x30y41z22"."""
        indices = zip(*(axis.tolist() for axis in np.unravel_index(places, self.shape, order="F")), strict=True)
        return [f"x{x}y{y}z{z}" for x, y, z in indices]

    def coordinates(self, places: Integers) -> Floats:
        """(place, 3) mm to the right, anterior and superior."""
        indices = np.stack(np.unravel_index(places, self.shape, order="F"), axis=1)
        points: Floats = indices @ self.affine[:3, :3].T + self.affine[:3, 3]
        return points

    @property
    def size_mm(self) -> float:
        """The longest side of a voxel."""
        return float(np.linalg.norm(self.affine[:3, :3], axis=0).max())

    def fault(self, other: Grid) -> str:
        """How shape or affine differ, and the remedy."""
        assert isinstance(other, Voxels)  # noqa: S101 - the masks of volumes are volumes
        if self.shape != other.shape:
            fault = f"has {' x '.join(map(str, self.shape))} voxels, {other.file} {' x '.join(map(str, other.shape))}"
        elif not np.allclose(self.affine, other.affine, atol=_AFFINE_MM):
            fault = f"has another affine than {other.file}: {self.affine.tolist()} and {other.affine.tolist()}"
        else:
            return ""
        return f"{fault}; resample {other.file} to the grid of the images (nearest neighbour)."

    def place(self, labels: Labels) -> Labels:
        """The mask or atlas itself, which must have the same grid."""
        if fault := self.fault(labels.grid):
            raise ValueError(f"{self.file} {fault}")
        return labels

    def write(self, stem: Path, values: Floats, title: str) -> list[Path]:
        """Write one volume; the title becomes its description."""
        import nibabel

        image = nibabel.Nifti1Image(values.astype(np.float32).reshape(self.shape, order="F"), self.affine)
        image.set_sform(self.affine, self.space or 2)
        image.set_qform(self.affine, self.space or 2)
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = title.encode("ascii", "replace")[:79]
        nibabel.save(image, path := stem.with_name(f"{stem.name}.nii.gz"))
        return [path]


def open_bold(paths: Sequence[Path]) -> Bold:
    """Read the header of a four-dimensional image; ValueError if it is damaged or has no time."""
    (path,) = paths
    image = images.load(path, "NIfTI")
    if len(image.shape) != 4:
        raise ValueError(f"{path.name} has shape {image.shape}; wanted (x, y, z, scan).")
    unit = image.header.get_xyzt_units()[1]
    tr_s = float(image.header["pixdim"][4]) * _SECONDS.get(unit, 0.0)
    grid = Voxels(path.name, image.shape[:3], image.affine, _space(image))
    return Bold(path.name, image.shape[3], tr_s, grid, lambda places: _read(path, image, places))


def read_labels(paths: Sequence[Path], *, is_atlas: bool) -> Labels:
    """Read a mask (every voxel that is not 0) or an atlas (one number per parcel, 0 outside).

    Raises:
        ValueError: if the image is damaged, has a time axis, is empty, or an atlas has numbers that are not whole.
    """
    (path,) = paths
    image = images.load(path, "NIfTI")
    shape = image.shape[:3] if len(image.shape) == 4 and image.shape[3] == 1 else image.shape
    if len(shape) != 3:
        raise ValueError(f"{path.name} has shape {image.shape}; wanted (x, y, z), with one number per voxel.")
    values = np.nan_to_num(np.asanyarray(image.dataobj)).reshape(-1, order="F")
    if not values.any():
        raise ValueError(f"{path.name} is 0 everywhere; wanted {'parcel numbers' if is_atlas else '1 in the mask'}.")
    grid = Voxels(path.name, shape, image.affine, _space(image))
    if not is_atlas:
        return Labels(path.name, grid, np.where(values != 0, 0, -1))
    if len(odd := values[(values != np.round(values)) | (values < 0)]):
        raise ValueError(
            f"{path.name}: wanted whole numbers, one per parcel, not {odd[0]:g}; is it a probabilistic atlas, or was "
            "it resampled by interpolation? Use nearest neighbour."
        )
    numbers, parcel_of = np.unique(np.append(values.astype(np.int64), 0), return_inverse=True)  # 0 is the first
    return Labels(path.name, grid, parcel_of[:-1] - 1, tuple(Parcel(number) for number in numbers[1:].tolist()))


def _space(image: Any) -> int:
    """The code of an image's space; 0 if it has none."""
    return int(image.header["sform_code"]) or int(image.header["qform_code"])


def _read(path: Path, image: Any, places: Integers) -> Iterator[Floats]:
    """(scan, place) values of the voxels, a few volumes at a time."""
    from nibabel.openers import ImageOpener

    proxy, n_scans = image.dataobj, image.shape[3]
    n_bytes = int(np.prod(image.shape[:3])) * proxy.dtype.itemsize
    at_once = images.scans_at_once(max(n_bytes, 8 * len(places)))
    with ImageOpener(str(path), "rb") as stream:
        stream.seek(proxy.offset)
        for start in range(0, n_scans, at_once):
            n = min(at_once, n_scans - start)
            try:
                content = stream.read(n * n_bytes)
            except (OSError, EOFError) as error:
                raise ValueError(f"{path.name} is damaged ({error}); copy it again.") from error
            if len(content) < n * n_bytes:
                raise ValueError(f"{path.name} ends before scan {start + n} of {n_scans}; copy it again.")
            volumes = np.frombuffer(content, dtype=proxy.dtype).reshape(n, -1)[:, places]
            yield volumes.astype(np.float64) * float(proxy.slope) + float(proxy.inter)
