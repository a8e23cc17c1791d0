"""Comparison of our scores with the paper's tables, and of the paper's printed figures with its own tables.

The paper's Tables 5 (brain alignment), 7 (next-word loss, MMLU, BBH) and 9 (behavioural alignment) are an ordinary
file of scores (columns model, base, in_paper_25, n_parameters, pereira2018_r, ..., mmlu, bbh, nwp_loss). The file is
not part of this project: the user gives its path, or it is found next to the data. Table 8 is in paper_contents.py.

Source: Aw et al. 2023 (arXiv 2312.00575v2), abstract, sections 4 and 5, Tables 2 to 10, Figures 1 to 3, 6, 7 and 9.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.models.model_table import MODELS, ancestors
from harness.statistics import analysis
from harness.statistics.analysis import Analysis
from harness.statistics.correlations import LOG_SIZE
from harness.statistics.paper_contents import TABLE_8, PrintedFigure
from harness.statistics.scores import AVERAGE, SIZE, Scores, grouped
from harness.statistics.tuning import of_base

if TYPE_CHECKING:
    import pandas as pd

FILE = Path("paper") / "scores.csv"
# The paper's data set -> ours; the first one that was scored is used.
DATASETS = {
    "pereira2018": ("pereira2018",), "blank2014": ("blank2014",), "wehbe2014": ("wehbe2014",), AVERAGE: (AVERAGE,),
    "futrell2018": ("futrell2018-2016", "futrell2018"),
}  # fmt: skip
PROPERTIES = {"mmlu": ("mmlu",), "bbh": ("bbh",), "nwp_loss": ("next-word loss", "nwp_loss")}
BRAIN = ("pereira2018", "blank2014", "wehbe2014")
# Published ceilings, as in harness/datasets; the paper prints their mean.
CEILINGS = {"pereira2018": 0.359, "blank2014": 0.21026591, "wehbe2014": 0.104}


# Printed figures that cannot be recomputed from Tables 5, 7 and 9.
NOT_GIVEN = (
    "average accuracies of categories in Table 2: the paper does not tabulate MMLU and BBH categories by model",
    "correlations with the categories of MMLU and BBH (Table 2, Figures 2B and 6B): same reason",
    "error bars (median absolute deviation over participants): the paper prints no values; here r_mad in model_scores",
    "what CKA and RSA of Table 8 are divided by, and over which data sets they are averaged",
    "p-values after Benjamini-Hochberg over 11 tests: most of these tests concern the categories",
    "a test of the claim that tuning raises alignment: the paper reports none",
)


def confounds() -> list[str]:
    """Differences between base and tuned models of the paper's pairs other than instruction tuning.

    Source: google-research/text-to-text-transfer-transformer, released_checkpoints.md, "LM-Adapted: t5.1.1.lm100k"
        (100,000 further steps on the language-modelling objective, starting from T5 1.1).
    """
    pairs = [entry for entry in MODELS.values() if entry.group == "paper" and entry.tuned_from]
    adapted = [entry for entry in pairs if any(MODELS[name].stage == "LM-adapted" for name in ancestors(entry.name))]
    return [
        f"{len(adapted)} of the paper's {len(pairs)} pairs compare Flan-T5, or a model tuned from it, with T5 1.1 "
        "(google/t5-v1_1-*), but Flan-T5 was trained from the LM-adapted T5 1.1 (google/t5-*-lm-adapt). The T5 gain "
        "therefore confounds 100,000 steps of LM adaptation with instruction tuning. To separate them, also score "
        "t5-small-lm-adapt to t5-xxl-lm-adapt (`harness models --group lm-adapted`)"
    ]


def find(path: str | None, data_root: str | None) -> str:
    """Locate the file with the paper's tables: `path`, or `paper/scores.csv` in the data root or next to it.

    Args:
        path: path given by the user, or None.
        data_root: root folder of the data sets, or None.

    Raises:
        FileNotFoundError: if there is no such file; the message lists the columns it must have.
    """
    if path:
        return path
    shared = os.environ.get("HARNESS_SHARED")
    roots = [Path(root) for root in (data_root, shared) if root]
    roots += [Path(data_root).absolute().parent] if data_root else []
    for root in roots:
        if (root / FILE).is_file():
            return str(root / FILE)
    searched = ", ".join(str(root / FILE) for root in roots) or "nowhere: no --data-root"
    raise FileNotFoundError(
        f"no file with the paper's tables (searched: {searched}). Give --paper FILE: Tables 5, 7 and 9 of arXiv "
        "2312.00575v2 with one row per model: model, base, is_tuned, in_paper_25, n_parameters, pereira2018_r, "
        "blank2014_r, wehbe2014_r, average_r, futrell2018_r, nwp_loss, mmlu, bbh."
    )


def compare_scores(ours: Scores, paper: Scores) -> pd.DataFrame:
    """Join our scores with the paper's, for every model and data set that both contain.

    Returns:
        table ("5": brain recordings, "9": reading times, "7": properties), model, dataset (or property), protocol (""
        for properties), paper, ours, difference (ours - paper). For reading times |r| is compared, because the paper
        drops the sign.
    """
    import pandas as pd

    rows = [*_score_rows(ours, paper), *_property_rows(ours, paper)]
    compared = pd.DataFrame(rows, columns=["table", "model", "dataset", "protocol", "paper", "ours"])
    compared["difference"] = compared["ours"] - compared["paper"]
    return compared[compared["paper"].notna() & compared["ours"].notna()].reset_index(drop=True)


def _score_rows(ours: Scores, paper: Scores) -> Iterator[tuple[str, str, str, str, float, float]]:
    """Tables 5 and 9: scores of brain recordings and reading times."""
    own = _with_average(ours.overall).set_index(["model", "dataset"])
    for row in paper.overall.to_dict("records"):
        dataset = next((name for name in DATASETS.get(row["dataset"], ()) if (row["model"], name) in own.index), None)
        if dataset is None:
            continue
        table, sign_free = ("9", abs) if row["target"] == "reading" else ("5", float)
        for own_row in own.loc[[(row["model"], dataset)]].to_dict("records"):
            yield table, row["model"], dataset, own_row["protocol"], row["score"], sign_free(own_row["score"])


def _property_rows(ours: Scores, paper: Scores) -> Iterator[tuple[str, str, str, str, float, float]]:
    """Table 7: properties of the models."""
    shared = paper.models.index.intersection(ours.models.index)
    for column, own_names in PROPERTIES.items():
        own_column = next((name for name in own_names if name in ours.models), None)
        if own_column and column in paper.models:
            values = zip(shared, paper.models.loc[shared, column], ours.models.loc[shared, own_column], strict=True)
            yield from (("7", model, column, "", printed, own) for model, printed, own in values)


def _with_average(rows: pd.DataFrame) -> pd.DataFrame:
    """Correlations, plus the average over the paper's three data sets for models scored on all three."""
    import pandas as pd

    rows = rows[(rows["metric"] == "pearson_r") & (rows["dataset"] != AVERAGE)]
    brain = rows[rows["dataset"].isin(BRAIN)]
    wide = brain.pivot_table(index=["model", "protocol"], columns="dataset", values="score")
    if wide.shape[1] < len(BRAIN):
        return rows
    mean = wide.mean(axis=1, skipna=False).dropna().rename("score").reset_index()
    return pd.concat([rows, mean.assign(dataset=AVERAGE, target="all", metric="pearson_r")])


def with_error_bars(compared: pd.DataFrame, model_scores: pd.DataFrame) -> pd.DataFrame:
    """Add the column ours_mad: median absolute deviation of our score over participants, the paper's error bars.

    Args:
        compared: as `compare_scores`.
        model_scores: the table of that name. The average over data sets gets the mean of theirs.
    """
    of_all = model_scores[(model_scores["target"] == "all") & (model_scores["kind"] == "model")]
    wide = of_all.pivot_table(index=["model", "protocol"], columns="dataset", values="r_mad", dropna=False)
    if set(BRAIN) <= set(wide):
        wide[AVERAGE] = wide[list(BRAIN)].mean(axis=1, skipna=False)
    mads = wide.stack().rename("ours_mad").reset_index()
    return compared.merge(mads, how="left", on=["model", "protocol", "dataset"])


def compare_appendix_j(model_scores: pd.DataFrame, similarity_scores: pd.DataFrame) -> pd.DataFrame:
    """Our values beside Table 8: linear predictivity, CKA and RSA of Gemma and LLaMA-2, base and tuned.

    Args:
        model_scores: the table of that name.
        similarity_scores: the table of that name.

    Returns:
        table "8", model, metric ("linear", "cka", "rsa"), protocol, n_datasets (of the paper's brain data sets), paper,
        ours (mean raw value over these data sets), normalised (divided by the mean noise ceiling of r). The paper
        prints normalised values, and does not state by what CKA and RSA are divided; CKA itself is at most 1.
    """
    import pandas as pd

    linear = model_scores.assign(metric="linear", value=model_scores["r"])
    similar = similarity_scores[similarity_scores["subject"] == ""]
    rows = pd.concat([frame for frame in (linear, similar) if len(frame)] or [linear])
    rows = rows[(rows["target"] == "all") & rows["dataset"].isin(BRAIN) & rows["model"].isin(TABLE_8)]
    ceilings = linear[linear["target"] == "all"].set_index(["model", "dataset", "protocol"])["ceiling"]
    compared = []
    for key, group in grouped(rows, ["model", "metric", "protocol"]):
        places = [(key["model"], dataset, key["protocol"]) for dataset in group["dataset"]]
        ceiling = float(ceilings.reindex(places).mean(skipna=False))
        printed = TABLE_8[key["model"]][("linear", "cka", "rsa").index(key["metric"])]
        ours = float(group["value"].mean(skipna=False))
        compared.append({
            "table": "8", **key, "n_datasets": len(group), "paper": printed, "ours": ours, "normalised": ours / ceiling,
        })  # fmt: skip
    columns = ["table", "model", "metric", "protocol", "n_datasets", "paper", "ours", "normalised"]
    order = {model: place for place, model in enumerate(TABLE_8)}
    frame = pd.DataFrame(compared, columns=columns)
    return frame.sort_values("model", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def summary(compared: pd.DataFrame) -> pd.DataFrame:
    """Per data set and protocol: n_models, mean and largest difference, and r over models (from four models on)."""
    import numpy as np
    import pandas as pd

    rows = []
    for key, group in grouped(compared, ["table", "dataset", "protocol"]):
        varies = len(group) > 3 and group["paper"].nunique() > 1 and group["ours"].nunique() > 1
        rows.append({
            **key, "n_models": len(group),
            "mean_difference": group["difference"].mean(), "largest_difference": group["difference"].abs().max(),
            "r_over_models": float(np.corrcoef(group["paper"], group["ours"])[0, 1]) if varies else float("nan"),
        })  # fmt: skip
    return pd.DataFrame(rows)


def unmatched_models(ours: Scores, paper: Scores) -> tuple[list[str], list[str]]:
    """(models only in the paper, models only in our scores)."""
    theirs, own = set(paper.models.index), set(ours.models.index)
    return sorted(theirs - own), sorted(own - theirs)


def printed_figures(paper: Scores) -> list[PrintedFigure]:
    """Figures printed in the paper, with the values recomputed from its own tables.

    Raises:
        ValueError: if `paper` lacks a column of the paper's tables.
    """
    statistics = analysis.analyse(paper)
    _require_paper_columns(paper, statistics)
    gains = of_base(statistics.tuning).set_index("dataset")["gain_percent"]
    printed = {"pereira2018": 6.9, "blank2014": 8.0, "wehbe2014": 3.8}
    what = "tuning gain on {}, % (mean over 17 pairs)"
    of_gains = [PrintedFigure(what.format(name), printed[name], gains[name], 1, "Figure 1C") for name in BRAIN]
    headline = PrintedFigure(
        "tuning gain, headline, %", 6.2, gains["average"], 1, "Figure 1B",
        f"6.2 is the mean of the three printed gains ({sum(printed.values()) / 3:.1f}); the column of averages itself "
        f"rises by {gains['average']:.2f} %",
    )  # fmt: skip
    ceiling = sum(CEILINGS.values()) / len(CEILINGS)
    of_ceilings = PrintedFigure("average ceiling", 0.224, ceiling, 3, "Table 6")
    return [*of_gains, headline, *_correlations(statistics), *_behaviour(paper), *_accuracies(paper), of_ceilings]


def _require_paper_columns(paper: Scores, statistics: Analysis) -> None:
    scored = set(statistics.tuning["dataset"]) if len(statistics.tuning) else set()
    missing = [name for name in (*BRAIN, AVERAGE) if name not in scored]
    missing += [name for name in ("mmlu", "bbh", "nwp_loss", SIZE) if name not in paper.properties]
    if missing:
        raise ValueError(f"{paper.source} has no {', '.join(missing)}: these are not the paper's Tables 5, 7 and 9.")


def _correlations(statistics: Analysis) -> list[PrintedFigure]:
    """Correlations of model properties with the average alignment."""
    rows = statistics.correlations
    rows = rows[(rows["dataset"] == "average") & (rows["covariate"] == "") & (rows["unit"] == "model")]
    r = {(row["population"], row["property"]): row["r"] for row in rows.to_dict("records")}
    rounded = "the tables round scores to three digits; the paper presumably used the unrounded ones"
    mean = "r of average alignment and"
    return [
        PrintedFigure(
            f"{mean} MMLU, 17 tuned", 0.809, r["tuned", "mmlu"], 3, "Figure 2A, Figure 6A, Table 2", rounded
        ),
        PrintedFigure(f"{mean} BBH, 17 tuned", 0.384, r["tuned", "bbh"], 3, "Table 2", rounded),
        PrintedFigure(f"{mean} log10 size, 17 tuned", 0.95, r["tuned", LOG_SIZE], 2, "Figure 2C, Figure 6C"),
        PrintedFigure(f"{mean} log10 size, all 25", 0.92, r["all", LOG_SIZE], 2, "Figure 7A"),
        PrintedFigure(
            f"{mean} next-word loss, 17 tuned", -0.54, r["tuned", "nwp_loss"], 2, "Figure 6D",
            "the tabulated losses rise with alignment; the figure's axis runs to losses of 15, Table 7 to 4.6",
        ),
    ]  # fmt: skip


def _behaviour(paper: Scores) -> list[PrintedFigure]:
    """The p values of correlations with behavioural alignment, over tuned models; not adjusted."""
    rows = paper.overall
    rows = rows[(rows["target"] == "reading") & (rows["base"] != "") & rows["is_main"]].set_index("model")
    properties = paper.models.loc[rows.index]
    return [
        PrintedFigure(f"p of behavioural alignment and {what}", printed, _p(values, rows["score"]), 2, where)
        for what, printed, values, where in (
            ("MMLU, 17 tuned", 0.76, properties["mmlu"], "Figure 3B, Figure 9A"),
            ("log10 size, 17 tuned", 0.31, properties[SIZE].astype(float).map(math.log10), "Figure 3C, Figure 9B"),
            ("next-word loss, 12 tuned T5", 0.54, _of_family(properties, "t5"), "Figure 3D, Figure 9C"),
            ("next-word loss, 5 tuned LLaMA", 0.21, _of_family(properties, "llama"), "Figure 3E, Figure 9D"),
        )
    ]


def _of_family(properties: pd.DataFrame, family: str) -> pd.Series:
    """Next-word losses of the models of a family."""
    return properties.loc[properties["family"] == family, "nwp_loss"]


def _p(values: pd.Series, scores: pd.Series) -> float:
    """The p value of Pearson's correlation over the models that have a value; NaN for fewer than three."""
    from scipy import stats

    values = values.dropna()
    return float(stats.pearsonr(values, scores[values.index]).pvalue) if len(values) > 2 else math.nan


def _accuracies(paper: Scores) -> list[PrintedFigure]:
    """Average accuracies of Table 2, overall scores; those of categories are not given by model."""
    tuned = paper.models[(paper.models["base"] != "") & paper.models["is_main"]]
    remark = "nor is it the mean over all tuned models of Table 7, GPT-2 included"
    return [
        PrintedFigure(
            f"mean {name.upper()} accuracy, 17 tuned", printed, float(tuned[name].mean()), 2, "Table 2", remark
        )
        for name, printed in (("mmlu", 0.36), ("bbh", 0.28))
    ]
