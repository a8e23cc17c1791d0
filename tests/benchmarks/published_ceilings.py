"""Ceilings of Pereira2018, ours and the published ones by voxel: `python tests/benchmarks/published_ceilings.py ROOT`.

ROOT is a data root with `pereira2018/assy_Pereira2018_language.nc` and, from the same public storage, Brain-Score's
`ceiling_raw_Pereira2018_243sentences-linear.nc` and `..._384sentences-linear.nc` beside it. Ours are computed under
PAPER and kept under `--out`, about two minutes for both experiments on one core. Both draw pools of subjects and
bootstraps at random, so that voxels differ; medians are published as .3538 and .3634.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import xarray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.datasets import pereira2018
from harness.records import Ceiling
from harness.storage.store import Store
from harness.units.ceiling_units import compute_ceiling

FILES = {name: f"pereira2018/ceiling_raw_Pereira2018_{name}-linear.nc" for name in pereira2018.CEILINGS}


def of_voxels(path: Path) -> dict[str, float]:
    """Voxel -> published ceiling, NaN or absent where the curve could not be fitted."""
    with xarray.open_dataset(path, engine="h5netcdf") as stored:
        data = stored["data"].load()
    if data.dims != ("neuroid",) or "neuroid_id" not in data.coords:
        raise ValueError(f"{path.name}: `data` has {data.dims}, wanted one ceiling for each neuroid_id.")
    return dict(zip(data["neuroid_id"].values.astype(str).tolist(), data.values.tolist(), strict=True))


def compare(ours: Ceiling, neuroid_ids: tuple[str, ...], root: Path) -> pd.DataFrame:
    """One row for each experiment: voxels in both, medians, r over voxels, median difference."""
    rows = []
    for part, values in zip(ours.parts, ours.values, strict=True):
        published = of_voxels(root / FILES[part])
        both = np.array([(value, published.get(name, np.nan)) for name, value in zip(neuroid_ids, values, strict=True)])
        both = both[np.isfinite(both).all(axis=1)]
        rows.append({
            "experiment": part, "voxels": len(both), "ours": np.median(both[:, 0]), "published": np.median(both[:, 1]),
            "stated": pereira2018.CEILINGS[part], "r": np.corrcoef(both.T)[0, 1] if len(both) > 1 else np.nan,
            "difference": np.median(np.abs(both[:, 0] - both[:, 1])) if len(both) else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """Compute, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="the data root")
    parser.add_argument("--out", default="results", help="where our ceilings are kept (default: results)")
    options = parser.parse_args()
    dataset = pereira2018.load(options.root)
    assert dataset.responses is not None
    ours = compute_ceiling(dataset, pereira2018.PAPER, Store(options.out), lambda done, of: print(f"{done} of {of}"))
    print(compare(ours, dataset.responses.neuroid_ids, options.root).to_string(index=False))


if __name__ == "__main__":
    main()
