"""A table for a paper: the scores of a run with the columns that its author chooses."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from harness import names
from harness.numbers import count, interval, number, p_value
from harness.report import glance
from harness.report.cells import Columns, ReportTable, Row, kind, kinds_of, records, short, table, text
from harness.report.figures import PROTOCOLS, of_protocol
from harness.statistics.evidence import Difference
from harness.variants import base_name

if TYPE_CHECKING:
    import pandas as pd


def _p(difference: Difference | None) -> str:
    return "–" if difference is None else p_value(difference.p)


def _layer(stack: str, layer: int | str) -> str:
    return f"{stack}.{layer}" if stack else "–"


_4_digits, _signed = partial(interval, digits=4), partial(number, sign=True)
# Name of a column -> (columns of the row, formatting function); its heading is in _HEADINGS. Text first, then numbers.
_TEXTS: Columns = {
    "model": ("model", str), "kind": ("kind", kind), "family": ("family", text), "base": ("tuned_from", text),
    "revision": ("revision", short), "dataset": ("dataset", str), "protocol": ("protocol", str.upper),
    "metric": ("metric", text), "layer": ("stack layer", _layer), "control": ("control", str),
}  # fmt: skip
_NUMBERS: Columns = {
    "parameters": ("n_parameters", count), "r": ("r", number), "interval": ("r_low r_high", interval),
    "ceiling": ("ceiling", number), "ceiling_interval": ("ceiling_low ceiling_high", interval),
    "percent": ("ratio", glance.percent), "gain": ("delta_ll", partial(number, digits=4, sign=True)),
    "gain_interval": ("delta_ll_low delta_ll_high", _4_digits), "unique_r2": ("unique_r2", _signed),
    "unique_interval": ("unique_low unique_high", interval),
    "minus_control": ("minus_control digits", glance.with_interval),
    "p_control": ("minus_control", _p), "untrained": ("untrained digits", number),
    "minus_untrained": ("minus_untrained digits", glance.with_interval), "p_untrained": ("minus_untrained", _p),
    "n": ("n", count),
}  # fmt: skip
COLUMNS: Columns = _TEXTS | _NUMBERS
DEFAULT = ("model", "r", "interval", "percent", "minus_control", "minus_untrained")
_HEADINGS = {
    "base": "Tuned from", "dataset": "Data set", "r": "r", "interval": "95 % interval", "percent": "% of ceiling",
    "ceiling_interval": "Interval of ceiling", "gain": "Δ log-likelihood", "gain_interval": "Interval of Δ",
    "unique_r2": "Unique R²", "unique_interval": "Interval of unique R²", "control": "Best control",
    "minus_control": "Minus best control", "p_control": "p (control)", "minus_untrained": "Minus untrained",
    "p_untrained": "p (untrained)", "n": "n",
}  # fmt: skip
_MISSING: Row = {
    **dict.fromkeys(("family", "tuned_from", "stack", "layer"), ""),
    **dict.fromkeys(("n_parameters", "delta_ll", "delta_ll_low", "delta_ll_high", "unique_r2"), math.nan),
    **dict.fromkeys(("unique_low", "unique_high", "ceiling_low", "ceiling_high"), math.nan),
}


def paper_table(
    frames: dict[str, pd.DataFrame], columns: Sequence[str] = (), datasets: Collection[str] = (),
    protocols: Collection[str] = (),
) -> ReportTable:  # fmt: skip
    """One row per model, data set and protocol, in the order of the report's board.

    Args:
        frames: model_scores, reading_scores and model_properties of a run; paired_tests if there are any.
        columns: names in `COLUMNS`; none means `DEFAULT`. With "kind", untrained networks and controls are rows too.
            With "gain", differences of reading times are those of the gain, else those of |r|. The columns "dataset"
            and "protocol" are added if they differ between the rows.
        datasets: data sets to include; none means all.
        protocols: protocols to include; none means the first that the run has, STRICT before others.

    Raises:
        ValueError: if a column, data set or protocol is unknown; the message has the nearest names.
    """
    for column in columns:
        if column not in COLUMNS:
            raise names.unknown("column", column, COLUMNS)
    chosen = list(columns or DEFAULT)
    groups = _groups(frames, datasets, protocols)
    tests, about = glance.tested_differences(frames.get("paired_tests")), _about(frames["model_properties"])
    lines = []
    for rows in groups:
        measure = _measure(rows, "gain" in chosen)
        lines += [_MISSING | about.get(base_name(row["model"]), {}) | row
                  | {"n": row.get("n_neuroids", row.get("n_words")), "digits": measure.digits}
                  for row in glance.compared(rows, measure, tests)
                  if "kind" in chosen or row["kind"] not in glance.NOT_MODELS]  # fmt: skip
    added = [name for name in ("dataset", "protocol") if len({line[name] for line in lines}) > 1 and name not in chosen]
    first = [name for name in (*added, *chosen) if name in _TEXTS]
    ordered = [*first, *(name for name in chosen if name in _NUMBERS)] if added else chosen
    cells = {_HEADINGS.get(name, name.capitalize()): COLUMNS[name] for name in ordered}
    n_words = next((k for k, name in enumerate(ordered) if name in _NUMBERS), len(ordered))
    return table(_caption(groups, ordered), cells, lines, n_words=n_words)


def _groups(
    frames: dict[str, pd.DataFrame], datasets: Collection[str], protocols: Collection[str]
) -> list[pd.DataFrame]:  # fmt: skip
    """Scores of whole data sets, one frame per data set and protocol."""
    brain, reading = frames["model_scores"], frames["reading_scores"]
    parts = [brain[brain["target"] == "all"], reading]
    known_sets = {str(name) for part in parts for name in part["dataset"]}
    known_protocols = [name for name in PROTOCOLS if any((part["protocol"] == name).any() for part in parts)]
    for what, given, known in (("data set", datasets, sorted(known_sets)), ("protocol", protocols, known_protocols)):
        for name in given:
            if name not in known:
                raise names.unknown(f"{what} of this run", name, known)
    return [
        of_protocol(rows, protocol)
        for part in parts
        for dataset, rows in part[part["dataset"].isin(set(datasets or known_sets))].groupby("dataset")
        for protocol in known_protocols
        if protocol in (protocols or known_protocols[:1]) and (rows["protocol"] == protocol).any()
    ]


def _measure(rows: pd.DataFrame, has_gain: bool) -> glance.Measure:
    if "delta_ll" not in rows:
        return glance.R
    return glance.GAIN if has_gain and rows["delta_ll"].notna().any() else glance.READING_R


def _about(properties: pd.DataFrame) -> dict[str, Row]:
    """Model -> family, tuned_from and n_parameters."""
    columns = ["model", "family", "tuned_from", "n_parameters"]
    return {row["model"]: row for row in records(properties[columns])}


def _caption(groups: list[pd.DataFrame], columns: list[str]) -> str:
    """What the intervals, ceilings and differences are."""
    sentences = [
        f"{rows['dataset'].iloc[0]} under {rows['protocol'].iloc[0].upper()}: r on held-out data. {kinds_of(rows)}"
        for rows in groups
    ]
    if any("minus" in name for name in columns):
        sentences.append("Differences with an interval are paired tests; those without one were not tested.")
    if any(name.startswith("p_") for name in columns):
        sentences.append("p after correction for the tests of a data set and protocol (Benjamini-Hochberg).")
    return " ".join(sentences)
