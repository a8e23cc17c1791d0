"""Reads a matrix of responses from .npy, .npz or HDF5, with the ids of its rows and neuroids if the file has them.

In .npz and HDF5 the matrix is called `data` or `responses`, or is the only matrix of the file; `row_id` and
`neuroid_id` are optional. Pickled objects are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.records import Floats

SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".hf5")
_NAMES, _IDS = ("data", "responses"), ("row_id", "neuroid_id")

# Largest value of a column, relative to its range, that float32 keeps to 1e-5 of the range.
_FAR = 100.0


class Matrix(NamedTuple):
    """(row, neuroid) values of a file, and the ids of both; None where the file has none."""

    values: Floats
    row_ids: tuple[str, ...] | None = None
    neuroid_ids: tuple[str, ...] | None = None


def read(path: Path) -> Matrix:
    """Read a file.

    Returns:
        Values as float32, or float64 if a column is so far from 0, compared with its range, that float32 would round
        it; NaN where a neuroid was not measured.

    Raises:
        ValueError: if the file is damaged, has several matrices or none, or its numbers are not real.
    """
    readers: dict[str, Callable[[Path], Matrix]] = {".npy": _read_npy, ".npz": _read_npz}
    try:
        return readers.get(path.suffix, _read_hdf5)(path)
    except (OSError, EOFError, KeyError) as error:
        raise ValueError(f"{path.name} cannot be read ({error}); write it again.") from error


def _read_npy(path: Path) -> Matrix:
    try:
        return Matrix(_values(path.name, np.load(path, mmap_mode="r", allow_pickle=False)))
    except ValueError as error:
        raise ValueError(_named(path, error)) from error


def _read_npz(path: Path) -> Matrix:
    try:
        with np.load(path, allow_pickle=False) as content:
            return _of_names(path.name, {name: content[name] for name in content.files})
    except ValueError as error:
        raise ValueError(_named(path, error)) from error


def _named(path: Path, error: ValueError) -> str:
    """An error's message that begins with the file."""
    return str(error) if str(error).startswith(path.name) else f"{path.name} cannot be read ({error}); write it again."


def _read_hdf5(path: Path) -> Matrix:
    import h5py

    with h5py.File(path, "r") as file:
        return _of_names(path.name, {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)})


def _of_names(file: str, arrays: Mapping[str, Any]) -> Matrix:
    """The matrix of a file with several arrays, and its ids."""
    ids = {name: _texts(arrays[name]) if name in arrays else None for name in _IDS}
    names = [name for name in _NAMES if name in arrays] or [name for name in arrays if len(arrays[name].shape) == 2]
    if len(names) != 1:
        found = ", ".join(f"{name} {tuple(arrays[name].shape)}" for name in arrays) or "nothing"
        raise ValueError(f"{file} has {found}; wanted one (row, neuroid) matrix, called 'data'.")
    values = _values(file, arrays[names[0]])
    for name, length in zip(_IDS, values.shape, strict=True):
        if (given := ids[name]) is not None and len(given) != length:
            raise ValueError(f"{file}: {names[0]!r} has shape {values.shape}, but there are {len(given)} {name}.")
    return Matrix(values, ids["row_id"], ids["neuroid_id"])


def _texts(array: Any) -> tuple[str, ...]:
    return tuple(item.decode() if isinstance(item, bytes) else str(item) for item in np.asarray(array[:]).tolist())


def _values(file: str, array: Any) -> Floats:
    """Check the form of a matrix, and load it."""
    if len(array.shape) != 2 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{file}: the array has shape {tuple(array.shape)} of {array.dtype}; wanted (row, neuroid) real numbers."
        )
    exact = np.asarray(array[:])
    if exact.dtype != np.float32 and exact.size:
        largest, extent = np.nanmax(np.abs(exact), axis=0, initial=0), np.ptp(np.nan_to_num(exact), axis=0)
        if ((largest > _FAR * extent) & (extent > 0)).any():
            return exact.astype(np.float64)
    return exact.astype(np.float32)
