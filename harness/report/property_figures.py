"""Figures of scores against what is known of the models: properties, size with its line, training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.numbers import number
from harness.report.figures import PROTOCOLS
from harness.report.panels import Band, Line, Point, line_panel, point_panel, span
from harness.statistics import scaling
from harness.statistics.correlations import LOG_SIZE, properties

if TYPE_CHECKING:
    import pandas as pd

    from harness.statistics.scores import Scores

PALETTE_SIZE = 6


def families(scores: Scores) -> dict[str, int]:
    """Family -> its place in the palette."""
    return {name: i for i, name in enumerate(sorted(set(scores.models["family"])))}


def against(scores: Scores, rows: pd.DataFrame, name: str, correlations: pd.DataFrame) -> list[str]:
    """Score against a property, one mark per model, with the line through the bases where the property is the size.

    Args:
        scores: where the properties are.
        rows: `scores.overall` of one data set and metric.
        name: the property, as in the correlations.
        correlations: of the same scores; r is said above each panel.
    """
    known = properties(scores)[name]
    rows = rows.assign(x=known.reindex(rows["model"]).to_numpy()).dropna(subset=["x", "score"])
    y_range = span(rows["score"])
    drawn = []
    for protocol in _in_order(rows):
        part = rows[rows["protocol"] == protocol]
        if len(part) < 3:
            continue
        band = _band(part) if name == LOG_SIZE else None
        axes = ("number of parameters" if name == LOG_SIZE else name, _measure(part))
        points = _points(scores, part, is_size=name == LOG_SIZE)
        said = _said(correlations, part.iloc[0], name)
        drawn.append(point_panel(protocol.upper(), axes, points, band, y_range, said, powers=name == LOG_SIZE))
    return drawn


def trajectories(checkpoints: pd.DataFrame) -> list[str]:
    """Score along each training, its base at step 0 where it was scored; rows of one data set and metric."""
    y_range = span(checkpoints["score"])
    trainings = {name: i for i, name in enumerate(sorted(set(checkpoints["training"])))}
    steps = sorted(set(checkpoints["step"]))
    shown = steps if len(steps) <= 6 else [steps[round(k)] for k in np.linspace(0, len(steps) - 1, 6)]
    drawn = []
    for protocol in _in_order(checkpoints):
        part = checkpoints[checkpoints["protocol"] == protocol]
        lines = [
            Line(_short(name), trainings[name], [
                (float(row.step), row.score, f"{row.model} {number(row.score)}", False) for row in curve.itertuples()
            ])
            for name, curve in part.groupby("training")
        ]  # fmt: skip
        ticks = [(float(step), f"{step:,}") for step in shown]
        ends = (float(steps[0]), float(steps[-1]))
        drawn.append(line_panel(protocol.upper(), "training step", lines, ends, y_range, ticks))
    return drawn


def _in_order(rows: pd.DataFrame) -> list[str]:
    known = set(rows["protocol"])
    return [*(name for name in PROTOCOLS if name in known), *sorted(known - set(PROTOCOLS))]


def _points(scores: Scores, part: pd.DataFrame, is_size: bool) -> list[Point]:
    colours = families(scores)
    return [
        Point(
            row.x, row.score, f"{row.model} {number(row.score)} at {_value(row.x, is_size)}",
            colours[row.family], is_open=row.base == "",
        )
        for row in part.itertuples()
    ]  # fmt: skip


def _value(x: float, is_size: bool) -> str:
    return f"{10**x:,.0f}" if is_size else number(x)


def _band(part: pd.DataFrame) -> Band | None:
    """The line through the bases of the main models, as in the table of scaling."""
    main = part[part["is_main"]]
    bases = main["base"].where(main["base"] != "", main["model"])
    means = main.groupby(bases)[["x", "score"]].mean()
    if len(means) < scaling.FEWEST or means["x"].nunique() < 2:
        return None
    return Band(*(values.tolist() for values in scaling.curve(means["x"].to_numpy(), means["score"].to_numpy())))


def _measure(part: pd.DataFrame) -> str:
    return "Δ log-likelihood per word" if (part["metric"] == "delta_ll").all() else "Score"


def _said(rows: pd.DataFrame, where: pd.Series, name: str) -> str:
    """What stands above a panel: r over models, and over bases."""
    rows = rows[
        (rows["dataset"] == where["dataset"]) & (rows["protocol"] == where["protocol"]) & (rows["given"] == "")
        & (rows["metric"] == where["metric"]) & (rows["property"] == name) & (rows["population"] == "all")
        & rows["r"].notna()
    ]  # fmt: skip
    said = [f"r {number(row.r, 2)} over {row.n} {row.unit}s" for row in rows.itertuples()]
    return ", ".join(said)


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:8]}…{name[-13:]}"
