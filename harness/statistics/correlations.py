"""Correlation of alignment with model properties (size, knowledge, next-word loss), plain and partial.

Models that share a base resemble each other in size, knowledge and alignment, so a correlation over models has more
rows than independent observations. Each correlation is therefore given twice: over models, as papers print it, and over
bases (mean of the models that share one). Prefer the latter. Size and knowledge are confounded; the rows with a
`covariate` are partial correlations that hold one of them constant.

Source: Aw et al. 2023 (arXiv 2312.00575v2), Table 2 (Benjamini-Hochberg over its tests).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.statistics.scores import SIZE, Scores

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 4  # Fisher's interval has standard error 1 / sqrt(n - 3 - number of covariates)
# A correlation is quoted only from this many bases with this many distinct values of the property on. With fewer,
# Fisher's interval covers most of [-1, 1], and models of two sizes are two groups, not a trend.
FEWEST_BASES, FEWEST_VALUES = 6, 4
LOG_SIZE = f"log10 {SIZE}"
FAMILY = "family"


def correlations(scores: Scores) -> pd.DataFrame:
    """Pearson r of each property with the score, for each data set, protocol and metric.

    Returns:
        Columns of the table "correlations". population: "tuned" or "all" main models for which score and property are
        known; unit: "model" or "base"; covariate: the property held constant, "family" (fixed effects), or "". r_low
        and r_high are Fisher's 95 % interval; for a partial r, n is reduced by the number of covariates. p_adjusted is
        p after Benjamini-Hochberg over the n_tests rows with the same protocol, population, unit and `covariate`. NaN
        where score or property is constant. n_values: distinct values of the property.
    """
    import pandas as pd
    from scipy import stats

    values = properties(scores)
    rows = []
    for key, group in scores.groups():
        main = group[group["is_main"]]
        for population, models in (("tuned", main[main["base"] != ""]), ("all", main)):
            for unit in ("model", "base"):
                rows += [{**key, "population": population, "unit": unit, **row} for row in _of(models, values, unit)]
    table = pd.DataFrame(rows, columns=_COLUMNS[:-2])
    table["p_adjusted"], table["n_tests"] = math.nan, 0
    for _, tests in table[table["p"].notna()].groupby(["protocol", "population", "unit", "covariate"]):
        table.loc[tests.index, "p_adjusted"] = stats.false_discovery_control(tests["p"].to_numpy())
        table.loc[tests.index, "n_tests"] = len(tests)
    return table


_COLUMNS = [
    "dataset", "protocol", "metric", "population", "unit", "property", "covariate", "n", "n_values", "r", "r_low",
    "r_high", "p", "p_adjusted", "n_tests",
]  # fmt: skip


def quotable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows over bases with at least FEWEST_BASES bases and FEWEST_VALUES distinct values of the property."""
    return rows[(rows["unit"] == "base") & (rows["n"] >= FEWEST_BASES) & (rows["n_values"] >= FEWEST_VALUES)]


def properties(scores: Scores) -> pd.DataFrame:
    """Numeric properties of the models, with size as its log10; index model."""
    values = scores.models[list(scores.properties)].astype(float)
    if SIZE in values:
        values.insert(0, LOG_SIZE, np.log10(values.pop(SIZE)))
    return values


def _of(rows: pd.DataFrame, values: pd.DataFrame, unit: str) -> Iterator[dict[str, Any]]:
    """Correlations within one population, over models or over bases."""
    joined = rows.set_index("model")[["score", "family", "base"]].join(values)
    joined["base"] = joined["base"].where(joined["base"] != "", joined.index.to_series())
    for name in values:
        for covariate in ("", *_covariates(name, list(values))):
            numbers = ["score", name, *([covariate] if covariate in values else [])]
            complete = joined.dropna(subset=numbers)
            if covariate == FAMILY and complete[FAMILY].nunique() < 2:
                continue
            if unit == "base":
                complete = complete.groupby("base").agg(dict.fromkeys(numbers, "mean") | {FAMILY: "first"})
            held = (
                _dummies(complete) if covariate == FAMILY else complete[[covariate]].to_numpy() if covariate else None
            )
            result = correlate(complete[name].to_numpy(), complete["score"].to_numpy(), held)
            if result:
                yield {"property": name, "covariate": covariate, "n_values": complete[name].nunique(), **result}


def _covariates(name: str, names: list[str]) -> list[str]:
    """What to hold constant for a property: size and family; for size itself, each whole benchmark, loss and family."""
    if name != LOG_SIZE:
        return [*([LOG_SIZE] if LOG_SIZE in names else []), FAMILY]
    whole = [other for other in names if other != LOG_SIZE and " ".join(other.split()[:-1]) not in names]
    return [*whole, FAMILY]


def _dummies(rows: pd.DataFrame) -> Any:
    import pandas as pd

    return pd.get_dummies(rows[FAMILY], drop_first=True).to_numpy(float)


def correlate(x: Any, y: Any, covariates: Any = None) -> dict[str, float]:
    """Pearson or partial correlation of x and y, with Fisher's 95 % interval and the two-sided p.

    The partial r and its p are those of x in the regression of y on x and the covariates (statsmodels OLS):
    r = t / sqrt(t² + degrees of freedom).

    Args:
        x: (row,).
        y: (row,).
        covariates: (row, k) variables to hold constant, without an intercept column; None gives the plain Pearson r.

    Returns:
        n, r, r_low, r_high, p; {} if there are fewer than 4 + k rows.
    """
    k = 0 if covariates is None else covariates.shape[1]
    n = len(x)
    if n < FEWEST + k:
        return {}
    r, p = _plain(x, y) if covariates is None else _partial(x, y, covariates)
    half = 1.959963984540054 / math.sqrt(n - 3 - k)
    inside = abs(r) < 1
    low, high = (math.tanh(math.atanh(r) + side) if inside else r for side in (-half, half))
    return {"n": n, "r": r, "r_low": low, "r_high": high, "p": p}


def _plain(x: Any, y: Any) -> tuple[float, float]:
    from scipy import stats

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan, math.nan
    result = stats.pearsonr(x, y)
    return float(result.statistic), float(result.pvalue)


def _partial(x: Any, y: Any, covariates: Any) -> tuple[float, float]:
    from statsmodels.regression.linear_model import OLS

    design = np.column_stack([np.ones(len(x)), covariates])
    varies = covariates.std(axis=0) > 0
    residual = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
    if np.ptp(x) == 0 or np.ptp(y) == 0 or not varies.all() or residual.std() < 1e-9 * x.std():
        return math.nan, math.nan  # the covariates explain x completely
    fit = OLS(y, np.column_stack([x - x.mean(), design])).fit()
    if fit.df_resid < 1 or fit.ssr <= 1e-20 * fit.centered_tss:
        return math.nan, math.nan
    t = float(fit.tvalues[0])
    return t / math.sqrt(t**2 + fit.df_resid), float(fit.pvalues[0])
