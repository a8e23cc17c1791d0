"""All statistics of a set of scores, as data frames and as a summary in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.numbers import interval, number
from harness.statistics import correlations, evidence, paired, scaling, trajectories, tuning
from harness.statistics.scores import AVERAGE, Scores

if TYPE_CHECKING:
    import pandas as pd


class Analysis(NamedTuple):
    """Results of `analyse`; each frame has one row per data set, protocol, metric and the item named here.

    tuning: tests of tuned minus base. families, bases, pairs: gains per family, base model and pair. correlations,
    scaling, trajectories: score against model properties, model size and training step; trajectory_tests: two trainings
    compared. paired: each model against another source on the same folds, with the columns `paired.COLUMNS`.
    """

    tuning: pd.DataFrame
    families: pd.DataFrame
    bases: pd.DataFrame
    pairs: pd.DataFrame
    correlations: pd.DataFrame
    scaling: pd.DataFrame
    trajectories: pd.DataFrame
    trajectory_tests: pd.DataFrame
    paired: pd.DataFrame


def analyse(scores: Scores) -> Analysis:
    """Compute all statistics of the scores, from a run's tables or from a user's file.

    Returns:
        The statistics; a frame is empty where the scores do not allow any.
    """
    pairs = tuning.pairs(scores)
    return Analysis(
        tuning.tests(scores, pairs), tuning.by_family(pairs), tuning.by_base(pairs), pairs,
        correlations.correlations(scores), scaling.scaling(scores), trajectories.trajectories(scores),
        trajectories.tests(scores), _paired(scores),
    )  # fmt: skip


def _paired(scores: Scores) -> pd.DataFrame:
    """The paired tests; empty if the scores of single folds are unknown."""
    import pandas as pd

    if scores.fold_scores is None or scores.fold_scores.empty:
        return pd.DataFrame(columns=list(paired.COLUMNS))
    return paired.tests(scores.fold_scores, scores.models["base"].to_dict())


def sentences(analysis: Analysis) -> list[str]:
    """Summarise the effect of tuning and what correlates with alignment in at most three sentences.

    The protocol is STRICT if present, else the first.
    """
    return [*(tuning_sentences(analysis) or [_NO_PAIRS]), *property_sentences(analysis)]


_NO_PAIRS = "No tuned model was scored together with its base, so the effect of tuning was not tested."


def _headline(rows: pd.DataFrame, protocol: str | None) -> pd.DataFrame:
    """Keep one protocol and one metric; only the average over data sets, if there is one."""
    if rows.empty:
        return rows
    names = list(dict.fromkeys(rows["protocol"]))
    protocol = protocol if protocol is not None else "strict" if "strict" in names else names[0]
    rows = rows[rows["protocol"] == protocol]
    average = rows[rows["dataset"] == AVERAGE]
    return average if len(average) else rows[rows["metric"] == rows["metric"].iloc[0]]


def tuning_sentences(analysis: Analysis, protocol: str | None = None) -> list[str]:
    """Summarise the effect of tuning in one sentence; empty if no pair was scored."""
    rows = _headline(tuning.of_base(analysis.tuning), protocol)
    return [] if rows.empty else [_of_tests(rows)]


def _of_tests(rows: pd.DataFrame) -> str:
    row = max(rows.to_dict("records"), key=lambda row: row["n_pairs"])
    text = (
        f"Tuned models score {number(row['difference'], sign=True)} relative to their bases {_where(row)}"
        f" (mean over {_count(row['n_bases'], 'base')}, {_count(row['n_pairs'], 'pair')}"
    )
    text += f", 95 % interval {interval(row['low'], row['high'])}" if not math.isnan(row["low"]) else ""
    text += f"; gain {number(row['gain_percent'], 1, sign=True)} %)" if not math.isnan(row["gain_percent"]) else ")"
    return f"{text}: {test_in_words(row)}."


def test_in_words(row: dict[str, Any]) -> str:
    """The outcome of a row of "tuning_tests" as a clause; says both where interval and exact test disagree."""
    p, low, high = row["p_sign_flip"], row["low"], row["high"]
    if math.isnan(p):
        return "one base is too few for a test" if row["n_bases"] == 1 else "not tested"
    excludes = not math.isnan(low + high) and (low > 0 or high < 0)
    if row["p_min"] > evidence.LEVEL:
        least = f"with {row['n_bases']} bases p is at least {number(row['p_min'])}, too few for significance"
        return f"the interval excludes 0, but {least}" if excludes else least
    tested = f"sign flips over bases, p = {number(p, 4)}"
    if evidence.verdict(low, high, p) == "contradictory":
        return f"interval and exact test disagree: {evidence.contradiction(low, high)} ({tested})"
    return f"{'a significant' if p < evidence.LEVEL else 'not a significant'} difference ({tested})"


def property_sentences(analysis: Analysis, protocol: str | None = None) -> list[str]:
    """Name the strongest correlate of alignment, and the correlation with knowledge at constant size.

    Empty if no property has enough bases and distinct values (`correlations.quotable`).
    """
    rows = _headline(analysis.correlations, protocol)
    if rows.empty:
        return []
    population = "tuned" if (rows["population"] == "tuned").any() else "all"
    rows = rows[(rows["population"] == population) & (rows["dataset"] == rows["dataset"].iloc[0]) & rows["r"].notna()]
    plain = rows[rows["covariate"] == ""]
    over_bases = correlations.quotable(plain).set_index("property")
    over_models = plain[(plain["unit"] == "model") & plain["property"].isin(over_bases.index)]
    if over_models.empty:
        return []
    top = max(over_models.to_dict("records"), key=lambda row: abs(row["r"]))
    base = over_bases.loc[top["property"]]
    text = f"The model property that correlates most with alignment is {top['property']}, r = {_r(top)} over {top['n']}"
    text += f"{' tuned' if population == 'tuned' else ''} models {_where(top)}"
    text += f", {_r(base)} over {base['n']} bases ({_correlation_test(base)})"
    summary = [f"{text}."]
    at_constant_size = rows[(rows["unit"] == "model") & (rows["covariate"] == correlations.LOG_SIZE)]
    knowledge = [row for row in at_constant_size.to_dict("records") if row["property"] in ("mmlu", "bbh")]
    if knowledge:
        terms = [f"{row['property'].upper()} {_r(row)} (p = {number(row['p'])})" for row in knowledge]
        summary.append(f"Partial correlation over models with size held constant: {', '.join(terms)}.")
    return summary


def _correlation_test(row: Any) -> str:
    """Whether a correlation over bases is reliable after correction for the properties and data sets tested."""
    p, low, high = row["p_adjusted"], row["r_low"], row["r_high"]
    tested = f"p = {number(p, 4)} after correction for {row['n_tests']} tests"
    words = {
        "reliable": "reliable", "not reliable": "not reliable", "untested": "not tested",
        "contradictory": evidence.contradiction(low, high),
    }[evidence.verdict(low, high, p)]  # fmt: skip
    return words if math.isnan(p) else f"{words}; {tested}"


def _r(row: dict[str, float]) -> str:
    ends = interval(row["r_low"], row["r_high"], 2)
    return number(row["r"], 2) + (f" ({ends})" if ends != "–" else "")


def _where(row: dict[str, str]) -> str:
    place = "on average over the brain data sets" if row["dataset"] == AVERAGE else f"on {row['dataset']}"
    return place + (f" under {row['protocol'].upper()}" if row["protocol"] else "")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
