"""Figures of scores against model properties, model size and training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.numbers import number
from harness.report.figures import PROTOCOLS, short_name
from harness.report.panels import Band, Line, Point, line_panel, point_panel, span
from harness.statistics import scaling
from harness.statistics.correlations import LOG_SIZE, properties, quotable

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
    """Score against step, one line per training run; the base model, if it was scored, is step 0.

    Args:
        checkpoints: scores of checkpoints for one data set and metric.
    """
    y_range = span(checkpoints["score"])
    trainings = {name: i for i, name in enumerate(sorted(set(checkpoints["training"])))}
    steps = sorted(set(checkpoints["step"]))
    labelled = steps if len(steps) <= 6 else [steps[round(k)] for k in np.linspace(0, len(steps) - 1, 6)]
    panels = []
    for protocol in _in_order(checkpoints):
        scores = checkpoints[checkpoints["protocol"] == protocol]
        lines = [
            Line(short_name(name), trainings[name], [
                (float(row.step), row.score, f"{row.model} {number(row.score)}", False) for row in curve.itertuples()
            ])
            for name, curve in scores.groupby("training")
        ]  # fmt: skip
        ticks = [(float(step), f"{step:,}") for step in labelled]
        ends = (float(steps[0]), float(steps[-1]))
        panels.append(line_panel(protocol.upper(), "training step", lines, ends, y_range, ticks))
    return panels


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
