"""Reads and writes GIfTI files of surfaces: one per hemisphere, and in a run one array per volume.

`sub-01_task-alice_run-01_hemi-L_space-fsaverage5_bold.func.gii` and hemi-R, as fMRIPrep writes them. The files are
compressed text, so that they are read array by array: nibabel would keep all of them.

Source: GIFTI Surface Data Format 1.0. The metadata `TimeStep` of an array is the TR in ms, as FreeSurfer writes it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

import numpy as np

from harness.datasets.own import bids, images
from harness.datasets.own.brainordinates import LEFT, RIGHT, SIDES, Brainordinates, parcels_of
from harness.datasets.own.images import Bold, Labels, Parcel
from harness.records import Floats, Integers

_STRUCTURES = {"L": LEFT, "R": RIGHT}
_PRIMARY = {LEFT: "CortexLeft", RIGHT: "CortexRight"}  # AnatomicalStructurePrimary
_SIDE = re.compile(r"(?:^|[._])(lh|rh|L|R)[._]")
_CHUNK_BYTES = 1 << 20
_DAMAGE = (OSError, EOFError, ValueError, KeyError, AssertionError, zlib.error, expat.ExpatError)


class Vertices(Brainordinates):
    """Vertices of one or both hemispheres."""

    unit = "vertices"

    def write(self, stem: Path, values: Floats, title: str) -> list[Path]:
        """Write `.func.gii` of each hemisphere, with the entity hemi after the subject and the title as name."""
        import nibabel
        from nibabel import gifti

        paths = []
        for structure, where, _ in self.axis.iter_structures():
            array = gifti.GiftiDataArray(
                values[where].astype(np.float32), intent="NIFTI_INTENT_NONE", datatype="NIFTI_TYPE_FLOAT32",
                meta=gifti.GiftiMetaData({"Name": title}),
            )  # fmt: skip
            about = gifti.GiftiMetaData({"AnatomicalStructurePrimary": _PRIMARY[structure]})
            name = stem.name.replace("_", f"_hemi-{SIDES[structure]}_", 1)
            nibabel.save(gifti.GiftiImage(meta=about, darrays=[array]), path := stem.with_name(f"{name}.func.gii"))
            paths.append(path)
        return paths


class _Header(NamedTuple):
    """The first array of a file, and the number of all."""

    n_arrays: int
    n_vertices: int
    meta: dict[str, str]


def open_bold(paths: Sequence[Path]) -> Bold:
    """Read the headers of a run's files, the left hemisphere first; ValueError if they do not fit each other."""
    headers = {path: _header(path) for path in paths}
    first = headers[paths[0]]
    for path, header in headers.items():
        if header.n_arrays != first.n_arrays:
            lengths = f"{first.n_arrays} and {header.n_arrays} volumes"
            raise ValueError(f"{paths[0].name} and {path.name} have {lengths}; copy them again.")
    try:
        tr_s = float(first.meta.get("TimeStep", 0)) / 1000
    except ValueError:
        tr_s = 0.0
    grid = Vertices(paths[0].name, _axis({_structure(path): header.n_vertices for path, header in headers.items()}))
    return Bold(
        paths[0].name, first.n_arrays, tr_s, grid, lambda places: _read(paths, first.n_arrays, len(grid), places)
    )


def read_labels(paths: Sequence[Path], *, is_atlas: bool) -> Labels:
    """Read the masks (every vertex that is not 0) or the label tables of one or both hemispheres.

    Keys of 0 and below, and names such as "???" and "Medial_Wall", are no parcels. Both hemispheres may have the same
    keys: their parcels are different.
    """
    sizes: dict[str, int] = {}
    parcels: list[Parcel] = []
    parcel_of = []
    for path in paths:
        image = images.load(path, "GIfTI")
        if len(image.darrays) != 1:
            raise ValueError(f"{path.name} has {len(image.darrays)} maps; wanted one, with one number per vertex.")
        structure = _structure(path, image)
        if structure in sizes:
            raise ValueError(f"{paths[0].name} and {path.name} are of the same hemisphere; keep one of them.")
        keys = np.nan_to_num(_values(path.name, image.darrays[0]))
        sizes[structure] = len(keys)
        if is_atlas:
            names = {label.key: str(label.label) for label in image.labeltable.labels}
            own, own_parcels = parcels_of(path.name, keys, names, SIDES[structure])
            parcel_of.append(np.where(own >= 0, own + len(parcels), -1))
            parcels += own_parcels
        else:
            parcel_of.append(np.where(keys != 0, 0, -1))
    if all((part < 0).all() for part in parcel_of):
        wanted = "labels of parcels" if is_atlas else "1 in the mask"
        raise ValueError(f"{paths[0].name} has no {'parcel' if is_atlas else 'value but 0'}; wanted {wanted}.")
    grid = Vertices(paths[0].name, _axis(sizes))
    return Labels(paths[0].name, grid, np.concatenate(parcel_of), tuple(parcels))


def _axis(sizes: dict[str, int]) -> Any:
    """Brain models of all vertices of each hemisphere."""
    from nibabel.cifti2 import BrainModelAxis

    axes = [BrainModelAxis.from_surface(np.arange(n), n, name) for name, n in sizes.items()]
    return axes[0] if len(axes) == 1 else axes[0] + axes[1]


def _structure(path: Path, image: Any = None) -> str:
    """Hemisphere of a file: by the entity hemi, or the metadata of an image, or lh, rh, L or R in the name."""
    side = bids.parse(path.name).entities.get("hemi", "")
    metas = [image.meta, *(array.meta for array in image.darrays)] if image else []
    primary = next((meta["AnatomicalStructurePrimary"] for meta in metas if "AnatomicalStructurePrimary" in meta), "")
    of_name = _SIDE.search(path.name)
    structure = (
        _STRUCTURES.get(side)
        or next((key for key, name in _PRIMARY.items() if name == primary), "")
        or (_STRUCTURES[of_name[1][0].upper()] if of_name else "")
    )
    if not structure:
        raise ValueError(f"{path.name}: the name does not say which hemisphere it is; write hemi-L or hemi-R in it.")
    return structure


def _values(file: str, array: Any) -> Any:
    """(vertex,) values of an array; some programs write (vertex, 1)."""
    if array.data.ndim > 1 and array.data.shape != (len(array.data), 1):
        raise ValueError(
            f"{file} has arrays of shape {array.data.shape}; wanted (vertex,), one array per volume or map."
        )
    return array.data.reshape(-1)


# --- volumes ----------------------------------------------------------------------------------------------------------


def _header(path: Path) -> _Header:
    """Read a file up to its first array."""
    arrays = _arrays(path)
    first, n_arrays = next(arrays, (None, 0))
    if first is None:
        raise ValueError(f"{path.name} has no array; wanted one per volume.")
    return _Header(n_arrays, len(_values(path.name, first)), dict(first.meta))


def _read(paths: Sequence[Path], n_scans: int, n_vertices: int, places: Integers) -> Iterator[Floats]:
    """(scan, place) values of the vertices, a few volumes at a time."""
    at_once = images.scans_at_once(8 * len(places))
    volumes: list[Floats] = []
    for scan, hemispheres in enumerate(zip(*(_arrays(path) for path in paths), strict=True), start=1):
        volume = np.concatenate([array.data.reshape(-1) for array, _ in hemispheres])
        if len(volume) != n_vertices:
            raise ValueError(
                f"{paths[0].name}: volume {scan} has {len(volume)} vertices, not {n_vertices}; copy it again."
            )
        volumes.append(volume[places].astype(np.float64))
        if len(volumes) == at_once or scan == n_scans:
            yield np.stack(volumes)
            volumes = []


def _arrays(path: Path) -> Iterator[tuple[Any, int]]:
    """The arrays of a file, and with each the number of all; ValueError if the file is damaged or ends early."""
    images.require_nibabel(path.name, "GIfTI")
    from nibabel.gifti.parse_gifti_fast import GiftiImageParser

    parser, reader = GiftiImageParser(buffer_size=_CHUNK_BYTES), expat.ParserCreate()
    parser.fname = str(path)
    reader.buffer_text, reader.buffer_size = True, _CHUNK_BYTES
    for name in parser.HANDLER_NAMES:
        setattr(reader, name, getattr(parser, name))
    n_read, n_arrays = 0, 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                reader.Parse(chunk, False)
                if parser.img is None:
                    continue
                n_arrays = vars(parser).pop("expected_numDA", n_arrays)
                while len(parser.img.darrays) > ("DataArray" in parser.fsm_state):
                    n_read += 1
                    yield parser.img.darrays.pop(0), n_arrays
            reader.Parse(b"", True)
    except _DAMAGE as error:
        raise ValueError(f"{path.name} is damaged after volume {n_read} ({error}); copy it again.") from error
    if n_read != n_arrays:
        raise ValueError(f"{path.name} has {n_read} of {n_arrays} volumes; copy it again.")
