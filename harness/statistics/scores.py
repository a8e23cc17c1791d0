"""Scores of models and facts about the models: the input of all statistics.

They come from a run's tables (`of_tables`, `of_frames`) or from a user's file (`score_files.read`). The statistics
treat both alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from harness.models import model_table
from harness.records import require_unique
from harness.storage import tables

if TYPE_CHECKING:
    import pandas as pd

OVERALL = ("all", "reading")  # targets that cover a whole data set
AVERAGE = "average"  # pseudo data set: mean of a model's raw scores over the brain data sets
SIZE = "n_parameters"
MOST_NEUROIDS = 5_000_000  # over all models; above it, subjects' scores are not read: intervals are over bases only

_TEXTS = ["family", "base", "trained_from", "stage", "arm", "pair_source"]
_TUNING = ["tuning_seed", "tuning_step", "tuning_tokens"]
_ABOUT_MODEL = [*_TEXTS, "is_main", *_TUNING]
_KEYS = ["model", "dataset", "protocol", "target", "metric"]


@dataclass(frozen=True)
class Scores:
    """Scores in long form, and a table of the models.

    Attributes:
        source: folder, URL or file they come from.
        rows: model, dataset, protocol, target ("all" and "reading" cover whole data sets, any other value is a region),
            metric, score, low; one row per model, data set, protocol, target and metric, without controls. `low` is the
            lower end of the score's interval: NaN if it is unknown, -inf if there is none.
        models: index model; family ("" if unknown), base ("" for a base model), trained_from (checkpoint from which
            the training started, if that is another one) and stage ("SFT") where known, arm, pair_source, is_main
            (False: shown in the tables but left out of the tests), tuning_seed, tuning_step and tuning_tokens of a
            checkpoint of `harness tune`, then one numeric column per property.
        properties: names of those columns; statistics use log10 of `n_parameters`.
        by_subject: model, dataset, protocol, subject, score: scores of single subjects for target "all", where known.
        fold_scores: the table of that name, for paired tests; None for a user's file.
        notes: what was left out or assumed, as sentences.
    """

    source: str
    rows: pd.DataFrame
    models: pd.DataFrame
    properties: tuple[str, ...]
    by_subject: pd.DataFrame
    notes: tuple[str, ...] = ()
    fold_scores: pd.DataFrame | None = None

    @property
    def overall(self) -> pd.DataFrame:
        """Rows of whole data sets with a finite score, with family, base, arm and is_main of the model."""
        rows = self.rows[self.rows["target"].isin(OVERALL) & self.rows["score"].notna()]
        models = self.models.to_dict("index")
        columns = {
            name: [models[model][name] for model in rows["model"]] for name in ("family", "base", "arm", "is_main")
        }
        return rows.assign(**columns)

    def groups(self) -> list[tuple[dict[str, str], pd.DataFrame]]:
        """The rows of `overall`, grouped by data set, protocol and metric."""
        return grouped(self.overall, ["dataset", "protocol", "metric"])


def root_of(model: str, bases: dict[str, str]) -> str:
    """The untuned model at the start of a chain of tuning stages; the model itself if it has no base.

    Args:
        model: name of a model.
        bases: tuned model -> its base, or the previous stage of its tuning.
    """
    chain = [model]
    while (base := bases.get(chain[-1], "")) and base not in chain:
        chain.append(base)
    return chain[-1]


def grouped(rows: pd.DataFrame, names: list[str]) -> list[tuple[dict[str, str], pd.DataFrame]]:
    """Rows grouped by several columns, in order of appearance; a group comes with its values of the columns."""
    return [(dict(zip(names, key, strict=True)), group) for key, group in rows.groupby(names, sort=False)]


def of_frames(
    source: str, rows: pd.DataFrame, models: pd.DataFrame, by_subject: pd.DataFrame | None = None,
    brain: set[str] | None = None, notes: tuple[str, ...] = (),
) -> Scores:  # fmt: skip
    """Make scores from frames, and add the average over the brain data sets if it is missing.

    Args:
        source: as in `Scores`.
        rows: as in `Scores`.
        models: as in `Scores`; columns after is_main are properties.
        by_subject: as in `Scores`; None if unknown.
        brain: names of the data sets that are brain recordings; None means all.
        notes: as in `Scores`.

    Raises:
        ValueError: if a score is given twice.
    """
    import pandas as pd

    require_unique([" ".join(map(str, key)) for key in rows[_KEYS].to_numpy()], f"scores ({', '.join(_KEYS)})")
    models = _with_table_facts(models)
    properties = tuple(name for name in models if name not in _ABOUT_MODEL)
    if by_subject is None:
        by_subject = pd.DataFrame(columns=["model", "dataset", "protocol", "subject", "score"])
    rows = rows if "low" in rows else rows.assign(low=math.nan)
    averaged = _average(rows, brain)
    return Scores(source, pd.concat([rows, averaged], ignore_index=True), models, properties, by_subject, notes)


def _with_table_facts(models: pd.DataFrame) -> pd.DataFrame:
    """The models with all columns `_ABOUT_MODEL`; trained_from and stage come from the table of models if missing."""
    entries = {model: entry for model in models.index if (entry := model_table.entry_of(str(model)))}
    names = {entry.name: model for model, entry in entries.items()}  # a model may be given by its Hub id
    starts = {model: names.get(entry.trained_from, entry.trained_from) for model, entry in entries.items()}
    facts = {"trained_from": starts, "stage": {model: entry.stage for model, entry in entries.items()}, "arm": {}}
    models = models.assign(**{name: math.nan for name in _TUNING if name not in models})
    for name, of_table in facts.items():
        given = models[name].fillna("").to_dict() if name in models else {}
        models[name] = [given.get(model) or of_table.get(model, "") for model in models.index]
    return models[[*_ABOUT_MODEL, *(name for name in models if name not in _ABOUT_MODEL)]]


def _average(rows: pd.DataFrame, brain: set[str] | None) -> pd.DataFrame:
    """Mean raw score over the brain data sets, for models scored on all of them under a protocol."""
    import pandas as pd

    brain_rows = rows[(rows["target"] == "all") & (rows["dataset"].isin(brain) if brain is not None else True)]
    if AVERAGE in set(rows["dataset"]):
        return rows.iloc[:0]
    averages = []
    for (protocol, metric), group in brain_rows.groupby(["protocol", "metric"], sort=False):
        score, low = (
            group.pivot(index="model", columns="dataset", values=name).mean(axis=1, skipna=False)
            for name in ("score", "low")
        )
        if group["dataset"].nunique() > 1:
            mean = score.dropna().rename("score").reset_index()
            mean = mean.assign(low=low.reindex(mean["model"]).to_numpy())
            averages.append(mean.assign(dataset=AVERAGE, protocol=protocol, target="all", metric=metric)[rows.columns])
    return pd.concat(averages) if averages else rows.iloc[:0]


def of_tables(out: str, run: str | None = None) -> Scores:
    """Read the scores of a run and the properties of its models, including imported benchmarks.

    Args:
        out: folder or URL that contains `tables`.
        run: a run id; None takes the run that started last.

    Raises:
        FileNotFoundError: if there are no tables.
        ValueError: if the run is unknown; the message lists the nearest ids.
    """
    run_id = tables.pick_run(out, run)["run"]
    brain, reading, properties = (
        tables.read(out, name, run_id) for name in ("model_scores", "reading_scores", "model_properties")
    )
    scores = of_run(f"{out} (run {run_id})", brain, reading, properties, tables.read(out, "benchmark_scores"))
    folds = tables.read(out, "fold_scores", run_id)
    return replace(scores, by_subject=subject_scores(out, run_id, brain), fold_scores=folds)


def of_run(
    source: str, brain: pd.DataFrame, reading: pd.DataFrame, properties: pd.DataFrame,
    benchmarks: pd.DataFrame | None = None,
) -> Scores:  # fmt: skip
    """Make scores from the tables of a run.

    Args:
        source: as in `Scores`.
        brain: table model_scores.
        reading: table reading_scores.
        properties: table model_properties.
        benchmarks: table benchmark_scores, if there is one.
    """
    rows = _rows(brain, reading)
    models = _models(properties)
    for name, values in _benchmarks(benchmarks).items():
        models[name] = values.reindex(models.index)
    models = models.dropna(axis="columns", how="all").reindex(sorted(set(rows["model"]) | set(models.index)))
    for name in _TEXTS:
        models[name] = models[name].fillna("") if name in models else ""
    models["is_main"] = True
    return of_frames(source, rows, models, brain=set(brain["dataset"]))


def of_similarities(of_run: Scores, similarity_scores: pd.DataFrame) -> Scores:
    """The scores of a run with RSA and CKA (metrics "rsa" and "cka") in place of its own rows, to pair models by.

    Args:
        of_run: as `of_run` returns.
        similarity_scores: table similarity_scores.
    """
    rows = similarity_scores[(similarity_scores["kind"] == "model") & (similarity_scores["subject"] == "")]
    rows = rows.assign(score=rows["value"], low=rows["value_low"].fillna(-math.inf))
    return replace(of_run, rows=rows[[*_KEYS, "score", "low"]])


def _rows(brain: pd.DataFrame, reading: pd.DataFrame) -> pd.DataFrame:
    """Brain scores, r of reading times and, where STRICT measured it, the gain in log-likelihood."""
    import pandas as pd

    def long_form(frame: pd.DataFrame, value: str, **columns: str) -> pd.DataFrame:
        rows = frame[frame["kind"] == "model"].assign(**columns).rename(columns={value: "score"})
        low = rows[f"{value}_low"].fillna(-math.inf) if f"{value}_low" in rows else math.nan
        return rows.assign(low=low)[[*_KEYS, "score", "low"]]

    gains = reading[reading["delta_ll"].notna()] if "delta_ll" in reading else reading.iloc[:0]
    frames = [long_form(brain, "r"), long_form(reading, "r", target="reading")]
    frames += [long_form(gains, "delta_ll", target="reading", metric="delta_ll")] if len(gains) else []
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _models(properties: pd.DataFrame) -> pd.DataFrame:
    names = {"tuned_from": "base", "next_word_loss": "next-word loss"}
    models = properties[properties["kind"] == "model"].rename(columns=names).set_index("model")
    models = models.reindex(columns=[*_TEXTS, *_TUNING, SIZE, "next-word loss"])
    return models.astype({**dict.fromkeys(_TUNING, float), SIZE: float, "next-word loss": float})


def _benchmarks(rows: pd.DataFrame | None) -> dict[str, pd.Series]:
    """Property ("mmlu", "mmlu STEM") -> newest value by model."""
    if rows is None or rows.empty:
        return {}
    rows = rows[rows["task"] == ""].sort_values("created")
    names = (rows["benchmark"] + " " + rows["category"]).str.strip()
    newest = rows.assign(name=names).drop_duplicates(["model", "name"], keep="last")
    return {name: values.set_index("model")["value"] for name, values in newest.groupby("name")}


def subject_scores(out: str, run: str, brain: pd.DataFrame) -> pd.DataFrame:
    """Scores of single subjects: median over a subject's neuroids at the layer chosen for the model.

    Args:
        out: folder or URL that contains `tables`.
        run: a run id.
        brain: table model_scores of the run.

    Returns:
        As `Scores.by_subject`, for recordings with several subjects; empty if there are more than `MOST_NEUROIDS` rows.
    """
    import pandas as pd

    columns = ["model", "dataset", "protocol", "subject", "score"]
    chosen = brain[(brain["target"] == "all") & (brain["kind"] == "model")]
    if chosen["n_neuroids"].sum() > MOST_NEUROIDS:
        return pd.DataFrame(columns=columns)
    keys = ["model", "dataset", "protocol", "stack", "layer"]
    columns_read, models = [*keys, "subject", "roi", "r"], set(chosen["model"])
    rows = tables.read(out, "neuroid_scores", run, columns_read, models, _layers_of(chosen))
    rows = rows[(rows["subject"] != "") & (rows["subject"] != "group") & ~rows["roi"].str.startswith("group ")]
    medians = rows.groupby([*keys[:3], "subject"], as_index=False)["r"].median().rename(columns={"r": "score"})
    several = medians.groupby(["dataset", "protocol"])["subject"].transform("nunique") > 1
    return medians.loc[several, columns].reset_index(drop=True)


def _layers_of(chosen: pd.DataFrame) -> Callable[[dict[str, str]], Any]:
    """Row filter for each Parquet file of neuroid_scores: only the chosen layer is loaded into memory."""
    import pyarrow.compute as pc

    by_partition = dict(iter(chosen.groupby(["dataset", "model"])))

    def row_filter(partition: dict[str, str]) -> Any:
        rows = by_partition.get((partition["dataset"], partition["model"]))
        clauses = [
            (pc.field("protocol") == row.protocol) & (pc.field("stack") == row.stack) & (pc.field("layer") == row.layer)
            for row in ([] if rows is None else rows.itertuples())
        ]
        return reduce(or_, clauses) if clauses else pc.scalar(False)

    return row_filter
