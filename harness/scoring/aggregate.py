"""Aggregate neuroid scores to one score per model and target, and choose the layer.

The score of a layer is the median over neuroids in each fold, then the mean over folds. PAPER reports the best layer on
these same scores; under STRICT each fold chooses the layer by the inner score on its training rows.

Method: harness/scoring/README.md#choice-of-the-layer and #intervals.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.records import GROUP, Ceiling, Floats, Integers, Layer, LayerFit, Responses

N_BOOTSTRAP = 500
_MAX_COUNTS = 2**22  # numbers in memory at once


@dataclass(frozen=True)
class ChosenLayer:
    """The score of a model on one target.

    Attributes:
        layer: the chosen layer; if folds differ, the one chosen most often.
        layer_folds: number of folds that chose it.
        layer_choice: the rule, in words.
        r: median over neuroids, mean over folds.
        r_low, r_high: 95 % interval.
        interval_kind: how the interval was computed.
        n_neuroids: number of neuroids of the target.
        n_nan: number of them without a score in any fold.
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
    """Neuroids that share one score: (neuroid,) columns, on the folds of one experiment (`part`) or of all (None)."""

    neuroids: Integers
    part: str | None = None

    def of(self, values: Floats, parts: tuple[str, ...]) -> Floats:
        """Select this target's folds and neuroids from (fold, neuroid) values; parts: (fold,) experiments."""
        if self.part is None:
            return values[:, self.neuroids]
        selected: Floats = values[np.ix_(np.array(parts) == self.part, self.neuroids)]
        return selected


def targets(responses: Responses) -> dict[str, Target]:
    """The targets of a recording: "all" (single subjects), "group" (means over subjects), each experiment, each roi.

    If only group means exist they are "all". With several experiments, "all" and each roi are the mean of the
    experiments' scores, as the paper scores Pereira2018 (harness/scoring/README.md#protocols-by-data-set).
    """
    subjects = np.array(responses.subjects)
    single = np.flatnonzero(subjects != GROUP)
    by_name = {"all": Target(single if len(single) else np.arange(len(subjects)))}
    if 0 < len(single) < len(subjects):
        by_name[GROUP] = Target(np.flatnonzero(subjects == GROUP))
    if len(responses.parts) > 1:
        by_name.update({part: Target(responses.of_part(part)[1], part) for part in responses.parts})
    rois = np.array(responses.rois)
    if len(set(responses.rois)) > 1:
        by_name.update({str(roi): Target(np.flatnonzero(rois == roi)) for roi in dict.fromkeys(responses.rois)})
    return by_name


def fold_scores(fit: LayerFit, target: Target, of: str = "r") -> Floats:
    """(fold,) median over the target's neuroids of "r" or "inner"; NaN where no neuroid has a score."""
    return medians(target.of(getattr(fit, of), fit.parts))


def layer_score(fit: LayerFit, target: Target) -> float:
    """Median over neuroids, mean over the folds of each experiment, mean over experiments; NaN if none is finite."""
    return mean_of_parts(fold_scores(fit, target), fold_parts(fit, target))


def fold_parts(fit: LayerFit, target: Target) -> tuple[str, ...]:
    """(fold,) the experiment of each of the target's folds."""
    return tuple(part for part in fit.parts if target.part in (None, part))


def mean_of_parts(scores: Floats, parts: tuple[str, ...]) -> float:
    """Mean over experiments of the mean over their folds, ignoring NaN; NaN if no value is finite."""
    part_of_fold = np.array(parts)
    return mean(np.array([mean(scores[part_of_fold == part]) for part in dict.fromkeys(parts)]))


def choose(
    fits: dict[Layer, LayerFit], layer_choice: str, responses: Responses, target: Target, seed: int
) -> ChosenLayer:
    """Choose a layer and compute the model's score on one target.

    Args:
        fits: layer -> its held-out and inner scores, on the same folds and neuroids.
        layer_choice: "max" (best held-out score, as the paper) or "nested" (chosen per fold on its training rows).
        responses: the recording that was fitted.
        target: neuroids and folds to score.
        seed: of the bootstrap.
    """
    layers, any_fit = list(fits), next(iter(fits.values()))
    parts = fold_parts(any_fit, target)
    if layer_choice == "max":
        chosen = np.full(len(parts), _argmax([layer_score(fits[layer], target) for layer in layers]))
        rule = "best of the held-out scores"
    else:
        inner = np.stack([fold_scores(fits[layer], target, "inner") for layer in layers])
        chosen = np.array([_argmax(column) for column in inner.T])
        rule = "by training rows in each fold"
    held_out = [target.of(fits[layer].r, fits[layer].parts) for layer in layers]
    r = np.stack([held_out[k][fold] for fold, k in enumerate(chosen)])  # (fold, neuroid)
    low, high, kind = interval(r, parts, any_fit.test_share, np.array(responses.subjects)[target.neuroids], seed)
    times_chosen, score = np.bincount(chosen), mean_of_parts(medians(r), parts)
    layer, n_nan = layers[times_chosen.argmax()], int(np.isnan(r).all(axis=0).sum())
    n_neuroids = len(target.neuroids)
    return ChosenLayer(layer, int(times_chosen.max()), rule, score, low, high, kind, n_neuroids, n_nan)


def interval(
    r: Floats, parts: tuple[str, ...], test_share: float, subjects: NDArray[np.str_], seed: int
) -> tuple[float, float, str]:
    """95 % t interval of the score, from the variance over folds and, with 3 or more subjects, over subjects.

    Folds share training rows (and random splits also test rows), so the variance of their mean is not s^2 / n but
    s^2 (1 / n + test rows / training rows). Experiments share no rows, so their variances are averaged and divided by
    their number. Resampling subjects alone is not enough: all saw the same stimuli, so the chance score of a null model
    on these stimuli is common to all subjects.

    Args:
        r: (fold, neuroid) held-out scores.
        parts: (fold,) the experiment of each fold.
        test_share: number of test rows per training row.
        subjects: (neuroid,) the subject of each neuroid.
        seed: of the bootstrap over subjects.

    Returns:
        Lower end, upper end, and how the interval was computed; NaN, NaN, "" if an experiment has fewer than two
        scored folds.

    Source: Nadeau & Bengio 2003, Machine Learning 52, 239-281.
    """
    scores, part_of_fold = medians(r), np.array(parts)
    by_part = [scores[(part_of_fold == part) & np.isfinite(scores)] for part in dict.fromkeys(parts)]
    n_folds = sum(len(part) for part in by_part)
    if min(len(part) for part in by_part) < 2:
        return np.nan, np.nan, ""
    variance = sum(np.var(part, ddof=1) * (1 / len(part) + test_share) for part in by_part) / len(by_part) ** 2
    kind = f"t, corrected for shared training rows, over {n_folds} folds"
    by_subject = [np.flatnonzero(subjects == subject) for subject in dict.fromkeys(subjects) if subject != GROUP]
    if len(by_subject) >= 3:
        variance += _variance_over_subjects(r, parts, by_subject, seed)
        kind += f", and bootstrap over {len(by_subject)} subjects"
    half_width = stats.t.ppf(0.975, n_folds - len(by_part)) * np.sqrt(variance)
    score = mean_of_parts(scores, parts)
    return score - half_width, score + half_width, kind


def _variance_over_subjects(r: Floats, parts: tuple[str, ...], by_subject: Sequence[Integers], seed: int) -> float:
    """Variance of the score over bootstrap samples of subjects."""
    draws = np.random.default_rng(seed).integers(len(by_subject), size=(N_BOOTSTRAP, len(by_subject)))
    drawn = [np.bincount(draw, minlength=len(by_subject)) for draw in draws]
    times = np.stack(drawn).astype(np.int32)  # (draw, subject)
    subject = np.empty(r.shape[1], dtype=np.int64)
    for k, neuroids in enumerate(by_subject):
        subject[neuroids] = k
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw may contain no subject of an experiment
        by_fold = np.stack([_drawn_medians(row, subject, times) for row in r])  # (fold, draw)
        part_of_fold = np.array(parts)
        by_part = [np.nanmean(by_fold[part_of_fold == part], axis=0) for part in dict.fromkeys(parts)]
        return float(np.nanvar(np.nanmean(by_part, axis=0)))


def _drawn_medians(row: Floats, subject: Integers, times: Integers) -> Floats:
    """(draw,) weighted median of (neuroid,) values, weights being how often a subject was drawn; NaN without weight.

    Values are sorted once; the median is where the cumulative weight reaches half of the total.
    """
    order = np.argsort(row)[: np.isfinite(row).sum()]  # NaN sorts last
    if not len(order):
        return np.full(len(times), np.nan)
    medians = []
    for block in np.array_split(times, max(1, len(times) * len(order) // _MAX_COUNTS)):
        cumulative = block[:, subject[order]].cumsum(axis=1, dtype=np.int32)
        total = cumulative[:, -1:]
        middle = [(cumulative > half).argmax(axis=1) for half in ((total - 1) // 2, total // 2)]
        medians.append(np.where(total[:, 0] > 0, row[order][middle].mean(axis=0), np.nan))
    return np.concatenate(medians)


def median_ceiling(ceiling: Ceiling, target: Target) -> float:
    """Median of the neuroids' ceilings, mean over experiments; NaN if none is known."""
    return mean(medians(target.of(ceiling.values, ceiling.parts)))


def medians(matrix: Floats) -> Floats:
    """Row-wise median, ignoring NaN; NaN for an all-NaN row."""
    return _without_warning(np.nanmedian, matrix, 1)


def mean_over_folds(r: Floats) -> Floats:
    """(neuroid,) mean of (fold, neuroid) r, ignoring NaN; NaN for a neuroid without a score in any fold."""
    return _without_warning(np.nanmean, r, 0)


def _without_warning(statistic: Callable[..., Any], matrix: Floats, axis: int) -> Floats:
    """A statistic along an axis, without NumPy's warning that all values are NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        values: Floats = statistic(matrix, axis=axis)
    return values


def median_over_folds(alpha: Floats) -> Floats:
    """(neuroid,) median of (fold, neuroid) alpha, ignoring NaN."""
    return medians(alpha.T)


def mean(values: Floats) -> float:
    """Mean, ignoring NaN; NaN if no value is finite."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


def deviation(values: Floats) -> float:
    """Standard deviation, ignoring NaN; NaN if no value is finite."""
    return float(np.nanstd(values)) if np.isfinite(values).any() else np.nan


def _argmax(values: list[float] | Floats) -> int:
    """Index of the largest value; 0 if all are NaN."""
    return int(np.nanargmax(values)) if np.isfinite(values).any() else 0
