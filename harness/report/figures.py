"""The figures of the report: rows of the tables in, panels out.

A figure is a list of panels (SVG), one per protocol, STRICT first; panels of one figure share their scale. If there are
many models, only the best are drawn, so that a page with 500 models opens quickly; the tables list all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.numbers import interval, number
from harness.protocol import ProtocolName
from harness.report.panels import LETTER, Dot, Line, dot_panel, line_panel, span
from harness.variants import base_name

if TYPE_CHECKING:
    import pandas as pd

_GAP = 16  # between the panels of a standalone figure, in pixels
MOST_MODELS, MOST_CURVES, MOST_PAIRS = 30, 12, 40  # drawn in one figure

PROTOCOLS: tuple[ProtocolName, ...] = ("strict", "paper", "equal", "brainscore2026")


@dataclass(frozen=True)
class Figure:
    """Panels that share a caption.

    Attributes:
        panels: SVG drawings.
        legend: (index in the palette, label) of each colour.
    """

    caption: str
    panels: list[str]
    legend: tuple[tuple[int, str], ...] = ()


def standalone(figure: Figure) -> str:
    """One SVG document with the panels of a figure side by side, for files outside the report.

    Args:
        figure: at least one panel.

    Returns:
        The document: dark text on white, since files have no style sheet.
    """
    sizes = [re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', panel) for panel in figure.panels]
    widths, heights = zip(*((float(size[1]), float(size[2])) for size in sizes if size), strict=True)
    starts = [sum(widths[:k]) + _GAP * k for k in range(len(widths))]
    width, height = starts[-1] + widths[-1] + 2 * _GAP, max(heights) + 2 * _GAP
    panels = "\n".join(
        panel.replace("<svg ", f'<svg x="{_GAP + start:g}" y="{_GAP}" height="{tall:g}" ', 1)
        for panel, start, tall in zip(figure.panels, starts, heights, strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" color="#1b1b1b" font-family="system-ui, sans-serif">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{panels}\n</svg>\n'
    )


def of_many(n: int, most: int, what: str = "models") -> str:
    """A sentence for the caption if only some are drawn; else ""."""
    return (
        f" Only {most} of {n:,} {what}, those with the highest scores, are drawn; the table lists all."
        if n > most
        else ""
    )


def best_models(rows: pd.DataFrame, most: int, by: str = "r") -> set[str]:
    """Names of the best models, their variants, and all controls without a model."""
    models = list(dict.fromkeys(base_name(name) for name in in_order(rows[rows["kind"] != "control"], by)))[:most]
    return {name for name, kind in zip(rows["model"], rows["kind"], strict=True)
            if kind == "control" or base_name(name) in set(models)}  # fmt: skip


def scores(rows: pd.DataFrame, axis: str = "Pearson r", by: str = "r") -> list[str]:
    """Score of each source with its interval and the ceiling.

    Args:
        rows: "model_scores" of one data set and target.
        axis: what column r holds.
        by: the column by which sources are ordered.
    """
    return _dot_panels(rows, "r", ("r_low", "r_high"), axis, by, has_ceiling=True)


def reading(rows: pd.DataFrame) -> list[str]:
    """Reading times: r with the ceiling, then the gain in log-likelihood per word, if it was computed.

    Args:
        rows: "reading_scores" of one data set.
    """
    gains = rows[rows["delta_ll"].notna()]
    ends = ("delta_ll_low", "delta_ll_high")
    return [
        *_dot_panels(rows, "r", ("r_low", "r_high"), "Pearson r with reading time", by="abs_r", has_ceiling=True),
        *_dot_panels(gains, "delta_ll", ends, "Δ log-likelihood per word", by="delta_ll"),
    ]


def layers(rows: pd.DataFrame, chosen: pd.DataFrame) -> list[str]:
    """Score by layer, one line per model and stack, with the ceiling and the best control as horizontal lines.

    Args:
        rows: "layer_scores" of one data set and target; controls are skipped, because their layers are
            variants, and so are chosen units, which are of all layers.
        chosen: "model_scores" of the same data set and target; a ring marks the selected layer.
    """
    is_layer = (rows["kind"] != "control") & (rows["stack"] != "units") & rows["r"].notna()
    rows = rows.loc[is_layer, ["model", "protocol", "stack", "layer", "r", "ceiling"]]
    base_names = rows["model"].map({name: base_name(name) for name in set(rows["model"])})
    best = rows["r"].groupby(base_names).max().nlargest(MOST_CURVES).index
    rows = rows[base_names.isin(best)]
    controls = chosen[(chosen["kind"] == "control") & chosen["r"].notna()].sort_values("r")
    colours = _colours(rows["model"])
    y_range = span([*rows["r"], *rows["ceiling"], *controls.groupby("protocol")["r"].max()])
    panels = []
    for protocol, scores in _by_protocol(rows):
        rings = {tuple(key) for key in of_protocol(chosen, protocol)[["model", "stack", "layer"]].to_numpy()}
        last = max(int(scores["layer"].max()), 1)
        x_range, labels = (0.0, float(last)), _labels(scores["model"])
        best_control = of_protocol(controls, protocol).tail(1)
        lines = [
            *(_curve(curve, labels, colours, rings) for _, curve in scores.groupby(["model", "stack"], sort=False)),
            *(_level(words, value, x_range, "5 3") for words, value in _ceilings(scores)),
            *(_level(f"{control.model} (control)", control.r, x_range, "1 3") for control in best_control.itertuples()),
        ]
        steps = [(float(k), str(k)) for k in range(0, last + 1, -(-last // 8))]
        panels.append(line_panel(protocol.upper(), "layer", lines, x_range, y_range, steps))
    return panels


def slopes(rows: pd.DataFrame) -> list[str]:
    """Scores of base and tuned models, one line per pair; the scale starts at 0, so that small gains look small.

    Args:
        rows: "comparisons" of one data set and target.
    """
    rows = rows[rows["base_score"].notna() & rows["tuned_score"].notna()]
    best = rows.groupby("tuned")["tuned_score"].max().nlargest(MOST_PAIRS).index
    rows = rows[rows["tuned"].isin(best)]
    labels = _labels(rows["tuned"])
    colours = _colours(rows["base"])
    y_range = span([*rows["base_score"], *rows["tuned_score"]])
    panels = []
    for protocol, pairs in _by_protocol(rows):
        lines = []
        for pair in pairs.itertuples():
            hover = f"{pair.base} {number(pair.base_score)} → {pair.tuned} {number(pair.tuned_score)}"
            points = [(0.0, pair.base_score, hover, False), (1.0, pair.tuned_score, hover, False)]
            lines.append(Line(labels[pair.tuned], colours[pair.base], points))
        steps = [(0.0, "base"), (1.0, "tuned")]
        panels.append(line_panel(protocol.upper(), "", lines, (-0.15, 1.0), y_range, steps))
    return panels


def in_order(rows: pd.DataFrame, by: str = "r") -> list[str]:
    """Order the sources: models by descending score, each followed by its variants (untrained first); then controls.

    Args:
        rows: scores with the columns model, kind, protocol and `by`.
        by: the score; the STRICT value is used if there is one.

    Returns:
        The names of the sources, each once.
    """
    scores: dict[str, float] = {}
    columns = rows[list(dict.fromkeys(["model", "protocol", by]))]
    for row in sorted(columns.to_dict("records"), key=lambda row: PROTOCOLS.index(row["protocol"])):
        scores.setdefault(row["model"], -math.inf if math.isnan(row[by]) else row[by])
    is_control = dict(zip(rows["model"], rows["kind"] == "control", strict=True))
    model_score = {name: scores.get(base_name(name), scores[name]) for name in scores}
    variant_rank = {name: (name != base_name(name), not name.endswith(":untrained"), name) for name in scores}
    return sorted(scores, key=lambda name: (is_control[name], -model_score[name], base_name(name), variant_rank[name]))


def _dot_panels(
    rows: pd.DataFrame, value: str, ends: tuple[str, str], axis: str, by: str = "r", has_ceiling: bool = False
) -> list[str]:
    """One panel per protocol; all share the order of sources and the scale."""
    rows = rows[rows["model"].isin(best_models(rows, MOST_MODELS, by))]
    columns = [value, *ends, *(["ceiling"] if has_ceiling else [])]
    x_range = span([level for column in columns for level in rows[column]])
    names = in_order(rows, by)
    untrained = {name: base_name(name) for name in names if name.endswith(":untrained") and base_name(name) in names}
    of_source = _labels(dict.fromkeys(untrained.get(name, name) for name in names))
    labels = {name: of_source[untrained.get(name, name)] for name in names}
    left = max((len(label) for label in labels.values()), default=0) * LETTER + 14
    panels = []
    for protocol, scores in _by_protocol(rows):
        row_of = {row["model"]: row for row in scores.to_dict("records")}
        dots = [_dot(labels[name], row_of[name], value, ends) for name in names if name in row_of]
        panels.append(dot_panel(protocol.upper(), axis, dots, _ceilings(scores) if has_ceiling else [], x_range, left))
    return panels


def _dot(label: str, row: dict[str, Any], value: str, ends: tuple[str, str]) -> Dot:
    low, high = (row[end] for end in ends)
    hover = f"{row['model']} {number(row[value])}" + ("" if math.isnan(low) else f" ({interval(low, high)})")
    return Dot(label, row["kind"], row[value], low, high, hover)


def _curve(
    curve: pd.DataFrame, labels: dict[str, str], colours: dict[str, int], rings: set[tuple[Any, ...]]
) -> Line:  # fmt: skip
    """The layers of one model and stack; an untrained control drawn with its model gets its colour and no label."""
    model, stack = curve["model"].iloc[0], curve["stack"].iloc[0]
    is_variant = model != base_name(model)
    points = [
        (float(row.layer), row.r, f"{model} {stack}.{row.layer}: {number(row.r)}", (model, stack, row.layer) in rings)
        for row in curve.sort_values("layer").itertuples()
    ]
    return Line(
        label=labels[model] if stack == "decoder" else f"{labels[model]} {stack}",
        colour=colours[base_name(model)],
        points=points,
        dash="4 3" if is_variant else "none",
        shape="circle" if stack == "decoder" else "square",
        is_open=is_variant,
        is_named=not model.endswith(":untrained") or base_name(model) not in labels,
    )


def _level(label: str, value: float, ends: tuple[float, float], dash: str) -> Line:
    return Line(label, None, [(x, value, "", False) for x in ends], dash, shape="none")


def of_protocol(rows: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """The rows of one protocol."""
    return rows[rows["protocol"] == protocol]


def _by_protocol(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(name, of_protocol(rows, name)) for name in PROTOCOLS if name in set(rows["protocol"])]


def _ceilings(rows: pd.DataFrame) -> list[tuple[str, float]]:
    """(label, value) of each distinct ceiling in the rows, usually one."""
    return [(f"ceiling {number(value)}", value) for value in sorted(set(rows["ceiling"].dropna()))]


def _colours(models: Iterable[str]) -> dict[str, int]:
    """Index in the palette of each model; variants share the colour of their model."""
    return {name: i for i, name in enumerate(sorted({base_name(name) for name in models}))}


def _labels(sources: Iterable[str]) -> dict[str, str]:
    """Source -> a name short enough for a phone; variants are marked by a word."""
    sources = list(sources)
    short = short_names(base_name(source) for source in sources)
    return {
        source: short[source] if source == base_name(source)
        else f"{short[base_name(source)]}, {source.rpartition(':')[2]}"
        for source in sources
    }  # fmt: skip


LONGEST_NAME = 22


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Name -> at most 22 characters, cut in the middle.

    If two would then be equal, long names are given by the words in which they differ, else numbered.
    """
    full = list(dict.fromkeys(names))
    short = {name: _cut(name) for name in full}
    if len(set(short.values())) < len(full):
        long = [name for name in full if len(name) > LONGEST_NAME]
        short |= _differing(long, set(full) - set(long))
    return short


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:8]}…{name[-13:]}"


def _differing(long: list[str], taken: set[str]) -> dict[str, str]:
    """Name -> its words from the first that differs on, or the differing ones alone; else cut and numbered."""
    words = [re.split(r"[-_.@/ ]+", name) for name in long]
    if len(long) > 1 and len({len(of_name) for of_name in words}) == 1:
        varying = [k for k, column in enumerate(zip(*words, strict=True)) if len(set(column)) > 1]
        for places in (range(varying[0], len(words[0])), varying):
            labels = ["… " + " ".join(of_name[k] for k in places) for of_name in words]
            if max(map(len, labels)) <= LONGEST_NAME and len(set(labels) - taken) == len(long):
                return dict(zip(long, labels, strict=True))
    number_of = {name: k for k, name in enumerate(long, start=1)}
    return {name: f"{_cut(name)} ({k})" for name, k in number_of.items()}
