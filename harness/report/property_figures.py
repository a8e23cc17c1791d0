"""Figures of scores against model properties, model size and training step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.numbers import count, number
from harness.report.figures import PROTOCOLS, short_names
from harness.report.panels import MODEL, Band, Line, Panel, Point, line_panel, named_colours, point_panel, span
from harness.statistics import scaling
from harness.statistics.correlations import LOG_SIZE, properties, quotable
from harness.statistics.trajectories import checkpoints as checkpoints_of
from harness.statistics.trajectories import curve_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from harness.statistics.scores import Scores


@dataclass(frozen=True)
class Colours:
    """What each colour stands for, the same in all figures of a page.

    Attributes:
        name_of: model -> its training run if it is a checkpoint of one, else its family if the run has several, else
            the model itself.
        index_of: each of these names -> index in the palette.
    """

    name_of: dict[str, str]
    index_of: dict[str, int]

    @property
    def of_group(self) -> dict[str, int]:
        """Model -> index in the palette of its family or training run; of all models for one that stands alone."""
        grouped = {model: name for model, name in self.name_of.items() if name not in self.name_of}
        return {model: self.index_of[grouped[model]] if model in grouped else MODEL for model in self.name_of}

    @property
    def of_model(self) -> dict[str, int]:
        """Model -> index in the palette."""
        return {model: self.index_of[name] for model, name in self.name_of.items()}

    def of_training(self, training: str) -> int:
        """Index in the palette of a training run."""
        return self.index_of.get(training, MODEL)


def colours(scores: Scores) -> Colours:
    """The colours of the models and training runs of a run."""
    placed = checkpoints_of(scores)
    trained = placed[placed["step"] > 0] if len(placed) else placed
    training_of = dict(zip(trained["model"], trained["training"], strict=True)) if len(trained) else {}
    families = scores.models["family"].fillna("").to_dict()
    several = len(set(families.values())) > 1
    name_of = {model: training_of.get(model, (family or model) if several else model)
               for model, family in families.items()}  # fmt: skip
    return Colours(name_of, named_colours(name_of.values()))


def against(
    scores: Scores, rows: pd.DataFrame, name: str, correlations: pd.DataFrame, of_model: Mapping[str, int]
) -> list[Panel]:  # fmt: skip
    """Score against a property, one mark per model; for model size also the line fitted to the bases.

    Args:
        scores: holds the properties.
        rows: `scores.overall` for one data set and metric.
        name: the property, as named in the correlations.
        correlations: of the same scores; r is printed above each panel.
        of_model: model -> index in the palette.
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
        points = _points(models, is_size, of_model)
        text = _correlation_text(correlations, models.iloc[0], name)
        panels.append(point_panel(protocol.upper(), axes, points, band, y_range, text, powers=is_size))
    return panels


def trajectories(checkpoints: pd.DataFrame, of_page: Colours | None = None) -> list[Panel]:
    """Score against tokens seen on a logarithmic axis, else against the step; one line per training, mean over seeds.

    The base model, if it was scored, is at 0, which the logarithmic axis shows at its left end.

    Args:
        checkpoints: from `trajectories.checkpoints`, for one data set and metric; the axis has steps if the tokens of
            one of them are unknown. The columns low and high hold the interval of each score, where there is one.
        of_page: colours of the trainings; None gives each training one.
    """
    has_ends = {"low", "high"} <= set(checkpoints)
    y_range = span([*checkpoints["score"], *(finite(checkpoints[["low", "high"]]) if has_ends else ())])
    is_log = bool(checkpoints["tokens"].notna().all())
    trainings = named_colours(checkpoints["training"])
    labels = short_names(trainings)
    if of_page:
        trainings = {name: of_page.of_training(name) for name in trainings}
    places = sorted(set(checkpoints["x"]))
    left = math.log10(min(place for place in places if place > 0)) - 0.5
    ticks, axis = _ticks(places, left, is_log), "tokens seen (log scale)" if is_log else "training step"
    ends = (left, math.log10(places[-1])) if is_log else (places[0], places[-1])
    panels = []
    for protocol in _in_order(checkpoints):
        lines = []
        for name, training in checkpoints[checkpoints["protocol"] == protocol].groupby("training"):
            points = [
                (_at(row.x, left, is_log), row.score, f"{name} {count(row.x)} {number(row.score)}", False)
                for row in curve_of(training).itertuples()
            ]
            bars = _mean_intervals(training) if has_ends else ()
            lines.append(Line(labels[str(name)], trainings[str(name)], points, ends=bars))
        measure = _measure(checkpoints) if "metric" in checkpoints else "Score"
        panels.append(line_panel(protocol.upper(), axis, lines, ends, y_range, ticks, measure))
    return panels


def finite(ends: pd.DataFrame) -> list[float]:
    """The ends of intervals that exist."""
    values = ends.to_numpy(float)
    return [float(value) for value in values[np.isfinite(values).all(axis=1)].ravel()]


def _mean_intervals(training: pd.DataFrame) -> tuple[tuple[float, float], ...]:
    """Interval of each point of the curve: the mean of those of its seeds; NaN if one of them has none."""
    steps = curve_of(training)["step"]
    means = training.groupby("step")[["low", "high"]].agg(lambda ends: ends.mean(skipna=False)).reindex(steps)
    return tuple((float(low), float(high)) for low, high in means.to_numpy(float))


def _at(place: float, left: float, is_log: bool) -> float:
    """Position on the axis."""
    if not is_log:
        return place
    return math.log10(place) if place > 0 else left


def _ticks(places: list[float], left: float, is_log: bool) -> list[tuple[float, str]]:
    """Positions and labels: powers of ten and 0, or all steps, of which the panel labels those that have space."""
    if not is_log:
        return [(place, count(place)) for place in places]
    powers = range(math.ceil(left), math.floor(math.log10(places[-1])) + 1)
    shown = [10.0**power for power in powers][:: -(-len(powers) // 6) or 1]
    if len(shown) < 3:  # few powers of ten: the first and the last place, and the one in the middle
        after = [place for place in places if place > 0]
        shown = sorted({after[0], after[len(after) // 2], after[-1]})
    ticks = [(math.log10(place), count(place)) for place in shown]
    return [(left, "0"), *ticks] if places[0] == 0 else ticks


def _in_order(rows: pd.DataFrame) -> list[Panel]:
    names = set(rows["protocol"])
    return [*(name for name in PROTOCOLS if name in names), *sorted(names - set(PROTOCOLS))]


def _points(models: pd.DataFrame, is_size: bool, of_model: Mapping[str, int]) -> list[Point]:
    return [
        Point(
            row.x, row.score, f"{row.model} {number(row.score)} at {_value(row.x, is_size)}",
            of_model.get(row.model, MODEL), is_tuned=row.base != "",
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
    metrics = set(models["metric"])
    if metrics == {"delta_ll"}:
        return "Δ log-likelihood (nats per word)"
    return "Pearson r" if metrics <= {"pearson_r", "brainscore_r"} else "Score"


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
