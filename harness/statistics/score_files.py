"""A user's file of scores -> Scores: CSV, TSV, JSON or Parquet; one row per model, or per model and data set."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness import datasets
from harness.delimited.identifiers import difference_of
from harness.delimited.numerals import MISSING
from harness.delimited.table import DelimitedTable
from harness.names import nearest
from harness.statistics import score_cells
from harness.statistics.scores import AVERAGE, SIZE, Scores, of_frames

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = ("_r", "_score")  # of score columns, in a table with one row per model
_SUFFIX = re.compile(rf"({'|'.join(SUFFIXES)})\Z")
_ALIASES = {"name": "model", "tuned_from": "base", "parameters": SIZE, "n_parameters_nominal": SIZE, "params": SIZE}
_MAIN = ("is_main", "in_paper_25")  # whether a model is included in the tests
_NEVER = {"model", "family", "base", "is_tuned", "pair_source", *_MAIN}
_LONG = {"dataset", "protocol", "target", "metric", "subject", "score", "r", "kind"}
# Always text: a model may be called 7 or NA.
_TEXTS = {*_NEVER, *_LONG} - {"score", "r"}
BEHAVIOUR = ("futrell", "reading", "natural_stories", "naturalstories")  # prefixes of names of reading-time data sets


def read(path: str, columns: Sequence[str] = (), where: Sequence[str] = (), encoding: str | None = None) -> Scores:
    """Read a file of scores.

    A file has either one row per model, with one score column per data set (`DATASET_r`, `DATASET_score`, or the name
    of one of our data sets), or one row per model and data set, with `dataset` and `score` (or `r`), and `protocol`,
    `metric`, `target` and `subject` where needed. Further columns: `model`; `base` or `tuned_from` (empty, or the model
    itself, for a base model); `family`; `n_parameters` (also as 7B or 350M); `is_tuned`; `is_main` or `in_paper_25` (0:
    shown in the tables, left out of the tests). Every other numeric column that is constant within a model is a model
    property.

    Args:
        path: file or URL; .csv, .tsv (also compressed), .json (records) or .parquet.
        columns: score columns of a table with one row per model, if their names do not end in _r or _score.
        where: conditions "COLUMN=VALUE" on the rows to keep; all must hold.
        encoding: encoding of a text file that is not UTF-8 and has no byte-order mark.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, a model is given twice, or a cell is not a number; the message says where.
    """
    content = _columns(score_cells.load(path, ("model", *_ALIASES), encoding))
    if "model" not in content.frame:
        raise ValueError(f"{path}: no column `model`; it has {', '.join(map(str, content.frame.columns))}.")
    names = [str(name) for name in content.frame]
    is_long = "dataset" in names and bool({"score", "r"} & set(names)) and not columns
    scores = {"score", "r"} & set(names) if is_long else set(_score_columns(path, names, columns))
    frame, notes_of_cells = score_cells.typed(content, _TEXTS, scores, SIZE)
    _require_names(content, ("model", "dataset", "subject") if is_long else ("model",))
    notes_of_names = _compose_names(frame)
    frame = _filtered(frame, where).reset_index(drop=True)
    if frame.empty:
        raise ValueError(f"{path}: no rows{' where ' + ' and '.join(where) if where else ''}.")
    rows, subjects, score_columns = _long(frame) if is_long else _wide(path, frame, columns)
    models, notes = _models(path, frame, score_columns)
    brain = {name for name in rows["dataset"] if not name.lower().startswith(BEHAVIOUR)}
    rows.loc[~rows["dataset"].isin(brain), "target"] = "reading"
    return of_frames(path, rows, models, subjects, brain, (*notes_of_cells, *notes_of_names, *notes))


def _columns(content: DelimitedTable) -> DelimitedTable:
    """Rename columns to our names, ignoring case and resolving aliases."""
    own_names = _NEVER | _LONG | {SIZE} | set(_ALIASES)
    frame = content.frame
    frame = frame.rename(columns={name: low for name in frame if (low := str(name).strip().lower()) in own_names})
    frame = frame.rename(columns={old: new for old, new in _ALIASES.items() if old in frame and new not in frame})
    if duplicates := [name for name, n in Counter(map(str, frame.columns)).items() if n > 1]:
        raise ValueError(f"{content.file}: column {duplicates[0]!r} occurs more than once; keep only one.")
    return replace(content, frame=frame)


def _compose_names(frame: pd.DataFrame) -> list[str]:
    """Normalise model names to Unicode's composed form (NFC); note names that occurred in both forms."""
    notes = []
    for name in ("model", "base"):
        if name in frame:
            composed = frame[name].map(lambda text: unicodedata.normalize("NFC", text))
            twofold = sorted(set(composed[frame[name] != composed]) & set(frame[name]))[:1]
            notes += [f"{name} {text!r} is written in two Unicode forms, which are treated as the same name."
                      for text in twofold]  # fmt: skip
            frame[name] = composed
    return notes


def _require_names(content: DelimitedTable, names: Sequence[str]) -> None:
    for name in names:
        texts = [text.strip() for text in content.texts(name)] if name in content.frame else []
        if "" in texts:
            raise ValueError(f"{content.where(texts.index(''), name)} is empty; every row needs a {name}.")


def _filtered(frame: pd.DataFrame, where: Sequence[str]) -> pd.DataFrame:
    for condition in where:
        name, equals, value = condition.partition("=")
        if not equals:
            raise ValueError(f"--where {condition}: wanted COLUMN=VALUE.")
        if name not in frame:
            near = nearest(name, map(str, frame.columns)) or list(frame.columns)
            raise ValueError(f"--where {condition}: there is no column {name}; the nearest are {', '.join(near)}.")
        column = frame[name]
        is_number = column.dtype.kind in "fiu"
        try:
            frame = frame[column == float(value) if is_number else column.astype(str).str.lower() == value.lower()]
        except ValueError:
            raise ValueError(f"--where {condition}: wanted a number.") from None
    return frame.copy()


def _score_columns(path: str, names: list[str], columns: Sequence[str]) -> list[str]:
    """Score columns of a table with one row per model; ValueError if there is none or a requested one is missing."""
    missing = [name for name in columns if name not in names]
    datasets_by_name = {AVERAGE, *datasets.known(), *(name.partition("-")[0] for name in datasets.known())}
    chosen = list(columns) or [name for name in names if name.endswith(SUFFIXES) or name in datasets_by_name]
    if missing or not chosen:
        none_chosen = f"no column name ends in {' or '.join(SUFFIXES)} or is that of a data set"
        problem = f"no column {missing[0]}" if missing else none_chosen
        raise ValueError(f"{path}: {problem}; choose score columns (--score) from {', '.join(names)}.")
    return chosen


def _wide(path: str, frame: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, None, set[str]]:
    """Long form of a table with one row per model: rows, no subjects, names of the score columns."""
    chosen = _score_columns(path, list(frame.columns), columns)
    duplicates = frame.loc[frame["model"].duplicated(), "model"]
    if len(duplicates):
        raise ValueError(
            f"{path}: model {duplicates.iloc[0]} has more than one row; wanted one row per model. "
            "Select rows with --where COLUMN=VALUE."
        )
    rows = frame[["model", *chosen]].melt("model", var_name="column", value_name="score")
    rows = rows.assign(
        dataset=rows["column"].str.replace(_SUFFIX, "", regex=True), target="all",
        metric=rows["column"].str.endswith("_r").map({True: "pearson_r", False: "score"}),
        protocol=_texts(frame, "protocol", "").set_axis(frame["model"]).reindex(rows["model"]).to_numpy(),
    )  # fmt: skip
    return rows[["model", "dataset", "protocol", "target", "metric", "score"]], None, set(chosen)


def _long(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None, set[str]]:
    """Rows, subjects and score columns of a table with one row per model and data set.

    With a column `subject` there is one row per subject, and the score is the mean over subjects.
    """
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
    subjects = frame.groupby([*keys, "subject"], as_index=False)["score"].mean()
    means = subjects.groupby(keys, as_index=False, sort=False)["score"].mean()
    subjects = subjects[subjects["target"] == "all"]
    return means, subjects[["model", "dataset", "protocol", "subject", "score"]], {value, "subject"}


def _texts(frame: pd.DataFrame, name: str, default: str) -> pd.Series:
    """A text column, with `default` for empty cells and codes for missing values."""
    import pandas as pd

    if name not in frame:
        return pd.Series(default, index=frame.index, dtype=object)
    return frame[name].where(~frame[name].str.lower().isin(MISSING), default)


def _models(path: str, frame: pd.DataFrame, score_columns: set[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table of models, and notes on what was left out."""
    by_model = frame.groupby("model", sort=False)
    notes: list[str] = []
    numeric = [
        name for name in frame.columns
        if name not in _NEVER | _LONG | score_columns and frame[name].dtype.kind in "fiu"
        and not frame[name].isna().all()
    ]  # fmt: skip
    varying = [name for name in numeric if (by_model[name].nunique() > 1).any()]
    models = by_model[[name for name in numeric if name not in varying]].first().astype(float)
    for place, name in enumerate(("family", "base", "pair_source")):
        texts = _texts(frame, name, "") if name != "base" else _named_bases(frame, notes)
        values_by_model = texts[texts != ""].groupby(frame["model"]).unique()
        for model, values in values_by_model.items():
            if len(values) > 1:
                raise ValueError(f"{path}: {name} of {model} is both {values[0]!r} and {values[1]!r}; keep only one.")
        models.insert(place, name, values_by_model.str[0].reindex(models.index).fillna(""))
    flag = next((name for name in _MAIN if name in frame), None)
    models.insert(3, "is_main", by_model[flag].first().map(_is_true) if flag else True)
    models["base"] = _bases(path, by_model, models, notes)
    if SIZE in models and (models[SIZE] <= 0).any():
        raise ValueError(f"{path}: {SIZE} of {(models[SIZE] <= 0).idxmax()} is not positive.")
    return models, (*notes, *_notes(models, varying, flag))


def _named_bases(frame: pd.DataFrame, notes: list[str]) -> pd.Series:
    """The column `base`; NA and similar codes mean "no base" unless a model has that name."""
    if "base" not in frame:
        return _texts(frame, "base", "")
    models = set(frame["model"])
    codes = {name for name in frame["base"] if name and name.lower() in MISSING and name not in models}
    if codes:
        notes.append(f"base {', '.join(sorted(codes))} is read as no base, since no model has that name.")
    return frame["base"].where(~frame["base"].isin(codes), "")


def _bases(path: str, by_model: Any, models: pd.DataFrame, notes: list[str]) -> pd.Series:
    """The base of each tuned model; "" for base models, which may also name themselves."""
    named = models["base"].map({base: _model_of(path, base, models, notes) for base in models["base"].unique()})
    bases = named.where(named != models.index.to_series(), "")
    if "is_tuned" not in by_model.obj:
        return bases
    is_tuned = by_model["is_tuned"].first().map(_is_true)
    names_itself = is_tuned & (bases == "") & (named != "")
    if names_itself.any():
        raise ValueError(f"{path}: {names_itself.idxmax()} is tuned and names itself as its base.")
    unknown = "unknown base of " + models.index.to_series()  # still counts as a tuned model
    return bases.where(bases != "", unknown).where(is_tuned, "")


def _model_of(path: str, base: str, models: pd.DataFrame, notes: list[str]) -> str:
    """The model a base refers to; the names may differ in form (capital letters, Unicode, number format)."""
    if base in models.index or not base:
        return base
    candidates = {str(model): form for model in models.index if (form := difference_of(base, str(model)))}
    if len(candidates) > 1:
        could_be = " or ".join(candidates)
        raise ValueError(f"{path}: base {base!r} is not the exact name of a model; it could be {could_be}.")
    for model, form in candidates.items():
        notes.append(f"base {base!r} is matched to the model {model!r}, from which it differs in {form}.")
        return model
    return base


def _is_true(value: Any) -> bool:
    return str(value).strip().lower() in {"1", "1.0", "true", "yes", "y"}


def _notes(models: pd.DataFrame, varying: list[str], flag: str | None) -> list[str]:
    notes = []
    if flag and not models["is_main"].all():
        excluded = ", ".join(models.index[~models["is_main"]])
        notes.append(f"{flag} is 0 for {excluded}: shown in the tables, left out of the tests.")
    unpaired = [
        name if base.startswith("unknown base") else f"{name} (tuned from {base})"
        for name, base in models["base"].items() if base and base not in models.index
    ]  # fmt: skip
    if unpaired:
        notes.append(f"tuned models without a row for their base: {', '.join(unpaired)}.")
    if not (models["base"] != "").any():
        notes.append("no model names its base (column `base` or `tuned_from`), so nothing is compared with a base.")
    if varying:
        notes.append(f"columns not used as model properties because they vary within a model: {', '.join(varying)}.")
    return notes
