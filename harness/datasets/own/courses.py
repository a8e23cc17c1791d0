"""Reads the courses of a run: of every place of a region, or the means of its parcels."""

from __future__ import annotations

import numpy as np

from harness.datasets.own.images import Bold
from harness.datasets.own.regions import Region
from harness.records import Floats, Integers


def read_courses(bold: Bold, region: Region, out: Floats) -> None:
    """Write the (scan, neuroid) courses of a run into `out`: places, or the means over a parcel's finite places.

    Raises:
        ValueError: if the grid differs from the region's, or the file ends before its last scan.
    """
    _require_grid(bold, region)
    start = 0
    for values in bold.read(region.places):
        out[start : start + len(values)] = (
            values if region.parcel_of is None else parcel_means(values, region.parcel_of)
        )
        start += len(values)


def _require_grid(bold: Bold, region: Region) -> None:
    """Raise ValueError unless an image has the grid of a mask, an atlas or the subject's first image."""
    if type(bold.grid) is not type(region.grid):
        raise ValueError(f"{bold.file} and {region.grid.file} differ in format; give a subject's runs in one.")
    if fault := bold.grid.fault(region.grid):
        raise ValueError(f"{bold.file} {fault}")


def parcel_means(values: Floats, parcel_of: Integers) -> Floats:
    """(scan, parcel) means of (scan, place) values over finite places; NaN where a parcel has none.

    Args:
        values: (scan, place) float64.
        parcel_of: (place,) parcel of each place, numbered from 0; every parcel has a place.
    """
    from scipy import sparse

    n_places = len(parcel_of)
    ones = sparse.csr_array((np.ones(n_places), (parcel_of, np.arange(n_places))))
    means: Floats = (ones @ values.T).T / np.bincount(parcel_of)
    if np.isfinite(means).all():
        return means
    finite = np.isfinite(values)
    sums = (ones @ np.where(finite, values, 0.0).T).T
    counts = (ones @ finite.T.astype(np.float64)).T
    means[:] = np.nan
    np.divide(sums, counts, out=means, where=counts > 0)
    return means
