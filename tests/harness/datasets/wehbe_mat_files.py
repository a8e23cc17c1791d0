"""Writes small MAT files of the form that Wehbe et al. (2014) publish: all words and scans, a few voxels.

Variables and fields are those that programs that read the published files use: `data`, `time` (start, run), `words`
(1 x 5176 structs whose `text` is a cell) and `meta` (a struct). Written by SciPy alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.harness.datasets import wehbe_files
from tests.harness.datasets.published import people

NAMES = ("Temporal_Mid_L", "Frontal_Inf_Tri_L", "Angular_L", "Not_labelled")
N_VOXELS = 6
RUNS = np.repeat(np.arange(1, 5), wehbe_files.RUN_SCANS)


def variables(subject: int, data: np.ndarray) -> dict:
    """The variables of one file. Voxel 0 has no region; region numbers count from 1."""
    onsets, n_voxels = wehbe_files._onsets(), data.shape[1]
    texts = np.random.default_rng(0).choice(wehbe_files._TEXT, len(onsets))
    words = np.zeros((1, len(onsets)), dtype=[("text", object), ("start", object), ("length", object)])
    for k, (text, onset) in enumerate(zip(texts, onsets, strict=True)):
        cell = np.empty((1, 1), dtype=object)
        cell[0, 0] = str(text)
        words[0, k] = (cell, float(onset), 0.5)
    names = np.empty((1, len(NAMES)), dtype=object)
    names[0, :] = NAMES
    meta = {
        "subject": float(subject), "nTRs": 1351.0, "nvoxels": float(n_voxels), "dimx": 2.0, "dimy": 3.0, "dimz": 2.0,
        "colToCoord": np.ones((n_voxels, 3)), "coordToCol": np.zeros((2, 3, 2)),
        "colToROInum": (np.arange(n_voxels)[np.newaxis] % 4).astype(np.float64), "coordToROInum": np.zeros((2, 3, 2)),
        "ROInumToName": names, "voxel_size": np.full((1, 3), 3.0), "matrix": np.eye(4),
    }  # fmt: skip
    time = np.stack([2.0 * np.arange(len(RUNS)), RUNS], axis=1)
    return {"data": data, "time": time, "words": words, "meta": meta}


def courses(n_subjects: int = 8) -> np.ndarray:
    """(subject, scan, voxel) signal around 1,000 with slow drift; the last voxel of subject 3 is constant."""
    rng, n_scans = np.random.default_rng(1), len(RUNS)
    signal = people(rng, n_scans, n_subjects * N_VOXELS).reshape(n_scans, n_subjects, N_VOXELS)
    drift = 5 * np.linspace(0, 1, n_scans) + 8 * np.sin(np.arange(n_scans) * 2 * np.pi / 250)
    data = 1000 + 10 * signal + drift[:, np.newaxis, np.newaxis]
    data[:, 2, -1] = 900.0
    return np.moveaxis(data, 1, 0)


def write(root: Path) -> np.ndarray:
    """Write the eight files under root/wehbe2014-authors; returns their (subject, scan, voxel) data."""
    folder, data = root / "wehbe2014-authors", courses()
    folder.mkdir(parents=True)
    for number, own in enumerate(data, start=1):
        save(folder / f"subject_{number}.mat", variables(number, own))
    return data


def save(path: Path, content: dict) -> None:
    """Write compressed, as MATLAB does."""
    savemat(path, content, do_compression=True)
