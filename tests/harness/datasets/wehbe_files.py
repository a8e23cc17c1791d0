"""Writes small files in exactly the published format of Wehbe2014: all words and scans, a few voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.datasets.wehbe2014 import REGIONS, SUBJECTS

# Scans per run, and half seconds without words in each run: 20 s at its start, 8.5 s at its end.
RUN_SCANS = (326, 338, 345, 342)
N_QUIET_BEFORE, N_QUIET_AFTER = 40, 17
N_SHARED = 5
_TEXT = ("Harry", "had", "never", "believed", "he", "would", "meet", "a", "boy", "before", '"Dudley,', "@", "+", "--")


def write(root: Path, seed: int = 0, noise: float = 0.2) -> Path:
    """Write all files under root/wehbe2014 and return the root.

    Voxel 1 + k of every subject is the k-th of N_SHARED common, slow time courses plus independent noise. The first
    voxel and, in the later subjects, some at the end are pure noise. The mask `all` excludes voxel 0.
    """
    rng, folder = np.random.default_rng(seed), root / "wehbe2014"
    (folder / "fMRI").mkdir(parents=True)
    runs = np.repeat(np.arange(1, 5), RUN_SCANS)
    np.save(folder / "fMRI" / "time_fmri.npy", 2.0 * np.arange(len(runs)))
    np.save(folder / "fMRI" / "runs_fmri.npy", runs)
    onsets = _onsets()
    np.save(folder / "fMRI" / "time_words_fmri.npy", onsets)
    np.save(folder / "stimuli_words.npy", rng.choice(_TEXT, len(onsets)))
    shared = rng.standard_normal((len(runs), N_SHARED))
    shared = (shared + np.roll(shared, 1, axis=0) + np.roll(shared, 2, axis=0)) / 3**0.5
    kept = np.concatenate([np.flatnonzero(runs == run)[20:-15] for run in range(1, 5)])
    rois = {}
    for k, subject in enumerate(SUBJECTS):
        courses = rng.standard_normal((len(runs), 1 + N_SHARED + k // 4))
        courses[:, 1 : 1 + N_SHARED] = shared + noise * courses[:, 1 : 1 + N_SHARED]
        np.save(folder / "fMRI" / f"data_subject_{subject}.npy", courses[kept])
        rois[subject] = masks(courses.shape[1])
    np.save(folder / "HP_subj_roi_inds.npy", rois)
    return root


def masks(n_voxels: int) -> dict[str, np.ndarray]:
    """Voxels 1 and 2 are PostTemp, 2 and 3 AntTemp, 4 IFG, the others in no region; `all` is all but voxel 0."""
    voxels = np.arange(n_voxels)
    by_region = {region: np.zeros(n_voxels, dtype=bool) for region in REGIONS}
    by_region |= {"PostTemp": np.isin(voxels, (1, 2)), "AntTemp": np.isin(voxels, (2, 3)), "IFG": voxels == 4}
    return {"all": voxels > 0, **by_region}


def _onsets() -> np.ndarray:
    """(5176,) 20.0, 20.5, ... 2693.0 seconds."""
    starts = np.cumsum((0, *RUN_SCANS[:-1])) * 2.0
    shown = [4 * n - N_QUIET_BEFORE - N_QUIET_AFTER for n in RUN_SCANS]
    return np.concatenate([start + 20 + 0.5 * np.arange(n) for start, n in zip(starts, shown, strict=True)])
