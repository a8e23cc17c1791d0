"""How the score grows with the size of the model, and along the checkpoints of one training.

The line is fitted to one point for each base (the mean of the models that share it), since models of one base are not
independent; its interval is that of least squares (t). A training's checkpoints are told from the names of models.

Source: METHODS.md, section 6.4 (family as a fixed effect); Antonello, Vaidya & Huth 2023 (arXiv 2305.11863), score
against log parameters.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.records import Floats
from harness.statistics.scores import SIZE, Scores

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 4  # points of a line with an interval
N_POINTS = 25  # of a drawn line
# The number of a checkpoint in a model's name: "m@step1000", "runs/checkpoint-105", "m-2000steps".
_STEP = re.compile(
    r"^(?P<stem>.*?)[-_@/.]*(?:(?:checkpoint|ckpt|step|iter|epoch)[-_]?(?P<step>\d+)|(?P<steps>\d+)[-_]?steps?)$"
)


def scaling(scores: Scores) -> pd.DataFrame:
    """Least squares of the score on log10 of the number of parameters, for each data set, protocol and metric.

    Returns:
        dataset, protocol, metric, n_models, n_bases; slope (score for ten times the parameters), low, high, p and r2
        of the line through the bases of main models; slope_in_family, in_family_low, in_family_high, in_family_p: with
        the family as a fixed effect, NaN where there is only one.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for key, part in scores.groups():
        points = _points(scores, part)
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
    """(x, line, low, high): the least-squares line of y on x, and the 95 % interval of its mean, at N_POINTS places."""
    at = np.linspace(x.min(), x.max(), N_POINTS)
    found = _line(x, y).get_prediction(np.column_stack([np.ones(len(at)), at])).summary_frame(alpha=0.05)
    return at, *(found[name].to_numpy() for name in ("mean", "mean_ci_lower", "mean_ci_upper"))


def _points(scores: Scores, part: pd.DataFrame) -> pd.DataFrame:
    """One point for each base of the main models whose size is known: x (log10 parameters), score, family, n_models."""
    if SIZE not in scores.models:
        return part.iloc[:0].assign(x=0.0, n_models=0)
    part = part[part["is_main"]].assign(x=lambda rows: np.log10(scores.models[SIZE].reindex(rows["model"]).to_numpy()))
    part = part[part["x"].notna()]
    part = part.assign(base=part["base"].where(part["base"] != "", part["model"]))
    return part.groupby("base").agg(
        x=("x", "mean"), score=("score", "mean"), family=("family", "first"), n_models=("model", "size")
    )


def _line(x: Floats, y: Floats, *others: Floats) -> Any:
    from statsmodels.regression.linear_model import OLS  # statsmodels.api would bring its plots

    return OLS(y, np.column_stack([np.ones(len(x)), x, *others])).fit()


def _in_family(points: pd.DataFrame) -> dict[str, float]:
    """The slope that the families have in common, each at a height of its own."""
    import pandas as pd

    dummies = pd.get_dummies(points["family"], drop_first=True).to_numpy(float)
    within = points["x"] - points.groupby("family")["x"].transform("mean")
    enough = len(points) - 2 - dummies.shape[1] >= 1 and within.abs().max() > 0
    names = ("slope_in_family", "in_family_low", "in_family_high", "in_family_p")
    if not dummies.shape[1] or not enough:
        return dict.fromkeys(names, math.nan)
    fit = _line(points["x"].to_numpy(), points["score"].to_numpy(), *dummies.T)
    return dict(zip(names, map(float, (fit.params[1], *fit.conf_int()[1], fit.pvalues[1])), strict=True))


def step_of(name: str) -> tuple[str, int] | None:
    """(training, step) that the name of a checkpoint says, or None."""
    found = _STEP.match(name)
    if not found:
        return None
    return found["stem"].rstrip("-_@/."), int(found["step"] or found["steps"])


def checkpoints(scores: Scores) -> pd.DataFrame:
    """Scores of the models that are checkpoints of a training with several, and of their base as step 0.

    Columns beside those of the scores: training, step.
    """
    import pandas as pd

    every = rows = scores.overall
    steps = rows["model"].map(step_of)
    rows = rows[steps.notna()].assign(
        training=[said[0] for said in steps if said], step=[said[1] for said in steps if said]
    )
    rows = rows[rows.groupby("training")["step"].transform("nunique") > 1]
    if rows.empty:
        return rows
    begun = rows[["training", "base"]].drop_duplicates().rename(columns={"base": "model"})
    bases = every.merge(begun, on="model").assign(step=0)
    return pd.concat([bases[rows.columns], rows], ignore_index=True).sort_values(["training", "step"])


def trajectories(scores: Scores) -> pd.DataFrame:
    """Whether the score rises along a training: Spearman's rho of score and step, and p by permuting the steps.

    Returns:
        training, dataset, protocol, metric, n_checkpoints, first_step, last_step, first_score, last_score, rho, p (NaN
        for fewer than four). Checkpoints of one training are not independent draws: p says whether their order matters.
    """
    import pandas as pd

    rows = []
    for key, part in checkpoints(scores).groupby(["training", "dataset", "protocol", "metric"], sort=False):
        rho, p = _trend(part["step"].to_numpy(float), part["score"].to_numpy(float))
        first, last = part.iloc[0], part.iloc[-1]
        rows.append({
            **dict(zip(["training", "dataset", "protocol", "metric"], key, strict=True)), "n_checkpoints": len(part),
            "first_step": int(first["step"]), "last_step": int(last["step"]), "first_score": first["score"],
            "last_score": last["score"], "rho": rho, "p": p,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _trend(steps: Floats, scores: Floats) -> tuple[float, float]:
    from scipy import stats

    if len(steps) < FEWEST or np.ptp(scores) == 0:
        return math.nan, math.nan
    found = stats.permutation_test(
        (scores,), lambda x: stats.spearmanr(x, steps).statistic, permutation_type="pairings", n_resamples=5040,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.statistic), float(found.pvalue)
