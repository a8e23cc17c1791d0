"""Growth of the score with model size.

The line is fitted to one point per base (mean of the models that share it), because models with the same base are not
independent; its interval is the t interval of least squares.

Source: Antonello, Vaidya & Huth 2023 (arXiv 2305.11863), score against log parameters.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.records import Floats
from harness.statistics.scores import SIZE, Scores

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 4  # minimum number of points for a line with an interval
N_POINTS = 25  # points of a plotted line


def scaling(scores: Scores) -> pd.DataFrame:
    """Regress the score on log10 of the number of parameters, for each data set, protocol and metric.

    Returns:
        dataset, protocol, metric, n_models, n_bases; slope (score per tenfold increase in parameters), low, high, p and
        r2 of the line through the bases of main models; slope_in_family, in_family_low, in_family_high, in_family_p:
        with family as a fixed effect, NaN if there is only one family.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for key, group in scores.groups():
        points = _points(scores, group)
        if len(points) < FEWEST or points["x"].nunique() < 2:
            continue
        fit = _line(points["x"].to_numpy(), points["score"].to_numpy())
        low, high = fit.conf_int()[1]
        rows.append({
            **key, "n_models": int(points["n_models"].sum()), "n_bases": len(points), "slope": float(fit.params[1]),
            "low": float(low), "high": float(high), "p": float(fit.pvalues[1]),
            "r2": float(fit.rsquared) if fit.centered_tss > 0 else math.nan,
            **_in_family(points),
        })  # fmt: skip
    return pd.DataFrame(rows)


def curve(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """(x, line, low, high): least-squares line of y on x and 95 % interval of the mean, at N_POINTS values of x."""
    grid = np.linspace(x.min(), x.max(), N_POINTS)
    prediction = _line(x, y).get_prediction(np.column_stack([np.ones(len(grid)), grid])).summary_frame(alpha=0.05)
    return grid, *(prediction[name].to_numpy() for name in ("mean", "mean_ci_lower", "mean_ci_upper"))


def _points(scores: Scores, rows: pd.DataFrame) -> pd.DataFrame:
    """One point per base of the main models of known size: x (log10 parameters), score, family, n_models."""
    if SIZE not in scores.models:
        return rows.iloc[:0].assign(x=0.0, n_models=0)
    rows = rows[rows["is_main"]].assign(x=lambda main: np.log10(scores.models[SIZE].reindex(main["model"]).to_numpy()))
    rows = rows[rows["x"].notna()]
    rows = rows.assign(base=rows["base"].where(rows["base"] != "", rows["model"]))
    return rows.groupby("base").agg(
        x=("x", "mean"), score=("score", "mean"), family=("family", "first"), n_models=("model", "size")
    )


def _line(x: Floats, y: Floats, *others: Floats) -> Any:
    from statsmodels.regression.linear_model import OLS  # statsmodels.api also imports plotting

    return OLS(y, np.column_stack([np.ones(len(x)), x, *others])).fit()


def _in_family(points: pd.DataFrame) -> dict[str, float]:
    """The slope within families: common to all, with one intercept per family."""
    import pandas as pd

    dummies = pd.get_dummies(points["family"], drop_first=True).to_numpy(float)
    within = points["x"] - points.groupby("family")["x"].transform("mean")
    enough = len(points) - 2 - dummies.shape[1] >= 1 and within.abs().max() > 0
    names = ("slope_in_family", "in_family_low", "in_family_high", "in_family_p")
    if not dummies.shape[1] or not enough:
        return dict.fromkeys(names, math.nan)
    fit = _line(points["x"].to_numpy(), points["score"].to_numpy(), *dummies.T)
    return dict(zip(names, map(float, (fit.params[1], *fit.conf_int()[1], fit.pvalues[1])), strict=True))
