"""Removes slow drift and nuisance regressors from the time courses of a run, and standardises them.

Drift and regressors are removed in one least-squares regression with a constant: removing them one after the other
would bring back some of the first (Lindquist et al. 2019). The drift is the discrete cosine set of SPM (`spm_dctmtx`)
and nilearn (`drift_model="cosine"`): all cosines of a period above the cut-off.
"""

from __future__ import annotations

from math import floor

import numpy as np

from harness.records import Floats

_NEUROIDS_AT_ONCE = 4096
_RANK = 1e-10  # singular values below this fraction of the largest are 0
_LEAST_FREE = 5  # scans that must be left beyond the regressors


def cosines(n_scans: int, tr_s: float, high_pass_s: float) -> Floats:
    """(n_scans, order) discrete cosines of the periods above `high_pass_s`, without the constant.

    order = floor(2 n_scans TR / high_pass_s), as in SPM and nilearn (whose high_pass in Hz is 1 / high_pass_s).
    """
    order = min(n_scans - 1, floor(2 * n_scans * tr_s / high_pass_s))
    phase = np.pi / n_scans * (np.arange(n_scans) + 0.5)
    drift: Floats = np.sqrt(2 / n_scans) * np.cos(np.outer(phase, np.arange(1, order + 1)))
    return drift


def clean(courses: Floats, regressors: Floats, *, zscore: bool, where: str) -> None:
    """Clean the courses of one run in place.

    Args:
        courses: (scan, neuroid), NaN in whole columns that were not measured.
        regressors: (scan, regressor) drift and nuisance regressors; a constant is added.
        zscore: whether to divide by the standard deviation (of n) and leave the mean at 0; else the mean is kept. A
            course that is constant, or is explained by the regressors, becomes NaN: nothing can be measured.
        where: the run, for messages.

    Raises:
        ValueError: if there are too many regressors for the scans.
    """
    n_scans = len(courses)
    basis = _basis(regressors, n_scans)
    if basis.shape[1] + 1 + _LEAST_FREE > n_scans:
        raise ValueError(
            f"{where} has {n_scans} scans, and {basis.shape[1]} independent regressors of drift and confounds: choose "
            "fewer confounds, or a larger high_pass_s, in dataset.json."
        )
    for start in range(0, courses.shape[1], _NEUROIDS_AT_ONCE):
        part = courses[:, start : start + _NEUROIDS_AT_ONCE].astype(np.float64)
        mean = part.mean(axis=0)
        part -= mean
        sd_before = part.std(axis=0)
        part -= basis @ (basis.T @ part)
        if zscore:
            sd = part.std(axis=0)
            part /= np.where(sd > 1e-6 * np.maximum(sd_before, 1e-6 * np.abs(mean)), sd, np.nan)
        else:
            part += mean
        courses[:, start : start + _NEUROIDS_AT_ONCE] = part


def _basis(regressors: Floats, n_scans: int) -> Floats:
    """(scan, rank) orthonormal basis of the centred regressors, each scaled first so that none is lost for its unit."""
    centred = regressors.reshape(n_scans, -1) - regressors.reshape(n_scans, -1).mean(axis=0)
    scale = np.sqrt((centred**2).sum(axis=0))
    kept = scale > 0
    if not kept.any():
        return np.zeros((n_scans, 0))
    left, singular, _ = np.linalg.svd(centred[:, kept] / scale[kept], full_matrices=False)
    basis: Floats = left[:, singular > _RANK * singular[0]]
    return basis
