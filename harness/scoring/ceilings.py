"""Noise ceilings: the best possible score, given how well the recordings of different subjects agree.

There are two methods. If subjects have neuroids of their own, each subject is predicted from others with the protocol's
regression and folds, and the scores are extrapolated to infinitely many predicting subjects. If the score is on a mean
over subjects, the means of two random halves are correlated, with the Spearman-Brown correction.

Method: harness/scoring/README.md#noise-ceilings.
Source: Schrimpf et al. 2021 (other subjects); Spearman 1910 and Brown 1910 (halves).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.kernels.metrics import pearson_r
from harness.protocol import Protocol
from harness.records import GROUP, Floats, Fold, ReadingTimes, Responses
from harness.scoring import extrapolation, folds

EXTRAPOLATED = "extrapolated to infinitely many subjects"
OTHER_SUBJECTS, SPLIT_HALF = "r of other subjects", "reliability by split half"
# The published ceiling of reading times is a median over 10 splits, which varies by 0.02 with the seed; 200 by 0.004.
READER_HALVES = 200


def of_responses(responses: Responses, protocol: Protocol) -> tuple[Floats, tuple[str, ...]]:
    """Compute the ceiling of every neuroid.

    Args:
        responses: neuroids of subjects, and of the subject "group", which are means over subjects: a mean over the
            subjects' roi "ROI" has the roi "group ROI".
        protocol: folds, regression and metric.

    Returns:
        (neuroid,) ceilings and (neuroid,) kinds (see the constants above); NaN and "" where there is none.
    """
    ceiling, kinds = np.full(len(responses.subjects), np.nan), np.full(len(responses.subjects), "", dtype=object)
    splits = folds.of_responses(protocol.folds, responses)
    for rows, neuroids in _measured_alike(responses):
        groups = [responses.row_groups[row] for row in np.flatnonzero(rows)]
        values, restricted = responses.values[rows], _restrict(splits, rows)
        if restricted:
            alike = of_subjects(values, responses.subjects, groups, restricted, protocol)
            ceiling[neuroids], kinds[neuroids] = (np.array(column, dtype=object)[neuroids] for column in alike)
    for neuroid in np.flatnonzero(np.array(responses.subjects) == GROUP):
        ceiling[neuroid] = split_half(_subject_means(responses, responses.rois[neuroid]))
        kinds[neuroid] = SPLIT_HALF if np.isfinite(ceiling[neuroid]) else ""
    return ceiling, tuple(kinds)


def of_subjects(
    values: Floats, subjects: Sequence[str], groups: Sequence[str], splits: Sequence[Fold], protocol: Protocol
) -> tuple[Floats, tuple[str, ...]]:
    """Predict the neuroids of subjects from those of others, on the rows of one experiment.

    Args:
        values: (row, neuroid) responses, NaN where absent.
        subjects: (neuroid,) the subject of each neuroid.
        groups: (row,) rows left out together when alpha is chosen by groups.
        splits: the folds, as indices into these rows.
        protocol: regression and metric.

    Returns:
        (neuroid,) ceilings and their kinds. The ceiling is the median over 100 bootstraps of v0, the asymptote at
        infinitely many subjects; NaN if a fit did not converge. If all pools that predict a neuroid have the same
        size (with two subjects), it is the mean of the neuroid's scores.
    """
    collected = extrapolation.collect(values, subjects, groups, splits, protocol)
    curves = extrapolation.extrapolate(collected)
    ceiling = np.median(curves[..., 0], axis=1)
    sizes = np.array([len(pool) for pool in collected.pools], dtype=int)
    scored = np.atleast_2d(np.isfinite(collected.scores).any(axis=1))
    of_one_size = np.array([len(set(sizes[has_pool])) == 1 for has_pool in scored.T])
    ceiling[of_one_size] = _mean_of_present(collected.scores[:, :, of_one_size], axis=(0, 1))
    kinds = np.where(of_one_size, OTHER_SUBJECTS, EXTRAPOLATED)
    return ceiling, tuple(np.where(np.isfinite(ceiling), kinds, "").tolist())


def of_reading(reading: ReadingTimes) -> tuple[Floats, tuple[str, ...]]:
    """The ceiling for mean reading times: the reliability of the mean over readers, on scored words.

    Returns:
        (1,) ceiling and its kind, with the number of readers and how their times were aligned to the words; NaN and ""
        without data of single readers.
    """
    if reading.by_subject_ms is None:
        return np.array([np.nan]), ("",)
    ceiling = split_half(reading.by_subject_ms[reading.scored], READER_HALVES)
    kind = f"{SPLIT_HALF} of {len(reading.subjects)} readers"
    return np.array([ceiling]), ("; ".join(filter(None, [kind, reading.alignment])),)


def split_half(values: Floats, n_splits: int = 10, seed: int = 0) -> float:
    """Median over random split halves of the corrected correlation; NaN with fewer than two subjects.

    Args:
        values: (row, subject), NaN where absent.
        n_splits: number of random splits.
        seed: of the splits.
    """
    n_subjects = values.shape[1]
    halves = np.tile(np.arange(n_subjects) < n_subjects // 2, (n_splits, 1))
    corrected = corrected_halves(values, np.random.default_rng(seed).permuted(halves, axis=1))
    corrected = corrected[np.isfinite(corrected)]
    return float(np.median(corrected)) if len(corrected) else float("nan")


def corrected_halves(values: Floats, in_first: NDArray[np.bool_]) -> Floats:
    """Correlate the means of two halves of the subjects, corrected to the full number of subjects.

    A mean is over the subjects present in a row; rows absent from a half are left out. The result is the reliability
    of the mean over all subjects, which Brain-Score uses as the ceiling; a perfect model of what subjects share can
    reach an r of its square root.

    Args:
        values: (row, subject), NaN where absent.
        in_first: (split, subject) True for subjects of the first half.

    Returns:
        (split,) 2 r / (1 + r) (Spearman 1910, Brown 1910); NaN where a half is empty or constant.
    """
    corrected = np.full(len(in_first), np.nan)
    for split, half in enumerate(in_first):
        means = np.stack([_mean_of_present(values[:, half], axis=1), _mean_of_present(values[:, ~half], axis=1)])
        first, second = means[:, np.isfinite(means).all(axis=0)]
        if len(first):
            r = pearson_r(first[:, None], second[:, None])[0]
            corrected[split] = 2.0 * r / (1.0 + r)
    return corrected


def _measured_alike(responses: Responses) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Group subjects by the rows they have: (row,) mask and (neuroid,) mask of the subjects with exactly these rows."""
    subjects = np.array(responses.subjects)
    masks: dict[bytes, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}
    for subject in sorted(set(responses.subjects) - {GROUP}):
        is_own = subjects == subject
        rows = np.atleast_1d(np.isfinite(responses.values[:, is_own]).any(axis=1))
        masks.setdefault(rows.tobytes(), (rows, np.zeros_like(is_own)))[1][is_own] = True
    return list(masks.values())


def _restrict(splits: list[Fold], rows: NDArray[np.bool_]) -> list[Fold]:
    """Re-index the folds to the given rows; folds without training or test rows are dropped."""
    new_index = np.cumsum(rows) - 1
    restricted = [Fold(*(new_index[side[rows[side]]] for side in fold)) for fold in splits]
    return [fold for fold in restricted if len(fold.train) and len(fold.test)]


def _subject_means(responses: Responses, group_roi: str) -> Floats:
    """(row, subject) z-scored mean of each subject's neuroids in roi "ROI", for a group_roi "group ROI"."""
    rois, subjects = np.array(responses.rois), np.array(responses.subjects)
    of_roi = (rois == group_roi.removeprefix(f"{GROUP} ")) & (subjects != GROUP)
    columns = [
        _mean_of_present(responses.values[:, of_roi & (subjects == subject)].astype(float), axis=1)
        for subject in sorted(set(subjects[of_roi]))
    ]
    means = np.stack(columns, axis=1) if columns else np.empty((len(responses.values), 0))
    centred = means - _mean_of_present(means, axis=0)
    sd = np.sqrt(_mean_of_present(centred**2, axis=0))
    standardised: Floats = centred / np.where(sd > 0, sd, np.nan)
    return standardised


def _mean_of_present(values: Floats, axis: int | tuple[int, ...]) -> Floats:
    """Mean, ignoring NaN; NaN where all values are NaN."""
    present = np.isfinite(values)
    count = present.sum(axis=axis)
    mean: Floats = np.where(present, values, 0.0).sum(axis=axis) / np.where(count, count, np.nan)
    return mean
