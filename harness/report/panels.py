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
from typing import TYPE_CHECKING, Any

from harness.numbers import number
from harness.report import templates

if TYPE_CHECKING:
    import jinja2

PALETTE = ("#0072B2", "#C2500A", "#00805A", "#A3457F", "#946800", "#4F5D75", "#6A51A3")
MODEL, CONTROL = 0, 1  # in the palette: any language model, and any control without one
_NAMED = (2, 3, 4, 5, 6)  # colours of named families, models or training runs; after five they repeat
MOST_DESCRIBED = 40  # marks listed in the text alternative of a panel
WIDTH, ROW, TOP, LETTER = 390.0, 20.0, 26.0, 6.8  # px of the drawing; LETTER is the mean width of a letter at 12 px
_SECOND_LINE = 12.0  # px of the second line of a label
_LEFT = 54.0  # px where lines and points begin, right of the labels of the y axis


def named_colours(names: Iterable[str]) -> dict[str, int]:
    """Name -> its index in the palette, in alphabetical order; a single name has the colour of all models."""
    ordered = sorted(set(names))
    return {name: _NAMED[i % len(_NAMED)] if len(ordered) > 1 else MODEL for i, name in enumerate(ordered)}


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
        ends: interval of each point, NaN where there is none; empty if no point has one.
    """

    label: str
    colour: int | None
    points: list[tuple[float, float, str, bool]]
    dash: str = "none"
    shape: str = "circle"
    is_open: bool = False
    is_named: bool = True
    ends: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Point:
    """One model on a panel of points: circles are base models, triangles tuned models."""

    x: float
    y: float
    hover: str
    colour: int
    is_tuned: bool = False


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


class Panel(str):
    """The SVG of one panel, and what it shows.

    Attributes:
        protocol: name of the protocol, in lower case.
        plot: kind, title, labels of the axes and the numbers drawn, as plain lists: what figure_scripts.py draws again.
    """

    protocol: str
    plot: dict[str, Any]

    def __new__(cls, svg: str, protocol: str, plot: dict[str, Any]) -> Panel:
        """Make a panel of its drawing."""
        panel = super().__new__(cls, svg)
        panel.protocol, panel.plot = protocol.lower(), plot
        return panel


def dot_panel(
    titles: tuple[str, str],
    axis: str,
    dots: list[Dot],
    ceilings: list[tuple[str, float]],
    x_range: tuple[float, float],
    left: float,
    best_control: float = math.nan,
) -> Panel:
    """One row per source: a dot (model), ring (untrained) or diamond (control) on a bar that shows the interval.

    Args:
        titles: name of the protocol, and of the data set, "" if the text around the figure names it.
        axis: label of the x axis.
        dots: from top to bottom; an untrained control with the label of the model before it shares its row; the first
            control without a model has extra space above it.
        ceilings: (label, value) of each.
        x_range: from `span`; shared by the panels of one figure.
        left: px where the labels end and the scale begins.
        best_control: the highest score of a control, drawn as a line through the rows of the models; NaN for none.
    """
    protocol, dataset = titles
    title, top = " · ".join(filter(None, (dataset, protocol))), TOP + (16 if dataset and ceilings else 0)
    scale = Scale(*x_range, left, WIDTH - 12)
    y, marks, rows = top + 12 - ROW, [], []
    for before, dot in zip([None, *dots], dots, strict=False):
        shared = before is not None and (before.kind, dot.kind, before.label) == ("model", "untrained", dot.label)
        is_first_control = before is not None and before.kind != "control" and dot.kind == "control"
        y += 0 if shared else 1.5 * ROW if is_first_control else ROW
        y += 0 if shared else _SECOND_LINE * sum("\n" in one.label for one in (before, dot) if one) / 2
        at = [None if math.isnan(value) else scale(value) for value in (dot.value, dot.low, dot.high)]
        marks.append({"dot": dot, "shared": shared, "y": y, "at": at})
        rows.append([dot.label, dot.kind, round((y - top) / ROW, 2), dot.value, dot.low, dot.high])
    levels = [(words, scale(value)) for words, value in ceilings]
    alt = _alternative(axis, title, [dot.hover for dot in dots[:MOST_DESCRIBED]] + [words for words, _ in ceilings])
    frame = {"left": left, "right": WIDTH - 12, "top": top, "bottom": y + 14, "zero": scale(0)}
    best = None if math.isnan(best_control) else scale(best_control)
    ticks = _legible(scale.ticks())
    parts = {"protocol": protocol, "marks": marks, "ceilings": levels, "best": best, "x_ticks": ticks}
    svg = _template().render(shape="dots", title=title, alt=alt, axis=axis, frame=frame, height=y + 52, **parts)
    plot = {"rows": rows, "ceilings": ceilings, "best_control": best_control}
    return Panel(svg, protocol, {"kind": "dots", "title": title, "x_label": axis, "x_range": x_range, **plot})


def line_panel(
    title: str,
    axis: str,
    lines: list[Line],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    steps: list[tuple[float, str]],
    measure: str = "Pearson r",
) -> Panel:
    """Lines over x; the height grows with the number of labels.

    Args:
        title: name of the protocol.
        axis: label of the x axis; "" if the ticks explain it.
        lines: at least one with `is_named`.
        x_range: first and last x.
        y_range: from `span`; shared by the panels of one figure.
        steps: (x, label) of the ticks; labels that would overlap are left out.
        measure: label of the y axis.
    """
    named = [line for line in lines if line.is_named]
    bottom = TOP + max(190.0, 13.0 * len(named))
    right = WIDTH - max(len(line.label) for line in named) * LETTER - 18
    x, y = Scale(*x_range, _LEFT, right), Scale(*y_range, bottom, TOP)
    places = iter(_apart([y(line.points[-1][1]) for line in named], TOP, bottom))
    marks = [
        {
            "line": line,
            "at": next(places) if line.is_named else None,
            "points": [(x(px), y(py), hover, ring) for px, py, hover, ring in line.points],
            "bars": [
                (x(point[0]), y(_within(low, y_range)), y(_within(high, y_range)))
                for point, (low, high) in zip(line.points, line.ends, strict=False)
                if math.isfinite(low + high)
            ],
        }
        for line in lines
    ]
    highest = [f"{line.label} {number(max(point[1] for point in line.points))}" for line in lines]
    alt = _alternative(f"{measure} by {axis or 'base and tuned'}, highest of each line", title, highest)
    frame = {"left": _LEFT, "right": right, "top": TOP, "bottom": bottom, "zero": y(0), "measure": measure}
    ticks = _legible([(x(value), words) for value, words in steps])
    parts = {"protocol": title, "marks": marks, "x_ticks": ticks, "y_ticks": y.ticks()}
    height = bottom + (38 if axis else 22)
    svg = _template().render(shape="lines", title=title, alt=alt, axis=axis, frame=frame, height=height, **parts)
    drawn = [
        {"label": line.label, "colour": _hex(line.colour), "dash": line.dash, "marker": line.shape,
         "is_open": line.is_open, "is_named": line.is_named, "points": [[px, py] for px, py, _, _ in line.points],
         "rings": [[px, py] for px, py, _, ring in line.points if ring], "ends": line.ends}
        for line in lines
    ]  # fmt: skip
    axes = {"x_label": axis, "y_label": measure, "x_range": x_range, "y_range": y_range}
    shown = [[value, words] for value, words in steps if (x(value), words) in ticks]
    return Panel(svg, title, {"kind": "lines", "title": title, **axes, "lines": drawn, "x_ticks": shown})


def point_panel(
    title: str,
    axes: tuple[str, str],
    points: list[Point],
    band: Band | None,
    y_range: tuple[float, float],
    heading: str,
    powers: bool = False,
) -> Panel:
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
    x, y = Scale(low - margin, high + margin, _LEFT, WIDTH - 12), Scale(*y_range, bottom, TOP)
    x_ticks = _legible(_powers(x) if powers else x.ticks(5))
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
    frame = {"left": _LEFT, "right": WIDTH - 12, "top": TOP, "bottom": bottom, "zero": y(0), "measure": axes[1]}
    parts: dict[str, Any] = {"marks": marks, "band": shape, "x_ticks": x_ticks, "y_ticks": y.ticks()}
    parts |= {"protocol": title, "heading": heading}
    height = bottom + 38
    svg = _template().render(shape="points", title=title, alt=alt, axis=axes[0], frame=frame, height=height, **parts)
    drawn = [[point.x, point.y, _hex(point.colour), point.is_tuned] for point in points]
    fitted = vars(band) if band else None
    labels = {"x_label": axes[0], "y_label": axes[1], "y_range": y_range, "heading": heading, "powers": powers}
    return Panel(svg, title, {"kind": "points", "title": title, **labels, "points": drawn, "band": fitted})


def brain_panel(
    titles: tuple[str, str, str], views: list[dict[str, Any]], bottom: float, highest: float, n_levels: int, colour: int
) -> Panel:
    """A glass brain: three views side by side, and the colour scale below.

    Args:
        titles: the model, the protocol, and the subject or "mean of 3 subjects".
        views: of each name, left, right (labels), x, y, width (px), highest, silhouette, outline, levels (paths) and
            rows (text).
        bottom: px where the views end.
        highest: upper end of the scale, which begins at 0.
        n_levels: number of its steps.
        colour: index in the palette.
    """
    model, protocol, subject = titles
    title = f"{model} · {protocol}"
    scale = Scale(0.0, highest, WIDTH / 4, 3 * WIDTH / 4)
    marks = [view | {"hover": f"{view['name']}: highest r {number(view['highest'])}"} for view in views]
    alt = _alternative(f"Glass brain of {subject}", title, [mark["hover"] for mark in marks])
    bar = [(scale(highest * k / n_levels), _opacity(k + 1, n_levels)) for k in range(n_levels)]
    parts: dict[str, Any] = {
        "protocol": protocol,
        "views": marks,
        "bar": bar,
        "x_ticks": scale.ticks(5),
        "series": colour,
    }
    parts |= {"subtitle": subject, "opacities": {k: _opacity(k, n_levels) for k in range(1, n_levels + 1)}}
    frame = {"left": 0, "bottom": bottom, "step": (scale(highest) - scale(0)) / n_levels}
    axis = "Pearson r, highest along the axis"
    svg = _template().render(shape="brain", title=title, alt=alt, axis=axis, frame=frame, height=bottom + 64, **parts)
    drawn = [{name: view[name] for name in ("name", "left", "right", "rows")} for view in views]
    plot = {"views": drawn, "highest": highest, "n_levels": n_levels, "colour": _hex(colour), "x_label": axis}
    return Panel(svg, protocol, {"kind": "brain", "title": f"{title}, {subject}", **plot})


def _opacity(level: int, n_levels: int) -> float:
    return round(0.08 + 0.92 * level / n_levels, 3)


def _hex(colour: int | None) -> str:
    return "black" if colour is None else PALETTE[colour]


def _legible(ticks: list[tuple[float, str]], gap: float = 8.0) -> list[tuple[float, str]]:
    """The ticks (px, label) whose labels do not overlap: the first, the last, and those between that have space."""
    if len(ticks) < 2:
        return ticks

    def apart(left: tuple[float, str], right: tuple[float, str]) -> bool:
        return right[0] - left[0] >= (len(left[1]) + len(right[1])) / 2 * LETTER + gap

    ordered = sorted(ticks)
    shown, last = ordered[:1], ordered[-1]
    for tick in ordered[1:-1]:
        if apart(shown[-1], tick) and apart(tick, last):
            shown.append(tick)
    return [*shown, last] if apart(shown[-1], last) else [*shown[:-1], last]


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
