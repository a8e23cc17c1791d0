"""The noise ceiling of a target, its interval, and whether a score may be divided by it.

Neuroids' ceilings are aggregated like their scores. Where neuroids are predicted from other subjects, the scores of
each number of predicting subjects are a (fold, subject) table, aggregated like the scores of a model. Their growth is
extrapolated: v0 is, to first order, a weighted sum over these tables, so its interval is that of any score over folds
and subjects. Under the "exponential" curve the ceiling itself is the aggregate of the neuroids' v0, as in Brain-Score.

Method: harness/scoring/README.md#noise-ceilings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.protocol import Protocol
from harness.records import Ceiling, Floats, Growth, Integers
from harness.scoring import aggregate, ceilings, extrapolation, intervals, reliability_curve
from harness.scoring.aggregate import Target
from harness.scoring.explainable import EXPLAINABLE

# Below this ceiling a ratio would be noise divided by noise.
LEAST_CEILING = 0.01
# With fewer sizes of pools the asymptote is hardly determined.
FEWEST_SIZES = 4
_FROM_OTHERS = (ceilings.EXTRAPOLATED, ceilings.OTHER_SUBJECTS)
_COMPUTED = (*_FROM_OTHERS, ceilings.SPLIT_HALF, EXPLAINABLE)


class TargetCeiling(NamedTuple):
    """Ceiling of a target.

    Attributes:
        value: r; NaN if unknown.
        low, high: ends of the 95 % interval; NaN if unknown.
        kind: how it was computed.
        n_subjects: subjects that it is computed from; 0 if unknown.
        n_sizes: sizes of the pools of predicting subjects; 0 if neuroids are not predicted from others.
    """

    value: float
    low: float
    high: float
    kind: str
    n_subjects: int
    n_sizes: int

    @property
    def divisor(self) -> float:
        """The ceiling if a ratio is meaningful, else NaN."""
        value, low, n_sizes = np.array([self.value]), np.array([self.low]), np.array([self.n_sizes])
        return float(divisors(value, low, n_sizes, [self.kind])[0])


def divisors(value: Floats, low: Floats, n_sizes: Integers, kind: Sequence[str]) -> Floats:
    """(ceiling,) ceilings by which scores may be divided, NaN for others; arguments as in `TargetCeiling`.

    Left out are ceilings, and lower ends of intervals, near 0; ceilings that were computed but have no interval; and
    extrapolations from too few sizes. A published ceiling has no interval, and is used.
    """
    from_others, computed = (
        np.array([any(name in text for name in names) for text in kind], dtype=bool)
        for names in (_FROM_OTHERS, _COMPUTED)
    )
    is_clear = (value > LEAST_CEILING) & ~(low < LEAST_CEILING)
    is_determined = (~computed | np.isfinite(low)) & (~from_others | (n_sizes >= FEWEST_SIZES))
    return np.where(is_clear & is_determined, value, np.nan)


def of_target(ceiling: Ceiling, target: Target, subjects: Sequence[str], protocol: Protocol) -> TargetCeiling:
    """Aggregate the ceilings of a target's neuroids.

    Args:
        ceiling: of the recording.
        target: neuroids and experiments.
        subjects: (neuroid,) of the recording.
        protocol: its curve.
    """
    rows = [row for row, part in enumerate(ceiling.parts) if target.part in (None, part)]
    kinds = sorted({ceiling.kinds[neuroid] for neuroid in target.neuroids} - {""})
    sizes = [_of_known(column, rows, target, ceiling) for column in (ceiling.n_subjects, ceiling.n_sizes)]
    value, low, high = (
        aggregate.mean(target.by_fold(column[rows][:, target.neuroids]))
        for column in (ceiling.values, ceiling.low, ceiling.high)
    )
    growths = [growth for row in rows if (growth := ceiling.growth[row]) is not None]
    if kinds and set(kinds) <= set(_FROM_OTHERS) and len(growths) == len(rows):
        extrapolated, half = _of_growths(growths, target, np.array(subjects)[target.neuroids])
        value = extrapolated if protocol.ceiling_curve == "reliability" else value
        low, high = value - half, value + half
    return TargetCeiling(value, low, high, ", ".join(kinds), *sizes)


def of_single(ceiling: Ceiling) -> TargetCeiling:
    """The ceiling of reading times, which is that of a single neuroid."""
    value, low, high = (float(column.item()) for column in (ceiling.values, ceiling.low, ceiling.high))
    n_subjects, n_sizes = (int(column.item()) for column in (ceiling.n_subjects, ceiling.n_sizes))
    return TargetCeiling(value, low, high, ceiling.kinds[0], n_subjects, n_sizes)


def _of_known(counts: Integers, rows: list[int], target: Target, ceiling: Ceiling) -> int:
    """Smallest number over experiments of the largest number over neuroids; 0 if no ceiling is known."""
    known = np.isfinite(ceiling.values[rows][:, target.neuroids])
    by_part = np.where(known, counts[rows][:, target.neuroids], 0).max(axis=1, initial=0)
    return int(by_part[known.any(axis=1)].min()) if known.any() else 0


def _of_growths(growths: list[Growth], target: Target, subjects: NDArray[np.str_]) -> tuple[float, float]:
    """Mean over experiments of the extrapolated scores, and half the width of the interval."""
    own = intervals.subject_neuroids(subjects)
    values, tables, parts = [], [], []
    for part, growth in enumerate(growths):
        value, table = _extrapolated(growth.scores[:, :, target.neuroids].astype(float), own)
        values.append(value)
        tables.append(table)
        parts += [str(part)] * len(table)
    table, correlation = np.concatenate(tables), float(np.mean([growth.fold_correlation for growth in growths]))
    return aggregate.mean(np.array(values)), intervals.effects(table, parts, correlation).half_width()


def _extrapolated(scores: Floats, own: list[Integers]) -> tuple[float, Floats]:
    """Extrapolate the growth of one experiment.

    Args:
        scores: (size, fold, neuroid).
        own: the neuroids of each subject.

    Returns:
        v0, fitted to the mean over subjects who were predicted from pools of the same sizes, and averaged over all
        subjects; and the (fold, subject) table whose mean changes as v0 does. All NaN for an experiment with a single
        subject, which has no sizes.
    """
    if not len(scores):
        return np.nan, np.full((scores.shape[1], len(own)), np.nan)
    by_subject = np.stack(
        [np.stack([aggregate.medians(size[:, neuroids]) for neuroids in own], axis=1) for size in scores]
    )  # (size, fold, subject)
    growth = intervals.mean(by_subject, axis=1)
    table, total = np.full((scores.shape[1], len(own)), np.nan), 0.0
    for sizes, alike in extrapolation.predicted_alike(growth):
        mean = growth[np.ix_(sizes, alike)].mean(axis=1)
        n = sizes + 1.0
        fitted = reliability_curve.fit(n, mean[None]) if len(n) > 1 else np.array([[mean[0], 0.0]])
        (weights,) = reliability_curve.slopes(n, fitted)
        total += fitted[0, 0] * len(alike)
        table[:, alike] = np.einsum("n,nfs->fs", weights, by_subject[sizes][:, :, alike])
    n_known = np.isfinite(growth).any(axis=0).sum()
    return total / n_known if n_known else np.nan, table
