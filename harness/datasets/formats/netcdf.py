"""Reads Brain-Score's netCDF assemblies into checked arrays.

An assembly is a variable `data` (presentation, neuroid), or (presentation, subject) for reading times, with coordinates
along each dimension. Everything that a loader relies on is checked here, so that a damaged or different file raises an
error that names file, coordinate and row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.datasets.entry import File, version_of
from harness.records import Dataset, Floats, Integers, Responses, Stimuli

_NETWORK = "language"
Labels = NDArray[np.str_]


@dataclass(frozen=True)
class Assembly:
    """An assembly in memory.

    values: (presentation, neuroid) float64 as published.
    presentation, neuroid: coordinate name -> its values as text, in the order in which `read` was asked for them.
    """

    path: Path
    values: Floats
    presentation: dict[str, Labels]
    neuroid: dict[str, Labels]

    def numbers(self, coordinate: str) -> Integers:
        """A presentation coordinate as (presentation,) int64; ValueError names the first value that is not whole."""
        labels = self.presentation[coordinate]
        for row, label in enumerate(labels.tolist()):
            if not label.removeprefix("-").removesuffix(".0").isdigit():
                raise ValueError(
                    f"{self.path.name}: {coordinate} of row {row} is {label!r}, not a whole number; fetch the file "
                    "again."
                )
        return labels.astype(float).astype(np.int64)

    def column(self, coordinate: str, rows: Integers) -> tuple[str, ...]:
        """A presentation coordinate at these rows."""
        return tuple(self.presentation[coordinate][rows].tolist())

    def dataset(
        self, name: str, stimuli: Stimuli, rows: Integers, noun: str, unit: str, ceiling: Any, parts: str = ""
    ) -> Dataset:
        """The data set of the language network's neuroids, whose coordinates are id, subject, roi and network.

        Args:
            name: of the data set.
            stimuli: made from the rows, which are their own groups and blocks.
            rows: indices of the stimuli among the presentations.
            noun: what a neuroid is, for messages.
            unit: of the responses.
            ceiling: published by Brain-Score.
            parts: presentation coordinate with the experiment of each row, if there are several.

        Raises:
            ValueError: if no neuroid is in the language network.
        """
        network = list(self.neuroid)[-1]
        columns = np.flatnonzero(self.neuroid[network] == _NETWORK)
        if not len(columns):
            raise ValueError(
                f"{self.path.name}: no {noun} with {network} {_NETWORK!r}; there are "
                f"{sorted(set(self.neuroid[network]))}. Fetch the file again."
            )
        ids, subjects, rois, _ = (tuple(labels[columns].tolist()) for labels in self.neuroid.values())
        values = self.values[np.ix_(rows, columns)].astype(np.float32)
        responses = Responses(
            values, stimuli.ids, stimuli.groups, stimuli.passages, ids, subjects, rois, unit,
            row_parts=self.column(parts, rows) if parts else (), file_rows=rows,
        )  # fmt: skip
        return Dataset(
            name, version_of(stimuli, responses), stimuli, responses, published_ceiling=ceiling,
            ceiling_source="published (Brain-Score, subjects extrapolated)", rows_in_order=False,
        )  # fmt: skip


def published(path: str, sha1: str) -> File:
    """An assembly in Brain-Score's public storage, at its place under the data root."""
    storage = "https://brainscore-storage.s3.amazonaws.com/brainscore-language"
    return File(path, f"{storage}/{path.rpartition('/')[2]}", f"sha1:{sha1}", 0)


def read(path: Path, presentation: Sequence[str], neuroid: Sequence[str], dimension: str = "neuroid") -> Assembly:
    """Read an assembly with the given coordinates.

    Args:
        path: the netCDF file.
        presentation: required coordinates along the dimension presentation.
        neuroid: required coordinates along the other dimension, with its ids: "neuroid_id" or "subject_id".
        dimension: name of the other dimension; behavioural assemblies have "subject".

    Raises:
        ValueError: if the file is not netCDF, a variable is missing or has other dimensions, an id is duplicate or
            empty, or the data are not numbers.
    """
    import xarray

    try:
        with xarray.open_dataset(path, engine="h5netcdf") as stored:
            variables = stored.load().variables
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as netCDF ({error}); fetch the file again.") from error
    values = _variable(path, variables, "data", ("presentation", dimension))
    if values.dtype.kind != "f" or not values.size:
        raise ValueError(
            f"{path.name}: `data` has type {values.dtype} and shape {values.shape}; wanted real numbers. Fetch the "
            "file again."
        )
    labels = {
        along: {name: _variable(path, variables, name, (along,)).astype(str) for name in names}
        for along, names in (("presentation", presentation), (dimension, neuroid))
    }
    for along, name in (("presentation", "stimulus_id"), (dimension, f"{dimension}_id")):
        _require_ids(path, name, labels[along][name])
    return Assembly(path, values.astype(np.float64, copy=False), labels["presentation"], labels[dimension])


def _variable(path: Path, variables: Mapping[Any, Any], name: str, dimensions: tuple[str, ...]) -> NDArray[Any]:
    """Values of a variable; ValueError if it is missing or has other dimensions."""
    if name not in variables:
        raise ValueError(
            f"{path.name}: no variable {name!r}; there are {', '.join(sorted(map(str, variables)))}. Fetch the file "
            "again."
        )
    if variables[name].dims != dimensions:
        raise ValueError(
            f"{path.name}: {name!r} has dimensions {variables[name].dims}, wanted {dimensions}; fetch the file again."
        )
    values: NDArray[Any] = variables[name].values
    return values


def _require_ids(path: Path, name: str, ids: Labels) -> None:
    """Raise if an id is duplicate or empty."""
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{path.name}: {name} {str(unique[counts.argmax()])!r} appears {counts.max()} times, wanted once; fetch "
            "the file again."
        )
    if "" in unique:
        raise ValueError(f"{path.name}: {name} number {int(np.argmax(ids == ''))} is empty; fetch the file again.")
