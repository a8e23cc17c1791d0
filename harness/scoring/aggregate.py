"""Neuroids -> subjects -> data set -> model, and the choice of the layer.

The score of a layer is the median over neuroids in each fold, then the mean over folds (METHODS section 2). PAPER takes
the best layer on these same scores; STRICT lets each fold choose it by the inner score of its training rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.records import GROUP, Ceiling, Floats, Integers, Layer, LayerFit, Responses

N_BOOTSTRAP = 500
_COUNTS = 2**22  # numbers in memory at once


@dataclass(frozen=True)
class ChosenLayer:
    """The score of a model on one target.

    Attributes:
        layer, layer_folds: the layer chosen and in how many folds; where folds differ, the one chosen most often.
        r: median over neuroids, mean over folds. r_low, r_high: 95 % interval. interval_kind: over what.
        n_nan: neuroids without a score in any fold.
    """

    layer: Layer
    layer_folds: int
    layer_choice: str
    r: float
    r_low: float
    r_high: float
    interval_kind: str
    n_neuroids: int
    n_nan: int


class Target(NamedTuple):
    """What is scored together: (neuroid,) columns, on the folds of one experiment; of all where `part` is None."""

    neuroids: Integers
    part: str | None = None

    def of(self, values: Floats, parts: tuple[str, ...]) -> Floats:
        """(fold, neuroid) of this target alone, of values of all."""
        if self.part is None:
            return values[:, self.neuroids]
        found: Floats = values[np.ix_(np.array(parts) == self.part, self.neuroids)]
        return found


def targets(responses: Responses) -> dict[str, Target]:
    """What is scored together: "all" (subjects), "group" (means over them, "all" if alone), each experiment, each roi.

    Of several experiments "all" and each roi are the mean of their scores (METHODS section 2, Pereira2018).
    """
    subjects = np.array(responses.subjects)
    single = np.flatnonzero(subjects != GROUP)
    found = {"all": Target(single if len(single) else np.arange(len(subjects)))}
    if 0 < len(single) < len(subjects):
        found[GROUP] = Target(np.flatnonzero(subjects == GROUP))
    if len(responses.parts) > 1:
        found.update({part: Target(responses.of_part(part)[1], part) for part in responses.parts})
    rois = np.array(responses.rois)
    if len(set(responses.rois)) > 1:
        found.update({str(roi): Target(np.flatnonzero(rois == roi)) for roi in dict.fromkeys(responses.rois)})
    return found


def fold_scores(fit: LayerFit, target: Target, of: str = "r") -> Floats:
    """(fold,) median over the target's neuroids of "r" or "inner"; NaN where no neuroid has a score."""
    return medians(target.of(getattr(fit, of), fit.parts))


def layer_score(fit: LayerFit, target: Target) -> float:
    """Median over neuroids, mean over the folds of each experiment, mean over these; NaN where nothing is measured."""
    return mean_of_parts(fold_scores(fit, target), fold_parts(fit, target))


def fold_parts(fit: LayerFit, target: Target) -> tuple[str, ...]:
    """The experiment of each of the target's folds."""
    return tuple(part for part in fit.parts if target.part in (None, part))


def mean_of_parts(scores: Floats, parts: tuple[str, ...]) -> float:
    """Mean over experiments of the mean over their folds, NaNs left out; NaN where there is nothing else."""
    of = np.array(parts)
    return mean(np.array([mean(scores[of == part]) for part in dict.fromkeys(parts)]))


def choose(
    fits: dict[Layer, LayerFit], layer_choice: str, responses: Responses, target: Target, seed: int
) -> ChosenLayer:
    """Choose a layer and give the model's score on one target.

    Args:
        fits: layer -> its held-out and inner scores, same folds and neuroids.
        layer_choice: "max" (best on the held-out scores, as the paper) or "nested" (each fold by its training rows).
        responses: whose neuroids the fits are over.
        target: the neuroids and folds that are scored.
        seed: of the bootstrap.
    """
    layers, any_fit = list(fits), next(iter(fits.values()))
    parts = fold_parts(any_fit, target)
    if layer_choice == "max":
        picked = np.full(len(parts), _argmax([layer_score(fits[layer], target) for layer in layers]))
        how = "best of the held-out scores"
    else:
        inner = np.stack([fold_scores(fits[layer], target, "inner") for layer in layers])
        picked = np.array([_argmax(column) for column in inner.T])
        how = "by training rows in each fold"
    held_out = [target.of(fits[layer].r, fits[layer].parts) for layer in layers]
    r = np.stack([held_out[k][fold] for fold, k in enumerate(picked)])  # (fold, neuroid)
    low, high, kind = interval(r, parts, any_fit.test_share, np.array(responses.subjects)[target.neuroids], seed)
    return ChosenLayer(
        layer=layers[np.bincount(picked).argmax()],
        layer_folds=int(np.bincount(picked).max()),
        layer_choice=how,
        r=mean_of_parts(medians(r), parts),
        r_low=low,
        r_high=high,
        interval_kind=kind,
        n_neuroids=len(target.neuroids),
        n_nan=int(np.isnan(r).all(axis=0).sum()),
    )


def interval(
    r: Floats, parts: tuple[str, ...], test_share: float, subjects: NDArray[np.str_], seed: int
) -> tuple[float, float, str]:
    """95 % t interval of the score, from the variance over folds and, where there are 3 or more, over subjects.

    Folds share training rows (and random splits test rows), so the variance of their mean is not s^2 / n but
    s^2 (1 / n + test rows / training rows); experiments share none, so that of their mean is the mean of these over
    their number. Subjects alone would not do: all saw the same stimuli, so what a null model owes to these stimuli is
    common to them.

    Args:
        r: (fold, neuroid) held-out scores.
        parts: (fold,) the experiment of each fold.
        test_share: test rows for each training row.
        subjects: (neuroid,) whose it is.
        seed: of the bootstrap over subjects.

    Source: Nadeau & Bengio 2003, Machine Learning 52, 239-281.
    """
    scores, of = medians(r), np.array(parts)
    by_part = [scores[(of == part) & np.isfinite(scores)] for part in dict.fromkeys(parts)]
    n_folds = sum(len(part) for part in by_part)
    if min(len(part) for part in by_part) < 2:
        return np.nan, np.nan, ""
    variance = sum(np.var(part, ddof=1) * (1 / len(part) + test_share) for part in by_part) / len(by_part) ** 2
    kind = f"t, corrected for shared training rows, over {n_folds} folds"
    people = [np.flatnonzero(subjects == subject) for subject in dict.fromkeys(subjects) if subject != GROUP]
    if len(people) >= 3:
        variance += _variance_over_people(r, parts, people, seed)
        kind += f", and bootstrap over {len(people)} subjects"
    reach = stats.t.ppf(0.975, n_folds - len(by_part)) * np.sqrt(variance)
    middle = mean_of_parts(scores, parts)
    return middle - reach, middle + reach, kind


def _variance_over_people(r: Floats, parts: tuple[str, ...], people: Sequence[Integers], seed: int) -> float:
    """Variance of the score when subjects are drawn anew, with replacement."""
    draws = np.random.default_rng(seed).integers(len(people), size=(N_BOOTSTRAP, len(people)))
    times = np.stack([np.bincount(draw, minlength=len(people)) for draw in draws]).astype(np.int32)  # (draw, subject)
    subject = np.empty(r.shape[1], dtype=np.int64)
    for k, neuroids in enumerate(people):
        subject[neuroids] = k
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw may miss all subjects of an experiment
        by_fold = np.stack([_drawn_medians(row, subject, times) for row in r])  # (fold, draw)
        of = np.array(parts)
        scores = np.nanmean([np.nanmean(by_fold[of == part], axis=0) for part in dict.fromkeys(parts)], axis=0)
        return float(np.nanvar(scores))


def _drawn_medians(row: Floats, subject: Integers, times: Integers) -> Floats:
    """(draw,) median of (neuroid,) values, each counted as often as its subject was drawn; NaN where none is left.

    Sorted once: the median is where half of the counts is reached.
    """
    order = np.argsort(row)[: np.isfinite(row).sum()]  # NaN is sorted last
    if not len(order):
        return np.full(len(times), np.nan)
    medians = []
    for some in np.array_split(times, max(1, len(times) * len(order) // _COUNTS)):
        reached = some[:, subject[order]].cumsum(axis=1, dtype=np.int32)
        total = reached[:, -1:]
        middle = [(reached > place).argmax(axis=1) for place in ((total - 1) // 2, total // 2)]
        medians.append(np.where(total[:, 0] > 0, row[order][middle].mean(axis=0), np.nan))
    return np.concatenate(medians)


def median_ceiling(ceiling: Ceiling, target: Target) -> float:
    """Median of the neuroids' ceilings (METHODS section 4), mean over experiments; NaN where none is known."""
    return mean(medians(target.of(ceiling.values, ceiling.parts)))


def medians(matrix: Floats) -> Floats:
    """Row-wise median without the NaNs; NaN for a row of NaNs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        values: Floats = np.nanmedian(matrix, axis=1)
    return values


def mean_over_folds(r: Floats) -> Floats:
    """(neuroid,) mean of r (fold, neuroid) over the folds in which a neuroid was measured; NaN where in none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        values: Floats = np.nanmean(r, axis=0)
    return values


def median_over_folds(alpha: Floats) -> Floats:
    """(neuroid,) median of alpha (fold, neuroid); NaN where in no fold."""
    return medians(alpha.T)


def mean(values: Floats) -> float:
    """Mean without the NaNs; NaN where there is nothing else."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


def deviation(values: Floats) -> float:
    """Standard deviation without the NaNs; NaN where there is nothing else."""
    return float(np.nanstd(values)) if np.isfinite(values).any() else np.nan


def _argmax(values: list[float] | Floats) -> int:
    """Place of the largest; the first where all are NaN."""
    return int(np.nanargmax(values)) if np.isfinite(values).any() else 0
