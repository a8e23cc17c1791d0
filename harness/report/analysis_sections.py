"""The statistical sections of the report: tuning, model properties, training runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from harness.numbers import count, interval, number, p_value
from harness.report import figures, property_figures
from harness.report.cells import Columns, Parts, ReportTable, records, strict_first, table, text
from harness.report.figures import PROTOCOLS, Figure, of_many
from harness.report.panels import MODEL, Panel
from harness.report.property_figures import Colours
from harness.statistics import trajectories
from harness.statistics.correlations import LOG_SIZE
from harness.statistics.correlations import properties as properties_of
from harness.statistics.paired import (
    BASE,
    BEST,
    CONTROL,
    HIGHEST,
    NO_PROMPT,
    PREVIOUS,
    RANDOM_UNITS,
    REGRESSION,
    UNTRAINED,
    UNTRAINED_UNITS,
    WHOLE_LAYER,
)
from harness.statistics.scores import AVERAGE, OVERALL
from harness.statistics.tuning import of_base

if TYPE_CHECKING:
    import pandas as pd

    from harness.statistics.analysis import Analysis
    from harness.statistics.scores import Scores

_signed = partial(number, sign=True)
_signed_4 = partial(number, digits=4, sign=True)
_percent = partial(number, digits=1, sign=True)
_WHERE: Columns = {
    "Data set": ("dataset", str), "Protocol": ("protocol", str.upper), "Metric": ("metric", text),
}  # fmt: skip
_GAIN: Columns = {
    "Pairs": ("n_pairs", count), "Bases": ("n_bases", count), "Gain %": ("gain_percent", _percent),
    "Difference": ("difference", _signed_4), "Interval": ("low high", partial(interval, digits=4)),
}  # fmt: skip
# Relation of a paired test -> caption of its table.
_RELATIONS = {
    UNTRAINED: "Model minus the same network with random weights.",
    CONTROL: (
        "Model minus control. Of all controls, the one with the largest p is shown. A model that is not above all of "
        "them is compared with the one that exceeds it most clearly, with p multiplied by the number of controls."
    ),
    HIGHEST: "Model minus the control with the highest score, where that is not the control of the table above.",
    BASE: "Tuned model minus its untuned base.",
    PREVIOUS: "Tuned model minus the previous stage of its tuning.",
    BEST: "Model minus the best model; p is multiplied by the number of models that could have been the best",
    NO_PROMPT: "Model after a prompt minus the same model without one.",
    RANDOM_UNITS: "Localised units minus as many random units of the same model, one row per draw.",
    UNTRAINED_UNITS: "Localised units minus as many units localised in the same network with random weights.",
    WHOLE_LAYER: "Localised units minus the layer that the protocol chooses, which has another number of features.",
    REGRESSION: "Gain in log-likelihood over a regression on the control predictors alone, over stories.",
}
MOST_DATASETS = 8  # for which correlation panels are drawn


def tuning(results: Analysis, ends: pd.DataFrame, colours: Colours) -> Parts:
    """Tests, gains by family, then base and tuned scores on each data set.

    Args:
        results: the statistics of the run.
        ends: intervals of the scores, from `sections.interval_ends`.
        colours: of the models on the page.
    """
    parts: Parts = []
    if len(results.tuning):
        parts.append(_tests(results.tuning))
    if len(results.families):
        parts.append(_families(results.families))
    columns: Columns = {
        "Tuned": ("tuned", str), "Against": ("base", str), "As": ("relation", str), "Protocol":
        ("protocol", str.upper), "Target": ("target", str),
        "Base r": ("base_score", number), "Tuned r": ("tuned_score", number), "Difference": ("difference", _signed),
        "Gain %": ("gain_percent", _percent), "Pair source": ("pair_source", text),
    }  # fmt: skip
    for dataset, rows in results.pairs[results.pairs["metric"] != "delta_ll"].groupby("dataset"):
        is_overall = rows["target"].isin(OVERALL)
        overall, by_target = rows[is_overall], rows[~is_overall]
        n_pairs = of_base(overall)["tuned"].nunique()
        bars = " Bars: 95 % intervals of the scores." if n_pairs <= figures.MOST_WITH_BARS else ""
        caption = f"Score of the base model and of the tuned model.{bars}"
        caption += of_many(n_pairs, figures.MOST_PAIRS, "pairs")
        parts += [dataset, Figure(caption, _slopes(of_base(overall), ends[ends["dataset"] == dataset], colours))]
        parts.append(table("Tuned and base scores.", columns, strict_first(overall), n_words=4))
        if len(by_target):
            parts.append(table("Tuned and base scores by target", columns, strict_first(by_target), 4, folded=True))
    return parts


def _slopes(pairs: pd.DataFrame, ends: pd.DataFrame, colours: Colours) -> list[Panel]:
    ends = ends[ends["metric"].isin(set(pairs["metric"])) & ends["model"].isin({*pairs["base"], *pairs["tuned"]})]
    known = ends.dropna(subset=["low", "high"])
    of_source = {(row.model, row.protocol): (row.low, row.high) for row in known.itertuples()}
    measure = "Pearson r" if set(pairs["metric"]) <= {"pearson_r", "brainscore_r"} else "Score"
    of_tuned = {tuned: colours.of_model.get(tuned, MODEL) for tuned in pairs["tuned"]}
    return figures.slopes(pairs, of_source, of_tuned, measure)


def paired(results: Analysis) -> Parts:
    """Each model against other sources, one table per relation.

    Args:
        results: the statistics of the run.
    """
    columns: Columns = {
        "Model": ("model", str), "Against": ("other", text), **_WHERE, "Target": ("target", str),
        "Difference": ("difference", _signed_4), "Interval": ("low high", partial(interval, digits=4)),
        "p": ("p", p_value), "p adjusted": ("p_adjusted", p_value), "Method": ("method", str),
    }  # fmt: skip
    return [
        table(_RELATIONS[str(relation)], columns, _ordered(rows), n_words=6, folded=relation == BEST)
        for relation, rows in results.paired.groupby("relation", sort=False)
    ]


def _tests(rows: pd.DataFrame) -> ReportTable:
    columns: Columns = {
        "Against": ("relation", str), **_WHERE, **_GAIN, "Interval over": ("interval_over", text),
        "d_z": ("d_z", partial(number, digits=2)), "p sign flips": ("p_sign_flip", p_value),
        "p adjusted": ("p_adjusted", p_value), "smallest p": ("p_min", p_value), "p mixed": ("p_mixed", p_value),
        "ICC": ("icc", partial(number, digits=2)), "p Wilcoxon": ("p_wilcoxon", p_value),
        "rank-biserial": ("rank_biserial", partial(number, digits=2)), "(p t over pairs)": ("p_t_pairs", p_value),
    }  # fmt: skip
    caption = (
        "Tuned minus base: mean over bases with 95 % bootstrap interval. Tests: sign flips over bases (with this "
        "number of bases, p cannot be below “smallest p”), mixed model with the base as random effect, Wilcoxon over "
        "bases. Gain is the mean over pairs. “p adjusted” is the sign-flip p, Benjamini-Hochberg over the rows. "
        "Against: the untuned base; the checkpoint from which the training started (Flan-T5: the LM-adapted T5); the "
        "previous stage."
    )
    return table(caption, columns, _ordered(rows), n_words=3)


def _families(rows: pd.DataFrame) -> ReportTable:
    columns: Columns = {"Family": ("family", text), "Against": ("relation", str), **_WHERE, **_GAIN}
    return table("By model family; an interval needs at least five bases.", columns, _ordered(rows), n_words=4)


def properties(scores: Scores, results: Analysis, colours: Colours) -> Parts:
    """Score against each property, scaling with size, and the tables.

    Args:
        scores: scores and properties of the models.
        results: the statistics of the run.
        colours: of the models on the page.
    """
    parts: Parts = []
    if len(results.correlations):
        for dataset, rows in _drawn(scores):
            parts += _panels(scores, dataset, rows, results, colours)
        parts += _correlation_tables(results.correlations)
    if len(results.scaling):
        columns: Columns = {
            **_WHERE, "Bases": ("n_bases", count), "Models": ("n_models", count),
            "Slope": ("slope", _signed_4), "Interval": ("low high", partial(interval, digits=4)), "p": ("p", p_value),
            "R²": ("r2", partial(number, digits=2)), "Within families": ("slope_in_family", _signed_4),
            "Interval within": ("in_family_low in_family_high", partial(interval, digits=4)),
        }  # fmt: skip
        caption = "Change of the score for ten times as many parameters: least squares over bases, one point per base."
        parts += ["Score and size", table(caption, columns, _ordered(results.scaling), n_words=3)]
    return parts


def _drawn(scores: Scores) -> list[tuple[str, pd.DataFrame]]:
    """The data sets whose panels are drawn: the average score alone, if there is one, and reading times."""
    rows = scores.overall
    rows = rows[rows["metric"] != "delta_ll"]
    if (rows["dataset"] == AVERAGE).any():
        rows = rows[rows["dataset"].isin([AVERAGE]) | (rows["target"] == "reading")]
    drawn = sorted(rows.groupby("dataset", sort=False), key=lambda part: part[0] != AVERAGE)
    return [(str(dataset), part) for dataset, part in drawn[:MOST_DATASETS]]


def _panels(scores: Scores, dataset: str, rows: pd.DataFrame, results: Analysis, colours: Colours) -> Parts:
    names = [name for name in properties_of(scores) if name == LOG_SIZE or " " not in name or "loss" in name]
    drawn = {colours.name_of[model] for model in rows["model"]} - set(colours.name_of)
    legend = tuple((i, name) for name, i in colours.index_of.items() if name in drawn)
    parts: Parts = [dataset]
    for name in names:
        panels = property_figures.against(scores, rows, name, results.correlations, colours.of_group)
        has_line = any("<polygon" in panel for panel in panels)
        line = " The line is fitted to the means of the bases; the band is its 95 % interval." if has_line else ""
        label = "the number of parameters" if name == LOG_SIZE else name
        if panels:
            caption = f"Score against {label}. Circles: base models. Triangles: tuned models.{line}"
            parts.append(Figure(caption, panels, legend))
    return parts if len(parts) > 1 else []


def _correlation_tables(rows: pd.DataFrame) -> Parts:
    columns: Columns = {
        "Property": ("property", str), **_WHERE, "Models": ("population", str), "Unit": ("unit", str),
        "n": ("n", count), "r": ("r", number), "Interval": ("r_low r_high", partial(interval, digits=2)),
        "p": ("p", p_value), "p adjusted": ("p_adjusted", p_value), "tests": ("n_tests", count),
    }  # fmt: skip
    partial_columns: Columns = {"Property": columns["Property"], "Held constant": ("covariate", str), **columns}
    key = ["dataset", "protocol", "metric", "property", "covariate", "unit", "n"]
    rows = rows[~rows.duplicated(key)]  # population "all" repeats "tuned" if it has no further models
    zero_order, partial_rows = rows[rows["covariate"] == ""], rows[rows["covariate"] != ""]
    caption = (
        "Pearson r of the score with a property, with Fisher’s interval; p adjusted by Benjamini-Hochberg over “tests”."
    )
    parts: Parts = ["Correlations, all data sets", table(caption, columns, _ordered(zero_order), n_words=6)]
    if len(partial_rows):
        parts.append(table("Partial correlations", partial_columns, _ordered(partial_rows), n_words=7, folded=True))
    return parts


def trainings(scores: Scores, results: Analysis, ends: pd.DataFrame, colours: Colours) -> Parts:
    """Score along each training, its trend and peak, and comparisons of two trainings.

    Args:
        scores: scores of the models, checkpoints among them.
        results: the statistics of the run.
        ends: intervals of the scores, from `sections.interval_ends`.
        colours: of the models and trainings on the page.
    """
    parts: Parts = []
    points = trajectories.checkpoints(scores).drop(columns=["low"], errors="ignore")
    points = points.merge(ends, on=["model", "dataset", "protocol", "metric"], how="left")
    for (dataset, _), rows in points[points["metric"] != "delta_ll"].groupby(["dataset", "metric"], sort=False):
        along = "tokens seen" if rows["tokens"].notna().all() else "training step"
        caption = f"Score against {along}; mean over the seeds of a training. Bars: 95 % intervals of the scores"
        over_seeds = ", averaged over the seeds; they leave out the differences between seeds"
        caption += f"{over_seeds if _has_seeds(rows) else ''}."
        parts += [str(dataset), Figure(caption, property_figures.trajectories(rows, colours))]
    if len(results.trajectories):
        parts += ["All training runs", _trends(results.trajectories)]
    if len(results.trajectory_tests):
        parts.append(_trajectory_tests(results.trajectory_tests))
    return parts


def _has_seeds(checkpoints: pd.DataFrame) -> bool:
    return bool((checkpoints.groupby("training")["seed"].nunique() > 1).any())


def _trends(rows: pd.DataFrame) -> ReportTable:
    columns: Columns = {
        "Training": ("training", str), **_WHERE, "Seeds": ("n_seeds", count), "Checkpoints": ("n_checkpoints", count),
        "First": ("first_score", number), "Last": ("last_score", number),
        "rho": ("rho", partial(number, digits=2)), "p": ("p", p_value),
        "Peak at step": ("peak_step", count), "Peak at tokens": ("peak_tokens", count),
        "Interval of the peak": ("peak_low peak_high", _places), "Decline": ("decline", _signed_4),
        "Its interval": ("decline_low decline_high", partial(interval, digits=4)), "p of the decline":
        ("decline_p", p_value),
    }  # fmt: skip
    caption = (
        "Spearman’s rho of score and step; p by permutation of the steps, from four checkpoints on. The interval of "
        "the peak is in tokens where they are known, else in steps. Decline: score at the peak minus the last score, "
        "with the peak chosen on the other folds."
    )
    return table(caption, columns, _ordered(rows), n_words=4)


def _trajectory_tests(rows: pd.DataFrame) -> ReportTable:
    columns: Columns = {
        "Training": ("training", str), "Minus": ("other", str), **_WHERE, "Of the scores": ("statistic", str),
        "Difference": ("difference", _signed_4), "Interval": ("low high", partial(interval, digits=4)),
        "p": ("p", p_value), "Seeds": ("n_seeds", count), "Interval over seeds":
        ("low_seeds high_seeds", partial(interval, digits=4)), "p seeds": ("p_seeds", p_value),
        "Interval over both": ("low_both high_both", partial(interval, digits=4)), "p both": ("p_both", p_value),
        "p adjusted": ("p_adjusted", p_value), "At equal": ("x", str),
        "From": ("first_x", count), "To": ("last_x", count),
    }  # fmt: skip
    caption = (
        "Two trainings over the part that both have: mean, last point, slope per tenfold tokens or steps. p is over "
        "folds (and subjects), p seeds over seeds, p both over all of them (quote it); p adjusted is p both after "
        "Benjamini-Hochberg."
    )
    return table(caption, columns, _ordered(rows), n_words=5)


def _places(low: float, high: float) -> str:
    return f"{count(low)} to {count(high)}" if low == low else "–"


def _ordered(rows: pd.DataFrame) -> list[dict[str, object]]:
    """Sorted by data set, the average first, then by protocol, STRICT first."""
    order = {name: i for i, name in enumerate(PROTOCOLS)}
    return sorted(
        records(rows), key=lambda row: (row["dataset"] != AVERAGE, row["dataset"], order.get(row["protocol"], 9))
    )
