"""What the report shows of the statistics: tuning, properties of models, trainings."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from harness.numbers import count, interval, number, p_value
from harness.report import figures, property_figures
from harness.report.cells import Columns, Parts, ReportTable, records, strict_first, table, text
from harness.report.figures import PROTOCOLS, Figure, of_many
from harness.statistics import scaling
from harness.statistics.correlations import LOG_SIZE
from harness.statistics.correlations import properties as properties_of
from harness.statistics.scores import AVERAGE, OVERALL

if TYPE_CHECKING:
    import pandas as pd

    from harness.statistics.analysis import Analysis
    from harness.statistics.scores import Scores

_signed = partial(number, sign=True)
_percent = partial(number, digits=1, sign=True)
_WHERE: Columns = {
    "Data set": ("dataset", str), "Protocol": ("protocol", str.upper), "Metric": ("metric", text),
}  # fmt: skip
MOST_DATASETS = 8  # of which correlation panels are drawn; one where there is an average


def tuning(found: Analysis) -> Parts:
    """Tests, gains by family, then base beside tuned on each data set."""
    parts: Parts = []
    if len(found.tuning):
        parts.append(_tests(found.tuning))
    if len(found.families):
        parts.append(_families(found.families))
    columns: Columns = {
        "Tuned": ("tuned", str), "Base": ("base", str), "Protocol": ("protocol", str.upper), "Target": ("target", str),
        "Base r": ("base_score", number), "Tuned r": ("tuned_score", number), "Difference": ("difference", _signed),
        "Gain %": ("gain_percent", _percent), "Pair known from": ("pair_source", text),
    }  # fmt: skip
    for dataset, rows in found.pairs[found.pairs["metric"] != "delta_ll"].groupby("dataset"):
        whole = rows["target"].isin(OVERALL)
        caption = "Score of the base and of the tuned model."
        caption += of_many(rows[whole]["tuned"].nunique(), figures.MOST_PAIRS, "pairs")
        parts += [dataset, Figure(caption, figures.slopes(rows[whole]))]
        parts.append(table("Tuned beside base.", columns, strict_first(rows[whole]), n_words=4))
        if not whole.all():
            parts.append(table("Tuned beside base, by target", columns, strict_first(rows[~whole]), 4, folded=True))
    return parts


def _tests(rows: pd.DataFrame) -> ReportTable:
    columns: Columns = {
        **_WHERE, "Pairs": ("n_pairs", count), "Bases": ("n_bases", count), "Gain %": ("gain_percent", _percent),
        "Difference": ("difference", partial(number, digits=4, sign=True)),
        "Interval": ("low high", partial(interval, digits=4)), "Over": ("interval_over", text),
        "d_z": ("d_z", partial(number, digits=2)), "p sign flips": ("p_sign_flip", p_value),
        "adjusted": ("p_adjusted", p_value), "least p": ("p_least", p_value), "p mixed": ("p_mixed", p_value),
        "ICC": ("icc", partial(number, digits=2)), "p Wilcoxon": ("p_wilcoxon", p_value),
        "rank-biserial": ("rank_biserial", partial(number, digits=2)), "(p t over pairs)": ("p_t_pairs", p_value),
    }  # fmt: skip
    caption = (
        "Tuned minus base: mean over bases with its 95 % interval by bootstrap; sign flips over bases, of which so few "
        "cannot give less than “least p”; a mixed model with the base as random effect; Wilcoxon. Gain is the mean "
        "over pairs. Adjusted by Benjamini and Hochberg over the rows."
    )
    return table(caption, columns, _ordered(rows), n_words=3)


def _families(rows: pd.DataFrame) -> ReportTable:
    columns: Columns = {
        "Family": ("family", text), **_WHERE, "Pairs": ("n_pairs", count), "Bases": ("n_bases", count),
        "Gain %": ("gain_percent", _percent), "Difference": ("difference", partial(number, digits=4, sign=True)),
        "Interval": ("low high", partial(interval, digits=4)),
    }  # fmt: skip
    return table("By family of models; an interval takes five bases.", columns, _ordered(rows), n_words=4)


def properties(scores: Scores, found: Analysis) -> Parts:
    """Panels of the score against each property, the lines with size, and the tables."""
    parts: Parts = []
    if len(found.correlations):
        parts += [part for dataset, rows in _drawn(scores) for part in _panels(scores, dataset, rows, found)]
        parts += _correlation_tables(found.correlations)
    if len(found.scaling):
        columns: Columns = {
            **_WHERE, "Bases": ("n_bases", count), "Models": ("n_models", count),
            "Slope": ("slope", partial(number, digits=4, sign=True)),
            "Interval": ("low high", partial(interval, digits=4)), "p": ("p", p_value),
            "R²": ("r2", partial(number, digits=2)),
            "Within families": ("slope_in_family", partial(number, digits=4, sign=True)),
            "Its interval": ("in_family_low in_family_high", partial(interval, digits=4)),
        }  # fmt: skip
        caption = "Scaling: score for ten times the parameters, least squares through one point for each base."
        parts += ["Score and size", table(caption, columns, _ordered(found.scaling), n_words=3)]
    return parts


def _drawn(scores: Scores) -> list[tuple[str, pd.DataFrame]]:
    """The data sets whose panels are drawn: the average alone where there is one."""
    rows = scores.overall
    rows = rows[rows["metric"] != "delta_ll"]
    if (rows["dataset"] == AVERAGE).any():
        rows = rows[rows["dataset"].isin([AVERAGE]) | (rows["target"] == "reading")]
    drawn = sorted(rows.groupby("dataset", sort=False), key=lambda part: part[0] != AVERAGE)
    return [(str(dataset), part) for dataset, part in drawn[:MOST_DATASETS]]


def _panels(scores: Scores, dataset: str, rows: pd.DataFrame, found: Analysis) -> Parts:
    names = [name for name in properties_of(scores) if name == LOG_SIZE or " " not in name or "loss" in name]
    legend = tuple((i, name) for name, i in property_figures.families(scores).items() if name)
    parts: Parts = [dataset]
    for name in names:
        panels = property_figures.against(scores, rows, name, found.correlations)
        has_line = any("<polygon" in panel for panel in panels)
        line = " The line goes through the means of bases; the band is its 95 % interval." if has_line else ""
        what = "the number of parameters" if name == LOG_SIZE else name
        if panels:
            parts.append(Figure(f"Score against {what}. Rings are base models, dots tuned ones.{line}", panels, legend))
    return parts if len(parts) > 1 else []


def _correlation_tables(rows: pd.DataFrame) -> Parts:
    columns: Columns = {
        "Property": ("property", str), **_WHERE, "Models": ("population", str), "Unit": ("unit", str),
        "n": ("n", count),
        "r": ("r", number), "Interval": ("r_low r_high", partial(interval, digits=2)), "p": ("p", p_value),
        "adjusted": ("p_adjusted", p_value), "tests": ("n_tests", count),
    }  # fmt: skip
    held: Columns = {"Property": columns["Property"], "Held constant": ("given", str), **columns}
    same = ["dataset", "protocol", "metric", "property", "given", "unit", "n"]
    rows = rows[~rows.duplicated(same)]  # "all" where it adds no model to the tuned ones
    plain, partial_ = rows[rows["given"] == ""], rows[rows["given"] != ""]
    caption = (
        "Score against a property: Pearson r, Fisher’s interval, p adjusted by Benjamini and Hochberg over `tests`."
    )
    parts: Parts = ["Correlations, all data sets", table(caption, columns, _ordered(plain), n_words=6)]
    if len(partial_):
        parts.append(table("Partial correlations", held, _ordered(partial_), n_words=7, folded=True))
    return parts


def trainings(scores: Scores, found: Analysis) -> Parts:
    """Score along the step, one line for each training."""
    parts: Parts = []
    points = scaling.checkpoints(scores)
    for (dataset, _), rows in points[points["metric"] != "delta_ll"].groupby(["dataset", "metric"], sort=False):
        parts += [str(dataset), Figure("Score along the training step.", property_figures.trajectories(rows))]
    if len(found.trajectories):
        columns: Columns = {
            "Training": ("training", str), **_WHERE, "Checkpoints": ("n_checkpoints", count),
            "First": ("first_score", number), "Last": ("last_score", number),
            "rho": ("rho", partial(number, digits=2)), "p": ("p", p_value),
        }  # fmt: skip
        caption = "Spearman’s rho of score and step, p by permuting the steps (of four checkpoints or more)."
        parts += ["All trainings", table(caption, columns, _ordered(found.trajectories), n_words=4)]
    return parts


def _ordered(rows: pd.DataFrame) -> list[dict[str, object]]:
    """By data set, the average first, STRICT before PAPER."""
    order = {name: i for i, name in enumerate(PROTOCOLS)}
    return sorted(
        records(rows), key=lambda row: (row["dataset"] != AVERAGE, row["dataset"], order.get(row["protocol"], 9))
    )
