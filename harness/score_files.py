"""Anyone's table of scores -> Scores: CSV, TSV, JSON or Parquet, one row per model, or one per model and data set."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import datasets
from harness.scores import AVERAGE, SIZE, Scores, of_frames

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = ("_r", "_score")  # of columns that are scores, in a table of one row per model
_ALIASES = {"name": "model", "tuned_from": "base", "parameters": SIZE, "n_parameters_nominal": SIZE, "params": SIZE}
_MAIN = ("is_main", "in_paper_25")  # columns that say whether a model counts in the tests
_NEVER = {"model", "family", "base", "is_tuned", "pair_source", *_MAIN}
_LONG = {"dataset", "protocol", "target", "metric", "subject", "score", "r", "kind"}
BEHAVIOUR = ("futrell", "reading", "natural_stories", "naturalstories")  # beginnings of names of reading times


def read(path: str, columns: Sequence[str] = (), where: Sequence[str] = ()) -> Scores:
    """Read a file of scores.

    Args:
        path: file or URL; .csv, .tsv (also gzipped), .json (records) or .parquet. Columns: `model`; `base` or
            `tuned_from` (empty, or the model itself, for a base model), `family`, `n_parameters`, `is_tuned` and
            `is_main` (or `in_paper_25`: models with 0 are shown beside, never tested) where known. Either one row per
            model with one column per data set, `DATASET_r` or `DATASET_score` (or its bare name, of our table); or one
            row per model and data set, `dataset` and `score` (or `r`), with `protocol`, `metric`, `target` and
            `subject` where there are several. Every other numeric column that is the same in all rows of a model is a
            property of models.
        columns: the score columns of a table of one row per model, where their names do not end so.
        where: "COLUMN=VALUE", rows to keep; repeatable.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, a model stands twice, or a cell is no number; what and where.
    """
    frame = _filtered(_columns(_load(path)), where).reset_index(drop=True)
    if "model" not in frame:
        raise ValueError(f"{path}: no column `model`; it has {', '.join(map(str, frame.columns))}.")
    if frame.empty:
        raise ValueError(f"{path}: no rows{' where ' + ' and '.join(where) if where else ''}.")
    frame["model"] = frame["model"].astype(str).str.strip()
    is_long = "dataset" in frame and bool({"score", "r"} & set(frame.columns)) and not columns
    rows, people, used = _long(path, frame) if is_long else _wide(path, frame, columns)
    models, notes = _models(path, frame, used)
    brain = {name for name in rows["dataset"] if not name.lower().startswith(BEHAVIOUR)}
    rows.loc[~rows["dataset"].isin(brain), "target"] = "reading"
    return of_frames(path, rows, models, people, brain, notes)


def _load(path: str) -> pd.DataFrame:
    import fsspec
    import pandas as pd

    filesystem, where = fsspec.core.url_to_fs(path)
    if not filesystem.isfile(where):
        raise FileNotFoundError(f"{path} is neither a file of scores nor a folder with `tables` in it.")
    name = where.lower().removesuffix(".gz")
    with filesystem.open(where, "rb", compression="infer") as stream:
        if name.endswith(".parquet"):
            return pd.read_parquet(stream)
        if name.endswith(".json"):
            return pd.read_json(stream)
        if name.endswith((".csv", ".tsv", ".txt")):
            sep = "," if name.endswith(".csv") else "\t"
            return pd.read_csv(stream, sep=sep, encoding="utf-8-sig", dtype={"model": str, "subject": str})
    raise ValueError(f"{path}: wanted .csv, .tsv, .json or .parquet.")


def _columns(frame: pd.DataFrame) -> pd.DataFrame:
    known = _NEVER | _LONG | {SIZE} | set(_ALIASES)
    frame = frame.rename(columns={name: low for name in frame if (low := str(name).strip().lower()) in known})
    return frame.rename(columns={old: new for old, new in _ALIASES.items() if old in frame and new not in frame})


def _filtered(frame: pd.DataFrame, where: Sequence[str]) -> pd.DataFrame:
    for each in where:
        name, equals, value = each.partition("=")
        if not equals:
            raise ValueError(f"--where {each}: wanted COLUMN=VALUE.")
        if name not in frame:
            near = difflib.get_close_matches(name, map(str, frame.columns), n=3, cutoff=0.4) or list(frame.columns)
            raise ValueError(f"--where {each}: there is no column {name}; the nearest are {', '.join(near)}.")
        column = frame[name]
        if column.dtype.kind in "fiu":
            frame = frame[column == _number(value, f"--where {each}")]
        else:
            frame = frame[column.astype(str).str.lower() == value.lower()]
    return frame.copy()


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what}: wanted a number.") from None


def _wide(path: str, frame: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, None, set[str]]:
    """One row per model."""
    absent = [name for name in columns if name not in frame]
    named = {AVERAGE, *datasets.DATASETS, *(name.partition("-")[0] for name in datasets.DATASETS)}
    chosen = list(columns) or [name for name in frame if name.endswith(SUFFIXES) or name in named]
    if absent or not chosen:
        what = f"no column {absent[0]}" if absent else f"no column ends in {' or '.join(SUFFIXES)} or names a data set"
        raise ValueError(f"{path}: {what}; name the columns of scores (--score) among {', '.join(frame.columns)}.")
    twice = frame.loc[frame["model"].duplicated(), "model"]
    if len(twice):
        raise ValueError(f"{path}: {twice.iloc[0]} stands twice; wanted one row per model (or --where COLUMN=VALUE).")
    rows = frame[["model", *chosen]].melt("model", var_name="column", value_name="score")
    rows["score"] = _numeric(path, rows["score"], rows["model"], rows["column"])
    bare = {name: next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name) for name in chosen}
    metrics = {name: "pearson_r" if name.endswith("_r") else "score" for name in chosen}
    rows = rows.assign(
        dataset=rows["column"].map(bare), metric=rows["column"].map(metrics), target="all",
        protocol=_texts(frame, "protocol", "").set_axis(frame["model"]).reindex(rows["model"]).to_numpy(),
    )  # fmt: skip
    return rows[["model", "dataset", "protocol", "target", "metric", "score"]], None, set(chosen)


def _long(path: str, frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None, set[str]]:
    """One row per model and data set, or per model, data set and person; then the score is the mean over people."""
    value = "score" if "score" in frame else "r"
    if "kind" in frame:
        frame.drop(frame.index[frame["kind"] != "model"], inplace=True)
    frame = frame.assign(
        score=_numeric(path, frame[value], frame["model"], frame["dataset"]),
        protocol=_texts(frame, "protocol", ""), target=_texts(frame, "target", "all"),
        metric=_texts(frame, "metric", "pearson_r" if value == "r" else "score"),
    )  # fmt: skip
    keys = ["model", "dataset", "protocol", "target", "metric"]
    if "subject" not in frame:
        return frame[[*keys, "score"]].reset_index(drop=True), None, {value}
    people = frame.groupby([*keys, "subject"], as_index=False)["score"].mean()
    means = people.groupby(keys, as_index=False, sort=False)["score"].mean()
    whole = people[people["target"] == "all"]
    return means, whole[["model", "dataset", "protocol", "subject", "score"]], {value, "subject"}


def _texts(frame: pd.DataFrame, name: str, otherwise: str) -> pd.Series:
    import pandas as pd

    if name not in frame:
        return pd.Series(otherwise, index=frame.index)
    return frame[name].fillna(otherwise).astype(str).str.strip()


def _numeric(path: str, values: pd.Series, models: pd.Series, columns: pd.Series) -> pd.Series:
    """The scores as numbers; empty cells are NaN."""
    import pandas as pd

    found = pd.to_numeric(values, errors="coerce").astype(float)
    odd = (found.isna() & values.notna() & (values.astype(str).str.strip() != "")) | np.isinf(found)
    if odd.any():
        at = odd.idxmax()
        raise ValueError(f"{path}: {columns[at]} of {models[at]} is {values[at]!r}; wanted a number, or nothing.")
    return found


def _models(path: str, frame: pd.DataFrame, used: set[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """What the file says of each model; and what was left out."""
    of_models = frame.groupby("model", sort=False)
    numeric = [
        name for name in frame.columns
        if name not in _NEVER | _LONG | used and frame[name].dtype.kind in "fiu" and not frame[name].isna().all()
    ]  # fmt: skip
    varying = [name for name in numeric if (of_models[name].nunique() > 1).any()]
    models = of_models[[name for name in numeric if name not in varying]].first().astype(float)
    for place, name in enumerate(("family", "base", "pair_source")):
        texts = _texts(frame, name, "")
        said = texts[texts != ""].groupby(frame["model"]).unique()
        for model, values in said.items():
            if len(values) > 1:
                raise ValueError(f"{path}: {name} of {model} is {values[0]!r} and {values[1]!r}; wanted one.")
        models.insert(place, name, said.str[0].reindex(models.index).fillna(""))
    flag = next((name for name in _MAIN if name in frame), None)
    models.insert(3, "is_main", of_models[flag].first().map(_is_true) if flag else True)
    models["base"] = _bases(path, of_models, models)
    if SIZE in models and (models[SIZE] <= 0).any():
        raise ValueError(f"{path}: {SIZE} of {(models[SIZE] <= 0).idxmax()} is not above 0.")
    return models, tuple(_notes(models, varying, flag))


def _bases(path: str, of_models: Any, models: pd.DataFrame) -> pd.Series:
    """The base of each tuned model; "" for base models, which may name themselves."""
    own = models["base"].where(models["base"] != models.index.to_series(), "")
    if "is_tuned" not in of_models.obj:
        return own
    tuned = of_models["is_tuned"].first().map(_is_true)
    selfmade = tuned & (own == "") & (models["base"] != "")
    if selfmade.any():
        raise ValueError(f"{path}: {selfmade.idxmax()} is tuned and names itself as its base.")
    nobody = "unknown base of " + models.index.to_series()  # tuned all the same: it counts among the tuned
    return own.where(own != "", nobody).where(tuned, "")


def _is_true(value: Any) -> bool:
    return str(value).strip().lower() in {"1", "1.0", "true", "yes", "y"}


def _notes(models: pd.DataFrame, varying: list[str], flag: str | None) -> list[str]:
    notes = []
    if flag and not models["is_main"].all():
        beside = ", ".join(models.index[~models["is_main"]])
        notes.append(f"{flag} is 0 for {beside}: shown beside the others, in no test.")
    without = [
        f"{name} (of {base})" if not base.startswith("unknown base") else name
        for name, base in models["base"].items()
        if base and base not in models.index
    ]
    if without:
        notes.append(f"the base is not among the models: {', '.join(without)}.")
    if not (models["base"] != "").any():
        notes.append("no model names its base (column `base` or `tuned_from`): no comparison with base models.")
    if varying:
        notes.append(f"no properties of models, since they differ within one: {', '.join(varying)}.")
    return notes
