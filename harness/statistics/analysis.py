"""The statistics of a set of scores, as frames; and what they say, in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from harness.numbers import interval, number
from harness.statistics import correlations, scaling, tuning
from harness.statistics.scores import AVERAGE, Scores

if TYPE_CHECKING:
    import pandas as pd


class Analysis(NamedTuple):
    """What was computed; each frame has one row per data set, protocol, metric and what its name says.

    tuning: tests of tuned minus base. families, bases, pairs: the gains of each. correlations, scaling, trajectories:
    score against properties, size and training step.
    """

    tuning: pd.DataFrame
    families: pd.DataFrame
    bases: pd.DataFrame
    pairs: pd.DataFrame
    correlations: pd.DataFrame
    scaling: pd.DataFrame
    trajectories: pd.DataFrame


def analyse(scores: Scores, seed: int = 0) -> Analysis:
    """All statistics of the scores; a frame is empty where there is nothing of its kind.

    Args:
        scores: of our tables, or of anyone's file.
        seed: of the draws.
    """
    paired = tuning.pairs(scores)
    return Analysis(
        tuning.tests(scores, paired, seed), tuning.by_family(paired), tuning.by_base(paired), paired,
        correlations.correlations(scores), scaling.scaling(scores), scaling.trajectories(scores),
    )  # fmt: skip


def sentences(found: Analysis, protocol: str | None = None) -> list[str]:
    """The answer in three sentences at most: what tuning does, and what goes with alignment.

    Args:
        found: as `analyse` gives it.
        protocol: the one to speak of; None is STRICT where it is there, else the first.
    """
    tuned = of_tuning(found, protocol) or ["No tuned model stands beside its base: nothing can be said of tuning."]
    return [*tuned, *of_properties(found, protocol)]


def _headline(rows: pd.DataFrame, protocol: str | None) -> pd.DataFrame:
    """The rows of one protocol and of brain scores, the average alone where there is one."""
    if rows.empty:
        return rows
    names = list(dict.fromkeys(rows["protocol"]))
    protocol = protocol if protocol is not None else "strict" if "strict" in names else names[0]
    rows = rows[rows["protocol"] == protocol]
    average = rows[rows["dataset"] == AVERAGE]
    return average if len(average) else rows[rows["metric"] == rows["metric"].iloc[0]]


def of_tuning(found: Analysis, protocol: str | None = None) -> list[str]:
    """What tuning does, in a sentence; none where no pair was scored."""
    rows = _headline(found.tuning, protocol)
    return [] if rows.empty else [_of_tests(rows)]


def _of_tests(rows: pd.DataFrame) -> str:
    row = max(rows.to_dict("records"), key=lambda row: row["n_pairs"])
    where = _where(row)
    text = (
        f"Tuned models score {number(row['difference'], sign=True)} against their bases {where}"
        f" (mean over {_count(row['n_bases'], 'base')} of {_count(row['n_pairs'], 'pair')}"
    )
    text += f", 95 % interval {interval(row['low'], row['high'])}" if not math.isnan(row["low"]) else ""
    text += f"; gain {number(row['gain_percent'], 1, sign=True)} %)" if not math.isnan(row["gain_percent"]) else ")"
    if math.isnan(row["p_sign_flip"]):
        return f"{text}: one base is too few for a test."
    if row["p_least"] > 0.05:
        return f"{text}: {row['n_bases']} bases give no p below {number(row['p_least'])}, so nothing can be concluded."
    verdict = "more than chance gives" if row["p_sign_flip"] < 0.05 else "no more than chance may give"
    return f"{text}: {verdict} (sign flips over bases, p = {number(row['p_sign_flip'], 4)})."


def of_properties(found: Analysis, protocol: str | None = None) -> list[str]:
    """What goes with alignment, and what is left of knowledge beside size; none where the bases are too few."""
    rows = _headline(found.correlations, protocol)
    if rows.empty:
        return []
    population = "tuned" if (rows["population"] == "tuned").any() else "all"
    rows = rows[(rows["population"] == population) & (rows["dataset"] == rows["dataset"].iloc[0])]
    plain = rows[(rows["given"] == "") & (rows["unit"] == "model") & rows["r"].notna()]
    if plain.empty:
        return []
    over = rows[(rows["unit"] == "base") & (rows["given"] == "") & rows["r"].notna()]
    if over.empty:
        return []
    top = max(plain.to_dict("records"), key=lambda row: abs(row["r"]))
    over = over[over["property"] == top["property"]]
    text = f"Of what is known of the models, {top['property']} goes with alignment most, r = {_r(top)} over {top['n']} "
    text += f"{'tuned ' if population == 'tuned' else ''}models {_where(top)}"
    text += "".join(f", {_r(row)} over {row['n']} bases" for row in over.to_dict("records"))
    said = [f"{text}."]
    others = rows[(rows["unit"] == "model") & (rows["given"] == correlations.LOG_SIZE) & rows["r"].notna()]
    known = [row for row in others.to_dict("records") if row["property"] in ("mmlu", "bbh")]
    if known:
        parts = [f"{row['property'].upper()} {_r(row)} (p = {number(row['p'])})" for row in known]
        said.append(f"With the size held constant, what is left of knowledge: {', '.join(parts)}.")
    return said


def _r(row: dict[str, float]) -> str:
    ends = interval(row["r_low"], row["r_high"], 2)
    return number(row["r"], 2) + (f" ({ends})" if ends != "–" else "")


def _where(row: dict[str, str]) -> str:
    what = "on average over the brain data sets" if row["dataset"] == AVERAGE else f"on {row['dataset']}"
    return what + (f" under {row['protocol'].upper()}" if row["protocol"] else "")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
