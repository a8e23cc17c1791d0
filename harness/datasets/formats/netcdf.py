"""Brain-Score's netCDF assemblies -> checked arrays: dimensions, coordinates, values.

An assembly is `data` (presentation, neuroid) with coordinates along each dimension. What a loader relies on is checked
here, so that a damaged or foreign file is an error that names the file, the coordinate and the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.records import Floats, Integers

Labels = NDArray[np.str_]


@dataclass(frozen=True)
class Assembly:
    """An assembly in memory.

    values: (presentation, neuroid) float64 as published. presentation, neuroid: coordinate -> its values as text;
    numbers: coordinate -> its values as whole numbers, where they are numbers.
    """

    path: Path
    values: Floats
    presentation: dict[str, Labels]
    neuroid: dict[str, Labels]

    def numbers(self, coordinate: str) -> Integers:
        """(presentation,) a coordinate of whole numbers; ValueError names the first that is none."""
        found = self.presentation[coordinate]
        for row, label in enumerate(found.tolist()):
            if not label.removeprefix("-").removesuffix(".0").isdigit():
                raise ValueError(f"{self.path.name}: {coordinate} of row {row} is {label!r}, not a whole number.")
        return found.astype(float).astype(np.int64)


def read(path: Path, presentation: Sequence[str], neuroid: Sequence[str]) -> Assembly:
    """Read an assembly with the coordinates asked for.

    Args:
        path: the netCDF file.
        presentation: coordinates that must be there, along this dimension.
        neuroid: likewise.

    Raises:
        ValueError: if the file is no netCDF, a variable is missing or lies along other dimensions, an id is doubled or
            empty, or the data are not numbers; each names what was wanted and what came.
    """
    import xarray

    try:
        with xarray.open_dataset(path, engine="h5netcdf") as opened:
            found = opened.load()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as netCDF ({error}); fetch the file again.") from error
    values = _variable(path, found, "data", ("presentation", "neuroid"))
    if values.dtype.kind != "f" or not values.size:
        raise ValueError(f"{path.name}: `data` holds {values.dtype} of shape {values.shape}; wanted real numbers.")
    labels = {
        dimension: {name: _variable(path, found, name, (dimension,)).astype(str) for name in names}
        for dimension, names in (("presentation", presentation), ("neuroid", neuroid))
    }
    for dimension, name in (("presentation", "stimulus_id"), ("neuroid", "neuroid_id")):
        _require_ids(path, name, labels[dimension][name])
    return Assembly(path, values.astype(np.float64, copy=False), labels["presentation"], labels["neuroid"])


def _variable(path: Path, found: object, name: str, dimensions: tuple[str, ...]) -> np.ndarray:  # type: ignore[type-arg]
    known = found.variables  # type: ignore[attr-defined]
    if name not in known:
        raise ValueError(f"{path.name}: no variable {name!r}; there are {', '.join(sorted(map(str, known)))}.")
    if known[name].dims != dimensions:
        raise ValueError(f"{path.name}: {name!r} lies along {known[name].dims}, wanted {dimensions}.")
    values: np.ndarray = known[name].values  # type: ignore[type-arg]
    return values


def _require_ids(path: Path, name: str, ids: Labels) -> None:
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{path.name}: {name} {str(unique[counts.argmax()])!r} stands {counts.max()} times; wanted once."
        )
    if "" in unique:
        raise ValueError(f"{path.name}: {name} number {int(np.argmax(ids == ''))} is empty.")
