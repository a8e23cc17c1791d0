"""Tests and intervals whose unit is the base model: sign flips, bootstraps over bases and people.

Tuned models that share a base are not independent (METHODS.md, section 6.5), and neither are the scores of one person.
Percentile intervals of a few bases are too narrow (8 bases: 11 % of them miss), those that draw bases and people too
wide (1-3 % miss); tests/benchmarks/calibration.py counts. So the ends are set where Student's t would have them, and
the draws are brought to the standard error that the analysis of variance gives.

Source: Hesterberg 2015, "What Teachers Should Know About the Bootstrap" (arXiv 1411.5279), section 5.3 (expanded
percentiles); Owen 2007, "The pigeonhole bootstrap" (two crossed factors); Satterthwaite 1946 (degrees of freedom).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from harness.records import Floats

N_FLIPS = 20_000  # up to 14 bases every pattern of signs is tried (2**14 = 16,384)
N_DRAWN = 4_999  # patterns drawn where there are more
N_BOOTSTRAPS = 10_000
FEWEST = 5  # units to resample; of fewer no interval is given


class SignFlip(NamedTuple):
    """p: two-sided. p_least: the smallest that so few units can give. exact: whether every pattern was tried."""

    p: float
    p_least: float
    exact: bool


def sign_flip(values: Floats, seed: int = 0) -> SignFlip:
    """Test that the values are symmetric about 0, by flipping their signs; scipy's `permutation_test`.

    Args:
        values: (unit,) one value for each independent unit, such as the mean difference of the pairs of one base.
        seed: of the patterns drawn where there are too many.
    """
    from scipy import stats

    n = len(values)
    if n < 2:
        return SignFlip(math.nan, math.nan, exact=False)
    exact = 2**n <= N_FLIPS
    result = stats.permutation_test(
        (values,), _mean, permutation_type="samples", vectorized=True, n_resamples=N_FLIPS if exact else N_DRAWN,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return SignFlip(float(result.pvalue), 2.0 ** (1 - n) if exact else 1 / (N_DRAWN + 1), exact)


def _mean(x: Floats, axis: int) -> Floats:
    mean: Floats = np.mean(x, axis=axis)
    return mean


class Interval(NamedTuple):
    """95 %: low, high. p: that the mean is 0, by t of the same standard error. df: of that t."""

    low: float
    high: float
    p: float
    df: float


NO_INTERVAL = Interval(math.nan, math.nan, math.nan, math.nan)


def bootstrap(values: Floats, people: Floats | None = None, seed: int = 0) -> Interval:
    """95 % interval of the mean over units, by resampling units and, where given, people.

    Args:
        values: (unit,) one value for each independent unit, such as a base.
        people: (unit, person) the same by person; units and people are drawn independently, and the interval is for
            other bases and other people, where that without people is for other bases and the same people.
        seed: of the draws.

    Returns:
        The interval; NaN where there are fewer than `FEWEST` units, or people.
    """
    from scipy import stats

    table = values[:, None] if people is None else people
    counts = table.shape[:1] if people is None else table.shape
    if min(counts) < FEWEST:
        return NO_INTERVAL
    of_units, of_people = (_weights(n, seed + i) for i, n in enumerate(table.shape))
    means = ((of_units @ table) * of_people).sum(axis=1)
    se, df = standard_error(table)
    mean, t = float(table.mean()), float(stats.t.ppf(0.975, df))
    if se <= 1e-12 * abs(mean) or means.std() == 0:
        return Interval(mean, mean, math.nan, df)
    tail = float(stats.norm.cdf(-t))
    low, high = mean + (np.quantile(means, [tail, 1 - tail]) - mean) * se / means.std()
    return Interval(float(low), float(high), float(2 * stats.t.sf(abs(mean) / se, df)), df)


@lru_cache(maxsize=4)
def _weights(n: int, seed: int) -> Floats:
    """(draw, unit) share of each unit in each draw; the same for all data sets, whose bases are the same."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_BOOTSTRAPS) / n


def standard_error(table: Floats) -> tuple[float, float]:
    """Standard error of the mean of a (unit, person) table, and its degrees of freedom.

    One person: that of the mean over units. Several: units and people are both random (analysis of variance with two
    crossed factors), Var = (MS_units + MS_people - MS_rest) / (units * people), and not less than either factor alone.
    """
    n_units, n_people = table.shape
    if n_people == 1:
        return float(table.std(ddof=1) / math.sqrt(n_units)), n_units - 1.0
    of_units, of_people = table.mean(axis=1) - table.mean(), table.mean(axis=0) - table.mean()
    rest = table - table.mean() - of_units[:, None] - of_people
    df_units, df_people = n_units - 1, n_people - 1
    units = n_people * float(of_units @ of_units) / df_units
    people = n_units * float(of_people @ of_people) / df_people
    both = float((rest**2).sum()) / (df_units * df_people)
    spread = units**2 / df_units + people**2 / df_people + both**2 / (df_units * df_people)
    total = units + people - both
    alone = max((units, float(df_units)), (people, float(df_people)))
    df = max(total**2 / spread, min(df_units, df_people)) if spread else 1.0
    variance, df = (total, df) if total >= alone[0] else alone
    return math.sqrt(variance / table.size), df
