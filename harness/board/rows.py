"""Rows of the board: as data for the page's script, and as cells of plain tables."""

from __future__ import annotations

import hashlib
import math
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.numbers import interval, number
from harness.report import cells
from harness.report.cells import ReportTable
from harness.variants import base_name

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup

DIGITS = 4  # after the point, in the data of the script; it shows three


def file_of(kind: str, name: str) -> str:
    """The page of a model, data set or training, relative to the site: readable, and safe on every file system.

    Args:
        kind: folder, such as "models".
        name: any text; names that differ in case or special characters alone get different files.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60] or "page"
    return f"{kind}/{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.html"


def link(text: str, file: str) -> Markup:
    """A link; both text and file are escaped."""
    from markupsafe import Markup

    return Markup('<a href="{}">{}</a>').format(file, text)


def with_labels(newest: pd.DataFrame) -> pd.DataFrame:
    """The rows with `label`, what their source is, and with `control` and `control_r`, the highest control there."""
    is_control = newest["kind"] == "control"
    controls = newest[is_control & newest["height"].notna()]
    highest = controls.groupby(["dataset", "measure", "protocol"])["height"].idxmax()
    labels = newest["kind"].map(cells.kind)
    labels.loc[highest] = "highest control"
    of_control = controls.loc[highest, ["dataset", "measure", "protocol", "model", "r"]]
    of_control = of_control.rename(columns={"model": "control", "r": "control_r"})
    return newest.assign(label=labels).merge(of_control, on=["dataset", "measure", "protocol"], how="left")


def mark_of(kind: str) -> str:
    """The mark of a kind of source, as in the figures of the report: model, control, or a variant of a model."""
    return kind if kind in ("model", "control") else "variant"


def data(rows: pd.DataFrame, up: str) -> dict[str, Any]:
    """Rows for the script of a page: one list per column, with texts as indices into lists of their own.

    Args:
        rows: with the columns of `Gathered.newest` and `label`.
        up: prefix of links from the page to the site's folder, "" or "../".
    """
    content: dict[str, Any] = {"n": len(rows)}
    several = rows["out"].nunique() > 1
    runs = [f"{run} in {out}" if several else run for run, out in zip(rows["run"], rows["out"], strict=True)]
    layers = [_layer(stack, layer) for stack, layer in zip(rows["stack"], rows["layer"], strict=True)]
    texts = {
        "source": rows["model"], "label": rows["label"], "mark": rows["kind"].map(mark_of), "dataset": rows["dataset"],
        "protocol": rows["protocol"].str.upper(), "measure": rows["measure"], "run": runs, "layer": layers,
    }  # fmt: skip
    for name, values in texts.items():
        known = {value: k for k, value in enumerate(dict.fromkeys(values))}
        content[name] = {"texts": list(known), "rows": [known[value] for value in values]}
    names = {"score": "r", "low": "r_low", "high": "r_high", "ceiling": "ceiling", "ratio": "ratio",
             "unique": "unique_r2", "unique_low": "unique_low", "unique_high": "unique_high"}  # fmt: skip
    content |= {name: [_rounded(value) for value in rows[column]] for name, column in names.items()}
    content["earlier"] = rows["n_earlier"].tolist()
    content["pages"] = [up + file_of("models", base_name(name)) for name in content["source"]["texts"]]
    return content


def _rounded(value: float) -> float | None:
    return round(value, DIGITS) if math.isfinite(value) else None


def _layer(stack: str | None, layer: float) -> str:
    return f"{stack}.{int(layer)}" if isinstance(stack, str) and stack and not math.isnan(layer) else "–"


def table(caption: str, heading: str, rows: list[tuple[Any, dict[str, Any]]], folded: bool = False) -> ReportTable:
    """A table of scores whose interval and ceiling stand beside the score, so that a phone shows them.

    Args:
        caption: shown above the table.
        heading: of the first column.
        rows: the first cell (text or link), and the row of `Gathered` that fills the others.
        folded: whether the table is collapsed at first.
    """
    columns: cells.Columns = {
        "Score": ("r", number), "Interval": ("r_low r_high", interval), "Ceiling": ("ceiling", number),
        "Ratio": ("ratio", partial(number, digits=2)), "Highest control": ("control control_r", _control),
        "Unique R²": ("unique_r2", partial(number, sign=True)),
        "Interval of unique R²": ("unique_low unique_high", interval), "Layer": ("stack layer", _layer),
        "Kind of interval": ("interval_kind", _text), "Kind of ceiling": ("ceiling_kind", _text),
        "Revision": ("revision", _short), "Protocol hash": ("protocol_hash", _text), "Run": ("run", str),
        "Started": ("started", _time), "OUT": ("out", str),
    }  # fmt: skip
    if all(math.isnan(row["unique_r2"]) for _, row in rows):
        columns = {name: column for name, column in columns.items() if "unique" not in column[0]}
    if not any("control" in row for _, row in rows):  # of earlier runs
        del columns["Highest control"]
    lines = [[first, *(show(*(row[name] for name in names.split())) for names, show in columns.values())]
             for first, row in rows[: cells.MOST_ROWS]]  # fmt: skip
    if len(rows) > cells.MOST_ROWS:
        caption += f" Only the first {cells.MOST_ROWS:,} of {len(rows):,} rows are shown."
    return ReportTable(caption, [heading, *columns], lines, n_words=1, folded=folded)


def _control(name: str | None, score: float) -> str:
    return f"{name} {number(score)}" if isinstance(name, str) and name else "–"


def _text(value: str | None) -> str:
    return cells.text(value) if isinstance(value, str) else "–"


def _short(revision: str | None) -> str:
    return cells.short(revision) if isinstance(revision, str) else "–"


def _time(started: str) -> str:
    return started[:16].replace("T", " ")
