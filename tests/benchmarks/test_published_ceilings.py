"""The published ceilings of Pereira2018's voxels are read by id, in the form that Brain-Score writes them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray

from harness.records import Ceiling

sys.path.insert(0, str(Path(__file__).resolve().parent))

import published_ceilings

IDS = tuple(f"{k}" for k in range(30))


@pytest.fixture
def root(tmp_path):
    """A data root with both files: voxels in another order, one absent (its curve failed), one NaN."""
    rng = np.random.default_rng(0)
    (tmp_path / "pereira2018").mkdir()
    for path in published_ceilings.FILES.values():
        order = rng.permutation(29)
        values = np.where(order == 3, np.nan, order / 50)
        coordinates = {
            "neuroid_id": ("neuroid", order), "subject": ("neuroid", [f"{k % 3}" for k in order]),
            "roi": ("neuroid", np.full(29, 2.0)), "atlas": ("neuroid", ["language"] * 29),
        }  # fmt: skip
        stored = xarray.Dataset({"data": (("neuroid",), values)}, coords=coordinates)
        stored.to_netcdf(tmp_path / path, engine="h5netcdf")
    return tmp_path


def ceiling(values):
    return Ceiling(tuple(published_ceilings.FILES), values, ("extrapolated",) * 30, *[np.zeros((2, 30))] * 4)


def test_voxels_are_matched_by_id_and_those_without_a_ceiling_left_out(root):
    values = np.arange(30) / 50 + np.array([[0.0], [0.01]])
    values[1, 5] = np.nan
    table = published_ceilings.compare(ceiling(values), IDS, root).set_index("experiment")
    assert table.voxels.to_dict() == {"243sentences": 28, "384sentences": 27}
    assert table.r.tolist() == pytest.approx([1, 1])
    assert table.difference.tolist() == pytest.approx([0, 0.01])
    assert (table.ours - table.published).tolist() == pytest.approx([0, 0.01])
    assert table.stated.tolist() == [0.35378928, 0.36343748]


def test_a_file_of_another_form_is_refused(root):
    path = root / published_ceilings.FILES["384sentences"]
    path.unlink()
    xarray.Dataset({"data": (("split",), np.zeros(3))}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match=r"384sentences-linear\.nc: `data` has \('split',\), wanted one ceiling"):
        published_ceilings.compare(ceiling(np.arange(60).reshape(2, 30) / 60), IDS, root)
