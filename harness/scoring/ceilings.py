"""Noise ceilings: the best possible score, given how well the recordings of different subjects agree.

There are two methods. If subjects have neuroids of their own, each subject is predicted from others with the protocol's
regression and folds, and the scores are extrapolated to infinitely many predicting subjects. If the score is on a mean
over subjects, the means of two random halves are correlated, with the Spearman-Brown correction. A perfect model
reaches the square root of this reliability: the ceiling of STRICT and EQUAL, while Brain-Score takes the reliability.

Method: harness/scoring/README.md#noise-ceilings.
Source: Schrimpf et al. 2021 (other subjects); Spearman 1910 and Brown 1910 (halves).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.kernels.metrics import pearson_r
from harness.protocol import Protocol
from harness.records import (
    GROUP,
    Floats,
    Fold,
    Growth,
    Integers,
    NeuroidCeilings,
    ReadingTimes,
    Responses,
)  # fmt: skip
from harness.scoring import extrapolation, folds, intervals, reliability_curve
from harness.scoring.explainable import signed_root
from harness.scoring.extrapolation import Progress, unseen
from harness.scoring.fitting import CallRunner, in_order

EXTRAPOLATED = "extrapolated to infinitely many subjects"
OTHER_SUBJECTS, SPLIT_HALF = "r of other subjects", "reliability by split half"
ROOT = "square root of the"  # before SPLIT_HALF
# The published ceiling of reading times is a median over 10 splits, which varies by 0.02 with the seed; 200 by 0.004.
HALVES = 200
# For the intervals of split halves: halves of each jackknife sample, its size for subjects, blocks of rows.
_JACKKNIFE_HALVES, _MOST_LEFT_OUT, _BLOCKS = 50, 30, 10
FEWEST_FOR_INTERVAL = 4
_SPLITS = 50  # splits whose means are in memory at once


def of_responses(
    responses: Responses, protocol: Protocol, progress: Progress = unseen, run: CallRunner = in_order
) -> NeuroidCeilings:
    """Compute the ceiling of every neuroid of one experiment.

    Args:
        responses: neuroids of subjects, and of the subject "group", which are means over subjects: a mean over the
            subjects' roi "ROI" has the roi "group ROI".
        protocol: folds, regression, metric and curve.
        progress: as in `extrapolation.collect`; starts again for subjects with other rows.
        run: computes the pools of subjects, in this process or divided.
    """
    splits = folds.of_responses(protocol.folds, responses)
    n_neuroids = len(responses.subjects)
    largest = max(len(set(responses.subjects) - {GROUP}) - 1, 0)
    growth = Growth(np.full((largest, len(splits), n_neuroids), np.nan, np.float32), folds.correlation(splits))
    ceilings = NeuroidCeilings.unknown(n_neuroids, growth)
    for rows, neuroids in _measured_alike(responses):
        groups = [responses.row_groups[row] for row in np.flatnonzero(rows)]
        kept, restricted = _restrict(splits, rows)
        if restricted:
            alike = of_subjects(responses.values[rows], responses.subjects, groups, restricted, protocol, progress, run)
            for column, found in zip(ceilings[:-1], alike[:-1], strict=True):
                column[neuroids] = found[neuroids]
            by_size = alike.growth.scores if alike.growth else np.empty((0, len(kept), n_neuroids))
            growth.scores[np.ix_(np.arange(len(by_size)), np.array(kept), np.flatnonzero(neuroids))] = by_size[
                :, :, neuroids
            ]
    for neuroid in np.flatnonzero(np.array(responses.subjects) == GROUP):
        means = _subject_means(responses, responses.rois[neuroid])
        (ceiling, low, high), kind = _of_mean(means, protocol)
        if np.isfinite(ceiling):
            ceilings.values[neuroid], ceilings.low[neuroid], ceilings.high[neuroid] = ceiling, low, high
            ceilings.kinds[neuroid], ceilings.n_subjects[neuroid] = kind, means.shape[1]
    return ceilings


def _of_mean(values: Floats, protocol: Protocol) -> tuple[Floats, str]:
    """Ceiling of r with the mean over subjects, and the ends of its interval, from (row, subject); and its kind.

    Under the "reliability" curve it is what a perfect model reaches, the square root of the reliability; otherwise the
    reliability itself, as in Brain-Score, which a good model can exceed.
    """
    reliability = np.array(split_half_with_interval(values))
    if protocol.ceiling_curve == "reliability":
        return signed_root(reliability), f"{ROOT} {SPLIT_HALF}"
    return reliability, SPLIT_HALF


def of_subjects(
    values: Floats, subjects: Sequence[str], groups: Sequence[str], splits: Sequence[Fold], protocol: Protocol,
    progress: Progress = unseen, run: CallRunner = in_order,
) -> NeuroidCeilings:  # fmt: skip
    """Predict the neuroids of subjects from those of others, on the rows of one experiment.

    Args:
        values: (row, neuroid) responses, NaN where absent.
        subjects: (neuroid,) the subject of each neuroid.
        groups: (row,) rows left out together when alpha is chosen by groups.
        splits: the folds, as indices into these rows.
        protocol: regression, metric and curve.
        progress: as in `extrapolation.collect`.
        run: likewise.

    Returns:
        Ceilings: the median over 100 bootstraps of v0, the asymptote at infinitely many subjects; NaN if a fit did not
        converge. If all pools that predict a neuroid have the same size (with two subjects), it is the mean of the
        neuroid's scores. Intervals: percentiles of the bootstraps, which resample pools and folds as Brain-Score does,
        under the "exponential" curve; they exclude 0 for a third of neuroids without signal. Otherwise t over folds.
    """
    collected = extrapolation.collect(values, subjects, groups, splits, protocol, progress=progress, run=run)
    v0 = extrapolation.extrapolate(collected, curve=protocol.ceiling_curve)[..., 0]
    by_size = extrapolation.by_size(collected)
    is_scored = np.isfinite(by_size).any(axis=1)
    n_sizes = is_scored.sum(axis=0)
    largest = (is_scored * np.arange(1, len(by_size) + 1)[:, None]).max(axis=0, initial=0)
    ceiling, of_one_size = np.median(v0, axis=1), n_sizes == 1
    means = intervals.mean(collected.scores[:, :, of_one_size], axis=0)
    ceiling[of_one_size] = intervals.mean(collected.scores[:, :, of_one_size], axis=(0, 1))
    v0[of_one_size] = _resampled_means(means).T
    growth = Growth(by_size, folds.correlation(splits))
    low, high = np.percentile(v0, (2.5, 97.5), axis=1)
    if protocol.ceiling_curve == "reliability":
        half = _half_widths(growth)
        low, high = ceiling - half, ceiling + half
    kinds = np.where(np.isfinite(ceiling), np.where(of_one_size, OTHER_SUBJECTS, EXTRAPOLATED), "").astype(object)
    n_subjects = np.where(n_sizes > 0, largest + 1, 0)
    return NeuroidCeilings(ceiling, low, high, kinds, n_subjects, n_sizes, growth)


def _half_widths(growth: Growth) -> Floats:
    """(neuroid,) half the width of the 95 % t interval of the asymptote over folds, as in `target_ceilings`."""
    scores, half = growth.scores, np.full(growth.scores.shape[2], np.nan)
    for sizes, neuroids in extrapolation.predicted_alike(scores.mean(axis=1)):
        own = scores[np.ix_(sizes, np.arange(scores.shape[1]), neuroids)]
        weights = reliability_curve.slopes(sizes + 1.0, reliability_curve.fit(sizes + 1.0, own.mean(axis=1).T))
        by_fold = np.einsum("ns,sfn->fn", weights, own)
        n_folds, rho = len(by_fold), growth.fold_correlation
        if n_folds > 1 and rho < intervals.MOST_CORRELATED:
            variance = by_fold.var(axis=0, ddof=1) * intervals.per_fold(n_folds, rho)
            half[neuroids] = intervals.t_quantile(0.975, n_folds - 1) * np.sqrt(variance)
    return half


def _resampled_means(scores: Floats, n_bootstraps: int = 100) -> Floats:
    """(bootstrap, neuroid) means of (fold, neuroid) scores over folds drawn with replacement."""
    draws = np.random.default_rng(0).integers(len(scores), size=(n_bootstraps, len(scores)))
    return np.stack([intervals.mean(scores[draw], axis=0) for draw in draws])


def of_reading(reading: ReadingTimes, protocol: Protocol) -> NeuroidCeilings:
    """The ceiling for mean reading times, from the reliability of the mean over readers, on scored words.

    Args:
        reading: with the times of single readers.
        protocol: its `ceiling_curve`.

    Returns:
        A single ceiling; its kind says the number of readers and how their times were aligned to the words. Unknown
        without data of single readers.
    """
    ceiling = NeuroidCeilings.unknown(1)
    if reading.by_subject_ms is not None:
        times = reading.by_subject_ms[reading.scored]
        (ceiling.values[0], ceiling.low[0], ceiling.high[0]), kind = _of_mean(times, protocol)
        ceiling.n_subjects[0] = len(reading.subjects)
        ceiling.kinds[0] = "; ".join(filter(None, [f"{kind} of {len(reading.subjects)} readers", reading.alignment]))
    return ceiling


def split_half(values: Floats, n_splits: int = HALVES, seed: int = 0) -> float:
    """Median over random split halves of the corrected correlation; NaN with fewer than two subjects.

    Args:
        values: (row, subject), NaN where absent.
        n_splits: number of random splits.
        seed: of the splits.
    """
    return _median(corrected_halves(values, _random_halves(values.shape[1], n_splits, seed)))


def split_half_with_interval(values: Floats) -> tuple[float, float, float]:
    """`split_half` and its 95 % interval, for other subjects and other rows.

    The variances of two jackknives are added: one leaves out subjects (one, or a thirtieth of them), the other a tenth
    of the rows, in blocks. No interval with fewer than four subjects or ten rows.
    """
    n_rows, n_subjects = values.shape
    ceiling, spread = split_half(values), 0.0
    if n_subjects < FEWEST_FOR_INTERVAL or n_rows < _BLOCKS:
        return ceiling, np.nan, np.nan
    halves = _random_halves(n_subjects, _JACKKNIFE_HALVES, seed=0)
    for axis, n_left_out in ((1, min(n_subjects, _MOST_LEFT_OUT)), (0, _BLOCKS)):
        parts = np.array_split(np.arange(values.shape[axis]), n_left_out)
        without = [_median(corrected_halves(*_delete(values, halves, part, axis))) for part in parts]
        variance = (len(parts) - 1) ** 2 / len(parts) * float(np.var(without, ddof=1))
        spread += intervals.t_quantile(0.975, len(parts) - 1) ** 2 * variance
    return ceiling, ceiling - spread**0.5, ceiling + spread**0.5


def _random_halves(n_subjects: int, n_splits: int, seed: int) -> NDArray[np.bool_]:
    """(split, subject) True for subjects of the first half."""
    halves = np.tile(np.arange(n_subjects) < n_subjects // 2, (n_splits, 1))
    return np.random.default_rng(seed).permuted(halves, axis=1)


def _delete(values: Floats, halves: NDArray[np.bool_], part: Integers, axis: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Values and halves without some rows (axis 0) or subjects (axis 1)."""
    return np.delete(values, part, axis), halves if axis == 0 else np.delete(halves, part, axis=1)


def _median(values: Floats) -> float:
    present = values[np.isfinite(values)]
    return float(np.median(present)) if len(present) else float("nan")


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
    present = np.isfinite(values).astype(float)
    filled = np.where(present > 0, values, 0.0).astype(float)
    for split in range(0, len(in_first), _SPLITS):
        members = in_first[split : split + _SPLITS].T.astype(float)
        halves = []
        for half in (members, 1.0 - members):
            count = present @ half
            halves.append((filled @ half) / np.where(count, count, np.nan))
        for k, (first, second) in enumerate(zip(halves[0].T, halves[1].T, strict=True)):
            both = np.isfinite(first) & np.isfinite(second)
            if both.any():
                r = pearson_r(first[both, None], second[both, None])[0]
                corrected[split + k] = 2.0 * r / (1.0 + r)
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


def _restrict(splits: list[Fold], rows: NDArray[np.bool_]) -> tuple[list[int], list[Fold]]:
    """Re-index the folds to the given rows; those without training or test rows are dropped. Also their numbers."""
    new_index = np.cumsum(rows) - 1
    restricted = [Fold(*(new_index[side[rows[side]]] for side in fold)) for fold in splits]
    kept = [k for k, fold in enumerate(restricted) if len(fold.train) and len(fold.test)]
    return kept, [restricted[k] for k in kept]


def _subject_means(responses: Responses, group_roi: str) -> Floats:
    """(row, subject) z-scored mean of each subject's neuroids in roi "ROI", for a group_roi "group ROI"."""
    rois, subjects = np.array(responses.rois), np.array(responses.subjects)
    of_roi = (rois == group_roi.removeprefix(f"{GROUP} ")) & (subjects != GROUP)
    columns = [
        intervals.mean(responses.values[:, of_roi & (subjects == subject)].astype(float), axis=1)
        for subject in sorted(set(subjects[of_roi]))
    ]
    means = np.stack(columns, axis=1) if columns else np.empty((len(responses.values), 0))
    centred = means - intervals.mean(means, axis=0)
    sd = np.sqrt(intervals.mean(centred**2, axis=0))
    standardised: Floats = centred / np.where(sd > 0, sd, np.nan)
    return standardised
