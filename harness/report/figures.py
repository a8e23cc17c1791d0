"""The figures of the report: rows of the tables in, panels out.

A figure is a list of panels (SVG), one per protocol, STRICT first; panels of one figure share their scale. If there are
many models, only the best are drawn, so that a page with 500 models opens quickly; the tables list all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.numbers import interval, number
from harness.protocol import ProtocolName
from harness.report.panels import CONTROL, LETTER, Dot, Line, Panel, dot_panel, line_panel, named_colours, span
from harness.variants import base_name

if TYPE_CHECKING:
    import pandas as pd

_VARIABLE = re.compile(r"var\([^,()]*, (#\w+)\)")  # a colour of the page, with the value it has in light
_GAP = 16  # between the panels of a standalone figure, in pixels
MOST_MODELS, MOST_CURVES, MOST_PAIRS, MOST_CONTROLS = 30, 12, 40, 4  # drawn in one figure
MOST_WITH_BARS, MOST_IN_TWO_LINES = 10, 12  # pairs whose intervals are drawn, sources whose labels may have two lines
_ASIDE = 0.14  # width in which pairs stand side by side, so that their intervals can be told apart

NO_INTERVAL = (math.nan, math.nan)
Intervals = Mapping[tuple[str, str], tuple[float, float]]  # (model, protocol) -> lower and upper end
PROTOCOLS: tuple[ProtocolName, ...] = ("strict", "paper", "equal", "brainscore2026")


@dataclass(frozen=True)
class Figure:
    """Panels that share a caption.

    Attributes:
        panels: SVG drawings.
        legend: (index in the palette, label) of each colour.
    """

    caption: str
    panels: list[Panel]
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
        _VARIABLE.sub(r"\1", panel).replace("<svg ", f'<svg x="{_GAP + start:g}" y="{_GAP}" height="{tall:g}" ', 1)
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


def scores(rows: pd.DataFrame, axis: str = "Pearson r", by: str = "r", dataset: str = "") -> list[Panel]:
    """Score of each source with its interval, the ceiling and the highest control.

    Args:
        rows: "model_scores" of one data set and target.
        axis: what column r holds.
        by: the column by which sources are ordered.
        dataset: its name in the title of each panel; "" leaves it out.
    """
    return _dot_panels(rows, "r", ("r_low", "r_high"), axis, by, dataset, has_ceiling=True)


def reading(rows: pd.DataFrame, dataset: str = "") -> list[Panel]:
    """Reading times: r with the ceiling, then the gain in log-likelihood per word, if it was computed.

    Args:
        rows: "reading_scores" of one data set.
        dataset: as in `scores`.
    """
    gains = rows[rows["delta_ll"].notna()]
    axis, ends = "Pearson r with reading time", ("delta_ll_low", "delta_ll_high")
    return [
        *_dot_panels(rows, "r", ("r_low", "r_high"), axis, "abs_r", dataset, has_ceiling=True),
        *_dot_panels(gains, "delta_ll", ends, "Δ log-likelihood (nats per word)", "delta_ll", dataset),
    ]


def layers(rows: pd.DataFrame, chosen: pd.DataFrame, colours: Mapping[str, int] | None = None) -> list[Panel]:
    """Score by layer, one line per model and stack, with the ceiling and the best control as horizontal lines.

    Args:
        rows: "layer_scores" of one data set and target; controls are skipped, because their layers are
            variants, and so are chosen units, which are of all layers.
        chosen: "model_scores" of the same data set and target; a ring marks the selected layer.
        colours: model -> index in the palette; None gives each model one.
    """
    is_layer = (rows["kind"] != "control") & (rows["stack"] != "units") & rows["r"].notna()
    rows = rows.loc[is_layer, ["model", "protocol", "stack", "layer", "r", "ceiling"]]
    base_names = rows["model"].map({name: base_name(name) for name in set(rows["model"])})
    best = rows["r"].groupby(base_names).max().nlargest(MOST_CURVES).index
    rows = rows[base_names.isin(best)]
    controls = chosen[(chosen["kind"] == "control") & chosen["r"].notna()].sort_values("r")
    colours = colours or _colours(rows["model"])
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
            *(
                _level(f"{control.model} (control)", control.r, x_range, "1 3", CONTROL)
                for control in best_control.itertuples()
            ),
        ]
        steps = [(float(k), str(k)) for k in range(0, last + 1, -(-last // 8))]
        panels.append(line_panel(protocol.upper(), "layer (0: embeddings)", lines, x_range, y_range, steps))
    return panels


def slopes(
    rows: pd.DataFrame, ends: Intervals | None = None, colours: Mapping[str, int] | None = None, measure: str = "r"
) -> list[Panel]:
    """Scores of base and tuned models, one line per pair; the scale starts at 0, so that small gains look small.

    Args:
        rows: "comparisons" of one data set and target.
        ends: interval of the score of each model and protocol, where there is one; drawn for up to ten pairs.
        colours: tuned model -> index in the palette; None gives each base one.
        measure: label of the y axis.
    """
    rows = rows[rows["base_score"].notna() & rows["tuned_score"].notna()]
    best = rows.groupby("tuned")["tuned_score"].max().nlargest(MOST_PAIRS).index
    rows = rows[rows["tuned"].isin(best)]
    labels, of_base = _labels(rows["tuned"]), _colours(rows["base"])
    colours = colours or {row.tuned: of_base[row.base] for row in rows.itertuples()}
    shown = ends if ends and len(best) <= MOST_WITH_BARS else {}
    y_range = span([*rows["base_score"], *rows["tuned_score"], *(end for pair in shown.values() for end in pair)])
    panels = []
    for protocol, pairs in _by_protocol(rows):
        lines, bases = [], list(dict.fromkeys(pairs["base"]))
        for k, pair in enumerate(pairs.itertuples()):
            hover = f"{pair.base} {number(pair.base_score)} → {pair.tuned} {number(pair.tuned_score)}"
            places = [(bases.index(pair.base), len(bases)), (k, len(pairs))]
            xs = [end + _ASIDE * place / max(n - 1, 1) for end, (place, n) in enumerate(places)]
            points = [(x, y, hover, False) for x, y in zip(xs, (pair.base_score, pair.tuned_score), strict=True)]
            bars = [shown.get((model, protocol), NO_INTERVAL) for model in (pair.base, pair.tuned)]
            if pair.base in set(pairs["base"].iloc[:k]):
                bars[0] = NO_INTERVAL  # drawn once
            lines.append(Line(labels[pair.tuned], colours[pair.tuned], points, ends=tuple(bars)))
        steps = [(_ASIDE / 2, "base"), (1 + _ASIDE / 2, "tuned")]
        panels.append(line_panel(protocol.upper(), "", lines, (-0.15, 1 + _ASIDE), y_range, steps, measure))
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
    rows: pd.DataFrame, value: str, ends: tuple[str, str], axis: str, by: str, dataset: str, has_ceiling: bool = False
) -> list[Panel]:  # fmt: skip
    """One panel per protocol; all share the order of sources and the scale."""
    rows = rows[rows["model"].isin(best_models(rows, MOST_MODELS, by))]
    rows = rows[(rows["kind"] != "control") | _is_high_control(rows, by)]
    columns = [value, *ends, *(["ceiling"] if has_ceiling else [])]
    x_range = span([level for column in columns for level in rows[column]])
    names = in_order(rows, by)
    untrained = {name: base_name(name) for name in names if name.endswith(":untrained") and base_name(name) in names}
    of_source = _whole_labels(dict.fromkeys(untrained.get(name, name) for name in names))
    labels = {name: _in_lines(of_source[untrained.get(name, name)]) for name in names}
    left = max((len(line) for label in labels.values() for line in label.split("\n")), default=0) * LETTER + 14
    panels = []
    for protocol, scores in _by_protocol(rows):
        row_of = {row["model"]: row for row in scores.to_dict("records")}
        dots = [_dot(labels[name], row_of[name], value, ends) for name in names if name in row_of]
        best_control = scores.loc[scores["kind"] == "control", value].max()
        ceilings = _ceilings(scores) if has_ceiling else []
        titles = (protocol.upper(), dataset)
        panels.append(dot_panel(titles, axis, dots, ceilings, x_range, left, best_control))
    return panels


def _is_high_control(rows: pd.DataFrame, by: str) -> pd.Series:
    """Whether a row is one of the highest controls of its protocol."""
    controls = rows[(rows["kind"] == "control") & rows[by].notna()]
    highest = controls.sort_values(by, ascending=False, kind="stable").groupby("protocol").head(MOST_CONTROLS)
    return rows.index.isin(highest.index)


def _dot(label: str, row: dict[str, Any], value: str, ends: tuple[str, str]) -> Dot:
    low, high = (row[end] for end in ends)
    hover = f"{row['model']} {number(row[value])}" + ("" if math.isnan(low) else f" ({interval(low, high)})")
    return Dot(label, row["kind"], row[value], low, high, hover)


def _curve(
    curve: pd.DataFrame, labels: dict[str, str], colours: Mapping[str, int], rings: set[tuple[Any, ...]]
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


def _level(label: str, value: float, ends: tuple[float, float], dash: str, colour: int | None = None) -> Line:
    return Line(label, colour, [(x, value, "", False) for x in ends], dash, shape="none")


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
    return named_colours(base_name(name) for name in models)


def _labels(sources: Iterable[str]) -> dict[str, str]:
    """Source -> a name short enough for a phone; variants are marked by a word."""
    sources = list(sources)
    short = short_names(base_name(source) for source in sources)
    return {
        source: short[source] if source == base_name(source)
        else f"{short[base_name(source)]}, {source.rpartition(':')[2]}"
        for source in sources
    }  # fmt: skip


LONGEST_NAME = 26
LONGEST_LINE = 30  # of a name in two lines


def _whole_labels(sources: Iterable[str]) -> dict[str, str]:
    """Labels for rows of dots: whole names that fit two lines, without their organisations if these are long."""
    sources = list(sources)
    labels = _labels(sources)
    whole = {source: source if len(source) <= LONGEST_NAME else source.rpartition("/")[2] for source in sources}
    fits = all(len(line) <= LONGEST_LINE for name in whole.values() for line in _in_lines(name).split("\n"))
    if not fits or len(sources) > MOST_IN_TWO_LINES or len(set(whole.values())) < len(sources):
        return labels
    return {source: name.replace(":", ", ") if ":" in source else name for source, name in whole.items()}


def _in_lines(name: str) -> str:
    """The name; a long one in two lines of about equal length, broken after a hyphen, a full stop or the like."""
    pieces = re.split(r"(?<=[-_.@/, ])", name)
    if len(name) <= LONGEST_NAME or len(pieces) < 2:
        return name
    breaks = [("".join(pieces[:k]), "".join(pieces[k:])) for k in range(1, len(pieces))]
    return "\n".join(min(breaks, key=lambda lines: max(map(len, lines)))).replace(" \n", "\n")


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Name -> at most 26 characters: without its organisation, by the words in which it differs, or cut.

    Names are never cut to be the same: they are then numbered.
    """
    full = list(dict.fromkeys(names))
    short = {name: name if len(name) <= LONGEST_NAME else name.rpartition("/")[2] for name in full}
    long = [name for name in full if len(short[name]) > LONGEST_NAME]
    if len(set(short.values())) < len(full):
        long = [name for name in full if len(name) > LONGEST_NAME]
    return short | _differing(long, set(full) - set(long)) if long else short


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:10]}…{name[-15:]}"


def _differing(long: list[str], taken: set[str]) -> dict[str, str]:
    """Name -> its words from the first that differs on, or the differing ones alone; else cut, or cut and numbered."""
    words = [re.split(r"[-_.@/ ]+", name) for name in long]
    if len(long) > 1 and len({len(of_name) for of_name in words}) == 1:
        varying = [k for k, column in enumerate(zip(*words, strict=True)) if len(set(column)) > 1]
        for places in (range(varying[0], len(words[0])), varying):
            labels = ["… " + " ".join(of_name[k] for k in places) for of_name in words]
            if max(map(len, labels)) <= LONGEST_NAME and len(set(labels) - taken) == len(long):
                return dict(zip(long, labels, strict=True))
    cut = {name: _cut(name.rpartition("/")[2]) for name in long}
    if len(set(cut.values()) - taken) == len(long):
        return cut
    return {name: f"{_cut(name)} ({k})" for k, name in enumerate(long, start=1)}
