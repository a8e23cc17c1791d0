"""Scores of models, with what is known of the models: what every statistic is computed from.

They come from our own tables (`of_tables`, `of_frames`) or from anyone's file (`score_files.read`). A statistic never
asks where they came from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from harness.records import require_unique
from harness.storage import tables

if TYPE_CHECKING:
    import pandas as pd

OVERALL = ("all", "reading")  # targets that stand for a whole data set
AVERAGE = "average"  # the "data set" that is the mean of a model's raw scores over the brain data sets
SIZE = "n_parameters"
MOST_NEUROIDS = 5_000_000  # over all models; beyond it single people's are not read: intervals are over bases alone

_KEYS = ["model", "dataset", "protocol", "target", "metric"]


@dataclass(frozen=True)
class Scores:
    """Scores in long form, and the models.

    Attributes:
        source: where they were read.
        rows: model, dataset, protocol, target ("all" and "reading" are whole data sets, any other word a region),
            metric, score; one row for each model, data set, protocol, target and metric. No controls and no untrained
            twins.
        models: index model; family ("" unknown), base ("" for a base model), pair_source, is_main (whether it counts in
            the tests, or is only shown beside), then one numeric column for each property.
        properties: the names of those columns; `n_parameters` enters statistics as its log10.
        people: model, dataset, protocol, subject, score: of single people, where known; the metric is that of "all".
        notes: what was left out, or assumed, in words.
    """

    source: str
    rows: pd.DataFrame
    models: pd.DataFrame
    properties: tuple[str, ...]
    people: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def overall(self) -> pd.DataFrame:
        """The rows of whole data sets that were measured, with family, base and is_main of the model."""
        rows = self.rows[self.rows["target"].isin(OVERALL) & self.rows["score"].notna()]
        known = self.models.to_dict("index")
        of_models = {name: [known[model][name] for model in rows["model"]] for name in ("family", "base", "is_main")}
        return rows.assign(**of_models)

    def groups(self) -> list[tuple[dict[str, str], pd.DataFrame]]:
        """The measured rows of each data set, protocol and metric."""
        names = ["dataset", "protocol", "metric"]
        return [(dict(zip(names, key, strict=True)), rows) for key, rows in self.overall.groupby(names, sort=False)]


def of_frames(
    source: str,
    rows: pd.DataFrame,
    models: pd.DataFrame,
    people: pd.DataFrame | None = None,
    brain: set[str] | None = None,
    notes: tuple[str, ...] = (),
) -> Scores:
    """Scores from frames of the columns above; the average over the brain data sets is added where it is not there.

    Args:
        source: where they were read.
        rows: as in `Scores`.
        models: as in `Scores`; columns after is_main are properties.
        people: as in `Scores`; None where not known.
        brain: the data sets that are recordings of brains; None means all.
        notes: in words.

    Raises:
        ValueError: if a score stands twice.
    """
    import pandas as pd

    require_unique([" ".join(map(str, key)) for key in rows[_KEYS].to_numpy()], f"scores ({', '.join(_KEYS)})")
    properties = tuple(name for name in models if name not in {"family", "base", "pair_source", "is_main"})
    if people is None:
        people = pd.DataFrame(columns=["model", "dataset", "protocol", "subject", "score"])
    averaged = _average(rows, brain)
    return Scores(source, pd.concat([rows, averaged], ignore_index=True), models, properties, people, notes)


def _average(rows: pd.DataFrame, brain: set[str] | None) -> pd.DataFrame:
    """Mean raw score over the brain data sets, of the models that were scored on all of them under a protocol."""
    of_brain = rows[(rows["target"] == "all") & (rows["dataset"].isin(brain) if brain is not None else True)]
    if AVERAGE in set(rows["dataset"]):
        return rows.iloc[:0]
    parts = []
    for (protocol, metric), part in of_brain.groupby(["protocol", "metric"], sort=False):
        wide = part.pivot_table(index="model", columns="dataset", values="score", dropna=False)
        if wide.shape[1] > 1:
            mean = wide.mean(axis=1, skipna=False).dropna().rename("score").reset_index()
            parts.append(mean.assign(dataset=AVERAGE, protocol=protocol, target="all", metric=metric)[rows.columns])
    import pandas as pd

    return pd.concat(parts) if parts else rows.iloc[:0]


def of_tables(out: str, run: str | None = None) -> Scores:
    """The scores of a run, and what is known of its models by then, imported benchmarks among it.

    Args:
        out: folder or URL that holds `tables`.
        run: a run id; None is the run that started last.

    Raises:
        FileNotFoundError: if there are no tables.
        ValueError: if the run is unknown; names the nearest.
    """
    about = tables.pick_run(out, run)["run"]
    brain, read, known = (
        tables.read(out, name, about) for name in ("model_scores", "reading_scores", "model_properties")
    )
    found = of_run(f"{out} (run {about})", brain, read, known, tables.read(out, "benchmark_scores"))
    return replace(found, people=people_of(out, about, brain))


def of_run(
    source: str, brain: pd.DataFrame, read: pd.DataFrame, known: pd.DataFrame, benchmarks: pd.DataFrame | None = None
) -> Scores:
    """The scores of a run, of its tables model_scores, reading_scores and model_properties, and benchmark_scores."""
    rows = _rows(brain, read)
    models = _models(known)
    for name, values in _benchmarks(benchmarks).items():
        models[name] = values.reindex(models.index)
    models = models.dropna(axis="columns", how="all").reindex(sorted(set(rows["model"]) | set(models.index)))
    for name in ("family", "base", "pair_source"):
        models[name] = models[name].fillna("") if name in models else ""
    models["is_main"] = True
    first = ["family", "base", "pair_source", "is_main"]
    models = models[[*first, *(name for name in models if name not in first)]]
    return of_frames(source, rows, models, brain=set(brain["dataset"]))


def _rows(brain: pd.DataFrame, read: pd.DataFrame) -> pd.DataFrame:
    """Brain scores; r of reading times, and, where STRICT measured it, the gain in log-likelihood."""
    import pandas as pd

    def of(frame: pd.DataFrame, value: str, **columns: str) -> pd.DataFrame:
        part = frame[frame["kind"] == "model"].assign(**columns).rename(columns={value: "score"})
        return part[[*_KEYS, "score"]]

    gains = read[read["delta_ll"].notna()] if "delta_ll" in read else read.iloc[:0]
    parts = [of(brain, "r"), of(read, "r", target="reading")]
    if len(gains):
        parts.append(of(gains, "delta_ll", target="reading", metric="delta_ll"))
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _models(known: pd.DataFrame) -> pd.DataFrame:
    names = {"tuned_from": "base", "next_word_loss": "next-word loss"}
    models = known[known["kind"] == "model"].rename(columns=names).set_index("model")
    return models.reindex(columns=["family", "base", "pair_source", SIZE, "next-word loss"]).astype(
        {SIZE: float, "next-word loss": float}
    )


def _benchmarks(rows: pd.DataFrame | None) -> dict[str, pd.Series]:
    """Property -> value by model: "mmlu", "mmlu STEM"; of several values for one the newest."""
    if rows is None or rows.empty:
        return {}
    rows = rows[rows["task"] == ""].sort_values("created")
    names = (rows["benchmark"] + " " + rows["category"]).str.strip()
    newest = rows.assign(name=names).drop_duplicates(["model", "name"], keep="last")
    return {name: part.set_index("model")["value"] for name, part in newest.groupby("name")}


def people_of(out: str, run: str, brain: pd.DataFrame) -> pd.DataFrame:
    """Median over each person's neuroids at the layer that the model's score is of; empty where there are too many."""
    import pandas as pd

    columns = ["model", "dataset", "protocol", "subject", "score"]
    chosen = brain[(brain["target"] == "all") & (brain["kind"] == "model")]
    if chosen["n_neuroids"].sum() > MOST_NEUROIDS:
        return pd.DataFrame(columns=columns)
    keys = ["model", "dataset", "protocol", "stack", "layer"]
    rows = tables.read(
        out, "neuroid_scores", run, [*keys, "subject", "roi", "r"], set(chosen["model"]), _layers_of(chosen)
    )
    at = rows[(rows["subject"] != "") & (rows["subject"] != "group") & ~rows["roi"].str.startswith("group ")]
    found = at.groupby([*keys[:3], "subject"], as_index=False)["r"].median().rename(columns={"r": "score"})
    several = found.groupby(["dataset", "protocol"])["subject"].transform("nunique") > 1
    return found.loc[several, columns].reset_index(drop=True)


def _layers_of(chosen: pd.DataFrame) -> Callable[[dict[str, str]], Any]:
    """Of each file of neuroids only the rows of the layer that was chosen, before they are rows of pandas."""
    import pyarrow.compute as pc

    wanted = dict(iter(chosen.groupby(["dataset", "model"])))

    def kept(partition: dict[str, str]) -> Any:
        part = wanted.get((partition["dataset"], partition["model"]))
        clauses = [
            (pc.field("protocol") == row.protocol) & (pc.field("stack") == row.stack) & (pc.field("layer") == row.layer)
            for row in ([] if part is None else part.itertuples())
        ]
        return reduce(or_, clauses) if clauses else pc.scalar(False)

    return kept
