"""How well the best possible model could do, given how much the recordings of different people agree.

Two ways. Where subjects have neuroids of their own, each is predicted from all others, by the regression and the folds
of the protocol: a model that knows what other brains do. Where the score is on a mean over subjects, the mean of half
of them is correlated with the mean of the other half, corrected for the halving.

Source: Schrimpf et al. 2021 (other subjects, without their extrapolation to infinitely many); Spearman 1910 and Brown
1910 (halves).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness import folds, scoring
from harness.records import GROUP, Floats, Fold, ReadingTimes, Responses
from harness.spec import Protocol
from kernels.metrics import pearson_r

OTHER_SUBJECTS, SPLIT_HALF = "r of other subjects", "reliability by split half"
# The published ceiling of reading times is a median of 10 halves; that moves by .02 with the seed, this by .004.
READER_HALVES = 200


def of_responses(responses: Responses, protocol: Protocol) -> tuple[Floats, tuple[str, ...]]:
    """The ceiling of every neuroid.

    Args:
        responses: neuroids of subjects, and of the subject "group": means over subjects, whose roi is "group ROI" where
            the subjects' is "ROI".
        protocol: folds and regression.

    Returns:
        (neuroid,) ceilings and (neuroid,) kinds: "other subjects", "split half"; NaN and "" where there is none.
    """
    ceiling, kind = between_subjects(responses, protocol)
    kinds = np.where(np.isfinite(ceiling), kind, "").astype(object)
    for neuroid in np.flatnonzero(np.array(responses.subjects) == GROUP):
        ceiling[neuroid] = split_half(_subject_means(responses, responses.rois[neuroid]))
        kinds[neuroid] = SPLIT_HALF if np.isfinite(ceiling[neuroid]) else ""
    return ceiling, tuple(kinds)


def between_subjects(responses: Responses, protocol: Protocol) -> tuple[Floats, str]:
    """Predict each subject's neuroids from the neuroids of all other subjects.

    Rows are those where the subject has a response; predictors, the others' neuroids that are complete there.

    Returns:
        (neuroid,) r, mean over folds, and the kind; NaN for "group", with fewer than two subjects, and where nobody
        else was measured on all rows of the subject.
    """
    subjects = np.array(responses.subjects)
    ceiling = np.full(len(subjects), np.nan)
    splits = folds.make(protocol.folds, responses.row_groups)
    for subject in sorted(set(responses.subjects) - {GROUP}):
        own, others = subjects == subject, (subjects != subject) & (subjects != GROUP)
        rows = np.asarray(np.isfinite(responses.values[:, own]).any(axis=1))
        X, Y = responses.values[np.ix_(rows, others)], responses.values[np.ix_(rows, own)]
        X = X[:, np.isfinite(X).all(axis=0)]
        present = _restrict(splits, rows)
        if X.size and present:
            groups = [responses.row_groups[row] for row in np.flatnonzero(rows)]
            fit = scoring.fit_layer(X, Y, groups, present, protocol)
            ceiling[own] = _mean_of_present(fit.r, axis=0)
    return ceiling, OTHER_SUBJECTS


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


def _mean_of_present(values: Floats, axis: int) -> Floats:
    """Mean of what is not NaN; NaN where all is."""
    present = np.isfinite(values)
    count = present.sum(axis=axis)
    mean: Floats = np.where(present, values, 0.0).sum(axis=axis) / np.where(count, count, np.nan)
    return mean
