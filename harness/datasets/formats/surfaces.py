"""Reads parcels of a cortical surface, a FreeSurfer annotation, by nibabel."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.records import Integers

_NOT_INSTALLED = (
    "surfaces are read by nibabel, which is not installed; run `pip install 'brain-alignment-harness[neuroimaging]'`."
)
_NO_PARCEL = ("unknown", "???", "medial_wall", "medial wall")  # also as a part of a name


class Parcels(NamedTuple):
    """A parcellation of one hemisphere: (vertex,) index into `names`, -1 for none; names of the parcels."""

    parcel_of: Integers
    names: tuple[str, ...]


def read_parcels(path: Path) -> Parcels:
    """Read a FreeSurfer annotation (.annot) without the medial wall; ValueError names a damaged or empty file."""
    nibabel = _nibabel(path)
    try:
        labels, _, names = nibabel.freesurfer.read_annot(path)
    except (OSError, EOFError, ValueError, IndexError, TypeError, MemoryError, struct.error) as error:
        raise ValueError(f"{path} cannot be read as a FreeSurfer annotation ({error!r}); copy it again.") from error
    texts = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]
    kept = [
        k for k, text in enumerate(texts)
        if (labels == k).any() and not any(mark in text.lower() for mark in _NO_PARCEL)
    ]  # fmt: skip
    if not kept:
        raise ValueError(f"{path} has no parcel; its labels are {', '.join(texts) or 'none'}.")
    new = np.full(len(texts) + 1, -1, dtype=np.int64)  # the last is that of -1, no label
    new[kept] = np.arange(len(kept))
    return Parcels(new[labels], tuple(texts[k] for k in kept))


def _nibabel(path: Path) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise ValueError(f"{path.name}: {_NOT_INSTALLED}") from error
    return nibabel
