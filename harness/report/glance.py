"""The first screen of the report: all scores as one figure per protocol, then the board of the models.

The figure answers whether a model exceeds the controls and how far it is from the ceiling; the board has the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from harness.numbers import interval, number
from harness.report import figures
from harness.report.cells import Columns, Parts, ReportTable, Row, records, table
from harness.report.figures import MOST_CONTROLS, MOST_MODELS, PROTOCOLS, Figure, of_many, of_protocol
from harness.statistics.evidence import Difference, difference_of

if TYPE_CHECKING:
    import pandas as pd

    from harness.report.panels import Panel

MOST_OPEN = 3  # boards of the first protocol; with more data sets only the first is open
NOT_MODELS = ("control", "untrained")  # kinds of sources with which models are compared
Differences = dict[tuple[str, str, str, str, str], Difference]


class Measure(NamedTuple):
    """What a board ranks by: the column of the score, its interval, the column of the order, digits and heading."""

    column: str
    low: str
    high: str
    by: str
    digits: int
    heading: str


R = Measure("r", "r_low", "r_high", "r", 3, "Score (r)")
GAIN = Measure("delta_ll", "delta_ll_low", "delta_ll_high", "delta_ll", 4, "Gain (nats)")
READING_R = Measure("r", "r_low", "r_high", "abs_r", 3, "Score (r)")


def glance(frames: dict[str, pd.DataFrame]) -> Parts:
    """Per protocol, STRICT first: its name, a figure with a panel for each data set, and a board for each.

    Args:
        frames: model_scores and reading_scores of a run; paired_tests if there are any.
    """
    scores, reading = frames["model_scores"], frames["reading_scores"]
    brain = scores[scores["target"] == "all"]
    panels = [panel for name, rows in brain.groupby("dataset") for panel in figures.scores(rows, dataset=str(name))]
    for name, rows in reading.groupby("dataset"):
        panels += figures.reading(rows, dataset=str(name))
    tests = tested_differences(frames.get("paired_tests"))
    parts: Parts = []
    for protocol in PROTOCOLS:
        drawn = [panel for panel in panels if panel.protocol == protocol]
        if drawn:
            boards = [*_boards(brain, protocol, tests), *_boards(reading, protocol, tests)]
            parts += [protocol.upper(), _figure(brain, reading, protocol, drawn)]
            parts += _folded(boards, is_first=len(parts) == 2)
    return parts


def _figure(brain: pd.DataFrame, reading: pd.DataFrame, protocol: str, panels: list[Panel]) -> Figure:
    rows = [of_protocol(frame, protocol) for frame in (brain, reading)]
    n_models = max(part.loc[part["kind"] == "model", "model"].nunique() for part in rows)
    n_controls = max(part.loc[part["kind"] == "control", "model"].nunique() for part in rows)
    few = f" Of the controls, the {MOST_CONTROLS} highest are drawn." if n_controls > MOST_CONTROLS else ""
    return Figure(f"Scores on held-out data.{of_many(n_models, MOST_MODELS)}{few}", panels)


def _folded(boards: list[ReportTable], is_first: bool) -> Iterator[ReportTable]:
    """The boards of a protocol: those of the first one open, unless there are many."""
    for k, board in enumerate(boards):
        is_open = is_first and (k == 0 or len(boards) <= MOST_OPEN)
        yield replace(board, folded=not is_open)


def _boards(rows: pd.DataFrame, protocol: str, tests: Differences) -> Iterator[ReportTable]:
    is_reading = "delta_ll" in rows
    for dataset, scores in of_protocol(rows, protocol).groupby("dataset"):
        measure = R
        if is_reading:
            measure = GAIN if scores["delta_ll"].notna().any() else READING_R
        board = _board(str(dataset), scores, measure, tests)
        if board.rows:
            yield board


def compared(rows: pd.DataFrame, measure: Measure, tests: Differences) -> list[Row]:
    """The rows of a data set and protocol in the order of the board, models first, with what each is compared with.

    Args:
        rows: "model_scores" or "reading_scores" of one data set, target and protocol.
        measure: by which they are ordered and compared.
        tests: from `tested_differences`.

    Returns:
        Each row with `control` (name and score of the highest control), `untrained` (score of its untrained control),
        and for models and their variants `minus_control` and `minus_untrained`, None where there is nothing to compare.
    """
    row_of = {row["model"]: row for row in records(rows)}
    order = [row_of[name] for name in figures.in_order(rows, measure.by)]
    control = max(
        (row for row in order if row["kind"] == "control" and not math.isnan(row[measure.by])),
        key=lambda row: row[measure.by], default=None,
    )  # fmt: skip
    return [_line(row, control, row_of.get(f"{row['model']}:untrained"), measure, tests) for row in order]


def _board(dataset: str, rows: pd.DataFrame, measure: Measure, tests: Differences) -> ReportTable:
    """One row per model and variant, the highest first; untrained controls and other controls are columns."""
    shown = ["model", "kind", "dataset", "protocol", "metric", "r", "r_low", "r_high", "ratio"]
    used = list(dict.fromkeys([*shown, *measure[:4]]))
    lines = [row for row in compared(rows[used], measure, tests) if row["kind"] not in NOT_MODELS]
    digits = measure.digits
    columns: Columns = {
        "Model": ("model", str), measure.heading: (measure.column, partial(number, digits=digits)),
        "Interval": (f"{measure.low} {measure.high}", partial(interval, digits=digits)),
        **({"r": ("r", number), "Interval of r": ("r_low r_high", interval)} if measure is GAIN else {}),
        "Of ceiling": ("ratio", percent),
        "Minus best control": ("minus_control", partial(with_interval, digits=digits)),
        "Best control": ("control", str), "Minus untrained": ("minus_untrained", partial(with_interval, digits=digits)),
        "Untrained": ("untrained", partial(number, digits=digits)),
    }  # fmt: skip
    protocol = str(rows["protocol"].iloc[0])
    caption = f"{dataset} under {protocol.upper()}{_ceiling(rows)}"
    board = table(caption, columns, lines, n_words=1, protocol=protocol)
    return board.without_empty_columns()


def _line(row: Row, control: Row | None, untrained: Row | None, measure: Measure, tests: Differences) -> Row:
    """A row of the board: the score with its differences to the best control and to the untrained control."""
    name = f"{control['model']} {number(control[measure.column], measure.digits)}" if control else "–"
    if row["kind"] in NOT_MODELS:
        control = untrained = None
    return row | {
        "control": name, "minus_control": _minus(row, control, measure, tests),
        "minus_untrained": _minus(row, untrained, measure, tests),
        "untrained": untrained[measure.column] if untrained else math.nan,
    }  # fmt: skip


def _minus(row: Row, other: Row | None, measure: Measure, tests: Differences) -> Difference | None:
    """The tested difference; without a test that of the two scores, which has no interval."""
    if other is None:
        return None
    metric = row["metric"] if measure is R else measure.by
    tested = tests.get((row["dataset"], row["protocol"], metric, row["model"], other["model"]))
    return tested or Difference(row[measure.by] - other[measure.by], math.nan, math.nan, math.nan)


def with_interval(difference: Difference | None, digits: int = 3) -> str:
    """A difference as the text of a cell, with its interval if it was tested."""
    if difference is None or math.isnan(difference.value):
        return "–"
    ends = interval(difference.low, difference.high, digits)
    return number(difference.value, digits, sign=True) + (f" ({ends})" if ends != "–" else "")


def percent(ratio: float) -> str:
    """A ratio to the ceiling as the text of a cell."""
    return "–" if math.isnan(ratio) else f"{number(100 * ratio, 0)} %"


def _ceiling(rows: pd.DataFrame) -> str:
    values = sorted(set(rows["ceiling"].dropna()))
    return f"; ceiling {' or '.join(number(value) for value in values)}" if values else "; no ceiling"


def tested_differences(paired: pd.DataFrame | None) -> Differences:
    """(dataset, protocol, metric, model, other) -> difference, for whole data sets.

    Of several tests of a pair, the one with the largest p, as in `evidence.between`.
    """
    if paired is None or paired.empty:
        return {}
    rows = paired[paired["target"].isin(["all", "reading"]) & paired["difference"].notna()]
    found: Differences = {}
    for row in records(rows):
        for model, other, sign in ((row["model"], row["other"], 1), (row["other"], row["model"], -1)):
            key = (row["dataset"], row["protocol"], row["metric"], model, other)
            difference = difference_of(row, sign)
            if key not in found or not difference.p <= found[key].p:
                found[key] = difference
    return found
