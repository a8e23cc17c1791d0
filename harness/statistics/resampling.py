"""Tests and intervals with the base model as the unit: sign flips, and bootstrap over bases and subjects.

Tuned models that share a base are not independent, and neither are the scores of one subject. With few bases,
percentile intervals are too narrow (with 8 bases 11 % miss the true mean), and resampling bases and subjects gives
intervals that are too wide (1-3 % miss); measured by tests/benchmarks/calibration.py. So the percentiles are expanded
to match Student's t, and the draws are rescaled to the standard error from the analysis of variance.

Source: Hesterberg 2015, "What Teachers Should Know About the Bootstrap" (arXiv 1411.5279), section 5.3 (expanded
percentiles); Owen 2007, "The pigeonhole bootstrap" (two crossed factors); Satterthwaite 1946 (degrees of freedom).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from harness.records import Floats

N_FLIPS = 20_000  # with up to 14 bases all sign patterns are enumerated (2**14 = 16,384)
N_DRAWN = 4_999  # sign patterns drawn at random with more bases
N_BOOTSTRAPS = 10_000
FEWEST = 5  # minimum number of units for an interval


class SignFlip(NamedTuple):
    """p: two-sided. p_min: smallest possible p with this many units. exact: whether all patterns were enumerated."""

    p: float
    p_min: float
    exact: bool


def sign_flip(values: Floats, seed: int = 0) -> SignFlip:
    """Test whether the values are symmetric about 0 by flipping their signs (scipy's `permutation_test`).

    Args:
        values: (unit,) one value per independent unit, such as the mean difference over the pairs of a base.
        seed: of the random patterns, used when there are too many to enumerate.

    Returns:
        The test; NaN if there are fewer than two units.
    """
    from scipy import stats

    n = len(values)
    if n < 2:
        return SignFlip(math.nan, math.nan, exact=False)
    exact = 2**n <= N_FLIPS
    result = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", vectorized=True, n_resamples=N_FLIPS if exact else N_DRAWN,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return SignFlip(float(result.pvalue), 2.0 ** (1 - n) if exact else 1 / (N_DRAWN + 1), exact)


class Interval(NamedTuple):
    """95 % interval: low, high. p, df: of the t test that the mean is 0, with the same standard error."""

    low: float
    high: float
    p: float
    df: float


NO_INTERVAL = Interval(math.nan, math.nan, math.nan, math.nan)


def bootstrap(values: Floats, subjects: Floats | None = None, seed: int = 0) -> Interval:
    """95 % interval of the mean over units, by resampling units and, if given, subjects.

    Args:
        values: (unit,) one value per independent unit, such as a base.
        subjects: (unit, subject) the same values per subject. Units and subjects are then drawn independently, and the
            interval generalises to other bases and other subjects; without it, to other bases and the same subjects.
        seed: of the draws.

    Returns:
        The interval; NaN if there are fewer than `FEWEST` units or subjects.
    """
    from scipy import stats

    table = values[:, None] if subjects is None else subjects
    counts = table.shape[:1] if subjects is None else table.shape
    if min(counts) < FEWEST:
        return NO_INTERVAL
    unit_weights, subject_weights = (_weights(n, seed + axis) for axis, n in enumerate(table.shape))
    means = ((unit_weights @ table) * subject_weights).sum(axis=1)
    se, df = standard_error(table)
    mean, t = float(table.mean()), float(stats.t.ppf(0.975, df))
    if se <= 1e-12 * abs(mean) or means.std() == 0:
        return Interval(mean, mean, math.nan, df)
    tail = float(stats.norm.cdf(-t))
    low, high = mean + (np.quantile(means, [tail, 1 - tail]) - mean) * se / means.std()
    return Interval(float(low), float(high), float(2 * stats.t.sf(abs(mean) / se, df)), df)


@lru_cache(maxsize=4)
def _weights(n: int, seed: int) -> Floats:
    """(draw, unit) weight of each unit in each draw; cached because data sets share the same bases."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_BOOTSTRAPS) / n


def standard_error(table: Floats) -> tuple[float, float]:
    """Standard error of the mean of a (unit, subject) table, and its degrees of freedom.

    With one subject: the standard error of the mean over units. With several: units and subjects are both random
    effects (two-way crossed analysis of variance), Var = (MS_units + MS_subjects - MS_residual) / (units * subjects),
    and at least the variance from either factor alone.
    """
    n_units, n_subjects = table.shape
    if n_subjects == 1:
        return float(table.std(ddof=1) / math.sqrt(n_units)), n_units - 1.0
    unit_effects, subject_effects = table.mean(axis=1) - table.mean(), table.mean(axis=0) - table.mean()
    residuals = table - table.mean() - unit_effects[:, None] - subject_effects
    df_units, df_subjects = n_units - 1, n_subjects - 1
    ms_units = n_subjects * float(unit_effects @ unit_effects) / df_units
    ms_subjects = n_units * float(subject_effects @ subject_effects) / df_subjects
    ms_residual = float((residuals**2).sum()) / (df_units * df_subjects)
    spread = ms_units**2 / df_units + ms_subjects**2 / df_subjects + ms_residual**2 / (df_units * df_subjects)
    total = ms_units + ms_subjects - ms_residual
    one_factor = max((ms_units, float(df_units)), (ms_subjects, float(df_subjects)))
    df = max(total**2 / spread, min(df_units, df_subjects)) if spread else 1.0
    variance, df = (total, df) if total >= one_factor[0] else one_factor
    return math.sqrt(variance / table.size), df
