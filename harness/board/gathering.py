"""The scores of all runs in some OUTs; what cannot be read is named, and the others go on.

Each result is what one source reached on a data set under a protocol, in one measure. If several runs have it, the one
of the newest run counts, and the others are kept beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import fsspec
import pyarrow as pa

from harness import names
from harness.report.figures import PROTOCOLS
from harness.storage import table_files, tables, transfer

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

# What identifies a result, apart from its run.
KEYS = ["dataset", "measure", "protocol", "model"]
MEASURES = {"pearson_r": "Pearson r", "delta_ll": "Δ log-likelihood", "rsa": "RSA", "cka": "CKA"}

_ORIGIN = ["run", "model", "kind", "revision", "dataset", "dataset_version", "protocol", "protocol_hash", "metric"]
_SCORE = ["ceiling", "ratio", "interval_kind", "ceiling_kind"]
_UNIQUE = ["unique_r2", "unique_low", "unique_high"]
_ENDS = ["r", "r_low", "r_high"]
_GAIN = ["delta_ll", "delta_ll_low", "delta_ll_high"]
_READ = {
    "model_scores": [*_ORIGIN, "target", "stack", "layer", *_ENDS, *_SCORE, *_UNIQUE],
    "similarity_scores": [*_ORIGIN, "target", "subject", "stack", "layer", "value", "value_low", "value_high", *_SCORE],
    "reading_scores": [*_ORIGIN, *_ENDS, "abs_r", *_GAIN, *_SCORE],
}
# Text that every row of this version has; without it the row is of another version.
_REQUIRED = ["model", "kind", "dataset", "protocol", "metric"]
_RUNS = ["run", "spec", "status", "started", "command", "code_version"]
COLUMNS = [
    "out", "started", *_ORIGIN, "measure", "table", "stack", "layer", *_ENDS, "height", *_SCORE, *_UNIQUE,
]  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """What of an OUT could not be read, and what to do."""

    out: str
    message: str


@dataclass(frozen=True)
class Gathered:
    """The results of all runs.

    Attributes:
        newest: one row per `KEYS`, with the columns `COLUMNS` and n_earlier; r, r_low and r_high hold the measure,
            whatever it is, and height is what sources are ordered by (|r| for reading times).
        earlier: the results that a newer run has too.
        models: the newest row of table model_properties of each model.
        runs: out, run, spec, status, started, command, code_version of each run that was read.
        problems: what could not be read.
    """

    newest: pd.DataFrame
    earlier: pd.DataFrame
    models: pd.DataFrame
    runs: pd.DataFrame
    problems: tuple[Problem, ...]


def gather(outs: Sequence[str]) -> Gathered:
    """Read the finished runs of all OUTs.

    Args:
        outs: folders or URLs that contain `tables`.

    Raises:
        ValueError: if there is no OUT, or none of them has a score; the message says why, OUT by OUT.
    """
    import pandas as pd

    problems: list[Problem] = []
    parts = []
    for out in {transfer.absolute(out).rstrip("/"): out.rstrip("/") or out for out in outs}.values():
        try:
            parts.append(_read(out, problems))
        except (OSError, ValueError, NotImplementedError, ImportError, pa.ArrowException) as error:
            problems.append(Problem(names.printable(out), names.printable(str(error))))
    for problem in problems:
        logger.warning("%s: %s", problem.out, problem.message)
    parts = [part for part in parts if len(part[0])]
    if not parts:
        reasons = " ".join(f"{problem.out}: {problem.message}" for problem in problems) or "no OUT was given."
        raise ValueError(f"there are no scores to show. {reasons}")
    results, models, runs = (pd.concat(frames, ignore_index=True) for frames in zip(*parts, strict=True))
    newest, earlier = _newest(results)
    models = models.sort_values("started", kind="stable").drop_duplicates("model", keep="last")
    return Gathered(newest, earlier, models.reset_index(drop=True), runs, tuple(problems))


def _newest(results: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The results of the newest run each, sorted from high to low, and those that it replaces."""
    texts = [name for name in results if results[name].dtype.kind not in "fiub"]
    results = results.astype(dict.fromkeys(texts, object))  # Arrow strings are slow row by row
    ordered = results.sort_values("started", ascending=False, kind="stable", ignore_index=True)
    is_earlier = ordered.duplicated(KEYS, keep="first")
    n_earlier = ordered.groupby(KEYS, sort=False)["run"].transform("size") - 1
    newest = ordered[~is_earlier].assign(n_earlier=n_earlier[~is_earlier])
    place = newest["protocol"].map(PROTOCOLS.index)
    newest = newest.assign(place=place).sort_values(
        ["dataset", "measure", "place", "height", "model"], ascending=[True, True, True, False, True], kind="stable"
    )
    return newest.drop(columns="place").reset_index(drop=True), ordered[is_earlier].reset_index(drop=True)


# --- one OUT ----------------------------------------------------------------------------------------------------------


def _read(out: str, problems: list[Problem]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Results, properties of models, and runs of one OUT; appends what was left out to `problems`."""
    label = names.printable(out)
    runs = tables.read(out, "runs", columns=_RUNS)
    damaged = dict(_damaged(out))
    problems += [Problem(label, message) for message in damaged.values()]
    runs = runs[~runs["run"].isin(damaged)].sort_values("started", kind="stable").drop_duplicates("run", keep="last")
    results = _results(out)
    results = results[results["run"].isin(runs["run"])].merge(runs[["run", "started"]], on="run").assign(out=label)
    results = _readable(results, label, problems)
    properties = tables.read(out, "model_properties").merge(runs[["run", "started"]], on="run").assign(out=label)
    if results.empty and not any(problem.out == label for problem in problems):
        problems.append(Problem(label, "there is no finished run with scores; start or resume one by `harness run`."))
    return results.reindex(columns=COLUMNS), properties, runs.assign(out=label)


def _damaged(out: str) -> Iterable[tuple[str, str]]:
    """(run, what is wrong) of the runs whose tables differ from what was written."""
    filesystem, root = fsspec.core.url_to_fs(out)
    for run in table_files.listed(filesystem, root):
        try:
            table_files.require(filesystem, root, run, ["runs", "model_properties", *_READ])
        except table_files.DamagedTablesError as error:
            yield run, str(error)


def _results(out: str) -> pd.DataFrame:
    """The results in the three tables of scores, over whole data sets."""
    import pandas as pd

    brain, similar, reading = (tables.read(out, name, columns=columns) for name, columns in _READ.items())
    brain = brain[brain["target"] == "all"]
    similar = similar[(similar["target"] == "all") & (similar["subject"] == "") & similar["value"].notna()]
    similar = similar.rename(columns={"value": "r", "value_low": "r_low", "value_high": "r_high"})
    gains = reading[reading["delta_ll"].notna()].drop(columns=_ENDS)
    gains = gains.rename(columns=dict(zip(_GAIN, _ENDS, strict=True)))
    gains = gains.assign(metric="delta_ll", ceiling=float("nan"), ratio=float("nan"))
    frames = {
        "model_scores": brain.assign(height=brain["r"]), "similarity_scores": similar.assign(height=similar["r"]),
        "reading_scores": reading.assign(height=reading["abs_r"]), "gains": gains.assign(height=gains["r"]),
    }  # fmt: skip
    frames = {name: frame for name, frame in frames.items() if len(frame)}
    if not frames:
        return pd.DataFrame(columns=[name for name in COLUMNS if name not in ("out", "started")])
    results = pd.concat([frame.assign(table=name) for name, frame in frames.items()], ignore_index=True)
    return results.assign(measure=results["metric"].map(lambda metric: MEASURES.get(metric, metric)))


def _readable(results: pd.DataFrame, out: str, problems: list[Problem]) -> pd.DataFrame:
    """Rows that this version understands; the runs of the others are named."""
    lacking = results[_REQUIRED].isna() | (results[_REQUIRED] == "")
    unknown = ~lacking["protocol"] & ~results["protocol"].isin(PROTOCOLS)
    for run, rows in results[lacking.any(axis=1)].groupby("run"):
        columns = ", ".join(name for name in _REQUIRED if lacking.loc[rows.index, name].any())
        message = f"run {run} is of another version: its scores lack {columns}. Run its command again."
        problems.append(Problem(out, message))
    for run, rows in results[unknown].groupby("run"):
        named = ", ".join(sorted(set(rows["protocol"])))
        problems.append(Problem(out, f"run {run} has protocols that this version does not know: {named}."))
    return results[~lacking.any(axis=1) & ~unknown]
