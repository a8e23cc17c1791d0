"""Our scores beside the paper's tables, model by model; and what the paper prints beside what its own tables give.

The paper's Tables 5, 7 and 9 are a file of scores like any other (columns model, base, in_paper_25, n_parameters,
pereira2018_r, ..., mmlu, bbh, nwp_loss), which is not part of this project: the path is given, or it is looked for
beside the data.

Source: Aw et al. 2023 (arXiv 2312.00575v2), abstract, sections 3 and 4, Tables 2 to 9; METHODS.md, section 5.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.models.model_table import MODELS, ancestors
from harness.statistics import analysis
from harness.statistics.analysis import Analysis
from harness.statistics.correlations import LOG_SIZE
from harness.statistics.scores import AVERAGE, SIZE, Scores

if TYPE_CHECKING:
    import pandas as pd

FILE = Path("paper") / "scores.csv"
# Data set of the paper -> ours, the first that was scored.
DATASETS = {
    "pereira2018": ("pereira2018",), "blank2014": ("blank2014",), "wehbe2014": ("wehbe2014",), AVERAGE: (AVERAGE,),
    "futrell2018": ("futrell2018-2016", "futrell2018"),
}  # fmt: skip
PROPERTIES = {"mmlu": ("mmlu",), "bbh": ("bbh",), "nwp_loss": ("next-word loss", "nwp_loss")}
BRAIN = ("pereira2018", "blank2014", "wehbe2014")
# Published ceilings, as the data sets declare them; the paper prints their mean.
CEILINGS = {"pereira2018": 0.359, "blank2014": 0.21026591, "wehbe2014": 0.104}


class Claim(NamedTuple):
    """What the paper prints, and what comes out of its own tables; where they differ, why, as far as it is known."""

    what: str
    printed: float
    given: float
    digits: int
    remark: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the tables give the printed figure, at the precision at which it is printed."""
        return bool(abs(round(self.given, self.digits) - self.printed) < 0.5 * 10**-self.digits)


# Printed, but nothing in Tables 5, 7 and 9 from which it could be computed.
NOT_GIVEN = (
    "the average accuracies of Table 2: the scores of single MMLU and BBH categories are not tabled by model",
    "the correlations with the categories of MMLU and BBH (Table 2): for the same reason",
    "the p-values after Benjamini and Hochberg over 11 tests: most of the tests are of those categories",
    "a test of the claim that tuning raises alignment: none is reported",
)


def confounds() -> list[str]:
    """What the paper's pairs compare beside instruction tuning, by the table of models.

    Source: METHODS.md, section 8; google-research/text-to-text-transfer-transformer, released_checkpoints.md,
        "LM-Adapted: t5.1.1.lm100k" (100,000 further steps on the language-modelling objective, from T5 1.1).
    """
    pairs = [entry for entry in MODELS.values() if entry.group == "paper" and entry.tuned_from]
    adapted = [entry for entry in pairs if any(MODELS[name].stage == "LM-adapted" for name in ancestors(entry.name))]
    return [
        f"{len(adapted)} of the paper's {len(pairs)} pairs set Flan-T5, or a model tuned from it, against T5 1.1 "
        "(google/t5-v1_1-*); but Flan-T5 was trained from the LM-adapted T5 1.1 (google/t5-*-lm-adapt), so that the T5 "
        "gain confounds 100,000 steps of LM adaptation with instruction tuning. To tell them apart, score "
        "t5-small-lm-adapt to t5-xxl-lm-adapt too (`harness models --group lm-adapted`)"
    ]


def find(path: str | None, data_root: str | None) -> str:
    """The file of the paper's tables: the one named, or `paper/scores.csv` in or beside the data.

    Raises:
        FileNotFoundError: if it is nowhere; says what it must hold.
    """
    if path:
        return path
    shared = os.environ.get("HARNESS_SHARED")
    roots = [Path(root) for root in (data_root, shared) if root]
    roots += [Path(data_root).absolute().parent] if data_root else []
    for root in roots:
        if (root / FILE).is_file():
            return str(root / FILE)
    looked = ", ".join(str(root / FILE) for root in roots) or "nowhere: no --data-root"
    raise FileNotFoundError(
        f"the paper's tables are not here (looked at {looked}). Give --paper FILE: Tables 5, 7 and 9 of arXiv "
        "2312.00575v2 as one row per model: model, base, is_tuned, in_paper_25, n_parameters, pereira2018_r, "
        "blank2014_r, wehbe2014_r, average_r, futrell2018_r, nwp_loss, mmlu, bbh."
    )


def beside(ours: Scores, paper: Scores) -> pd.DataFrame:
    """Our scores beside the paper's, for every model and data set that both have.

    Returns:
        table ("5": brains, "7": reading times, "9": properties), model, dataset (or property), protocol ("" for
        properties), paper, ours, difference (ours - paper). Of reading times |r| is compared, as the paper drops the
        sign.
    """
    import pandas as pd

    rows = []
    own = _with_average(ours.overall).set_index(["model", "dataset"])
    for row in paper.overall.to_dict("records"):
        found = next((name for name in DATASETS.get(row["dataset"], ()) if (row["model"], name) in own.index), None)
        if found is None:
            continue
        is_read = row["target"] == "reading"
        for mine in own.loc[[(row["model"], found)]].to_dict("records"):
            score = abs(mine["score"]) if is_read else mine["score"]
            rows.append(_row("7" if is_read else "5", row["model"], found, mine["protocol"], row["score"], score))
    both = paper.models.index.intersection(ours.models.index)
    for theirs, names in PROPERTIES.items():
        name = next((name for name in names if name in ours.models), None)
        if name and theirs in paper.models:
            known = zip(both, paper.models.loc[both, theirs], ours.models.loc[both, name], strict=True)
            rows += [_row("9", model, theirs, "", *values) for model, *values in known]
    found = pd.DataFrame(rows, columns=["table", "model", "dataset", "protocol", "paper", "ours", "difference"])
    return found[found["paper"].notna() & found["ours"].notna()].reset_index(drop=True)


def _with_average(rows: pd.DataFrame) -> pd.DataFrame:
    """Correlations, with the average over the paper's three data sets alone, where a model has them all."""
    import pandas as pd

    rows = rows[(rows["metric"] == "pearson_r") & (rows["dataset"] != AVERAGE)]
    of_brain = rows[rows["dataset"].isin(BRAIN)]
    wide = of_brain.pivot_table(index=["model", "protocol"], columns="dataset", values="score")
    if wide.shape[1] < len(BRAIN):
        return rows
    mean = wide.mean(axis=1, skipna=False).dropna().rename("score").reset_index()
    return pd.concat([rows, mean.assign(dataset=AVERAGE, target="all", metric="pearson_r")])


def _row(table: str, model: str, dataset: str, protocol: str, paper: float, ours: float) -> dict[str, object]:
    return {
        "table": table, "model": model, "dataset": dataset, "protocol": protocol, "paper": paper, "ours": ours,
        "difference": ours - paper,
    }  # fmt: skip


def summary(compared: pd.DataFrame) -> pd.DataFrame:
    """Each data set and protocol: n_models, mean and largest difference, and r over models (of four or more)."""
    import numpy as np
    import pandas as pd

    rows = []
    for key, part in compared.groupby(["table", "dataset", "protocol"], sort=False):
        varies = len(part) > 3 and part["paper"].nunique() > 1 and part["ours"].nunique() > 1
        rows.append({
            **dict(zip(["table", "dataset", "protocol"], key, strict=True)), "n_models": len(part),
            "mean_difference": part["difference"].mean(), "largest_difference": part["difference"].abs().max(),
            "r_over_models": float(np.corrcoef(part["paper"], part["ours"])[0, 1]) if varies else float("nan"),
        })  # fmt: skip
    return pd.DataFrame(rows)


def absent(ours: Scores, paper: Scores) -> tuple[list[str], list[str]]:
    """(models of the paper that we have not, models of ours that the paper has not)."""
    theirs, own = set(paper.models.index), set(ours.models.index)
    return sorted(theirs - own), sorted(own - theirs)


def claims(paper: Scores) -> list[Claim]:
    """What the paper prints in words and figures, beside what its own tables give."""
    found = analysis.analyse(paper)
    absent = (
        [name for name in (*BRAIN, AVERAGE) if name not in set(found.tuning["dataset"])] if len(found.tuning) else BRAIN
    )
    absent = [*absent, *(name for name in ("mmlu", "bbh", "nwp_loss", SIZE) if name not in paper.properties)]
    if absent:
        raise ValueError(f"{paper.source} has no {', '.join(absent)}: these are not the paper's Tables 5, 7 and 9.")
    gains = found.tuning.set_index("dataset")["gain_percent"]
    printed = {"pereira2018": 6.9, "blank2014": 8.0, "wehbe2014": 3.8}
    said = [Claim(f"tuning gain on {name}, % (mean over 17 pairs)", printed[name], gains[name], 1) for name in BRAIN]
    said.append(Claim(
        "tuning gain, headline, %", 6.2, gains["average"], 1,
        f"6.2 is the mean of the three printed gains ({sum(printed.values()) / 3:.1f}); the column of averages itself "
        f"rises by {gains['average']:.2f} %",
    ))  # fmt: skip
    said += _correlations(found)
    ceiling = sum(CEILINGS.values()) / len(CEILINGS)
    return [*said, Claim("average ceiling", 0.224, ceiling, 3)]


def _correlations(found: Analysis) -> list[Claim]:
    """The correlations with the average alignment."""
    rows = found.correlations
    rows = rows[(rows["dataset"] == "average") & (rows["given"] == "") & (rows["unit"] == "model")]
    r = {(row["population"], row["property"]): row["r"] for row in rows.to_dict("records")}
    rounded = "the tabled scores are rounded to three digits; the figure was made from others"
    return [
        Claim("r of average alignment and MMLU, 17 tuned", 0.809, r["tuned", "mmlu"], 3, rounded),
        Claim("r of average alignment and BBH, 17 tuned", 0.384, r["tuned", "bbh"], 3, rounded),
        Claim("r of average alignment and log10 size, 17 tuned", 0.95, r["tuned", LOG_SIZE], 2),
        Claim("r of average alignment and log10 size, all 25", 0.92, r["all", LOG_SIZE], 2),
        Claim(
            "r of average alignment and next-word loss, 17 tuned", -0.54, r["tuned", "nwp_loss"], 2,
            "the tabled losses rise with alignment: the sign is not that of a loss, or the losses are not those used",
        ),
    ]  # fmt: skip
