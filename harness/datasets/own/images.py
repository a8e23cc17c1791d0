"""What every format of images gives: a grid of places, and the values of its volumes at some of them.

A place is a voxel of NIfTI (`nifti.py`), a vertex of GIfTI (`gifti.py`), or a grayordinate or parcel of CIFTI
(`cifti.py`). An image is read from its beginning to its end, a few volumes at a time, so that memory is that of the
result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from xml.parsers.expat import ExpatError

from harness.records import Floats, Integers

_BYTES_AT_ONCE = 64 << 20


class Grid(ABC):
    """The places of an image, in its order.

    Attributes:
        file: the image, for messages.
        unit: what places are called, such as "voxels".
        needs_mask: whether a mask or an atlas must choose places.
    """

    file: str
    unit: ClassVar[str]
    needs_mask: ClassVar[bool] = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def names(self, places: Integers) -> list[str]:
        """Names of places, such as "x30y41z22" or "L1234"."""

    @abstractmethod
    def fault(self, other: Grid) -> str:
        """How this grid differs from another of its class, and the remedy; "" if it does not."""

    @abstractmethod
    def place(self, labels: Labels) -> Labels:
        """A mask or an atlas at the places of this grid; ValueError if it does not fit."""

    @abstractmethod
    def write(self, stem: Path, values: Floats, title: str) -> list[Path]:
        """Write (place,) values as float32 in the format of the image, to files whose names begin with the stem."""


class Parcel(NamedTuple):
    """A parcel of an atlas. name, side ("L", "R"): "" if the file does not say."""

    number: int
    name: str = ""
    side: str = ""


class Labels(NamedTuple):
    """A mask or an atlas. parcel_of: (place,) index of each place's parcel, 0 in a mask, -1 outside."""

    file: str
    grid: Grid
    parcel_of: Integers
    parcels: tuple[Parcel, ...] = ()


@dataclass(frozen=True)
class Bold:
    """The opened image of a run.

    Attributes:
        file: file name, for messages.
        n_scans: number of volumes.
        tr_s: TR in seconds; 0 if the header has none.
        grid: its places.
        read: gives (scan, place) float64 of the chosen places, a few volumes at a time; ValueError if it is damaged.
    """

    file: str
    n_scans: int
    tr_s: float
    grid: Grid
    read: Callable[[Integers], Iterator[Floats]]


def scans_at_once(bytes_per_scan: int) -> int:
    """Number of volumes that are held in memory together."""
    return max(1, _BYTES_AT_ONCE // bytes_per_scan)


def require_nibabel(file: str, kind: str) -> None:
    """Raise a ValueError that says how to install it, unless nibabel is there."""
    try:
        import nibabel  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"{file}: {kind} images are read by nibabel, which is not installed; run "
            "`pip install 'brain-alignment-harness[neuroimaging]'`."
        ) from error


def load(path: Path, kind: str) -> Any:
    """Open an image; `kind` names its format in messages."""
    require_nibabel(path.name, kind)
    import nibabel
    from nibabel.cifti2 import Cifti2HeaderError
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    damage = (OSError, EOFError, ValueError, KeyError, ImageFileError, HeaderDataError, Cifti2HeaderError, ExpatError)
    try:
        return nibabel.load(path)
    except damage as error:
        raise ValueError(f"{path.name} cannot be read as {kind} ({error}); copy it again.") from error
