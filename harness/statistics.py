"""What the scores say together: base models beside their tuned children, and size beside alignment.

Pairs that share a base are not independent (METHODS.md, section 6.5), so no p-value is given for the pairs here; the
correlations are over the language models of one run, never over controls or untrained twins.

Source: Aw et al. 2023 (arXiv 2312.00575v2), section 3 (gain = (tuned - base) / base) and Table 4 (correlations, with
Benjamini-Hochberg correction).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.records import Floats, require_unique

if TYPE_CHECKING:
    import pandas as pd

FEWEST_MODELS = 4  # Fisher's interval has standard error 1 / sqrt(n - 3)


def comparisons(
    model_scores: pd.DataFrame, reading_scores: pd.DataFrame, properties: pd.DataFrame, run: str
) -> list[dict[str, Any]]:
    """Each tuned model beside its base, wherever both were scored.

    Args:
        model_scores: table of one run.
        reading_scores: table of the same run.
        properties: table "model_properties" of the same run; `tuned_from` names the base.
        run: the run id that stands in the rows.

    Returns:
        Rows of the table "comparisons", one per pair, data set, protocol and target; reading times are the target
        "reading". gain_percent is NaN where the base is not above 0.

    Raises:
        ValueError: if a model stands twice for the same data set, protocol and target.
    """
    scores = _of_language_models(model_scores, reading_scores)
    rows = []
    for pair in properties[properties["tuned_from"].isin(set(properties["model"]))].itertuples():
        beside = _side_by_side(scores, base=pair.tuned_from, tuned=pair.model)
        for row in beside.itertuples():
            difference = row.r_tuned - row.r_base
            rows.append({
                "run": run, "base": pair.tuned_from, "tuned": pair.model, "pair_source": pair.pair_source,
                "dataset": row.dataset, "protocol": row.protocol, "target": row.target, "metric": row.metric,
                "base_score": row.r_base, "tuned_score": row.r_tuned, "difference": difference,
                "gain_percent": 100 * difference / row.r_base if row.r_base > 0 else math.nan,
            })  # fmt: skip
    return rows


def correlations(
    model_scores: pd.DataFrame, reading_scores: pd.DataFrame, properties: pd.DataFrame, run: str
) -> list[dict[str, Any]]:
    """Pearson r of log10(number of parameters) with the score, over the language models of a run.

    Args:
        model_scores: table of one run.
        reading_scores: table of the same run.
        properties: table "model_properties" of the same run.
        run: the run id that stands in the rows.

    Returns:
        Rows of the table "correlations", one per data set and protocol (targets "all" and "reading") with at least
        four models that have both numbers; r_low and r_high are Fisher's 95 % interval, p_adjusted is p after
        Benjamini-Hochberg over all rows of the run. NaN where one of the two does not vary.
    """
    scores = _of_language_models(model_scores, reading_scores)
    scores = scores[scores["target"].isin(["all", "reading"])]
    sizes = properties[["model", "n_parameters"]].dropna()
    both = scores.merge(sizes, on="model").dropna(subset=["r"])
    rows = []
    for (dataset, protocol, target), group in both.groupby(["dataset", "protocol", "target"]):
        if len(group) >= FEWEST_MODELS:
            sizes_log10 = np.log10(group["n_parameters"].to_numpy(dtype=float))
            rows.append({
                "run": run, "dataset": dataset, "protocol": protocol, "target": target,
                "property": "log10 n_parameters", "n_models": len(group),
                **_pearson(sizes_log10, group["r"].to_numpy(dtype=float)),
            })  # fmt: skip
    for row, adjusted in zip(rows, _benjamini_hochberg([row["p"] for row in rows]), strict=True):
        row["p_adjusted"] = adjusted
    return rows


def _of_language_models(model_scores: pd.DataFrame, reading_scores: pd.DataFrame) -> pd.DataFrame:
    """Brain and reading scores of the language models in one frame; reading times are the target "reading"."""
    import pandas as pd

    columns = ["model", "kind", "dataset", "protocol", "target", "metric", "r"]
    parts = [model_scores[columns], reading_scores.assign(target="reading")[columns]]
    scores = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    scores = scores[scores["kind"] == "model"]
    keys = [" ".join(map(str, key)) for key in scores[["model", "dataset", "protocol", "target"]].to_numpy()]
    require_unique(keys, "scores (model, data set, protocol, target)")
    return scores


def _side_by_side(scores: pd.DataFrame, base: str, tuned: str) -> pd.DataFrame:
    """The scores that two models have in common: r_base and r_tuned."""
    keys = ["dataset", "protocol", "target", "metric"]
    one, other = (scores.loc[scores["model"] == name, [*keys, "r"]] for name in (base, tuned))
    return one.merge(other, on=keys, suffixes=("_base", "_tuned"))


def _pearson(x: Floats, y: Floats) -> dict[str, float]:
    """r, Fisher's 95 % interval and the two-sided p; NaN where one of the two is constant."""
    from scipy import stats

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return dict.fromkeys(("r", "r_low", "r_high", "p"), math.nan)
    result = stats.pearsonr(x, y)
    low, high = result.confidence_interval(0.95)
    return {"r": float(result.statistic), "r_low": float(low), "r_high": float(high), "p": float(result.pvalue)}


def _benjamini_hochberg(p_values: list[float]) -> list[float]:
    """The p-values adjusted for their number; NaN stays NaN and is not counted."""
    from scipy import stats

    p = np.asarray(p_values, dtype=float)
    measured = np.isfinite(p)
    if measured.any():
        p[measured] = stats.false_discovery_control(p[measured], method="bh")
    return [float(value) for value in p]
