"""How well the best possible model could do, given how much the recordings of different people agree.

Two ways. Where subjects have neuroids of their own, each is predicted from others, by the regression and the folds of
the protocol, and what is reached is extrapolated to infinitely many others: a model that knows what other brains do.
Where the score is on a mean over subjects, the mean of half of them is correlated with the mean of the other half,
corrected for the halving.

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
# The published ceiling of reading times is a median of 10 halves; that moves by .02 with the seed, this by .004.
READER_HALVES = 200


def of_responses(responses: Responses, protocol: Protocol, *, threads: int = 1) -> tuple[Floats, tuple[str, ...]]:
    """The ceiling of every neuroid.

    Args:
        responses: neuroids of subjects, and of the subject "group": means over subjects, whose roi is "group ROI" where
            the subjects' is "ROI".
        protocol: folds, regression and metric.
        threads: on how many cores.

    Returns:
        (neuroid,) ceilings and (neuroid,) kinds, as above; NaN and "" where there is none.
    """
    ceiling, kinds = np.full(len(responses.subjects), np.nan), np.full(len(responses.subjects), "", dtype=object)
    splits = folds.make(protocol.folds, responses.row_groups)
    for rows, alike in _measured_alike(responses):
        groups = [responses.row_groups[row] for row in np.flatnonzero(rows)]
        values, within = responses.values[rows], _restrict(splits, rows)
        if within:
            found, ways = of_subjects(values, responses.subjects, groups, within, protocol, threads=threads)
            ceiling[alike], kinds[alike] = found[alike], np.array(ways, dtype=object)[alike]
    for neuroid in np.flatnonzero(np.array(responses.subjects) == GROUP):
        ceiling[neuroid] = split_half(_subject_means(responses, responses.rois[neuroid]))
        kinds[neuroid] = SPLIT_HALF if np.isfinite(ceiling[neuroid]) else ""
    return ceiling, tuple(kinds)


def of_subjects(
    values: Floats,
    subjects: Sequence[str],
    groups: Sequence[str],
    splits: Sequence[Fold],
    protocol: Protocol,
    *,
    threads: int = 1,
) -> tuple[Floats, tuple[str, ...]]:
    """Predict the neuroids of subjects from those of others, on the rows of one experiment.

    Args:
        values: (row, neuroid) responses, NaN where absent.
        subjects: (neuroid,).
        groups: (row,) left out together when alpha is chosen by groups.
        splits: the folds, as indices into these rows.
        protocol: regression and metric.
        threads: on how many cores.

    Returns:
        (neuroid,) median v0 over 100 bootstraps: infinitely many others; NaN where a fit did not converge. Where all
        pools that predict a neuroid are of one size (there are two subjects) the mean of its scores. And the kinds.
    """
    collected = extrapolation.collect(values, subjects, groups, splits, protocol, threads=threads)
    curves = extrapolation.extrapolate(collected, threads=threads)
    ceiling = np.median(curves[..., 0], axis=1)
    sizes = np.array([len(pool) for pool in collected.pools], dtype=int)
    scored = np.atleast_2d(np.isfinite(collected.scores).any(axis=1))
    of_one_size = np.array([len(set(sizes[each])) == 1 for each in scored.T])
    ceiling[of_one_size] = _mean_of_present(collected.scores[:, :, of_one_size], axis=(0, 1))
    kinds = np.where(of_one_size, OTHER_SUBJECTS, EXTRAPOLATED)
    return ceiling, tuple(np.where(np.isfinite(ceiling), kinds, "").tolist())


def of_reading(reading: ReadingTimes) -> tuple[Floats, tuple[str, ...]]:
    """The ceiling of a score on mean reading times: the reliability of the mean over these readers, on scored words.

    Returns:
        (1,) ceiling and its kind, with the number of readers and how their times were put on the words; NaN and ""
        where the readers are not at hand.
    """
    if reading.by_subject_ms is None:
        return np.array([np.nan]), ("",)
    ceiling = split_half(reading.by_subject_ms[reading.scored], READER_HALVES)
    kind = f"{SPLIT_HALF} of {len(reading.subjects)} readers"
    return np.array([ceiling]), ("; ".join(filter(None, [kind, reading.alignment])),)


def split_half(values: Floats, n_splits: int = 10, seed: int = 0) -> float:
    """Median over random halves of the subjects of their corrected correlation; NaN with fewer than two subjects.

    Args:
        values: (row, subject), NaN where absent.
        n_splits: how many random halves.
        seed: of the halves.
    """
    n_subjects = values.shape[1]
    random = np.random.default_rng(seed)
    in_first = random.permuted(np.tile(np.arange(n_subjects) < n_subjects // 2, (n_splits, 1)), axis=1)
    corrected = corrected_halves(values, in_first)
    corrected = corrected[np.isfinite(corrected)]
    return float(np.median(corrected)) if len(corrected) else float("nan")


def corrected_halves(values: Floats, in_first: NDArray[np.bool_]) -> Floats:
    """Correlate the mean of some subjects with the mean of the others, corrected to the full number of subjects.

    A mean is over the subjects present in a row; rows that are absent from a half are left out. The result is the
    reliability of the mean over all subjects, as Brain-Score takes it for a ceiling; the r that a perfect model of what
    subjects share could reach is its square root.

    Args:
        values: (row, subject), NaN where absent.
        in_first: (split, subject) True for the subjects of the first half.

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
    """(row,) rows on which subjects have a response, and (neuroid,) the neuroids of all subjects that have these."""
    subjects = np.array(responses.subjects)
    found: dict[bytes, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}
    for subject in sorted(set(responses.subjects) - {GROUP}):
        own = subjects == subject
        rows = np.atleast_1d(np.isfinite(responses.values[:, own]).any(axis=1))
        found.setdefault(rows.tobytes(), (rows, np.zeros_like(own)))[1][own] = True
    return list(found.values())


def _restrict(splits: list[Fold], rows: NDArray[np.bool_]) -> list[Fold]:
    """The folds as indices into the given rows alone; folds that lose a side are left out."""
    place = np.cumsum(rows) - 1
    restricted = [Fold(*(place[side[rows[side]]] for side in fold)) for fold in splits]
    return [fold for fold in restricted if len(fold.train) and len(fold.test)]


def _subject_means(responses: Responses, group_roi: str) -> Floats:
    """(row, subject) the z-scored mean of each subject's neuroids in the roi that "group ROI" is a mean of."""
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
    """Mean of what is not NaN; NaN where all is."""
    present = np.isfinite(values)
    count = present.sum(axis=axis)
    mean: Floats = np.where(present, values, 0.0).sum(axis=axis) / np.where(count, count, np.nan)
    return mean
