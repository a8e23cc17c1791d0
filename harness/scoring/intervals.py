"""95 % intervals of scores: t intervals over folds and subjects.

Folds share training rows, so their scores are correlated even without any effect; the variance of their mean is
corrected for it (Nadeau & Bengio 2003, with the correlation from `folds.correlation`). With three or more subjects the
interval generalises to other subjects too. Scores aggregated by subject are a (fold, subject) table, in which both are
random effects; pooled scores are resampled by subject.

Method: harness/scoring/README.md#intervals.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.records import GROUP, Floats, Integers

N_BOOTSTRAP = 500
FEWEST_SUBJECTS = 3
_LEAST_P = 1e-12
MOST_CORRELATED = 0.99  # folds that predict each other
_MAX_COUNTS = 2**22  # numbers in memory at once


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t distribution; as `scipy.stats.t.ppf`, whose module takes long to import."""
    return float(special.stdtrit(df, probability))


class Variance(NamedTuple):
    """Variance of a score, and its degrees of freedom."""

    value: float
    df: float

    def squared_half_width(self, level: float = 0.95) -> float:
        """Of the t interval."""
        return t_quantile((1 + level) / 2, self.df) ** 2 * self.value


NO_VARIANCE = Variance(0.0, 1.0)


class Effects(NamedTuple):
    """Variances of a score over folds and over subjects, and what both contain of their interaction; over seeds."""

    folds: Variance
    subjects: Variance
    shared: Variance
    seeds: Variance = NO_VARIANCE

    def half_width(self, level: float = 0.95) -> float:
        """Half the width of the interval; NaN if the variance over folds is."""
        folds, subjects, shared, seeds = (effect.squared_half_width(level) for effect in self)
        if not self.subjects.value > self.shared.value:
            return math.sqrt(folds + seeds)
        return math.sqrt(max(folds + subjects - shared, folds) + seeds)

    def p(self, score: float) -> float:
        """Two-sided p of a score of 0: 1 - the level of the interval that just reaches 0; NaN without a variance."""
        from scipy.optimize import brentq

        if not self.folds.value > 0:
            return math.nan
        excess = [self.half_width(1 - p) - abs(score) for p in (_LEAST_P, 1.0)]
        if excess[0] <= 0 or excess[1] >= 0:
            return _LEAST_P if excess[0] <= 0 else 1.0
        return math.exp(
            brentq(lambda log_p: self.half_width(1 - math.exp(log_p)) - abs(score), math.log(_LEAST_P), 0.0)
        )


def over_folds(scores: Floats, parts: Sequence[str], correlation: float) -> Variance:
    """Variance of the mean over experiments of the mean over their folds.

    If any two folds have the correlation rho, the sample variance s2 of k folds estimates (1 - rho) sigma2, and the
    variance of their mean is s2 (1 / k + rho / (1 - rho)).

    Args:
        scores: (fold,) NaN where not measurable.
        parts: (fold,) the experiment of each fold.
        correlation: rho.

    Returns:
        The variance; NaN if an experiment has fewer than two scored folds, or if rho is 1, as for two disjoint folds
        that cover all rows: each predicts the other.

    Source: Nadeau & Bengio 2003, Machine Learning 52, 239-281, who use rho = test rows / all rows.
    """
    part_of_fold = np.array(parts)
    by_part = [scores[(part_of_fold == part) & np.isfinite(scores)] for part in dict.fromkeys(parts)]
    if not by_part or min(len(part) for part in by_part) < 2 or correlation > MOST_CORRELATED:
        return Variance(np.nan, np.nan)
    value = sum(np.var(part, ddof=1) * per_fold(len(part), correlation) for part in by_part) / len(by_part) ** 2
    return Variance(float(value), float(sum(len(part) - 1 for part in by_part)))


def effects(table: Floats, parts: Sequence[str], correlation: float) -> Effects:
    """Variances of a score that is the mean over subjects in each fold.

    The interval is for other stimuli and other subjects, both random effects: Var = Var(folds) + Var(subjects) -
    Var(fold x subject), since the residual of a subject in a fold contributes to both. Each term is multiplied by its
    own squared t, since with three subjects the degrees of freedom of the sum (Satterthwaite) are overestimated: that
    interval misses in up to 9 %, this one in 2 to 6 %. Folds alone count if subjects differ no more than the residuals
    make them, or there are fewer than `FEWEST_SUBJECTS`.

    Args:
        table: (fold, subject) scores; NaN where a subject has none.
        parts: (fold,) the experiment of each fold; subjects may be in several.
        correlation: of two folds.

    Source: Graybill & Wang 1980, JASA 75, 869-873 (sums of variances); Ting et al. 1990 (differences).
    """
    folds = over_folds(mean(table, axis=1), parts, correlation)
    n = int(np.isfinite(table).any(axis=0).sum())
    if n < FEWEST_SUBJECTS or not math.isfinite(folds.value):
        return Effects(folds, NO_VARIANCE, NO_VARIANCE)
    names, part_of_fold = list(dict.fromkeys(parts)), np.array(parts)
    influence, shared, df_shared = np.zeros(table.shape[1]), 0.0, 0.0
    for part in names:
        rows = table[part_of_fold == part]
        rows = rows[np.isfinite(rows).any(axis=1)]
        of_subject = mean(rows, axis=0)
        measured = np.isfinite(of_subject)
        deviation = np.where(measured, of_subject - np.mean(of_subject[measured]), 0.0)
        influence += deviation / (len(names) * measured.sum())
        residual = (rows - mean(rows, axis=1)[:, None] - deviation)[:, measured]
        df = max((len(rows) - 1) * (measured.sum() - 1) - np.isnan(residual).sum(), 1)
        spread = float(np.nansum(residual**2)) / df
        shared += spread * per_fold(len(rows), correlation) / measured.sum() / len(names) ** 2
        df_shared += df
    subjects = Variance(float(influence @ influence) * n / (n - 1), n - 1.0)
    return Effects(folds, subjects, Variance(shared, df_shared))


def of_pooled_subjects(r: Floats, parts: Sequence[str], by_subject: Sequence[Integers], seed: int) -> Variance:
    """Variance of a pooled score over bootstrap samples of subjects.

    Args:
        r: (fold, neuroid) scores.
        parts: (fold,) the experiment of each fold.
        by_subject: the neuroids of each subject.
        seed: of the bootstrap.

    Returns:
        The variance over draws times n / (n - 1), since n subjects vary less about their own mean than about that of
        all.
    """
    n = len(by_subject)
    draws = np.random.default_rng(seed).integers(n, size=(N_BOOTSTRAP, n))
    times = np.stack([np.bincount(draw, minlength=n) for draw in draws]).astype(np.int32)  # (draw, subject)
    subject = np.empty(r.shape[1], dtype=np.int64)
    for k, neuroids in enumerate(by_subject):
        subject[neuroids] = k
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw may contain no subject of an experiment
        by_fold = np.stack([_drawn_medians(row, subject, times) for row in r])  # (fold, draw)
        part_of_fold = np.array(parts)
        by_part = [np.nanmean(by_fold[part_of_fold == part], axis=0) for part in dict.fromkeys(parts)]
        return Variance(float(np.nanvar(np.nanmean(by_part, axis=0))) * n / (n - 1), n - 1.0)


def subject_neuroids(subjects: NDArray[np.str_]) -> list[Integers]:
    """The neuroids of each single subject; means over subjects are left out."""
    return [np.flatnonzero(subjects == subject) for subject in dict.fromkeys(subjects.tolist()) if subject != GROUP]


def per_fold(n_folds: int, correlation: float) -> float:
    """Variance of a mean over folds, relative to the sample variance of its folds."""
    return 1 / n_folds + correlation / (1 - correlation)


def mean(values: Floats, axis: int | tuple[int, ...]) -> Floats:
    """Mean, ignoring NaN; NaN where all are."""
    present = np.isfinite(values)
    count = present.sum(axis=axis)
    means: Floats = np.where(present, values, 0.0).sum(axis=axis) / np.where(count, count, np.nan)
    return means


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
