"""Growth of the score with model size, and along the checkpoints of a training run.

The line is fitted to one point per base (mean of the models that share it), because models with the same base are not
independent; its interval is the t interval of least squares. Checkpoints of a training run are recognised by their
names.

Source: Antonello, Vaidya & Huth 2023 (arXiv 2305.11863), score against log parameters.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.records import Floats
from harness.statistics.scores import SIZE, Scores, grouped

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 4  # minimum number of points for a line with an interval
N_POINTS = 25  # points of a plotted line
# The training step in a model's name: "m@step1000", "runs/checkpoint-105", "m-2000steps".
_STEP = re.compile(
    r"^(?P<stem>.*?)[-_@/.]*(?:(?:checkpoint|ckpt|step|iter|epoch)[-_]?(?P<step>\d+)|(?P<steps>\d+)[-_]?steps?)$"
)


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


def step_of(name: str) -> tuple[str, int] | None:
    """(training, step) encoded in the name of a checkpoint, or None."""
    match = _STEP.match(name)
    return (match["stem"].rstrip("-_@/."), int(match["step"] or match["steps"])) if match else None


def checkpoints(scores: Scores) -> pd.DataFrame:
    """Scores of the models that are checkpoints of a training run with several, with their base as step 0.

    Returns:
        The columns of the scores, and training, step.
    """
    import pandas as pd

    all_rows = rows = scores.overall
    steps = rows["model"].map(step_of)
    training, step = ([training_step[place] for training_step in steps if training_step] for place in (0, 1))
    rows = rows[steps.notna()].assign(training=training, step=step)
    rows = rows[rows.groupby("training")["step"].transform("nunique") > 1]
    if rows.empty:
        return rows
    starts = rows[["training", "base"]].drop_duplicates().rename(columns={"base": "model"})
    bases = all_rows.merge(starts, on="model").assign(step=0)
    return pd.concat([bases[rows.columns], rows], ignore_index=True).sort_values(["training", "step"])


def trajectories(scores: Scores) -> pd.DataFrame:
    """Test for a trend along each training run: Spearman's rho of score and step, p by permuting the steps.

    Returns:
        training, dataset, protocol, metric, n_checkpoints, first_step, last_step, first_score, last_score, rho, p (NaN
        for fewer than four). Checkpoints of one run are not independent samples: p only tests whether order matters.
    """
    import pandas as pd

    rows = []
    for key, group in grouped(checkpoints(scores), ["training", "dataset", "protocol", "metric"]):
        rho, p = _trend(group["step"].to_numpy(float), group["score"].to_numpy(float))
        first, last = group.iloc[0], group.iloc[-1]
        rows.append({
            **key, "n_checkpoints": len(group), "first_step": int(first["step"]), "last_step": int(last["step"]),
            "first_score": first["score"], "last_score": last["score"], "rho": rho, "p": p,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _trend(steps: Floats, scores: Floats) -> tuple[float, float]:
    from scipy import stats

    if len(steps) < FEWEST or np.ptp(scores) == 0:
        return math.nan, math.nan
    result = stats.permutation_test(
        (scores,), lambda x: stats.spearmanr(x, steps).statistic, permutation_type="pairings", n_resamples=5040,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(result.statistic), float(result.pvalue)
