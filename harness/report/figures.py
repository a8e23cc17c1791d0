"""The figures of the report: rows of the tables in, panels out.

A figure is a list of panels (SVG), one per protocol, STRICT first; panels of one figure share their scale. Of many
models the best are drawn, so that a page of 500 stays one that opens at once; the tables have them all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from harness.numbers import interval, number
from harness.protocol import ProtocolName, Variant
from harness.report.panels import LETTER, Dot, Line, dot_panel, line_panel, span

if TYPE_CHECKING:
    import pandas as pd

MOST_MODELS, MOST_CURVES, MOST_PAIRS = 30, 12, 40  # that a figure draws

PROTOCOLS: tuple[ProtocolName, ...] = ("strict", "paper", "equal", "brainscore2026")


@dataclass(frozen=True)
class Figure:
    """Panels that share a caption; each panel is an SVG. legend: (place in the palette, what has that colour)."""

    caption: str
    panels: list[str]
    legend: tuple[tuple[int, str], ...] = ()


def of_many(n: int, most: int, what: str = "models") -> str:
    """A sentence for the caption where not all are drawn."""
    return f" Drawn are the best {most} of {n:,} {what}; the table has them all." if n > most else ""


def best_models(rows: pd.DataFrame, most: int, by: str = "r") -> set[str]:
    """The best models with their variants, and all controls, as names of sources."""
    models = list(dict.fromkeys(base_name(name) for name in in_order(rows[rows["kind"] != "control"], by)))[:most]
    return {name for name, kind in zip(rows["model"], rows["kind"], strict=True)
            if kind == "control" or base_name(name) in set(models)}  # fmt: skip


def scores(rows: pd.DataFrame) -> list[str]:
    """Score of each source with its interval against the ceiling; rows of "model_scores" of one data set and target."""
    return _dot_panels(rows, "r", ("r_low", "r_high"), "Pearson r", has_ceiling=True)


def reading(rows: pd.DataFrame) -> list[str]:
    """Reading times: r against the ceiling, then the gain in log-likelihood per word where it was measured.

    Takes the rows of "reading_scores" of one data set.
    """
    gains = rows[rows["delta_ll"].notna()]
    ends = ("delta_ll_low", "delta_ll_high")
    return [
        *_dot_panels(rows, "r", ("r_low", "r_high"), "Pearson r with reading time", by="abs_r", has_ceiling=True),
        *_dot_panels(gains, "delta_ll", ends, "Δ log-likelihood per word", by="delta_ll"),
    ]


def layers(rows: pd.DataFrame, chosen: pd.DataFrame) -> list[str]:
    """Score against layer, one line per model and stack; the ceiling and the best control as levels.

    Args:
        rows: "layer_scores" of one data set and target; controls are left out, for their layers are variants.
        chosen: "model_scores" of the same; a ring marks the layer chosen.
    """
    rows = rows.loc[
        (rows["kind"] != "control") & rows["r"].notna(), ["model", "protocol", "stack", "layer", "r", "ceiling"]
    ]
    whole = rows["model"].map({name: base_name(name) for name in set(rows["model"])})
    best = rows["r"].groupby(whole).max().nlargest(MOST_CURVES).index
    rows = rows[whole.isin(best)]
    controls = chosen[(chosen["kind"] == "control") & chosen["r"].notna()].sort_values("r")
    colours = _colours(rows["model"])
    y_range = span([*rows["r"], *rows["ceiling"], *controls.groupby("protocol")["r"].max()])
    drawn = []
    for protocol, part in _by_protocol(rows):
        rings = {tuple(key) for key in _of(chosen, protocol)[["model", "stack", "layer"]].to_numpy()}
        last = max(int(part["layer"].max()), 1)
        ends, models = (0.0, float(last)), set(part["model"])
        best = _of(controls, protocol).tail(1)
        lines = [
            *(_curve(curve, colours, rings, models) for _, curve in part.groupby(["model", "stack"], sort=False)),
            *(_level(words, value, ends, "5 3") for words, value in _ceilings(part)),
            *(_level(f"{control.model} (control)", control.r, ends, "1 3") for control in best.itertuples()),
        ]
        steps = [(float(k), str(k)) for k in range(0, last + 1, -(-last // 8))]
        drawn.append(line_panel(protocol.upper(), "layer", lines, ends, y_range, steps))
    return drawn


def slopes(rows: pd.DataFrame) -> list[str]:
    """Base against tuned, one line per pair; rows of "comparisons" of one data set and target.

    The scale starts at 0: a small difference should look small.
    """
    rows = rows[rows["base_score"].notna() & rows["tuned_score"].notna()]
    best = rows.groupby("tuned")["tuned_score"].max().nlargest(MOST_PAIRS).index
    rows = rows[rows["tuned"].isin(best)]
    colours = _colours(rows["base"])
    y_range = span([*rows["base_score"], *rows["tuned_score"]])
    drawn = []
    for protocol, part in _by_protocol(rows):
        lines = []
        for pair in part.itertuples():
            hover = f"{pair.base} {number(pair.base_score)} → {pair.tuned} {number(pair.tuned_score)}"
            points = [(0.0, pair.base_score, hover, False), (1.0, pair.tuned_score, hover, False)]
            lines.append(Line(_label(pair.tuned), colours[pair.base], points))
        steps = [(0.0, "base"), (1.0, "tuned")]
        drawn.append(line_panel(protocol.upper(), "", lines, (-0.15, 1.0), y_range, steps))
    return drawn


def base_name(source: str) -> str:
    """The model that a variant ("model:untrained") is one of; any other name as it is."""
    name, _, variant = source.rpartition(":")
    return name if variant in get_args(Variant) else source


def in_order(rows: pd.DataFrame, by: str = "r") -> list[str]:
    """Names of the sources: models from the highest score down, each with its variants, the untrained first; controls.

    The score is that under STRICT where there is one.
    """
    best: dict[str, float] = {}
    few = rows[list(dict.fromkeys(["model", "protocol", by]))]
    for row in sorted(few.to_dict("records"), key=lambda row: PROTOCOLS.index(row["protocol"])):
        best.setdefault(row["model"], -math.inf if math.isnan(row[by]) else row[by])
    control = dict(zip(rows["model"], rows["kind"] == "control", strict=True))
    own = {name: best.get(base_name(name), best[name]) for name in best}
    place = {name: (name != base_name(name), not name.endswith(":untrained"), name) for name in best}
    return sorted(best, key=lambda name: (control[name], -own[name], base_name(name), place[name]))


def _dot_panels(
    rows: pd.DataFrame, value: str, ends: tuple[str, str], axis: str, by: str = "r", has_ceiling: bool = False
) -> list[str]:
    """One panel per protocol, sources in one order and on one scale."""
    rows = rows[rows["model"].isin(best_models(rows, MOST_MODELS, by))]
    columns = [value, *ends, *(["ceiling"] if has_ceiling else [])]
    x_range = span([level for column in columns for level in rows[column]])
    names = in_order(rows, by)
    twins = {name: base_name(name) for name in names if name.endswith(":untrained") and base_name(name) in names}
    labels = {name: _label(twins.get(name, name)) for name in names}
    left = max((len(label) for label in labels.values()), default=0) * LETTER + 14
    drawn = []
    for protocol, part in _by_protocol(rows):
        found = {row["model"]: row for row in part.to_dict("records")}
        dots = [_dot(labels[name], found[name], value, ends) for name in names if name in found]
        drawn.append(dot_panel(protocol.upper(), axis, dots, _ceilings(part) if has_ceiling else [], x_range, left))
    return drawn


def _dot(label: str, row: dict[str, Any], value: str, ends: tuple[str, str]) -> Dot:
    low, high = (row[end] for end in ends)
    hover = f"{row['model']} {number(row[value])}" + ("" if math.isnan(low) else f" ({interval(low, high)})")
    return Dot(label, row["kind"], row[value], low, high, hover)


def _curve(curve: pd.DataFrame, colours: dict[str, int], rings: set[tuple[Any, ...]], models: set[str]) -> Line:
    """The layers of one model and stack; beside its model an untrained twin is known by colour and needs no name."""
    model, stack = curve["model"].iloc[0], curve["stack"].iloc[0]
    varied = model != base_name(model)
    points = [
        (float(row.layer), row.r, f"{model} {stack}.{row.layer}: {number(row.r)}", (model, stack, row.layer) in rings)
        for row in curve.sort_values("layer").itertuples()
    ]
    return Line(
        label=_label(model) if stack == "decoder" else f"{_label(model)} {stack}",
        colour=colours[base_name(model)],
        points=points,
        dash="4 3" if varied else "none",
        shape="circle" if stack == "decoder" else "square",
        is_open=varied,
        is_named=not model.endswith(":untrained") or base_name(model) not in models,
    )


def _level(label: str, value: float, ends: tuple[float, float], dash: str) -> Line:
    return Line(label, None, [(x, value, "", False) for x in ends], dash, shape="none")


def _of(rows: pd.DataFrame, protocol: str) -> pd.DataFrame:
    return rows[rows["protocol"] == protocol]


def _by_protocol(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(name, _of(rows, name)) for name in PROTOCOLS if name in set(rows["protocol"])]


def _ceilings(rows: pd.DataFrame) -> list[tuple[str, float]]:
    """(words, value) of each ceiling in the rows; as a rule one."""
    return [(f"ceiling {number(value)}", value) for value in sorted(set(rows["ceiling"].dropna()))]


def _colours(models: Iterable[str]) -> dict[str, int]:
    """Place in the palette of each model; an untrained twin has its model's."""
    return {name: i for i, name in enumerate(sorted({base_name(name) for name in models}))}


def _label(source: str) -> str:
    """A name short enough for a phone: a variant marked by a word, a long name cut in its middle."""
    name = base_name(source)
    short = name if len(name) <= 22 else f"{name[:8]}…{name[-13:]}"
    return short if source == name else f"{short}, {source.rpartition(':')[2]}"
