"""Panels of a figure as small SVG drawings: dots (one row per source), lines labelled at their ends, or points.

A template is used instead of matplotlib, because then text stays text, colours are CSS variables that follow a light or
dark page, and each mark has its numbers as a `<title>`. Kinds of sources differ in shape as well as in colour. The
palette is that of Okabe and Ito (2008), with colours that are faint on white darkened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from harness.numbers import number
from harness.report import templates

if TYPE_CHECKING:
    import jinja2

PALETTE = ("#0072B2", "#C2500A", "#00805A", "#A3457F", "#946800", "#4F5D75")
MOST_DESCRIBED = 40  # marks listed in the text alternative of a panel
WIDTH, ROW, TOP, LETTER = 390.0, 20.0, 26.0, 6.8  # px of the drawing; LETTER is the mean width of a letter at 12 px


@dataclass(frozen=True)
class Dot:
    """One source on a panel of dots: a value with its interval; NaN if not measurable."""

    label: str
    kind: str
    value: float
    low: float
    high: float
    hover: str


@dataclass(frozen=True)
class Line:
    """One line, labelled at its right end.

    Attributes:
        colour: index in the palette; None is the text colour.
        points: (x, y, hover text, whether it has a ring) in data coordinates.
        dash: SVG stroke-dasharray.
        shape: of the points: "circle", "square", or "none" for a constant such as a ceiling.
        is_open: whether the points are hollow.
        is_named: whether the label is drawn; otherwise it appears only on hover.
    """

    label: str
    colour: int | None
    points: list[tuple[float, float, str, bool]]
    dash: str = "none"
    shape: str = "circle"
    is_open: bool = False
    is_named: bool = True


@dataclass(frozen=True)
class Point:
    """One model on a panel of points; open rings are base models, filled dots tuned models."""

    x: float
    y: float
    hover: str
    colour: int
    is_open: bool = False


@dataclass(frozen=True)
class Band:
    """A fitted line with its interval, in data coordinates."""

    x: list[float]
    line: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Scale:
    """Maps data coordinates to drawing coordinates, and computes round ticks."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Position of a value, in px."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self, most: int = 7) -> list[tuple[float, str]]:
        """(px, label) at multiples of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * (1 - 1e-9))
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        values = [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [(self(value), number(value, digits)) for value in values]


def span(values: Iterable[float]) -> tuple[float, float]:
    """Axis range that contains all values and 0, with a margin of 5 %; NaN is ignored."""
    measured = [0.0, *(value for value in values if not math.isnan(value))]
    low, high = min(measured), max(measured)
    margin = 0.05 * (high - low) or 0.05
    return (low - margin if low < 0 else 0.0), high + margin


def dot_panel(
    title: str, axis: str, dots: list[Dot], ceilings: list[tuple[str, float]], x_range: tuple[float, float], left: float
) -> str:
    """One row per source: a dot (model), ring (untrained) or diamond (control) on a bar that shows the interval.

    Args:
        title: name of the protocol.
        axis: label of the x axis.
        dots: from top to bottom; an untrained control with the label of the model before it shares its row; the first
            control without a model has extra space above it.
        ceilings: (label, value) of each.
        x_range: from `span`; shared by the panels of one figure.
        left: px where the labels end and the scale begins.
    """
    scale = Scale(*x_range, left, WIDTH - 12)
    y, marks = TOP + 12 - ROW, []
    for before, dot in zip([None, *dots], dots, strict=False):
        shared = before is not None and (before.kind, dot.kind, before.label) == ("model", "untrained", dot.label)
        is_first_control = before is not None and before.kind != "control" and dot.kind == "control"
        y += 0 if shared else 1.5 * ROW if is_first_control else ROW
        at = [None if math.isnan(value) else scale(value) for value in (dot.value, dot.low, dot.high)]
        marks.append({"dot": dot, "shared": shared, "y": y, "at": at})
    levels = [(words, scale(value)) for words, value in ceilings]
    alt = _alternative(axis, title, [dot.hover for dot in dots[:MOST_DESCRIBED]] + [words for words, _ in ceilings])
    frame = {"left": left, "right": WIDTH - 12, "top": TOP, "bottom": y + 14, "zero": scale(0)}
    parts = {"marks": marks, "ceilings": levels, "x_ticks": scale.ticks()}
    return _template().render(shape="dots", title=title, alt=alt, axis=axis, frame=frame, height=y + 52, **parts)


def line_panel(
    title: str,
    axis: str,
    lines: list[Line],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    steps: list[tuple[float, str]],
) -> str:
    """Lines of Pearson r over x; the height grows with the number of labels.

    Args:
        title: name of the protocol.
        axis: label of the x axis; "" if the ticks explain it.
        lines: at least one with `is_named`.
        x_range: first and last x.
        y_range: from `span`; shared by the panels of one figure.
        steps: (x, label) of the ticks.
    """
    named = [line for line in lines if line.is_named]
    bottom = TOP + max(190.0, 13.0 * len(named))
    right = WIDTH - max(len(line.label) for line in named) * LETTER - 18
    x, y = Scale(*x_range, 40, right), Scale(*y_range, bottom, TOP)
    places = iter(_apart([y(line.points[-1][1]) for line in named], TOP, bottom))
    marks = [
        {
            "line": line,
            "at": next(places) if line.is_named else None,
            "points": [(x(px), y(py), hover, ring) for px, py, hover, ring in line.points],
        }
        for line in lines
    ]
    highest = [f"{line.label} {number(max(point[1] for point in line.points))}" for line in lines]
    alt = _alternative(f"Pearson r by {axis or 'base and tuned'}, highest of each line", title, highest)
    frame = {"left": 40, "right": right, "top": TOP, "bottom": bottom, "zero": y(0)}
    parts = {"marks": marks, "x_ticks": [(x(value), words) for value, words in steps], "y_ticks": y.ticks()}
    height = bottom + (38 if axis else 22)
    return _template().render(shape="lines", title=title, alt=alt, axis=axis, frame=frame, height=height, **parts)


def point_panel(
    title: str,
    axes: tuple[str, str],
    points: list[Point],
    band: Band | None,
    y_range: tuple[float, float],
    heading: str,
    powers: bool = False,
) -> str:
    """Score against a property, one mark per model.

    Args:
        title: name of the protocol.
        axes: labels of x and y.
        points: at least one.
        band: fitted line with its interval, or None.
        y_range: from `span`; shared by the panels of one figure.
        heading: short text above the panel, such as "r 0.95 over 17 models".
        powers: whether x is a log10, so that ticks are powers of ten.
    """
    values = [point.x for point in points]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    bottom = TOP + 200.0
    x, y = Scale(low - margin, high + margin, 44, WIDTH - 12), Scale(*y_range, bottom, TOP)
    x_ticks = _powers(x) if powers else x.ticks(5)
    shape = None
    if band:
        ends = [*zip(band.x, band.low, strict=True), *reversed([*zip(band.x, band.high, strict=True)])]
        shape = {
            "line": [(x(px), y(_within(py, y_range))) for px, py in zip(band.x, band.line, strict=True)],
            "ends": [(x(px), y(_within(py, y_range))) for px, py in ends],
        }
    marks = [{"point": point, "at": (x(point.x), y(point.y))} for point in points]
    alt = _alternative(
        f"{axes[1]} against {axes[0]}", title, [heading, *(point.hover for point in points[:MOST_DESCRIBED])]
    )
    frame = {"left": 44, "right": WIDTH - 12, "top": TOP, "bottom": bottom, "zero": y(0)}
    parts = {"marks": marks, "band": shape, "x_ticks": x_ticks, "y_ticks": y.ticks(), "heading": heading}
    return _template().render(
        shape="points", title=title, alt=alt, axis=axes[0], frame=frame, height=bottom + 38, **parts
    )


def _within(value: float, ends: tuple[float, float]) -> float:
    return min(max(value, ends[0]), ends[1])


def _powers(scale: Scale) -> list[tuple[float, str]]:
    """Ticks at powers of ten; also at 2 and 5 times a power if fewer than two powers fit."""
    exponents = [float(k) for k in range(math.ceil(scale.low), math.floor(scale.high) + 1)]
    if len(exponents) < 2:
        first = math.floor(scale.low)
        candidates = [first + k + math.log10(m) for k in range(3) for m in (1, 2, 5)]
        exponents = [value for value in candidates if scale.low <= value <= scale.high]
    return [(scale(value), _short(10**value)) for value in exponents]


def _short(n: float) -> str:
    """A count with its unit, such as 10M."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= 0.999 * unit:
            return f"{n / unit:.3g}{name}"
    return f"{n:.3g}"


@cache
def _template() -> jinja2.Template:
    made = templates.environment()
    made.globals.update(palette=PALETTE, width=WIDTH)
    return made.from_string(templates.text_of("panels.svg.j2"))


def _alternative(measure: str, title: str, values: Iterable[str]) -> str:
    """Text alternative of a panel, for screen readers."""
    return f"{measure}, {title} protocol. {'; '.join(values)}."


def _apart(places: list[float], top: float, bottom: float, gap: float = 13.0) -> list[float]:
    """Move positions until they are `gap` px apart, so that labels do not overlap."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, i in zip([None, *order], order, strict=False):
        moved[i] = max(moved[i], top if before is None else moved[before] + gap)
    for after, i in zip([None, *reversed(order)], reversed(order), strict=False):
        moved[i] = min(moved[i], bottom if after is None else moved[after] - gap)
    return [round(place, 1) for place in moved]
