"""Anyone's table of scores -> Scores: CSV, TSV, JSON or Parquet, one row per model, or one per model and data set."""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness import datasets
from harness.delimited.identifiers import difference_of
from harness.delimited.numerals import MISSING
from harness.delimited.table import DelimitedTable
from harness.statistics import score_cells
from harness.statistics.scores import AVERAGE, SIZE, Scores, of_frames

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = ("_r", "_score")  # of columns that are scores, in a table of one row per model
_ALIASES = {"name": "model", "tuned_from": "base", "parameters": SIZE, "n_parameters_nominal": SIZE, "params": SIZE}
_MAIN = ("is_main", "in_paper_25")  # columns that say whether a model counts in the tests
_NEVER = {"model", "family", "base", "is_tuned", "pair_source", *_MAIN}
_LONG = {"dataset", "protocol", "target", "metric", "subject", "score", "r", "kind"}
# Text, whatever it looks like: a model called 7 or NA is a name.
_TEXTS = {*_NEVER, *_LONG} - {"score", "r"}
BEHAVIOUR = ("futrell", "reading", "natural_stories", "naturalstories")  # beginnings of names of reading times


def read(
    path: str, columns: Sequence[str] = (), where: Sequence[str] = (), encoding: str | None = None
) -> Scores:  # fmt: skip
    """Read a file of scores.

    Args:
        path: file or URL; .csv, .tsv (also compressed), .json (records) or .parquet. Columns: `model`; `base` or
            `tuned_from` (empty, or the model itself, for a base model), `family`, `n_parameters` (also as 7B or 350M),
            `is_tuned` and `is_main` (or `in_paper_25`: models with 0 are shown beside, never tested) where known.
            Either one row per model with one column per data set, `DATASET_r` or `DATASET_score` (or its bare name, of
            our table); or one row per model and data set, `dataset` and `score` (or `r`), with `protocol`, `metric`,
            `target` and `subject` where there are several. Every other numeric column that is the same in all rows of a
            model is a property of models.
        columns: the score columns of a table of one row per model, where their names do not end so.
        where: "COLUMN=VALUE", rows to keep; repeatable.
        encoding: of a text file that is not UTF-8 and does not state its own.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, a model stands twice, or a cell is no number; what and where.
    """
    content = _columns(score_cells.load(path, ("model", *_ALIASES), encoding))
    if "model" not in content.frame:
        raise ValueError(f"{path}: no column `model`; it has {', '.join(map(str, content.frame.columns))}.")
    names = [str(name) for name in content.frame]
    is_long = "dataset" in names and bool({"score", "r"} & set(names)) and not columns
    scores = {"score", "r"} & set(names) if is_long else set(_score_columns(path, names, columns))
    cells = score_cells.typed(content, _TEXTS, scores, SIZE)
    _require_names(content, ("model", "dataset", "subject") if is_long else ("model",))
    notes_of_names = _compose_names(cells.frame)
    frame = _filtered(cells.frame, where).reset_index(drop=True)
    if frame.empty:
        raise ValueError(f"{path}: no rows{' where ' + ' and '.join(where) if where else ''}.")
    rows, people, used = _long(frame) if is_long else _wide(path, frame, columns)
    models, notes = _models(path, frame, used)
    brain = {name for name in rows["dataset"] if not name.lower().startswith(BEHAVIOUR)}
    rows.loc[~rows["dataset"].isin(brain), "target"] = "reading"
    return of_frames(path, rows, models, people, brain, (*cells.notes, *notes_of_names, *notes))


def _columns(content: DelimitedTable) -> DelimitedTable:
    """Our names of the columns, whatever their case and alias."""
    known = _NEVER | _LONG | {SIZE} | set(_ALIASES)
    frame = content.frame
    frame = frame.rename(columns={name: low for name in frame if (low := str(name).strip().lower()) in known})
    frame = frame.rename(columns={old: new for old, new in _ALIASES.items() if old in frame and new not in frame})
    if doubled := [name for name, n in Counter(map(str, frame.columns)).items() if n > 1]:
        raise ValueError(f"{content.file}: column {doubled[0]!r} stands more than once; leave one out.")
    return replace(content, frame=frame)


def _compose_names(frame: pd.DataFrame) -> list[str]:
    """Write names of models in Unicode's composed form; a note where one stood in both."""
    notes = []
    for name in ("model", "base"):
        if name in frame:
            composed = frame[name].map(lambda text: unicodedata.normalize("NFC", text))
            both = sorted(set(composed[frame[name] != composed]) & set(frame[name]))
            notes += [f"{name} {both[0]!r} is written in two Unicode forms, which are taken for one."] if both else []
            frame[name] = composed
    return notes


def _require_names(content: DelimitedTable, names: Sequence[str]) -> None:
    for name in names:
        texts = [text.strip() for text in content.texts(name)] if name in content.frame else []
        if "" in texts:
            raise ValueError(f"{content.where(texts.index(''), name)} is empty; give every row its {name}.")


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


def _score_columns(path: str, names: list[str], columns: Sequence[str]) -> list[str]:
    """The columns of scores in a table of one row per model; ValueError where there is none, or one is not there."""
    absent = [name for name in columns if name not in names]
    named = {AVERAGE, *datasets.DATASETS, *(name.partition("-")[0] for name in datasets.DATASETS)}
    chosen = list(columns) or [name for name in names if name.endswith(SUFFIXES) or name in named]
    if absent or not chosen:
        what = f"no column {absent[0]}" if absent else f"no column ends in {' or '.join(SUFFIXES)} or names a data set"
        raise ValueError(f"{path}: {what}; name the columns of scores (--score) among {', '.join(names)}.")
    return chosen


def _wide(path: str, frame: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, None, set[str]]:
    """One row per model."""
    chosen = _score_columns(path, list(frame.columns), columns)
    twice = frame.loc[frame["model"].duplicated(), "model"]
    if len(twice):
        raise ValueError(f"{path}: {twice.iloc[0]} stands twice; wanted one row per model (or --where COLUMN=VALUE).")
    rows = frame[["model", *chosen]].melt("model", var_name="column", value_name="score")
    bare = {name: next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name) for name in chosen}
    metrics = {name: "pearson_r" if name.endswith("_r") else "score" for name in chosen}
    rows = rows.assign(
        dataset=rows["column"].map(bare), metric=rows["column"].map(metrics), target="all",
        protocol=_texts(frame, "protocol", "").set_axis(frame["model"]).reindex(rows["model"]).to_numpy(),
    )  # fmt: skip
    return rows[["model", "dataset", "protocol", "target", "metric", "score"]], None, set(chosen)


def _long(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None, set[str]]:
    """One row per model and data set, or per model, data set and person; then the score is the mean over people."""
    value = "score" if "score" in frame else "r"
    if "kind" in frame:
        frame.drop(frame.index[frame["kind"] != "model"], inplace=True)
    frame = frame.assign(
        score=frame[value],
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
    """A column of text, with `otherwise` where it is empty or holds a code for a missing value."""
    import pandas as pd

    if name not in frame:
        return pd.Series(otherwise, index=frame.index, dtype=object)
    return frame[name].where(~frame[name].str.lower().isin(MISSING), otherwise)


def _models(path: str, frame: pd.DataFrame, used: set[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """What the file says of each model; and what was left out."""
    of_models = frame.groupby("model", sort=False)
    notes: list[str] = []
    numeric = [
        name for name in frame.columns
        if name not in _NEVER | _LONG | used and frame[name].dtype.kind in "fiu" and not frame[name].isna().all()
    ]  # fmt: skip
    varying = [name for name in numeric if (of_models[name].nunique() > 1).any()]
    models = of_models[[name for name in numeric if name not in varying]].first().astype(float)
    for place, name in enumerate(("family", "base", "pair_source")):
        texts = _texts(frame, name, "") if name != "base" else _named_bases(frame, notes)
        said = texts[texts != ""].groupby(frame["model"]).unique()
        for model, values in said.items():
            if len(values) > 1:
                raise ValueError(f"{path}: {name} of {model} is {values[0]!r} and {values[1]!r}; wanted one.")
        models.insert(place, name, said.str[0].reindex(models.index).fillna(""))
    flag = next((name for name in _MAIN if name in frame), None)
    models.insert(3, "is_main", of_models[flag].first().map(_is_true) if flag else True)
    models["base"] = _bases(path, of_models, models, notes)
    if SIZE in models and (models[SIZE] <= 0).any():
        raise ValueError(f"{path}: {SIZE} of {(models[SIZE] <= 0).idxmax()} is not above 0.")
    return models, (*notes, *_notes(models, varying, flag))


def _named_bases(frame: pd.DataFrame, notes: list[str]) -> pd.Series:
    """The column `base`; NA and its like are names if a model is called so, and else mean that there is none."""
    if "base" not in frame:
        return _texts(frame, "base", "")
    models = set(frame["model"])
    odd = {name for name in frame["base"] if name and name.lower() in MISSING and name not in models}
    if odd:
        notes.append(f"base {', '.join(sorted(odd))} is read as none, since no model is called so.")
    return frame["base"].where(~frame["base"].isin(odd), "")


def _bases(path: str, of_models: Any, models: pd.DataFrame, notes: list[str]) -> pd.Series:
    """The base of each tuned model; "" for base models, which may name themselves."""
    named = models["base"].map({base: _model_of(path, base, models, notes) for base in models["base"].unique()})
    own = named.where(named != models.index.to_series(), "")
    if "is_tuned" not in of_models.obj:
        return own
    tuned = of_models["is_tuned"].first().map(_is_true)
    selfmade = tuned & (own == "") & (named != "")
    if selfmade.any():
        raise ValueError(f"{path}: {selfmade.idxmax()} is tuned and names itself as its base.")
    nobody = "unknown base of " + models.index.to_series()  # tuned all the same: it counts among the tuned
    return own.where(own != "", nobody).where(tuned, "")


def _model_of(path: str, base: str, models: pd.DataFrame, notes: list[str]) -> str:
    """The model that a base is, also where its name differs in form alone."""
    if base in models.index or not base:
        return base
    alike = {str(model): form for model in models.index if (form := difference_of(base, str(model)))}
    if len(alike) > 1:
        raise ValueError(
            f"{path}: base {base!r} is no model, but could be {' or '.join(alike)}; write it as the model."
        )
    for model, form in alike.items():
        notes.append(f"base {base!r} is taken for the model {model!r}, from which it differs in {form}.")
        return model
    return base


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
