"""Figures of scores against model properties, model size and training step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from harness.numbers import count, number
from harness.report.figures import PROTOCOLS, short_names
from harness.report.panels import Band, Line, Point, line_panel, point_panel, span
from harness.statistics import scaling
from harness.statistics.correlations import LOG_SIZE, properties, quotable
from harness.statistics.trajectories import curve_of

if TYPE_CHECKING:
    import pandas as pd

    from harness.statistics.scores import Scores


def families(scores: Scores) -> dict[str, int]:
    """Family -> its index in the palette."""
    return {name: i for i, name in enumerate(sorted(set(scores.models["family"])))}


def against(scores: Scores, rows: pd.DataFrame, name: str, correlations: pd.DataFrame) -> list[str]:
    """Score against a property, one mark per model; for model size also the line fitted to the bases.

    Args:
        scores: holds the properties.
        rows: `scores.overall` for one data set and metric.
        name: the property, as named in the correlations.
        correlations: of the same scores; r is printed above each panel.
    """
    values = properties(scores)[name]
    rows = rows.assign(x=values.reindex(rows["model"]).to_numpy()).dropna(subset=["x", "score"])
    y_range = span(rows["score"])
    panels, is_size = [], name == LOG_SIZE
    for protocol in _in_order(rows):
        models = rows[rows["protocol"] == protocol]
        if len(models) < 3:
            continue
        band = _band(models) if is_size else None
        axes = ("number of parameters" if is_size else name, _measure(models))
        points = _points(scores, models, is_size)
        text = _correlation_text(correlations, models.iloc[0], name)
        panels.append(point_panel(protocol.upper(), axes, points, band, y_range, text, powers=is_size))
    return panels


def trajectories(checkpoints: pd.DataFrame) -> list[str]:
    """Score against tokens seen on a logarithmic axis, else against the step; one line per training, mean over seeds.

    The base model, if it was scored, is at 0, which the logarithmic axis shows at its left end.

    Args:
        checkpoints: from `trajectories.checkpoints`, for one data set and metric; the axis has steps if the tokens of
            one of them are unknown.
    """
    y_range = span(checkpoints["score"])
    is_log = bool(checkpoints["tokens"].notna().all())
    colours = {name: i for i, name in enumerate(sorted(set(checkpoints["training"])))}
    labels = short_names(colours)
    places = sorted(set(checkpoints["x"]))
    left = math.log10(min(place for place in places if place > 0)) - 0.5
    ticks, axis = _ticks(places, left, is_log), "tokens seen" if is_log else "training step"
    ends = (left, math.log10(places[-1])) if is_log else (places[0], places[-1])
    panels = []
    for protocol in _in_order(checkpoints):
        lines = []
        for name, training in checkpoints[checkpoints["protocol"] == protocol].groupby("training"):
            points = [
                (_at(row.x, left, is_log), row.score, f"{name} {count(row.x)} {number(row.score)}", False)
                for row in curve_of(training).itertuples()
            ]
            lines.append(Line(labels[str(name)], colours[name], points))
        panels.append(line_panel(protocol.upper(), axis, lines, ends, y_range, ticks))
    return panels


def _at(place: float, left: float, is_log: bool) -> float:
    """Position on the axis."""
    if not is_log:
        return place
    return math.log10(place) if place > 0 else left


def _ticks(places: list[float], left: float, is_log: bool) -> list[tuple[float, str]]:
    """Positions and labels: powers of ten and 0, or up to six steps."""
    if not is_log:
        labelled = places if len(places) <= 6 else [places[round(k)] for k in np.linspace(0, len(places) - 1, 6)]
        return [(place, count(place)) for place in labelled]
    powers = range(math.ceil(left), math.floor(math.log10(places[-1])) + 1)
    shown = [10.0**power for power in powers][:: -(-len(powers) // 6) or 1]
    if len(shown) < 3:  # few powers of ten: the first and the last place, and the one in the middle
        after = [place for place in places if place > 0]
        shown = sorted({after[0], after[len(after) // 2], after[-1]})
    ticks = [(math.log10(place), count(place)) for place in shown]
    return [(left, "0"), *ticks] if places[0] == 0 else ticks


def _in_order(rows: pd.DataFrame) -> list[str]:
    names = set(rows["protocol"])
    return [*(name for name in PROTOCOLS if name in names), *sorted(names - set(PROTOCOLS))]


def _points(scores: Scores, models: pd.DataFrame, is_size: bool) -> list[Point]:
    colours = families(scores)
    return [
        Point(
            row.x, row.score, f"{row.model} {number(row.score)} at {_value(row.x, is_size)}",
            colours[row.family], is_open=row.base == "",
        )
        for row in models.itertuples()
    ]  # fmt: skip


def _value(x: float, is_size: bool) -> str:
    return f"{10**x:,.0f}" if is_size else number(x)


def _band(models: pd.DataFrame) -> Band | None:
    """The line fitted to the bases of the main models, as in the scaling table; None with too few bases."""
    main = models[models["is_main"]]
    bases = main["base"].where(main["base"] != "", main["model"])
    means = main.groupby(bases)[["x", "score"]].mean()
    if len(means) < scaling.FEWEST or means["x"].nunique() < 2:
        return None
    return Band(*(values.tolist() for values in scaling.curve(means["x"].to_numpy(), means["score"].to_numpy())))


def _measure(models: pd.DataFrame) -> str:
    return "Δ log-likelihood per word" if (models["metric"] == "delta_ll").all() else "Score"


def _correlation_text(rows: pd.DataFrame, where: pd.Series, name: str) -> str:
    """The text above a panel: r over models and over bases; "" with too few bases or values to quote one."""
    rows = rows[
        (rows["dataset"] == where["dataset"]) & (rows["protocol"] == where["protocol"]) & (rows["covariate"] == "")
        & (rows["metric"] == where["metric"]) & (rows["property"] == name) & (rows["population"] == "all")
        & rows["r"].notna()
    ]  # fmt: skip
    if quotable(rows).empty:
        return ""
    return ", ".join(f"r {number(row.r, 2)} over {row.n} {row.unit}s" for row in rows.itertuples())
