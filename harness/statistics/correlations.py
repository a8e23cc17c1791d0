"""What goes with alignment: size, knowledge, next-word loss; alone, and with one of them held constant.

Models that share a base are alike in size, in knowledge and in alignment at once, so a correlation over models has more
rows than evidence. Each stands twice: over models, as papers print it, and over bases (mean of the models of each),
which is the one to believe. Size and knowledge are confounded; the rows with `given` hold one constant.

Source: Aw et al. 2023 (arXiv 2312.00575v2), Table 4 (Benjamini-Hochberg over its tests); METHODS.md, sections 5 and
6.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.statistics.scores import SIZE, Scores

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 4  # Fisher's interval has standard error 1 / sqrt(n - 3 - number of things held constant)
LOG_SIZE = f"log10 {SIZE}"
FAMILY = "family"


def correlations(scores: Scores) -> pd.DataFrame:
    """Pearson r of each property with the score, of each data set, protocol and metric.

    Returns:
        Columns of the table "correlations". population: "tuned" or "all" main models, those that have both numbers;
        unit: "model" or "base"; given: the property held constant, "family" (fixed effects), or "". r_low and r_high
        are Fisher's 95 % interval, for a partial r with one row less for each thing held constant; p_adjusted is p
        after Benjamini-Hochberg over the n_tests rows of the same protocol, population, unit and `given`. NaN where
        one of the two does not vary.
    """
    import pandas as pd
    from scipy import stats

    x = properties(scores)
    rows = []
    for key, part in scores.groups():
        main = part[part["is_main"]]
        for population, these in (("tuned", main[main["base"] != ""]), ("all", main)):
            for unit in ("model", "base"):
                rows += [{**key, "population": population, "unit": unit, **row} for row in _of(these, x, unit)]
    found = pd.DataFrame(rows, columns=_COLUMNS[:-2])
    found["p_adjusted"], found["n_tests"] = math.nan, 0
    for _, part in found[found["p"].notna()].groupby(["protocol", "population", "unit", "given"]):
        found.loc[part.index, "p_adjusted"] = stats.false_discovery_control(part["p"].to_numpy())
        found.loc[part.index, "n_tests"] = len(part)
    return found


_COLUMNS = [
    "dataset", "protocol", "metric", "population", "unit", "property", "given", "n", "r", "r_low", "r_high", "p",
    "p_adjusted", "n_tests",
]  # fmt: skip


def properties(scores: Scores) -> pd.DataFrame:
    """The numeric properties of the models, size as its log10; index model."""
    x = scores.models[list(scores.properties)].astype(float)
    if SIZE in x:
        x.insert(0, LOG_SIZE, np.log10(x.pop(SIZE)))
    return x


def _of(rows: pd.DataFrame, x: pd.DataFrame, unit: str) -> Iterator[dict[str, Any]]:
    """The correlations of one group of models."""
    both = rows.set_index("model")[["score", "family", "base"]].join(x)
    both["base"] = both["base"].where(both["base"] != "", both.index.to_series())
    for name in x:
        for given in ("", *_held(name, list(x))):
            numbers = ["score", name, *([given] if given in x else [])]
            used = both.dropna(subset=numbers)
            if given == FAMILY and used[FAMILY].nunique() < 2:
                continue
            if unit == "base":
                used = used.groupby("base").agg(dict.fromkeys(numbers, "mean") | {FAMILY: "first"})
            beside = _dummies(used) if given == FAMILY else used[[given]].to_numpy() if given else None
            found = correlate(used[name].to_numpy(), used["score"].to_numpy(), beside)
            if found:
                yield {"property": name, "given": given, **found}


def _held(name: str, names: list[str]) -> list[str]:
    """What is held constant beside a property: size; for size, each whole benchmark and the loss; the family."""
    if name != LOG_SIZE:
        return [*([LOG_SIZE] if LOG_SIZE in names else []), FAMILY]
    whole = [other for other in names if other != LOG_SIZE and " ".join(other.split()[:-1]) not in names]
    return [*whole, FAMILY]


def _dummies(rows: pd.DataFrame) -> Any:
    import pandas as pd

    return pd.get_dummies(rows[FAMILY], drop_first=True).to_numpy(float)


def correlate(x: Any, y: Any, beside: Any = None) -> dict[str, float]:
    """R of x and y, Fisher's 95 % interval and the two-sided p; of what `beside` leaves of both, where given.

    The partial r and its p are those of x in the regression of y on x and `beside` (statsmodels OLS): r = t / sqrt(t² +
    degrees of freedom).

    Args:
        x: (row,).
        y: (row,).
        beside: (row, k) what is held constant, without a constant column; None is plain Pearson r.

    Returns:
        n, r, r_low, r_high, p; {} where there are fewer than 4 + k rows.
    """
    k = 0 if beside is None else beside.shape[1]
    n = len(x)
    if n < FEWEST + k:
        return {}
    r, p = _plain(x, y) if beside is None else _partial(x, y, beside)
    half = 1.959963984540054 / math.sqrt(n - 3 - k)
    inside = abs(r) < 1
    low, high = (math.tanh(math.atanh(r) + side) if inside else r for side in (-half, half))
    return {"n": n, "r": r, "r_low": low, "r_high": high, "p": p}


def _plain(x: Any, y: Any) -> tuple[float, float]:
    from scipy import stats

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan, math.nan
    found = stats.pearsonr(x, y)
    return float(found.statistic), float(found.pvalue)


def _partial(x: Any, y: Any, beside: Any) -> tuple[float, float]:
    from statsmodels.regression.linear_model import OLS

    design = np.column_stack([np.ones(len(x)), beside])
    kept = beside.std(axis=0) > 0
    left = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
    if np.ptp(x) == 0 or np.ptp(y) == 0 or not kept.all() or left.std() < 1e-9 * x.std():
        return math.nan, math.nan  # nothing of x is left
    fit = OLS(y, np.column_stack([x - x.mean(), design])).fit()
    if fit.df_resid < 1 or fit.ssr <= 1e-20 * fit.centered_tss:
        return math.nan, math.nan
    t = float(fit.tvalues[0])
    return t / math.sqrt(t**2 + fit.df_resid), float(fit.pvalues[0])
