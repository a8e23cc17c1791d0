"""Aggregate neuroid scores to one score per model and target, and choose the layer.

The score of a layer in a fold is the median over all neuroids (PAPER) or the median over each subject's neuroids, then
the mean over subjects (STRICT); then the mean over folds. PAPER reports the best layer on these same scores; under
STRICT each fold chooses the layer by the inner score on its training rows.

Method: harness/scoring/README.md#choice-of-the-layer and #intervals.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.records import GROUP, Floats, Integers, Layer, LayerFit, Responses
from harness.scoring import intervals


@dataclass(frozen=True)
class ChosenLayer:
    """The score of a model on one target.

    Attributes:
        layer: the chosen layer; if folds differ, the one chosen most often.
        layer_folds: number of folds that chose it.
        layer_choice: the rule, in words.
        r: median over neuroids, mean over folds.
        r_low, r_high: 95 % interval.
        r_mad: median absolute deviation over single subjects, the error bars of the paper; NaN with fewer than two.
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
    r_mad: float
    interval_kind: str
    n_neuroids: int
    n_nan: int


class Target(NamedTuple):
    """Neuroids that share one score.

    Attributes:
        neuroids: (neuroid,) their columns.
        part: the experiment whose folds count; None for all.
        by_subject: each subject's neuroids as indices into `neuroids`, if the score is aggregated by subject; () if
            subjects are pooled.
    """

    neuroids: Integers
    part: str | None = None
    by_subject: tuple[Integers, ...] = ()

    def of(self, values: Floats, parts: tuple[str, ...]) -> Floats:
        """Select this target's folds and neuroids from (fold, neuroid) values; parts: (fold,) experiments."""
        if self.part is None:
            return values[:, self.neuroids]
        selected: Floats = values[np.ix_(np.array(parts) == self.part, self.neuroids)]
        return selected

    def by_fold(self, selected: Floats) -> Floats:
        """(fold,) scores from the target's (fold, neuroid) values; NaN where no neuroid has one."""
        return _without_warning(np.nanmean, self.subject_medians(selected), 1) if self.by_subject else medians(selected)

    def subject_medians(self, selected: Floats) -> Floats:
        """(fold, subject) median over each subject's neuroids."""
        return np.stack([medians(selected[:, own]) for own in self.by_subject], axis=1)


def targets(responses: Responses, aggregate: str = "pooled") -> dict[str, Target]:
    """The targets of a recording: "all" (single subjects), "group" (means over subjects), each experiment, each roi.

    If only group means exist they are "all". A mean over the regions of a subject (`_network_means`) is in none of
    these but its own roi. With several experiments, "all" and each roi are the mean of the experiments' scores, as the
    paper scores Pereira2018 (harness/scoring/README.md#protocols-by-data-set).

    Args:
        responses: the recording.
        aggregate: as in `Protocol`.
    """
    subjects, rois = np.array(responses.subjects), np.array(responses.rois)
    is_own = ~_network_means(responses)
    single, group = (np.flatnonzero(is_own & chosen) for chosen in (subjects != GROUP, subjects == GROUP))
    by_name = {"all": Target(single if len(single) else group)}
    if len(single) and len(group):
        by_name[GROUP] = Target(group)
    if len(responses.parts) > 1:
        measured = {part: responses.of_part(part)[1] for part in responses.parts}
        by_name.update({part: Target(columns[is_own[columns]], part) for part, columns in measured.items()})
    if len(set(responses.rois)) > 1:
        by_name.update({str(roi): Target(np.flatnonzero(rois == roi)) for roi in dict.fromkeys(responses.rois)})
    if aggregate == "pooled":
        return by_name
    return {
        name: target._replace(by_subject=_of_subjects(subjects[target.neuroids])) for name, target in by_name.items()
    }


def _of_subjects(subjects: NDArray[np.str_]) -> tuple[Integers, ...]:
    return tuple(np.flatnonzero(subjects == subject) for subject in dict.fromkeys(subjects.tolist()))


def _network_means(responses: Responses) -> NDArray[np.bool_]:
    """(neuroid,) whether it is a mean over the subject's regions, such as Tuckute2024's "LH network".

    Its roi is "network" or ends in " network", it is the subject's only neuroid of that roi, and the subject has at
    least two neuroids of other rois: voxels of a network are not meant.
    """
    rois, subjects = np.array(responses.rois), np.array(responses.subjects)
    named = np.array([roi == "network" or roi.endswith(" network") for roi in responses.rois], dtype=bool)
    is_mean = np.zeros_like(named)
    for neuroid in np.flatnonzero(named):
        own = subjects == subjects[neuroid]
        is_mean[neuroid] = (own & (rois == rois[neuroid])).sum() == 1 and (own & ~named).sum() >= 2
    return is_mean


def fold_scores(fit: LayerFit, target: Target, of: str = "r") -> Floats:
    """(fold,) aggregate over the target's neuroids of "r" or "inner"; NaN where no neuroid has a score."""
    return target.by_fold(target.of(getattr(fit, of), fit.parts))


def layer_score(fit: LayerFit, target: Target) -> float:
    """Mean over the folds of each experiment, mean over experiments; NaN if none is finite."""
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
    parts, chosen = fold_parts(any_fit, target), layers_of_folds(fits, layer_choice, target)
    rule = "best of the held-out scores" if layer_choice == "max" else "by training rows in each fold"
    held_out = [target.of(fits[layer].r, fits[layer].parts) for layer in layers]
    r = np.stack([held_out[k][fold] for fold, k in enumerate(chosen)])  # (fold, neuroid)
    subjects = np.array(responses.subjects)[target.neuroids]
    low, high, kind = interval(r, parts, any_fit.fold_correlation, subjects, target, seed)
    times_chosen, score = np.bincount(chosen), mean_of_parts(target.by_fold(r), parts)
    layer, n_nan = layers[times_chosen.argmax()], int(np.isnan(r).all(axis=0).sum())
    of_subjects = [mean_of_parts(medians(r[:, own]), parts) for own in intervals.subject_neuroids(subjects)]
    mad, n_neuroids = absolute_deviation(of_subjects), len(target.neuroids)
    return ChosenLayer(layer, int(times_chosen.max()), rule, score, low, high, mad, kind, n_neuroids, n_nan)


def layers_of_folds(fits: dict[Layer, LayerFit], layer_choice: str, target: Target) -> Integers:
    """(fold,) index into `fits` of the layer chosen in each of the target's folds; arguments as in `choose`."""
    if layer_choice == "max":
        best = _argmax([layer_score(fit, target) for fit in fits.values()])
        return np.full(len(fold_parts(next(iter(fits.values())), target)), best)
    inner = np.stack([fold_scores(fit, target, "inner") for fit in fits.values()])
    return np.array([_argmax(column) for column in inner.T])


def interval(
    r: Floats, parts: tuple[str, ...], correlation: float, subjects: NDArray[np.str_], target: Target, seed: int
) -> tuple[float, float, str]:
    """95 % t interval of the score, over folds and, with 3 or more subjects, over subjects.

    Variance over folds is always included: subjects heard the same stimuli, so the chance score of a null model on
    these stimuli is common to all subjects.

    Args:
        r: (fold, neuroid) held-out scores of the target.
        parts: (fold,) the experiment of each fold.
        correlation: of the scores of two folds (`LayerFit.fold_correlation`).
        subjects: (neuroid,) subjects.
        target: how neuroids are aggregated.
        seed: of the bootstrap over subjects of pooled scores.

    Returns:
        Lower end, upper end, and how the interval was computed; NaN, NaN, "" if an experiment has fewer than two
        scored folds.
    """
    by_fold = target.by_fold(r)
    variance = intervals.over_folds(by_fold, parts, correlation)
    if not np.isfinite(variance.value):
        return np.nan, np.nan, ""
    half, score = variance.squared_half_width() ** 0.5, mean_of_parts(by_fold, parts)
    kind = f"t, corrected for shared training rows, over {np.isfinite(by_fold).sum()} folds"
    of_subject = [own for own in intervals.subject_neuroids(subjects) if np.isfinite(r[:, own]).any()]
    if len(of_subject) >= intervals.FEWEST_SUBJECTS and target.by_subject:
        table = np.stack([medians(r[:, own]) for own in of_subject], axis=1)
        half = intervals.effects(table, parts, correlation).half_width()
        kind += f" and {len(of_subject)} subjects"
    elif len(of_subject) >= intervals.FEWEST_SUBJECTS:
        between = intervals.of_pooled_subjects(r, parts, of_subject, seed)
        half = (variance.squared_half_width() + between.squared_half_width()) ** 0.5
        kind += f", and bootstrap over {len(of_subject)} subjects"
    return score - half, score + half, kind


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


def absolute_deviation(values: Sequence[float]) -> float:
    """Median absolute deviation from the median, not rescaled, ignoring NaN; NaN for fewer than two values."""
    finite = np.array([value for value in values if np.isfinite(value)])
    return float(np.median(np.abs(finite - np.median(finite)))) if len(finite) > 1 else np.nan


def _argmax(values: list[float] | Floats) -> int:
    """Index of the largest value; 0 if all are NaN."""
    return int(np.nanargmax(values)) if np.isfinite(values).any() else 0
